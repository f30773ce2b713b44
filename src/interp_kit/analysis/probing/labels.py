"""Labels at a position: distinct visible prefixes, the values that they determine, and controls of the same kind."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import listed
from interp_kit.core.showing import counted

MEASURED, UNDETERMINED, TOO_FEW = 0, 1, 2
LEAST_UNITS, LEAST_OF_CLASS = 8, 2  # distinct prefixes, and those of each value of a class


def distinct_prefixes(batch: TokenBatch, position: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows that stand for the distinct visible prefixes at a position, and for every row the number of its prefix."""
    at = batch.position(position)
    visible = torch.where(torch.arange(batch.tokens.shape[1], device=at.device) <= at[:, None], batch.tokens, -1)
    _, first, group = np.unique(visible.cpu().numpy(), axis=0, return_index=True, return_inverse=True)
    return first, group.reshape(-1)


def determined(values: np.ndarray, group: np.ndarray, units: np.ndarray, numeric: bool) -> tuple[np.ndarray, int]:
    """A label's value for each unit, and whether it can be probed there."""
    truth = values[units]
    if (truth[group] != values).any():
        return truth, UNDETERMINED
    smallest = len(units) if numeric else np.unique(truth, return_counts=True)[1].min()
    if len(np.unique(truth)) < 2 or len(units) < LEAST_UNITS or smallest < LEAST_OF_CLASS:
        return truth, TOO_FEW
    return truth, MEASURED


def one_class(batch: TokenBatch, label: str) -> str:
    """Say what is wrong with a label that has the same value in every row; "" if it has not."""
    values = np.unique(batch.label(label).cpu().numpy()).tolist()
    return "" if len(values) > 1 else f"{label} has one class, {values[0]}: there is nothing to tell apart"


def is_written(batch: TokenBatch, label: str, position: str) -> bool:
    if label not in batch.positions:
        return False
    at = batch.positions[label]  # -1 in a row where it is not written at all
    return bool(((at >= 0) & (at <= batch.position(position))).all())


def raw_tokens(batch: TokenBatch, position: str, units: np.ndarray) -> np.ndarray:
    """(units, d) one-hot of the visible tokens, counted from the start of the text; pairs of position and id that
    occur."""
    at = batch.position(position).cpu().numpy()[units]
    tokens = batch.tokens.cpu().numpy()[units]
    visible = np.arange(tokens.shape[1])[None] <= at[:, None]
    one_hot = (tokens[..., None] == np.unique(tokens)) & visible[..., None]
    one_hot = one_hot.reshape(len(units), -1)
    return one_hot[:, one_hot.any(0)].astype(np.float64)  # padding and ids that never occur leave no trace


def control_labels(batch: TokenBatch, values: np.ndarray, units: np.ndarray, group: np.ndarray) -> list[np.ndarray]:
    """Two-input Boolean functions that no variable of the task is (nor is the complement of), of the same kind as
    `values`: exclusive-or or and-like, and determined by what is visible."""
    bits = {name: batch.label(name).cpu().numpy() for name in batch.inputs}
    if any(set(np.unique(bit)) - {0, 1} for bit in bits.values()) or set(np.unique(values)) - {0, 1}:
        return []
    asked = {tuple(v) for label in batch.labels.values() for v in (label.tolist(), (1 - label).tolist())}
    smaller = min(values.mean(), 1 - values.mean())
    found = []
    for a, b in itertools.combinations(bits.values(), 2):
        ands = [x & y for x in (a, 1 - a) for y in (b, 1 - b)]
        for control in [a ^ b, *ands]:
            same_kind = abs(min(control.mean(), 1 - control.mean()) - smaller) < 1e-9
            if same_kind and tuple(control.tolist()) not in asked:
                truth, status = determined(control, group, units, False)
                if status == MEASURED:
                    found.append(truth)
    single = any(tuple(values.tolist()) in {tuple(b.tolist()), tuple((1 - b).tolist())} for b in bits.values())
    return [] if single else found


def nothing_to_probe(
    labels: Sequence[str],
    names: Sequence[str],
    truths: Mapping[tuple[int, int], tuple[np.ndarray, int]],
    unit_rows: Sequence[tuple[np.ndarray, np.ndarray]],
) -> str:
    """Error if no label can be probed at any position: for each, what comes nearest, and how much that lacks."""
    told = []
    for i, label in enumerate(labels):
        few = [k for k in range(len(names)) if truths[i, k][1] == TOO_FEW]
        if not few:
            told.append(f"{label} does not follow from the text at any of them")
            continue
        k = max(few, key=lambda k: len(unit_rows[k][0]))
        counts = np.unique(truths[i, k][0], return_counts=True)[1]
        told.append(
            f"{label} has {len(unit_rows[k][0])} distinct prefixes at {names[k]}, of {counted(len(counts), 'value')},"
            f" the rarest with {counts.min()}"
        )
    return (
        f"nothing can be probed at {listed(names)}: {'; '.join(told)}. Needed are {LEAST_UNITS} distinct prefixes or"
        f" more, and {LEAST_OF_CLASS} of each value of a class: give more examples, or other positions"
    )
