"""`make bench`: our intervention sweeps beside TransformerLens's own functions, in one run, same numbers, as ratios.

Results are checked equal before they are timed against each other. Machines are noisy: each side runs alternately,
REPEATS times, and the ratio of medians is given with its range.
"""

import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from transformer_lens import patching

import interp_kit as ik
from interp_kit.core.files import write_text
from interp_kit.models.convert import hooked_transformer

REPEATS = 5
RESULTS = Path(__file__).parent / "RESULTS.md"


def alternate(ours: Callable[[], object], peer: Callable[[], object]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of each side, (REPEATS,), run in turn after one warm-up."""
    ours(), peer()
    seconds = np.empty((2, REPEATS))
    for i in range(REPEATS):
        for j, side in enumerate((ours, peer)):
            start = time.perf_counter()
            side()
            seconds[j, i] = time.perf_counter() - start
    return seconds[0], seconds[1]


def by_position() -> list[str]:
    """Residual patching by position: `ik.patch` against get_act_patch_resid_pre, as it comes and under no_grad."""
    task = ik.task("boolean")
    pairs = task.pairs("newB", "newD")
    model = hooked_transformer(
        n_layers=4, d_model=128, n_ctx=64, d_head=32, n_heads=4, d_mlp=512, d_vocab=15, act_fn="gelu_new", seed=0
    )
    metric = ik.logit_difference(pairs)
    _, cache = model.run_with_cache(pairs.clean.tokens)

    def peer() -> torch.Tensor:
        return patching.get_act_patch_resid_pre(
            model, pairs.corrupt.tokens, cache, lambda logits: metric(logits, pairs.corrupt).mean()
        )

    def peer_without_grad() -> torch.Tensor:
        with torch.no_grad():
            return peer()

    def ours() -> np.ndarray:
        return ik.patch(model, pairs).values.mean(1)

    difference = np.abs(ours() - peer().detach().flatten().numpy()).max()
    assert difference < 1e-4, f"not the same numbers: {difference:.1e}"
    rows = []
    for name, other in (("as it comes", peer), ("under no_grad", peer_without_grad)):
        mine, theirs = alternate(ours, other)
        ratios = theirs / mine
        rows.append(
            f"| resid_pre by position, 4 layers, d 128, {len(pairs)} pairs | transformer_lens.patching, {name} |"
            f" {np.median(theirs) / np.median(mine):.2f}x | {ratios.min():.2f} to {ratios.max():.2f} |"
            f" {difference:.0e} |"
        )
    return rows


def main() -> None:
    """Run everything and write RESULTS.md."""
    torch.set_num_threads(1)
    rows = by_position()
    text = "\n".join(
        [
            "# Benchmarks",
            "",
            f"One thread, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__},"
            f" TransformerLens {metadata.version('transformer-lens')}; {REPEATS} alternating repetitions.",
            "",
            "| work | against | times faster (ratio of medians) | range | largest difference of results |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
    print(text)
    write_text(RESULTS, text)


if __name__ == "__main__":
    main()
