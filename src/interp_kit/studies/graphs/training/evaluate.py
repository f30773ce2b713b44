"""Accuracy of a stack on held-out graphs, by kind and depth, beside both baselines."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from interp_kit.core.files import replacing
from interp_kit.studies.graphs.training.generator import Draw, Generator
from interp_kit.studies.graphs.training.stack import Stack
from interp_kit.tasks.graphs import layout
from interp_kit.tasks.graphs.compact import QUERIES, Solution, Worlds, solve
from interp_kit.tasks.graphs.shapes import SPLITS, shapes

CHUNK = 1024


def worlds_of(generator: Generator, draw: Draw) -> tuple[Worlds, np.ndarray]:
    """The questions of a draw as the task's Worlds, and the row in `shapes` of each one's graph."""
    k = draw.query.shape[1]
    rows = generator.rows[draw.dag.cpu().numpy()].repeat(k)
    kind, x, y = QUERIES[draw.query.cpu().numpy().ravel()].T
    table = draw.table.cpu().numpy().repeat(k, axis=0)
    return Worlds(shapes().parents[rows], table, kind, x, draw.value.cpu().numpy().ravel(), y), rows


def check_labels(generator: Generator, n: int, rng: torch.Generator) -> int:
    """Compare the generator's factors, answers and tokens with the numpy semantics on n questions. Raises
    AssertionError if any differs; gives the number compared."""
    draw = generator.draw(n // 4, 4, len(generator.graph_mass) - 1, rng)
    answers = generator.solve(draw)
    worlds, _ = worlds_of(generator, draw)
    truth = solve(worlds)
    found = {name: getattr(answers, name).cpu().numpy() for name in ("factors", "answer", "valid")}
    for name, values in found.items():
        flat = values.reshape(-1, *values.shape[2:])
        assert (flat == getattr(truth, name)).all(), f"the generator's {name} differ from the task's"
    slots, blocks = generator.tokens(draw, answers, trace=True)
    text = np.concatenate([slots.cpu().numpy().repeat(4, axis=0), blocks.cpu().numpy().reshape(len(worlds), -1)], 1)
    expected = np.concatenate(
        [
            layout.slot_tokens(worlds),
            layout.query_tokens(worlds),
            layout.trace_tokens(layout.trace_values(truth)),
            layout.AMOUNTS + np.maximum(truth.answer, 0)[:, None],
        ],
        axis=1,
    )
    assert (text[:, :-1] == expected).all(), "the generator's texts differ from the task's"
    return len(worlds)


@torch.inference_mode()
def predict(stack: Stack, prompts: Tensor, written: int) -> Tensor:
    """(models, n, written) greedy completions of (n, pos) prompts."""
    models, device = len(stack.seeds), prompts.device
    kind, found = device.type, []
    for chunk in prompts.split(CHUNK):
        text = chunk.expand(models, -1, -1)
        for _ in range(written):
            length = text.shape[-1]
            positions = torch.arange(length, device=device)
            mask = positions[None] <= positions[:, None]
            with torch.autocast(kind, dtype=torch.bfloat16, enabled=kind == "cuda"):
                logits = stack(text, positions, mask, positions[-1:])
            text = torch.cat([text, logits[:, :, 0].argmax(-1)[..., None]], -1)
        found.append(text[..., chunk.shape[1] :])
    return torch.cat(found, 1)


def evaluate(
    stack: Stack, names: list[str], trace: bool, n: int, path: Path, generators: Mapping[str, Generator]
) -> list[dict[str, object]]:
    """One row per split, network, kind and depth: n, accuracy, and the baselines. Writes every question and prediction
    to `path`.

    n: questions of the test split; half as many of the others. generators: of SPLITS; their last depths are asked.
    """
    device = stack.weights[0].device
    rows, kept = [], {}
    common = _common_answers(generators["train"])
    for split, generator in generators.items():
        rng = torch.Generator(device).manual_seed(1000 + SPLITS.index(split))
        draw = generator.draw(n if split == "test" else n // 2, 1, -1, rng)
        worlds, graph = worlds_of(generator, draw)
        truth = solve(worlds)
        slots, blocks = generator.tokens(draw, generator.solve(draw), trace)
        prompts = torch.cat([slots, blocks[:, 0, : len(layout.QUERY)]], 1)
        written = predict(stack, prompts, blocks.shape[-1] - len(layout.QUERY) - 1).cpu().numpy()
        keep = np.flatnonzero(truth.valid)
        worlds, graph, written = worlds.take(keep), graph[keep], written[:, keep]
        truth = solve(worlds)
        columns = {
            "parents": worlds.parents, "class": shapes().isomorphic[graph], "table": worlds.table, "kind": worlds.kind,
            "x": worlds.x, "value": worlds.value, "y": worlds.y, "depth": truth.structure.depth,
            "connected": truth.structure.connected, "answer": truth.answer, "rows": truth.rows, "prior": truth.prior,
            "written": written,
        }  # fmt: skip
        kept |= {f"{split}/{key}": value.astype(np.int16) for key, value in columns.items()}
        rows += _table(split, names, worlds, truth, written, common)
    with replacing(path) as aside, open(aside, "wb") as file:
        np.savez_compressed(file, **kept)
    return rows


def _common_answers(generator: Generator) -> dict[tuple[int, int], int]:
    """The most frequent answer of each kind and depth in training graphs."""
    draw = generator.draw(20_000, 1, -1, torch.Generator(generator.device).manual_seed(7))
    worlds, _ = worlds_of(generator, draw)
    truth = solve(worlds)
    cells = {(kind, depth): _cell(worlds, truth, kind, depth) for kind in (0, 1) for depth in range(4)}
    return {key: int(np.bincount(truth.answer[cell & truth.valid]).argmax()) for key, cell in cells.items()}


def _cell(worlds: Worlds, truth: Solution, kind: int, depth: int) -> np.ndarray:
    return (worlds.kind == kind) & (truth.structure.depth == depth)


def _table(
    split: str,
    names: list[str],
    worlds: Worlds,
    truth: Solution,
    written: np.ndarray,
    common: dict[tuple[int, int], int],
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    right = written[..., -1] == layout.AMOUNTS + truth.answer
    trace = layout.trace_tokens(layout.trace_values(truth))
    for (kind, depth), answer in common.items():
        cell = _cell(worlds, truth, kind, depth)
        for i, name in enumerate(names):
            row: dict[str, object] = {
                "split": split,
                "network": name,
                "kind": ("do", "see")[kind],
                "depth": depth,
                "n": int(cell.sum()),
                "accuracy": _share(right[i, cell]),
                "connected": _share(right[i, cell & truth.structure.connected]),
                "majority": _share(truth.answer[cell] == answer),
                "own_rows": _share((truth.answer == truth.rows)[cell]),
                "prior": _share((truth.answer == truth.prior)[cell]),
            }
            if written.shape[-1] > 1:
                row["whole_trace"] = _share((written[i, cell, :-1] == trace[cell]).all(-1))
            rows.append(row)
    return rows


def _share(hits: np.ndarray) -> float | None:
    return float(hits.mean()) if len(hits) else None
