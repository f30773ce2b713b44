"""The culture task: names, fields, labels, batches, pairs and interventions against the worlds behind the quizzes."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import interp_kit as ik
from interp_kit.tasks.culture import CultureTask, solve
from interp_kit.tasks.culture.grids import GRIDS, STRUCTURES
from interp_kit.tasks.culture.labels import AMOUNTS, CLASSES, INPUTS
from interp_kit.tasks.culture.rectangles import rectangles
from interp_kit.tasks.culture.world import RULES, TASKS, Worlds, draw_worlds

ORDERS = [s.name for s in STRUCTURES]
EVALUATED = ORDERS[:4]
CELLS = [f"[{i},{j}]" for i in range(10) for j in range(10)]


@pytest.fixture(scope="module")
def culture() -> CultureTask:
    """The task as it is by default."""
    return CultureTask()


@pytest.fixture(scope="module")
def mixed() -> CultureTask:
    """The four structures of the evaluation, with noise."""
    return CultureTask(EVALUATED, noise=0.05)


@pytest.fixture(scope="module")
def worlds() -> Worlds:
    """320 quizzes, 40 of each task."""
    return draw_worlds(np.repeat(np.arange(8), 40), np.random.default_rng(6))


# Text, names, fields -------------------------------------------------------------------------------------------------


def test_what_the_task_declares(culture: CultureTask) -> None:
    assert type(ik.task("culture")) is CultureTask
    assert ik.task("culture", tasks=("grow",), noise=0.1).tasks == ("grow",)
    assert (culture.name, culture.structures, culture.tasks, culture.noise) == ("culture", (ORDERS[0],), TASKS, 0.0)
    assert culture.vocabulary == (*(str(n) for n in range(11)), "A", "f_A", "B", "f_B")
    assert culture.pad == 15
    assert culture.inputs == INPUTS
    assert culture.variables == (*INPUTS, *CLASSES, *AMOUNTS, *(f"f_B{cell}" for cell in CELLS))
    written = ["f_B", *(f"f_B{cell}" for cell in CELLS)]
    assert [(f.predict, f.name) for f in culture.fields] == list(pairwise(written))
    assert all(f.values == f.candidates == tuple(range(11)) for f in culture.fields)


@pytest.mark.parametrize("order", ORDERS)
def test_examples_of_a_structure(worlds: Worlds, order: str) -> None:
    """A name for every token, the same grid under the same names in every structure, fields where they are written."""
    task = CultureTask(order)
    canonical = worlds.quizzes().tolist()
    for quiz, example in zip(canonical, task.examples(worlds), strict=True):
        assert (len(example.tokens), example.prompt_length, example.tokens[0]) == (405, 305, 0)
        assert list(example.positions.values()) == list(range(405))
        assert list(example.positions) == ["BOS", *(n for g in order.split() for n in (g, *(g + c for c in CELLS)))]
        token = {name: example.tokens[at] for name, at in example.positions.items()}
        named = [token[name] for g in GRIDS for name in (g, *(g + cell for cell in CELLS))]
        assert named == quiz
        assert set(example.labels) == set(task.variables)
        assert example.labels["structure"] == ORDERS.index(order)
        for field in task.fields:
            assert field.name.startswith(order.split()[-1] + "[")
            assert example.positions[field.predict] == example.positions[field.name] - 1
            assert example.labels[field.name] == token[field.name]
    assert len({id(example.positions) for example in task.sample(50, 0)}) == 1


def test_structures_that_end_in_different_grids_call_the_last_quarter_answer(mixed: CultureTask) -> None:
    assert mixed.answer == "answer"
    seen = set()
    for example in mixed.sample(60, 1):
        order = ORDERS[example.labels["structure"]].split()
        seen.add(example.labels["structure"])
        assert list(example.positions)[:2] == ["BOS", order[0]]
        assert list(example.positions)[304:306] == ["answer", "answer[0,0]"]
        assert order[-1] not in example.positions
        assert [example.tokens[example.positions[f.name]] for f in mixed.fields] == list(example.tokens[-100:])
        assert [example.labels[f.name] for f in mixed.fields] == list(example.tokens[-100:])
    assert seen == {0, 1, 2, 3}
    assert CultureTask([ORDERS[1], ORDERS[4]]).answer == "B"  # Both end in B.
    batch = mixed.batch(mixed.sample(60, 1))
    assert batch.field("answer[9,9]").predict == "answer[9,8]"
    np.testing.assert_array_equal(batch.position("answer[9,9]"), 404)
    with pytest.raises(ValueError, match="has no position 'f_B'"):
        batch.position("f_B")


def test_noise_is_in_the_prompt_alone(worlds: Worlds) -> None:
    clean, noisy = CultureTask(EVALUATED), CultureTask(EVALUATED, noise=0.5)
    structure = np.arange(320) % 4
    hit = np.zeros((4, 405))
    for k, a, b in zip(
        structure, clean.examples(worlds, structure), noisy.examples(worlds, structure, seed=3), strict=True
    ):
        assert a.labels == b.labels
        hit[k] += np.array(a.tokens) != np.array(b.tokens)
    assert (hit[:2, 204:304] > 0).all()
    hit[:2, 204:304] = 0
    assert not hit.any()
    again = [noisy.examples(worlds, structure, seed=seed) for seed in (3, 3, 4)]
    assert again[0] == again[1] != again[2]


def test_sample_pool_and_batch(culture: CultureTask) -> None:
    drawn = culture.sample(30, 5)
    assert drawn == culture.sample(30, 5) != culture.sample(30, 6)
    assert len({e.tokens for e in culture.pool()}) == len(culture.pool()) == 2000
    batch = culture.batch(drawn)
    assert batch.tokens.shape == (30, 405)
    assert batch.mask.all()
    assert list(batch.positions) == list(drawn[0].positions)
    for row, example in enumerate(drawn):
        assert batch.tokens[row].tolist() == list(example.tokens)
        assert {name: int(at[row]) for name, at in batch.positions.items()} == example.positions
        assert {name: int(value[row]) for name, value in batch.labels.items()} == example.labels
        assert {f.name: int(batch.answer[f.name][row]) for f in batch.fields} == {
            f.name: example.labels[f.name] for f in culture.fields
        }
    solution = solve(batch.tokens[:, 1:].numpy(), 0)
    assert solution.answers.tolist() == batch.tokens[:, -100:].tolist()


def test_what_cannot_be_asked_for(culture: CultureTask, mixed: CultureTask, worlds: Worlds) -> None:
    for call, message in (
        (lambda: culture.enumerate(), "too many quizzes to enumerate"),
        (lambda: culture.sample(0, 0), "n is 0"),
        (lambda: CultureTask("A B"), "no structure 'A B'; there are A f_A B f_B"),
        (lambda: CultureTask(()), "structures is empty"),
        (lambda: CultureTask(tasks=()), "tasks is empty"),
        (lambda: CultureTask(tasks=("grow", "flip")), "no world task 'flip'"),
        (lambda: CultureTask(noise=1.5), r"noise is 1\.5; expected a finite number at least 0 and at most 1"),
        (lambda: CultureTask(noise=-0.1), r"noise is -0\.1"),
        (lambda: CultureTask(noise=float("nan")), "noise is nan"),
        (lambda: mixed.examples(worlds), "say which structure: this task has A f_A B f_B, f_A A"),
        (lambda: culture.examples(worlds, 3), "structure 3 is none of this task's"),
        (lambda: culture.field("B[0,0]"), r"no field 'B\[0,0\]'"),
        (lambda: culture.worlds({"task": 1}), "no label 'structure'"),
        (lambda: culture.batch([]), "at least one example"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# Tokenizer -----------------------------------------------------------------------------------------------------------


def test_tokenizer(culture: CultureTask, tmp_path) -> None:
    from transformers import AutoTokenizer

    tokenizer = culture.tokenizer()
    assert len(tokenizer) == 16
    assert (tokenizer.pad_token_id, tokenizer.pad_token) == (culture.pad, "pad")
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for example in culture.sample(5, 0):
        assert tuple(tokenizer(example.text).input_ids) == tuple(loaded(example.text).input_ids) == example.tokens
        assert tokenizer.decode(example.tokens) == " ".join(example.text.split())
        assert tokenizer.decode(example.tokens, skip_special_tokens=True) == " ".join(example.text.split())
    padded = tokenizer(["A 0 0", "10"], padding=True)
    assert padded.input_ids == [[11, 0, 0], [10, 15, 15]]
    assert padded.attention_mask == [[1, 1, 1], [1, 0, 0]]  # White is not padding.
    for text in ("11", "-1", "f_C", "0,0"):
        with pytest.raises(Exception, match="UNK"):  # tokenizers raises no narrower class.
            tokenizer(text)


def test_text_shows_the_grids(culture: CultureTask) -> None:
    example = culture.sample(1, 0)[0]
    lines = example.text.splitlines()
    assert (lines[0], lines[1], lines[12], lines[23], lines[34], len(lines)) == ("0", "A", "f_A", "B", "f_B", 45)
    assert [int(n) for n in lines[35].split()] == [example.labels[f"f_B[0,{j}]"] for j in range(10)]


# Labels --------------------------------------------------------------------------------------------------------------


def test_labels_are_the_latents(culture: CultureTask, worlds: Worlds) -> None:
    four = worlds.grids()
    for row, example in enumerate(culture.examples(worlds)):
        of, task, d = example.labels, TASKS[worlds.task[row]], int(worlds.direction[row])
        assert TASKS[of["task"]] == task
        assert [of[f"c{k}"] for k in range(6)] == worlds.colours[row].tolist()
        directed = {"translate": "step", "grow": "growth", "half_fill": "half", "corners": "polarity"}
        assert of["direction"] == (d if task in directed else -1)
        for rule, name in directed.items():
            assert of[name] == (d if task == rule else -1)
        words = RULES[worlds.task[row]].directions_mean[d].split()
        vertical, horizontal = 1 + ("down" in words) - ("up" in words), 1 + ("right" in words) - ("left" in words)
        assert (of["vertical"], of["horizontal"]) == ((vertical, horizontal) if task == "translate" else (-1, -1))
        for side, letter in enumerate("AB"):
            for k in range(3):
                index = worlds.rectangles[row, side, k]
                assert of[f"{letter}.r{k}"] == index
                assert [of[f"{letter}.r{k}.{b}"] for b in ("i1", "j1", "i2", "j2")] == rectangles()[index].tolist()
            x, f = four[row, 2 * side].reshape(10, 10), four[row, 2 * side + 1].reshape(10, 10)
            assert of[f"{letter}.changed"] == (x != f).sum()
            for k in (1, 2):
                i1, j1 = rectangles()[worlds.rectangles[row, side, k], :2]
                framed = f[i1, j1] == of["c0"]
                assert of[f"{letter}.touches{k}"] == (framed if task == "contact" else -1)


def test_labels_give_the_worlds_back(culture: CultureTask, worlds: Worlds) -> None:
    examples = culture.examples(worlds)
    again = culture.worlds(culture.batch(examples).labels)
    for name in Worlds.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(again, name), getattr(worlds, name))
    one = culture.worlds(examples[123].labels)
    np.testing.assert_array_equal(one.grids(), worlds.take(np.array([123])).grids())


# Pairs ---------------------------------------------------------------------------------------------------------------

# variable -> the inputs of which exactly one differs
CAUSES = {
    "c0": {"c0"}, "c2": {"c2"}, "direction": {"direction"}, "B.r2": {"B.r2"}, "B.r0.j2": {"B.r0"},
    "step": {"direction"}, "vertical": {"direction"}, "half": {"direction"}, "growth": {"direction"},
    "B.touches1": {"B.r0", "B.r1"}, "B.changed": {"B.r0", "B.r1", "B.r2", "direction"},
}  # fmt: skip


def differing_inputs(pairs: ik.PairBatch) -> list[set[str]]:
    return [set(names) & set(INPUTS) for names in pairs.differs]


@pytest.mark.parametrize("variable", CAUSES)
def test_pairs_differ_in_one_latent(variable: str) -> None:
    """Both sides are quizzes that the sampler can draw, and the rest of the world is the same."""
    task, target = CultureTask(), "f_B[4,4]"
    pairs = task.pairs(variable, target, limit=40, seed=2)
    assert len(pairs) == 40
    assert (pairs.variable, pairs.target, pairs.completion) == (variable, target, "own")
    assert (pairs.clean.label(variable) != pairs.corrupt.label(variable)).all()
    assert (pairs.clean.answer[target] != pairs.corrupt.answer[target]).all()
    for causes in differing_inputs(pairs):
        assert len(causes) == 1
        assert causes <= CAUSES[variable]
    for side in (pairs.clean, pairs.corrupt):
        worlds = task.worlds(side.labels)
        assert worlds.accepted().all()
        assert side.tokens[:, 1:].tolist() == worlds.quizzes().tolist()
        assert solve(side.tokens[:, 1:].numpy(), 0).certain.all()
    assert len({tuple(row) for row in pairs.clean.tokens.tolist()}) == 40  # Independent quizzes.


def test_a_changed_direction_leaves_a_and_b_as_they_are() -> None:
    pairs = CultureTask(tasks="translate").pairs("direction", "f_B[5,5]", limit=30)
    differ = pairs.token_differs
    assert not differ[:, :102].any()
    assert differ[:, 103:203].any(1).all()  # f_A tells of it.
    assert not differ[:, 203:305].any()
    assert differ[:, 305 + 55].all()


def test_a_bound_changes_alone() -> None:
    pairs = CultureTask().pairs("B.r1.i1", "f_B[3,3]", limit=30)
    kept = [f"B.r{k}.{b}" for k in range(3) for b in ("i1", "j1", "i2", "j2") if (k, b) != (1, "i1")]
    for name in kept:
        assert torch.equal(pairs.clean.label(name), pairs.corrupt.label(name))


def test_another_task_of_the_same_rectangles() -> None:
    task = CultureTask(tasks=("frame", "replace_color", "half_fill", "translate"))
    pairs = task.pairs("task", "f_B[5,4]", limit=60)
    shared = [f"{side}.r{k}" for side in "AB" for k in range(3)]
    for name in shared:
        assert torch.equal(pairs.clean.label(name), pairs.corrupt.label(name))
    for k in range(6):
        a, b = pairs.clean.label(f"c{k}"), pairs.corrupt.label(f"c{k}")
        assert torch.equal(a[(a > 0) & (b > 0)], b[(a > 0) & (b > 0)])
    seen = {(int(a), int(b)) for a, b in zip(pairs.clean.label("task"), pairs.corrupt.label("task"), strict=True)}
    assert len(seen) > 6


def test_a_cell_by_any_latent(culture: CultureTask) -> None:
    pairs = culture.pairs("f_B[9,9]", "f_B[9,9]", limit=60)
    assert all(len(causes) == 1 for causes in differing_inputs(pairs))
    assert len(set().union(*differing_inputs(pairs))) > 3
    assert torch.equal(pairs.clean.answer["f_B[9,9]"], pairs.clean.label("f_B[9,9]"))


def test_structures_against_each_other(mixed: CultureTask) -> None:
    pairs = mixed.pairs("structure", "answer[5,5]", limit=20)
    assert all(causes == {"structure"} for causes in differing_inputs(pairs))
    assert (mixed.worlds(pairs.clean.labels).grids() == mixed.worlds(pairs.corrupt.labels).grids()).all()


def test_both_sides_have_the_same_noise() -> None:
    """Where the worlds agree, so do the noisy cells."""
    task = CultureTask(noise=0.3)
    pairs = task.pairs("c2", "f_B[5,5]", limit=30)
    clean, corrupt = (
        side.tokens[:, 1:].numpy() != task.worlds(side.labels).quizzes() for side in (pairs.clean, pairs.corrupt)
    )
    assert clean[:, 203:303].mean() > 0.2
    same = task.worlds(pairs.clean.labels).quizzes() == task.worlds(pairs.corrupt.labels).quizzes()
    np.testing.assert_array_equal(clean[same], corrupt[same])
    assert not clean[:, :203].any()


def test_hold_limit_and_seed(culture: CultureTask) -> None:
    held = culture.pairs("B.touches1", "f_B[5,5]", hold=["B.touches2", "B.r0"], limit=25)
    assert all(causes == {"B.r1"} for causes in differing_inputs(held))
    assert torch.equal(held.clean.label("B.touches2"), held.corrupt.label("B.touches2"))
    one, same, other = (culture.pairs("c1", "f_B[2,2]", limit=10, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.clean.tokens, same.clean.tokens)
    assert torch.equal(one.corrupt.tokens, same.corrupt.tokens)
    assert not torch.equal(one.clean.tokens, other.clean.tokens)


def test_completions(culture: CultureTask) -> None:
    clean = culture.pairs("direction", "f_B[5,5]", limit=8, completion="clean")
    own = culture.pairs("direction", "f_B[5,5]", limit=8)
    assert torch.equal(clean.corrupt.tokens[:, :305], own.corrupt.tokens[:, :305])
    assert torch.equal(clean.corrupt.tokens[:, 305:], own.clean.tokens[:, 305:])

    def white(prompts: torch.Tensor) -> torch.Tensor:
        assert prompts.shape[1] == 305
        return torch.cat([prompts, torch.zeros(len(prompts), 100, dtype=torch.long)], 1)

    free = culture.pairs("direction", "f_B[5,5]", limit=8, completion="free", generate=white)
    assert not free.clean.tokens[:, 305:].any()
    assert torch.equal(free.corrupt.tokens[:, :305], own.corrupt.tokens[:, :305])


def test_pairs_that_there_are_not(culture: CultureTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp_kit.tasks.culture.task.ROUNDS", 2)
    for variable, target, message in (
        ("A.r0", "f_B[4,4]", r"no such pair of culture quizzes: of 2000 drawn, 1\d\d\d can differ in 'A.r0'"),
        ("polarity", "f_B[4,4]", "in none of them does the answer of 'f_B"),  # f shows whole rectangles either way.
        ("structure", "f_B[4,4]", "0 can differ in 'structure'"),
        ("flavour", "f_B[4,4]", "culture has no variable 'flavour'"),
        ("c0", "f_A[4,4]", "culture has no field 'f_A"),
    ):
        with pytest.raises(ValueError, match=message):
            culture.pairs(variable, target)
    with pytest.raises(ValueError, match="no variable 'flavour'"):
        culture.pairs("c0", "f_B[4,4]", hold=["flavour"])
    with pytest.raises(ValueError, match="c0 is a variable of culture, but its value is not a token of the text"):
        culture.conflict_pairs("c0", "f_B[4,4]")


def test_the_inverse_asks_for_the_other_grid() -> None:
    """Polarity shows in B, and nothing else of it is known but by A."""
    pairs = CultureTask("f_A A f_B B").pairs("polarity", "B[2,2]", limit=10)
    assert not pairs.token_differs[:, 1 : 1 + 101].any()
    assert not pairs.token_differs[:, 203:304].any()
    assert (pairs.clean.answer["B[2,2]"] != pairs.corrupt.answer["B[2,2]"]).all()


# Interventions -------------------------------------------------------------------------------------------------------


def test_do_is_the_counterfactual_world(culture: CultureTask) -> None:
    pairs = culture.pairs("direction", "f_B[5,5]", limit=10)
    for row in range(10):
        clean, corrupt = (
            {name: int(value[row]) for name, value in side.labels.items()} for side in (pairs.clean, pairs.corrupt)
        )
        example = next(
            e for e in culture.examples(culture.worlds(clean)) if list(e.tokens) == pairs.clean.tokens[row].tolist()
        )
        assert culture.intervene(example, {"direction": corrupt["direction"]}) == corrupt
        assert culture.intervene(example, {}) == clean


def test_do_that_makes_no_sense(culture: CultureTask) -> None:
    frame = CultureTask(tasks="frame").sample(1, 0)[0]
    for do, message in (
        ({"half": 1}, "'half' follows from the inputs and cannot be set"),
        ({"f_B[0,0]": 1}, r"'f_B\[0,0\]' follows from the inputs"),
        ({"direction": 2}, "no such quiz is ever drawn: direction = 2"),
        ({"c0": frame.labels["c1"]}, "no such quiz is ever drawn: c0"),
        ({"B.r0": frame.labels["B.r1"]}, "no such quiz is ever drawn: B.r0"),
        ({"task": 3}, "no such quiz is ever drawn: task = 3"),
        ({"structure": 2}, "no such quiz is ever drawn: structure = 2"),
    ):
        with pytest.raises(ValueError, match=message):
            culture.intervene(frame, do)
    assert culture.intervene(frame, {"c0": 10 if frame.labels["c1"] != 10 else 9, "c1": 3, "c2": 1})["c1"] == 3
