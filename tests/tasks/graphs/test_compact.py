"""Compact graph questions: every label against brute force over the text alone, graphs against networkx."""

import itertools
from fractions import Fraction

import networkx as nx
import numpy as np
import pytest

from interp_kit.core.example import Example
from interp_kit.tasks.graphs import CompactGraphsTask, solve
from interp_kit.tasks.graphs.compact import QUERIES, queries
from interp_kit.tasks.graphs.forward import forward
from interp_kit.tasks.graphs.layout import PROMPT, TRACE
from interp_kit.tasks.graphs.shapes import SPLITS, class_of, classes, renamed, shapes
from interp_kit.tasks.graphs.structure import AXES, acyclic

TASK = CompactGraphsTask("trace")
NAMES = "abcde"


@pytest.fixture(scope="module")
def drawn() -> list[Example]:
    return TASK.sample(400, 5)


class Read:
    """A question read from its text, and answered by listing all 32 worlds."""

    def __init__(self, text: str) -> None:
        words = text.split(" ")
        self.parents, self.table = {}, {}
        for i, name in enumerate(NAMES):
            slot = words[7 * i : 7 * i + 7]
            assert slot[0] == name
            self.parents[name] = [w for w in slot[1:3] if w != "-"]
            rows = [Fraction(w) for w in slot[3:] if w != "-"]
            assert len(rows) == 2 ** len(self.parents[name])
            self.table[name] = rows
        kind, self.x, value, asked, self.y, equals = words[35:41]
        assert (asked, equals) == ("?", "=")
        self.do, self.value, self.rest = kind == "do", int(value), words[41:]
        self.graph = nx.DiGraph([(p, c) for c, ps in self.parents.items() for p in ps])
        self.graph.add_nodes_from(NAMES)

    def worlds(self, cut: bool) -> list[tuple[dict[str, int], Fraction]]:
        """Every world with its probability; under do(X = x) if `cut`."""
        found = []
        for bits in itertools.product((0, 1), repeat=5):
            world = dict(zip(NAMES, bits, strict=True))
            chance = Fraction(1)
            for name in NAMES:
                row = int("0" + "".join(str(world[p]) for p in self.parents[name]), 2)
                one = self.table[name][row]
                if cut and name == self.x:
                    one = Fraction(self.value)
                chance *= one if world[name] else 1 - one
            found.append((world, chance))
        return found

    def answer(self) -> Fraction:
        fits = [(w, p) for w, p in self.worlds(self.do) if w[self.x] == self.value]
        return sum((p for w, p in fits if w[self.y]), Fraction(0)) / sum(p for _, p in fits)

    def relevant(self) -> set[str]:
        graph = self.graph.copy()
        if self.do:
            graph.remove_edges_from(list(graph.in_edges(self.x)))
        targets = {self.y} if self.do else {self.x, self.y}
        found = targets.union(*(nx.ancestors(graph, t) for t in targets))
        return found - {self.x} if self.do else found


def test_answers_and_factors_equal_brute_force_on_the_text(drawn: list[Example]) -> None:
    kinds = set()
    for example in drawn:
        read, labels = Read(example.text), example.labels
        kinds.add((read.do, labels["depth"]))
        assert Fraction(labels["answer"], 32) == read.answer()
        assert Fraction(read.rest[-1]) == read.answer()
        assert Fraction(labels["prior"], 32) == sum(p for w, p in read.worlds(False) if w[read.y])
        relevant, done, everything = read.relevant(), set(), read.worlds(read.do)
        for step, axes in enumerate(AXES, 1):
            entries = [labels[f"s{step}.f{k}"] for k in range(2**axes)]
            live = [labels[f"s{step}.l{j + 1}"] for j in range(axes)]
            if labels[f"s{step}"] < 0:
                assert done == relevant
                assert {*entries, *live} == {-1}
                continue
            variable = NAMES[labels[f"s{step}"]]
            free = [v for v in sorted(relevant - done) if set(read.parents[v]) & relevant <= done]
            assert variable == free[0]
            done.add(variable)
            needed = {p for v in relevant - done for p in read.parents[v]} | {read.y}
            expected = sorted(done & needed - {read.x})
            assert [NAMES[v] for v in live if v >= 0] == expected
            seen = everything
            if not read.do and read.x in done:
                seen = [(w, p) for w, p in seen if w[read.x] == read.value]
            for k, bits in enumerate(itertools.product((0, 1), repeat=len(expected))):
                mass = sum(p for w, p in seen if tuple(w[v] for v in expected) == bits)
                assert Fraction(entries[k], 32) == mass
            assert set(entries[2 ** len(expected) :]) <= {-1}
    assert kinds == {(do, depth) for do in (True, False) for depth in range(4)}


def test_depth_connection_and_own_rows(drawn: list[Example]) -> None:
    for example in drawn:
        read, labels = Read(example.text), example.labels
        graph = read.graph.copy()
        if read.do:
            graph.remove_edges_from(list(graph.in_edges(read.x)))
        targets = [read.y] if read.do else [read.x, read.y]
        far = [
            min(nx.shortest_path_length(graph, v, t) for t in targets if nx.has_path(graph, v, t))
            for v in read.relevant()
        ]
        assert labels["depth"] == max(far)
        up = {v: nx.ancestors(graph, v) | {v} for v in (read.x, read.y)}
        assert labels["connected"] == (read.x in up[read.y] if read.do else bool(up[read.x] & up[read.y]))
        if not labels["connected"]:
            assert labels["answer"] == labels["prior"]
        rows = [
            p
            for bits, p in zip(
                itertools.product((0, 1), repeat=len(read.parents[read.y])), read.table[read.y], strict=True
            )
            if dict(zip(read.parents[read.y], bits, strict=True)).get(read.x, read.value) == read.value
        ]
        assert Fraction(labels["rows"], 32) == sum(rows) / len(rows)
        if read.do and labels["depth"] == 0:
            assert labels["rows"] == labels["answer"]


def test_every_token_has_its_name_and_label(drawn: list[Example]) -> None:
    for example in drawn:
        words = [*example.text.split(" "), "<end>"]
        assert [TASK.vocabulary[t] for t in example.tokens] == words
        assert list(example.positions) == [*PROMPT, *TRACE, "answer", "end"]
        assert example.prompt_length == 41
        assert set(example.labels) == set(TASK.variables)
        for field in TASK.fields:
            at = example.positions[field.name]
            assert example.positions[field.predict] == at - 1
            assert field.token(example.labels[field.name]) == example.tokens[at]
    direct = CompactGraphsTask("direct").sample(400, 5)
    assert [e.labels for e in direct] == [e.labels for e in drawn]
    assert {len(e.tokens) for e in direct} == {43}


def test_shapes_are_those_that_the_sampler_draws() -> None:
    """Frequencies of classes in a simulation, isomorphism by networkx, and splits that share no class."""
    rng, n = np.random.default_rng(0), 4000
    drawn = np.full((n, 5, 2), -1)
    for i in range(n):
        for node in range(int(rng.integers(1, 5)), 5):
            k = int(rng.integers(1, min(2, node) + 1))
            drawn[i, node, :k] = np.sort(rng.choice(node, k, replace=False))
    number = class_of(renamed(drawn, rng.permuted(np.tile(np.arange(5), (n, 1)), axis=1)))
    counts, expected = np.bincount(number, minlength=len(classes())), n * classes().weight
    assert len(classes()) == 146
    assert ((counts - expected) ** 2 / expected).sum() < 145 + 5 * (2 * 145) ** 0.5
    graphs = [nx.DiGraph([(int(p), v) for v in range(5) for p in row[v] if p >= 0]) for row in classes().parents]
    for a, b in itertools.combinations(graphs, 2):
        same = sorted(d for _, d in a.degree()) == sorted(d for _, d in b.degree())
        assert not (same and nx.is_isomorphic(a, b))
    every = shapes()
    assert acyclic(every.parents).all()
    assert len(np.unique(every.parents.reshape(len(every), -1), axis=0)) == len(every) == 13955
    np.testing.assert_allclose(np.bincount(every.isomorphic, every.weight), classes().weight)
    assert (class_of(every.parents[::7]) == every.isomorphic[::7]).all()
    assert (every.split == classes().split[every.isomorphic]).all()


def test_no_factor_has_more_variables_than_the_layout_holds() -> None:
    plan = queries(shapes().parents[shapes().of("val")])
    assert tuple((plan.live >= 0).sum(2).max(0)) == AXES
    for split in SPLITS:
        plan = queries(classes().parents[classes().of(split)])
        for kind in (0, 1):
            asked = np.tile(QUERIES[:, 0] == kind, len(plan.depth) // len(QUERIES))
            assert set(plan.depth[asked]) == {0, 1, 2, 3}


def test_splits_and_depths_are_kept() -> None:
    for split in SPLITS:
        task = CompactGraphsTask(split=split, depths=(1, 2))
        drawn = task.sample(60, 0)
        assert {e.labels["depth"] for e in drawn} == {1, 2}
        parents = np.concatenate([task.worlds(e.labels).parents for e in drawn])
        assert {SPLITS[s] for s in classes().split[class_of(parents)]} == {split}
        assert [e.tokens for e in drawn] == [e.tokens for e in task.sample(60, 0)]


@pytest.mark.parametrize("variable", ["kind", "x", "Y", "X", "b.t0", "b.pa1", "s2.f0", "depth", "answer"])
def test_pairs_are_counterfactuals_in_one_input(variable: str) -> None:
    task = CompactGraphsTask(split="train")
    pairs = task.pairs(variable, "answer", limit=30)
    assert len(pairs) == 30
    for row, differs in enumerate(pairs.differs):
        assert variable in differs
        assert "answer" in differs
        assert len(set(differs) & set(task.inputs)) == 1
        assert (pairs.clean.tokens[row] != pairs.corrupt.tokens[row]).sum() == 2  # that input, and the answer
    for side in (pairs.clean, pairs.corrupt):
        solution = solve(task.worlds({name: column.numpy() for name, column in side.labels.items()}))
        assert (solution.answer == side.label("answer").numpy()).all()
        parents = np.stack([task.worlds({k: int(v[i]) for k, v in side.labels.items()}).parents[0] for i in range(30)])
        assert (classes().split[class_of(parents)] == 0).all()


def test_forward_elimination_one_by_one(drawn: list[Example]) -> None:
    for example in drawn[:100]:
        worlds = TASK.worlds(example.labels)
        plan = solve(worlds).structure
        for step, factor in enumerate(forward(worlds, plan, {})):
            assert [e * 32 for e in factor] == [example.labels[f"s{step + 1}.f{k}"] for k in range(len(factor))]


def test_interventions_on_inputs_and_on_factors(drawn: list[Example]) -> None:
    for example in drawn[:40]:
        assert TASK.intervene(example, {}) == example.labels
        last = max(s for s in range(1, 6) if example.labels[f"s{s}"] >= 0)
        if example.labels["kind"] == 0:
            flipped = TASK.intervene(example, {f"s{last}.f0": 8, f"s{last}.f1": 24})
            assert flipped["answer"] == 24
            assert flipped["prior"] == example.labels["prior"]
    chain = "a - - 1/2 - - - b a - 0 1 - - c b - 1 0 - - d - - 0 - - - e - - 0 - - - see d 0 ? c ="
    labels = _labels(chain)
    example = TASK.examples(TASK.worlds(labels))[0]
    assert example.text.startswith(chain)
    assert (example.labels["s2.f0"], example.labels["answer"]) == (16, 16)
    assert TASK.intervene(example, {"s2.f0": 8, "s2.f1": 24})["answer"] == 8
    assert TASK.intervene(example, {"s2.f0": 8, "s2.f1": 24})["s3.f0"] == 24
    assert TASK.intervene(example, {"c.t0": 0})["answer"] == 0
    with pytest.raises(ValueError, match=r"'s2' cannot be set: expected an input"):
        TASK.intervene(example, {"s2": 1})
    halves = _example("a - - 1/2 - - - b a - 1/2 1 - - c - - 0 - - - d - - 0 - - - e - - 0 - - - do c 0 ? b =")
    with pytest.raises(ValueError, match=r"an entry that follows is 1/64: expected a multiple of 1/32"):
        TASK.intervene(halves, {"s1.f0": 1, "s1.f1": 1})
    with pytest.raises(ValueError, match=r"s2\.f0 cannot be 33"):
        TASK.intervene(example, {"s2.f0": 33})
    with pytest.raises(ValueError, match="no answer in multiples of 1/32"):
        TASK.intervene(example, {"x": 1})
    with pytest.raises(ValueError, match="a graph with a cycle"):
        TASK.intervene(example, {"a.pa1": 2, "a.t0": 0, "a.t1": 0})


def _labels(text: str) -> dict[str, int]:
    number = {"-": -1, "0": 0, "1/2": 1, "1": 2} | {name: i for i, name in enumerate(NAMES)}
    words = dict(zip(PROMPT, text.split(" "), strict=True))
    found = {name: number[word] for name, word in words.items() if "." in name or name in ("X", "Y")}
    return found | {"kind": int(words["kind"] == "see"), "x": int(words["x"])}


def _example(text: str) -> Example:
    return TASK.examples(TASK.worlds(_labels(text)))[0]


def test_bad_calls_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="no form 'both': expected one of direct, trace"):
        CompactGraphsTask("both")
    with pytest.raises(ValueError, match="from split 'dev': expected one of train, val, test or None"):
        CompactGraphsTask(split="dev")
    with pytest.raises(ValueError, match=r"depths \(4,\)"):
        CompactGraphsTask(depths=(4,))
    with pytest.raises(ValueError, match="at least one example"):
        TASK.sample(0, 0)
    with pytest.raises(ValueError, match="too many questions to list"):
        TASK.enumerate()
    fine = _labels("a - - 1/2 - - - b a - 0 1 - - c b - 1 0 - - d - - 0 - - - e - - 0 - - - see d 0 ? c =")
    for change, message in (
        ({"x": 1}, "question 0 has no answer"),
        ({"X": 2}, "the same variable as X and Y"),
        ({"a.t1": 0}, "a table that does not fit its parents"),
        ({"b.pa1": 7}, "a parent that is not a variable"),
        ({"kind": 2}, "a kind other than"),
        ({"b.pa1": 1}, "a graph with a cycle"),
    ):
        with pytest.raises(ValueError, match=message):
            TASK.examples(TASK.worlds(fine | change))
    with pytest.raises(ValueError, match="of no class that is ever drawn"):
        class_of(np.full((1, 5, 2), -1))


def test_tokenizer_reads_the_text_back(drawn: list[Example]) -> None:
    tokenizer = TASK.tokenizer()
    for example in drawn[:20]:
        assert tuple(tokenizer(example.text)["input_ids"]) == example.tokens[:-1]
    assert tokenizer.pad_token_id == TASK.pad
