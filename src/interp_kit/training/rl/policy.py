"""A GPT-2 as a policy: sampling and log-probabilities of completions of prompts of unequal length.

Prompts are padded on the left. GPT-2 then counts positions from the first pad, so a hook derives them from the mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp_kit.core.config import check_count, check_number
from interp_kit.engine.inputs import check_length

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle
    from transformers import GPT2LMHeadModel


def positions_of(mask: Tensor) -> Tensor:
    """(batch, pos) the index of each token among those of its row that the mask keeps; 0 for padding before them."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def hook_positions(model: "GPT2LMHeadModel") -> "RemovableHandle":
    """Let a GPT-2 derive position ids from the attention mask where none are given.

    Args:
        model: The model; only `model.transformer` is hooked, so wrappers of `forward` and `generate` keep working.

    Returns:
        The handle that removes the hook.
    """

    def derive(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any] | None:
        mask = kwargs.get("attention_mask")
        if mask is None or mask.ndim != 2 or kwargs.get("position_ids") is not None:
            return None
        ids = args[0] if args else kwargs.get("input_ids")
        length = (kwargs["inputs_embeds"] if ids is None else ids).shape[1]
        return args, {**kwargs, "position_ids": positions_of(mask)[:, -length:]}

    return model.transformer.register_forward_pre_hook(derive, with_kwargs=True)


@dataclass(frozen=True)
class Completions:
    """Sampled completions, k of each prompt, those of one prompt together.

    Attributes:
        tokens: (prompts * k, longest) Token ids; beyond the end of one, end-of-text.
        mask: (prompts * k, longest) True up to and with the end-of-text.
        log_probs: (prompts * k, longest) Log-probability of each token at the temperature of sampling; 0 beyond.
    """

    tokens: Tensor
    mask: Tensor
    log_probs: Tensor

    def lists(self) -> list[list[int]]:
        """The token ids of each completion, with its end-of-text if there is one."""
        return [row[kept].tolist() for row, kept in zip(self.tokens, self.mask, strict=True)]


class Policy(nn.Module):
    """A GPT-2, or one with a value head, that completes prompts.

    Args:
        model: The language model; its positions are hooked until `close` is called.
        end: Id of end-of-text, which ends a completion and pads.
        value_head: Add a linear map from the last hidden state to a value, at first 0 everywhere.
    """

    def __init__(self, model: "GPT2LMHeadModel", end: int, *, value_head: bool = False) -> None:
        super().__init__()
        check_count("end", end, least=0, most=model.config.vocab_size - 1)
        self.model, self.end = model, end
        self.value_head = nn.Linear(model.config.n_embd, 1) if value_head else None
        if self.value_head is not None:
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
            self.value_head.to(next(model.parameters()).device)
        self._hook = hook_positions(model)

    def close(self) -> None:
        """Take the hook off the model."""
        self._hook.remove()

    def log_probs(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Score completions in one forward pass, with gradients.

        Args:
            prompts: Token ids of each prompt, of any lengths.
            completions: Token ids of each completion, with its end-of-text.
            temperature: Divides the logits.

        Returns:
            (n, longest) log-probability of each token of the completions, and (n, longest) True where there is one.

        Raises:
            ValueError: Not as many completions as prompts, an empty one, or a text longer than the context.
        """
        check_number("temperature", temperature, above=0)
        tokens, mask, written, kept = self._batch(prompts, completions)
        longest = written.shape[1]
        out = self.model(input_ids=tokens, attention_mask=mask, logits_to_keep=longest + 1, use_cache=False)
        scores = (out.logits[:, :-1] / temperature).log_softmax(-1)
        return scores.gather(-1, written[..., None])[..., 0].masked_fill(~kept, 0.0), kept

    def values(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """The value head before each token of the completions.

        Args:
            prompts: As in `log_probs`.
            completions: As in `log_probs`.

        Returns:
            (n, longest) values of the states in which the tokens are chosen, and the mask of `log_probs`.

        Raises:
            ValueError: There is no value head; or as `log_probs`.
        """
        if self.value_head is None:
            raise ValueError("this policy has no value head; make it with value_head=True")
        tokens, mask, written, kept = self._batch(prompts, completions)
        hidden = self.model.transformer(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
        found = self.value_head(hidden[:, -written.shape[1] - 1 : -1])[..., 0]
        return found.masked_fill(~kept, 0.0), kept

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        k: int,
        longest: int,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Completions:
        """Draw k completions of each prompt, until each has ended or has `longest` tokens.

        Args:
            prompts: Token ids of each prompt, of any lengths; each is run once, whatever k is.
            k: Completions per prompt.
            longest: Most tokens of a completion.
            temperature: Divides the logits.
            generator: Source of randomness; None is torch's own.

        Raises:
            ValueError: No prompts, an empty one, or one that leaves no room for `longest` tokens in the context.
        """
        check_count("k", k)
        check_count("longest", longest)
        check_number("temperature", temperature, above=0)
        ids, mask = self._padded_left(prompts)
        check_length(ids.shape[1] + longest, self.model.config.n_positions)
        out = self.model(input_ids=ids, attention_mask=mask, logits_to_keep=1, use_cache=True)
        cache, logits, mask = out.past_key_values, out.logits.repeat_interleave(k, 0), mask.repeat_interleave(k, 0)
        cache.batch_repeat_interleave(k)
        over = torch.zeros(len(mask), dtype=torch.bool, device=ids.device)
        tokens, kept, log_probs = [], [], []
        for step in range(longest):
            scores = (logits[:, -1] / temperature).log_softmax(-1)
            drawn = torch.multinomial(scores.exp(), 1, generator=generator)
            drawn = drawn.masked_fill(over[:, None], self.end)
            tokens.append(drawn)
            kept.append(~over[:, None])
            log_probs.append(scores.gather(-1, drawn).masked_fill(over[:, None], 0.0))
            over = over | (drawn[:, 0] == self.end)
            if over.all() or step == longest - 1:
                break
            mask = torch.cat([mask, torch.ones_like(drawn)], 1)
            out = self.model(input_ids=drawn, attention_mask=mask, past_key_values=cache, use_cache=True)
            logits = out.logits
        return Completions(torch.cat(tokens, 1), torch.cat(kept, 1), torch.cat(log_probs, 1))

    def _padded_left(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        if not len(prompts) or not all(len(prompt) for prompt in prompts):
            raise ValueError("no prompts, or an empty one; expected at least one token in each")
        width = max(len(prompt) for prompt in prompts)
        device = self.model.lm_head.weight.device
        ids = torch.full((len(prompts), width), self.end, device=device)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.as_tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        return ids, mask

    def _batch(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Whole texts and their mask, then the completions alone (padded on the right) and theirs."""
        if len(prompts) != len(completions) or not all(len(completion) for completion in completions):
            raise ValueError(
                f"{len(completions)} completions of {len(prompts)} prompts; expected one each, of a token or more"
            )
        ids, mask = self._padded_left(prompts)
        longest = max(len(completion) for completion in completions)
        check_length(ids.shape[1] + longest, self.model.config.n_positions)
        written = torch.full((len(ids), longest), self.end, device=ids.device)
        for row, completion in enumerate(completions):
            written[row, : len(completion)] = torch.as_tensor(completion)
        lengths = torch.tensor([len(completion) for completion in completions], device=ids.device)
        kept = torch.arange(longest, device=ids.device) < lengths[:, None]
        return torch.cat([ids, written], 1), torch.cat([mask, kept.long()], 1), written, kept
