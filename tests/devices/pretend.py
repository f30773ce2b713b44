"""A graphics card that is none: tensors say that they are on `cuda:0`, hold real numbers in main memory, and refuse
what CUDA refuses.

torch's own FakeTensorMode holds no numbers, so that code which looks at one (`.item()`, a mask, numpy) ends there. Here
every operation runs on the processor, after a check of where its tensors say they are. To torch's C++ they are on
"meta", as fake tensors are, which a build without CUDA can index and differentiate. `test_pretend.py` holds the check
against FakeTensorMode's.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

GPU, CPU, STAND_IN = torch.device("cuda:0"), torch.device("cpu"), torch.device("meta")
aten = torch.ops.aten

# Indices may be on the processor if the tensor is on the card, not the other way round.
INDEXED = {
    aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default, aten.index_put_.default,
    aten._index_put_impl_.default, aten._unsafe_index_put.default,
}  # fmt: skip
# The host waits for a number, or for how many there are.
WAITS = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default,
    aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default,
    aten.repeat_interleave.Tensor,
}  # fmt: skip
# Beside the pointwise ones, operations that take one number of the processor.
TAKES_NUMBER = {
    aten.where.self,
    aten.masked_fill.Tensor,
    aten.masked_fill_.Tensor,
    aten.fill_.Tensor,
    aten.lift_fresh.default,
}
# What stands in these, nobody may read: so it is made to be noticed.
EMPTY = {
    aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default, aten.empty_strided.default,
    aten.new_empty_strided.default,
}  # fmt: skip
RUBBISH = 99
MADE = (torch.tensor, torch.as_tensor, torch.asarray)  # of numbers of Python, which "meta" would drop
MIXED = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({})"


class OnCard(Tensor):
    """A tensor that says it is on the card. held: its numbers."""

    held: Tensor
    device = property(lambda self: GPU)  # pyright: ignore[reportAssignmentType]
    is_cuda = property(lambda self: True)  # pyright: ignore[reportAssignmentType]
    is_cpu = property(lambda self: False)  # pyright: ignore[reportAssignmentType]
    is_meta = property(lambda self: False)  # pyright: ignore[reportAssignmentType]
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnCard":
        with torch.inference_mode(False):  # a view of a weight would else be refused under it
            found = Tensor._make_wrapper_subclass(
                cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
                layout=held.layout, device=STAND_IN, requires_grad=False,
            )  # fmt: skip
        found.held = held
        return found

    def __repr__(self) -> str:
        return f"OnCard({self.held!r})"

    @property
    def data(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.detach()

    @data.setter
    def data(self, new: Tensor) -> None:
        if not isinstance(new, OnCard) or new.shape != self.shape or new.dtype != self.dtype:
            raise RuntimeError("set_data of another device, shape or dtype is not pretended")
        self.held = new.held

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return memo.setdefault(id(self), self.detach().clone().requires_grad_(self.requires_grad))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {}, Counter())  # of a tensor that outlives its card


class Names(TorchFunctionMode):
    """Puts the stand-in for "cuda" wherever a device is named; counts nothing that is truly "meta"."""

    meta = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (args, kwargs or {})
        if func is torch.device:
            return func(*args, **given[1])
        former, Names.meta = Names.meta, Names.meta or (kwargs is not None and str(kwargs.get("device")) == "meta")
        try:
            args, kwargs = named(given)
            if func is Tensor.new_tensor and isinstance(args[0], OnCard):
                return torch.tensor(*args[1:], **{"dtype": args[0].dtype} | kwargs).to(STAND_IN)
            if func in (Tensor.__getitem__, Tensor.__setitem__):
                args = (args[0], indices(args[1]), *args[2:])
            if func in MADE and kwargs.get("device") == STAND_IN and not Names.meta:
                return func(*args, **kwargs | {"device": None}).to(STAND_IN)
            return func(*args, **kwargs)
        finally:
            Names.meta = former


def named(given: Any) -> Any:
    """Arguments of a function, "cuda" renamed."""
    if isinstance(given, tuple):
        return tuple(named(one) for one in given)
    if isinstance(given, dict):
        return {key: named(one) for key, one in given.items()}
    if isinstance(given, torch.device):
        return STAND_IN if given.type == "cuda" else given
    return STAND_IN if isinstance(given, str) and given in ("cuda", "cuda:0") else given


def indices(given: Any) -> Any:
    """An index, lists of numbers made tensors: torch would make them on "meta"."""
    if isinstance(given, tuple):
        return tuple(indices(one) for one in given)
    return torch.as_tensor(given) if isinstance(given, list | np.ndarray) else given


class Card(TorchDispatchMode):
    """As long as it is active, "cuda" is this card.

    counts: how often tensors were copied to the host ("copies"), and the host waited for a number of the card
    ("waits").
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.is_inference_mode_enabled():  # what is made of other operations arrives whole then
            with self:
                parts = func.decompose(*args, **kwargs or {})
            if parts is not NotImplemented:
                return parts
        return run(func, args, kwargs or {}, self.counts)


def run(func: Any, args: tuple, kwargs: dict[str, Any], counts: Counter[str]) -> Any:
    """One operation: its devices are checked, then its numbers are reckoned on the processor."""
    flat, spec = tree_flatten((args, kwargs))
    tensors = [one for one in flat if isinstance(one, Tensor)]
    there = [isinstance(one, OnCard) for one in tensors]
    asked = kwargs.get("device")
    lost = any(there) and any(not card and one.is_meta for one, card in zip(tensors, there, strict=True))
    assert not lost, f"{func} is given a tensor that was made past the pretended card"
    on_card = place(func, args, tensors, there, asked, kwargs.get("generator"))
    if any(there):
        counts["waits"] += func in WAITS or masks(func, args)
        counts["copies"] += func is aten._to_copy.default and not on_card
        counts["copies"] += func is aten.copy_.default and not there[0]
    elif not on_card:
        return func(*args, **kwargs)
    given = {id(one.held): one for one in tensors if isinstance(one, OnCard)}
    plain = [one.held if isinstance(one, OnCard) else one for one in flat]
    plain = [CPU if isinstance(one, torch.device) and one.type in ("cuda", "meta") else one for one in plain]
    plain_args, plain_kwargs = tree_unflatten(plain, spec)
    result = func(*plain_args, **plain_kwargs)
    if func in EMPTY:
        result.fill_(torch.nan if result.is_floating_point() else 1 if result.dtype == torch.bool else RUBBISH)
    if torch.Tag.inplace_view in func.tags:
        with no_dispatch():  # the shape that it shows changes too
            func(*args, **kwargs)
    for one in given.values():
        assert one.held.shape == one.shape, f"{func} changes a shape in place, which is not pretended"

    def carded(one: Any) -> Any:
        if not isinstance(one, Tensor):
            return one
        return given.get(id(one)) if id(one) in given else OnCard(one) if on_card else one

    return tree_map(carded, result)


def masks(func: Any, args: tuple) -> bool:
    """True for an index that is a mask: the host must know how many it takes."""
    return func in INDEXED and any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])


def place(func: Any, args: tuple, tensors: list[Tensor], there: list[bool], asked: Any, generator: Any) -> bool:
    """True if the operation gives tensors on the card. Raises RuntimeError, as CUDA does, if its tensors do not go
    together."""
    if asked is not None and asked.type == "meta" and (Names.meta or any(t.is_meta for t in tensors)):
        return False
    if func is aten._to_copy.default:
        return there[0] if asked is None else asked.type != "cpu"
    if func in (aten.copy_.default, aten.copy.default):
        return there[0]
    check_same(func, args, tensors, there)
    on_card = any(there) if asked is None else asked.type != "cpu"
    if isinstance(generator, torch.Generator) and on_card:
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found '{generator.device.type}'")
    return on_card


def check_same(func: Any, args: tuple, tensors: list[Tensor], there: list[bool]) -> None:
    """Raise RuntimeError if tensors of both devices meet that may not."""
    if all(there) or not any(there):
        return
    if func in INDEXED:
        if not isinstance(args[0], OnCard):
            raise RuntimeError(f"indices should be either on cpu or on the same device as the indexed tensor ({func})")
        if len(args) > 2 and not isinstance(args[2], OnCard) and args[2].ndim:
            raise RuntimeError(MIXED.format(func))
        return
    number = torch.Tag.pointwise in func.tags or func in TAKES_NUMBER
    if any(not card and (one.ndim or not number) for one, card in zip(tensors, there, strict=True)):
        raise RuntimeError(MIXED.format(func))
    if func._schema.is_mutable and not there[0]:
        raise RuntimeError(MIXED.format(func))  # a number of the processor cannot hold the result


@contextmanager
def card() -> Iterator[Card]:
    """A card, as long as the block lasts."""
    cuda, lens = (import_module(name) for name in ("torch.cuda", "transformer_lens.HookedTransformer"))
    with (
        mock.patch.object(cuda, "_lazy_init"),
        # it asks for `type(tensor) == torch.Tensor`, which a true tensor on a card is
        mock.patch.object(lens, "type", lambda x: Tensor if isinstance(x, OnCard) else type(x), create=True),
        Names(),
        Card() as mode,
    ):
        yield mode
