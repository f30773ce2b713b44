"""Harvesting activations: `ik.harvest` against TransformerLens's cache with a filter, stopped after the last layer."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.measure import Row, compare
from interp_kit.core.batch import TokenBatch
from interp_kit.engine.harvest import Reader, harvest
from interp_kit.models.convert import hooked_transformer

SMALL = {"n_layers": 4, "d_model": 128, "n_ctx": 64, "d_head": 32, "n_heads": 4, "d_mlp": 512, "d_vocab": 15}
GPT2 = {"n_layers": 12, "d_model": 768, "n_ctx": 128, "d_head": 64, "n_heads": 12, "d_mlp": 3072, "d_vocab": 50257}
STREAM = ["blocks.{half}.hook_resid_post"]
SEVERAL = [f"blocks.{{layer}}.{hook}" for hook in ("hook_resid_post", "attn.hook_z", "hook_mlp_out")]
# name, sizes, rows of full context, sites, named positions
WORK = (
    ("resid_post of the middle layer, 4 layers, d 128", SMALL, 256, STREAM, False),
    ("resid_post, z and mlp_out of every layer, 4 layers, d 128", SMALL, 256, SEVERAL, False),
    ("the same at three positions", SMALL, 256, SEVERAL, True),
    ("resid_post of the middle layer, GPT-2 small's size", GPT2, 32, STREAM, False),
    ("the same at three positions, GPT-2 small's size", GPT2, 32, STREAM, True),
    ("resid_post, z and mlp_out of every layer, GPT-2 small's size", GPT2, 16, SEVERAL, False),
)


def harvesting() -> list[Row]:
    """TransformerLens as it comes, under inference_mode, and with as many tokens at once as we take."""
    return [row for work in WORK for row in _compared(*work)]


def _compared(name: str, sizes: dict[str, int], rows: int, templates: Sequence[str], named: bool) -> list[Row]:
    model = hooked_transformer(**{**sizes, "act_fn": "gelu_new", "normalization_type": "LN", "seed": 0})
    batch = random_batch(rows, sizes["n_ctx"], sizes["d_vocab"])
    half, layers = sizes["n_layers"] // 2 - 1, range(sizes["n_layers"])
    hooks = list(dict.fromkeys(t.format(half=half, layer=layer) for t in templates for layer in layers))
    positions = list(batch.positions) if named else None
    stop = max(int(hook.split(".")[1]) for hook in hooks) + 1
    at = torch.stack(list(batch.positions.values()), dim=1)

    def ours() -> dict[str, Tensor]:
        return harvest(model, batch, hooks, positions=positions)

    def kept(value: Tensor, part: slice) -> Tensor:
        return value[torch.arange(len(value))[:, None], at[part]] if named else value.flatten(0, 1)

    def theirs(step: int, inference: bool = True) -> Callable[[], dict[str, Tensor]]:
        def run() -> dict[str, Tensor]:
            found: dict[str, list[Tensor]] = {hook: [] for hook in hooks}
            with torch.inference_mode(inference):
                for part in (slice(start, start + step) for start in range(0, rows, step)):
                    _, cache = model.run_with_cache(batch.tokens[part], names_filter=hooks, stop_at_layer=stop)
                    for hook in hooks:
                        found[hook].append(kept(cache[hook], part))
                return {hook: values[0] if len(values) == 1 else torch.cat(values) for hook, values in found.items()}

        return run

    assert Reader(model, batch, hooks).executor is not None, "hooks read it"
    expected, difference = theirs(rows)(), 0.0
    for hook, values in ours().items():
        scale = max(1.0, float(expected[hook].abs().max()))
        difference = max(difference, float((values - expected[hook]).abs().max()) / scale)
    assert difference < 1e-5, f"not the same numbers: {difference:.1e}"
    work = f"{name}, {rows} texts of {sizes['n_ctx']}"
    peers = {
        "run_with_cache, names_filter and stop_at_layer, as it comes": theirs(rows, inference=False),
        "the same under inference_mode": theirs(rows),
        "the same, 2048 tokens at once": theirs(max(1, 2048 // sizes["n_ctx"])),
    }
    return compare(work, ours, peers, difference=f"{difference:.0e}")


def random_batch(rows: int, length: int, vocabulary: int) -> TokenBatch:
    """Random texts, all of one length, with three named positions."""
    tokens = torch.randint(0, vocabulary, (rows, length), generator=torch.Generator().manual_seed(0))
    full = torch.full((rows,), length)
    return TokenBatch(
        tokens=tokens, mask=torch.ones_like(tokens, dtype=torch.bool), prompt_length=full,
        positions={"first": full // 4, "middle": full // 2, "last": full - 1}, labels={}, fields=(), answer={},
        inputs=(), numeric=(), task="random", vocabulary=tuple(map(str, range(vocabulary))),
    )  # fmt: skip
