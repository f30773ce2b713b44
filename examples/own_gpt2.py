"""A GPT-2 of yours with no task of ours: its directory and a few tensors of token ids are enough.

Patches, ablates, attributes and writes a report. Run it on your own model by replacing `texts`:

    python examples/own_gpt2.py runs/my_gpt2 runs/my_gpt2.html

Without such a directory it makes a small random GPT-2 first, so that the example runs as it stands.
"""

import sys
from pathlib import Path

import torch

import interp_kit as ik


def texts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Clean and corrupt prompts, (batch, pos) token ids each, and the right next token of each, (batch,).

    Here a letter comes back, as in `b c a d b`, and what followed it the first time should follow again.
    """
    clean = torch.stack([torch.randperm(12, generator=torch.Generator().manual_seed(row))[:5] for row in range(24)])
    clean[:, 4] = clean[:, 1]  # the second letter again: the third should follow
    corrupt = clean.clone()
    corrupt[:, 2] = (clean[:, 2] + 1) % 12  # another letter follows it
    return clean, corrupt, clean[:, 2], corrupt[:, 2]


def some_gpt2(folder: Path) -> None:
    """Write a random GPT-2, as transformers does."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=12, n_positions=8, n_embd=32, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None
    )
    GPT2LMHeadModel(config).save_pretrained(folder)


def main(folder: str | Path, page: str | Path) -> None:
    if not Path(folder).exists():
        some_gpt2(Path(folder))
    model = ik.load(folder)
    clean, corrupt, right, wrong = texts()

    pairs = ik.PairBatch.from_tokens(clean, corrupt, answer=(right, wrong), variable="third letter")
    carried = ik.patch(model, pairs)
    edges = ik.score_edges(model, pairs, method="eap")
    direct = ik.direct_logit_attribution(model, pairs)

    batch = ik.TokenBatch.from_tokens(clean, answer=right, labels={"even": clean[:, 2] % 2})
    heads = ik.ablate(model, batch, kind="mean")
    read = ik.probe(model, batch, ["even"], positions=["2", "4"], repeats=1, control_repeats=0)
    print(heads.to_frame().to_string(index=False))
    print(ik.report([carried, edges.top(10), direct, heads, read], page))


if __name__ == "__main__":
    main(*(sys.argv[1:3] if len(sys.argv) > 2 else ("runs/my_gpt2", "runs/my_gpt2.html")))
