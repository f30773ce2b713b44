"""The numbers of the page are those of the engine: logits against torch, under random edits against `ik.sweep`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import interp_kit as ik
from interp_kit.core.batch import TokenBatch
from interp_kit.engine.metrics import Metric
from interp_kit.models.checkpoints import read_manifest
from interp_kit.playground.export import as_shown

TOLERANCE = 1e-4
ACTIVATIONS = ("relu", "silu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")
EDIT = {"head": None, "position": None, "neuron": None, "region": None}


def off(found: Any, wanted: torch.Tensor) -> float:
    """The largest difference, relative to the largest logit where that is above 1."""
    assert not isinstance(found, dict), found
    wanted = wanted.detach().float()
    return float((torch.tensor(found) - wanted).abs().max()) / max(1.0, float(wanted.abs().max()))


def random_config(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    kind = number % 10
    return {
        "n_layers": int(rng.integers(1, 4)), "n_heads": int(rng.integers(1, 5)), "d_head": int(rng.integers(2, 12)),
        "d_model": int(rng.integers(4, 40)), "d_mlp": int(rng.integers(3, 70)), "d_vocab": int(rng.integers(2, 40)),
        "n_ctx": 12, "act_fn": ACTIVATIONS[number % len(ACTIVATIONS)], "eps": float(rng.choice([1e-5, 1e-3])),
        "attn_only": kind == 0, "normalization_type": {1: None, 2: "LNPre"}.get(kind, "LN"),
        "scale_attn_by_inverse_layer_idx": kind == 3, "use_attn_scale": kind != 4,
    }  # fmt: skip


@pytest.mark.parametrize("n", [6, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("simd", ["fused", True, False])
def test_random_configurations_are_computed_as_torch_does(
    page: Any, draw: Any, tiny_model: Any, n: int, simd: bool | str
) -> None:
    models, requests, wanted = [], [], []
    for number in range(n):
        config = random_config(number)
        model = tiny_model(number, **config)
        if number % 10 == 5:  # as a MyGPT
            model.ln_final = nn.Identity()
            model.setup()
        tokens = torch.randint(0, config["d_vocab"], (1, 10), generator=torch.Generator().manual_seed(number))
        batch = TokenBatch.from_tokens(tokens)
        text = {"tokens": tokens[0].tolist(), "names": list(batch.positions), "prompt": 10}
        shown, edits = draw(model, number, names=list(batch.positions)).many(2)
        models.append((model, None))
        requests.append({"model": number, "do": "logits", "text": text, "edits": []})
        requests.append({"model": number, "do": "logits", "text": text, "edits": shown})
        model = as_shown(model)
        wanted.append(model(tokens)[0])
        with ik.editing(model, batch, edits):
            wanted.append(model(tokens)[0])
    found = page(models, requests, simd=bool(simd), fused=simd == "fused")
    assert max(off(a, b) for a, b in zip(found, wanted, strict=True)) < TOLERANCE


@dataclass(frozen=True, eq=False)
class Logit(Metric):
    """One logit after one token."""

    title = "logit"
    at: int = 0
    token: int = 0

    def reads(self, batch: TokenBatch) -> torch.Tensor:
        return torch.full((len(batch), 1), self.at)

    def values(self, logits: torch.Tensor, batch: TokenBatch, reference: torch.Tensor | None) -> torch.Tensor:
        return logits[..., 0, self.token]


@pytest.mark.parametrize(("n", "parts"), [(12, 3), pytest.param(500, 10, marks=pytest.mark.slow)])
def test_random_edits_give_what_sweep_gives(
    page: Any, draw: Any, tiny_model: Any, task: ik.BooleanTask, n: int, parts: int
) -> None:
    model, examples = as_shown(tiny_model(3)), task.enumerate()
    length, requests, wanted = len(examples[0].tokens), [], []
    metrics = [Logit("newA", at, token) for at in range(0, length, 3) for token in range(15)]
    for part in range(parts):
        mine, theirs = examples[3 * part], examples[(7 * part + 5) % 32]
        batch, other = task.batch([mine]), task.batch([theirs])
        drawn = draw(model, part, mean=task.batch(examples), copy=other, names=list(mine.positions))
        lists = [drawn.many(4) for _ in range(n // parts)]
        requests += [
            {"do": "logits", "text": page.text(mine), "other": page.text(theirs), "edits": shown} for shown, _ in lists
        ]
        values = ik.sweep(model, batch, [edits for _, edits in lists], metrics, progress=False).values
        wanted += list(torch.tensor(values[..., 0]).reshape(len(lists), -1, 15))
    found = page([(model, task)], requests)
    assert max(off(rows[::3], logits) for rows, logits in zip(found, wanted, strict=True)) < TOLERANCE


SHIPPED = [name for name in read_manifest() if name.startswith(("boolean", "culture"))]
FIRST = ("boolean-gpt2",)


@pytest.mark.parametrize("names", [FIRST, pytest.param(SHIPPED, marks=pytest.mark.slow)], ids=["first", "all"])
def test_shipped_models_are_computed_as_torch_does(page: Any, draw: Any, names: tuple[str, ...]) -> None:
    """Unedited and under edits, on two inputs; and what is written is what `complete` writes."""
    models, requests, wanted, texts = [], [], [], []
    for number, name in enumerate(names):
        model = ik.load(name)
        task = ik.task_of(model)
        examples = task.sample(2, number + 1)
        models.append((model, task))
        model = as_shown(model)
        for mine, theirs in (examples, examples[::-1]):
            batch, other = task.batch([mine]), task.batch([theirs])
            here = {"model": number, "text": page.text(mine), "other": page.text(theirs)}
            shown, edits = draw(model, number, copy=other, names=list(mine.positions)).many(3)
            requests += [{**here, "do": "logits", "edits": []}, {**here, "do": "logits", "edits": shown}]
            wanted.append(model(batch.tokens)[0])
            with ik.editing(model, batch, edits):
                wanted.append(model(batch.tokens)[0])
        requests.append({**here, "do": "write", "texts": [here["text"]], "edits": [], "length": len(mine.tokens)})
        free = torch.arange(len(mine.tokens)) >= mine.prompt_length
        wanted.append(None)
        texts.append(ik.decode(model, batch.tokens, free, progress=False).tokens[0].tolist())
    found = page(models, requests)
    pairs = list(zip(found, wanted, strict=True))
    assert max(off(a, b) for a, b in pairs if b is not None) < TOLERANCE
    assert [a[0]["tokens"] for a, b in pairs if b is None] == texts


def test_what_is_looked_at_is_what_the_model_computes(page: Any, tiny_model: Any, task: ik.BooleanTask) -> None:
    """Attention, the lens and activations, unedited and under an edit."""
    model, example = as_shown(tiny_model(5)), task.enumerate()[13]
    batch, text = task.batch([example]), page.text(example)
    shown = [{**EDIT, "site": "z", "layer": 0, "head": 1, "source": {"kind": "Scale", "factor": -2.0}}]
    late = [{**EDIT, "site": "resid_mid", "layer": 1, "position": "newB?", "source": {"kind": "Scale", "factor": 3.0}}]
    edits_of = [([], []), (shown, [ik.Edit("z", 0, ik.Scale(-2.0), head=1)])]
    edits_of.append((late, [ik.Edit("resid_mid", 1, ik.Scale(3.0), position="newB?")]))
    looks = [{"do": "patterns", "layer": layer, "head": 1} for layer in (0, 1)] + [{"do": "lens"}]
    looks += [{"do": "activation", "site": "mlp_post", "layer": layer} for layer in (0, 1)]
    sites = [["z", 0], ["mlp_out", 1], ["resid_post", 1]]
    looks += [{"do": "at", "sites": sites, "position": position} for position in (0, 7, 14)]
    requests = [{**look, "text": text, "edits": edits} for edits, _ in edits_of for look in looks]
    found, wanted = page([(model, task)], requests), []
    for _, edits in edits_of:
        with ik.editing(model, batch, edits) if edits else torch.no_grad():
            _, cache = model.run_with_cache(batch.tokens)
        for layer in (0, 1):
            pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0, 1]
            wanted.append([row[: i + 1].tolist() for i, row in enumerate(pattern)])
        stream = [cache["resid_pre", 0][0], cache["resid_pre", 1][0], cache["resid_post", 1][0]]
        wanted.append(torch.stack([model.unembed(model.ln_final(x[None]))[0] for x in stream]).tolist())
        wanted += [cache[f"blocks.{layer}.mlp.hook_post"][0].tolist() for layer in (0, 1)]
        hooks = ("blocks.0.attn.hook_z", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post")
        wanted += [[cache[hook][0, at].flatten().tolist() for hook in hooks] for at in (0, 7, 14)]
    for mine, theirs in zip(found, wanted, strict=True):
        for row, other in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(row, other, atol=1e-4)


@pytest.mark.parametrize("turns", [(0, 7), pytest.param((0, 1, 4, 7), marks=pytest.mark.slow)])
def test_python_to_copy_runs_and_gives_the_numbers_of_the_page(
    page: Any, draw: Any, task: ik.BooleanTask, capsys: pytest.CaptureFixture[str], turns: tuple[int, ...]
) -> None:
    model, examples = ik.load("boolean-gpt2"), task.enumerate()
    mine, theirs = examples[21], examples[10]
    drawn = draw(model, 7, mean=task.batch(examples), copy=task.batch([theirs]), names=list(mine.positions))
    text = {**page.text(mine), "tokens": [1 - mine.tokens[0], *mine.tokens[1:]]}
    requests = []
    for turn in turns:
        edits = [drawn.one()[0] for _ in range(turn)]
        state = {"example": 21, "tokens": text["tokens"] if turn % 2 else None, "other": 10, "otherTokens": None}
        shown = {"state": {**state, "edits": edits}, "text": text if turn % 2 else page.text(mine)}
        shown |= {"edits": edits, "other": page.text(theirs)}
        requests += [{"do": "python", **shown}, {"do": "logits", **shown}, {"do": "restored", **shown}]
        requests.append({"do": "write", **shown, "texts": [shown["text"]], "length": len(mine.tokens)})
    answers = iter(page([(model, task)], requests))
    for request, program, logits, restored, written in zip(requests[::4], *[answers] * 4, strict=True):
        assert restored == request["state"]
        ran: dict[str, Any] = {}
        exec(program, ran)
        assert off(logits, ran["logits"]) < TOLERANCE, program
        assert written[0]["tokens"] == ran["written"].tolist()
    assert "tensor" in capsys.readouterr().out


def test_a_rounded_model_is_shown_as_its_python_says(page: Any) -> None:
    model = ik.load("boolean-direct")
    task = ik.task_of(model)
    state = {"example": 3, "tokens": None, "other": 0, "otherTokens": None, "edits": []}
    text = page.text(task.enumerate()[3])
    requests = [{"do": "python", "state": state}, {"do": "logits", "text": text, "edits": []}]
    program, logits = page([(model, task)], requests)
    ran: dict[str, Any] = {}
    exec(program, ran)
    assert "as_shown" in program
    assert off(logits, ran["logits"]) < TOLERANCE


LINKS = {
    "#%7B": "cut off",
    "#[1]": "not one of a playground",
    '#{"colour":1}': "not one of a playground",
    '#{"example":32}': "0 to 31",
    '#{"tokens":[99]}': "does not read",
    '#{"edits":3}': "no list of edits",
}


@pytest.mark.parametrize("simd", [True, False])
def test_links_and_edits_that_mean_nothing_get_one_sentence(
    page: Any, tiny_model: Any, task: ik.BooleanTask, simd: bool
) -> None:
    example = task.enumerate()[0]
    wrong = [
        ({"site": "zz"}, "no such site"), ({"site": "constructor"}, "no such site"),
        ({"layer": None}, "layer is missing"), ({"layer": 9}, "layers 0 to 1"),
        ({"head": 2}, "no such head"), ({"neuron": 8}, "entries 0 to 7"), ({"position": "zz"}, "no position zz"),
        ({"source": {"kind": "Scale", "factor": "2"}}, "finite"), ({"source": {"kind": "eval"}}, "none of"),
        ({"source": {"kind": "Set", "value": [1.0]}}, "or 8 of them"), ({"source": None}, "none of"),
        ({"source": {"kind": "Copy"}}, "no other input"), ({"region": [[0, 1]]}, "of a weight"),
        ({"site": "W_Q", "source": {"kind": "Mean"}}, "weight takes"), ({"site": "W_E", "layer": 0}, "no layer"),
        ({"site": "W_Q", "position": 1}, "no position"), ({"site": "W_Q", "region": [[0, 9]] * 3}, "within"),
    ]  # fmt: skip
    edit = {**EDIT, "site": "z", "layer": 0, "source": {"kind": "Zero"}}
    requests = [
        {"do": "logits", "text": page.text(example), "edits": [edit | one], "expectError": True} for one, _ in wrong
    ]
    requests += [{"do": "hash", "hash": link, "expectError": True} for link in LINKS]
    found = page([(tiny_model(), task)], requests, simd=simd)
    for answer, said in zip(found, [*(said for _, said in wrong), *LINKS.values()], strict=True):
        assert said in answer["error"]
        assert "undefined" not in answer["error"]
