"""Causes of failure on planted circuits: each failure of the audit, taken apart by an experiment on the circuit."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from interp_kit.analysis.causal.das import das
from interp_kit.analysis.causal.das_controls import GAIN
from interp_kit.analysis.causal.das_result import DASResult
from interp_kit.analysis.causal.interchange import interchange
from interp_kit.analysis.causal.patching import patch
from interp_kit.analysis.circuits.direct_attribution import logit_lens
from interp_kit.engine.edits import Copy, Edit, Mean, Resample, Zero
from interp_kit.engine.metrics import logit_difference
from interp_kit.engine.sweep import sweep
from interp_kit.models.planted import ground_truth
from interp_kit.registry.models import load, planted, task_of
from interp_kit.studies.audit.case import Case
from interp_kit.studies.audit.methods import FITTED, STEPS, probe_positions
from interp_kit.studies.audit.twins import TWINS


@dataclass(frozen=True)
class Experiment:
    """One failure: the claim that explains it, and figures that would come out otherwise were it false."""

    claim: str
    figures: tuple[tuple[str, float], ...]
    holds: bool


def _case(name: str) -> Case:
    model = planted(name)
    return Case(model, task_of(model), ground_truth(name))


def _left(case: Case, *edits: Edit) -> float:
    """Share of the clean logit difference that is left on the clean side under edits applied together."""
    swept = sweep(case.model, case.pairs.clean, [list(edits)], logit_difference(case.pairs))
    return float(swept.values[0, 0].mean() / swept.baseline[0].mean())


def _head(name: str, source: Mean | Zero | Resample | Copy) -> Edit:
    layer, number = map(int, name[1:].split("H"))
    return Edit("z", layer, source, head=number)


def decoy() -> Experiment:
    """A probe reads what nothing uses."""
    case = _case("boolean-decoy")
    assert case.truth.decoy_site is not None
    site, layer, position = case.truth.decoy_site
    shifted = replace(case.truth, site=(site, layer, position), positions=frozenset({position}))
    probed = probe_positions(Case(case.model, case.task, shifted), above_tokens=False).scores[position]
    swapped = interchange(case.model, case.task, "newB", "newD", sites=site, positions=[position]).to_frame()
    accuracy = float(swapped.loc[swapped["layer"] == layer, "accuracy"].iloc[0])
    return Experiment(
        f"A probe finds newB at {position} in layer {layer} of boolean-decoy, where a head brings it and nothing reads"
        " it: swapping all that stands there answers nothing.",
        (("probe, balanced accuracy", probed), ("interchange accuracy", accuracy)),
        probed > 0.95 and accuracy < 0.05,
    )


def backup() -> Experiment:
    """Removing one of two heads that can do the work shows little."""
    case = _case("boolean-backup")
    (spare,) = case.truth.backup
    primary = next(node for node in case.truth.nodes if "H" in node)
    alone = _left(case, _head(primary, Zero()))
    spare_alone = _left(case, _head(spare, Zero()))
    both = _left(case, _head(primary, Zero()), _head(spare, Zero()))
    swapped = 1 - _left(case, _head(primary, Copy(case.pairs.corrupt)))
    return Experiment(
        f"Zero ablation of {primary} in boolean-backup is compensated by {spare}, which rests while {primary} works;"
        f" both together break newD. Patching is not misled: the corrupt value of {primary} leaves {spare} at rest.",
        (
            (f"left without {primary}", alone),
            (f"left without {spare}", spare_alone),
            ("left without both", both),
            (f"share moved by the corrupt {primary} (2: all the way)", swapped),
        ),
        alone > 0.9 and spare_alone > 0.9 and both < 0.5 and swapped > 1.5,
    )


def zero() -> Experiment:
    """Zero lies outside of what the model ever computes."""
    case = _case("boolean-via-token")
    constant = "L1H0"
    sources = {"zero": Zero(), "mean": Mean(), "resample": Resample(), "corrupt": Copy(case.pairs.corrupt)}
    left = {name: _left(case, _head(constant, source)) for name, source in sources.items()}
    return Experiment(
        f"{constant} of boolean-via-token brings A, which is 0 in all of these pairs: it says nothing of newB. Zero is"
        " neither of A's two codes, so zero ablation breaks newD and ranks it beside the true nodes; values that the"
        " model has leave it as it was.",
        tuple((f"left, {name}", value) for name, value in left.items()),
        left["zero"] < 0.5 and min(left["mean"], left["resample"], left["corrupt"]) > 0.95,
    )


def mean() -> Experiment:
    """A mean of inputs that differ is an input that never occurs."""
    case = _case("boolean-lookup")
    others = [node for node in case.nodes if node.startswith("L1H") and node not in case.truth.nodes]
    means = [_left(case, _head(node, Mean())) for node in others]
    copies = [_left(case, _head(node, Copy(case.pairs.corrupt))) for node in others]
    return Experiment(
        "boolean-lookup remembers whole prompts. Its other heads bring bits that do not differ within a pair, but do"
        " between pairs: the mean over pairs is half a bit, which no memory answers to, so mean ablation ranks them"
        " beside the head that brings D.",
        (("left, mean, lowest of the other heads", min(means)), ("left, corrupt, lowest of them", min(copies))),
        min(means) < 0.5 and min(copies) > 0.95,
    )


def lens() -> Experiment:
    """The lens sees what the unembedding reads, which an inner variable need not be written in."""
    case = _case("boolean-via-token")
    metric, (site, layer, position) = logit_difference(case.pairs), case.truth.site
    seen = {}
    for name in (position, "newB?"):
        sides = [
            logit_lens(case.model, side, "newD", positions=[name], metric=metric).mean[layer, 0]
            for side in (case.pairs.clean, case.pairs.corrupt)
        ]
        seen[name] = float(abs(sides[0] - sides[1]))
    moved = patch(case.model, case.pairs, sites=site, positions=[position, "newB?"]).to_frame()
    moved = moved[moved["layer"] == layer]
    recovered = {name: float(value) for name, value in zip(moved["position"], moved["recovered"], strict=True)}
    return Experiment(
        f"The logit lens shows nothing at {position} of boolean-via-token, from where newD takes newB, and much at"
        " newB?, where newB itself is about to be written with the same two tokens, and which newD never reads.",
        (
            (f"lens, logits at {position}", seen[position]),
            ("lens, logits at newB?", seen["newB?"]),
            (f"recovered by patching {position}", recovered[position]),
            ("recovered by patching newB?", recovered["newB?"]),
        ),
        seen["newB?"] > 1 > seen[position] and recovered[position] > 0.95 and abs(recovered["newB?"]) < 0.05,
    )


def pattern() -> Experiment:
    """A variable that only an attention pattern holds stands at no site."""
    case = _case("induction")
    site, layer, position = case.truth.site
    fitted = das(
        case.model, case.task, case.truth.variable, case.truth.target, site=site, layer=layer, position=position,
        k=8, seeds=(0,), limit=128, controls=("placebo", "row space"),
    )  # fmt: skip
    learnt, whole = float(fitted.mean[0]), float(fitted.full[0].mean())
    moved = patch(case.model, case.pairs, sites=site, positions=[position]).to_frame()
    within = float(moved.loc[moved["layer"] == layer, "recovered"].iloc[0])
    return Experiment(
        f"induction holds {case.truth.variable}, the place of the key, in an attention pattern; what stands at"
        f" {position} behind it is the letter found there. Copied between texts of the same letters it is"
        " right, between any two texts it brings the wrong letter, and then no subspace of it can act as the variable.",
        (
            ("recovered by patching, same letters", within),
            ("interchange accuracy, any letters", whole),
            ("DAS, k = 8, held-out accuracy", learnt),
            ("a placebo of it", float(fitted.placebo.mean())),
            ("its component that is read", float(fitted.read.mean())),
        ),
        within > 0.95 and whole < 0.5 and learnt < 0.5,
    )


def tokens() -> Experiment:
    """A variable that is linear in visible tokens is never readable above them."""
    case = _case("boolean-latent")
    plain = probe_positions(case, above_tokens=False).scores["newB?"]
    above = probe_positions(case, above_tokens=True).scores["newB?"]
    return Experiment(
        "newB is one visible bit turned round, so a probe of the tokens reads it as well: the control takes all credit"
        " from the probe, in boolean-latent, which computes newB, as in boolean-direct, which does not. A control that"
        " is this strict cannot tell them apart; interventions do.",
        (("probe at newB?", plain), ("the same above visible tokens", above)),
        plain > 0.95 and abs(above) < 0.05,
    )


def trained() -> Experiment:
    """Networks that were trained, and answer alike, compute in two ways."""
    figures, holds = [], True
    site, layer, latent = ground_truth("boolean-latent").site
    token = ground_truth("boolean-via-token").site[2]
    probes, accuracy = {}, {}
    for twin, (name, _) in TWINS.items():
        model = load(f"twin:{twin}")
        case = Case(model, task_of(model), ground_truth(name))
        probes.setdefault(name, []).append(probe_positions(case, above_tokens=False).scores[latent])
        swapped = interchange(model, case.task, "newB", "newD", sites=site, positions=[latent, token]).to_frame()
        swapped = swapped[swapped["layer"] == layer]
        for position, found in zip(swapped["position"], swapped["accuracy"], strict=True):
            accuracy.setdefault((name, position), []).append(float(found))
    for name, values in probes.items():
        figures.append((f"probe at {latent}, lowest of {len(values)} twins of {name}", min(values)))
        holds &= min(values) > 0.95
    for (name, position), values in accuracy.items():
        right = (position == latent) == (name == "boolean-latent")
        figures.append(
            (f"interchange at {position}, {'lowest' if right else 'highest'} of {len(values)} twins of {name}",
             min(values) if right else max(values))
        )  # fmt: skip
        holds &= min(values) > 0.95 if right else max(values) < 0.05
    return Experiment(
        f"Trained from random weights to compute as boolean-latent or as boolean-via-token does, six networks"
        f" answer alike, and a probe reads newB at {latent} in all of them. Interchange tells the two kinds apart: newD"
        f" follows what stands at {latent} in the one, at the token {token} in the other.",
        tuple(figures),
        holds,
    )


def illusion() -> Experiment:
    """A direction that is searched for can be found where the whole does nothing."""
    site, layer, latent = ground_truth("boolean-latent").site
    found: dict[str, list[DASResult]] = {}
    for twin, (name, _) in TWINS.items():
        model = load(f"twin:{twin}")
        result = das(
            model, task_of(model), "newB", "newD", site=site, layer=layer, position=latent, seeds=(0, 1), steps=STEPS,
            limit=FITTED, controls=("placebo", "row space"),
        )  # fmt: skip
        found.setdefault(name, []).append(result)
    true, false = found["boolean-latent"], found["boolean-via-token"]
    lowest, highest = min(float(one.mean[0]) for one in true), max(float(one.mean[0]) for one in false)
    whole = [[float(one.full.mean()) for one in side] for side in (true, false)]
    invented = [one for one in false if one.gain()[0] > GAIN]
    alone = max((float(one.read.mean()) for one in invented), default=0.0)
    return Experiment(
        f"In trained networks DAS can miss and invent. Of three that compute newB at {latent}, one direction does not"
        f" carry it in all, though all that stands there does; where nothing reads {latent}, a direction is found that"
        " moves newD on held-out pairs, though all that stands there moves nothing. Its component that is read"
        " downstream moves nothing either: what separates the values of newB and what acts are two components (Makelov"
        " et al. 2023). Read a score beside this control, and beside the whole activation.",
        (
            ("DAS, k = 1, lowest of 3 twins of boolean-latent", lowest),
            ("the whole activation, lowest of them", min(whole[0])),
            ("the component that is read, lowest of them", min(float(one.read.mean()) for one in true)),
            ("a placebo, highest of them", max(float(one.placebo.mean()) for one in true)),
            ("DAS, k = 1, highest of 3 twins of boolean-via-token", highest),
            ("the whole activation, highest of them", max(whole[1])),
            ("the component that is read, highest of those where DAS finds something", alone),
            ("a placebo, highest of them", max(float(one.placebo.mean()) for one in false)),
        ),
        lowest < 0.8 < min(whole[0])
        and highest > 0.2 > max(whole[1])
        and alone < 0.05
        and all(one.off_path.all() for one in invented)
        and not any(one.off_path.any() for one in true),
    )


def beside() -> Experiment:
    """A variable that is used up can be found beside the answer that was made of it."""
    case = _case("boolean-direct")
    found = das(
        case.model, case.task, "E", "newC", layer=0, position="newC?", seeds=(0,), steps=STEPS, limit=FITTED,
        controls=("placebo", "row space"),
    )  # fmt: skip
    figures = {
        "DAS, k = 1, held-out accuracy": found.held_out,
        "controls kept": found.kept,
        "the whole activation, controls kept": found.full_kept,
        "the component that is read, controls kept": found.read_kept,
        "the component that is not read": found.unread,
        "a placebo": found.placebo,
    }
    return Experiment(
        "Layer 0 of boolean-direct brings E to newC?, makes newC of it there, and never looks at it again. Behind that"
        " layer DAS still finds E, perfectly: a direction halfway between what is left of E, which nothing reads, and"
        " the answer, in which E is not told from B. Its component that is read carries the whole answer, controls and"
        " all; the other moves nothing.",
        tuple((name, float(value.mean())) for name, value in figures.items()),
        bool(found.off_path.all() and found.held_out.mean() > 0.95 and found.read_kept.mean() < 0.05),
    )


EXPERIMENTS: tuple[Callable[[], Experiment], ...] = (
    decoy,
    tokens,
    trained,
    illusion,
    beside,
    backup,
    zero,
    mean,
    lens,
    pattern,
)
