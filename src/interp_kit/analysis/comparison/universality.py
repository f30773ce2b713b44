"""Universality: do networks that learned the same task hold the same units (Gurnee et al. 2024, arXiv:2401.12181)?

Every unit (neuron, or feature of an autoencoder) is matched with the unit of another network that correlates most with
it, on half of the texts, and the correlation is measured on the other half: the best of many would flatter. The
baseline is the same network rotated at random, which holds the same information in no privileged basis. Decoders of
networks with different starts live in different bases, so features are matched by their activations.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int

from interp_kit.analysis.comparison.correlations import (
    best_match,
    correlations,
    debiased_cka,
    gram,
    matched,
    one_to_one,
)
from interp_kit.analysis.comparison.units import Tokens, Within, chosen_tokens, units_of
from interp_kit.analysis.comparison.universality_result import MEASURES, UNIVERSAL, UniversalityResult
from interp_kit.analysis.dictionaries.alignment.result import AlignmentResult
from interp_kit.analysis.dictionaries.origin import check_sae, digest_of_sae
from interp_kit.analysis.dictionaries.sae import SAEResult
from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_choice, check_count, check_flag, check_seed, expect
from interp_kit.core.identity import derive_seed
from interp_kit.core.showing import PROGRESS, bar, caution
from interp_kit.engine.sites import hook_name, layers_of
from interp_kit.models.hooked_model import HookedModel, model_name
from interp_kit.models.meeting import check_meeting

CKA_TOKENS = 1500


def universality(
    models: Sequence[HookedModel],
    batch: TokenBatch,
    *,
    site: str = "mlp_post",
    saes: Sequence[SAEResult] | None = None,
    within: Within = "text",
    tokens: int = 8192,
    rotations: int = 4,
    seed: int = 0,
    progress: bool = PROGRESS,
) -> UniversalityResult:
    """Match the units of every network with those of every other, and measure how alike they are.

    A rotation does not control for learning, and CKA has no baseline here. Networks that never learned can be more
    alike than trained ones by both, as they read the same inputs: features of five untrained boolean networks are 0.17
    above the rotation, those of the trained ones 0.09. So compare with `untrained` models, each of another `seed`, for
    `saes` with autoencoders of these. Warns if two networks have the same weights.

    Args:
        models: Two networks or more, of one task and shape.
        batch: Texts; of equal beginnings one is counted.
        site: Of neurons, every layer ("mlp_post") or one ("mlp_post.1").
        saes: One autoencoder per network, all of one site: features are matched in place of neurons, and CKA is of
            their codes.
        within: "position" takes the mean of each named position away first, so that no unit is alike because it tells
            where it is.
        tokens: At most so many are drawn.
        rotations: Of the baseline. Neurons are rotated as they are; of features the activations that they read, about
            their mean.
        seed: Of tokens, halves and rotations.
        progress: Whether to show a bar.

    Raises:
        ValueError: Fewer than two networks, or four texts; autoencoders that are not one per network, of another
            network or of different sites; a site that networks do not share.

    Examples:
        >>> found = universality([ik.load("boolean-gpt2"), ik.load("boolean-gpt2-seed1")], batch)
        >>> found.to_frame()[["site", "measure", "result", "low", "high"]]
    """
    hooks = _checked(models, batch, site, saes)
    check_choice("within", within, get_args(Within))
    check_count("tokens", tokens, least=16)
    check_count("rotations", rotations)
    check_seed(seed)
    check_flag("progress", progress)
    chosen = chosen_tokens(batch, tokens, seed)
    pairs = [(a, b) for a in range(len(models)) for b in range(len(models)) if a != b]
    blocks, parts = int(chosen.block.max()) + 1, []
    with bar(len(hooks) * len(pairs), "pairs of models", progress) as shown:
        for hook in hooks:
            values, turned = units_of(models, batch, hook, saes, chosen, within, rotations, seed)
            grams = _grams(values, chosen, seed)
            found = []
            for a, b in pairs:
                found.append(_compare(values[a], values[b], turned[b], chosen.block, (grams[a], grams[b])))
                shown.update()
            parts.append(found)
    mean = np.array([[one.measures[0] for one in found] for found in parts])
    left = np.array([[one.measures[1:] for one in found] for found in parts])
    widest = max(len(one.match) for found in parts for one in found)
    by_unit = np.full((2, len(hooks), len(models), widest), np.nan)
    match = np.full((len(hooks), len(pairs), widest), -1)
    for i, found in enumerate(parts):
        for k, one in enumerate(found):
            match[i, k, : len(one.match)] = one.match
        for m in range(len(models)):
            rows = [one for one, (a, _) in zip(found, pairs, strict=True) if a == m]
            by_unit[0, i, m, : len(rows[0].match)] = np.mean([one.correlation for one in rows], 0)
            by_unit[1, i, m, : len(rows[0].match)] = np.mean([one.rotated for one in rows], 0)
    return UniversalityResult(
        model=tuple(model_name(model) for model in models),
        hook=tuple(hooks),
        kind="neuron" if saes is None else "feature",
        pair=np.array(pairs),
        mean=mean,
        left=left.reshape(len(hooks), len(pairs), blocks, len(MEASURES)),
        correlation=by_unit[0],
        rotated=by_unit[1],
        match=match,
        texts=chosen.texts,
        tokens=int((chosen.block >= 0).sum()),
        config={
            "analysis": "universality",
            "models": tuple(model_name(model) for model in models),
            "task": batch.task,
            "within": within,
            "rotations": rotations,
            "seed": seed,
            "saes": () if saes is None else tuple(digest_of_sae(one) for one in saes),
        },
    )


def universal_features(found: UniversalityResult, alignments: Sequence[AlignmentResult]) -> pd.DataFrame:
    """Name the variable of each network's feature, how universal it is, and whether its match carries the same.

    Args:
        found: Of `universality` with autoencoders.
        alignments: One per network, in the same order.

    Returns:
        One row per network, class and position: the feature, its AUROC, its correlation with its best matches, the
        rotated baseline, whether its excess is above 0.5, and the share of the other networks in which its match is the
        feature that carries the same class there.

    Raises:
        TypeError: Anything else than a list of alignments.
        ValueError: For neurons, another number of alignments than networks, or one of another autoencoder.
    """
    expect("found", found, UniversalityResult, "as universality gives")
    expect("alignments", alignments, (list, tuple), "results of align_features, one per network")
    for one in alignments:
        expect("one of alignments", one, AlignmentResult, "as align_features gives")
    if found.kind != "feature" or len(alignments) != len(found.model):
        raise ValueError(
            f"{len(alignments)} alignments for the {found.kind}s of {len(found.model)} networks; expected universality"
            " of features, and one alignment per network"
        )
    saes = found.config.get("saes") or (None,) * len(alignments)
    for name, known, one in zip(found.model, saes, alignments, strict=True):
        theirs = one.config.get("sae")
        if known != theirs if known and theirs else one.config["model"] != name:
            raise ValueError(
                f"an alignment of {one.config['model']} stands in the place of {name} and is of another autoencoder;"
                " give the alignments in the order of the networks"
            )
    carried = [
        {key: int(one.chosen[i, 0]) for i, key in enumerate(zip(one.variable, one.value, one.position, strict=True))}
        for one in alignments
    ]
    rows = []
    for m, one in enumerate(alignments):
        for i, (key, feature) in enumerate(carried[m].items()):
            same = [
                int(found.match[0, k, feature]) == carried[b].get(key)
                for k, (a, b) in enumerate(found.pair.tolist())
                if a == m
            ]
            correlation, baseline = (float(v[0, m, feature]) for v in (found.correlation, found.rotated))
            rows.append(
                {
                    "model": found.model[m],
                    "class": f"{key[0]} {key[1]}",
                    "position": key[2],
                    "feature": feature,
                    "AUROC": float(one.auroc[i, 0]),
                    "correlation": correlation,
                    "rotated": baseline,
                    "universal": correlation - baseline > UNIVERSAL,
                    "match carries it": float(np.mean(same)),
                    "n": found.texts,
                }
            )
    return pd.DataFrame(rows)


def _checked(
    models: Sequence[HookedModel], batch: TokenBatch, site: str, saes: Sequence[SAEResult] | None
) -> list[str]:
    """The hooks to compare."""
    if isinstance(models, str) or len(models) < 2:
        raise ValueError("universality compares networks; give two or more")
    for model in models:
        check_meeting(model, batch, TokenBatch)
    if saes is not None:
        for one in saes:
            expect("one of saes", one, SAEResult, "as train_sae gives")
        for model, one in zip(models, saes, strict=False):
            check_sae(model, one)
        sites = {one.hook for one in saes}
        if len(saes) != len(models) or len(sites) != 1:
            raise ValueError(
                f"saes holds {len(saes)} autoencoders of {', '.join(sorted(sites)) or 'no site'} for {len(models)}"
                " networks; expected one per network, all of one site"
            )
        return sorted(sites)
    for at, model in enumerate(models):
        for other in models[:at]:
            if _equal(model, other):
                caution(
                    f"{model_name(other)} and {model_name(model)} have the same weights, so they are alike by"
                    " construction; networks of other starts are, for example, untrained(model, seed=1) and seed=2"
                )
    found = {tuple(layers_of(model, site)[1]) for model in models}
    if len(found) != 1:
        raise ValueError(f"site {site!r} has {' or '.join(str(len(one)) for one in sorted(found))} layers: not shared")
    key = layers_of(models[0], site)[0]
    return [hook_name(key, layer) for layer in found.pop()]


def _equal(model: HookedModel, other: HookedModel) -> bool:
    ours, theirs = dict(model.named_parameters()), dict(other.named_parameters())
    return ours.keys() == theirs.keys() and all(
        one.shape == theirs[name].shape and torch.equal(one.to(theirs[name].device), theirs[name])
        for name, one in ours.items()
    )


@dataclass(frozen=True, eq=False)
class _Pair:
    """measures: (1 + block, measure) over all blocks and without each; correlation, rotated, match: (unit,)."""

    measures: np.ndarray
    correlation: np.ndarray
    rotated: np.ndarray
    match: np.ndarray


def _compare(
    a: np.ndarray,
    b: np.ndarray,
    turned: Sequence[np.ndarray],
    block: Int[np.ndarray, " token"],
    grams: tuple["_Gram", "_Gram"],
) -> _Pair:
    matching, tested = block < 0, block >= 0

    def measured(other: np.ndarray, how: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        match = how(correlations(a[matching], other[matching]))
        return match, matched(a[tested], other[tested], match, block[tested])

    match, best = measured(b, best_match)
    single = measured(b, one_to_one)[1]
    rotated = np.mean([measured(other, best_match)[1] for other in turned], 0)
    known = np.isfinite(best).all(0) & np.isfinite(rotated).all(0)
    if not known.any():
        raise ValueError("all units are constant on half of the tokens: give more texts, or another site")
    means = [best[:, known].mean(1), rotated[:, known].mean(1), np.nanmean(single, axis=1)]
    alike = [debiased_cka(x, y) for x, y in zip(grams[0].left(), grams[1].left(), strict=True)]
    return _Pair(np.stack([means[0], means[1], means[0] - means[1], means[2], alike], 1), best[0], rotated[0], match)


@dataclass(frozen=True, eq=False)
class _Gram:
    """The Gram matrix of tokens, and their blocks."""

    whole: np.ndarray
    block: np.ndarray

    def left(self) -> Iterator[np.ndarray]:
        """All of it, then without each block in turn."""
        yield self.whole
        for k in range(int(self.block.max()) + 1):
            kept = np.flatnonzero(self.block != k)
            yield self.whole[np.ix_(kept, kept)]


def _grams(values: Sequence[np.ndarray], chosen: Tokens, seed: int) -> list[_Gram]:
    """For each network the Gram matrix of the tokens measured on, at most CKA_TOKENS."""
    tested = np.flatnonzero(chosen.block >= 0)
    if len(tested) > CKA_TOKENS:
        rng = np.random.default_rng(derive_seed(seed, "CKA"))
        tested = np.sort(rng.choice(tested, CKA_TOKENS, replace=False))
    return [_Gram(gram(one[tested]), chosen.block[tested]) for one in values]
