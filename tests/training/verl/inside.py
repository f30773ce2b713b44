"""Runs in verl's environment (see check.py): verl reads the files of the folder that is named. One line a check."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path


def launched(out: Path, script: str) -> str:
    """The settings of a launch script as verl's own parser resolves them; it refuses keys that it does not know."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    module = "verl.trainer.sft_trainer" if script == "sft" else "verl.trainer.main_ppo"
    # torchrun would start a process a GPU: the same arguments go to the trainer itself
    text = (out / f"{script}.sh").read_text()
    alone = out / f"{script}_alone.sh"
    start = text.index("exec ") + len("exec ")
    end = text.index(module) + len(module)
    alone.write_text(text[:start] + f"{sys.executable} -m {module}" + text[end:])
    found = subprocess.run(
        ["bash", alone, "--model_path", "a-model", "--ngpus", "1", "--", "--cfg", "job"],
        capture_output=True, text=True, env=os.environ | {"PATH": path}, check=False,
    )  # fmt: skip
    if found.returncode:
        raise AssertionError(f"{script}: {found.stderr.strip().splitlines()[-1] if found.stderr else found.stdout}")
    return found.stdout


def tokenizer(folder: Path):
    """A tokenizer of single letters with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {chr(code): i for i, code in enumerate((*range(32, 127), 10))}
    letters |= {"<pad>": len(letters), "<unk>": len(letters) + 1, "<end>": len(letters) + 2}
    made = Tokenizer(models.WordLevel(letters, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # pyright: ignore[reportAttributeAccessIssue]
    made.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    fast = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", eos_token="<end>")
    fast.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    fast.save_pretrained(folder)
    return fast


def main(out: Path) -> None:
    """Every check; an exception ends the run with status 1."""
    from omegaconf import OmegaConf

    for script, wanted in (("grpo", "use_kl_loss: true"), ("dapo", "clip_ratio_high: 0.28"), ("sft", "path: a-model")):
        settings = launched(out, script).lower()
        assert wanted in settings, f"{script}.sh does not set {wanted}"
        print(f"{script}.sh: verl resolves every setting")

    from verl import DataProto
    from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
    from verl.trainer.ppo.reward import get_custom_reward_fn
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset
    from verl.utils.dataset.rl_dataset import RLHFDataset

    letters = tokenizer(out / "tokenizer")
    data = OmegaConf.create({"max_prompt_length": 8192, "filter_overlong_prompts": False, "return_raw_chat": True,
                             "cache_dir": str(out / "cache")})  # fmt: skip
    rows = RLHFDataset(str(out / "rl_train.parquet"), letters, data)
    first = rows[0]
    truth = first["reward_model"]["ground_truth"]
    print(f"RLHFDataset reads {len(rows)} prompts; the first has the answer {truth}")
    told = MultiTurnSFTDataset(str(out / "sft_train.parquet"), letters, OmegaConf.create({"max_length": 8192}))
    print(f"the SFT data set reads {len(told)} texts; the first has {int(told[0]['loss_mask'].sum())} tokens with loss")

    import torch

    for mode, wrong in (("strict", 0.2), ("soft", 0.2)):
        config = OmegaConf.create({
            "reward": {"custom_reward_function": {"path": str(out / f"reward_{mode}.py"), "name": "compute_score"}}
        })  # fmt: skip
        manager = NaiveRewardManager(config, letters, get_custom_reward_fn(config))
        scores = {}
        for name, text in (("right", f"So ANSWER {truth}"), ("none", "I do not know")):
            ids = torch.tensor([letters.encode(text, add_special_tokens=False)])
            prompt = DataProto.from_dict(
                {"responses": ids, "attention_mask": torch.ones_like(ids)},
                non_tensors={key: _array([first[key]]) for key in ("data_source", "reward_model", "extra_info")},
            )
            scores[name] = asyncio.run(_scored(manager, prompt))
        assert scores["right"] == 1.0, scores
        assert scores["none"] == 0.0, scores
        print(f"reward_{mode}.py by the naive reward manager: {scores}; wrong answers of the right form from {wrong}")


async def _scored(manager, prompt) -> float:
    manager.loop = asyncio.get_running_loop()
    return (await manager.run_single(prompt))["reward_score"]


def _array(values: list):
    import numpy as np

    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
