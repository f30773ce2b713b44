"""A folder that verl trains from: parquets for RL and SFT, the reward file, and launch scripts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from interp_kit.core.config import check_choice
from interp_kit.core.files import cannot_write, check_writable, replacing, write_text
from interp_kit.tasks.graphs.questions import verifier
from interp_kit.tasks.graphs.questions.verifier import MODES
from interp_kit.training.verl.launch import PRESETS, SCRIPTS, launch_script

SPLITS = ("train", "val", "test")
CHAT = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
ABOUT = {"id": pa.string(), "split": pa.string(), "level": pa.string(), "mechanism": pa.string(), "graph": pa.int32()}
ABOUT |= {"depth_bucket": pa.string(), "is_core": pa.bool_()}
RL = pa.schema({
    "data_source": pa.string(), "prompt": CHAT, "ability": pa.string(),
    "reward_model": pa.struct([("style", pa.string()), ("ground_truth", pa.string())]),
    "extra_info": pa.struct([*ABOUT.items()]),
})  # fmt: skip
SFT = pa.schema({"messages": CHAT, "extra_info": pa.struct([*ABOUT.items()])})


def rl_row(row: Mapping[str, Any], prompt: str) -> dict[str, Any]:
    """A row for verl's RLHFDataset, from a row of a data set and the column of its prompt."""
    return {
        "data_source": f"interp_kit/{row['id'].split('-')[0]}",
        "prompt": [{"role": "user", "content": row[prompt]}],
        "ability": "causal reasoning",
        "reward_model": {"style": "rule", "ground_truth": row["answer"]},
        "extra_info": _about(row),
    }


def sft_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for verl's SFT dataset: the answer-only prompt and its right reply."""
    messages = [
        {"role": "user", "content": row["prompt_answer_only"]},
        {"role": "assistant", "content": f"ANSWER {row['answer']}"},
    ]
    return {"messages": messages, "extra_info": _about(row)}


def write_verl(data: str | Path, out: str | Path, *, preset: str = "classic", variant: str = "generic") -> list[Path]:
    """Write what verl needs beside a data set of graph questions.

    Args:
        data: The folder that `interp-kit generate graphs` wrote, whole or merged.
        out: The folder that gets rl_*.parquet, sft_*.parquet, reward_soft.py and reward_strict.py (the verifier, which
            needs nothing but Python), and grpo.sh, dapo.sh and sft.sh.
        preset: "classic" or "long", see PRESETS.
        variant: Which prompt RL has, "generic" or "specific".

    Returns:
        The files.

    Raises:
        ValueError: for another preset or variant, and if `data` has no split, or not the prompts that are needed.
        OSError: if a file is there already, or cannot be written; before any is written.
    """
    check_choice("preset", preset, PRESETS)
    check_choice("variant", variant, ("generic", "specific"))
    data, out, prompt = Path(data), Path(out), f"prompt_{variant}"
    splits = [split for split in SPLITS if (data / f"{split}.parquet").exists()]
    if not splits:
        raise ValueError(f"{data} has no train.parquet, val.parquet or test.parquet: make them with generate graphs")
    for split in splits:
        missing = {prompt, "prompt_answer_only"} - set(pq.read_schema(data / f"{split}.parquet").names)
        if missing:
            raise ValueError(f"{data / split}.parquet has no {sorted(missing)[0]}: generate it with that prompt")
    tables = {out / f"{form}_{split}.parquet": (form, split) for split in splits for form in ("rl", "sft")}
    texts = {out / f"{script}.sh": launch_script(script, PRESETS[preset]) for script in SCRIPTS}
    texts |= {out / f"reward_{mode}.py": reward_file(mode) for mode in MODES}
    for path in (*tables, *texts):
        if path.exists():
            raise cannot_write(path, FileExistsError("it is there already; remove it, or name another folder"))
        check_writable(path)
    for path, (form, split) in tables.items():
        rows = pq.read_table(data / f"{split}.parquet").to_pylist()
        made = [rl_row(row, prompt) if form == "rl" else sft_row(row) for row in rows]
        with replacing(path) as aside:
            pq.write_table(pa.Table.from_pylist(made, schema=RL if form == "rl" else SFT), aside)
    for path, text in texts.items():
        write_text(path, text)
        if path.suffix == ".sh":
            path.chmod(path.stat().st_mode | 0o111)
    return [*tables, *texts]


def reward_file(mode: str) -> str:
    """The verifier as a file of its own whose `compute_score` has this mode by default."""
    source = Path(verifier.__file__).read_text(encoding="utf-8")
    return f"{source}\n\ncompute_score = functools.partial(compute_score, mode={mode!r})\n".replace(
        "import re\n", "import functools\nimport re\n", 1
    )


def _about(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ABOUT}
