"""A GPT-2 as a policy: left padding changes nothing, sampling stops, values are those of the states."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from interp_kit.training.rl.policy import Policy, hook_positions, positions_of

END = 0
PROMPTS = [[5], [3, 4, 1, 2, 6], [7, 8, 2], [2, 2, 2, 2, 2, 2, 2, 9]]
WRITTEN = [[4, END], [1, 2, 3, END], [END], [6, 5]]


@pytest.fixture
def model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    size = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 16, "vocab_size": 11}
    # positions have to matter: at GPT-2's own initialisation they hardly do
    return GPT2LMHeadModel(GPT2Config(**size, initializer_range=1.0, bos_token_id=END, eos_token_id=END)).eval()


def alone(model: GPT2LMHeadModel, prompt: list[int], written: list[int], temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities of one text without padding."""
    logits = model(torch.tensor([[*prompt, *written]])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1)[torch.arange(len(written)), written]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_without_padding(model: GPT2LMHeadModel, temperature: float) -> None:
    policy = Policy(model, END)
    found, mask = policy.log_probs(PROMPTS, WRITTEN, temperature)
    assert mask.sum(1).tolist() == [len(written) for written in WRITTEN]
    for row, kept, prompt, written in zip(found, mask, PROMPTS, WRITTEN, strict=True):
        torch.testing.assert_close(row[kept], alone(model, prompt, written, temperature), atol=1e-4, rtol=0)
        assert not row[~kept].any()
    policy.close()
    unhooked, _ = policy.log_probs(PROMPTS, WRITTEN, temperature)
    assert (found - unhooked).abs().max() > 0.1  # the control: without the hook they are others


def test_the_gradient_is_that_without_padding(model: GPT2LMHeadModel) -> None:
    Policy(model, END).log_probs(PROMPTS, WRITTEN)[0].sum().backward()
    padded = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    sum(alone(model, p, w).sum() for p, w in zip(PROMPTS, WRITTEN, strict=True)).backward()  # pyright: ignore[reportAttributeAccessIssue]
    for name, p in model.named_parameters():
        torch.testing.assert_close(padded[name], p.grad, atol=1e-4, rtol=1e-4)


def test_the_hook_leaves_given_positions_and_generation_alone(model: GPT2LMHeadModel) -> None:
    tokens, mask = torch.tensor([[0, 0, 5, 6], [1, 2, 3, 4]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    assert positions_of(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": END}
    given = torch.arange(4).repeat(2, 1)
    before = model(tokens, attention_mask=mask, position_ids=given).logits
    singly = model.generate(tokens[:1, 2:], **options)[0, 2:]
    handle = hook_positions(model)
    assert torch.equal(model(tokens, attention_mask=mask, position_ids=given).logits, before)
    assert torch.equal(model.generate(tokens, attention_mask=mask, **options)[0, 4:], singly)
    handle.remove()


def test_sampling_follows_the_model_and_stops_at_end_of_text(model: GPT2LMHeadModel) -> None:
    policy, k = Policy(model, END), 4000
    drawn = policy.sample(PROMPTS, k, 4, generator=torch.Generator().manual_seed(1))
    assert drawn.tokens.shape == (len(PROMPTS) * k, 4)
    for completion in drawn.lists()[:: k // 50]:
        assert END not in completion[:-1]
        assert completion[-1] == END or len(completion) == 4
    assert (drawn.tokens[~drawn.mask] == END).all()
    for i, prompt in enumerate(PROMPTS):
        first = drawn.tokens[i * k : (i + 1) * k, 0]
        wanted = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
        assert (torch.bincount(first, minlength=11) / k - wanted).abs().max() < 4 * 0.5 / k**0.5
    rows = slice(k - 20, k + 20)  # of two prompts
    scored, mask = policy.log_probs([PROMPTS[0]] * 20 + [PROMPTS[1]] * 20, drawn.lists()[rows])
    width = scored.shape[1]
    assert torch.equal(mask, drawn.mask[rows, :width])
    torch.testing.assert_close(drawn.log_probs[rows, :width], scored, atol=1e-4, rtol=0)


def test_sampling_is_reproducible_and_ends_early(model: GPT2LMHeadModel) -> None:
    policy = Policy(model, END)
    first, second = (policy.sample(PROMPTS, 3, 5, generator=torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(first.tokens, second.tokens)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.fill_(1.0)
        model.lm_head.weight[END] = 10.0
    assert policy.sample(PROMPTS, 3, 5).lists() == [[END]] * 12


def test_values_are_those_of_the_states_without_padding(model: GPT2LMHeadModel) -> None:
    policy = Policy(model, END, value_head=True)
    head = policy.value_head
    assert head is not None
    assert not policy.values(PROMPTS, WRITTEN)[0].any()
    torch.nn.init.normal_(head.weight)
    found, mask = policy.values(PROMPTS, WRITTEN)
    for row, kept, prompt, written in zip(found, mask, PROMPTS, WRITTEN, strict=True):
        hidden = model.transformer(torch.tensor([[*prompt, *written]])).last_hidden_state[0]
        torch.testing.assert_close(row[kept], head(hidden[len(prompt) - 1 : -1])[:, 0], atol=1e-4, rtol=0)
    assert any(p is head.weight for p in policy.parameters())


def test_bad_input_is_one_clear_error(model: GPT2LMHeadModel) -> None:
    policy = Policy(model, END)
    with pytest.raises(ValueError, match="no value head"):
        policy.values(PROMPTS, WRITTEN)
    with pytest.raises(ValueError, match="1 completions of 4 prompts"):
        policy.log_probs(PROMPTS, [[1]])
    with pytest.raises(ValueError, match="no prompts"):
        policy.sample([], 1, 1)
    with pytest.raises(ValueError, match="an empty one"):
        policy.sample([[]], 1, 1)
    with pytest.raises(ValueError, match="texts of 18 tokens"):
        policy.sample(PROMPTS, 1, 10)
    with pytest.raises(ValueError, match="temperature is 0"):
        policy.sample(PROMPTS, 1, 1, temperature=0.0)
    with pytest.raises(ValueError, match="end is 11"):
        Policy(model, 11)
