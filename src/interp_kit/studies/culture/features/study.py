"""Features of a sparse autoencoder of a culture model, on grids: where each fires, in which quizzes most, what it adds
to the logits, and which rule or latent it tells; and how much of the model's answers a few features hold."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_kit.analysis.dictionaries.activations import Activations, answer_cross_entropy, harvest
from interp_kit.analysis.dictionaries.alignment.align import align_features
from interp_kit.analysis.dictionaries.alignment.detectors import encode, shuffled_sae
from interp_kit.analysis.dictionaries.alignment.result import AlignmentResult
from interp_kit.analysis.dictionaries.sae import SAEResult
from interp_kit.core.batch import TokenBatch
from interp_kit.core.identity import derive_seed
from interp_kit.core.showing import PROGRESS, bar
from interp_kit.core.stats.intervals import ratio_interval
from interp_kit.models.convert import untrained
from interp_kit.models.hooked_model import HookedModel
from interp_kit.studies.culture.features.steering import Steering, steer_colours, steer_rules
from interp_kit.studies.culture.features.transform import ANSWER, TransformCells, transform_cells
from interp_kit.studies.culture.features.vocabulary import Vocabulary, vocabulary
from interp_kit.studies.culture.rules.exchange import rule_pairs
from interp_kit.tasks.culture.task import CultureTask

LATENTS = ("task", "direction", "step", "growth", "half", "polarity")
PLACES = ("B", "f_B", "f_B[0,0]", "f_B[4,4]")  # where latents are read: before the answer, and within it
TOP, CARDS = 3, 24  # quizzes per feature, features on the page
SIZES, FACTORS = (1, 2, 4, 8, 16, 32), (0.5, 1.0, 1.5, 2.0)
GRIDS = 4


@dataclass(frozen=True)
class Card:
    """One feature.

    Attributes:
        feature: Its number.
        share: Of tokens on which it is active.
        most: Its largest activation.
        quizzes: (top, 405) Those in which it is largest.
        fires: (top, 405) Where it is active there, above half of its largest activation in the quiz.
        place: (4, 10, 10) Its mean activation by cell of the four grids, over all quizzes.
        raises, lowers: The tokens whose logits its decoder vector raises and lowers most, with by how much.
        tells: Class, position and held-out AUROC of what it is the best feature for, "" if for nothing.
    """

    feature: int
    share: float
    most: float
    quizzes: Int[np.ndarray, "top pos"]
    fires: Bool[np.ndarray, "top pos"]
    place: Float[np.ndarray, "4 10 10"]
    raises: tuple[tuple[str, float], ...]
    lowers: tuple[tuple[str, float], ...]
    tells: str


@dataclass(frozen=True)
class FeatureStudy:
    """Everything that the page shows.

    Attributes:
        name: Of the model.
        sae: The autoencoder.
        aligned: Its features against rules and latents.
        cards: The features that tell most, then those that are active most.
        recovered: (size, factor) Cross-entropy recovered if only the `size` largest features of a token are written,
            times a factor: 0 the mean of the named position, 1 the model as it is; low, high: 95 % over quizzes.
        written: What the live features write straight to the logits, beside random directions.
        alive: (feature,) True on features that are active in some quiz.
        quizzes: How many were read.
        transform: What tells the cells that the rule changes; None if too few quizzes have such cells.
        steered: Answers steered to another rule, and to another colour.
    """

    name: str
    sae: SAEResult
    aligned: AlignmentResult
    cards: tuple[Card, ...]
    recovered: Float[np.ndarray, "size factor"]
    low: Float[np.ndarray, "size factor"]
    high: Float[np.ndarray, "size factor"]
    written: Vocabulary
    alive: Bool[np.ndarray, " feature"]
    quizzes: int
    transform: TransformCells | None
    steered: tuple[Steering, ...]


def examine_features(
    model: HookedModel,
    sae: SAEResult,
    name: str,
    *,
    quizzes: int = 320,
    answered: int = 24,
    pairs: int = 40,
    permutations: int = 50,
    steered: int = 40,
    seed: int = 0,
    progress: bool = PROGRESS,
) -> FeatureStudy:
    """Read the features on fresh quizzes.

    Args:
        model: A culture model.
        sae: Of one of its sites.
        name: Of the model, for the page.
        quizzes: To read features on.
        answered: Quizzes to measure answers on, at least five.
        pairs: Pairs per variable whose features are exchanged, at most.
        permutations: Of the labels, for the level of chance.
        steered: Quizzes whose answers are steered, at least four.
        seed: Of the quizzes.
        progress: Whether to show a bar.
    """
    task = CultureTask()
    batch = task.batch(task.sample(quizzes, derive_seed(seed, "features") % 2**31))
    aligned = align_features(
        model, task, sae, variables=LATENTS, positions=PLACES, limit=quizzes, pairs=pairs, permutations=permutations,
        seed=seed, progress=progress,
    )  # fmt: skip
    codes = _codes(model, batch, sae)
    written, unembedding = sae.weights["W_dec"].astype(np.float64), _unembedding(model)
    effects = written @ (unembedding - unembedding.mean(1, keepdims=True))
    best = _told(aligned)
    alive = codes.flatten(0, 1).max(0).values.numpy() > 0
    order = [f for f in best if alive[f]]
    order += [f for f in np.argsort(-sae.frequency, kind="stable").tolist() if f not in best and alive[f]]
    cards = tuple(_card(f, codes[..., f].numpy(), batch, effects[f], task.vocabulary, best) for f in order[:CARDS])
    recovered, low, high = _recovery(model, task, sae, answered, seed, progress)
    transform = _transform(model, batch, sae, codes, seed)
    return FeatureStudy(
        name, sae, aligned, cards, recovered, low, high, vocabulary(written[alive], unembedding, seed), alive,
        len(batch), transform, _steered(model, sae, codes, effects, steered, seed),
    )  # fmt: skip


def _codes(model: HookedModel, batch: TokenBatch, sae: SAEResult) -> Float[Tensor, "quiz pos feature"]:
    """Codes of every token."""
    dictionary, found = sae.to_sae_lens(), []
    for start in range(0, len(batch), 32):
        part = batch.take(range(start, min(start + 32, len(batch))))
        acts = harvest(model, part, sae.hook, list(range(len(part))), [], progress=False)
        codes = encode(dictionary, acts.vectors.unflatten(1, acts.shape))
        found.append(codes.view(len(part), -1, codes.shape[-1]).half())
    return torch.cat(found)


def _unembedding(model: HookedModel) -> Float[np.ndarray, "d vocab"]:
    return dict(model.named_parameters())["unembed.W_U"].detach().double().cpu().numpy()


def _transform(
    model: HookedModel, batch: TokenBatch, sae: SAEResult, codes: Float[Tensor, "quiz pos feature"], seed: int
) -> TransformCells | None:
    """On the quizzes in the order A f_A B f_B; None if too few of them have changed cells."""
    rows = np.flatnonzero(batch.label("structure").cpu().numpy() == 0)
    here = batch.take(rows.tolist())
    vectors = harvest(model, here, sae.hook, list(range(len(here))), [], progress=False).vectors
    vectors = vectors.view(len(here), -1, vectors.shape[-1])[:, ANSWER]
    control = encode(shuffled_sae(sae.to_sae_lens(), seed), vectors.flatten(0, 1)).view(*vectors.shape[:2], -1)
    candidates = {
        "features": codes[torch.from_numpy(rows)][:, ANSWER].float().numpy(),
        "random autoencoder": control.cpu().numpy(),
        "axes of the site": vectors.cpu().numpy(),
    }
    try:
        return transform_cells(candidates, here.tokens.cpu().numpy())
    except ValueError:
        return None


def _steered(
    model: HookedModel,
    sae: SAEResult,
    codes: Float[Tensor, "quiz pos feature"],
    effects: Float[np.ndarray, "feature vocab"],
    n: int,
    seed: int,
) -> tuple[Steering, ...]:
    control = untrained(model, derive_seed(seed, "untrained") % 2**31)
    pairs, fitted = (rule_pairs(size, derive_seed(seed, "steering", size) % 2**31) for size in (n, n + 20))
    task = CultureTask()
    drawn = [e for e in task.sample(8 * n, derive_seed(seed, "colours") % 2**31) if e.labels["structure"] == 0][:n]
    device = str(model.cfg.device)
    return (
        steer_rules(model, control, sae, pairs, fitted, seed),
        steer_colours(model, control, sae, task.batch(drawn).to(device), codes.numpy(), effects, seed),
    )


def _told(aligned: AlignmentResult) -> dict[int, str]:
    """Feature -> what it tells best, in order of how well."""
    found: dict[int, str] = {}
    for i in np.argsort(-aligned.auroc[:, 0], kind="stable").tolist():
        text = f"{aligned.variable[i]} {aligned.value[i]} at {aligned.position[i]}, AUROC {aligned.auroc[i, 0]:.2f}"
        found.setdefault(int(aligned.chosen[i, 0]), f"{'Tells' if aligned.sign[i, 0] > 0 else 'Silent on'} {text}")
    return found


def _card(
    feature: int,
    codes: Float[np.ndarray, "quiz pos"],
    batch: TokenBatch,
    effect: Float[np.ndarray, " vocab"],
    vocabulary: tuple[str, ...],
    best: Mapping[int, str],
) -> Card:
    codes = codes.astype(np.float32)
    top = np.argsort(-codes.max(1), kind="stable")[:TOP]
    order = np.argsort(effect)
    place = codes[:, 1:].mean(0).reshape(GRIDS, 101)[:, 1:].reshape(GRIDS, 10, 10)
    return Card(
        feature=feature,
        share=float((codes > 0).mean()),
        most=float(codes.max()),
        quizzes=batch.tokens[torch.from_numpy(top)].cpu().numpy(),
        fires=codes[top] > np.maximum(codes[top].max(1, keepdims=True) / 2, 0),
        place=place,
        raises=tuple((vocabulary[t], float(effect[t])) for t in order[::-1][:3].tolist()),
        lowers=tuple((vocabulary[t], float(effect[t])) for t in order[:3].tolist()),
        tells=best.get(feature, ""),
    )


def _recovery(
    model: HookedModel, task: CultureTask, sae: SAEResult, answered: int, seed: int, progress: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(size, factor) cross-entropy recovered, with its interval over quizzes."""
    examples = task.sample(answered, derive_seed(seed, "answered features") % 2**31)
    acts: Activations = harvest(model, task, sae.hook, examples, [], progress=False)
    dictionary = sae.to_sae_lens()
    codes = encode(dictionary, acts.vectors.unflatten(1, acts.shape))
    clean, mean = answer_cross_entropy(model, acts), answer_cross_entropy(model, acts, acts.position_means())
    found = np.full((3, len(SIZES), len(FACTORS)), np.nan)
    with bar(len(SIZES) * len(FACTORS), "features written", progress) as shown:
        for i, size in enumerate(SIZES):
            kept = codes.topk(min(size, codes.shape[1]), dim=1)
            largest = torch.zeros_like(codes).scatter(1, kept.indices, kept.values)
            for j, factor in enumerate(FACTORS):
                with torch.no_grad():
                    new = answer_cross_entropy(model, acts, dictionary.decode(factor * largest).flatten(1))
                found[:, i, j] = [float(part[0]) for part in ratio_interval((mean - new)[None], mean - clean)]
                shown.update()
    return found[0], found[1], found[2]
