"""Random small models of other architectures than GPT-2: edits together against edits one by one through hooks."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from interp_kit.core.batch import TokenBatch
from interp_kit.engine.apply import Engine
from interp_kit.engine.edits import Add, Copy, Edit, EditGroup, Mean, Scale, Zero
from interp_kit.engine.fast import batched
from interp_kit.engine.fast.forward import Executor
from interp_kit.engine.harvest import harvest
from interp_kit.engine.metrics import KL, log_probability
from interp_kit.engine.sites import ACTIVATIONS, has_heads
from interp_kit.engine.sweep import sweep
from interp_kit.models.convert import hooked_transformer

ROWS, LENGTH, VOCABULARY = 3, 7, 11
SEEDS = 12  # of 200


def drawn(seed: int) -> dict[str, Any]:
    """A config with some of RMSNorm, gated MLPs, rotary positions, parallel blocks and grouped queries; by turns the
    first five have one of them, the sixth all."""
    g = np.random.default_rng(seed)
    on = g.random(6) < 0.5
    if seed < 6:
        on[:5] = [seed in (number, 5) for number in range(5)]
    rms, gated, rotary, parallel, grouped, normed = (bool(x) for x in on)
    heads, d_head = int(g.choice([2, 4])), int(g.choice([4, 6]))
    config: dict[str, Any] = {
        "n_layers": int(g.integers(1, 4)), "d_model": 8, "n_ctx": LENGTH, "n_heads": heads, "d_head": d_head,
        "d_vocab": VOCABULARY, "d_mlp": 12, "act_fn": str(g.choice(["silu", "gelu", "relu"])), "device": "cpu",
        "normalization_type": ("RMS" if rms else "LN") + str(g.choice(["", "Pre"])), "gated_mlp": gated,
        "parallel_attn_mlp": parallel, "use_qk_norm": normed and seed >= 6,
    }  # fmt: skip
    if grouped:
        config["n_key_value_heads"] = int(g.choice([1, heads // 2]))
    if rotary:
        config |= {"positional_embedding_type": "rotary", "rotary_dim": int(g.choice([2, 4])), "rotary_base": 50}
        config["rotary_adjacent_pairs"] = bool(g.random() < 0.5)
    return config


def network(seed: int, **config: Any) -> Any:
    model = hooked_transformer(**config, init_weights=False)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_((1.0 if name.endswith(".w") else 0.0) + 0.5 * torch.randn(parameter.shape, generator=g))
    return model.eval().requires_grad_(False)


def ragged(seed: int) -> TokenBatch:
    g = np.random.default_rng(seed)
    lengths = np.array([LENGTH, LENGTH - 2, LENGTH - 1])
    mask = torch.as_tensor(np.arange(LENGTH) < lengths[:, None])
    tokens = torch.as_tensor(g.integers(0, VOCABULARY, (ROWS, LENGTH))) * mask
    prompt = torch.as_tensor([3, 2, 4])
    everywhere = {f"t{i}": torch.where(mask[:, i], i, -1) for i in range(LENGTH)}
    positions = {**everywhere, "end": torch.as_tensor(lengths - 1), "query": prompt - 1}
    return TokenBatch(
        tokens=tokens, mask=mask, prompt_length=prompt, positions=positions, labels={}, fields=(),
        answer={"answer": tokens[:, 1]}, inputs=(), numeric=(), task="random",
        vocabulary=tuple(map(str, range(VOCABULARY))),
    )  # fmt: skip


def groups_of(cfg: Any, other: TokenBatch, seed: int) -> list[EditGroup]:
    """An edit at every site, and as many random pairs of edits."""
    g = np.random.default_rng(seed)
    rotary = cfg.positional_embedding_type == "rotary"
    left = {"pos_embed"} if rotary else set()
    left |= {"resid_mid"} if cfg.parallel_attn_mlp else set()
    sites = [site for site in ACTIVATIONS if site not in left]

    def one(site: str) -> Edit:
        layer = int(g.integers(cfg.n_layers)) if "{layer}" in ACTIVATIONS[site][0] else None
        heads = (cfg.n_key_value_heads or cfg.n_heads) if site in "kv" else cfg.n_heads
        head = int(g.integers(heads)) if has_heads(site) and g.random() < 0.6 else None
        position = (None, 0, 2, 4, "query", "end")[g.integers(6)]
        width = getattr(cfg, ACTIVATIONS[site][1][-1])
        add = Add(torch.as_tensor(g.normal(size=width), dtype=torch.float32), 2.0)
        source = (Zero(), Scale(-1.5), Copy(other), Copy(other), add, Mean())[g.integers(5 + (position is None))]
        return Edit(site, layer, source, head=head, position=position)

    pairs = [(one(str(g.choice(sites))), one(str(g.choice(sites)))) for _ in sites]
    return [*((one(site),) for site in sites), *pairs]


def check(seed: int) -> None:
    config = drawn(seed)
    model, batch = network(seed, **config), ragged(seed)
    other = dataclasses.replace(batch, tokens=(batch.tokens * 3 + 1) % VOCABULARY)
    groups = groups_of(model.cfg, other, seed)
    metrics = [log_probability(), KL("answer", at=batch.positions["query"])]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(batched, "TILE", (1, 40, batched.TILE)[seed % 3])
        found = sweep(model, batch, groups, metrics, memory=(2**29, 30_000)[seed % 2], progress=False)
    assert found.by_hooks == 0, (found.why, config)
    changed = 0
    with torch.inference_mode():
        engine = Engine(model, batch)
        for i, group in enumerate(groups):
            logits = engine.run(group)
            for j, metric in enumerate(metrics):
                expected = metric(logits, batch, engine.logits).numpy()
                assert found.values[i, j] == pytest.approx(expected, abs=1e-4, rel=1e-4), (config, group, metric.name)
            changed += bool(np.abs(found.values[i] - found.baseline).max() > 1e-3)
    assert changed > len(groups) / 3, "edits do something"
    sites = [f"{site}.0" for site in ("q", "k", "z", "mlp_post", "resid_post")]
    for site, values in harvest(model, batch, sites).items():
        name = ACTIVATIONS[site[:-2]][0].format(layer=0)
        cached = model.run_with_cache(batch.tokens, names_filter=[name])[1][name][batch.mask]
        torch.testing.assert_close(values, cached, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_any_edits_give_what_hooks_give(seed: int) -> None:
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_any_edits_of_200_architectures_give_what_hooks_give(part: int) -> None:
    for seed in range(50 * part, 50 * (part + 1)):
        check(seed)


def test_texts_longer_than_the_tables_of_angles(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformer_lens.components import AbstractAttention

    monkeypatch.setattr(AbstractAttention, "ROTARY_INITIAL_CACHE_SIZE", 4)
    config = drawn(5) | {"n_ctx": 20, "rotary_dim": 4}
    model = network(1, **config)
    tokens = torch.arange(40).remainder(VOCABULARY).reshape(2, 20)
    assert len(Executor(model).layers[0].rotary.cos) <= 8  # pyright: ignore[reportOptionalMemberAccess]
    with torch.inference_mode():
        found = Executor(model).prefill(tokens, every=True)
        torch.testing.assert_close(found, model(tokens), atol=1e-4, rtol=1e-4)
