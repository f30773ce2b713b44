"""The methods that are audited, each as one function from a planted circuit to scores: adding one is one line.

A method scores nodes, edges or positions, the larger the more it says that they carry the variable to the answer. It is
given what its user would give it: the model, the task, the question and its minimal pairs, and no ground truth but the
site at which positions are compared.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import rankdata
from torch import Tensor

from interp_kit.analysis.causal.ablation import Kind, ablate
from interp_kit.analysis.causal.das import das
from interp_kit.analysis.causal.das_controls import PLACEBOS, STANDS
from interp_kit.analysis.causal.interchange import interchange
from interp_kit.analysis.causal.patching import patch
from interp_kit.analysis.circuits.acdc import acdc
from interp_kit.analysis.circuits.direct_attribution import direct_logit_attribution, logit_lens
from interp_kit.analysis.circuits.edge_gradients import Method as EdgeMethod
from interp_kit.analysis.circuits.edge_scores import score_edges
from interp_kit.analysis.circuits.node_scores import NodeMethod, score_nodes
from interp_kit.analysis.dictionaries.alignment.detectors import Candidates, choose
from interp_kit.analysis.probing.held_out import ProbeOptions, Scorer
from interp_kit.analysis.probing.linear import rotate
from interp_kit.core.stats.detection import ranked
from interp_kit.engine.edits import Add, Direction, Edit, Mean, Zero
from interp_kit.engine.metrics import logit_difference
from interp_kit.engine.sweep import sweep
from interp_kit.models.circuit import EMBED
from interp_kit.studies.audit.case import Case, Found, Method

STEPS, FITTED = 40, 64  # of DAS: steps, and pairs and controls that it is fitted on
PROBE = ProbeOptions(folds=8, repeats=2, c=1.0, alpha=1.0, seed=0)
THRESHOLD = 0.01  # nats, of ACDC
IG_STEPS = 32  # of integrated gradients of activations, for each component
LATENTS = 2  # of a sparse autoencoder that are patched: one that goes, one that comes


def _named(frame: Any, value: str) -> dict[str, float]:
    """Node -> value, from a table with columns site, layer and head."""
    rows = zip(frame["site"], frame["layer"], frame["head"], frame[value], strict=True)
    return {f"L{la} MLP" if site == "mlp_out" else f"L{la}H{he}": float(v) for site, la, he, v in rows}


def _patch_nodes(case: Case, direction: Direction) -> Found:
    found = patch(case.model, case.pairs, sites=case.sites, by="all", direction=direction).to_frame()
    return Found({node: abs(v) for node, v in _named(found, "recovered").items()}, len(found) + 2)


def _ablate_nodes(case: Case, kind: Kind) -> Found:
    units = ("head", "mlp") if "mlp_out" in case.sites else ("head",)
    found = ablate(case.model, case.pairs.clean, kind=kind, units=units, fields=[case.truth.target])
    effect = np.abs(found.effect[:, 0].mean(-1))
    draws = 8 if kind == "resample" else 1
    return Found(dict(zip(found.component, effect.tolist(), strict=True)), len(effect) * draws + 1)


def _interchange_nodes(case: Case) -> Found:
    found = interchange(case.model, case.task, case.truth.variable, case.truth.target, sites=case.sites, by="all")
    return Found(_named(found.to_frame(), "accuracy"), len(found.accuracy) + 2)


def _attribute_nodes(case: Case, method: EdgeMethod) -> Found:
    found = score_edges(case.model, case.pairs, method=method)
    scores = {node: abs(score) for node, score in found.node_scores().items() if node != EMBED}
    return Found(scores, found.config["forwards"])


def _attributed_nodes(case: Case, method: NodeMethod) -> Found:
    """A head is worth the most of its output, queries, keys and values."""
    found, scores = score_nodes(case.model, case.pairs, method=method), dict.fromkeys(case.nodes, 0.0)
    for name, score in zip(found.node, found.score.tolist(), strict=True):
        node = name.partition(".")[0]
        if node != EMBED:
            scores[node] = max(scores[node], score)
    return Found(scores, found.config["forwards"])


def _direct(case: Case) -> Found:
    found = direct_logit_attribution(case.model, case.pairs)
    return Found({n: abs(float(v)) for n, v in zip(found.component, found.mean, strict=True) if n in case.nodes}, 1)


def _probe(case: Case, vectors: np.ndarray, *, above_tokens: bool) -> np.ndarray:
    """(cell, position) held-out balanced accuracy of the variable, 0 where it is not determined; or what of it a probe
    of the visible tokens does not have. vectors: (cell, example, position, d)."""
    batch, label = case.everything, case.truth.variable
    values, found = batch.label(label).cpu().numpy(), np.zeros((len(vectors), len(case.positions)))
    for k, name in enumerate(case.positions):
        end = int(batch.position(name)[0]) + 1
        prefixes, rows, group = np.unique(
            batch.tokens[:, :end].cpu().numpy(), axis=0, return_index=True, return_inverse=True
        )
        determined = all(len(set(values[group.ravel() == g])) == 1 for g in range(len(rows)))
        counts = np.unique(values[rows], return_counts=True)[1]
        if not determined or len(counts) < 2 or counts.min() < 2:
            continue
        score = Scorer(values[rows], False, PROBE, (label, name))
        found[:, k] = score([rotate(cell[rows, k]) for cell in vectors])
        if above_tokens:
            seen = np.eye(len(batch.vocabulary))[prefixes].reshape(len(rows), -1)
            found[:, k] -= score([rotate(seen)])[0]
    return found


def _probe_nodes(case: Case, *, above_tokens: bool) -> Found:
    batch = case.everything
    at = np.stack([batch.position(name).cpu().numpy() for name in case.positions], 1)
    outputs = case.graph.outputs(batch.tokens).double().cpu().numpy()
    vectors = np.stack([outputs[case.graph.senders.index(n)][np.arange(len(batch))[:, None], at] for n in case.nodes])
    best = _probe(case, vectors, above_tokens=above_tokens).max(1)
    return Found(dict(zip(case.nodes, best.tolist(), strict=True)), 1)


def _edges(case: Case, method: EdgeMethod, direction: Direction = "noise", steps: int | None = None) -> Found:
    found = score_edges(case.model, case.pairs, method=method, direction=direction, steps=steps)
    scores = dict(zip(found.edges, np.abs(found.score).tolist(), strict=True))
    return Found(scores, found.config["forwards"])


def _acdc(case: Case) -> Found:
    scores = dict.fromkeys(case.graph.edges, 0.0)
    try:
        found = acdc(case.model, case.pairs, threshold=THRESHOLD)
    except ValueError:  # nothing is left: every edge is rejected
        return Found(scores, len(scores))
    return Found(scores | dict(zip(found.edges, np.abs(found.score).tolist(), strict=True)), found.config["forwards"])


def _patch_positions(case: Case, direction: Direction) -> Found:
    site, layer, _ = case.truth.site
    found = patch(case.model, case.pairs, sites=site, positions=case.positions, direction=direction).to_frame()
    found = found[found["layer"] == layer]
    return Found({p: abs(float(v)) for p, v in zip(found["position"], found["recovered"], strict=True)}, len(found) + 2)


def _ablate_positions(case: Case, source: Mean | Zero) -> Found:
    site, layer, _ = case.truth.site
    edits = [Edit(site, layer, source, position=name) for name in case.positions]
    swept = sweep(case.model, case.pairs.clean, edits, logit_difference(case.pairs))
    effect = np.abs((swept.baseline[0] - swept.values[:, 0]).mean(1))
    return Found(dict(zip(case.positions, effect.tolist(), strict=True)), len(edits) + 1)


def _interchange_positions(case: Case) -> Found:
    site, layer, _ = case.truth.site
    found = interchange(
        case.model, case.task, case.truth.variable, case.truth.target, sites=site, positions=case.positions
    ).to_frame()
    found = found[found["layer"] == layer]
    return Found(dict(zip(found["position"], found["accuracy"], strict=True)), len(found) + 2)


def _das_positions(case: Case, *, judged: bool) -> Found:
    """Each position's held-out accuracy; or, judged, its gain, and 0 where its own controls leave nothing of it. Of
    these the two that are not fitted: what the untrained network gives, the audit asks of every method."""
    site, layer, _ = case.truth.site
    found = das(
        case.model, case.task, case.truth.variable, case.truth.target, site=site, layer=layer, position=case.positions,
        seeds=(0,), steps=STEPS, limit=FITTED, controls=("placebo", "row space") if judged else False,
    )  # fmt: skip
    scores, runs = found.mean, STEPS * 3
    if judged:
        scores, runs = np.where(np.array(found.verdict) == STANDS, found.gain(), 0.0), runs + PLACEBOS + 2 + 3 * 6
    return Found(dict(zip(found.position, scores.tolist(), strict=True)), runs * len(case.positions))


def probe_positions(case: Case, *, above_tokens: bool) -> Found:
    """Each position's probe of the variable, by held-out balanced accuracy."""
    vectors = case.site_vectors(case.everything).double().cpu().numpy()
    found = _probe(case, vectors[None], above_tokens=above_tokens)
    return Found(dict(zip(case.positions, found[0].tolist(), strict=True)), 1)


def _latent_read(case: Case) -> Found:
    """Each position's best latent as a detector of the variable, chosen on half of the examples, tested on the others:
    distance of its AUROC from chance."""
    values, wanted = np.unique(case.everything.label(case.truth.variable).cpu().numpy(), return_inverse=True)
    codes = case.sae.encode(case.site_vectors(case.everything)).detach().cpu().numpy()
    half, found = np.random.default_rng(0).permutation(len(wanted)) % 2 == 0, []
    for k in range(len(case.positions)):
        chosen = np.abs(_separation(codes[half, k], wanted[half], len(values))).argmax()
        tested = _separation(codes[~half, k], wanted[~half], len(values))
        found.append(abs(float(tested.flat[chosen])))
    return Found(dict(zip(case.positions, found, strict=True)), 1)


def _separation(codes: np.ndarray, wanted: np.ndarray, values: int) -> np.ndarray:
    """(latent, value) by how much more often than not an example of a value has a larger code than one of another:
    2 AUROC - 1; 0 for a value that none has, or all have."""
    ranks, found = rankdata(codes, axis=0), np.zeros((codes.shape[1], values))
    for value in range(values):
        of = wanted == value
        if of.any() and not of.all():
            found[:, value] = 2 * (ranks[of].mean(0) - (of.sum() + 1) / 2) / (~of).sum() - 1
    return found


def _latents_patched(case: Case) -> Found:
    """Each position's LATENTS latents that differ most within pairs, given the values of the other side: share of the
    logit difference that moves."""
    change, written = _changed_latents(case), case.sae.W_dec.detach()
    by = [(change[:, k].abs().mean(0) * written.norm(dim=1)).topk(LATENTS).indices for k in range(len(case.positions))]
    return _latents_given(case, change, by)


def _features_exchanged(case: Case) -> Found:
    """Each position's features of the variable, one per value, chosen among all examples as `align_features` does,
    given the values of the other side: share of the logit difference that moves."""
    values = case.everything.label(case.truth.variable).cpu().numpy()
    labels = np.stack([values == value for value in np.unique(values)])
    codes = case.sae.encode(case.site_vectors(case.everything)).detach().double().cpu().numpy()
    size, every = case.sae.W_dec.detach().double().norm(dim=1).cpu().numpy(), np.ones(len(values), dtype=bool)
    by = []
    for k in range(len(case.positions)):
        found = choose(Candidates(codes[:, k], size), every, ranked(codes[:, k]), labels, firing=True)[0]
        by.append(torch.from_numpy(np.unique(found)))
    return _latents_given(case, _changed_latents(case), by)


def _changed_latents(case: Case) -> Float[Tensor, "pair position latent"]:
    """Surplus of each latent in the corrupt run over the clean one."""
    sides = (case.site_vectors(side) for side in (case.pairs.clean, case.pairs.corrupt))
    clean, corrupt = (case.sae.encode(side).detach() for side in sides)
    return corrupt - clean


def _latents_given(
    case: Case, change: Float[Tensor, "pair position latent"], by: Sequence[Int[Tensor, " chosen"]]
) -> Found:
    """Change of the logit difference where the latents chosen at a position change as much."""
    site, layer, _ = case.truth.site
    written = case.sae.W_dec.detach()
    edits = [
        Edit(site, layer, Add(change[:, k, chosen] @ written[chosen]), position=name)
        for k, (name, chosen) in enumerate(zip(case.positions, by, strict=True))
    ]
    swept = sweep(case.model, case.pairs.clean, edits, logit_difference(case.pairs))
    effect = np.abs((swept.baseline[0] - swept.values[:, 0]).mean(1))
    return Found(dict(zip(case.positions, effect.tolist(), strict=True)), len(edits) + 3)


def _lens_positions(case: Case) -> Found:
    site, layer, _ = case.truth.site
    row = layer if site == "resid_pre" else layer + 1
    metric = logit_difference(case.pairs)
    clean, corrupt = (
        logit_lens(case.model, side, case.truth.target, positions=case.positions, metric=metric).mean[row]
        for side in (case.pairs.clean, case.pairs.corrupt)
    )
    return Found(dict(zip(case.positions, np.abs(clean - corrupt).tolist(), strict=True)), 2)


METHODS = (
    Method("patching, denoise", "nodes", partial(_patch_nodes, direction="denoise")),
    Method("patching, noise", "nodes", partial(_patch_nodes, direction="noise")),
    Method("interchange", "nodes", _interchange_nodes),
    Method("attribution patching", "nodes", partial(_attribute_nodes, method="eap")),
    Method("integrated gradients", "nodes", partial(_attribute_nodes, method="eap-ig")),
    Method("AtP, QK fix", "nodes", partial(_attributed_nodes, method="atp-qk")),
    Method("AtP*", "nodes", partial(_attributed_nodes, method="atp*")),
    Method("ablation, mean", "nodes", partial(_ablate_nodes, kind="mean")),
    Method("ablation, resample", "nodes", partial(_ablate_nodes, kind="resample")),
    Method("ablation, zero", "nodes", partial(_ablate_nodes, kind="zero")),
    Method("direct logit attribution", "nodes", _direct),
    Method("probe", "nodes", partial(_probe_nodes, above_tokens=False)),
    Method("probe, above visible tokens", "nodes", partial(_probe_nodes, above_tokens=True)),
    Method("path patching, noise", "edges", partial(_edges, method="exact"), defines_edges=True),
    Method("path patching, denoise", "edges", partial(_edges, method="exact", direction="denoise")),
    Method("EAP", "edges", partial(_edges, method="eap")),
    Method("EAP-IG", "edges", partial(_edges, method="eap-ig")),
    Method("EAP-IG, activations", "edges", partial(_edges, method="eap-ig-activations", steps=IG_STEPS)),
    Method("ACDC", "edges", _acdc),
    Method("patching, denoise", "positions", partial(_patch_positions, direction="denoise")),
    Method("patching, noise", "positions", partial(_patch_positions, direction="noise")),
    Method("interchange", "positions", _interchange_positions),
    Method("DAS, k = 1", "positions", partial(_das_positions, judged=False)),
    Method("DAS, k = 1, judged by controls", "positions", partial(_das_positions, judged=True)),
    Method("ablation, mean", "positions", partial(_ablate_positions, source=Mean())),
    Method("ablation, zero", "positions", partial(_ablate_positions, source=Zero())),
    Method("SAE latents, patched", "positions", _latents_patched),
    Method("SAE latent, read", "positions", _latent_read),
    Method("SAE feature, exchanged", "positions", _features_exchanged),
    Method("logit lens", "positions", _lens_positions),
    Method("probe", "positions", partial(probe_positions, above_tokens=False)),
    Method("probe, above visible tokens", "positions", partial(probe_positions, above_tokens=True)),
)
