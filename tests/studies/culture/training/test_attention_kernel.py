"""Attention with a written-out backward pass against plain autograd."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp_kit.studies.culture.training.attention_kernel import causal_attention


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    later = torch.ones(q.shape[1], k.shape[1]).triu(1).bool()
    return (q @ k.mT).masked_fill(later, -torch.inf).softmax(-1) @ v


@given(
    rows=st.integers(1, 3), d_key=st.integers(1, 5), d_value=st.integers(1, 5),
    sizes=st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=4).filter(
        lambda s: any(kept for _, kept in s)
    ),
)  # fmt: skip
def test_output_and_gradients(rows: int, d_key: int, d_value: int, sizes: list[tuple[int, bool]]) -> None:
    ends = [sum(size for size, _ in sizes[: i + 1]) for i in range(len(sizes))]
    chunks = [(end - size, end) for end, (size, kept) in zip(ends, sizes, strict=True) if kept]
    queries = torch.cat([torch.arange(*chunk) for chunk in chunks])
    g = torch.Generator().manual_seed(0)
    shapes = [(rows, ends[-1], d) for d in (d_key, d_key, d_value)]
    inputs = [torch.randn(s, generator=g, dtype=torch.float64, requires_grad=True) for s in shapes]
    out, expected = causal_attention(*inputs, chunks), plain(*inputs)[:, queries]
    assert torch.allclose(out, expected)
    cotangent = torch.randn(out.shape, generator=g, dtype=torch.float64)
    found = torch.autograd.grad(out, inputs, cotangent)
    for a, b in zip(found, torch.autograd.grad(expected, inputs, cotangent), strict=True):
        assert torch.allclose(a, b)


def test_bfloat16_is_near() -> None:
    g = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 12, 8, generator=g) for _ in range(3)]
    found = causal_attention(*(x.bfloat16() for x in inputs), [(0, 6), (6, 12)])
    assert found.dtype == torch.bfloat16
    assert found.float() == pytest.approx(plain(*inputs), abs=0.05)
