"""Training of compact graph networks: the device generator, packed texts, the stack, and what a short run writes."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import interp_kit as ik
from interp_kit.core.files import read_json
from interp_kit.studies.graphs.training import evaluate as evaluation
from interp_kit.studies.graphs.training import train as training
from interp_kit.studies.graphs.training.generator import Generator, Packed
from interp_kit.studies.graphs.training.package import package
from interp_kit.studies.graphs.training.stack import Optimiser, Shape, Stack
from interp_kit.tasks.graphs import CompactGraphsTask, Worlds, solve
from interp_kit.tasks.graphs.shapes import shapes
from interp_kit.training.muon import Muon


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator("val", training.DEPTHS, "cpu")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_labels_and_texts_equal_the_task(generator: Generator) -> None:
    assert evaluation.check_labels(generator, 4000, seeded()) == 4000


def test_draws_are_balanced_over_kinds_and_depths(generator: Generator) -> None:
    draw = generator.draw(3000, 2, 3, seeded())
    worlds, rows = evaluation.worlds_of(generator, draw)
    plan = solve(worlds).structure
    cells = np.bincount(2 * plan.depth + worlds.kind, minlength=8)
    assert cells.sum() == 6000
    assert (
        np.abs(cells - 750).max() < 6 * 750**0.5
    )  # Two questions share a graph, so the spread is wider than binomial.
    assert set(shapes().split[rows]) == {1}
    for which in range(3):
        shallow, _ = evaluation.worlds_of(generator, generator.draw(200, 2, which, seeded()))
        assert set(solve(shallow).structure.depth) == set(range(which + 1))


def test_packed_questions_and_stacked_networks_equal_hugging_face_one_by_one(generator: Generator) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    draw = generator.draw(3, 4, 3, seeded())
    slots, blocks = generator.tokens(draw, generator.solve(draw), trace=True)
    packed = Packed.of(4, blocks.shape[-1], "cpu")
    text, target = packed.pack(slots, blocks)
    assert text.shape[1] % 8 == 0
    shape = Shape(layers=2, width=32, heads=4, positions=82)
    stack = Stack(shape, [1, 2])
    with torch.no_grad():
        for i, p in enumerate(stack.weights):
            p += 0.1 * torch.randn(p.shape, generator=seeded(i))
        logits = stack(text.expand(2, -1, -1), packed.positions, packed.mask, packed.predicts)
        plain = torch.cat([slots[:, None].expand(-1, 4, -1), blocks], -1).flatten(0, 1)
        assert torch.equal(plain[:, 41:].reshape(target.shape), target)
        for i in range(2):
            alone = GPT2LMHeadModel(GPT2Config.from_dict(shape.gpt2())).eval()
            alone.load_state_dict(stack.state(i))
            expected = alone(plain).logits[:, 40:-1].reshape(3, -1, 47)
            torch.testing.assert_close(logits[i], expected, atol=1e-4, rtol=1e-4)


def test_seed_alone_decides_where_a_network_starts() -> None:
    shape = Shape(layers=1, width=16, heads=2)
    one, many = Stack(shape, [5]).state(0), Stack(shape, [1, 5, 2]).state(1)
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_optimiser_is_the_kits_muon_and_adam() -> None:
    """Two steps of a stack with two rates equal those of each network alone, matrices in the kit's own Muon."""
    stack = Stack(Shape(layers=1, width=16, heads=2, positions=8), [0, 1])
    tokens, at = torch.randint(47, (2, 3, 8), generator=seeded()), torch.arange(8)
    mask = at[None] <= at[:, None]

    def loss_of(some: Stack, text: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(some(text, at, mask, at).flatten(0, 2), text.flatten()) * len(text)

    alone = Stack(stack.shape, [1])
    named = alone.named()
    cut = {name: p for name, p in named.items() if ".c_" in name and name.endswith("weight")}
    # One leading axis, and the kit's Muon takes (outputs, inputs): the same matrices, transposed and cut.
    pieces = {
        (name, k): torch.nn.Parameter(part[0].T.clone())
        for name, p in cut.items()
        for k, part in enumerate(p.detach().chunk(3 if "c_attn" in name else 1, -1))
    }
    muon = Muon(pieces.values(), lr=0.01)
    adam = torch.optim.AdamW([p for n, p in named.items() if n not in cut], lr=0.003, betas=(0.9, 0.95), weight_decay=0)
    optimiser = Optimiser(stack, [0.02, 0.01], 0.003)
    for _ in range(2):
        loss_of(stack, tokens).backward()
        optimiser.step(1.0)
        loss_of(alone, tokens[1:]).backward()
        for (name, k), piece in pieces.items():
            grad = cut[name].grad
            assert grad is not None
            piece.grad = grad[0].chunk(3 if "c_attn" in name else 1, -1)[k].T.contiguous()
        muon.step()
        adam.step()
        with torch.no_grad():
            for name, p in cut.items():
                p.copy_(torch.cat([pieces[name, k].T for k in range(3 if "c_attn" in name else 1)], -1)[None])
                p.grad = None
        adam.zero_grad()
    for name, p in named.items():
        torch.testing.assert_close(stack.named()[name][1], p[0], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("form", ["direct", "trace"])
def test_a_short_run_writes_networks_that_load_and_predict_the_same(
    form: str, generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "Generator", lambda *_: generator)
    monkeypatch.setattr(training, "Shape", lambda **sizes: Shape(layers=1, width=16, heads=2, **sizes))
    arms = training.ARMS[:5]
    settings = training.Settings(form=form, graphs=2, questions=4, seconds=0.5, evaluated=24, checked=100)
    training.train(arms, settings, tmp_path, "cpu", compiled=False)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{form}_0.safetensors", f"{form}_1.safetensors", f"{form}.json", f"{form}.npz",
    }  # fmt: skip
    written = read_json(tmp_path / f"{form}.json")
    assert written["steps"] > 0
    assert {row["network"] for row in written["accuracy"]} == {arm.name for arm in arms}
    folders = package(tmp_path, tmp_path / "packed", ["full0", "shallow0"])
    assert [folder.name for folder in folders] == [f"graphs-{form}-full0", f"graphs-{form}-shallow0"]
    with pytest.raises(ValueError, match="no network 'full9': expected one of"):
        package(tmp_path, tmp_path / "packed", ["full9"])
    with pytest.raises(ValueError, match="has no weights"):
        package(tmp_path / "packed", tmp_path)
    stored = np.load(tmp_path / f"{form}.npz")
    task = CompactGraphsTask(form)
    columns = {k: stored[f"val/{k}"].astype(int) for k in ("parents", "table", "kind", "x", "value", "y")}
    examples = task.examples(Worlds(**columns))
    assert [e.labels["answer"] for e in examples] == stored["val/answer"].tolist()
    model = ik.load(str(folders[1]))
    prompts = torch.tensor([e.tokens[:41] for e in examples])
    with torch.inference_mode():
        first = model(prompts)[:, -1].argmax(-1)
    assert (first.numpy() == stored["val/written"][4, :, 0]).all()
