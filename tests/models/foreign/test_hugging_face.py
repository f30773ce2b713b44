"""Directories of other architectures against their Hugging Face logits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import interp_kit as ik

SIZES = {
    "vocab_size": 15, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 32, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
TOKENS = torch.arange(40).remainder(15).reshape(2, 20)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "pythia": ("GPTNeoX", {"num_attention_heads": 2}),
    "neox serial": ("GPTNeoX", {"use_parallel_residual": False, "rotary_pct": 0.5}),
    "llama": ("Llama", {"num_key_value_heads": 2}),
    "llama tied": ("Llama", {"tie_word_embeddings": True, "head_dim": 6}),
    "llama 3": ("Llama", {"rope_parameters": {
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16}}),
    "mistral": ("Mistral", {"num_key_value_heads": 2, "sliding_window": None}),
    "qwen2": ("Qwen2", {"num_key_value_heads": 2, "rope_theta": 1e6}),
    "qwen3": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 8}),
    "gemma": ("Gemma", {"num_key_value_heads": 1, "head_dim": 8}),
}  # fmt: skip


def make(folder: Path, kind: str, more: dict[str, Any], seed: int = 0) -> Any:
    hf = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**SIZES | more)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in hf.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") and kind != "Gemma" else 0.0
            value.copy_(centre + 0.3 * torch.randn(value.shape, generator=generator))
    hf.save_pretrained(folder)
    return hf


@pytest.mark.parametrize("name", KINDS)
def test_logits_are_those_of_hugging_face(tmp_path: Path, name: str) -> None:
    hf = make(tmp_path / "m", *KINDS[name])
    model = ik.load(tmp_path / "m")
    torch.testing.assert_close(model(TOKENS), hf(TOKENS).logits, atol=1e-4, rtol=1e-4)
    assert model.conversion.max_difference < 1e-4
    torch.testing.assert_close(ik.load(hf)(TOKENS), model(TOKENS), atol=1e-6, rtol=1e-6)
    folded = ik.load(tmp_path / "m", fold=True)
    assert folded.conversion.quantity == "log-prob"


@pytest.mark.parametrize(
    ("kind", "more", "reason"),
    [
        ("Mistral", {"sliding_window": 8}, "sliding window"),
        ("Llama", {"attention_bias": True}, "attention_bias"),
        ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "rope_type 'linear'"),
        (
            "Gemma2",
            {"num_key_value_heads": 1, "head_dim": 8},
            "model_type 'gemma2', expected 'gpt2' or one of gpt_neox",
        ),
    ],
)
def test_what_cannot_be_converted_is_named(tmp_path: Path, kind: str, more: dict[str, Any], reason: str) -> None:
    make(tmp_path / "m", kind, more)
    with pytest.raises(ik.CheckpointError, match=reason):
        ik.load(tmp_path / "m")


def test_config_and_weights_that_contradict_each_other(tmp_path: Path) -> None:
    make(tmp_path / "m", *KINDS["llama"])
    path = tmp_path / "m" / "config.json"
    known = json.loads(path.read_text())
    for change, reason in (
        ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000"),
        ({"intermediate_size": 2**40}, "contradict each other|no Llama can be built"),
        ({"num_key_value_heads": 3}, "does not divide"),
        ({"hidden_act": "mish"}, "hidden_act 'mish'"),
        ({"vocab_size": "many"}, "config.json"),
        ({"rms_norm_eps": None}, "config.json"),
    ):
        path.write_text(json.dumps(known | change))
        with pytest.raises(ik.CheckpointError, match=reason):
            ik.load(tmp_path / "m")
