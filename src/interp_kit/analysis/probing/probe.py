"""Linear probes (Alain & Bengio 2016) that say what they show: every score stands beside what the visible tokens alone
give, what an untrained network gives, and what labels nobody asked for give (control tasks, Hewitt & Liang 2019).

The unit is a distinct visible prefix: in a causal model equal prefixes have equal activations, so a row that repeats
one is no new evidence. Splits leave units out, repeatedly and stratified; scores are of left-out units only.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from interp_kit.analysis.probing.features import features_of
from interp_kit.analysis.probing.held_out import ProbeOptions, Scorer, threshold
from interp_kit.analysis.probing.labels import (
    MEASURED,
    control_labels,
    determined,
    distinct_prefixes,
    is_written,
    nothing_to_probe,
    one_class,
    raw_tokens,
)
from interp_kit.analysis.probing.linear import rotate
from interp_kit.analysis.probing.probe_result import LESS, ProbeResult
from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_count, check_flag, check_names, check_number, check_seed, one_or_more
from interp_kit.core.identity import derive_seed
from interp_kit.core.own_tokens import position_names
from interp_kit.core.showing import PROGRESS, bar
from interp_kit.engine.sites import layers_of
from interp_kit.models.convert import untrained
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, model_name
from interp_kit.models.meeting import check_meeting, check_model


@on_model("model", "control_model")
def probe(
    model: HookedModel,
    batch: TokenBatch,
    labels: str | Sequence[str],
    *,
    sites: str | Sequence[str] = "resid_post",
    positions: Sequence[str | int] | None = None,
    folds: int = 8,
    repeats: int = 4,
    control_repeats: int = 1,
    permutations: int = 0,
    c: float = 1.0,
    alpha: float = 1.0,
    control_model: HookedModel | None = None,
    seed: int = 0,
    progress: bool = PROGRESS,
) -> ProbeResult:
    """Fit a probe for every label at every layer of the sites (and the embedding), at every named position.

    Features are centred by the mean of the training rows and divided by one number, the root of their mean squared
    entry: not each by its own deviation. Directions of large variance are therefore regularised less than small ones,
    and a variable that is written in a small direction needs a larger `c`. The untrained network, the visible tokens
    and the control functions are scaled and regularised by the same rule. The score hangs on `c`, and so may the
    comparison with the baselines: the cell that the findings name is scored again, with its baselines, under 100 times
    less regularisation (`config["less_regularised"]`: label -> score, best baseline), and the finding says if its
    verdict is then another.

    Args:
        model: Any model.
        batch: Examples with labels.
        labels: Variables to read.
        sites: Sites with a (batch, pos, d) activation per layer; "mlp_out.2" or "blocks.2.hook_mlp_out" is one layer.
        positions: Names, or indices of named tokens; None: all.
        folds: Parts into which units are split; fewer if a class has fewer units.
        repeats: Times that the split is drawn anew.
        control_repeats: Repeats of the control functions; 0 leaves them out.
        permutations: Permutations of the labels, for the max-statistic over cells; 0 leaves it out.
        c: Inverse regularisation of classification, as scikit-learn's LogisticRegression(C=c), one probe per class
            against the rest, on features centred and divided by one number (see above).
        alpha: Regularisation of regression, as scikit-learn's Ridge(alpha), on the same features.
        control_model: None: the same architecture with fresh weights.
        seed: Of splits, controls and permutations.
        progress: Whether to show a bar.

    Returns:
        One held-out score per label, cell and position, beside its baselines.

    Raises:
        ValueError: A label, position or site is unknown, or no cell can be measured.
    """
    check_meeting(model, batch, TokenBatch)
    if control_model is not None:
        check_model(control_model, "control_model")
    sites = list(check_names("sites", one_or_more(sites)))
    for site in sites:
        if None in layers_of(model, site)[1]:
            raise ValueError(f"site {site!r} has no layers; probes read the embedding beside every site")
    if positions is None:
        positions = [name for name, index in batch.positions.items() if bool((index >= 0).all())]
    names = list(check_names("positions", position_names("positions", positions, batch.positions)))
    check_count("folds", folds, least=2)
    check_count("repeats", repeats)
    check_count("control_repeats", control_repeats, least=0)
    check_count("permutations", permutations, least=0)
    for option, value in (("c", c), ("alpha", alpha)):
        check_number(option, value, above=0)
    check_seed(seed)
    check_flag("progress", progress)
    labels = check_names("labels", one_or_more(labels))
    constant = [told for label in labels if (told := one_class(batch, label))]
    if len(constant) == len(labels):
        raise ValueError("; ".join(constant))
    for label in labels:
        batch.label(label)
    for name in names:
        batch.position(name)
    unit_rows = [distinct_prefixes(batch, name) for name in names]
    values = {label: batch.label(label).cpu().numpy() for label in labels}
    truths = {
        (i, k): determined(values[label], group, units, label in batch.numeric)
        for i, label in enumerate(labels)
        for k, (units, group) in enumerate(unit_rows)
    }
    if all(status != MEASURED for _, status in truths.values()):
        raise ValueError(nothing_to_probe(labels, names, truths, unit_rows))
    options = ProbeOptions(folds, repeats, c, alpha, seed)
    rows, trained = features_of(model, batch, sites, names)
    _, fresh = features_of(control_model or untrained(model, derive_seed(seed, "untrained")), batch, sites, names)
    shape = (len(labels), len(rows), len(names))
    table = {key: np.full(shape, np.nan) for key in ("score", "untrained", "control", "control_high")}
    raw, status = np.full((len(labels), len(names)), np.nan), np.zeros((len(labels), len(names)), dtype=np.int64)
    null = np.full((len(labels), permutations, len(rows), len(names)), np.nan)
    written = np.array([[is_written(batch, label, name) for name in names] for label in labels])
    with bar(len(names) * len(labels), "probes", progress) as shown:
        for k, name in enumerate(names):
            units, group = unit_rows[k]
            tokens = rotate(raw_tokens(batch, name, units))
            cells, fresh_cells = ([rotate(row[k][units]) for row in f] for f in (trained, fresh))
            for i, label in enumerate(labels):
                shown.update()
                truth, status[i, k] = truths[i, k]
                if status[i, k] != MEASURED:
                    continue
                key = (label, name)
                score = Scorer(truth, label in batch.numeric, options, key)
                table["score"][i, :, k] = score(cells)
                table["untrained"][i, :, k] = score(fresh_cells)
                raw[i, k] = score([tokens])[0]
                if control_repeats and label not in batch.numeric and not written[i, k]:
                    others = control_labels(batch, values[label], units, group)
                    found = [Scorer(o, False, options.short(control_repeats), key)(cells) for o in others]
                    if found:
                        table["control"][i, :, k] = np.mean(found, axis=0)
                        table["control_high"][i, :, k] = np.percentile(found, 95, axis=0)
                if not written[i, k]:
                    for r in range(permutations):
                        rng = np.random.default_rng(derive_seed(seed, "permutation", *key, r))
                        shuffled = Scorer(rng.permutation(truth), label in batch.numeric, options.short(1), key)
                        null[i, r, :, k] = shuffled(cells)
    result = ProbeResult(
        labels=tuple(labels),
        rows=tuple(rows),
        positions=tuple(names),
        numeric=tuple(label for label in labels if label in batch.numeric),
        **table,
        raw=raw,
        null_high=np.stack([threshold(n) for n in null]),
        chance=np.array([0.0 if label in batch.numeric else 1 / len(batch.label(label).unique()) for label in labels]),
        status=status,
        written=written,
        units=np.array([len(units) for units, _ in unit_rows]),
        config={
            "analysis": "probe",
            "model": model_name(model),
            "task": batch.task,
            "folds": folds,
            "repeats": repeats,
            "control_repeats": control_repeats,
            "permutations": permutations,
            "c": c,
            "alpha": alpha,
            "seed": seed,
        },
    )
    again = {}
    for i, label in enumerate(labels):
        if (best := result._best(i)) is not None:
            units, group = unit_rows[best[1]]
            sets = [rotate(rows[best[1]][units]) for rows in (trained[best[0]], fresh[best[0]])]
            sets.append(rotate(raw_tokens(batch, names[best[1]], units)))
            found = _scored_again(batch, label, names[best[1]], sets, units, group, options, control_repeats)
            again |= {label: found} if found else {}
    return replace(result, config={**result.config, "less_regularised": again})


def _scored_again(
    batch: TokenBatch,
    label: str,
    position: str,
    sets: Sequence[np.ndarray],
    units: np.ndarray,
    group: np.ndarray,
    options: ProbeOptions,
    control_repeats: int,
) -> tuple[float, ...]:
    """Score and best baseline of one cell under LESS times less regularisation; none if a probe then does not converge.
    sets: the cell in the model, in the untrained one, and the visible tokens."""
    numeric, key = label in batch.numeric, (label, position)
    values = batch.label(label).cpu().numpy()
    truth, _ = determined(values, group, units, numeric)
    less = replace(options, c=LESS * options.c, alpha=options.alpha / LESS)
    try:
        score, *rivals = (float(Scorer(truth, numeric, less, key)([one])[0]) for one in sets)
        if control_repeats and not numeric:
            others = control_labels(batch, values, units, group)
            found = [Scorer(o, False, less.short(control_repeats), key)(sets[:1])[0] for o in others]
            rivals += [float(np.percentile(found, 95))] if found else []
    except FloatingPointError:
        return ()
    return score, max(*rivals, 0.0 if numeric else 1 / len(batch.label(label).unique()))
