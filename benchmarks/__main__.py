"""`make bench`: our sweeps and our decoding beside TransformerLens's own, in one run, same numbers, as ratios.

Results are checked equal before they are timed against each other. Machines are noisy: each side runs alternately,
REPEATS times, and the ratio of medians is given with its range.
"""

import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from transformer_lens import patching

import interp_kit as ik
from interp_kit.core.files import write_text
from interp_kit.models.convert import convert_mygpt, hooked_transformer, key_value_cache
from interp_kit.models.decode import decode
from interp_kit.models.mygpt import MyGPT, MyGPTConfig

REPEATS = 5
RESULTS = Path(__file__).parent / "RESULTS.md"


def alternate(ours: Callable[[], object], peer: Callable[[], object]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of each side, (REPEATS,), run in turn after one warm-up."""
    ours(), peer()
    seconds = np.empty((2, REPEATS))
    for i in range(REPEATS):
        for j, side in enumerate((ours, peer)):
            start = time.perf_counter()
            side()
            seconds[j, i] = time.perf_counter() - start
    return seconds[0], seconds[1]


def by_position() -> list[str]:
    """Residual patching by position: `ik.patch` against get_act_patch_resid_pre, as it comes and under no_grad."""
    task = ik.task("boolean")
    pairs = task.pairs("newB", "newD")
    model = hooked_transformer(
        n_layers=4, d_model=128, n_ctx=64, d_head=32, n_heads=4, d_mlp=512, d_vocab=15, act_fn="gelu_new", seed=0
    )
    metric = ik.logit_difference(pairs)
    _, cache = model.run_with_cache(pairs.clean.tokens)

    def peer() -> torch.Tensor:
        return patching.get_act_patch_resid_pre(
            model, pairs.corrupt.tokens, cache, lambda logits: metric(logits, pairs.corrupt).mean()
        )

    def peer_without_grad() -> torch.Tensor:
        with torch.no_grad():
            return peer()

    def ours() -> np.ndarray:
        return ik.patch(model, pairs).values.mean(1)

    difference = np.abs(ours() - peer().detach().flatten().numpy()).max()
    assert difference < 1e-4, f"not the same numbers: {difference:.1e}"
    rows = []
    for name, other in (("as it comes", peer), ("under no_grad", peer_without_grad)):
        mine, theirs = alternate(ours, other)
        ratios = theirs / mine
        rows.append(
            f"| resid_pre by position, 4 layers, d 128, {len(pairs)} pairs | transformer_lens.patching, {name} |"
            f" {np.median(theirs) / np.median(mine):.2f}x | {ratios.min():.2f} to {ratios.max():.2f} |"
            f" {difference:.0e} |"
        )
    return rows


def decoding() -> list[str]:
    """The last grid of 50 quizzes, greedily: 101 tokens after 304, against TransformerLens with its cache, fed by hand
    one token at a time, and against its `generate` without.

    `generate` with its cache is not compared: without a tokenizer its tokens are other ones. Without it, all 101 tokens
    take minutes: two are generated, at the middle of the span (the longer the text, the more a token costs), and their
    seconds multiplied.
    """
    sizes = MyGPTConfig(d_vocab=15, d_model=128, d_key=32, d_value=32, d_mlp=512, n_heads=4, n_layers=4)
    model = convert_mygpt(MyGPT(sizes))
    prompt, end, middle, some = 304, 405, 354, 2
    tokens = torch.randint(0, 11, (50, end), generator=torch.Generator().manual_seed(0))
    free = torch.arange(end) >= prompt

    def ours() -> torch.Tensor:
        return decode(model, tokens, free).tokens

    @torch.inference_mode()
    def cached() -> torch.Tensor:
        cache, text, new = key_value_cache(model, len(tokens)), tokens[:, :prompt], tokens[:, :prompt]
        while text.shape[1] < end:
            logits = model(new, past_kv_cache=cache, attention_mask=torch.ones_like(new))
            new = logits[:, -1].argmax(-1, keepdim=True)
            text = torch.cat([text, new], dim=1)
        return text

    def uncached() -> torch.Tensor:
        options = {"do_sample": False, "stop_at_eos": False, "use_past_kv_cache": False, "verbose": False}
        return model.generate(written[:, :middle], max_new_tokens=some, **options)

    found = decode(model, tokens, free)
    written = found.tokens
    assert torch.equal(written, cached()), "not the same tokens"
    assert torch.equal(written[:, : middle + some], uncached()), "not the same tokens"
    with torch.inference_mode():
        scores = model(written)[:, :-1].log_softmax(-1).gather(-1, written[:, 1:, None])[..., 0]
    difference = (found.log_prob[:, 1:] - scores)[:, prompt - 1 :].abs().max()
    rows = []
    for name, other, scale in (
        ("TransformerLens with its cache, token by token", cached, 1.0),
        (f"TransformerLens's generate, no cache ({some} tokens timed, at {middle})", uncached, (end - prompt) / some),
    ):
        mine, theirs = alternate(ours, other)
        ratios = theirs * scale / mine
        rows.append(
            f"| decoding {end - prompt} tokens after {prompt}, 4 layers, d 128, {len(tokens)} texts | {name} |"
            f" {np.median(theirs) * scale / np.median(mine):.2f}x | {ratios.min():.2f} to {ratios.max():.2f} |"
            f" {difference:.0e} |"
        )
    return rows


def main() -> None:
    """Run everything and write RESULTS.md."""
    torch.set_num_threads(1)
    rows = [*by_position(), *decoding()]
    text = "\n".join(
        [
            "# Benchmarks",
            "",
            f"One thread, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__},"
            f" TransformerLens {metadata.version('transformer-lens')}; {REPEATS} alternating repetitions.",
            "",
            "| work | against | times faster (ratio of medians) | range | largest difference of results |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
    print(text)
    write_text(RESULTS, text)


if __name__ == "__main__":
    main()
