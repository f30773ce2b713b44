"""Decoding beside TransformerLens: the last grid of 50 quizzes, greedily, 101 tokens after 304."""

import torch

from benchmarks.measure import Row, compare
from interp_kit.engine.decode import decode
from interp_kit.models.convert import convert_mygpt, key_value_cache
from interp_kit.models.mygpt import MyGPT, MyGPTConfig

PROMPT, END = 304, 405
MIDDLE, SOME = 354, 2  # where, and how many tokens, `generate` without a cache is timed on


def decoding() -> list[Row]:
    """Against TransformerLens with its cache, fed by hand one token at a time, intact and with a head off; and against
    its `generate` without.

    `generate` with its cache is not compared: without a tokenizer its tokens are other ones. Without it, all 101 tokens
    take minutes: two are generated, at the middle of the span (the longer the text, the more a token costs), and their
    seconds multiplied.
    """
    torch.manual_seed(0)
    model = convert_mygpt(MyGPT(MyGPTConfig(15, d_model=128, d_key=32, d_value=32, d_mlp=512, n_heads=4, n_layers=4)))
    tokens = torch.randint(0, 11, (50, END), generator=torch.Generator().manual_seed(0))
    free = torch.arange(END) >= PROMPT

    def head_off(site: str, layer: int, start: int, value: torch.Tensor) -> None:
        if (site, layer) == ("z", 1):
            value[:, :, 0] = 0

    def head_off_hook(value: torch.Tensor, hook: object) -> torch.Tensor:
        value[:, :, 0] = 0
        return value

    @torch.inference_mode()
    def cached() -> torch.Tensor:
        cache, text, new = key_value_cache(model, len(tokens)), tokens[:, :PROMPT], tokens[:, :PROMPT]
        while text.shape[1] < END:
            logits = model(new, past_kv_cache=cache, attention_mask=torch.ones_like(new))
            new = logits[:, -1].argmax(-1, keepdim=True)
            text = torch.cat([text, new], dim=1)
        return text

    def hooked() -> torch.Tensor:
        with model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", head_off_hook)]):
            return cached()

    def uncached() -> torch.Tensor:
        text = model.generate(
            written[:, :MIDDLE],
            max_new_tokens=SOME,
            do_sample=False,
            stop_at_eos=False,
            use_past_kv_cache=False,
            verbose=False,
        )
        assert isinstance(text, torch.Tensor)
        return text

    written = decode(model, tokens, free).tokens
    edited = decode(model, tokens, free, edit=head_off, batch_size=None).tokens
    assert torch.equal(written, cached()), "not the same tokens"
    assert torch.equal(edited, hooked()), "not the same tokens"
    assert not torch.equal(edited, written), "the head does nothing"
    assert torch.equal(written[:, : MIDDLE + SOME], uncached()), "not the same tokens"
    work = f"decoding {END - PROMPT} tokens after {PROMPT}, 4 layers, d 128, {len(tokens)} texts"
    rows = compare(
        work,
        lambda: decode(model, tokens, free),
        {"TransformerLens with its cache, token by token": cached},
        difference="same tokens",
    )
    rows += compare(
        f"{work}, one head off",
        lambda: decode(model, tokens, free, edit=head_off, batch_size=None),
        {"the same with a hook": hooked},
        difference="same tokens",
    )
    rows += compare(
        work,
        lambda: decode(model, tokens, free),
        {f"TransformerLens's generate, no cache ({SOME} tokens timed, at {MIDDLE})": uncached},
        difference="same tokens",
        scale=(END - PROMPT) / SOME,
        repeats=9,
    )
    return rows
