"""The boolean task: rules, text, tokens and data files against what is documented, written out a second time here."""

import itertools
import json
import keyword
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_kit.tasks.boolean import EQUATIONS, BooleanTask, StructuralModel
from interp_kit.tasks.boolean.dataset import (
    SPLITS,
    check_disjoint,
    draw,
    parse_omissions,
    read_split,
    splits,
    write_splits,
)
from interp_kit.tasks.boolean.equations import parse
from interp_kit.tasks.boolean.text import END_OF_TEXT, parse_input

Truth = dict[tuple[int, ...], dict[str, int]]

# As published with GPT-2's encoder.
GPT2_SPLIT = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


def text_of(world: Mapping[str, int]) -> str:
    """Prompt and completion of a world, by the documented format."""
    prompt = ",".join(str(world[name]) for name in "ABCDE")
    outputs = ",".join(str(world[name]) for name in ("newA", "newB", "newC", "newD"))
    return f"{prompt}\n{outputs}\n{world['sum1']} - {world['sum2']}\n"


# Rules -----------------------------------------------------------------------------------------------------------


def test_truth_table_of_all_32(task: BooleanTask, truth: Truth) -> None:
    examples = task.enumerate()
    assert [tuple(e.labels[name] for name in "ABCDE") for e in examples] == list(truth)  # 0,0,0,0,0 first.
    assert [dict(e.labels) for e in examples] == list(truth.values())


def test_what_the_task_declares(task: BooleanTask) -> None:
    assert task.name == "boolean"
    assert task.variables == ("A", "B", "C", "D", "E", "newA", "newB", "newC", "newD", "sum1", "sum2")
    assert task.inputs == tuple("ABCDE")
    assert task.numeric == ("sum1", "sum2")
    assert task.model.parents == {
        "newA": ("A", "C"),
        "newB": ("D",),
        "newC": ("B", "E"),
        "newD": ("A", "newB"),
        "sum1": tuple("ABCDE"),
        "sum2": ("newA", "newB", "newC", "newD"),
    }
    assert [(f.name, f.predict, f.values) for f in task.fields] == [
        *((name, f"{name}?", (0, 1)) for name in ("newA", "newB", "newC", "newD")),
        ("sum1", "sum1?", (0, 1, 2, 3, 4, 5)),
        ("sum2", "sum2?", (0, 1, 2, 3, 4)),
    ]


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("name", ["A", "D", "newA", "newB", "newC", "newD"])
def test_do_sets_a_variable_and_all_that_follows_from_it(
    task: BooleanTask, truth: Truth, name: str, value: int
) -> None:
    found = task.model.solve(np.array(list(truth)), {name: value})
    for row, bits in enumerate(truth):
        w = dict(zip("ABCDE", bits, strict=True))

        def put(variable: str, natural: int, w: dict[str, int] = w) -> None:
            w[variable] = value if variable == name else natural

        for variable in "ABCDE":
            put(variable, w[variable])
        put("newA", (w["A"] + w["C"]) % 2)
        put("newB", 1 - w["D"])
        put("newC", min(w["B"], w["E"]))
        put("newD", max(w["A"], w["newB"]))
        w["sum1"] = sum(w[variable] for variable in "ABCDE")
        w["sum2"] = w["newA"] + w["newB"] + w["newC"] + w["newD"]
        assert {variable: int(column[row]) for variable, column in found.items()} == w
        assert task.intervene(task.examples([bits])[0], {name: value}) == w


def test_do_on_several_variables_and_on_a_sum(task: BooleanTask) -> None:
    found = task.model.solve(np.array([[1, 0, 1, 1, 0]]), {"newB": 1, "A": 0, "sum1": 5})
    assert {name: int(value[0]) for name, value in found.items()} == {
        "A": 0, "B": 0, "C": 1, "D": 1, "E": 0, "newA": 1, "newB": 1, "newC": 0, "newD": 1, "sum1": 5, "sum2": 3,
    }  # fmt: skip


def test_do_of_nothing_is_the_world_itself(task: BooleanTask, truth: Truth) -> None:
    for bits, world in truth.items():
        assert task.intervene(task.examples([bits])[0], {}) == world


@pytest.mark.parametrize(
    ("do", "message"),
    [
        ({"newE": 1}, "no variable 'newE'; there are A, B"),
        ({"newB": 2}, "newB cannot be 2"),
        ({"A": -1}, "A cannot be -1"),
        ({"sum2": 5}, "sum2 cannot be 5"),
    ],
)
def test_do_that_makes_no_sense(task: BooleanTask, do: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task.model.solve(np.zeros((1, 5), dtype=int), do)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([[0, 1, 0, 1]], r"inputs of shape \(1, 4\), expected \(batch, 5\)"),
        ([0, 1, 0, 1, 1], r"inputs of shape \(5,\)"),
        ([], r"inputs of shape \(0,\)"),
        ([[0, 1, 2, 0, 0]], "inputs must be 0 or 1"),
        ([[0, 1, -1, 0, 0]], "inputs must be 0 or 1"),
        ([[0, 1, 0.5, 0, 0]], "inputs must be 0 or 1"),
        ([[0, 1, float("nan"), 0, 0]], "inputs must be 0 or 1"),
        ([["0", "1", "0", "0", "0"]], "inputs must be 0 or 1"),
    ],
)
def test_inputs_that_are_no_bits(task: BooleanTask, inputs: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task.examples(np.array(inputs))


def test_true_and_false_and_whole_floats_are_bits(task: BooleanTask) -> None:
    for row in ([True, False, True, False, True], [1.0, 0.0, 1.0, 0.0, 1.0]):
        assert task.examples(np.array([row])) == [task.example("1,0,1,0,1")]


def test_sample(task: BooleanTask, truth: Truth) -> None:
    drawn = task.sample(2000, 3)
    assert len(drawn) == 2000
    assert drawn == task.sample(2000, 3) != task.sample(2000, 4)
    counts = [sum(e.labels == world for e in drawn) for world in truth.values()]
    assert min(counts) > 25  # 62.5 expected, standard deviation 7.8.
    assert max(counts) < 102
    with pytest.raises(ValueError, match="n is 0"):
        task.sample(0, 0)


# Text and tokens --------------------------------------------------------------------------------------------------


def test_the_documented_example(task: BooleanTask) -> None:
    example = task.example("1,0,1,0,1")
    assert task.record(example) == {"prompt": "1,0,1,0,1", "completion": "\n0,1,0,1\n3 - 2\n"}
    assert example.text == "1,0,1,0,1\n0,1,0,1\n3 - 2\n"
    assert len(example.tokens) == 22 + 1
    assert task.vocabulary[example.tokens[-1]] == END_OF_TEXT
    assert task.pad == example.tokens[-1]
    assert example.prompt_length == 9


def test_all_32_texts(task: BooleanTask, truth: Truth) -> None:
    for example, world in zip(task.enumerate(), truth.values(), strict=True):
        assert example.text == text_of(world)
        record = task.record(example)
        assert record["prompt"] + record["completion"] == example.text
        assert json.loads(json.dumps(record)) == record
        assert "".join(task.vocabulary[token] for token in example.tokens) == example.text + END_OF_TEXT
        prompt = "".join(task.vocabulary[token] for token in example.tokens[: example.prompt_length])
        assert prompt == record["prompt"]


def test_fifteen_token_types_all_used(task: BooleanTask) -> None:
    assert len(task.vocabulary) == len(set(task.vocabulary)) == 15
    assert {token for example in task.enumerate() for token in example.tokens} == set(range(15))


def test_every_token_has_one_name_and_fields_are_where_they_are_written(task: BooleanTask) -> None:
    for example in task.enumerate():
        assert sorted(example.positions.values()) == list(range(23))
        for name in task.variables:
            assert task.vocabulary[example.tokens[example.positions[name]]].strip() == str(example.labels[name])
        for field in task.fields:
            assert example.positions[field.predict] == example.positions[field.name] - 1
            assert field.token(example.labels[field.name]) == example.tokens[example.positions[field.name]]


def test_splitting_is_gpt2s(task: BooleanTask) -> None:
    for example in task.enumerate():
        assert regex.findall(GPT2_SPLIT, example.text) == [task.vocabulary[token] for token in example.tokens[:-1]]
        split = task.tokenizer().backend_tokenizer.pre_tokenizer.pre_tokenize_str(example.text)
        assert [example.text[start:end] for _, (start, end) in split] == regex.findall(GPT2_SPLIT, example.text)


def test_tokenizer_gives_the_ids_of_the_vocabulary_and_back(task: BooleanTask) -> None:
    tokenizer = task.tokenizer()
    assert len(tokenizer) == len(task.vocabulary)
    for example in task.enumerate():
        ids = tokenizer(example.text + END_OF_TEXT).input_ids
        assert tuple(ids) == example.tokens
        assert tuple(tokenizer(example.text).input_ids) == example.tokens[:-1]  # Nothing is added unasked.
        assert tokenizer.decode(ids) == example.text + END_OF_TEXT
        assert tokenizer.decode(ids, skip_special_tokens=True) == example.text
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == task.pad


def test_gpt2_vocabulary_says_the_same_with_gpt2s_ids(task: BooleanTask) -> None:
    full = BooleanTask(vocabulary="gpt2")
    assert full.example("1,0,1,0,1").tokens == (
        16, 11, 15, 11, 16, 11, 15, 11, 16, 198, 15, 11, 16, 11, 15, 11, 16, 198, 18, 532, 362, 198, 50256,
    )  # fmt: skip
    published = {",": 11, "0": 15, "5": 20, "\n": 198, " 0": 657, " 1": 352, " 2": 362, " 3": 513, " 4": 604, " -": 532}
    assert published.items() <= full.format.token_id.items()
    assert len(full.vocabulary) == len(set(full.vocabulary)) == 50257
    for closed, example in zip(task.enumerate(), full.enumerate(), strict=True):
        assert [full.vocabulary[token] for token in example.tokens] == [task.vocabulary[t] for t in closed.tokens]
        assert (example.text, example.labels, example.positions) == (closed.text, closed.labels, closed.positions)
        assert tuple(full.tokenizer()(example.text + END_OF_TEXT).input_ids) == example.tokens
        assert full.tokenizer().decode(example.tokens) == example.text + END_OF_TEXT
    assert task.tokenizer().get_vocab().keys() == full.tokenizer().get_vocab().keys()
    with pytest.raises(ValueError, match="no id for '10'"):
        BooleanTask({"y": "x0"}, [f"x{i}" for i in range(10)], vocabulary="gpt2")


def test_tokenizer_survives_saving(task: BooleanTask, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    task.tokenizer().save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for example in task.enumerate():
        assert tuple(loaded(example.text + END_OF_TEXT).input_ids) == example.tokens
        assert loaded.decode(example.tokens) == example.text + END_OF_TEXT


@pytest.mark.parametrize("text", ["7", "hello", "1;0", "0,1,é", "10", "1,  0", "3 -- 2"])
def test_unknown_text_is_an_error(task: BooleanTask, text: str) -> None:
    with pytest.raises(Exception, match="UNK"):  # tokenizers raises no narrower class.
        task.tokenizer()(text)


@pytest.mark.parametrize("text", ["1,0,1,0,1", " 1,0,1,0,1\n", "1, 0, 1, 0, 1"])
def test_parse_input(text: str) -> None:
    assert parse_input(text, 5) == (1, 0, 1, 0, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,0,1", r"input '1,0,1' has 3 values, expected 5 \(like 0,1,0,1,0\)"),
        ("1,0,1,0,1,1", "has 6 values, expected 5"),
        ("", "input '' has 1 values, expected 5"),
        ("1,0,1,0,2", "'2' is neither 0 nor 1"),
        ("1,0,1,0,", "'' is neither 0 nor 1"),
        ("1,0,x,0,1", "'x' is neither 0 nor 1"),
        ("1,0,1.0,0,1", "'1.0' is neither"),
        ("1,0,-1,0,1", "'-1' is neither"),
        ("1,0,１,0,1", "is neither"),
        ("1 0 1 0 1", "has 1 values"),
    ],
)
def test_parse_input_says_what_is_wrong(task: BooleanTask, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task.example(text)


# Equations of one's own -------------------------------------------------------------------------------------------


class Bit(int):
    """A bit whose `~` is its complement, so that Python itself can evaluate the expressions."""

    def __and__(self, other: int) -> "Bit":
        return Bit(int(self) & int(other))

    def __or__(self, other: int) -> "Bit":
        return Bit(int(self) | int(other))

    def __xor__(self, other: int) -> "Bit":
        return Bit(int(self) ^ int(other))

    def __invert__(self) -> "Bit":
        return Bit(1 - int(self))

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__


NAMES = ("p", "q", "r", "s")
OPERATORS = st.sampled_from([" and ", " or ", " & ", " | ", " ^ ", "&", "  or\t"])
# Operands of ~ are Bits in Python too: names, and what & | ^ ~ and or make of them.
BITS = st.recursive(
    st.sampled_from(NAMES),
    lambda part: st.one_of(
        st.builds("({})".format, part),
        st.builds("~({})".format, part),
        st.builds("{}{}{}".format, part, OPERATORS, part),
    ),
    max_leaves=6,
)
EXPRESSIONS = st.recursive(
    st.one_of(BITS, st.sampled_from(["0", "1"])),
    lambda part: st.one_of(
        st.builds("({})".format, part),
        st.builds("(not {})".format, part),
        st.builds("{}{}{}".format, part, OPERATORS, part),
    ),
    max_leaves=8,
)


@settings(max_examples=300)
@given(EXPRESSIONS)
def test_expressions_mean_what_they_mean_in_python(expression: str) -> None:
    model = StructuralModel.define({"y": expression}, NAMES)
    found = model.solve(model.all_inputs())["y"]
    for row, bits in enumerate(itertools.product((0, 1), repeat=4)):
        scope = dict(zip(NAMES, map(Bit, bits), strict=True))
        assert found[row] == int(eval(expression, {"__builtins__": {}}, scope)), (expression, bits)
    used = {name for name in NAMES if re.search(rf"\b{name}\b", expression)}
    assert set(model.equations[0].parents) == used
    assert len(model.equations[0].parents) == len(used)


@given(EXPRESSIONS, EXPRESSIONS)
def test_a_task_of_ones_own_equations(first: str, second: str) -> None:
    task = BooleanTask({"y": first, "z": f"({second}) ^ y"}, NAMES)
    examples = task.enumerate()
    assert len(examples) == 16
    for bits, example in zip(itertools.product((0, 1), repeat=4), examples, strict=True):
        scope = dict(zip(NAMES, map(Bit, bits), strict=True))
        y = int(eval(first, {"__builtins__": {}}, scope))
        z = int(eval(second, {"__builtins__": {}}, scope)) ^ y
        assert example.text == f"{','.join(map(str, bits))}\n{y},{z}\n{sum(bits)} - {y + z}\n"
        assert regex.findall(GPT2_SPLIT, example.text) == [task.vocabulary[token] for token in example.tokens[:-1]]
    assert {f.name for f in task.fields} == {"y", "z", "sum1", "sum2"}


def test_ten_inputs_still_split_as_gpt2_does() -> None:
    task = BooleanTask({"y": "x0 and x9"}, [f"x{i}" for i in range(10)])
    example = task.example("1,1,1,1,1,1,1,1,1,1")
    assert example.text == "1,1,1,1,1,1,1,1,1,1\n1\n10 - 1\n"
    assert regex.findall(GPT2_SPLIT, example.text) == [task.vocabulary[token] for token in example.tokens[:-1]]
    assert tuple(task.tokenizer()(example.text + END_OF_TEXT).input_ids) == example.tokens
    batch = task.batch(task.enumerate())
    assert batch.tokens.shape == (1024, len(example.tokens))


def test_too_many_inputs_to_enumerate() -> None:
    task = BooleanTask({"y": "x0"}, [f"x{i}" for i in range(17)])
    with pytest.raises(ValueError, match="too many to enumerate"):
        task.enumerate()
    assert len(task.sample(3, 0)) == 3


HOSTILE = {
    "a call": "__import__('os').system('x')",
    "an attribute": "A.__class__",
    "a subscript": "A[0]",
    "a lambda": "lambda: A",
    "a comprehension": "[A for A in (1,)]",
    "a conditional": "A if B else C",
    "a comparison": "A == B",
    "a walrus": "(A := 1)",
    "an f-string": "f'{A}'",
    "a string": "'A'",
    "a big number": "2",
    "minus one": "-1",
    "a float": "1.0",
    "a complex number": "0j",
    "a truth value": "True",
    "nothing": "None",
    "an ellipsis": "...",
    "arithmetic": "A + B",
    "a shift": "A << 1",
    "a power": "A ** B",
    "a starred name": "*A,",
    "await": "await A",
    "yield": "(yield A)",
    "an assignment": "A = 1",
    "two statements": "A; B",
    "a comment only": "# A",
    "empty": "",
    "blank": "   ",
    "unbalanced": "(A",
    "a C operator": "A && B",
    "a null byte": "A\0",
    "a lone surrogate": "A\ud800",
    "deep brackets": "(" * 5000 + "A" + ")" * 5000,
    "deep nots": "~" * 100_000 + "A",
    "deep operators": " ^ ".join(["A"] * 100_000),
    "a little too deep": "~" * 101 + "A",
    "an unknown name": "A and newX",
    "a builtin": "print",
    "a sum": "sum1",
    "itself": "A or bad",
    "a later one": "A or after",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_expressions_are_refused_by_name(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="equation 'bad'"):
        BooleanTask({"good": "A", "bad": HOSTILE[kind], "after": "B"})
    assert list(tmp_path.iterdir()) == []


def test_the_part_that_is_not_allowed_is_shown() -> None:
    with pytest.raises(ValueError, match=re.escape("equation 'y': 'A + B' is not allowed")):
        parse("y", "C and (A + B)", "ABC")
    with pytest.raises(ValueError, match="unknown variable 'F'; before it stand A, B, C"):
        parse("y", "A or F", "ABC")
    with pytest.raises(ValueError, match=re.escape("cannot parse 'A or'")):
        parse("y", "A or", "ABC")


@pytest.mark.parametrize("name", ["sum1", "sum2", "end", "eos", "A", "not", "True", "None", "lambda", "1a", "a b", ""])
def test_reserved_and_impossible_names(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(name))):
        BooleanTask({name: "B"})
    if name != "A":
        with pytest.raises(ValueError, match=re.escape(repr(name))):
            BooleanTask({"y": "B"}, ("B", name))


@given(st.sampled_from([*keyword.kwlist, "sum1", "eos"]) | st.from_regex(r"[A-Za-z0-9_? ,]{1,4}", fullmatch=True))
def test_a_name_is_refused_or_every_token_has_its_own_name(name: str) -> None:
    try:
        task = BooleanTask({"y": "x", name: "x or y"}, ("x",))
    except ValueError:
        return
    example = task.example("1")
    assert len(example.positions) == len(example.tokens)
    assert len(example.labels) == len(task.variables) == 5


@pytest.mark.parametrize(("equations", "inputs"), [({}, ("A",)), ({"y": "1"}, ())])
def test_a_model_of_nothing_is_refused(equations: dict[str, str], inputs: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="at least one input and one equation"):
        BooleanTask(equations, inputs)


def test_repeated_input_is_refused() -> None:
    with pytest.raises(ValueError, match="'A' is defined twice"):
        BooleanTask({"y": "A"}, ("A", "A"))


def test_a_hundred_operators_are_not_too_deep() -> None:
    model = StructuralModel.define({"y": "~" * 100 + "A", "z": " ^ ".join(["A"] * 101)}, ("A",))
    assert model.solve(np.array([[0], [1]]))["y"].tolist() == [0, 1]
    assert model.solve(np.array([[0], [1]]))["z"].tolist() == [0, 1]


def test_an_expression_may_be_indented() -> None:
    assert StructuralModel.define({"y": "  not A\n"}, ("A",)).solve(np.array([[0], [1]]))["y"].tolist() == [1, 0]


def test_the_rules_cannot_be_changed_from_outside(task: BooleanTask) -> None:
    rules = dict(EQUATIONS)
    own = BooleanTask(rules)
    rules["newA"] = "0"
    assert own.enumerate() == task.enumerate()


# Data files -------------------------------------------------------------------------------------------------------


def documented_stream(omit: frozenset = frozenset()) -> dict[str, list[tuple[int, ...]]]:
    """The documented order: one generator through all three files, five calls an attempt."""
    rng, files = random.Random(42), {}
    for name, count in (("train", 20_000), ("valid", 2_000), ("test", 2_000)):
        files[name] = []
        while len(files[name]) < count:
            row = (rng.randint(0, 1), rng.randint(0, 1), rng.randint(0, 1), rng.randint(0, 1), rng.randint(0, 1))
            if row not in omit:
                files[name].append(row)
    return files


@pytest.mark.parametrize("omit", ["", "1,1,1,1,1;0,0,0,0,0"])
def test_splits_are_the_documented_ones(task: BooleanTask, omit: str) -> None:
    omissions = parse_omissions(omit, 5)
    found = splits(task, omit=omissions)
    assert {name: len(rows) for name, rows in found.items()} == {"train": 20_000, "valid": 2_000, "test": 2_000}
    assert found == documented_stream(omissions)
    if not omit:
        assert found["train"][:3] == [(0, 0, 1, 0, 0), (0, 0, 0, 1, 0), (0, 0, 0, 0, 0)]
    for rows in found.values():
        assert set(rows) == set(itertools.product((0, 1), repeat=5)) - omissions


def test_omissions(task: BooleanTask) -> None:
    assert parse_omissions("1,1,1,1,1; 0,0,0,0,0", 5) == {(1,) * 5, (0,) * 5}
    assert parse_omissions("", 5) == parse_omissions("  ", 5) == frozenset()
    for text, message in (
        ("1,1,1,1,1;1,0", "input '1,0' has 2 values"),
        ("1,1,1,1,1;a,0,0,0,0", "'a' is neither"),
        ("1,1,1,1,1;", "input '' has 1 values"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_omissions(text, 5)
    everything = frozenset(itertools.product((0, 1), repeat=5))
    with pytest.raises(ValueError, match="leave none of the 32 inputs"):
        splits(task, omit=everything)
    with pytest.raises(ValueError, match=r"omission \(1, 0\) has 2 values, expected 5"):
        splits(task, omit=frozenset({(1, 0)}))
    last = splits(task, omit=everything - {(0, 1, 0, 1, 0)}, sizes={"train": 3})
    assert last == {"train": [(0, 1, 0, 1, 0)] * 3}


def test_draw_throws_attempts_away_without_shifting_the_stream() -> None:
    rng = random.Random(0)
    attempts = [tuple(rng.randint(0, 1) for _ in range(2)) for _ in range(50)]
    kept = [attempt for attempt in attempts if attempt != (1, 1)]
    assert list(draw(2, 20, random.Random(0), frozenset({(1, 1)}))) == kept[:20]


@pytest.fixture
def written(task: BooleanTask, tmp_path: Path) -> Path:
    """train.jsonl with the first 100 documented inputs."""
    (path,) = write_splits(task, tmp_path, {"train": documented_stream()["train"][:100]})
    return path


def test_files_hold_one_record_a_line(task: BooleanTask, truth: Truth, written: Path) -> None:
    lines = written.read_text().splitlines()
    assert len(lines) == 100
    assert lines[0] == '{"prompt": "0,0,1,0,0", "completion": "\\n1,1,0,1\\n1 - 3\\n"}'
    for line, row in zip(lines, documented_stream()["train"], strict=False):
        record = json.loads(line)
        assert record["prompt"] + record["completion"] == text_of(truth[row])
    assert read_split(task, written) == documented_stream()["train"][:100]


def test_write_splits_writes_every_split(task: BooleanTask, tmp_path: Path) -> None:
    rows = splits(task, sizes=dict.fromkeys(SPLITS, 5))
    paths = write_splits(task, tmp_path / "dataset", rows)
    assert [path.name for path in paths] == ["train.jsonl", "valid.jsonl", "test.jsonl"]
    assert {path.stem: read_split(task, path) for path in paths} == rows


Change = Callable[[str], str]
TAMPERED: dict[str, tuple[Change, str]] = {
    "a wrong bit": (lambda line: line.replace('"\\n1', '"\\n0', 1).replace('"\\n0', '"\\n1', 0), "follow the rules"),
    "a wrong sum": (lambda line: re.sub(r"\d - ", "9 - ", line), "does not follow the rules"),
    "the widely copied answer": (lambda line: re.sub(r"- \d", "- 0", line), "does not follow the rules"),
    "no space": (lambda line: line.replace(" - ", "-"), "does not follow the rules"),
    "a field too many": (lambda line: line[:-1] + ', "note": 1}', "does not follow the rules"),
    "no completion": (lambda line: '{"prompt": "0,0,1,0,0"}', "does not follow the rules"),
    "no prompt": (lambda line: '{"completion": "x"}', "expected .*prompt"),
    "a short prompt": (lambda line: line.replace('"prompt": "0,', '"prompt": "').replace('"1,', '"'), "has 4 values"),
    "a prompt of another type": (lambda line: '{"prompt": 5, "completion": ""}', "expected .*prompt"),
    "a list": (lambda line: "[1, 2]", "expected .*prompt"),
    "no json": (lambda line: line[:-2], ""),
    "a blank line": (lambda line: "", ""),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_line_is_named(task: BooleanTask, written: Path, name: str) -> None:
    change, message = TAMPERED[name]
    lines = written.read_text().splitlines()
    lines[6] = change(lines[6]) if change(lines[6]) != lines[6] else change(lines[0])
    written.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=rf"{written}, line 7.*{message}"):
        read_split(task, written)


def test_a_file_of_other_bytes_is_named(task: BooleanTask, written: Path) -> None:
    written.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=str(written)):
        read_split(task, written)


def test_an_empty_file_is_named(task: BooleanTask, written: Path) -> None:
    written.write_text("")
    with pytest.raises(ValueError, match=f"{written} has no examples"):
        read_split(task, written)


def test_a_file_of_another_task_is_refused(written: Path) -> None:
    with pytest.raises(ValueError, match=r"line 1: .*does not follow the rules"):
        read_split(BooleanTask({**EQUATIONS, "newA": "A and C"}), written)


def test_check_disjoint() -> None:
    rows = [(0, 0), (0, 1), (1, 1)]
    check_disjoint(rows, frozenset({(1, 0)}), "train")
    with pytest.raises(ValueError, match=re.escape("train contains omitted inputs: [(0, 1), (1, 1)]")):
        check_disjoint(rows, frozenset({(1, 1), (0, 1), (1, 0)}), "train")


def test_data_of_the_users_are_kept(task: BooleanTask, tmp_path: Path) -> None:
    inputs = splits(task, sizes={"train": 3, "valid": 2, "test": 2})
    for _ in range(2):
        write_splits(task, tmp_path, inputs)  # its own data are replaced
    (tmp_path / "valid.jsonl").write_text("{}\n")
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(OSError, match=r"cannot write \S*valid\.jsonl: it holds other data"):
        write_splits(task, tmp_path, inputs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.jsonl", "valid.jsonl"]
