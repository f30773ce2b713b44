"""The patches for TransformerLens, on a copy of the installed one: their models compute what the unpatched route does
from the same weights, and where they are not asked for, nothing changes.

Run as a program, with a folder, this file is the other side: it imports the patched copy, reads the models to build
from the folder and leaves there what it found. git applies the patches; patch(1) is tried too where it is installed.
"""

import dataclasses
import importlib.metadata
import itertools
import math
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import transformer_lens
from torch import Tensor, nn
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
from transformer_lens.tools.analysis import direct_logit_attribution
from transformer_lens.weight_processing import ProcessWeights

VERSION = "3.9.0"
PATCHES = sorted((Path(__file__).parents[1] / "patches").glob("*.patch"))
OURS = {"final_ln": False, "positional_embedding_type": "sinusoidal"}
FIELDS = ("n_layers", "n_heads", "d_head", "d_vocab", "act_fn", "normalization_type", "init_weights", "device")
ROWS = 3

MakeModel = Callable[..., HookedTransformer]
Config = dict[str, Any]
Found = dict[str, Any]

# No d_head is d_model / n_heads; the base is the patch's default unless given.
MODELS: dict[str, Config] = {
    "odd": {"d_model": 21, "n_heads": 3, "d_head": 5, "d_mlp": 34, "d_vocab": 11, "n_ctx": 13, "attn_scale": 2.0},
    "even": {
        "d_model": 8,
        "n_heads": 1,
        "d_head": 11,
        "d_mlp": 5,
        "n_ctx": 9,
        "sinusoidal_base": 1e4,
        "act_fn": "relu",
    },
    "long": {"d_model": 32, "n_heads": 2, "d_head": 32, "d_mlp": 33, "n_ctx": 90, "n_layers": 3, "act_fn": "relu"},
    "RMS": {
        "d_model": 15,
        "n_heads": 2,
        "d_head": 4,
        "d_mlp": 16,
        "d_vocab": 7,
        "n_ctx": 12,
        "normalization_type": "RMS",
    },
}
# What TransformerLens has anyway: every kind of position and normalisation that a HookedTransformer may have.
DEFAULTS: dict[str, Config] = {
    "LN": {},
    "RMS, rotary": {"normalization_type": "RMS", "positional_embedding_type": "rotary"},
    "final RMS": {"final_rms": True},
    "shortformer": {"positional_embedding_type": "shortformer"},
    "alibi, no norm": {"normalization_type": None, "positional_embedding_type": "alibi"},
}
SMALL = {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_head": 8, "d_mlp": 30, "n_ctx": 12, "d_vocab": 15, "seed": 5}


def table(length: int, d_model: int, base: float = 1e5) -> Tensor:
    """(length, d_model) sinusoidal positions, in float32 like those that models are trained with."""
    t, j = torch.arange(length, dtype=torch.float32)[:, None], torch.arange(d_model, dtype=torch.float32)
    return torch.sin(t / base ** ((j - j % 2) / d_model) + math.pi / 2 * (j % 2))


def text(model: HookedTransformer, length: int | None = None) -> Tensor:
    """(ROWS, length) random tokens, a full context unless told."""
    shape = (ROWS, length or model.cfg.n_ctx)
    return torch.randint(0, model.cfg.d_vocab, shape, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def cached(model: HookedTransformer, tokens: Tensor, mask: Tensor, prefill: int) -> Tensor:
    """(batch, pos, vocab) logits with the key/value cache: `prefill` tokens at once, then one at a time."""
    cache = TransformerLensKeyValueCache.init_cache(model.cfg, "cpu", len(tokens))
    cuts = [0, *range(prefill, tokens.shape[1] + 1)]
    parts = [slice(a, b) for a, b in itertools.pairwise(cuts)]
    logits = [model(tokens[:, at], attention_mask=mask[:, at], past_kv_cache=cache) for at in parts]
    return torch.cat(logits, dim=1)


@torch.inference_mode()
def answers(model: HookedTransformer) -> dict[str, Tensor]:
    """Raw logits on random tokens: all at once, with the cache, and padded on either side by 0, 1, 2 tokens.

    `longer` is padded beyond the context, which the tokens that are left fit exactly.
    """
    tokens, everything = text(model), torch.ones(ROWS, model.cfg.n_ctx, dtype=torch.int64)
    left = everything * (torch.arange(model.cfg.n_ctx) >= torch.arange(ROWS)[:, None])
    longer = torch.cat([torch.zeros(ROWS, 2, dtype=torch.int64), everything], dim=1)
    found = {"full": model(tokens), "cached": cached(model, tokens, everything, 1)}
    for name, mask in {"left": left, "right": left.flip(1), "longer": longer}.items():
        padded = text(model, mask.shape[1])
        found |= {name: model(padded, attention_mask=mask), f"{name} cached": cached(model, padded, mask, 3)}
    return found


@torch.inference_mode()
def log_probs(model: HookedTransformer) -> Tensor:
    """(batch, pos, vocab) log-probabilities on random tokens."""
    return model(text(model)).log_softmax(-1)


def default(config: Config) -> dict[str, Tensor]:
    """A model of this config as initialised: its weights, its logits, and its logits after the default processing."""
    model = HookedTransformer(HookedTransformerConfig(**SMALL, **{"act_fn": "gelu", "device": "cpu"}, **config))
    found = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.inference_mode():
        found["logits"] = model(text(model))
        model.process_weights_()
        return found | {"processed": model(text(model))}


def fields() -> Config:
    """The config's fields that have a default, and the default."""
    everything = dataclasses.fields(HookedTransformerConfig)
    return {field.name: field.default for field in everything if field.default is not dataclasses.MISSING}


# The other side: TransformerLens is the patched copy here.


def main(folder: Path) -> None:
    """Answer for every model of the folder, and write down what was found."""
    assert Path(transformer_lens.__file__).is_relative_to(folder), transformer_lens.__file__
    torch.set_num_threads(1)
    sources: dict[str, tuple[Config, dict[str, Tensor]]] = torch.load(folder / "models.pt", weights_only=False)
    found: Found = {name: judge(config, state) for name, (config, state) in sources.items()}
    found["file"] = transformer_lens.__file__
    found["fields"] = fields()
    found["defaults"] = {name: default(config) for name, config in DEFAULTS.items()}
    found["errors"] = errors(*sources["odd"])
    found["folded by hand"] = folded_by_hand(*sources["odd"])
    found["sinusoidal only"] = sinusoidal_only(sources["odd"][0])
    torch.save(found, folder / "found.pt")


def build(config: Config, state: dict[str, Tensor]) -> HookedTransformer:
    """The patched model of this config with these weights, loaded strictly."""
    model = HookedTransformer(HookedTransformerConfig(**config))
    model.load_state_dict(state, strict=True)
    return model.eval().requires_grad_(False)


def judge(config: Config, state: dict[str, Tensor]) -> Found:
    """What one model computes, before and after weight processing."""
    model = build(config, state)
    bare = build(config, {key: value for key, value in state.items() if key != "pos_embed.W_pos"})
    found: Found = {
        "answers": answers(model),
        "answers without table": answers(bare),
        "W_pos": model.W_pos.clone(),
        "parameters": [name for name, _ in model.named_parameters()],
        "keys": list(model.state_dict()),
        "attributions": attributions(model),
        "log-probs": log_probs(model),
        "W_U": model.W_U.clone(),
    }
    processed = build(config, state)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        processed.process_weights_()
    centred = build(config, centred_writes(state, config["n_layers"]))
    return found | {
        "warnings": [str(warning.message) for warning in caught],
        "processed log-probs": log_probs(processed),
        "processed W_U": processed.W_U.clone(),
        "processed norm": processed.cfg.normalization_type,
        "processed attributions": attributions(processed),
        "centred log-probs": log_probs(centred),
        "inner": inner(processed),
    }


def centred_writes(state: dict[str, Tensor], n_layers: int) -> dict[str, Tensor]:
    """The state without the mean of all that writes into the residual stream, done by hand."""
    names = ["attn.W_O", "attn.b_O", "mlp.W_out", "mlp.b_out"]
    writes = {"embed.W_E", "pos_embed.W_pos", *(f"blocks.{i}.{name}" for i in range(n_layers) for name in names)}
    return {key: value - value.mean(-1, keepdim=True) if key in writes else value for key, value in state.items()}


@torch.inference_mode()
def attributions(model: HookedTransformer) -> dict[str, Tensor]:
    """The logits, and the logits put together from every decomposition of the residual stream with apply_ln=True."""
    logits, cache = model.run_with_cache(text(model))
    W_U, b_U, vocabulary = model.W_U, model.b_U, range(model.cfg.d_vocab)
    options = {"apply_ln": True, "incl_remainder": True}
    stack = cache.decompose_resid()
    tool = [direct_logit_attribution(model, cache=cache, answer_tokens=v, pos=None).attribution for v in vocabulary]
    one_row = [cache.logit_attrs(stack, v, batch_slice=1) for v in vocabulary]
    return {
        "logits": logits,
        "decompose_resid": cache.decompose_resid(apply_ln=True).sum(0) @ W_U + b_U,
        "accumulated_resid": cache.accumulated_resid(apply_ln=True)[-1] @ W_U + b_U,
        "heads": cache.stack_head_results(**options).sum(0) @ W_U + b_U,
        "neurons": cache.stack_neuron_results(-1, **options).sum(0) @ W_U + b_U,
        "neurons, projected": cache.stack_neuron_results(-1, project_output_onto=W_U, **options).sum(0) + b_U,
        "full": cache.get_full_resid_decomposition(apply_ln=True).sum(0) @ W_U + b_U,
        "full, projected": cache.get_full_resid_decomposition(apply_ln=True, project_output_onto=W_U).sum(0) + b_U,
        "logit_attrs": torch.stack([cache.logit_attrs(stack, v).sum(0) for v in vocabulary], -1) + b_U,
        "logit_attrs, a row": torch.stack([row.sum(0) for row in one_row], -1).expand_as(logits) + b_U,
        "direct_logit_attribution": torch.stack([attribution.sum(0) for attribution in tool], -1) + b_U,
    }


@torch.inference_mode()
def inner(model: HookedTransformer) -> tuple[Tensor, Tensor]:
    """What block 1 reads, and the same from the decomposition: blocks normalise as ever."""
    _, cache = model.run_with_cache(text(model))
    return cache["blocks.1.ln1.hook_normalized"], cache.decompose_resid(1, apply_ln=True).sum(0)


def errors(config: Config, state: dict[str, Tensor]) -> dict[str, str]:
    """What each thing that cannot be right says."""
    model = build(config, state)
    tokens, one = text(model), torch.ones(ROWS, 1, dtype=torch.int64)
    longer = torch.cat([tokens, one], dim=1)
    learned = {**state, "pos_embed.W_pos": torch.randn(model.W_pos.shape)}
    final_ln = {**state, "ln_final.w": torch.ones(model.cfg.d_model)}
    attempts: dict[str, Callable[[], Any]] = {
        "too long": lambda: model(longer),
        "too long with the cache": lambda: cached(model, longer, torch.ones_like(longer), 1),
        "learned positions": lambda: model.load_state_dict(learned, strict=False),
        "other base": lambda: build({**config, "sinusoidal_base": 1e4}, state),
        "base": lambda: HookedTransformerConfig(**config, sinusoidal_base=0.0),
        "final LN in the state": lambda: model.load_and_process_state_dict(final_ln),
        "center_writing_weights": lambda: ProcessWeights.center_writing_weights(dict(state), model.cfg),
        "final_rms": lambda: HookedTransformerConfig(**config, final_rms=True),
        "encoder": lambda: transformer_lens.HookedEncoder(model.cfg),
        "encoder-decoder": lambda: transformer_lens.HookedEncoderDecoder(model.cfg),
    }
    said = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            said[name] = "nothing"
        except (ValueError, RuntimeError) as error:
            said[name] = str(error)
    return said


def folded_by_hand(config: Config, state: dict[str, Tensor]) -> list[str]:
    """Which weights fold_layer_norm changes where a final LayerNorm stands in the state all the same."""
    stray = {"ln_final.w": torch.full((config["d_model"],), 2.0), "ln_final.b": torch.ones(config["d_model"])}
    given = {**state, **stray}
    folded = ProcessWeights.fold_layer_norm(dict(given), HookedTransformerConfig(**config))
    return [key for key, value in given.items() if not torch.equal(folded[key], value)]


def sinusoidal_only(config: Config) -> Found:
    """Sinusoidal positions under a final LayerNorm, as initialised, in bfloat16, and in the embedding of an encoder."""
    config = {**config, "final_ln": True, "init_weights": True}
    one, two = (HookedTransformer(HookedTransformerConfig(**config, seed=seed)) for seed in (1, 2))
    coarse = HookedTransformer(HookedTransformerConfig(**config, dtype=torch.bfloat16))
    found = {
        "drawn": [one.W_pos.clone(), two.W_pos.clone(), coarse.W_pos.float()],
        "same weights": torch.equal(one.W_E, two.W_E),
        "log-probs": log_probs(one),
        "bfloat16": [
            str(coarse.load_state_dict(one.state_dict())),
            str(two.load_state_dict(coarse.state_dict())),
        ],
        "encoder": transformer_lens.HookedEncoder(HookedTransformerConfig(**config)).W_pos,
    }
    del (state := dict(one.state_dict()))["pos_embed.W_pos"]
    with mock.patch("logging.warning") as warning:
        one.load_and_process_state_dict(state)
    found["warnings"] = [str(call) for call in warning.mock_calls]
    return found | {"processed log-probs": log_probs(one), "processed W_pos": one.W_pos.clone()}


# This side: TransformerLens is the installed one.


def wrong_version() -> str:
    """What is wrong with the installed TransformerLens, or nothing."""
    installed = importlib.metadata.version("transformer-lens")
    if installed != VERSION:
        return f"the patches are for TransformerLens {VERSION}, but {installed} is installed: make them anew for it"
    if fields().keys() & {"final_ln", "sinusoidal_base"}:
        return "the installed TransformerLens is patched already: these tests need it as it comes"
    return ""


def copy_of_transformer_lens(folder: Path) -> None:
    """The installed package under `folder`, which lies within a git repository like a virtual environment may."""
    source = Path(transformer_lens.__file__).parent
    shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """The output of a command that must succeed; git is told nothing of a repository that the tests are run from."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    done = subprocess.run(
        command, cwd=cwd, env=inherited | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a patched copy, patched as patches/README.md says."""
    if message := wrong_version():
        pytest.fail(message)
    assert shutil.which("git"), "git is needed to apply the patches"
    repository = tmp_path_factory.mktemp("repository")
    folder = repository / "site-packages"
    copy_of_transformer_lens(folder)
    run("git", "init", "--quiet", ".", cwd=repository)
    for patch in PATCHES:
        run("git", "apply", patch, cwd=folder, GIT_CEILING_DIRECTORIES=str(repository))
    return folder


@pytest.fixture(scope="module")
def sources(tiny_model: MakeModel) -> dict[str, HookedTransformer]:
    """The models by the unpatched route: an Identity for the final LayerNorm, the table in W_pos."""
    models = {}
    for name, config in MODELS.items():
        known = {key: value for key, value in config.items() if key != "sinusoidal_base"}
        model = tiny_model(len(models), **known)
        model.ln_final = nn.Identity()
        model.setup()
        with torch.no_grad():
            model.W_pos.copy_(table(model.cfg.n_ctx, model.cfg.d_model, config.get("sinusoidal_base", 1e5)))
        models[name] = model
    return models


@pytest.fixture(scope="module")
def found(patched: Path, sources: dict[str, HookedTransformer]) -> Found:
    """What the patched copy answers."""
    models = {}
    for name, model in sources.items():
        config = {field: getattr(model.cfg, field) for field in FIELDS}
        models[name] = ({**config, **MODELS[name], **OURS}, model.state_dict())
    torch.save(models, patched / "models.pt")
    run(sys.executable, "-W", "ignore", Path(__file__), patched, cwd=patched, PYTHONPATH=str(patched))
    return torch.load(patched / "found.pt", weights_only=False)


def test_the_patches_are_for_the_installed_version() -> None:
    assert not wrong_version(), wrong_version()
    assert [patch.name for patch in PATCHES] == ["01-final-ln.patch", "02-sinusoidal-positions.patch"]


@pytest.mark.skipif(not shutil.which("patch"), reason="patch(1) is not installed; git is enough")
def test_patch_applies_them_too_in_either_order(patched: Path, tmp_path: Path) -> None:
    copy_of_transformer_lens(tmp_path)
    for patch in reversed(PATCHES):
        said = run("patch", "-p1", "-i", patch, cwd=tmp_path)
        assert "fuzz" not in said
    for path in (tmp_path / "transformer_lens").rglob("*.py"):
        assert path.read_bytes() == (patched / path.relative_to(tmp_path)).read_bytes()


def test_the_copy_was_imported(found: Found, patched: Path) -> None:
    assert Path(found["file"]) == patched / "transformer_lens" / "__init__.py"
    assert not Path(transformer_lens.__file__).is_relative_to(patched)


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_unpatched_route(
    found: Found, sources: dict[str, HookedTransformer], name: str
) -> None:
    expected = answers(sources[name])
    for key in ("answers", "answers without table"):
        assert found[name][key].keys() == expected.keys()
        for how, logits in found[name][key].items():
            assert (logits - expected[how]).abs().max() < 1e-5, how
    ours = found[name]["answers"]
    assert ours["full"].std() > 0.5
    assert (ours["cached"] - ours["full"]).abs().max() < 1e-4
    assert (
        ours["longer"][:, 2:] - sources[name](text(sources[name], ours["longer"].shape[1])[:, 2:])
    ).abs().max() < 1e-4
    assert found[name]["parameters"] == [key for key, _ in sources[name].named_parameters() if "W_pos" not in key]
    assert set(found[name]["keys"]) == set(sources[name].state_dict())


@pytest.mark.parametrize("name", MODELS)
def test_the_table_is_the_formula(found: Found, name: str) -> None:
    n_ctx, d_model, base = (
        *(MODELS[name][key] for key in ("n_ctx", "d_model")),
        MODELS[name].get("sinusoidal_base", 1e5),
    )
    for t in range(n_ctx):
        for j in range(d_model):
            k = j % 2
            expected = math.sin(t / base ** ((j - k) / d_model) + math.pi / 2 * k)
            assert abs(found[name]["W_pos"][t, j] - expected) < 1e-5


@pytest.mark.parametrize("name", DEFAULTS)
def test_without_them_asked_for_nothing_changes(found: Found, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = default(DEFAULTS[name])
    assert found["defaults"][name].keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found["defaults"][name][key], value), key


def test_the_config_has_two_new_fields_with_harmless_defaults(found: Found) -> None:
    assert found["fields"] == fields() | {"final_ln": True, "sinusoidal_base": 1e5}


@pytest.mark.parametrize("name", MODELS)
def test_weight_processing_keeps_the_log_probs(found: Found, name: str) -> None:
    ours = found[name]
    assert (ours["processed log-probs"] - ours["log-probs"]).abs().max() < 1e-4  # of values down to -60
    assert torch.allclose(ours["processed W_U"], ours["W_U"] - ours["W_U"].mean(1, keepdim=True), atol=1e-6)
    rms = MODELS[name].get("normalization_type") == "RMS"
    assert ours["processed norm"] == ("RMSPre" if rms else "LNPre")
    # Why the writing weights are left alone: without their mean, the model is another one.
    assert (ours["centred log-probs"] - ours["log-probs"]).abs().max() > 0.1
    refusals = [message for message in ours["warnings"] if "center_writing_weights" in message]
    assert len(refusals) == (not rms)
    assert all("final_ln=False" in message for message in refusals)


@pytest.mark.parametrize("processed", ["", "processed "])
@pytest.mark.parametrize("name", MODELS)
def test_every_decomposition_adds_up_to_the_logits(found: Found, name: str, processed: str) -> None:
    parts = found[name][f"{processed}attributions"]
    logits = parts.pop("logits")
    row = parts.pop("logit_attrs, a row")
    assert len(parts) == 9
    for how, total in parts.items():
        assert (total - logits).abs().max() < 1e-4, how
    assert (row[0] - logits[1]).abs().max() < 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_blocks_normalise_as_ever(found: Found, name: str) -> None:
    read, decomposed = found[name]["inner"]
    assert (read - decomposed).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("attempt", "said"),
    {
        "too long": "14 tokens do not fit into the model's context (n_ctx=13)",
        "too long with the cache": "14 tokens do not fit into the model's context (n_ctx=13)",
        "learned positions": "pos_embed.W_pos is not the sinusoidal table of sinusoidal_base=100000.0",
        "other base": "pos_embed.W_pos is not the sinusoidal table of sinusoidal_base=10000.0",
        "base": "sinusoidal_base must be positive, not 0.0",
        "final LN in the state": "The state dict has a final normalization (ln_final.w)",
        "center_writing_weights": "would change the output of a model without a final normalization (final_ln=False)",
        "final_rms": "set only one of them",
        "encoder": "HookedEncoder does not support it",
        "encoder-decoder": "HookedEncoderDecoder does not support it",
    }.items(),
)
def test_what_cannot_be_right_is_refused(found: Found, attempt: str, said: str) -> None:
    assert said in found["errors"][attempt]


def test_nothing_is_folded_into_the_unembedding(found: Found) -> None:
    assert not [key for key in found["folded by hand"] if key.startswith(("unembed.", "ln_final."))]
    assert "blocks.1.mlp.W_in" in found["folded by hand"]


def test_sinusoidal_positions_are_neither_drawn_nor_lost(found: Found) -> None:
    ours = found["sinusoidal only"]
    expected = table(MODELS["odd"]["n_ctx"], MODELS["odd"]["d_model"])
    one, two, coarse = ours["drawn"]
    assert torch.equal(one, expected)
    assert torch.equal(two, expected)
    assert (coarse - expected).abs().max() < 0.01
    assert not ours["same weights"]
    assert ours["bfloat16"] == ["<All keys matched successfully>"] * 2
    assert torch.equal(ours["encoder"], expected)
    assert not ours["warnings"]
    # Under a final LayerNorm everything is folded and centred, the table too, and nothing changes.
    assert (ours["processed log-probs"] - ours["log-probs"]).abs().max() < 1e-5
    assert torch.allclose(ours["processed W_pos"], expected - expected.mean(1, keepdim=True), atol=1e-6)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
