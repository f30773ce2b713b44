"""Run by check.py where TransformerLens 4 is installed: bridges of tiny random models, written as folders."""

import sys
from pathlib import Path

import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers.models import WordLevel
from transformer_lens.model_bridge import TransformerBridge

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDER = {**SIZES, "intermediate_size": 64, "max_position_embeddings": 32}
CONFIGS = {
    "gpt2": transformers.GPT2Config(vocab_size=50, n_positions=32, n_embd=32, n_layer=2, n_head=4),
    "gpt_neox": transformers.GPTNeoXConfig(**WIDER),
    "llama": transformers.LlamaConfig(**WIDER, num_key_value_heads=2),
}


def write(bridge: TransformerBridge, folder: Path) -> None:
    """The weights of a bridge as a Hugging Face folder, as in docs/howto/own-model.md."""
    inner = bridge.original_model
    plain = transformers.AutoModelForCausalLM.from_config(inner.config)
    weights = {name.replace("_original_component.", ""): value for name, value in inner.state_dict().items()}
    plain.load_state_dict({name: weights[name] for name in plain.state_dict() if name in weights}, strict=False)
    plain.save_pretrained(folder)


def main(out: Path) -> None:
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        hf = transformers.AutoModelForCausalLM.from_config(config).eval()
        hf.save_pretrained(out / ".source" / name)
        words = tokenizers.Tokenizer(WordLevel({str(token): token for token in range(50)}, unk_token="0"))
        transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="0", bos_token="0").save_pretrained(
            out / ".source" / name  # a bridge looks for one
        )
        logits = None
        for edited in (False, True):
            source = str(out / ".source" / name)
            bridge = TransformerBridge.boot_transformers(source, hf_model=hf, tokenizer=None)
            if edited:
                with torch.no_grad():
                    bridge.blocks[1].mlp.out.weight.mul_(2)
            tokens = torch.randint(0, 50, (4, 16), generator=torch.Generator().manual_seed(1))
            with torch.no_grad():
                before, logits = (logits if edited else None), bridge(tokens)
            if before is not None and torch.allclose(before, logits, atol=1e-3):
                raise SystemExit(f"{name}: the edit changes nothing, so it shows nothing")
            folder = out / f"{name}{'-edited' if edited else ''}"
            write(bridge, folder)
            save_file({"tokens": tokens, "logits": logits.contiguous()}, f"{folder}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
