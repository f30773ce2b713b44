"""Text of a world: `0,1,1,1,0` then `\\n1,0,0,0\\n3 - 1\\n`; and the closed tokenizer that splits it as
GPT-2's does."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from interp_kit.core.example import Field
from interp_kit.tasks.boolean.equations import StructuralModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
# The ids that GPT-2's own vocabulary gives to the pieces of this text, for checkpoints trained with all of it.
GPT2_SIZE = 50257
GPT2_IDS = {
    **{str(digit): 15 + digit for digit in range(10)},
    **{f" {digit}": i for digit, i in enumerate((657, 352, 362, 513, 604, 642, 718, 767, 807, 860))},
    ",": 11,
    " -": 532,
    "\n": 198,
    END_OF_TEXT: 50256,
}


def parse_input(text: str, n: int) -> tuple[int, ...]:
    """`"1,0,1,0,1"` -> (1, 0, 1, 0, 1). Raises ValueError saying what is wrong: length, or a value that is not a
    bit."""
    parts = text.strip().split(",")
    if len(parts) != n:
        raise ValueError(
            f"input {text!r} has {len(parts)} values, expected {n} (like {','.join('01'[i % 2] for i in range(n))})"
        )
    for part in parts:
        if part.strip() not in ("0", "1"):
            raise ValueError(f"input {text!r}: {part.strip()!r} is neither 0 nor 1")
    return tuple(int(part) for part in parts)


class TextFormat:
    """Tokens, named positions and fields of a structural model's text. One name for every token of an example.

    Names: `A` is A's token, `A,` the comma after it; `newD` is newD's token and `newD?` the position before it, whose
    logits predict it; `end` the last newline, `eos` the end-of-text token.
    """

    def __init__(self, model: StructuralModel, vocabulary: Literal["closed", "gpt2"] = "closed") -> None:
        self.model = model
        pieces = (
            *(str(value) for value in range(max(2, len(model.inputs) + 1))),
            *(f" {value}" for value in range(len(model.outputs) + 1)),
            ",",
            " -",
            "\n",
            END_OF_TEXT,
        )
        ids = {piece: i for i, piece in enumerate(pieces)} if vocabulary == "closed" else GPT2_IDS
        for piece in pieces:
            if piece not in ids:
                raise ValueError(f"the gpt2 vocabulary is known here for numbers up to 9; there is no id for {piece!r}")
        self.token_id = {piece: ids[piece] for piece in pieces}
        text_of = {i: piece for piece, i in self.token_id.items()}
        size = len(pieces) if vocabulary == "closed" else GPT2_SIZE
        self.vocabulary: tuple[str, ...] = tuple(text_of.get(i, f"<{i}>") for i in range(size))
        names = [name for variable in model.inputs for name in (variable, f"{variable},")][:-1]
        for variable in (*model.outputs, "sum1", "sum2"):
            names += [f"{variable}?", variable]
        self.positions = {name: i for i, name in enumerate([*names, "end", "eos"])}
        self.prompt_length = 2 * len(model.inputs) - 1

    @property
    def fields(self) -> tuple[Field, ...]:
        """newA … sum2 in the order in which they are written."""

        def field(name: str, values: range, prefix: str) -> Field:
            return Field(name, f"{name}?", tuple(values), tuple(self.token_id[f"{prefix}{v}"] for v in values))

        return (
            *(field(name, range(2), "") for name in self.model.outputs),
            field("sum1", range(len(self.model.inputs) + 1), ""),
            field("sum2", range(len(self.model.outputs) + 1), " "),
        )

    def pieces(self, values: dict[str, int]) -> tuple[str, ...]:
        """The text of a world, token by token, end-of-text included."""
        model = self.model
        return (
            *_joined(values, model.inputs), "\n", *_joined(values, model.outputs), "\n",
            str(values["sum1"]), " -", f" {values['sum2']}", "\n", END_OF_TEXT,
        )  # fmt: skip


def _joined(values: dict[str, int], names: Sequence[str]) -> list[str]:
    return [piece for name in names for piece in (str(values[name]), ",")][:-1]


@lru_cache(maxsize=8)
def build_tokenizer(token_id: tuple[tuple[str, int], ...]) -> "PreTrainedTokenizerFast":
    """A closed tokenizer for the task's token types that splits text by GPT-2's rule. Unknown text is an error, not
    <unk>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    spelled = {text.replace(" ", "Ġ").replace("\n", "Ċ"): i for text, i in token_id}
    tokenizer = Tokenizer(models.WordLevel(vocab=spelled, unk_token="<not in the task's vocabulary>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )
