"""A task: a causal model with exact ground truth, the text it is written in, and where each variable stands in it.

Torch is imported only where a batch is built.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from interp_kit.core.config import check_choice, check_count, check_names, check_seed, expect, listed
from interp_kit.core.example import Example, Field
from interp_kit.core.identity import Identity, as_json, fingerprint
from interp_kit.core.showing import caution, counted, line, preview, some

if TYPE_CHECKING:
    import torch

    from interp_kit.core.batch import TokenBatch
    from interp_kit.core.pairs import PairBatch

POOL = 4096  # examples of which every two are compared to make pairs
SAMPLE = "sample them with task.sample(200, seed=0), and pass those as examples (in commands: --limit 200)"
APART, TRIES = 4, 64  # pairs drawn share no text if they use one text in so many; pairs tried for each of them
Completion = Literal["own", "clean", "free"]


def check_sample(n: int, seed: int) -> None:
    """Raise ValueError if n is below 1, or the seed is not a seed."""
    check_count("n", n)
    check_seed(seed)


def _drawn(rows: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """(limit,) numbers, in order, of the (pair, 2) rows that are drawn: pairs in random order, but none that shares a
    text with an earlier one. Any pairs if that would use a quarter of the texts or more, or does not end soon."""
    if APART * 2 * limit < len(np.unique(rows)):
        used: set[int] = set()
        chosen: list[int] = []
        for number in np.random.default_rng(seed).permutation(len(rows))[: TRIES * limit].tolist():
            ends = set(rows[number].tolist())
            if used.isdisjoint(ends):
                used |= ends
                chosen.append(number)
            if len(chosen) == limit:
                return np.sort(chosen)
    return np.sort(np.random.default_rng(seed).choice(len(rows), limit, replace=False))


class AbstractTask(ABC):
    """A task family. A subclass gives the semantics (`enumerate`, `sample`, `fields`, …); batching and pairing are
    here.

    name: registry name. fields: what the model answers, in order. variables: every labelled variable, inputs first.
    inputs: the exogenous ones. numeric: those that are amounts (probed by regression), all others are classes.
    vocabulary: the text of each token id, for axes. pad: the id that fills ragged batches. question: (mediator,
    target), the variable and the field that commands ask about if they are not named.
    """

    name: str
    fields: tuple[Field, ...]
    variables: tuple[str, ...]
    inputs: tuple[str, ...]
    numeric: tuple[str, ...] = ()
    vocabulary: tuple[str, ...]
    pad: int
    question: tuple[str, str] | None = None

    def __repr__(self) -> str:
        n = self.n_worlds
        fields = f"answers {some([field.name for field in self.fields])}"
        return line(type(self).__name__, self.name, fields, "" if n is None else counted(n, "example"))

    def _repr_html_(self) -> str:
        kind = dict.fromkeys(self.numeric, "amount")
        answered = {field.name: field for field in self.fields}
        rows = {
            "variable": self.variables,
            "is": [
                f"{'input' if name in self.inputs else 'computed'}, {kind.get(name, 'class')}"
                for name in self.variables
            ],
            "predicted at": [answered[name].predict if name in answered else "" for name in self.variables],
        }
        return preview(repr(self), rows)

    @property
    def n_worlds(self) -> int | None:
        """Number of distinct examples; None if it is not known."""
        return None

    @abstractmethod
    def enumerate(self) -> list[Example]:
        """Every distinct example. Raises ValueError if there are too many to list."""

    @abstractmethod
    def sample(self, n: int, seed: int) -> list[Example]:
        """n examples drawn independently; the same seed gives the same examples."""

    def playground(self) -> dict[str, Any]:
        """Display of the task on the playground page, as JSON values: `view` names a file in
        `playground/static/views`, and what else it holds is for that view. By default the tokens of an example."""
        return {"view": "tokens"}

    def tokenizer(self) -> object:
        """A Hugging Face tokenizer for the task's text, built offline; by default one that splits at spaces, with ids
        as in `vocabulary`."""
        from interp_kit.core.own_tokens import word_level

        return word_level(self.vocabulary, self.pad)

    def asked(self, mediator: str | None = None, target: str | None = None) -> tuple[str, str]:
        """The mediator and target of a command: those named, and for the others those of `question`.

        Raises:
            ValueError: One is not named, and the task has no question.
        """
        if self.question is None and (mediator is None or target is None):
            raise ValueError(
                f"task {self.name!r} has no question = (mediator, target); name the variable and the target"
                f" (variables: {listed(self.variables)}; targets: {listed([f.name for f in self.fields])})"
            )
        ours = self.question or ("", "")
        return ours[0] if mediator is None else mediator, ours[1] if target is None else target

    def options(self) -> dict[str, Any] | None:
        """The arguments that make this task again, as JSON values; None if they are not known.

        Taken from the attributes that bear the names of the constructor's parameters. Override it for a task that
        keeps them under other names.
        """
        found: dict[str, Any] = {}
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            if name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            try:
                found[name] = as_json(getattr(self, name))
            except (AttributeError, TypeError, ValueError):
                return None
        return found

    def meaning(self) -> dict[str, Any]:
        """Everything that decides how token ids are read and which answers are right, as JSON values: by default
        fields, vocabulary and options. A model that learned one meaning is never studied under another. The code of
        `example` and `intervene` is not part of it: after a change there, train again. Override it for a task with
        options that only choose which examples are drawn."""
        return as_json(
            {"fields": [astuple(f) for f in self.fields], "vocabulary": self.vocabulary, "options": self.options()}
        )

    def describe(self) -> dict[str, Any]:
        """The task as JSON: name, the options that make it again, and its meaning. Saved with models trained on it."""
        return {"name": self.name, "options": self.options(), "meaning": self.meaning()}

    @cached_property
    def identity(self) -> Identity:
        """Name and fingerprint, which batches carry and models are compared with."""
        return Identity(self.name, fingerprint(self.describe()))

    def check_names(self, variable: str, target: str, hold: Sequence[str] | None = None) -> None:
        """Raises ValueError for a variable, a target or a held variable that the task does not have."""
        for name in (variable, *(() if hold is None else check_names("hold", hold, empty=True))):
            if name not in self.variables:
                raise ValueError(f"{self.name} has no variable {name!r}; it has {listed(self.variables, name)}")
        self.field(target)

    def intervene(self, example: Example, do: Mapping[str, int]) -> Mapping[str, int]:
        """The value of every variable in the example's world under do(variable = value).

        Conflict prompts are labelled by it. Raises ValueError if a task defines no interventions, as here.
        """
        raise ValueError(f"{self.name} defines no interventions, so it has no conflict prompts")

    def pool(self, seed: int = 0) -> list[Example]:
        """The distinct examples that pairs are drawn from: all of them, or a sample of 2,000 where they are too many
        (over 4,096, as every two of them are compared)."""
        try:
            everything = self.enumerate()
        except ValueError:
            everything = []
        if 0 < len(everything) <= POOL:
            return everything
        return list({example.tokens: example for example in self.sample(2000, seed)}.values())

    def field(self, name: str) -> Field:
        """The field of that name. Raises ValueError listing those there are."""
        for field in self.fields:
            if field.name == name:
                return field
        raise ValueError(f"{self.name} has no field {name!r}; it has {listed([f.name for f in self.fields], name)}")

    def batch(self, examples: Iterable[Example], device: "str | torch.device" = "cpu") -> "TokenBatch":
        """Examples as one right-padded TokenBatch. Raises ValueError for no examples."""
        from interp_kit.core.batch import collate

        expect("examples", examples, Iterable, "task.batch takes a list of examples, as of task.sample(n, seed)")
        return collate(self, list(examples), device)  # pyright: ignore[reportArgumentType]

    def pairs(
        self,
        variable: str,
        target: str,
        *,
        hold: Sequence[str] | None = None,
        completion: Completion = "own",
        generate: "Callable[[torch.Tensor], torch.Tensor] | None" = None,
        limit: int = 4096,
        seed: int = 0,
    ) -> "PairBatch":
        """Ordered pairs (clean, corrupt) in which `variable` differs and the answer of field `target` differs.

        hold: variables that must agree; None keeps, of all such pairs, those that differ in the fewest inputs (flip as
        little as possible), () keeps every pair. completion: what stands after the corrupt prompt. "own": its own
        true completion, so the token of `variable` itself differs too; "clean": the clean completion, so only the
        prompt differs; "free": what `generate` writes ((batch, pos) prompts -> (batch, pos) prompts with completions),
        for both sides. limit: at most so many pairs, drawn by `seed` with about equal chances. If they use less than a
        quarter of the texts that have a partner, no two pairs drawn share a text, unless so many cannot be found.
        More pairs do share texts, as a draw in which none did would favour texts of few partners. Intervals allow for
        it (`PairBatch.units`), and `PairBatch.apart` leaves such pairs out.

        Raises ValueError for an unknown name and, with the counts, if no such pair exists. Warns if the variable
        itself never changes the target, so that another one must.
        """
        from interp_kit.core.pairs import make_pairs

        check_choice("completion", completion, get_args(Completion))
        check_count("limit", limit)
        check_seed(seed)
        if (completion == "free") != (generate is not None):
            raise ValueError(
                'completion="free" needs generate=…, and only it does: the model must write the completions'
            )
        chosen = self._matching(variable, target, hold, limit, seed, same_prompt_length=completion == "clean")
        self._warn_unrelated(variable, target, chosen)
        clean, corrupt = [a for a, _ in chosen], [b for _, b in chosen]
        if completion == "clean":
            corrupt = [
                replace(b, tokens=(*b.tokens[: b.prompt_length], *a.tokens[a.prompt_length :])) for a, b in chosen
            ]
        if generate is not None:
            clean, corrupt = self._complete(clean, generate), self._complete(corrupt, generate)
        made = make_pairs(self, clean, corrupt, variable, target, completion)  # pyright: ignore[reportArgumentType]
        return replace(made, whole=self._lists_all and len(chosen) < limit)

    def conflict_pairs(
        self, variable: str, target: str, *, hold: Sequence[str] | None = None, limit: int | None = None, seed: int = 0
    ) -> "PairBatch":
        """Conflict prompts: clean is a true world, corrupt the same text with only `variable`'s own token from the
        other.

        The corrupt labels are those of do(variable) in the clean world, and only pairs whose target it changes are
        kept. So a model that follows the token gives the corrupt answer, and one that follows the inputs from which the
        token was computed keeps the clean one. limit: at most so many of the pairs that they are made from, drawn by
        `seed`; None: all. Raises ValueError for an unknown name, if the variable is never written, or no pair exists.
        """
        from interp_kit.core.pairs import make_pairs

        check_count("limit", 1 if limit is None else limit)
        check_seed(seed)
        chosen = self._matching(variable, target, hold, limit, seed)
        written = [(a, b) for a, b in chosen if variable in a.positions and variable in b.positions]
        if not written:
            what = f"{variable} is a variable of {self.name}, but its value is not a token of the text"
            raise ValueError(f"{what}, so its token cannot be crossed")
        crossed = [(a, self._conflict(a, b, variable)) for a, b in written]
        kept = [(a, c) for a, c in crossed if c.labels[target] != a.labels[target]]
        if not kept:
            raise ValueError(
                f"no conflict prompt: in none of {len(written)} pairs does {variable!r} alone change {target!r}"
            )
        made = make_pairs(self, [a for a, _ in kept], [c for _, c in kept], variable, target, "conflict")  # pyright: ignore[reportArgumentType]
        return replace(made, whole=self._lists_all and (limit is None or len(chosen) < limit))

    @property
    def _lists_all(self) -> bool:
        """True if `pool` is every example there is."""
        return self.n_worlds is not None and self.n_worlds <= POOL

    def _warn_unrelated(self, variable: str, target: str, chosen: list[tuple[Example, Example]]) -> None:
        """Warn where the target differs in every pair for another reason than the variable. Tasks that define no
        interventions cannot tell, and those that make their own counterfactuals need not."""
        kind = type(self)
        if kind.intervene is AbstractTask.intervene or kind._matching is not AbstractTask._matching:
            return
        if not any(self.intervene(a, {variable: b.labels[variable]})[target] != a.labels[target] for a, b in chosen):
            others = sorted({name for a, b in chosen for name in self.inputs if a.labels[name] != b.labels[name]})
            caution(
                f"in none of {len(chosen)} pairs does {variable!r} alone change {target!r}, which differs by"
                f" {', '.join(others)}: what patching recovers there says nothing about {variable!r}"
            )

    def _matching(
        self,
        variable: str,
        target: str,
        hold: Sequence[str] | None,
        limit: int | None,
        seed: int,
        same_prompt_length: bool = False,
    ) -> list[tuple[Example, Example]]:
        """Ordered pairs (clean, corrupt) for `pairs` and `conflict_pairs`. A task too large to list may override it
        with counterfactuals of its own."""
        self.check_names(variable, target, hold)
        pool = self.pool(seed)
        value = {name: np.array([example.labels[name] for example in pool]) for name in self.variables}
        differ = {name: value[name][:, None] != value[name][None, :] for name in self.variables}
        lengths = np.array([(len(e.tokens), e.prompt_length if same_prompt_length else 0) for e in pool])
        found = differ[variable] & (lengths[:, None] == lengths[None, :]).all(-1)
        for name in hold or ():
            found &= ~differ[name]
        usable = found & differ[target]
        if not usable.any():
            raise ValueError(
                f"no such pair of {self.name} inputs: {int(found.sum())} ordered pairs differ in {variable!r} with"
                f" {', '.join(hold) if hold else 'nothing'} held, and in none of them does the answer of {target!r}"
                " differ"
            )
        if hold is None:
            distance = np.sum([differ[name] for name in self.inputs], axis=0)
            usable &= distance == distance[usable].min()
        rows = np.argwhere(usable)
        if limit is not None and len(rows) > limit:
            rows = rows[_drawn(rows, limit, seed)]
        return [(pool[i], pool[j]) for i, j in rows]

    def _conflict(self, base: Example, other: Example, variable: str) -> Example:
        tokens = list(base.tokens)
        tokens[base.positions[variable]] = other.tokens[other.positions[variable]]
        labels = self.intervene(base, {variable: other.labels[variable]})
        return replace(base, tokens=tuple(tokens), labels=labels)

    @staticmethod
    def _complete(examples: list[Example], generate: "Callable[[torch.Tensor], torch.Tensor]") -> list[Example]:
        import torch

        completed: dict[int, Example] = {}
        for length in {example.prompt_length for example in examples}:
            rows = [i for i, example in enumerate(examples) if example.prompt_length == length]
            prompts = torch.tensor([examples[i].tokens[:length] for i in rows])
            texts = generate(prompts).tolist()
            for i, prompt, text in zip(rows, prompts.tolist(), texts, strict=True):
                needed = len(examples[i].tokens)
                if text[:length] != prompt or len(text) < needed:
                    raise ValueError(f"generate must give each prompt with its completion, {needed} tokens or more")
                completed[i] = replace(examples[i], tokens=tuple(text[:needed]))
        return [completed[i] for i in range(len(examples))]
