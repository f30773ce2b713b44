"""Data sets: graph-disjoint splits, the same bytes from any number of workers and shards, and errors before work."""

import itertools
import json
from pathlib import Path

import networkx
import numpy as np
import pyarrow.parquet as pq
import pytest

from interp_kit.cli import main
from interp_kit.tasks.graphs import default_dag, discrete_model, erdos_renyi_dag, query
from interp_kit.tasks.graphs.data.classes import count_classes, fingerprint, isomorphic, share
from interp_kit.tasks.graphs.data.config import SPLITS, GraphsConfig, read_config
from interp_kit.tasks.graphs.data.files import generate, merge
from interp_kit.tasks.graphs.data.rows import draw_graph, graph_rows, schema
from interp_kit.tasks.graphs.questions.verifier import score
from interp_kit.tasks.graphs.shapes import classes

SMALL = GraphsConfig(graphs=(6, 3, 3), questions=(8, 6, 4))


def relabelled(parents: list[tuple[int, ...]], rng: np.random.Generator) -> list[list[int]]:
    name = rng.permutation(len(parents)).tolist()
    found: list[list[int]] = [[] for _ in parents]
    for v, of in enumerate(parents):
        found[name[v]] = [name[p] for p in rng.permutation(of).astype(int).tolist()]
    return found


def test_fingerprints_are_those_of_isomorphism_classes() -> None:
    """The same for renamed graphs, and different for each of the 146 classes that five variables have."""
    rng = np.random.default_rng(0)
    drawn = [default_dag(5, rng) if i % 2 else erdos_renyi_dag(6, 0.4, rng) for i in range(60)]
    for parents in drawn:
        other = relabelled(parents, rng)
        assert fingerprint(parents) == fingerprint(other)
        assert isomorphic(parents, other)
    every = [[[int(p) for p in of if p >= 0] for of in parents] for parents in classes().parents]
    assert len({fingerprint(parents) for parents in every}) == len(every) == 146
    assert count_classes((fingerprint(parents), parents) for parents in every * 2) == 146


def test_graphs_that_refinement_cannot_tell_apart_are_counted_apart_and_split_together() -> None:
    """A directed 6-cycle's sources and sinks against two of 3: bipartite, all of degree 2."""
    one = [(), (), (), (0, 1), (1, 2), (2, 0)]
    hexagon = [*one, *[tuple(v + 6 for v in of) for of in one]]
    long = [*[()] * 6, *[(i, (i + 1) % 6) for i in range(6)]]
    short = [hexagon[v] for v in (0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11)]
    place = {old: new for new, old in enumerate((0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11))}
    short = [tuple(place[p] for p in of) for of in short]
    assert fingerprint(long) == fingerprint(short)
    assert not isomorphic(long, short)
    assert count_classes([(fingerprint(g), g) for g in (long, short, long)]) == 2
    assert share(fingerprint(long), 3) == share(fingerprint(short), 3)


def graphs_of(folder: Path, split: str) -> list[networkx.DiGraph]:
    table = pq.read_table(folder / f"{split}.parquet").to_pandas().drop_duplicates("graph")
    found = []
    for edges in table["edges"]:
        graph = networkx.DiGraph(json.loads(edges))
        graph.add_nodes_from(f"v{i}" for i in range(5))
        found.append(graph)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    generate(SMALL, folder, jobs=1, progress=False)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    names = [*(f"{split}.parquet" for split in SPLITS), "manifest.json"]
    return {name: (folder / name).read_bytes() for name in names}


def test_no_two_graphs_of_different_splits_are_isomorphic(whole: Path) -> None:
    sets = {split: graphs_of(whole, split) for split in SPLITS}
    assert {split: len(found) for split, found in sets.items()} == {"train": 6, "val": 3, "test": 3}
    for a, b in itertools.combinations(SPLITS, 2):
        for left, right in itertools.product(sets[a], sets[b]):
            assert not networkx.is_isomorphic(left, right)
    manifest = json.loads((whole / "manifest.json").read_text())
    for split, found in sets.items():
        classes: list[networkx.DiGraph] = []
        for graph in found:
            if not any(networkx.is_isomorphic(graph, other) for other in classes):
                classes.append(graph)
        assert manifest["splits"][split]["classes"] == len(classes)
        table = pq.read_table(whole / f"{split}.parquet").to_pandas()
        assert manifest["splits"][split]["rows"] == len(table) == sum(manifest["splits"][split]["kinds"].values())
        assert manifest["splits"][split]["core"] == table["is_core"].sum()


def test_many_drawn_graphs_keep_to_their_split() -> None:
    rng, seen = np.random.default_rng(0), {}
    config = GraphsConfig(graphs=(1, 1, 1))
    for split in SPLITS * 25:
        parents, name = draw_graph(config, split, rng)
        assert seen.setdefault(name, split) == split
        assert all(p < v for v, of in enumerate(parents) for p in of)


def test_any_number_of_workers_and_shards_gives_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    generate(SMALL, tmp_path / "two", jobs=2, progress=False)
    for i in range(4):  # the last has no graph of val and test
        generate(SMALL, tmp_path / "shards", shard=(i, 4), jobs=1, progress=False)
    merge(SMALL, tmp_path / "shards", 4)
    assert contents(tmp_path / "two") == contents(tmp_path / "shards") == contents(whole)
    part = pq.read_table(tmp_path / "shards" / "train-00001-of-00004.parquet").to_pandas()
    assert set(part["graph"]) == {1, 5}


@pytest.mark.slow
def test_the_default_data_set_is_the_same_from_1_2_and_4_workers_and_from_5_shards(tmp_path: Path) -> None:
    config = GraphsConfig()
    for jobs in (1, 2, 4):
        generate(config, tmp_path / f"{jobs}", jobs=jobs, progress=False)
    for i in range(5):
        generate(config, tmp_path / "shards", shard=(i, 5), jobs=1, progress=False)
    merge(config, tmp_path / "shards", 5)
    for name in ("2", "4", "shards"):
        assert contents(tmp_path / name) == contents(tmp_path / "1")
    sets = {split: graphs_of(tmp_path / "1", split) for split in SPLITS}
    for a, b in itertools.combinations(SPLITS, 2):
        assert not any(networkx.is_isomorphic(*pair) for pair in itertools.product(sets[a], sets[b]))


def test_rows_hold_what_is_needed_to_answer_them_again(whole: Path) -> None:
    rows = pq.read_table(whole / "train.parquet").to_pylist()
    assert len({row["id"] for row in rows}) == len(rows) > 20
    assert [row["shuffle"] for row in rows] == sorted(row["shuffle"] for row in rows)
    assert len({row["graph"] for row in rows[:6]}) > 2  # shuffled
    for row in rows:
        tables = json.loads(row["tables"])
        model = discrete_model({k: (t["parents"], np.array(t["hundredths"]) / 100) for k, t in tables.items()})
        given, changed = json.loads(row["given"]), json.loads(row["set"])
        options = {"given": given, "counterfactual": changed, "mechanism": row["mechanism"]}
        options = options if row["level"] == "counterfactual" else {"given": given, "do": changed}
        answer = query(model, row["target"], **options)
        np.testing.assert_allclose(row["distribution"], answer.distribution, atol=1e-8)
        assert np.abs(np.array(row["hundredths"]) / 100 - answer.distribution).max() < 0.01
        assert score(f"ANSWER {row['answer']}", row["answer"]).score == 1
        assert row["ve_operations"] == answer.elimination.products + answer.elimination.sums
        assert row["prompt_generic"].split("\n\nThink")[0] == row["prompt_answer_only"].split("\n\nReply")[0]


@pytest.mark.parametrize("reference", ["argmax", "sample"])
def test_other_references_ask_for_a_value(reference: str) -> None:
    config = GraphsConfig(graphs=(1, 0, 0), questions=(12, 1, 1), reference=reference, prompts=("generic",))
    rows = graph_rows(config, "train", 0)
    for row in rows:
        value = int(row["answer"].strip("[]"))
        assert row["distribution"][value] > 0
        assert reference == "sample" or row["distribution"][value] == max(row["distribution"])
        assert "ANSWER [v]" in row["prompt_generic"]
    assert "prompt_specific" not in schema(config).names


BAD = [
    ("variabels: 5", "has no 'variabels'; it has name, variables"),
    ("variables: 1", "variables is 1; expected a whole number from 2 to 200"),
    ("variables: five", "field 'variables' is damaged: it is of type str"),
    ("graphs: [1, 2]", "graphs has 2 numbers; expected one for each of train, val, test"),
    ("graphs: [0, 0, 0]", "graphs is 0 in every split"),
    ("sampler: random", "sampler is 'random'; expected one of default, erdos-renyi"),
    ("edge: 1.5", "edge is 1.5"),
    ("cardinalities: [2000000]", "cardinalities is 2000000; expected a whole number from 2 to 1000"),
    ("cardinalities: [900]", "tables of 729,000,000 numbers; expected at most 100,000"),
    ("cardinalities: []", "cardinalities is empty"),
    ("levels: [causal]", "levels holds 'causal'"),
    ("mechanisms: [noise]", "mechanisms holds 'noise'"),
    ("observed: 5", "observed is 5; expected a whole number from 1 to 4"),
    ("include: [all]", "include holds 'all'"),
    ("prompts: []", "prompts is empty"),
    ("name: a b", "name is 'a b'; expected letters"),
    ("seed: -1", "seed is -1"),
    ("- 5", "holds a list; expected fields"),
    ("variables: [", "is not valid YAML"),
    ("variables: 2\ngraphs: [1, 1, 1]", "there are too few classes of graphs"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_bad_config_is_one_line_that_names_the_field(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(text)
    arguments = ["generate", "graphs", "--config", str(path), "--out", str(tmp_path / "data"), "--jobs", "1"]
    assert main([*arguments, "--no-progress"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "data").exists() or not list((tmp_path / "data").iterdir())


def test_the_command_writes_shards_and_merges_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out = tmp_path / "g.yaml", tmp_path / "data"
    config.write_text("graphs: [2, 0, 0]\nquestions: [6, 1, 1]\nlevels: [interventional]\nname: small")
    base = ["generate", "graphs", "--config", str(config), "--out", str(out), "--no-progress", "--jobs", "1"]
    for i in range(2):
        assert main([*base, "--shard", f"{i}/2"]) == 0
    assert main([*base[:-2], "--merge", "2"]) == 0
    assert capsys.readouterr().out.split()[-2:] == [str(out / "train.parquet"), str(out / "manifest.json")]
    rows = pq.read_table(out / "train.parquet").to_pylist()
    assert {row["level"] for row in rows} == {"interventional"}
    assert all(row["id"].startswith("small-train-") for row in rows)
    assert read_config(config).levels == ("interventional",)
    for wrong, message in (
        (["--merge", "2"], "it is there already"),
        (["--shard", "2/2"], "the shard is 2; expected a whole number from 0 to 1"),
        (["--shard", "half"], "expected i/n"),
        (["--shard", "0/2", "--merge", "2"], "cannot be given together"),
        (["--seed", "3"], "--seed cannot be given with the task graphs"),
    ):
        assert main([*base[:-2], *wrong]) == 1
        assert message in capsys.readouterr().err
    assert main(["generate", "--merge", "2", "--out", str(out)]) == 1
    assert "--merge cannot be given with the task boolean" in capsys.readouterr().err


def test_shards_that_are_missing_or_of_another_config_are_not_merged(tmp_path: Path) -> None:
    small = GraphsConfig(graphs=(2, 0, 0), questions=(4, 1, 1))
    generate(small, tmp_path, shard=(0, 2), jobs=1, progress=False)
    with pytest.raises(ValueError, match=r"train-00001-of-00002\.parquet is missing"):
        merge(small, tmp_path, 2)
    generate(
        GraphsConfig(graphs=(2, 0, 0), questions=(4, 1, 1), seed=1), tmp_path, shard=(1, 2), jobs=1, progress=False
    )
    with pytest.raises(ValueError, match="of another config"):
        merge(small, tmp_path, 2)
    (tmp_path / "train-00001-of-00002.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a parquet file, or damaged"):
        merge(small, tmp_path, 2)
    assert not (tmp_path / "train.parquet").exists()
