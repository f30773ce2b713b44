"""Patching and ablation beside TransformerLens's own functions: from pairs of texts to a table of values."""

import time
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from transformer_lens import HookedTransformer
from transformer_lens import patching as peers

import interp_kit as ik
from benchmarks.measure import REPEATS, Row, compare
from interp_kit.core.batch import TokenBatch
from interp_kit.core.example import Field
from interp_kit.core.pairs import PairBatch
from interp_kit.engine.fast.forward import Executor
from interp_kit.engine.metrics import LogitDifference, Metric
from interp_kit.models.convert import convert_mygpt, hooked_transformer
from interp_kit.models.mygpt import MyGPT, MyGPTConfig

LENGTH, VOCABULARY = 20, 50
GPT2 = 50_257  # words of GPT-2's vocabulary: of its products more than a quarter are the unembedding's
By = Literal["position", "all"]


def _batch(tokens: torch.Tensor, vocabulary: int) -> TokenBatch:
    """Random texts whose last token is the answer; every position has a name."""
    rows, length = tokens.shape
    values = tuple(range(vocabulary))
    return TokenBatch(
        tokens=tokens,
        mask=torch.ones_like(tokens, dtype=torch.bool),
        prompt_length=torch.full((rows,), length - 1),
        positions={f"t{i}": torch.full((rows,), i) for i in range(length)},
        labels={},
        fields=(Field("answer", f"t{length - 2}", values, values),),
        answer={"answer": tokens[:, -1]},
        inputs=(),
        numeric=(),
        task="random",
        vocabulary=tuple(map(str, values)),
    )


def random_pairs(
    rows: int, length: int = LENGTH + 1, vocabulary: int = VOCABULARY, differ: int | None = None
) -> PairBatch:
    """Pairs of unrelated texts, or of texts that differ in the token `differ` alone, with different answers."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = torch.randint(0, vocabulary, (2, rows, length), generator=generator)
    if differ is not None:
        corrupt = clean.clone()
        corrupt[:, differ] = (clean[:, differ] + 1) % vocabulary
    corrupt[:, -1] = (clean[:, -1] + 1) % vocabulary
    sides = (_batch(clean, vocabulary), _batch(corrupt, vocabulary))
    return PairBatch(*sides, variable="text", target="answer", completion="own", differs=(("text",),) * rows)


def random_model(layers: int, width: int, heads: int, vocabulary: int = VOCABULARY, **form: Any) -> HookedTransformer:
    """Of GPT-2's form unless it is said otherwise, never trained."""
    usual = {
        "n_layers": layers, "d_model": width, "n_ctx": 64, "d_head": width // heads, "n_heads": heads,
        "d_mlp": 4 * width, "d_vocab": vocabulary, "act_fn": "gelu_new", "seed": 0,
    }  # fmt: skip
    return hooked_transformer(**usual | form)


def _floor(model: HookedTransformer, rows: int, length: int, entries: Iterable[tuple[int, bool, int]]) -> float:
    """Seconds of products that no edited run can do without, one position of each row being read, the last.

    entries: of each edit its layer, whether it comes after that layer's attention, and its first position. A position
    that an edit reaches goes through every later block, but through the last one only as keys and values, unless it is
    read. Seconds a product are those of a plain forward of all rows and positions.
    """
    layer, cfg = Executor(model).layers[0], model.cfg
    weights = [layer.qkv[0], layer.out[0], *((layer.mlp.into[0], layer.mlp.out[0]) if layer.mlp else ())]
    weights += [layer.mlp.gate[0]] if layer.mlp and layer.mlp.gate else []
    block, attention = sum(w.numel() for w in weights), layer.qkv[0].numel() + layer.out[0].numel()
    attention = block if layer.parallel else attention  # behind which no MLP of the same layer runs
    keys, last = layer.qkv[0].numel() - cfg.n_heads * cfg.d_head * cfg.d_model, cfg.n_layers - 1
    products = 0
    for at, behind, start in entries:
        window = length - start
        if at < last:
            products += window * (block * (last - at) - (attention if behind else 0) + keys) + block - keys
        else:
            products += block - attention if behind else block + (window - 1) * keys
        products += cfg.d_model * cfg.d_vocab
    executor = Executor(model)
    tokens = torch.zeros(rows, length, dtype=torch.long)
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        executor.read_out(executor.run(tokens, lambda *_: None))
        seconds.append(time.perf_counter() - start)
    whole = length * (block * cfg.n_layers + cfg.d_model * cfg.d_vocab)
    return products / whole * float(np.median(seconds))


def _beside(
    work: str, model: HookedTransformer, pairs: PairBatch, at: torch.Tensor, site: str, by: By, names: Sequence[str],
    *, part: int = 1, repeats: int = REPEATS,
) -> list[Row]:  # fmt: skip
    """One of transformer_lens.patching's functions beside `ik.patch`. at: (batch,) whose logits are read; names: the
    positions that are patched; part: the peers are timed on every so manieth edit."""
    rows, length = len(pairs), int(at.max()) + 1
    prompt = {side: getattr(pairs, side).tokens[:, :length] for side in ("clean", "corrupt")}
    right, wrong = (getattr(pairs, side).answer["answer"] for side in ("clean", "corrupt"))
    n, layers = torch.arange(rows), range(model.cfg.n_layers)
    starts = [int(pairs.clean.positions[name][0]) for name in names] if by == "position" else [0]
    differ = int((pairs.clean.tokens != pairs.corrupt.tokens).any(0).nonzero()[0, 0])
    heads = range(model.cfg.n_heads) if site == "z" else [None]
    axes = ["layer", "pos", *(["head_index"] if site == "z" else [])]
    setter = {
        ("resid_pre", "position"): peers.layer_pos_patch_setter,
        ("z", "position"): peers.layer_pos_head_vector_patch_setter,
        ("z", "all"): peers.layer_head_vector_patch_setter,
    }[site, by]

    def metric(sides: PairBatch) -> Metric:
        return LogitDifference("answer", right, wrong, at)

    index = [
        (layer, *((start,) if by == "position" else ()), *((head,) if head is not None else ()))
        for layer in layers
        for head in heads
        for start in starts
    ]

    def peer() -> np.ndarray:
        _, cache = model.run_with_cache(prompt["clean"])
        frame = pd.DataFrame(index[::part], columns=[a for a in axes if by == "position" or a != "pos"])
        found = peers.generic_activation_patch(
            model, prompt["corrupt"], cache, lambda logits: (logits[n, at, right] - logits[n, at, wrong]).mean(),
            setter, site, index_df=frame,
        )  # fmt: skip
        return found.detach().numpy()

    def peer_without_grad() -> np.ndarray:
        with torch.no_grad():
            return peer()

    def ours() -> np.ndarray:
        positions = list(names) if by == "position" else None
        return ik.patch(model, pairs, sites=site, by=by, positions=positions, metric=metric).values.mean(1)

    difference = np.abs(ours()[::part] - peer_without_grad()).max()
    assert difference < 1e-4, f"not the same numbers: {difference:.1e}"
    needed = [start for start in starts if start >= differ] if by == "position" else [differ]
    entries = [(layer, site == "z", start) for layer in layers for start in needed for _ in heads]
    timed = "" if part == 1 else f" ({len(index[::part])} of {len(index)} timed)"
    peers_ = {
        f"transformer_lens.patching, as it comes{timed}": peer,
        f"the same under no_grad{timed}": peer_without_grad,
    }
    return compare(
        work, ours, peers_, difference=f"{difference:.0e}", floor=_floor(model, rows, length, entries),
        scale=len(index) / len(index[::part]), repeats=repeats,
    )  # fmt: skip


def patching() -> list[Row]:
    """Residual streams and heads, by position and at all positions, on three sizes: of unrelated texts, and of texts
    that differ in one token, before which copies change nothing and need no run."""
    small, large, few_words = random_model(4, 128, 4), random_model(12, 768, 12, GPT2), random_model(12, 768, 12)
    sizes = [
        ("4 layers, d 128", small, 64),
        ("4 layers, d 128", small, 4),
        ("GPT-2 small's size", large, 4),
        ("12 layers, d 768, 50 words", few_words, 4),
    ]
    found = []
    works: list[tuple[str, str, By]] = [
        ("resid_pre by position", "resid_pre", "position"),
        ("heads, all positions", "z", "all"),
        ("heads by position", "z", "position"),
    ]
    for (work, site, by), differ in product(works, (None, LENGTH // 2)):
        for size, model, rows in sizes:
            if model is not small and (site, by) == ("z", "position"):
                continue
            if model is few_words and differ is not None:
                continue
            pairs = random_pairs(rows, vocabulary=model.cfg.d_vocab, differ=differ)
            at, names = torch.full((rows,), LENGTH - 1), [f"t{i}" for i in range(LENGTH)]
            part = 1 if model is small else 21
            part = 7 if (rows, site, by) == (64, "z", "position") else part
            name = f"{work}, {size}, {rows} pairs of {LENGTH} tokens"
            name += "" if differ is None else f", of which token {differ + 1} differs"
            repeats = REPEATS if model is small else 3
            found += _beside(name, model, pairs, at, site, by, names, part=part, repeats=repeats)
    return found


PYTHIA = {
    "act_fn": "gelu", "parallel_attn_mlp": True, "positional_embedding_type": "rotary", "rotary_dim": 16,
}  # fmt: skip
LLAMA = {
    "act_fn": "silu", "normalization_type": "RMS", "gated_mlp": True, "d_mlp": 2048, "n_key_value_heads": 4,
    "positional_embedding_type": "rotary",
}  # fmt: skip


def architectures() -> list[Row]:
    """Residual streams by position and heads at all positions, of models of GPT-2 small's size in Pythia's form
    (parallel blocks, a quarter of each head rotary) and in Llama's (RMSNorm, gated MLPs, rotary, grouped queries)."""
    found, rows = [], 4
    works: list[tuple[str, str, By]] = [
        ("resid_pre by position", "resid_pre", "position"),
        ("heads, all positions", "z", "all"),
    ]
    for form, kind in (("Pythia", PYTHIA), ("Llama", LLAMA)):
        model = random_model(12, 768, 12, GPT2, **kind)
        pairs, at = random_pairs(rows, vocabulary=GPT2), torch.full((rows,), LENGTH - 1)
        for work, site, by in works:
            name = f"{work}, {form}'s form at GPT-2 small's size, {rows} pairs of {LENGTH} tokens"
            names = [f"t{i}" for i in range(LENGTH)]
            found += _beside(name, model, pairs, at, site, by, names, part=21, repeats=3)
    return found


def cells() -> list[Row]:
    """Each cell of the last grid of a quiz, at all layers of a culture model; read at one cell of that grid a quiz."""
    rows, length = 16, 405
    model = convert_mygpt(MyGPT(MyGPTConfig(15, d_model=128, d_key=16, d_value=16, d_mlp=512, n_heads=8, n_layers=4)))
    pairs = random_pairs(rows, length, 15)
    at = torch.randint(length - 101, length - 1, (rows,), generator=torch.Generator().manual_seed(1))
    at[0] = length - 2
    names = [f"t{i}" for i in range(length - 101, length - 1)]
    work = f"resid_pre of 100 cells, culture model (4 layers, d 128), {rows} quizzes of {length - 1} tokens"
    return _beside(work, model, pairs, at, "resid_pre", "position", names, part=57, repeats=3)


def ranking() -> list[Row]:
    """Every head and MLP of a model of GPT-2's size, ablated by its mean at each position, by KL; and of one that has
    few words."""
    return [
        *_ranking("GPT-2 small's size", GPT2),
        *_ranking("12 layers, d 768, 50 words", VOCABULARY),
    ]


def _ranking(size: str, vocabulary: int) -> list[Row]:
    model, rows = random_model(12, 768, 12, vocabulary), 4
    batch = random_pairs(rows, vocabulary=vocabulary).clean
    tokens = batch.tokens[:, :-1]

    components = [(layer, head) for layer in range(12) for head in (*range(12), None)]
    part = 7  # the peer is timed on every so manieth, at every depth

    @torch.no_grad()
    def peer() -> np.ndarray:
        logits, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith(("hook_z", "mlp_out")))
        before, effects = torch.as_tensor(logits)[:, -1].log_softmax(-1), []
        for layer, head in components[::part]:
            name = f"blocks.{layer}." + ("hook_mlp_out" if head is None else "attn.hook_z")
            mean = cache[name].mean(0)

            def ablate(value: torch.Tensor, hook: object, mean=mean, head=head) -> torch.Tensor:
                here = (...,) if head is None else (slice(None), slice(None), head)
                value[here] = mean if head is None else mean[:, head]
                return value

            after = model.run_with_hooks(tokens, fwd_hooks=[(name, ablate)])[:, -1].log_softmax(-1)
            effects.append((before.exp() * (before - after)).sum(-1).mean())
        return torch.stack(effects).numpy()

    def ours() -> np.ndarray:
        result = ik.ablate(model, batch, kind="mean", metric=ik.kl)
        order = sorted(range(len(result.component)), key=lambda i: (result.layer[i], "MLP" in result.component[i]))
        return result.importance()[order]

    difference = np.abs(ours()[::part] - peer()).max()
    assert difference < 1e-4, f"not the same numbers: {difference:.1e}"
    timed, entries = len(components[::part]), [(layer, True, 0) for layer, _ in components]
    return compare(
        f"ranking of 144 heads and 12 MLPs by mean ablation, {size}, {rows} texts of {LENGTH} tokens", ours,
        {f"a loop of run_with_hooks under no_grad ({timed} of {len(components)} timed)": peer},
        difference=f"{difference:.0e}", floor=_floor(model, rows, LENGTH, entries),
        scale=len(components) / timed, repeats=3,
    )  # fmt: skip
