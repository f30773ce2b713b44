"""Sparse autoencoders: every metric against a loop over single examples, SAELens's own splice and file format, planted
features, and the ways in which they can be asked for wrongly."""

import dataclasses
import importlib
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from transformer_lens import HookedTransformer, HookedTransformerConfig

from interp_kit.analysis.dictionaries.activations import answer_cross_entropy, harvest, split_examples
from interp_kit.analysis.dictionaries.sae import SAEConfig, SAEResult, evaluate_sae, train_sae
from interp_kit.analysis.dictionaries.sae_training import fit_sae, import_sae_lens
from interp_kit.core.example import Example, Field
from interp_kit.core.folders import MARK
from interp_kit.core.task import AbstractTask
from interp_kit.engine.sites import find_hook
from interp_kit.tasks.boolean import BooleanTask

SPLITS = ("train", "held_out")
SHORT = {"training_samples": 8192, "batch_size": 128, "learning_rate": 5e-3, "max_examples": 100}
CONFIGS = {
    "topk": SAEConfig(architecture="topk", width=24, k=4, **SHORT),
    "standard": SAEConfig(architecture="standard", width=24, l1_coefficient=0.5, **SHORT),
}
architectures = pytest.mark.parametrize("architecture", CONFIGS)


class Echo(AbstractTask):
    """Strings of two to eight bits, "=", the first bit again, a full stop: of unequal length, and not to be"
    " enumerated."""

    name = "echo"
    fields = (Field("echo", "=", (0, 1), (0, 1)),)
    inputs = ("length",)
    numeric = ("length",)
    variables = ("length", "echo")
    vocabulary = ("0", "1", "=", ".")
    pad = 3

    def enumerate(self) -> list[Example]:
        raise ValueError("too many to list")

    def sample(self, n: int, seed: int) -> list[Example]:
        rng = np.random.default_rng(seed)
        return [self._example(rng.integers(0, 2, size=rng.integers(2, 9)).tolist()) for _ in range(n)]

    def tokenizer(self) -> object:
        raise AssertionError("nothing here is to call this")

    def _example(self, bits: list[int]) -> Example:
        names = (*(f"bit{i}" for i in range(len(bits))), "=", "echo", "end")
        labels = {"length": len(bits), "echo": bits[0]}
        tokens = (*bits, 2, labels["echo"], 3)
        return Example("", tokens, len(bits) + 1, {name: i for i, name in enumerate(names)}, labels)


TASKS = {"boolean": BooleanTask(), "echo": Echo()}


def small(task: AbstractTask, seed: int, **options: object) -> HookedTransformer:
    torch.manual_seed(seed)
    shape = {"n_layers": 2, "d_model": 32, "n_heads": 2, "d_head": 16, "d_mlp": 64, "n_ctx": 24, "act_fn": "gelu_new"}
    config = {**shape, "d_vocab": len(task.vocabulary), "init_weights": True, "device": "cpu", **options}
    return HookedTransformer(HookedTransformerConfig(**config))


@lru_cache
def trained(name: str) -> HookedTransformer:
    """A model that has learnt its task, so that ablating a site costs something."""
    task = TASKS[name]
    model = small(task, 1)
    batch = task.batch(task.sample(128, 0) if name == "echo" else task.enumerate())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(80):
        log_p = model(batch.tokens)[:, :-1].log_softmax(-1).gather(2, batch.tokens[:, 1:, None])[..., 0]
        optimizer.zero_grad()
        (-log_p[batch.mask[:, 1:]].mean()).backward()
        optimizer.step()
    return model.requires_grad_(False)


@lru_cache
def result(name: str, architecture: str, site: str = "resid_post.0") -> SAEResult:
    return quietly(trained(name), TASKS[name], site=site, config=CONFIGS[architecture], seed=3)


def quietly(model: HookedTransformer, task: AbstractTask, **options: object) -> SAEResult:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*may memorise")
        return train_sae(model, task, progress=False, **options)


def encode(sae: SAEResult, x: np.ndarray) -> np.ndarray:
    """(vector, width) by the definition of the two architectures."""
    w = sae.weights
    codes = np.maximum((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 0)
    if sae.config["architecture"] == "topk":
        codes[np.arange(len(codes))[:, None], codes.argsort(1)[:, : -sae.config["k"]]] = 0
    return codes


def decode(sae: SAEResult, codes: np.ndarray) -> np.ndarray:
    return codes @ sae.weights["W_dec"] + sae.weights["b_dec"]


def vectors(model: HookedTransformer, hook: str, example: Example) -> np.ndarray:
    _, cache = model.run_with_cache(torch.tensor([example.tokens]), names_filter=hook)
    return cache[hook][0].flatten(1).double().numpy()


def loss(model: HookedTransformer, task: AbstractTask, hook: str, example: Example, new: np.ndarray | None) -> float:
    """Cross-entropy of one unpadded example with `new` in place of the site's activations."""

    def write(value: torch.Tensor, hook: object) -> torch.Tensor:
        return torch.tensor(new, dtype=value.dtype).reshape(value.shape)

    hooks = [] if new is None else [(hook, write)]
    log_p = model.run_with_hooks(torch.tensor([example.tokens]), fwd_hooks=hooks)[0].log_softmax(-1)
    pick = [(example.positions[f.predict], f.token(example.labels[f.name])) for f in task.fields]
    return -float(np.mean([log_p[at, token].item() for at, token in pick]))


@pytest.mark.slow
@architectures
@pytest.mark.parametrize("name", TASKS)
def test_metrics_are_those_of_a_loop_over_single_examples(name: str, architecture: str) -> None:
    model, task, found = trained(name), TASKS[name], result(name, architecture)
    train, test = split_examples(task, 0.25, 100, 3)
    x = {e.tokens: vectors(model, found.hook, e) for e in (*train, *test)}
    stacked = np.concatenate([x[e.tokens] for e in train])
    mean = stacked.mean(0)
    codes = {e.tokens: encode(found, x[e.tokens]) for e in (*train, *test)}
    seen = {e.tokens[: at + 1] for e in train for at in range(len(e.tokens))}
    by_name: dict[str, list[np.ndarray]] = {}
    for e in train:
        for place, at in e.positions.items():
            by_name.setdefault(place, []).append(x[e.tokens][at])
    active = np.concatenate([c > 0 for c in codes.values()])
    assert found.dead.value == (~active.any(0)).mean()
    np.testing.assert_allclose(found.frequency, active.mean(0), atol=1e-3)
    rank = int(np.ceil(np.mean(np.concatenate([(codes[e.tokens] > 0).sum(1) for e in train]))))
    assert found.pca_rank == rank
    pca = PCA(rank, svd_solver="full").fit(stacked)
    for split, examples in zip(SPLITS, (train, test), strict=True):
        kept = [[split == "train" or e.tokens[: i + 1] not in seen for i in range(len(e.tokens))] for e in examples]
        here = np.concatenate([x[e.tokens][k] for e, k in zip(examples, kept, strict=True)])
        latents = np.concatenate([codes[e.tokens][k] for e, k in zip(examples, kept, strict=True)])
        spread = ((here - mean) ** 2).sum()
        assert found.variance_explained[split].value == pytest.approx(
            1 - ((here - decode(found, latents)) ** 2).sum() / spread, abs=1e-5
        )
        rebuilt = pca.inverse_transform(pca.transform(here))
        assert found.pca_variance_explained[split].value == pytest.approx(
            1 - ((here - rebuilt) ** 2).sum() / spread, abs=1e-5
        )
        assert found.l0[split].value == pytest.approx((latents > 0).sum(1).mean(), abs=1e-3)
        new = {
            "clean": [None for e in examples],
            "sae": [decode(found, codes[e.tokens]) for e in examples],
            "pca": [pca.inverse_transform(pca.transform(x[e.tokens])) for e in examples],
            "mean": [np.stack([np.mean(by_name[p], axis=0) for p in e.positions]) for e in examples],
            "zero": [np.zeros_like(x[e.tokens]) for e in examples],
        }
        ce = {
            kind: np.mean([loss(model, task, found.hook, e, v) for e, v in zip(examples, values, strict=True)])
            for kind, values in new.items()
        }
        for kind, value in ce.items():
            assert getattr(found, f"ce_{kind}")[split].value == pytest.approx(value, abs=2e-5), kind
        for field, by, ablation in (("ce_recovered", "sae", "mean"), ("ce_recovered_over_zero", "sae", "zero")):
            share = (ce[ablation] - ce[by]) / (ce[ablation] - ce["clean"])
            assert getattr(found, field)[split].value == pytest.approx(share, abs=1e-3)
        assert found.ce_recovered[split].n == found.l0[split].n == len(examples)


def test_cross_entropy_takes_no_token_for_padding(
    tiny_model: Callable[..., HookedTransformer], parity: AbstractTask, pads_with_0: SimpleNamespace
) -> None:
    model, examples = tiny_model(3, d_vocab=5), parity.enumerate()
    found = harvest(model, parity, "blocks.0.hook_resid_post", examples[:7], examples[7:])
    for new in (None, -found.vectors):
        model.tokenizer = None
        expected = answer_cross_entropy(model, found, new)
        model.tokenizer = pads_with_0
        assert answer_cross_entropy(model, found, new) == pytest.approx(expected, abs=1e-5)


def test_cross_entropy_is_that_of_saelens_own_splice() -> None:
    from sae_lens import HookedSAETransformer

    task, found = TASKS["boolean"], result("boolean", "topk", "z.1")
    spliced = HookedSAETransformer(trained("boolean").cfg)
    spliced.load_state_dict(trained("boolean").state_dict())
    train, _ = split_examples(task, 0.25, 100, 3)
    batch = task.batch(train)
    with torch.no_grad():
        log_p = spliced.run_with_saes(batch.tokens, saes=[found.to_sae_lens()]).log_softmax(-1)
    rows = torch.arange(len(batch))
    losses = [-log_p[rows, batch.position(f.predict), batch.answer[f.name]] for f in task.fields]
    assert found.hook == "blocks.1.attn.hook_z"
    assert found.ce_sae["train"].value == pytest.approx(float(torch.stack(losses).mean()), abs=1e-5)


def test_topk_has_at_most_k_active_and_intervals_hold_their_value() -> None:
    found = result("boolean", "topk")
    for split in SPLITS:
        assert 0 < found.l0[split].value <= 4
    for estimates in (found.variance_explained, found.l0, found.ce_sae, found.pca_variance_explained):
        for e in estimates.values():
            assert np.isnan(e.low) or e.low <= e.value <= e.high  # all rows with k active have no spread
    assert found.variance_explained["train"].value > found.pca_variance_explained["train"].value > 0.3


def by_hand(
    d_in: int, encoder: torch.Tensor, decoder: torch.Tensor, bias: torch.Tensor, threshold: float = 0.0
) -> object:
    from sae_lens import StandardSAE, StandardSAEConfig

    sae = StandardSAE(StandardSAEConfig(d_in=d_in, d_sae=encoder.shape[1]))
    sae.load_state_dict(
        {"W_enc": encoder, "W_dec": decoder, "b_enc": torch.full((encoder.shape[1],), threshold), "b_dec": bias}
    )
    return sae


def test_a_perfect_autoencoder_recovers_everything_and_a_constant_one_explains_nothing() -> None:
    model, task = trained("boolean"), TASKS["boolean"]
    acts = harvest(model, task, "blocks.0.hook_resid_post", *split_examples(task, 0.25, 100, 0))
    eye, mean = torch.eye(32), acts.vectors[acts.training].mean(0)
    perfect = by_hand(32, torch.cat([eye, -eye], 1), torch.cat([eye, -eye]), torch.zeros(32))
    found = evaluate_sae(model, acts, perfect, config={})
    for split in SPLITS:
        assert found.ce_mean[split].value - found.ce_clean[split].value > 0.05
        assert found.ce_recovered[split].value == pytest.approx(1, abs=1e-4)
        assert found.ce_recovered_over_zero[split].value == pytest.approx(1, abs=1e-4)
        assert found.variance_explained[split].value == pytest.approx(1, abs=1e-6)
        assert found.l0[split].value == 32
    found = evaluate_sae(model, acts, by_hand(32, torch.zeros(32, 5), torch.zeros(5, 32), mean), config={})
    assert found.variance_explained["train"].value == pytest.approx(0, abs=1e-6)
    assert (found.pca_rank, found.pca_variance_explained["train"].value) == (0, pytest.approx(0, abs=1e-6))
    assert (found.dead.value, found.dead.n) == (1.0, 5)
    top = acts.vectors.max(0).values
    dim = int((acts.vectors > top - 1e-3).sum(0).argmin())  # whose largest value is not one that many texts share
    once = by_hand(32, torch.eye(32)[:, [dim]], torch.zeros(1, 32), torch.zeros(32), 1e-3 - float(top[dim]))
    rare = evaluate_sae(model, acts, once, config={})
    assert 0 < rare.frequency[0] < 0.01  # one or a few of 736 vectors: rare, but not dead
    assert rare.dead.value == 0
    zero = evaluate_sae(model, acts, by_hand(32, torch.zeros(32, 5), torch.zeros(5, 32), 0 * mean), config={})
    assert zero.ce_recovered_over_zero["held_out"].value == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="autoencoder of 5 inputs"):
        evaluate_sae(model, acts, by_hand(5, torch.zeros(5, 5), torch.zeros(5, 5), torch.zeros(5)), config={})


def test_writing_the_position_means_is_the_mean_ablation_and_recovers_nothing() -> None:
    model, task = trained("boolean"), TASKS["boolean"]
    acts = harvest(model, task, "hook_pos_embed", *split_examples(task, 0.25, 100, 0))
    torch.testing.assert_close(acts.position_means(), acts.vectors)  # a site where every position is its own mean
    eye = torch.eye(32)
    perfect = by_hand(32, torch.cat([eye, -eye], 1), torch.cat([eye, -eye]), torch.zeros(32))
    found = evaluate_sae(model, acts, perfect, config={})
    assert found.ce_mean["train"].value == pytest.approx(found.ce_clean["train"].value, abs=1e-5)
    assert not min(e.low for e in found.ce_clean.values()) < 0
    assert np.isnan(found.ce_recovered["train"].value)
    assert any("nothing to recover" in note and "train: mean" in note for note in found.notes)
    assert found.ce_recovered_over_zero["train"].value == pytest.approx(1, abs=1e-4)


@architectures
def test_planted_sparse_features_are_found(architecture: str) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(16, 24, generator=generator)
    features /= features.norm(dim=1, keepdim=True)
    on = torch.rand(4000, 16, generator=generator) < 0.1
    data = 40 * ((on * (0.5 + torch.rand(on.shape, generator=generator))) @ features + 3.0)
    options = {"width": 16, "k": 3, "training_samples": 200_000, "learning_rate": 5e-3, "l1_coefficient": 0.6}
    sae = fit_sae(data, SAEConfig(architecture=architecture, **options), {"hook_name": "planted"}, 0, False)
    decoder = sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True)
    assert float((decoder @ features.T).max(0).values.min()) > 0.9
    # in the units of the data, whatever they were scaled to in training
    assert 1 - float((sae(data) - data).square().sum() / (data - data.mean(0)).square().sum()) > 0.8


@architectures
def test_same_seed_same_weights_whatever_surrounds_the_call(architecture: str) -> None:
    model, task = trained("boolean"), TASKS["boolean"]
    config = dataclasses.replace(CONFIGS[architecture], training_samples=640)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = quietly(model, task, site="mlp_out.0", config=config, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    with torch.inference_mode():
        second = quietly(model, task, site="blocks.0.hook_mlp_out", config=config, seed=1)
    other = quietly(model, task, site="mlp_out.0", config=config, seed=2)
    for name, value in first.weights.items():
        np.testing.assert_array_equal(value, second.weights[name])
    assert not np.allclose(first.weights["W_enc"], other.weights["W_enc"])


def test_the_stream_of_training_and_nothing_else_moves_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("wandb was called")

    for name in ("init", "log", "Histogram"):
        monkeypatch.setattr(wandb, name, refuse)
    task, config = TASKS["boolean"], CONFIGS["topk"]
    acts = harvest(trained("boolean"), task, "blocks.0.hook_resid_post", *split_examples(task, 0.25, 100, 3))
    alone = fit_sae(acts.vectors[acts.training], config, {"hook_name": acts.hook}, 3, False)
    np.testing.assert_array_equal(alone.W_dec.numpy(), result("boolean", "topk").weights["W_dec"])


@architectures
@pytest.mark.parametrize("site", ["resid_post.0", "z.1"])
def test_saelens_reads_what_is_written(tmp_path: Path, architecture: str, site: str) -> None:
    from sae_lens import SAE

    found = result("boolean", architecture, site)
    assert found.save_sae(tmp_path / "sae") == tmp_path / "sae"
    assert {path.name for path in (tmp_path / "sae").iterdir()} == {MARK, "cfg.json", "sae_weights.safetensors"}
    read, built = SAE.load_from_disk(tmp_path / "sae"), found.to_sae_lens()
    x = np.random.default_rng(0).normal(size=(50, 32))
    given = torch.tensor(x, dtype=torch.float32).reshape((50, 2, 16) if site == "z.1" else (50, 32))
    assert read.cfg.architecture() == architecture
    assert read.cfg.metadata.hook_name == found.hook
    for sae in (read, built):
        codes = sae.encode(given)
        np.testing.assert_allclose(codes.detach().numpy(), encode(found, x), atol=1e-4)
        np.testing.assert_allclose(
            sae.decode(codes).detach().flatten(1).numpy(), decode(found, encode(found, x)), atol=1e-4
        )


def test_a_result_is_saved_loaded_tabled_and_drawn(tmp_path: Path) -> None:
    found = result("boolean", "topk")
    read = SAEResult.load(found.save(tmp_path / "result"))
    assert read.to_frame().equals(found.to_frame())
    assert dict(read.config) == dict(found.config)
    assert read.notes == found.notes
    np.testing.assert_array_equal(read.to_sae_lens().W_enc.numpy(), found.to_sae_lens().W_enc.numpy())
    frame = found.to_frame().set_index(["split", "metric", "source"])
    row = frame.loc[("held_out", "variance explained", f"PCA, rank {found.pca_rank}")]
    assert (row["value"], row["n"]) == (found.pca_variance_explained["held_out"].value, 8)
    assert "n = 24 examples trained on and 8 held out" in found.caption()
    axes = found.plot()
    assert len(axes.get_yticklabels()) == 4
    assert "SAE" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_width_over_a_quarter_of_the_distinct_vectors_warns() -> None:
    model, task = trained("boolean"), TASKS["boolean"]
    train, _ = split_examples(task, 0.25, 100, 0)
    prefixes = {e.tokens[: at + 1] for e in train for at in range(len(e.tokens))}
    options = {**SHORT, "training_samples": 256}
    quarter = len(prefixes) // 4
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        below = train_sae(model, task, site="resid_post.1", config=SAEConfig(width=quarter, **options), progress=False)
    assert below.distinct_vectors == len(prefixes)
    assert not any("memorise" in note for note in below.notes)
    with pytest.warns(UserWarning, match=f"{quarter + 1} latents for {len(prefixes)} distinct activation vectors"):
        above = train_sae(model, task, site="resid_post.1", config=SAEConfig(width=quarter + 1, **options))
    assert any("memorise" in note for note in above.notes)


@pytest.mark.parametrize(
    ("site", "visible"),
    [
        ("embed", lambda tokens, at: tokens[at]),
        ("pos_embed", lambda tokens, at: at),
        ("q.0", lambda tokens, at: (at, tokens[at])),
        ("resid_post.0", lambda tokens, at: tokens[: at + 1]),
    ],
)
def test_distinct_vectors_are_counted_by_what_the_site_can_see(site: str, visible: object) -> None:
    model, task = trained("boolean"), TASKS["boolean"]
    train, test = split_examples(task, 0.25, 100, 0)
    acts = harvest(model, task, find_hook(model, site), train, test)
    assert acts.distinct() == len({visible(e.tokens, at) for e in train for at in range(len(e.tokens))})


@pytest.mark.parametrize("name", TASKS)
def test_held_out_examples_are_new_and_the_split_is_the_seed_s(name: str) -> None:
    task = TASKS[name]
    splits = [split_examples(task, 0.25, 60, seed) for seed in (0, 0, 1)]
    tokens = [[{e.tokens for e in side} for side in split] for split in splits]
    assert tokens[0] == tokens[1] != tokens[2]
    for train, test in tokens:
        assert not train & test
        assert train
        assert test
    sizes = [len(side) for side in splits[0]]
    assert sizes == [24, 8] if name == "boolean" else sum(sizes) <= 60
    assert all(len(set(side)) == len(side) for side in ([e.tokens for e in s] for s in splits[0]))


def test_progress_shows_a_bar_and_can_be_off(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp_kit.core.showing.SECONDS", 0.0)
    model, task = trained("boolean"), TASKS["boolean"]
    options = {"site": "mlp_out.0", "config": SAEConfig(**{**SHORT, "training_samples": 256})}
    train_sae(model, task, progress=False, **options)
    assert capfd.readouterr() == ("", "")
    train_sae(model, task, **options)
    assert "SAE at blocks.0.hook_mlp_out" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"width": 4, "k": 5}, "k is 5; expected a whole number from 1 to 4"),
        ({"k": 0}, "k is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"training_samples": 100}, "batch_size is 256; expected a whole number from 1 to 100"),
        ({"held_out": 0.0}, "held_out is 0"),
        ({"held_out": 1.0}, "held_out is 1"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"l1_coefficient": -1.0}, "l1_coefficient"),
    ],
)
def test_configs_that_make_no_autoencoder_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SAEConfig(**options)


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises((ValueError, TypeError), match="crosscoder"):  # TypeError where types are checked at run time
        SAEConfig(architecture="crosscoder")  # pyright: ignore[reportArgumentType]


def test_k_means_nothing_to_the_standard_architecture() -> None:
    assert SAEConfig(architecture="standard", width=4).width == 4


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("blocks.2.hook_mlp_out", r"no site 'blocks.2.hook_mlp_out'; there are .*mlp_out.*layers 0 to 1.*hook_mlp_out"),
        ("mlp_out.7", "no site 'mlp_out.7'"),
        ("nonsense", "resid_pre"),
        ("mlp_out", "needs a layer"),
        ("blocks.0.attn.hook_pattern", "not a vector per position"),
        ("blocks.0.attn.hook_result", "never calls blocks.0.attn.hook_result"),
    ],
)
def test_unknown_sites_are_refused(site: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_sae(trained("boolean"), TASKS["boolean"], site=site, progress=False)


def damaged() -> Iterator[tuple[HookedTransformer, str]]:
    model = small(TASKS["boolean"], 0)
    model.blocks[0].mlp.W_out.data[0] = torch.nan
    yield model, "nan or infinite"
    model = small(TASKS["boolean"], 0)
    model.blocks[0].mlp.W_out.data.zero_()
    yield model, "activations are equal"
    yield small(TASKS["boolean"], 0, n_ctx=12), "context of 12"
    yield small(TASKS["boolean"], 0, d_vocab=3), "the model has 0 to 2"


def test_models_without_usable_activations_are_refused() -> None:
    for model, message in damaged():
        with pytest.raises(ValueError, match=message):
            quietly(model, TASKS["boolean"], site="mlp_out.0", config=CONFIGS["topk"])


def test_a_training_that_diverges_is_refused() -> None:
    config = dataclasses.replace(CONFIGS["topk"], learning_rate=1e30)
    with pytest.raises(ValueError, match="training diverged: learning_rate 1e"):
        quietly(trained("boolean"), TASKS["boolean"], site="mlp_out.0", config=config)


def test_too_few_examples_are_refused() -> None:
    class Small(BooleanTask):
        def enumerate(self) -> list[Example]:
            raise ValueError("pretend that there are too many")

    model, none = trained("boolean"), SAEConfig(held_out=0.01)
    with pytest.raises(ValueError, match="32 distinct training and 0 held-out examples"):
        train_sae(model, TASKS["boolean"], site="mlp_out.0", config=none, progress=False)
    with pytest.raises(ValueError, match="32 distinct training and 0 held-out examples"):
        train_sae(model, Small(), site="mlp_out.0", config=SAEConfig(max_examples=300), progress=False)


def test_examples_that_only_begin_training_examples_are_refused() -> None:
    class Prefixes(Echo):
        def enumerate(self) -> list[Example]:
            texts = [(0,) * n for n in range(4, 8)]
            return [Example("", t, 1, {f"bit{i}": i for i in range(len(t))}, {"length": 1, "echo": 0}) for t in texts]

    task = Prefixes()
    order = split_examples(task, 0.5, 4, 0)
    longest = {max(len(e.tokens) for e in side) for side in order}
    assert all(a != b for a, b in pairwise(sorted(longest)))
    seed = next(s for s in range(20) if 7 in {len(e.tokens) for e in split_examples(task, 0.5, 4, s)[0]})
    with pytest.raises(ValueError, match="begins a training example"):
        train_sae(small(task, 0), task, site="mlp_out.0", config=SAEConfig(held_out=0.5), seed=seed, progress=False)


def test_importing_the_module_loads_neither_saelens_nor_wandb() -> None:
    code = "import sys, interp_kit.analysis.dictionaries.sae; sys.exit(bool({'sae_lens', 'wandb'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_sae_lens_leaves_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    imported, real = [], importlib.import_module

    def fake(name: str) -> ModuleType:
        """What SAELens does when it is imported: wandb is imported too, and filters are added."""
        imported.append(name)
        if name == "sae_lens":
            seen.append(sys.modules["wandb"])
            warnings.simplefilter("always")
            return real("json")
        return ModuleType(name)

    for name in [name for name in sys.modules if name.split(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(importlib, "import_module", fake)
    filters, seen = list(warnings.filters), []
    import_sae_lens()
    assert warnings.filters == filters
    assert (imported, "wandb" in sys.modules) == (["sae_lens"], False)  # wandb itself, which makes folders, is not
    with pytest.raises(AttributeError):
        _ = seen[0].log
    assert imported == ["sae_lens", "wandb"]  # until it is used
