"""A tokenizer for texts whose tokens stand apart by spaces."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def word_level(vocabulary: Sequence[str], end: int) -> "PreTrainedTokenizerFast":
    """A Hugging Face tokenizer that splits at spaces.

    Args:
        vocabulary: The text of each token id.
        end: The id that ends a text and fills ragged batches.

    Raises:
        ValueError: A text stands for two ids or holds a space, or the end is no id.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {text: i for i, text in enumerate(vocabulary)}
    if len(ids) < len(vocabulary):
        twice = next(text for i, text in enumerate(vocabulary) if ids[text] != i)
        raise ValueError(f"the vocabulary has {twice!r} twice; expected one id per text")
    if spaced := [text for text in vocabulary if text.split() != [text]]:
        raise ValueError(f"the vocabulary has {spaced[0]!r}, which cannot be split at spaces; define tokenizer()")
    if end not in range(len(vocabulary)):
        raise ValueError(f"the end of text is token {end}; expected one of 0 to {len(vocabulary) - 1}")
    tokenizer = Tokenizer(models.WordLevel(vocab=ids, unk_token="<not in the task's vocabulary>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([vocabulary[end]])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=vocabulary[end],
        pad_token=vocabulary[end],
        clean_up_tokenization_spaces=False,
    )
