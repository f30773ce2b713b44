"""The thin loop's gradient against trl's own, on one batch of prompts of unequal length."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from interp_kit.tasks.cards import CardsTask
from interp_kit.training.rl.objective import advantages, objective
from interp_kit.training.rl.policy import hook_positions
from interp_kit.training.rl.shared_prompt import answer_logits

pytestmark = pytest.mark.slow  # it imports trl
SAMPLES, BETA, TEMPERATURE = 4, 0.3, 0.8


def moved(path: Path) -> GPT2LMHeadModel:
    """The policy: the start model with a little noise on every weight."""
    model, generator = GPT2LMHeadModel.from_pretrained(path), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.05)
    return model.eval()


@pytest.mark.parametrize(
    ("loss", "advantage"), [("grpo", "grpo"), ("dapo", "grpo"), ("dr_grpo", "dr_grpo"), ("cispo", "grpo")]
)
def test_on_one_batch_it_is_trls(loss: Any, advantage: Any, tmp_path: Path) -> None:
    """trl's own defaults differ in two ways that are set here: it weighs the divergence by the ratio of policies
    (use_bias_correction_kl), and cispo clips that ratio, which is 1, at epsilon_high = 0.2."""
    from datasets import Dataset
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    task = CardsTask("train")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(task.vocabulary), n_positions=48, n_embd=16, n_layer=1, n_head=2,
                        bos_token_id=task.pad, eos_token_id=task.pad, resid_pdrop=0, embd_pdrop=0,
                        attn_pdrop=0)  # fmt: skip
    start = GPT2LMHeadModel(config).eval()
    start.save_pretrained(tmp_path / "start")
    tokenizer = task.tokenizer()
    tokenizer.padding_side = "left"
    prompts = [list(e.tokens[: e.prompt_length]) for e in task.sample(6, 4)]
    longest, n = max(map(len, prompts)), len(prompts)
    assert len(set(map(len, prompts))) > 2
    right = torch.tensor([p + [task.pad] * (longest - len(p)) for p in prompts])
    left = torch.tensor([[task.pad] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    length = torch.tensor([len(p) for p in prompts])
    generator = torch.Generator().manual_seed(0)
    sampled = torch.randint(len(task.vocabulary), (n, SAMPLES), generator=generator)
    rewards = torch.rand(n, SAMPLES, generator=generator).round()
    rewards[:, :2] = torch.tensor([1.0, 0.0])
    better = advantages(rewards, advantage)

    model = moved(tmp_path / "start")
    with torch.no_grad():
        reference = answer_logits(start, right, length)
    options: dict[str, Any] = {"temperature": TEMPERATURE, "beta": BETA}
    objective(answer_logits(model, right, length), reference, sampled, better, **options).loss.backward()
    ours = {name: weight.grad for name, weight in model.named_parameters()}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = GRPOTrainer(
            model=str(tmp_path / "start"),
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            processing_class=tokenizer,
            args=GRPOConfig(
                output_dir=str(tmp_path / "trl"), num_generations=SAMPLES, per_device_train_batch_size=n * SAMPLES,
                max_completion_length=1, bf16=False, use_cpu=True, report_to="none", gradient_checkpointing=False,
                loss_type=loss, use_bias_correction_kl=False, epsilon_high=5.0 if loss == "cispo" else None,
                scale_rewards="group" if advantage == "grpo" else "none", disable_tqdm=True, **options,
            ),
            train_dataset=Dataset.from_list([{"prompt": tokenizer.decode(p)} for p in prompts]),
        )  # fmt: skip
    theirs: Any = trainer.model
    theirs.load_state_dict(moved(tmp_path / "start").state_dict())
    for one in (theirs, trainer.ref_model):
        hook_positions(one)

    def repeated(values: Tensor) -> Tensor:
        return values.repeat_interleave(SAMPLES, 0)

    completion = sampled.reshape(-1, 1)
    inputs = {
        "prompt_ids": repeated(left), "prompt_mask": repeated(mask), "completion_ids": completion,
        "completion_mask": torch.ones_like(completion), "advantages": better.reshape(-1),
        "num_items_in_batch": torch.tensor(n * SAMPLES),
    }  # fmt: skip
    with torch.no_grad():
        whole = torch.cat([repeated(left), completion], 1)
        seen = torch.cat([repeated(mask), torch.ones_like(completion)], 1)
        scored = trainer._get_per_token_logps_and_entropies(trainer.ref_model, whole, seen, 1)
        inputs["ref_per_token_logps"] = scored[0]
    trainer.current_gradient_accumulation_steps = 1
    trainer.compute_loss(theirs, inputs).backward()
    gradients = {name: weight.grad for name, weight in theirs.named_parameters()}
    assert max(float(g.abs().max()) for g in gradients.values()) > 0.01
    assert max(float((ours[name] - gradients[name]).abs().max()) for name in ours) < 1e-5
