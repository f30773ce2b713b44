"""A task of your own in one file: a + b modulo 5. Train a small GPT-2 on it, then probe and patch it.

Run it (about half a minute on a CPU; the folder gets the model):

    python examples/modular_addition.py runs/addition

Every command then knows the task by its address, and the model says with which options it was trained:

    interp-kit probe runs/addition --task examples/modular_addition.py:ModularAddition
    interp-kit patch runs/addition --task examples/modular_addition.py:ModularAddition --variable a
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import interp_kit as ik


class ModularAddition(ik.AbstractTask):
    """Texts like `3 + 4 = 2`; the answer is (a + b) mod n."""

    name = "modular_addition"
    question = ("a", "sum")  # what commands ask unless told otherwise: how does `a` reach `sum`?
    inputs = ("a", "b")
    variables = (*inputs, "sum")

    def __init__(self, n: int = 5) -> None:
        self.n = n
        self.vocabulary = (*map(str, range(n)), "+", "=", "<end>")
        self.pad = n + 2
        self.fields = (ik.Field("sum", predict="=", values=tuple(range(n)), candidates=tuple(range(n))),)

    @property
    def n_worlds(self) -> int:
        return self.n**2

    def enumerate(self) -> list[ik.Example]:
        return [self.example(a, b) for a in range(self.n) for b in range(self.n)]

    def sample(self, n: int, seed: int) -> list[ik.Example]:
        return [self.example(a, b) for a, b in np.random.default_rng(seed).integers(self.n, size=(n, 2)).tolist()]

    def example(self, a: int, b: int) -> ik.Example:
        labels = {"a": a, "b": b, "sum": (a + b) % self.n}
        tokens = (a, self.n, b, self.n + 1, labels["sum"], self.pad)
        text = " ".join(self.vocabulary[token] for token in tokens[:-1])
        positions = {name: i for i, name in enumerate(["a", "+", "b", "=", "sum", "end"])}
        return ik.Example(text, tokens, prompt_length=4, positions=positions, labels=labels)

    def intervene(self, example: ik.Example, do: Mapping[str, int]) -> dict[str, int]:
        world = {**example.labels, **do}
        return {**world, "sum": do.get("sum", (world["a"] + world["b"]) % self.n)}


def main(folder: str | Path) -> None:
    task = ik.register(ModularAddition)()  # registered: `ik.task("modular_addition")` is known from here on
    config = ik.SFTConfig(
        d_model=64,
        n_layers=2,
        n_ctx=8,
        dropout=0.0,
        epochs=250.0,
        learning_rate=3e-3,
        batch_size=25,
        loss_on="completion",
    )
    if not Path(folder).exists():
        ik.train_sft(task, task.enumerate(), folder, config, device="cpu", progress=False)
    model = ik.load(folder)
    assert ik.task_of(model).identity == task.identity  # the model's files say which task it learned
    print(ik.evaluate(model, task).to_frame().to_string(index=False))

    batch = task.batch(task.enumerate())
    read = ik.probe(model, batch, ["a", "sum"], positions=["b", "="], repeats=1, control_repeats=0)
    print(read.to_frame().to_string(index=False))

    carried = ik.patch(model, task.pairs("a", "sum", completion="clean", limit=256), positions=["a", "b", "="])
    print(carried.to_frame()[["layer", "position", "recovered", "low", "high", "n"]].to_string(index=False))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/addition")
