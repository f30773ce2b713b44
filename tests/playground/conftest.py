"""The page's JavaScript runs in node, and the page itself in Chromium, where a machine has them."""

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import interp_kit.playground
from interp_kit.engine.edits import Add, Copy, Edit, Mean, Scale, Set, Zero
from interp_kit.playground.export import payload

STATIC = Path(interp_kit.playground.__file__).parent / "static"
HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """tool("node"): the path of a program that tests of the page need. The one place where they are left out: a
    machine without it says so, as nothing of the page is tested there."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            pytest.skip(f"NOT TESTED: the playground page, as this machine has no {name}")
        return path

    return find


@dataclass(frozen=True)
class Page:
    """What the page's engine computes, asked through node."""

    node: str
    folder: Path

    @staticmethod
    def text(example: Any) -> dict[str, Any]:
        """An example as the page has it."""
        names = {at: name for name, at in example.positions.items()}
        tokens = list(example.tokens)
        return {"tokens": tokens, "names": [names.get(i) for i in range(len(tokens))], "prompt": example.prompt_length}

    def __call__(self, models: Sequence[Any], requests: Sequence[dict[str, Any]], **options: Any) -> list[Any]:
        """The answers to requests (see engine.mjs). models: (model, task) each; options: simd, and fused: ask node for
        the instruction that multiplies and adds, which older ones have only if asked."""
        given = []
        for number, (model, task) in enumerate(models):
            header, weights = payload(model, task)
            at = self.folder / f"{number}"
            at.with_suffix(".json").write_text(json.dumps(header))
            at.with_suffix(".bin").write_bytes(weights)
            given.append({"header": f"{at}.json", "weights": f"{at}.bin", **options})
        asked = json.dumps({"static": str(STATIC), "models": given, "requests": list(requests)})
        done = subprocess.run(
            [self.node, str(HERE / "engine.mjs")], input=asked, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def page(tool: Callable[[str], str], tmp_path: Path) -> Page:
    """page(models, requests): what the page's engine answers."""
    return Page(tool("node"), tmp_path)


@pytest.fixture
def browse(tool: Callable[[str], str], tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """browse(page, steps): what the page answers in Chromium, with what went wrong and every address asked for."""

    def run(path: Path, steps: list[dict[str, Any]], **screen: Any) -> SimpleNamespace:
        asked = {"chromium": tool("chromium"), "profile": str(tmp_path / "profile"), "url": path.as_uri(), **screen}
        done = subprocess.run(
            [tool("node"), str(HERE / "browser.mjs")], input=json.dumps({**asked, "steps": steps}),
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return SimpleNamespace(**json.loads(done.stdout))

    return run


class Draw:
    """Random edits, as the page has them and as the kit's own."""

    def __init__(self, model: Any, seed: int, *, mean: Any = None, copy: Any = None, names: Sequence[str] = ()) -> None:
        self.model, self.rng, self.names = model, np.random.default_rng(seed), list(names)
        self.mean, self.copy = mean, copy
        self.shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}

    def pick(self, values: Sequence[Any]) -> Any:
        return values[int(self.rng.integers(len(values)))]

    def many(self, most: int) -> tuple[list[dict[str, Any]], list[Edit]]:
        """One to `most` edits, twice."""
        pairs = [self.one() for _ in range(int(self.rng.integers(1, most + 1)))]
        return [shown for shown, _ in pairs], [edit for _, edit in pairs]

    def one(self) -> tuple[dict[str, Any], Edit]:
        return self.weight() if self.rng.random() < 0.4 else self.activation()

    def source(self, kinds: Sequence[str], width: int | None) -> tuple[dict[str, Any], Any]:
        value: Any = round(float(self.rng.normal()), 3)
        if width is not None and self.rng.random() < 0.5:
            value = [round(float(v), 3) for v in self.rng.normal(size=width)]
        factor = self.pick([-1.0, 0.5, 2.0])
        made = {
            "Zero": ({}, Zero()), "Mean": ({}, Mean(self.mean)), "Scale": ({"factor": factor}, Scale(factor)),
            "Copy": ({}, None if self.copy is None else Copy(self.copy)),
            "Set": ({"value": value}, Set(value)), "Add": ({"value": value, "scale": factor}, Add(value, factor)),
        }  # fmt: skip
        kind = self.pick(kinds)
        return {"kind": kind, **made[kind][0]}, made[kind][1]

    def activation(self) -> tuple[dict[str, Any], Edit]:
        from interp_kit.engine.sites import ACTIVATIONS

        cfg = self.model.cfg
        site = self.pick([s for s in ACTIVATIONS if not (cfg.attn_only and s in ("mlp_out", "mlp_post", "resid_mid"))])
        axes = ACTIVATIONS[site][1]
        layer = None if site in ("embed", "pos_embed") else int(self.rng.integers(cfg.n_layers))
        head = int(self.rng.integers(cfg.n_heads)) if "head" in axes and self.rng.random() < 0.7 else None
        width = getattr(cfg, axes[-1])
        neuron = int(self.rng.integers(width)) if self.rng.random() < 0.3 else None
        position = self.pick([None, *self.names]) if self.rng.random() < 0.8 else int(self.rng.integers(8))
        kinds = ["Zero", "Scale", "Set", "Add"]
        kinds += ["Mean"] * (self.mean is not None and not isinstance(position, int)) + ["Copy"] * bool(self.copy)
        shown, source = self.source(kinds, None if neuron is not None else width)
        place = {"head": head, "position": position, "neuron": neuron}
        return (
            {"site": site, "layer": layer, **place, "region": None, "source": shown},
            Edit(site, layer, source, **place),
        )

    def weight(self) -> tuple[dict[str, Any], Edit]:
        from interp_kit.engine.sites import WEIGHTS

        there = [
            (site, layer)
            for site, (template, _) in WEIGHTS.items()
            for layer in (range(self.model.cfg.n_layers) if "{layer}" in template else [None])
            if template.format(layer=layer) in self.shapes
        ]
        site, layer = self.pick(there)
        shape = self.shapes[WEIGHTS[site][0].format(layer=layer)]
        shown, source = self.source(["Zero", "Scale", "Set", "Add"], None)
        head = int(self.rng.integers(shape[0])) if WEIGHTS[site][1] and self.rng.random() < 0.4 else None
        region = mask = None
        if head is None and self.rng.random() < 0.7:
            ends = [sorted(self.rng.choice(size + 1, 2, replace=False).tolist()) for size in shape]
            region, mask = ends, torch.zeros(shape, dtype=torch.bool)
            mask[tuple(slice(a, b) for a, b in ends)] = True
        return (
            {
                "site": site, "layer": layer, "head": head, "position": None, "neuron": None, "region": region,
                "source": shown,
            },
            Edit(site, layer, source, head=head, mask=mask),
        )  # fmt: skip


@pytest.fixture
def draw() -> type[Draw]:
    """draw(model, seed): random edits."""
    return Draw
