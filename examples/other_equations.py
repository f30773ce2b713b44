"""The boolean task with equations of your own: train a small GPT-2 on them, and ask by which path it computes one.

Run it (about a minute on a CPU; the folder gets the model):

    python examples/other_equations.py runs/equations

The same from the command line. The model's files say which equations it learned, so the second command needs none:

    interp-kit train --equations 'M=p & q' 'Y=M | r' --inputs p q r --out runs/equations
    interp-kit mechanism runs/equations

Three bits give too few independent pairs for a verdict, and the library says so; give it more inputs for one.
"""

import sys
from pathlib import Path

import interp_kit as ik


def main(folder: str | Path) -> None:
    task = ik.BooleanTask(equations={"M": "p & q", "Y": "M | r"}, inputs=("p", "q", "r"))
    config = ik.SFTConfig(
        d_model=64, n_layers=2, n_ctx=24, dropout=0.0, epochs=25.0, learning_rate=2e-3, loss_on="completion"
    )
    if not Path(folder).exists():
        ik.train_sft(task, task.enumerate() * 16, folder, config, device="cpu", progress=False)
    model = ik.load(folder)
    task = ik.task_of(model)  # made again from what the model's files say
    print(ik.evaluate(model, task).to_frame().to_string(index=False))

    mediator, target = task.asked()  # what the equations suggest: M, on the way to Y
    found = ik.mechanism(model, task, mediator=mediator, target=target)
    print(found.to_frame().to_string(index=False))
    print(f"verdict on {mediator} -> {target}: {found.verdict}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/equations")
