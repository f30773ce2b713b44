"""Cost of a sweep by number of edits, and by how late they come: a figure beside TransformerLens's loop."""

import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import interp_kit as ik
from benchmarks.patching import random_model, random_pairs
from interp_kit.engine.edits import Copy, Edit
from interp_kit.engine.sites import hook_name
from interp_kit.engine.sweep import sweep

LAYERS, LENGTH, ROWS, EDITS = 8, 40, 8, 16
REPEATS = 5
FIGURE = Path(__file__).parent / "cost.png"


def draw() -> Path:
    """Three panels: number of edits, layer of entry, first position; milliseconds, median and range."""
    model, pairs = random_model(LAYERS, 128, 4), random_pairs(ROWS, LENGTH + 1)
    copy, metric = Copy(pairs.clean), ik.logit_difference(pairs)
    tokens = pairs.corrupt.tokens[:, :-1]
    _, cache = model.run_with_cache(pairs.clean.tokens[:, :-1])

    def loop(edits: Sequence[tuple[int, int]]) -> None:
        for layer, position in edits:

            def put(value: torch.Tensor, hook: object, layer=layer, position=position) -> torch.Tensor:
                value[:, position] = cache["resid_pre", layer][:, position]
                return value

            model.run_with_hooks(tokens, fwd_hooks=[(hook_name("resid_pre", layer), put)])

    def milliseconds(edits: Sequence[tuple[int, int]]) -> np.ndarray:
        """(side, 3) least, median and most: the sweep, then the loop."""
        ours = [Edit("resid_pre", layer, copy, position=position) for layer, position in edits]
        seconds = np.empty((REPEATS, 2))
        for i in range(REPEATS):
            start = time.perf_counter()
            sweep(model, pairs.corrupt, ours, metric)
            middle = time.perf_counter()
            with torch.no_grad():
                loop(edits)
            seconds[i] = middle - start, time.perf_counter() - middle
        return 1e3 * np.quantile(seconds, (0, 0.5, 1), axis=0).T

    rng = np.random.default_rng(0)
    counts = [1, 4, 16, 64, 256]
    some = [
        [(int(la), int(at)) for la, at in zip(rng.integers(0, LAYERS, n), rng.integers(0, LENGTH, n), strict=True)]
        for n in counts
    ]
    layers, positions = range(LAYERS), range(0, LENGTH, 5)
    panels = [
        ("number of edits, anywhere", counts, some),
        (f"layer of {EDITS} edits", layers, [[(la, at) for at in range(0, LENGTH, LENGTH // EDITS)] for la in layers]),
        (f"position of {EDITS} edits", positions, [[(i % LAYERS, at) for i in range(EDITS)] for at in positions]),
    ]
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained", sharey=True)
    for ax, (label, x, work) in zip(axes, panels, strict=True):
        found = np.array([milliseconds(edits) for edits in work])
        for column, name, colour in ((1, "TransformerLens, a loop under no_grad", "#E69F00"), (0, "sweep", "#0072B2")):
            low, middle, high = found[:, column].T
            ax.errorbar(list(x), middle, (middle - low, high - middle), fmt="o-", capsize=3, color=colour, label=name)
        ax.set(xlabel=label, yscale="log", xscale="log" if x is counts else "linear")
    axes[0].set_ylim(bottom=10)
    axes[0].set_ylabel(f"milliseconds (median and range of {REPEATS})")
    figure.suptitle(f"Cost of patching resid_pre: {LAYERS} layers, d 128, {ROWS} texts of {LENGTH} tokens, one thread")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(FIGURE, dpi=110)
    plt.close(figure)
    return FIGURE
