"""Speed of a graphics card: `python -m benchmarks.gpu` takes less than four minutes on one and prints what RESULTS.md
takes, with the card's name.

First, everything is compared with the processor: no number may differ by more than 1e-3. Then patching and ranking
stand beside TransformerLens on the same card, from texts to a table of values, and the training of SAEs and culture
networks is counted. `--device cpu --tiny` goes the same way without a card, on models that say nothing about speed.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
import tyro
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens import patching as peers

import interp_kit as ik
from benchmarks.measure import HEADER, compare
from benchmarks.patching import GPT2, LENGTH, random_model, random_pairs
from benchmarks.sae import planted
from interp_kit.analysis.dictionaries.sae_training import import_sae_lens
from interp_kit.analysis.dictionaries.topk_loop import TopKLoop
from interp_kit.core.showing import show_no_bars
from interp_kit.models.device import check_device
from interp_kit.studies.culture.training.learner import Learner
from interp_kit.studies.culture.training.presets import PRESETS

ALLOWED = 1e-3


@dataclass(frozen=True)
class Options:
    """device: what is measured; tiny: small models and one repetition, to try the script."""

    device: str = "cuda"
    tiny: bool = False


@dataclass(frozen=True)
class Size:
    """layers, width, heads, words: of the model that is patched; rows: pairs; part: one edit of so many is timed with
    TransformerLens; seconds: of each training; width_sae, batch: of the SAE; preset: the culture network."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    words: int = GPT2
    rows: int = 16
    part: int = 7
    seconds: float = 15.0
    width_sae: int = 8192
    batch: int = 4096
    preset: str = "wide"


TINY = Size(2, 32, 2, 50, 2, 3, 0.2, 128, 64, "17K")


def main(options: Options) -> None:
    """Print the part of RESULTS.md that is about this device. Raises AssertionError if a number differs from the
    processor's by more than ALLOWED."""
    check_device(options.device)
    show_no_bars()
    torch.set_num_threads(1)
    size = TINY if options.tiny else Size()
    name = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else options.device
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in ("torch", "transformer-lens"))
    print(f"### {name}{' (tiny: says nothing about speed)' if options.tiny else ''}\n\n{versions}.\n")
    print(f"| compared with the processor | largest difference, of at most {ALLOWED:g} |\n|---|---|", flush=True)
    for what, difference in differences(size, options.device):
        print(f"| {what} | {difference:.0e} |", flush=True)
        assert difference <= ALLOWED, f"{what}: {difference:.1e} from the processor's"
    print(f"\n{HEADER}", flush=True)
    for work in (patched, ranked):
        for row in work(size, options.device, 1 if options.tiny else 3):
            print(row, flush=True)
    print("\n| training | a second | steps counted |\n|---|---|---|", flush=True)
    for training in (sae, culture):
        print(training(size, options.device), flush=True)


def differences(size: Size, device: str) -> Iterator[tuple[str, float]]:
    """Analyses of a small random model, on the processor and on the device, with the same examples."""
    here, there = (random_model(min(size.layers, 4), 32, 2) for _ in range(2))
    there, pairs = there.to(device, print_details=False), random_pairs(size.rows // 2 + 1)
    batch, free = pairs.clean, torch.arange(LENGTH + 1) >= LENGTH // 2
    edits = [ik.Edit("mlp_out", 1, ik.Mean()), ik.Edit("q", 1, ik.Scale(2.0), head=1), ik.Edit("b_out", 0)]
    edges: dict[int, Any] = {id(model): ik.score_edges(model, pairs, steps=3) for model in (here, there)}
    works: dict[str, Callable[[Any], Any]] = {
        "logits": lambda model: model(batch.tokens.to(model.cfg.device)),
        "harvest": lambda model: ik.harvest(model, batch, "resid_post.1")["resid_post.1"],
        "patch, residual streams": lambda model: ik.patch(model, pairs).values,
        "patch, heads": lambda model: ik.patch(model, pairs, sites="z").values,
        "ablate, mean": lambda model: ik.ablate(model, batch, metric=ik.kl).importance(),
        "ablate, resample": lambda model: ik.ablate(model, batch, kind="resample", metric=ik.kl).importance(),
        "sweep": lambda model: ik.sweep(model, batch, edits, ik.log_probability()).values,
        "score_edges": lambda model: edges[id(model)].score,
        "faithfulness": lambda model: ik.faithfulness(model, pairs, edges[id(here)], sizes=[9], controls=1).to_frame(),
        "logit_lens": lambda model: ik.logit_lens(model, pairs).to_frame(),
        "decode": lambda model: ik.decode(model, batch.tokens, free).tokens,
        "log-probabilities of what is decoded": lambda model: ik.decode(model, batch.tokens, free).log_prob,
    }
    for what, work in works.items():
        expected, found = (_numbers(work(model)) for model in (here, there))
        assert np.array_equal(np.isnan(found), np.isnan(expected)), what
        yield what, float(np.nanmax(np.abs(found - expected)))


def _numbers(value: Any) -> np.ndarray:
    if isinstance(value, pd.DataFrame):
        value = value.select_dtypes("number")
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=np.float64)


def patched(size: Size, device: str, repeats: int) -> Iterator[object]:
    """Residual streams at every layer and position."""
    model = random_model(size.layers, size.width, size.heads, size.words).to(device, print_details=False)
    pairs = random_pairs(size.rows, vocabulary=size.words)
    names = [f"t{i}" for i in range(LENGTH)]
    right, wrong = (getattr(pairs, side).answer["answer"].to(device) for side in ("clean", "corrupt"))
    clean, corrupt = (getattr(pairs, side).tokens[:, :LENGTH].to(device) for side in ("clean", "corrupt"))
    places = [(layer, at) for layer in range(size.layers) for at in range(LENGTH)]
    timed, setter = places[:: size.part], cast(Any, peers.layer_pos_patch_setter)

    @torch.no_grad()
    def theirs() -> np.ndarray:
        _, cache = model.run_with_cache(clean)
        rows, found = torch.arange(len(right), device=device), []
        for layer, at in timed:
            hook = f"blocks.{layer}.hook_resid_pre"
            logits = model.run_with_hooks(
                corrupt, fwd_hooks=[(hook, lambda value, hook, to=(layer, at): setter(value, to, cache[hook.name]))]
            )[:, -1]
            found.append((logits[rows, right] - logits[rows, wrong]).mean())
        return torch.stack(found).cpu().numpy()

    def ours() -> np.ndarray:
        return ik.patch(model, pairs, positions=names).values.mean(1)

    difference = float(np.abs(ours()[:: size.part] - theirs()).max())
    assert difference < ALLOWED, f"not the same numbers: {difference:.1e}"
    yield from compare(
        f"resid_pre by position, {_described(size)}, {size.rows} pairs of {LENGTH} tokens", ours,
        {f"TransformerLens, layer_pos_patch_setter under no_grad ({len(timed)} of {len(places)} timed)": theirs},
        difference=f"{difference:.0e}", scale=len(places) / len(timed), repeats=repeats,
    )  # fmt: skip


def ranked(size: Size, device: str, repeats: int) -> Iterator[object]:
    """Every head and MLP, ablated by its mean at each position, by KL."""
    model = random_model(size.layers, size.width, size.heads, size.words).to(device, print_details=False)
    batch = random_pairs(size.rows, vocabulary=size.words).clean
    tokens = batch.tokens[:, :-1].to(device)
    parts = [(layer, head) for layer in range(size.layers) for head in (*range(size.heads), None)]
    timed = parts[:: size.part]

    @torch.no_grad()
    def theirs() -> np.ndarray:
        logits, cache = model.run_with_cache(tokens)
        before, found = logits[:, -1].log_softmax(-1), []
        for layer, head in timed:
            hook = f"blocks.{layer}.hook_mlp_out" if head is None else f"blocks.{layer}.attn.hook_z"
            found.append(_effect(model, tokens, hook, head, cache[hook].mean(0), before))
        return torch.stack(found).cpu().numpy()

    def ours() -> np.ndarray:
        result = ik.ablate(model, batch, kind="mean", metric=ik.kl)
        order = sorted(range(len(result.component)), key=lambda i: (result.layer[i], "MLP" in result.component[i]))
        return result.importance()[order]

    difference = float(np.abs(ours()[:: size.part] - theirs()).max())
    assert difference < ALLOWED, f"not the same numbers: {difference:.1e}"
    yield from compare(
        f"ranking of {len(parts)} heads and MLPs, {_described(size)}, {size.rows} texts of {LENGTH} tokens", ours,
        {f"a loop of run_with_hooks under no_grad ({len(timed)} of {len(parts)} timed)": theirs},
        difference=f"{difference:.0e}", scale=len(parts) / len(timed), repeats=repeats,
    )  # fmt: skip


def _effect(
    model: HookedTransformer, tokens: Tensor, hook: str, head: int | None, mean: Tensor, before: Tensor
) -> Tensor:
    def write(value: Tensor, hook: object) -> Tensor:
        here = (slice(None), slice(None), *(() if head is None else (head,)))
        value[here] = mean if head is None else mean[:, head]
        return value

    after = model.run_with_hooks(tokens, fwd_hooks=[(hook, write)])[:, -1].log_softmax(-1)
    return (before.exp() * (before - after)).sum(-1).mean()


def _described(size: Size) -> str:
    return "GPT-2 small's size" if size == Size() else f"{size.layers} layers, d {size.width}"


def sae(size: Size, device: str) -> str:
    """Steps of a TopK autoencoder on planted features."""
    import_sae_lens()
    from sae_lens import LoggingConfig, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig

    options = SAETrainerConfig(
        total_training_samples=10**9, train_batch_size_samples=size.batch, lr=2e-3, lr_end=2e-3, device=device,
        logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    batch = next(planted(torch.Generator().manual_seed(1)))[: size.batch].to(device)
    config = TopKTrainingSAEConfig(d_in=batch.shape[1], d_sae=size.width_sae, k=16, device=device)
    loop = TopKLoop(TopKTrainingSAE(config), options)
    steps, seconds = _counted(lambda: loop.step(batch), size.seconds, device)
    what = f"TopK SAE, d {batch.shape[1]}, width {size.width_sae:,}, k 16, batch {len(batch):,}"
    return f"| {what} | {steps * len(batch) / seconds:,.0f} vectors | {steps} |"


def culture(size: Size, device: str) -> str:
    """Steps of a culture network on random quizzes, in bfloat16 as training has it on a card."""
    preset = PRESETS[size.preset]
    preset = replace(preset, batch=4) if size == TINY else preset
    learner = Learner(preset, seed=0, budget=10**9, device=device)
    quizzes = torch.randint(0, 15, (preset.batch, 404), generator=torch.Generator().manual_seed(0))
    weight = torch.zeros(preset.batch, 404)
    weight[:, 304:] = 1
    steps, seconds = _counted(lambda: learner.step(quizzes, quizzes, weight), size.seconds, device)
    what = f"culture network “{size.preset}”, batch {preset.batch}"
    return f"| {what} | {steps * preset.batch / seconds:,.0f} quizzes | {steps} |"


def _counted(step: Callable[[], object], seconds: float, device: str) -> tuple[int, float]:
    """Steps taken in about so many seconds, and how many seconds they took, after three that warm up."""
    for _ in range(3):
        step()
    _finished(device)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        step()
        count += 1
        if count % 10 == 0:
            _finished(device)  # else the queue of the card is what is measured
    _finished(device)
    return count, time.perf_counter() - began


def _finished(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(tyro.cli(Options))
