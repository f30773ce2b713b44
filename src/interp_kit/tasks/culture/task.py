"""The culture task: grid quizzes as examples with named positions, true latents, and one-latent counterfactuals."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from interp_kit.core.config import check_choice, check_names, check_number, one_or_more
from interp_kit.core.example import Example, Field
from interp_kit.core.identity import derive_seed
from interp_kit.core.task import SAMPLE, AbstractTask, check_sample
from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.grids import COLOURS, GRIDS, QUARTER, STRUCTURES, VOCABULARY
from interp_kit.tasks.culture.labels import AMOUNTS, CLASSES, INPUTS, altered, columns, parents, worlds_of
from interp_kit.tasks.culture.rectangles import CELLS, SIDE
from interp_kit.tasks.culture.world import TASKS, Array, Worlds, rule, sample_worlds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD = VOCABULARY  # an id of its own: white cells are never padding
PROMPT = 1 + 3 * QUARTER + 1  # BOS, three grids and the last marker
TRIED, ROUNDS = 1000, 24  # worlds drawn at a time, and how many times, in search of pairs


class CultureTask(AbstractTask):
    """Grid quizzes of eight geometric rules: A, f(A), B and f(B), the last grid to be found.

    structures: orders of the four grids, such as "f_A A f_B B"; each example is in one of them at random. tasks: the
    rules, each as likely. noise: probability that a cell of a noisy prompt grid is drawn anew (structures "A f_A B f_B"
    and "f_A A f_B B" have one, their third; models of the field are trained with 0.05). Raises ValueError for unknown
    structures or tasks, none, and a noise that is not a probability.

    An example is a 0 ("BOS"), then four times a marker and 100 cells: 405 tokens, of which the prompt is all before the
    last grid's first cell. Positions are named by grid, wherever it stands: "f_A" is a marker, "f_A[3,7]" the cell in
    row 3 and column 7. The fields are the 100 cells of the last grid; each is predicted at the token before it. Where
    `structures` end in different grids, the last quarter is called "answer" in all of them, so that its fields have one
    name.

    The labels are described in `labels`: the latents, what follows from them, and the true colours of the fields.
    `worlds` turns labels into Worlds, from which `truth` tells which cells change and why. Pairs are counterfactuals:
    clean and corrupt are the same quiz with one input changed, and the same noise. For a variable that follows from
    inputs, the input that changes is one that it follows from; a bound such as "B.r2.i1" changes alone.
    """

    name = "culture"
    vocabulary = (*(str(colour) for colour in range(COLOURS)), *GRIDS)
    pad = PAD
    inputs = INPUTS
    numeric = AMOUNTS

    def __init__(
        self,
        structures: Sequence[str] | str = (STRUCTURES[0].name,),
        tasks: Sequence[str] | str = TASKS,
        noise: float = 0.0,
    ) -> None:
        self.structures = _several(structures, "structures")
        self.tasks = _several(tasks, "tasks")
        for task in self.tasks:
            rule(task)
        check_number("noise", noise, least=0, most=1)
        self.noise = noise
        self._orders = [grids.structure(name) for name in self.structures]
        ends = {STRUCTURES[order].order[-1] for order in self._orders}
        self.answer = ends.pop() if len(ends) == 1 else "answer"
        self._positions = {order: self._names(order) for order in self._orders}
        cells = [grids.cell_name(self.answer, cell) for cell in range(CELLS)]
        colours = tuple(range(COLOURS))
        before = [self.answer, *cells[:-1]]
        self.fields = tuple(Field(name, at, colours, colours) for name, at in zip(cells, before, strict=True))
        self.variables = (*INPUTS, *CLASSES, *AMOUNTS, *cells)
        self.question = ("direction", cells[CELLS // 2 - SIDE // 2 - 1])

    def meaning(self) -> dict[str, Any]:
        """The colours and markers: structures, rules and noise only say which quizzes are drawn."""
        return {"vocabulary": list(self.vocabulary)}

    def enumerate(self) -> list[Example]:
        """Raises ValueError: there are far too many quizzes to list."""
        raise ValueError(f"culture has too many quizzes to enumerate: {SAMPLE}")

    def sample(self, n: int, seed: int) -> list[Example]:
        """n quizzes drawn independently; the same seed gives the same. Raises ValueError for n < 1."""
        check_sample(n, seed)
        rng = np.random.default_rng(seed)
        worlds = sample_worlds(n, rng, self.tasks)
        return self.examples(worlds, np.array(self._orders)[rng.integers(len(self._orders), size=n)], seed)

    def examples(self, worlds: Worlds, structure: int | Array | None = None, seed: int = 0) -> list[Example]:
        """The quizzes of these worlds, with noise drawn by `seed`.

        structure: index in STRUCTURES, one for all or one a world; None where the task has only one. Raises ValueError
        for a structure that is not the task's.
        """
        if structure is None and len(self._orders) > 1:
            raise ValueError(f"say which structure: this task has {', '.join(self.structures)}")
        order = np.array(np.broadcast_to(self._orders[0] if structure is None else structure, len(worlds)))
        if not np.isin(order, self._orders).all():
            raise ValueError(f"structure {structure} is none of this task's: {self._orders}")
        tokens = np.zeros((len(worlds), 1 + grids.LENGTH), np.int64)
        tokens[:, 1:] = grids.reconfigure(worlds.quizzes(), order)
        if self.noise:
            rng = np.random.default_rng(derive_seed(seed, "culture noise"))
            tokens[:, 1:] = grids.add_noise(tokens[:, 1:], grids.noisy_cells(order), rng, self.noise)
        labels = self._labels(worlds, order)
        values = zip(*(column.tolist() for column in labels.values()), strict=True)
        return [
            Example(
                text=_text(row),
                tokens=tuple(row),
                prompt_length=PROMPT,
                positions=self._positions[k],
                labels=dict(zip(labels, value, strict=True)),
            )
            for row, k, value in zip(tokens.tolist(), order.tolist(), values, strict=True)
        ]

    def worlds(self, labels: Mapping[str, Any]) -> Worlds:
        """Worlds of the quizzes with these labels, of a batch or of one example. Raises ValueError if the labels do
        not describe one."""
        return worlds_of(labels)

    def playground(self) -> dict[str, Any]:
        """See AbstractTask: four grids, of which the last is written."""
        return {"view": "grids", "side": SIDE, "colours": COLOURS, "grids": len(GRIDS)}

    def intervene(self, example: Example, do: Mapping[str, int]) -> dict[str, int]:
        """Every variable of the example's world under do(input = value), such as {"direction": 3}.

        Raises ValueError for anything but an input, and for values with which no quiz can be drawn.
        """
        for name in do:
            if name not in self.inputs:
                raise ValueError(f"{name!r} follows from the inputs and cannot be set; those are {', '.join(INPUTS)}")
        latents = {name: do.get(name, example.labels[name]) for name in self.inputs}
        worlds = worlds_of(latents)
        if not worlds.accepted()[0] or latents["structure"] not in self._orders:
            settings = ", ".join(f"{name} = {value}" for name, value in do.items())
            raise ValueError(f"no such quiz is ever drawn: {settings} does not go with the rest of its world")
        found = self._labels(worlds, np.array([latents["structure"]]))
        return {name: int(value[0]) for name, value in found.items()}

    def tokenizer(self) -> "PreTrainedTokenizerFast":
        """One token a word, "0" … "10" and the four markers, ids as in `vocabulary`; "pad" has the id behind them."""
        return build_tokenizer()

    def _names(self, order: int) -> dict[str, int]:
        quarters = [*STRUCTURES[order].order[:3], self.answer]
        cells = [name for q in quarters for name in (q, *(grids.cell_name(q, cell) for cell in range(CELLS)))]
        return {name: at for at, name in enumerate(["BOS", *cells])}

    def _labels(self, worlds: Worlds, order: Array) -> dict[str, Array]:
        asked = np.array([GRIDS.index(s.order[-1]) for s in STRUCTURES])[order]
        answer = worlds.grids()[np.arange(len(worlds)), asked].astype(np.int64)
        return columns(worlds, order) | {field.name: answer[:, cell] for cell, field in enumerate(self.fields)}

    def _matching(
        self,
        variable: str,
        target: str,
        hold: Sequence[str] | None,
        limit: int | None,
        seed: int,
        same_prompt_length: bool = False,
    ) -> list[tuple[Example, Example]]:
        """Independent worlds, each with a counterfactual in one input, until `limit` pairs fit."""
        self.check_names(variable, target, hold)
        rng = np.random.default_rng(derive_seed(seed, "culture pairs", variable, target))
        limit, found, differing, held = 4096 if limit is None else limit, [], 0, 0
        for turn in range(ROUNDS):
            clean = sample_worlds(TRIED, rng, self.tasks)
            order = np.array(self._orders)[rng.integers(len(self._orders), size=TRIED)]
            corrupt, other = self._counterfactual(clean, order, variable, rng)
            drawable = np.flatnonzero(corrupt.accepted())
            clean, order = clean.take(drawable), order[drawable]
            corrupt, other = corrupt.take(drawable), other[drawable]
            a, b = self._labels(clean, order), self._labels(corrupt, other)
            fits = a[variable] != b[variable]
            differing += int(fits.sum())
            for name in hold or ():
                fits &= a[name] == b[name]
            held += int(fits.sum())
            rows = np.flatnonzero(fits & (a[target] != b[target]))[: limit - len(found)]
            sides = zip(
                self.examples(clean.take(rows), order[rows], seed + turn),
                self.examples(corrupt.take(rows), other[rows], seed + turn),
                strict=True,
            )
            found += sides
            if len(found) >= limit:
                break
        if not found:
            raise ValueError(
                f"no such pair of culture quizzes: of {ROUNDS * TRIED} drawn, {differing} can differ in {variable!r},"
                f" {held} of them with {', '.join(hold) if hold else 'nothing'} held, and in none of them does the"
                f" answer of {target!r} differ"
            )
        return found

    def _counterfactual(
        self, worlds: Worlds, order: Array, variable: str, rng: np.random.Generator
    ) -> tuple[Worlds, Array]:
        """The worlds, and their structures, with one input changed, a random one of those behind the variable."""
        if variable == "structure":
            return worlds, rng.permuted(np.tile(self._orders, (len(worlds), 1)), axis=1)[:, 0]
        bound = variable.rpartition(".")[2] if variable.count(".") == 2 else ""
        causes = parents(variable)
        cause, changed = rng.integers(len(causes), size=len(worlds)), worlds
        for k, name in enumerate(causes):
            rows = np.flatnonzero(cause == k)
            one = altered(worlds.take(rows), name, rng, self.tasks, bound)
            changed = changed.put(rows, one)
        return changed, order


def _several(names: Sequence[str] | str, what: str) -> tuple[str, ...]:
    return check_names(what, one_or_more(names))


def _text(tokens: Sequence[int]) -> str:
    """BOS, then each marker and each row of a grid on a line of its own."""
    words = [CultureTask.vocabulary[token] for token in tokens]
    lines = [words[:1]]
    for start in range(1, len(words), QUARTER):
        lines.append(words[start : start + 1])
        lines += [words[at : at + SIDE] for at in range(start + 1, start + QUARTER, SIDE)]
    return "\n".join(" ".join(line) for line in lines)


# In the original, text is of hexadecimal words and X, Y stand for A, B. Its padding and its first token were "0", which
# is also white: here padding is a token of its own, and "0" no special one, so that decoding keeps white cells.
WORDS = {
    "decimal": (*CultureTask.vocabulary, "pad"),
    "hexadecimal": (*"0123456789a", "X", "f_X", "Y", "f_Y", "[UNK]", "[PAD]"),
}


@cache
def build_tokenizer(words: str = "decimal") -> "PreTrainedTokenizerFast":
    """Words between spaces and line ends. Unknown text is an error, or in "hexadecimal", as in the original, [UNK].

    Raises:
        ValueError: There are no such words.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    check_choice("words", words, WORDS)
    listed, special = WORDS[words], {"pad_token": WORDS[words][-1]}
    unknown = "[UNK]" if "[UNK]" in listed else "<not in the task's vocabulary>"
    if "[UNK]" in listed:
        special["unk_token"] = "[UNK]"
    tokenizer = Tokenizer(models.WordLevel(vocab={word: i for i, word in enumerate(listed)}, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, model_max_length=1 + 4 * QUARTER, **special
    )
