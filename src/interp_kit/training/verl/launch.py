"""Launch scripts for verl: GRPO, DAPO and SFT with one list of options, defaults by preset.

The scripts hold no credential: what a logger or a hub needs is read from the environment by those.
"""

from dataclasses import dataclass

MODEL = "model_path"
SCRIPTS = ("grpo", "dapo", "sft")


@dataclass(frozen=True)
class Preset:
    """Defaults of the options of a launch script, and the reward.

    n_rollout: replies per prompt; max_response_length: tokens; total_steps: of training; kl: weight of the KL loss to
    the first model, 0 for none; reward: "soft" or "strict", see the verifier.
    """

    n_rollout: int
    max_response_length: int
    total_steps: int
    kl: float
    reward: str


PRESETS = {
    "classic": Preset(8, 1024, 1000, 0.001, "soft"),
    "long": Preset(32, 4096, 7500, 0.0, "strict"),
}


def defaults(preset: Preset) -> dict[str, str]:
    """Option -> default, of every script; a model has none."""
    return {
        "ngpus": "8",
        MODEL: "",
        "batch_size": "64",
        "per_gpu_batch_size": "4",
        "lr": "1e-6",
        "n_rollout": str(preset.n_rollout),
        "max_prompt_length": "3072",
        "max_response_length": str(preset.max_response_length),
        "total_steps": str(preset.total_steps),
        "epochs": "1000",
        "vllm_gpu_util": "0.6",
        "tensor_parallel": "1",
        "max_checkpoints": "2",
        "graph_spec": "$here",
        "save_freq": "100",
        "eval_freq": "50",
    }


def settings(script: str, preset: Preset) -> list[str]:
    """verl's settings of one of the SCRIPTS, in which `$name` stands for an option."""
    trainer = [
        "trainer.n_gpus_per_node=$ngpus",
        "trainer.nnodes=1",
        "trainer.total_training_steps=$total_steps",
        "trainer.total_epochs=$epochs",
        "trainer.save_freq=$save_freq",
        "trainer.test_freq=$eval_freq",
        'trainer.logger=["console"]',
        "trainer.project_name=graphs",
        f"trainer.experiment_name={script}",
    ]
    if script == "sft":
        return [
            "model.path=$model_path",
            "data.train_files=$graph_spec/sft_train.parquet",
            "data.val_files=$graph_spec/sft_val.parquet",
            "data.messages_key=messages",
            "data.train_batch_size=$batch_size",
            "data.micro_batch_size_per_gpu=$per_gpu_batch_size",
            "data.max_length=$((max_prompt_length + max_response_length))",
            "optim.lr=$lr",
            *trainer,
            "trainer.max_ckpt_to_keep=$max_checkpoints",
        ]
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    kl = preset.kl > 0 and script == "grpo"
    found = [
        "algorithm.adv_estimator=grpo",
        "algorithm.use_kl_in_reward=False",
        "data.train_files=$graph_spec/rl_train.parquet",
        "data.val_files=$graph_spec/rl_val.parquet",
        "data.train_batch_size=$batch_size",
        "data.max_prompt_length=$max_prompt_length",
        "data.max_response_length=$max_response_length",
        "data.truncation=error",
        "actor_rollout_ref.model.path=$model_path",
        f"{actor}.optim.lr=$lr",
        f"{actor}.ppo_mini_batch_size=$batch_size",
        f"{actor}.ppo_micro_batch_size_per_gpu=$per_gpu_batch_size",
        f"{actor}.use_kl_loss={kl}",
        *([f"{actor}.kl_loss_coef={preset.kl}", f"{actor}.kl_loss_type=low_var_kl"] if kl else []),
        f"{rollout}.name=vllm",
        f"{rollout}.n=$n_rollout",
        f"{rollout}.gpu_memory_utilization=$vllm_gpu_util",
        f"{rollout}.tensor_model_parallel_size=$tensor_parallel",
        f"{rollout}.log_prob_micro_batch_size_per_gpu=$per_gpu_batch_size",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=$per_gpu_batch_size",
        f"reward.custom_reward_function.path=$here/reward_{preset.reward}.py",
        "reward.custom_reward_function.name=compute_score",
        *trainer,
        "trainer.max_actor_ckpt_to_keep=$max_checkpoints",
    ]
    if script == "dapo":
        found += [
            f"{actor}.clip_ratio_low=0.2",
            f"{actor}.clip_ratio_high=0.28",
            f"{actor}.clip_ratio_c=10.0",
            f"{actor}.loss_agg_mode=token-mean",
            "algorithm.filter_groups.enable=True",
            "algorithm.filter_groups.metric=seq_reward",
        ]
    return found


def launch_script(script: str, preset: Preset) -> str:
    """A bash script with the options of `defaults`; arguments after `--` are passed on to verl.

    Raises ValueError for another script.
    """
    if script not in SCRIPTS:
        raise ValueError(f"no script {script!r}: expected one of {', '.join(SCRIPTS)}")
    options = defaults(preset)
    start = (
        'torchrun --standalone --nnodes=1 --nproc_per_node="$ngpus" -m verl.trainer.sft_trainer'
        if script == "sft"
        else "python -m verl.trainer.main_ppo"
    )
    names = "|".join(f"--{name}" for name in options)
    listed = "\n".join(f'{name}="{value}"' for name, value in options.items())
    passed = "\n".join(f'  "{_quoted(setting)}" \\' for setting in settings(script, preset))
    return f"""#!/usr/bin/env bash
# {script.upper()} on causal-graph questions with verl. Options with their defaults are listed below; --model_path is
# needed, what stands after -- goes to verl. Credentials, if any are needed, come from the environment.
set -euo pipefail
here="$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)"
{listed}

while [ $# -gt 0 ]; do
  case "$1" in
    {names})
      [ $# -gt 1 ] || {{ echo "$1 needs a value" >&2; exit 2; }}
      printf -v "${{1#--}}" '%s' "$2"
      shift 2
      ;;
    --) shift; break ;;
    *) echo "no option $1; there are {names.replace("|", " ")}" >&2; exit 2 ;;
  esac
done
[ -n "$model_path" ] || {{ echo "--model_path is missing: a folder or a hub id" >&2; exit 2; }}

exec {start} \\
{passed}
  "$@"
"""


def _quoted(setting: str) -> str:
    """For use inside of double quotes."""
    return setting.replace('"', '\\"')
