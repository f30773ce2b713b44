"""Muon's orthogonal updates against the singular value decomposition."""

import pytest
import torch

from interp_kit.training.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 32, 8), (2, 8, 32)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = orthogonalise(matrices)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.3
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    aligned = u.mT @ found @ v.mT  # diagonal, and positive: the same singular vectors
    assert torch.diagonal(aligned, dim1=1, dim2=2).min() > 0.3
    assert (aligned - torch.diag_embed(torch.diagonal(aligned, dim1=1, dim2=2))).abs().max() < 1e-8


def test_step_is_of_the_stated_size_whatever_the_gradient() -> None:
    for scale in (1e-3, 1e3):
        weight = torch.nn.Parameter(torch.zeros(4, 8, 8))  # heads x d_key x d_model: one matrix of 32 rows
        weight.grad = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(1)) * scale
        Muon([weight], lr=0.1, momentum=0.0).step()
        values = torch.linalg.svdvals(weight.detach().flatten(0, 1))
        assert values.max() < 0.1 * 2 * 1.3
        assert values.min() > 0.1 * 2 * 0.3
        assert (weight.detach() * weight.grad).sum() < 0


def test_momentum_is_nesterovs() -> None:
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    optimiser = Muon([weight], lr=1.0, momentum=0.9)
    g = torch.Generator().manual_seed(2)
    momentum, expected = torch.zeros(8, 8), torch.zeros(8, 8)
    for _ in range(3):
        weight.grad = torch.randn(8, 8, generator=g)
        momentum = 0.9 * momentum + 0.1 * weight.grad
        expected = expected - orthogonalise((0.1 * weight.grad + 0.9 * momentum)[None])[0]
        optimiser.step()
    assert weight.detach() == pytest.approx(expected, abs=1e-5)


def test_parameters_without_gradient_are_left_alone() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 2))
    Muon([weight]).step()
    assert (weight == 1).all()


def test_decay_bounds_singular_values() -> None:
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    optimiser = Muon([weight], lr=0.1, momentum=0.0, weight_decay=0.5)
    for _ in range(300):  # the same way every time: without decay it would reach 30
        weight.grad = torch.eye(8)
        optimiser.step()
    values = torch.linalg.svdvals(weight.detach())
    assert values.max() < 1.3 / 0.5
    assert values.min() > 0.5 / 0.5


def test_decay_is_of_the_weight_and_the_rate() -> None:
    weight = torch.nn.Parameter(torch.eye(4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    assert weight.detach() == pytest.approx(0.95 * torch.eye(4), abs=1e-6)


def test_a_closure_is_run_first_with_gradients() -> None:
    weight = torch.nn.Parameter(torch.eye(4))
    optimiser = Muon([weight], lr=0.1)

    def closure() -> float:
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    assert optimiser.step(closure) == 4.0
    assert weight.diagonal().max() < 1
