"""The pretended card refuses what CUDA refuses. The oracle is torch's FakeTensorMode, where that is as strict."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from pretend import OnCard, card
from torch import Tensor
from torch._subclasses import FakeTensorMode

# of a tensor `a` (4, 4) on the card, `b` (4, 4) on the processor, whole numbers `i` (2,) on the card and `j` (2,) there
Operation = Callable[[Tensor, Tensor, Tensor, Tensor], object]
OPERATIONS: dict[str, Operation] = {
    "add": lambda a, b, i, j: a + b,
    "add to the other": lambda a, b, i, j: b + a,
    "number of the processor": lambda a, b, i, j: a + b[0, 0],
    "number of the card": lambda a, b, i, j: b + a[0, 0],
    "number of Python": lambda a, b, i, j: a * 2.0,
    "matmul": lambda a, b, i, j: a @ b,
    "linear": lambda a, b, i, j: F.linear(a, a, b[0]),
    "where": lambda a, b, i, j: torch.where(a > 0, a, b),
    "where with a number": lambda a, b, i, j: torch.where(a > 0, a, torch.tensor(0.0)),
    "masked_fill": lambda a, b, i, j: a.masked_fill(b > 0, 0.0),
    "cat": lambda a, b, i, j: torch.cat([a, b]),
    "stack": lambda a, b, i, j: torch.stack([a, b]),
    "copy": lambda a, b, i, j: a.copy_(b),
    "copy to the processor": lambda a, b, i, j: b.copy_(a),
    "gather": lambda a, b, i, j: a.gather(1, j[:, None].expand(2, 4)),
    "index_select": lambda a, b, i, j: a.index_select(0, j),
    "scatter": lambda a, b, i, j: a.scatter(1, j[:, None], 0.0),
    "cross entropy": lambda a, b, i, j: F.cross_entropy(a[:2], j),
    "einsum": lambda a, b, i, j: torch.einsum("ij,jk->ik", a, b),
    "attention": lambda a, b, i, j: F.scaled_dot_product_attention(a[None, None], b[None, None], b[None, None]),
    "layer norm": lambda a, b, i, j: F.layer_norm(a, (4,), b[0]),
    "copied first": lambda a, b, i, j: a + b.to(a),
    "made there": lambda a, b, i, j: a + torch.ones(4, 4, device=a.device),
    "made like": lambda a, b, i, j: a + torch.zeros_like(a),
    "back": lambda a, b, i, j: a.cpu() + b,
    "softmax and sum": lambda a, b, i, j: a.softmax(-1).sum() + b[0, 0],
}  # fmt: skip


def mixes(operation: Operation, *tensors: Tensor) -> bool:
    try:
        operation(*tensors)
    except (RuntimeError, torch._dynamo.exc.TorchRuntimeError) as error:
        if "device" not in str(error):
            raise
        return True
    return False


@pytest.mark.parametrize("name", OPERATIONS)
def test_it_refuses_what_fake_tensors_refuse(name: str) -> None:
    """Fake tensors are on "meta", as "cuda" cannot be indexed without it: as good a device as any."""
    a, i = torch.ones(4, 4), torch.arange(2)
    with FakeTensorMode(allow_non_fake_inputs=True):
        expected = mixes(OPERATIONS[name], a.to("meta"), torch.ones(4, 4), i.to("meta"), torch.arange(2))
    with card():
        assert mixes(OPERATIONS[name], a.to("cuda"), torch.ones(4, 4), i.to("cuda"), torch.arange(2)) == expected


STRICTER: dict[str, tuple[Operation, bool]] = {  # by CUDA's own rules, which FakeTensorMode does not know
    "embedding": (lambda a, b, i, j: F.embedding(j, a), True),
    "in place into the processor": (lambda a, b, i, j: b.add_(a), True),
    "in place": (lambda a, b, i, j: a.add_(b), True),
    "card by processor": (lambda a, b, i, j: a[j], False),
    "processor by card": (lambda a, b, i, j: b[i], True),
    "write by processor": (lambda a, b, i, j: a.index_put_((j,), a[:2].clone()), False),
    "write into the processor": (lambda a, b, i, j: b.index_put_((i,), b[0, 0]), True),
    "write from the processor": (lambda a, b, i, j: a.index_put_((i,), b[:2]), True),
    "number into the processor": (lambda a, b, i, j: b[0, 0].add_(a[0, 0]), True),
    "matmul with a number": (lambda a, b, i, j: torch.dot(a[0], b[0, 0].expand(4)), True),
    "generator": (lambda a, b, i, j: torch.rand(2, device=a.device, generator=torch.Generator()), True),
}


@pytest.mark.parametrize("name", STRICTER)
def test_it_refuses_what_cuda_refuses(name: str) -> None:
    operation, refused = STRICTER[name]
    with card():
        on_card = torch.ones(4, 4).to("cuda"), torch.arange(2).to("cuda")
        assert mixes(operation, on_card[0], torch.ones(4, 4), on_card[1], torch.arange(2)) == refused


def test_it_holds_numbers() -> None:
    with card() as mode:
        made = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device="cuda")
        assert isinstance(made, OnCard)
        assert (made.device.type, made.is_cuda, made.is_cpu) == ("cuda", True, False)
        with pytest.raises(TypeError, match="can't convert cuda:0"):
            made.numpy()
        assert not mode.counts.total()
        assert made.sum().item() == 10
        assert made[made > 1].tolist() == [2, 3, 4]
        assert made[[1, 0]][:, 0].tolist() == [3, 1]
        assert mode.counts == {"waits": 2, "copies": 2}
        weight = torch.nn.Linear(2, 1).to("cuda").weight
        (made @ weight.T).sum().backward()
        assert weight.grad is not None
        assert weight.grad.tolist() == [[4, 6]]
        with torch.inference_mode():
            assert (made * 2).cpu().tolist() == [[2, 4], [6, 8]]
            assert torch.empty(2, device="cuda").isnan().all()
