"""How often the host waits for a graphics card: not once more for more edits in a batch, more tokens or more steps."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pretend import Card, card

import interp_kit as ik
from interp_kit.models.convert import hooked_transformer

AT = ("A", "B", "C", "D")
EDITS: dict[str, Callable[[ik.PairBatch], list[ik.Edit]]] = {
    "copies": lambda p: [ik.Edit("resid_pre", n, ik.Copy(p.clean), position=at) for n in (0, 1) for at in AT],
    "heads": lambda p: [ik.Edit("z", n, ik.Copy(p.clean), position=at, head=1) for n in (0, 1) for at in AT],
    "means": lambda p: [ik.Edit("mlp_out", n, ik.Mean(), position=at) for n in (0, 1) for at in AT],
    "resampled": lambda p: [ik.Edit("z", n, ik.Resample(), position=at) for n in (0, 1) for at in AT],
    "numbers": lambda p: [ik.Edit("resid_mid", n, ik.Set(torch.ones(16)), position=at) for n in (0, 1) for at in AT],
    "queries": lambda p: [ik.Edit("q", n, ik.Zero(), position=at) for n in (0, 1) for at in AT],
    "whole": lambda p: [ik.Edit("z", n, ik.Zero(), head=head) for n in (0, 1) for head in (0, 1)],
    "weights": lambda p: [ik.Edit("b_out", n, ik.Zero()) for n in (0, 1)],
}


def small(task: ik.BooleanTask) -> Any:
    model = hooked_transformer(
        n_layers=2, d_model=16, n_heads=2, d_head=8, d_mlp=32, d_vocab=len(task.vocabulary), seed=0, n_ctx=24,
        act_fn="gelu_new",
    )  # fmt: skip
    return model.to("cuda", print_details=False)


def counted(mode: Card, work: Callable[[], object]) -> dict[str, int]:
    mode.counts.clear()
    work()
    return dict(mode.counts)


@pytest.mark.parametrize("kind", EDITS)
def test_more_edits_wait_no_more(kind: str, task: ik.BooleanTask) -> None:
    with card() as mode:
        model, pairs = small(task), task.pairs("newB", "newD", limit=8).to("cuda")
        edits, metric = EDITS[kind](pairs), ik.logit_difference(pairs)
        ik.sweep(model, pairs.corrupt, edits, metric)  # what batches know of themselves, they know from now on
        few, many = (counted(mode, lambda n=n: ik.sweep(model, pairs.corrupt, edits * n, metric)) for n in (1, 4))
    assert many == few
    assert 0 < few["copies"] <= 2
    assert few["waits"] < 40


def test_a_patch_of_more_positions_waits_for_each_position_once(task: ik.BooleanTask) -> None:
    with card() as mode:
        model, pairs = small(task), task.pairs("newB", "newD", limit=8)
        few = counted(mode, lambda: ik.patch(model, pairs, sites=["resid_pre"], positions=AT))
        many = counted(
            mode, lambda: ik.patch(model, pairs, sites=["resid_pre", "z", "mlp_out", "resid_mid"], positions=AT)
        )
    assert many["copies"] == few["copies"]
    assert many["waits"] <= few["waits"] + 16  # four groups of copies that are written together, each once


def test_ablating_neurons_waits_no_more_than_ablating_heads(task: ik.BooleanTask) -> None:
    with card() as mode:
        model, batch = small(task), task.batch(task.enumerate())
        heads, neurons = (
            counted(mode, lambda unit=unit: ik.ablate(model, batch, kind="zero", units=[unit], fields=["newD"]))
            for unit in ("head", "neuron")
        )
    assert neurons == heads


def test_decoding_copies_once_per_batch(task: ik.BooleanTask) -> None:
    with card() as mode:
        model, tokens = small(task), task.batch(task.enumerate()).tokens[:, :20]
        few, many = (counted(mode, lambda n=n: ik.decode(model, tokens, torch.arange(20) >= 20 - n)) for n in (2, 12))
    assert many == few


def test_a_step_of_an_sae_waits_once(task: ik.BooleanTask) -> None:
    with card() as mode:
        model, batch = small(task), task.batch(task.enumerate())
        found = []
        for steps in (300, 340):  # more than the last ones, whose L0 is averaged
            config = ik.SAEConfig(width=8, k=2, training_samples=steps * 16, batch_size=16, max_examples=32)
            found.append(counted(mode, lambda c=config: ik.train_sae(model, batch, site="mlp_out.1", config=c)))
    assert found[1]["waits"] - found[0]["waits"] == 40  # which latents are dead
