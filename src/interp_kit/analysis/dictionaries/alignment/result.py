"""Result of an alignment: the variable that each feature tells, and whether the model uses it for that."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.analysis.dictionaries.alignment.detectors import FEATURE, PROBE
from interp_kit.analysis.dictionaries.alignment.use import EXCHANGED
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import numbered
from interp_kit.core.stats.intervals import FEWEST_OF_RATIO, Estimate, scope
from interp_kit.core.stats.told import CHANCE, most
from interp_kit.reports.plotting import intervals

SHOWN = 24  # classes of a figure
NOT_READ, USED, NOT_SHOWN = "site not read", "used", "not shown"
ALONE = "feature alone"  # column of what exchanging one feature moves: "feature" is its number
NOTHING = 0.01  # share of the logit difference: what moves less, moves nothing


@dataclass(frozen=True, kw_only=True)
class AlignmentResult(AbstractResult):
    """Features of an autoencoder against the variables of a task. One entry per class of a variable and position.

    Attributes:
        variable, value, position: (row,) The class: `value` is "= 2" (against every other value) or "> 3".
        method: What was chosen from: the features, and the controls.
        chosen: (row, method) Number of the feature, component, axis or neuron; -1 if there is none, as for the probe.
        sign: (row, method) -1 if it is smaller on the class.
        auroc, auroc_low, auroc_high: (row, method) Area under the ROC curve on inputs that it was not chosen by.
        chosen_at: (row, method) The same area on the inputs that it was chosen by.
        bits, bits_low, bits_high: (row, method) Mutual information with the class, above a threshold set on the inputs
            that it was chosen by.
        entropy: (row,) Bits of the class among the scored inputs: the most that there are to tell.
        permuted_high: (row,) 95th percentile of `auroc` of the best feature under permuted labels; permuted_chosen_at:
            mean of `chosen_at` under them, by how much choosing alone flatters.
        sparse: (row, size) Area of the sparse probe of 1, 2, 4, 8, 16 features; needed: (row,) how many have 95 % of
            the best one's distance from 1/2, 0 if none is above the 95th percentile of the same search under permuted
            labels.
        missed, missed_low, missed_high: (row,) Share of inputs of the class on which its features are silent.
        absorbed, absorbed_low, absorbed_high: (row,) Share on which another feature writes it instead; absorber:
            (row,) that feature, -1 if there is none.
        n, of_class: (row,) Scored inputs (distinct texts up to the position), and those of the class.
        use_variable, use_position, target: (use,) What was exchanged where, and whose answer was read.
        exchanged: The kinds of exchange.
        moved, moved_low, moved_high: (use, kind) Share of the logit difference between the two answers that moves.
        pairs: (use,) Independent pairs.
        unused: Variable -> why it has no pairs for a target.
    """

    variable: tuple[str, ...]
    value: tuple[str, ...]
    position: tuple[str, ...]
    method: tuple[str, ...]
    chosen: np.ndarray
    sign: np.ndarray
    auroc: np.ndarray
    auroc_low: np.ndarray
    auroc_high: np.ndarray
    chosen_at: np.ndarray
    bits: np.ndarray
    bits_low: np.ndarray
    bits_high: np.ndarray
    entropy: np.ndarray
    permuted_high: np.ndarray
    permuted_chosen_at: np.ndarray
    sparse: np.ndarray
    needed: np.ndarray
    missed: np.ndarray
    missed_low: np.ndarray
    missed_high: np.ndarray
    absorbed: np.ndarray
    absorbed_low: np.ndarray
    absorbed_high: np.ndarray
    absorber: np.ndarray
    n: np.ndarray
    of_class: np.ndarray
    use_variable: tuple[str, ...]
    use_position: tuple[str, ...]
    target: tuple[str, ...]
    exchanged: tuple[str, ...]
    moved: np.ndarray
    moved_low: np.ndarray
    moved_high: np.ndarray
    pairs: np.ndarray
    unused: Mapping[str, str]

    @property
    def verdict(self) -> tuple[str, ...]:
        """(use,) Whether the model uses the features there.

        "site not read" if exchanging the whole site moves nothing, its interval holding 0: what features move is then
        what their decoders leak into directions that are read, and no sign of use. "used" if the site is read and the
        features move more than NOTHING, with their whole interval, and more than as many random ones. Else "not shown",
        also where there are not as many other features.
        """
        kinds = {name: self.exchanged.index(name) for name in ("features", "random features", "site")}
        found = []
        for i, n in enumerate(self.pairs.tolist()):
            value, low, high = (part[i] for part in (self.moved, self.moved_low, self.moved_high))
            site, own, random = kinds["site"], kinds["features"], kinds["random features"]
            unread = low[site] <= 0 <= high[site] if np.isfinite(low[site]) else not abs(value[site]) > NOTHING
            end = low[own] if np.isfinite(low[own]) else value[own]  # the same in all pairs
            if unread:
                found.append(NOT_READ)
            else:
                shown = n >= FEWEST_OF_RATIO and np.isfinite(value[random]) and end > max(NOTHING, value[random])
                found.append(USED if shown else NOT_SHOWN)
        return tuple(found)

    def to_frame(self) -> pd.DataFrame:
        """One row per class, position, measure and method, and one per variable, position and exchange."""
        rows: list[tuple[Any, ...]] = []
        for i, place in enumerate(zip(self.variable, self.value, self.position, strict=True)):
            n = int(self.n[i])
            for j, method in enumerate(self.method):
                which = int(self.chosen[i, j])
                for measure, (value, low, high) in {
                    "AUROC": (self.auroc, self.auroc_low, self.auroc_high),
                    "mutual information": (self.bits, self.bits_low, self.bits_high),
                }.items():
                    rows.append((*place, measure, method, which, value[i, j], low[i, j], high[i, j], n, "inputs"))
            for measure, which, (value, low, high) in (
                ("missed", -1, (self.missed, self.missed_low, self.missed_high)),
                ("absorbed", int(self.absorber[i]), (self.absorbed, self.absorbed_low, self.absorbed_high)),
            ):
                of = int(self.of_class[i] if self.sign[i, 0] > 0 else n - self.of_class[i])
                rows.append((*place, measure, FEATURE, which, value[i], low[i], high[i], of, "inputs"))
            rows.append((*place, "features needed", FEATURE, -1, float(self.needed[i]), np.nan, np.nan, n, "inputs"))
            rows.append(
                (*place, "AUROC, labels permuted", FEATURE, -1, self.permuted_high[i], np.nan, np.nan, n, "inputs")
            )
        for i, (variable, position) in enumerate(zip(self.use_variable, self.use_position, strict=True)):
            for j, kind in enumerate(self.exchanged):
                found = (self.moved[i, j], self.moved_low[i, j], self.moved_high[i, j])
                measure = f"moved of {self.target[i]}"
                rows.append((variable, "", position, measure, kind, -1, *found, int(self.pairs[i]), "pairs"))
        columns = ["variable", "value", "position", "measure", "source", "which", "result", "low", "high", "n", "unit"]
        return pd.DataFrame(rows, columns=columns)

    def summary(self) -> pd.DataFrame:
        """One row per class and position: its feature, how well it tells, and how far its exchange moves the answer."""
        used = {key: i for i, key in enumerate(zip(self.use_variable, self.use_position, strict=True))}
        rows, verdict = [], self.verdict
        for i, (variable, value, position) in enumerate(zip(self.variable, self.value, self.position, strict=True)):
            at = used.get((variable, position))
            scores = {name: float(self.auroc[i, j]) for j, name in enumerate(self.method)}
            moved = {} if at is None else dict(zip(self.exchanged, self.moved[at].round(2).tolist(), strict=True))
            rows.append(
                {
                    "class": f"{variable} {value}",
                    "position": position,
                    "feature": int(self.chosen[i, 0]),
                    **scores,
                    "permuted, 95 %": float(self.permuted_high[i]),
                    "needed": int(self.needed[i]),
                    "missed": round(float(self.missed[i]), 2),
                    "absorbed": round(float(self.absorbed[i]), 2),
                    "moves": "" if at is None else self.target[at],
                    **{ALONE if kind == "feature" else kind: moved.get(kind, np.nan) for kind in EXCHANGED},
                    "verdict": "" if at is None else verdict[at],
                    "n": int(self.n[i]),
                    "pairs": 0 if at is None else int(self.pairs[at]),
                }
            )
        return pd.DataFrame(rows)

    def caption(self, what: Literal["use", "tell"] | None = None) -> str:
        """See AbstractResult: of the picture that `plot` draws with the same argument."""
        c = self.config
        counts = _span(self.n)
        text = (
            f"How well the best feature of an autoencoder of {c['width']} at {c['hook']} of {c['model']} tells each"
            f" variable, chosen on {c['chosen_by']:.0%} of the inputs and scored on the others (AUROC; n = {counts}"
            f" distinct texts up to the position{scope(c)}), beside controls chosen by the same rule and a supervised"
            f" probe; labels permuted {c['permutations']} times, the rule's 95th percentile is at most"
            f" {np.max(self.permuted_high):.2f}."
        )
        if what == "use" or (what is None and len(self.use_variable)):
            text += (
                " Moved: share of the logit difference that follows when the activations of the variable's features"
                " (for each value the one that fires, and what a class is split over) are exchanged alone between two"
                f" runs that differ in the variable (n = {numbered(_span(self.pairs), 'independent pairs')}); 1"
                " is the other run."
                " What tells a variable and moves nothing is not used for it there. Controls: as many random live"
                " features, all features, and the whole site."
            )
            if unread := self.verdict.count(NOT_READ):
                text += (
                    f" In {unread} of {len(self.verdict)} places the whole site moves nothing: it is not read there,"
                    " and what features move is what their decoders leak into other directions, no sign of use."
                )
        return text + " 95 % intervals."

    def findings(self) -> tuple[str, ...]:
        """See AbstractResult: the class that a feature tells best, and whether exchanging features moves an answer.

        A feature "tells" a class if the lower end of its AUROC's interval is above 3/4, half of the way from chance to
        1, and above the labels permuted; the model "uses" features that move more than half of the logit difference, by
        the lower end again, and else "uses them in part".
        """
        best = int(np.abs(self.auroc[:, 0] - 0.5).argmax())
        auroc = Estimate(self.auroc[best, 0], self.auroc_low[best, 0], self.auroc_high[best, 0], int(self.n[best]), "")
        what = f"{self.variable[best]} {self.value[best]} at {self.position[best]}"
        scores = {name: float(self.auroc[best, j]) for j, name in enumerate(self.method) if j}
        beside = ", ".join(f"{name} {score:.2f}" for name, score in scores.items())
        numbers = (
            f"AUROC {auroc.short()}, labels permuted {self.permuted_high[best]:.2f} (n ="
            f" {numbered(auroc.n, 'texts')}; {beside})"
        )
        low = auroc.value if np.isnan(auroc.low) else auroc.low
        if low <= self.permuted_high[best]:
            return (f"No feature tells a variable: the best, for {what}, {CHANCE}: {numbers}.", *self._used())
        alike = [name for name, score in scores.items() if name != PROBE and score >= auroc.low]
        which = f"eature {self.chosen[best, 0]}"
        if most(2 * auroc.low - 1, 2 * auroc.value - 1):
            text = f"F{which} tells {what}, the best of all: {numbers}."
        else:
            text = f"No feature tells a variable well: the best is f{which}, for {what}, {numbers}."
        if alike:
            text += f" It cannot be told from {', '.join(alike)}, so training the autoencoder is not what found it."
        return (text, *self._used())

    def _used(self) -> tuple[str, ...]:
        if not len(self.use_variable):
            return ()
        own, random = (self.moved[:, self.exchanged.index(kind)] for kind in ("features", "random features"))
        read, used = (np.array([one == wanted for one in self.verdict]) for wanted in (NOT_READ, USED))
        read = ~read
        if not read.any():
            return (f"Nothing is shown to be used: in all of {len(own)} places the whole site moves nothing.",)
        compared = read & np.isfinite(own) & np.isfinite(random)  # there are not always as many other features
        if not compared.any():
            return ("Whether features are used is not shown: no exchange has as many random features beside it.",)
        at = self.exchanged.index("features")
        used &= compared
        known = compared & np.isfinite(self.moved_low[:, at])
        among, of = (compared, "with random ones beside them")
        if used.any() or known.any():
            among, of = (used, "where this is shown beside random ones") if used.any() else (known, "with an interval")
        best, many = int(np.where(among, own, -np.inf).argmax()), int(among.sum())
        value, low, high = (float(values[best, at]) for values in (self.moved, self.moved_low, self.moved_high))
        moves = f"{Estimate(value, low, high, 0, '').short()} of the logit difference of {self.target[best]}"
        numbers = f"{moves} (as many random ones {random[best]:.2f}; n = {numbered(self.pairs[best], 'pairs')})"
        where = f"of {self.use_variable[best]} at {self.use_position[best]}"
        said = f"exchanging {'them' if used.any() else f'those {where}'} moves {numbers}"
        said += f", the most of {many} places {of}" if many > 1 else ""
        silent = f" In {int((~read).sum())} of {len(own)} places the whole site moves nothing: nothing is used there."
        part = "" if most(low, value) else "in part "
        head = f"The model uses {part}the features {where}" if used.any() else "No features are shown to be used"
        return (f"{head}: {said}.{'' if read.all() else silent}",)

    def highlights(self) -> pd.DataFrame:
        """See AbstractResult: the classes that features tell best."""
        order = np.argsort(-np.abs(self.auroc[:, 0] - 0.5), kind="stable")[:8]
        return self.summary().iloc[order].dropna(axis=1, how="all")

    def plot(self, ax: Axes | None = None, what: Literal["use", "tell"] | None = None) -> Axes:
        """Every class with intervals: what its feature tells and what it moves ("use"), or what each method tells
        ("tell"); by default "use" if anything was exchanged. At most 24 classes, those that features tell best."""
        what = what or ("use" if len(self.use_variable) else "tell")
        order = np.argsort(-np.abs(self.auroc[:, 0] - 0.5), kind="stable")
        used = {key: i for i, key in enumerate(zip(self.use_variable, self.use_position, strict=True))}
        if what == "use":
            order = np.array([i for i in order if (self.variable[i], self.position[i]) in used], dtype=int)
            if not len(order):
                raise ValueError("nothing was exchanged: no variable has pairs; plot what='tell'")
        order = np.sort(order[:SHOWN])
        verdict = {key: self.verdict[i] for key, i in used.items()} if what == "use" else {}
        noted = [verdict.get((self.variable[i], self.position[i])) == NOT_READ for i in order]
        names = [
            f"{self.variable[i]} {self.value[i]}, at {self.position[i]}{f' ({NOT_READ})' if note else ''}"
            for i, note in zip(order, noted, strict=True)
        ]
        tell = (self.auroc, self.auroc_low, self.auroc_high)
        methods = [name for name in self.method if what == "tell" or name in (FEATURE, PROBE)]
        series = {
            f"tells: {name}" if what == "use" else name: _columns(tell, order, self.method.index(name))
            for name in methods
        }
        if what == "use":
            at = np.array([used[self.variable[i], self.position[i]] for i in order])
            moved = (self.moved, self.moved_low, self.moved_high)
            for kind in ("features", "random features", "all features", "site"):
                series[f"moves: {kind}"] = _columns(moved, at, self.exchanged.index(kind))
        title = f"SAE of {self.config['width']} at {self.config['hook']}\n{self.config['model']} (n = {_span(self.n)}"
        title += f" texts{f', {_span(self.pairs)} pairs' if what == 'use' else ''})"
        label = "AUROC (tells), share of the logit difference (moves)" if what == "use" else "AUROC"
        reference = {"chance (AUROC)": 0.5} if what == "tell" else {"nothing moves": 0.0, "chance (AUROC)": 0.5}
        return intervals(names, series, ax=ax, title=title, x_label=label, reference=reference)


def _columns(parts: tuple[np.ndarray, ...], rows: np.ndarray, column: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    value, low, high = (part[rows, column] for part in parts)
    return value, low, high


def _span(n: np.ndarray) -> str:
    return str(n.min()) if n.min() == n.max() else f"{n.min()} to {n.max()}"
