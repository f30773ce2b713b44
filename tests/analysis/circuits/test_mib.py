"""MIB's JSON of a circuit: names, round trip, and files that are none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformer_lens import HookedTransformer

import interp_kit as ik
from interp_kit.analysis.circuits.circuit import Circuit
from interp_kit.analysis.circuits.mib import mib_edge
from interp_kit.models.circuit import Edge

MakeModel = Callable[..., HookedTransformer]


@pytest.fixture(scope="module")
def latent() -> HookedTransformer:
    return ik.planted("boolean-latent")


@pytest.fixture(scope="module")
def scored(latent: HookedTransformer) -> Circuit:
    return ik.score_edges(latent, ik.task_of(latent).pairs("newB", "newD"), method="eap")


@pytest.fixture
def path(latent: HookedTransformer, scored: Circuit, tmp_path: Path) -> Path:
    return ik.write_mib(scored, tmp_path / "circuit.json", latent, kept=7)


def test_names_are_mibs() -> None:
    named = {
        Edge("embed", "L0H3", "q"): "input->a0.h3<q>", Edge("L0H11", "L10 MLP", "mlp"): "a0.h11->m10",
        Edge("L2 MLP", "logits", "logits"): "m2->logits", Edge("L0 MLP", "L1H0", "k"): "m0->a1.h0<k>",
    }  # fmt: skip
    assert {edge: mib_edge(edge) for edge in named} == named


def test_the_file_is_as_the_public_code_writes_it(path: Path, latent: HookedTransformer, scored: Circuit) -> None:
    data = json.loads(path.read_text())
    assert data["cfg"] == {"n_layers": 2, "n_heads": 4, "parallel_attn_mlp": False, "d_model": latent.cfg.d_model}
    assert list(data["nodes"])[:6] == ["input", "a0.h0", "a0.h1", "a0.h2", "a0.h3", "m0"]
    assert data["nodes"]["logits"] == {"in_graph": True}
    assert len(data["edges"]) == len(scored) == 110
    marked = {name for name, edge in data["edges"].items() if edge["in_graph"]}
    assert marked == {mib_edge(edge) for edge in scored.top(7).connected().edges}
    assert {name for name, node in data["nodes"].items() if node["in_graph"]} >= {"input", "a0.h0", "m0", "a1.h1", "m1"}


def test_a_circuit_comes_back(path: Path, latent: HookedTransformer, scored: Circuit, tmp_path: Path) -> None:
    found = ik.read_mib(path)
    assert dict(zip(found.edges, found.score, strict=True)) == dict(zip(scored.edges, scored.score, strict=True))
    assert found.nodes == scored.nodes
    assert set(ik.read_mib(path, in_graph=True).edges) == set(scored.top(7).connected().edges)
    pairs = ik.task_of(latent).pairs("newB", "newD")
    ours, theirs = (ik.faithfulness(latent, pairs, one, controls=0) for one in (scored, found))
    assert (ours.cpr, ours.cmd) == pytest.approx((theirs.cpr, theirs.cmd))
    assert "circuit.json" in found.caption()
    assert found.plot().get_title()
    found.save(tmp_path / "saved")
    np.testing.assert_array_equal(Circuit.load(tmp_path / "saved").score, found.score)
    part = ik.read_mib(ik.write_mib(scored.top(3), tmp_path / "part.json", latent))
    assert len(part) == 110  # MIB's files have all edges
    assert np.count_nonzero(part.score) == 3


def test_parallel_models_have_their_own_edges(tiny_model: MakeModel, tmp_path: Path) -> None:
    model = tiny_model(3, parallel_attn_mlp=True, n_layers=3)
    scored = ik.score_edges(model, ik.task("boolean").pairs("newB", "newD").take([0, 1]), method="eap")
    assert set(ik.read_mib(ik.write_mib(scored, tmp_path / "a.json", model)).edges) == set(scored.edges)


def changed(data: Any, at: tuple[str, ...], value: Any) -> Any:
    here = data
    for name in at[:-1]:
        here = here[name]
    if value is None:
        del here[at[-1]]
    else:
        here[at[-1]] = value
    return data


BAD: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "no nodes": (("nodes",), None, "needs cfg, nodes and edges"),
    "a list": (("edges",), [1], "edges is not a mapping"),
    "a huge model": (("cfg", "n_layers"), 900, "has 12 nodes, and the model of its cfg 4,502"),
    "a size too large": (("cfg", "n_heads"), 10**9, "n_heads of .* is 1000000000"),
    "a size that is no number": (("cfg", "n_heads"), "4", "'n_heads' is damaged"),
    "a size that is missing": (("cfg", "d_model"), None, "cfg lacks d_model"),
    "another layout": (("cfg", "parallel_attn_mlp"), True, "has 110 edges, and the model of its cfg 102"),
    "a node too many": (("nodes", "a9.h9"), {"in_graph": True}, "has 13 nodes"),
    "a node without mark": (("nodes", "m0"), {}, "node m0 does not say"),
    "an edge too few": (("edges", "m0->m1"), None, "has 109 edges"),
    "a score that is text": (("edges", "m0->m1", "score"), "1", "'score' is damaged"),
    "a mark that is a number": (("edges", "m0->m1", "in_graph"), 1, "'in_graph' is damaged"),
    "a score beyond floats": (("edges", "m0->m1", "score"), 10**400, "larger than 1e"),
    "no score": (("edges", "m0->m1", "score"), None, "lacks score or in_graph"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_circuit_is_refused(name: str, path: Path) -> None:
    at, value, message = BAD[name]
    path.write_text(json.dumps(changed(json.loads(path.read_text()), at, value)))
    with pytest.raises(ValueError, match=message):
        ik.read_mib(path)


def test_other_damage_is_refused_too(path: Path) -> None:
    text = path.read_text()
    for damaged, message in (
        (text.replace('"m0->m1"', '"m1->m0"'), "has no edge 'm1->m0'"),
        (text.replace('"a0.h1": {', '"a0.h7": {'), "has no node 'a0.h7'"),
        (text[:-40], "is not valid JSON"),
        (text.replace('"score": ', '"score": NaN, "x": ', 1), "is not valid JSON"),
        (text.replace('"score": ', '"score": 1e999, "x": ', 1), "is not valid JSON"),
        ("[]", "is not a circuit of MIB"),
    ):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=message):
            ik.read_mib(path)
    data = json.loads(text)
    for edge in data["edges"].values():
        edge["score"] = 0
    data["nodes"]["m0"]["score"] = 2.5
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="scores nodes, and no edge"):
        ik.read_mib(path)


@pytest.mark.usefixtures("unchecked")
def test_what_a_file_cannot_hold_is_refused(latent: HookedTransformer, scored: Circuit, tmp_path: Path) -> None:
    pairs = ik.task_of(latent).pairs("newB", "newD")
    by_position = ik.score_edges(latent, pairs, method="eap", by="position")
    with pytest.raises(ValueError, match="know no positions"):
        ik.write_mib(by_position, tmp_path / "a.json", latent)
    with pytest.raises(ValueError, match="a circuit of boolean-latent@0, with 12 nodes, for boolean-gpt2"):
        ik.write_mib(scored, tmp_path / "a.json", ik.load("boolean-gpt2"))
    with pytest.raises(ValueError, match="kept is 111"):
        ik.write_mib(scored, tmp_path / "a.json", latent, kept=111)
    assert not list(tmp_path.iterdir())
