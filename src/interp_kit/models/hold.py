"""One thread at a time in one model, in the same torch context whatever the caller's is.

Hooks and edited weights are the model's own, so that two threads in one model see each other's edits. `on_model` makes
an analysis hold its model. Another thread waits for an analysis, which ends by itself; it is refused while a block such
as `editing` is open, which ends only when its owner says, who may be waiting for that thread.
"""

import functools
import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from interp_kit.models.following import Moved
from interp_kit.models.hooked_model import HookedModel
from interp_kit.models.meeting import check_model

Analysis = TypeVar("Analysis", bound=Callable[..., Any])
DEVICES = ("cpu", "cuda", "mps", "xpu")  # whose autocast an analysis turns off


class _Hold:
    """Who is in one model: readers, which add no hook and change no weight, or one owner."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.owner: threading.Thread | None = None
        self.depth, self.block = 0, False
        self.readers: Counter[threading.Thread] = Counter()

    def enter(self, shared: bool, block: bool) -> threading.Thread | None:
        """Wait until this thread may run the model. Gives the thread to be counted as a reader, None for the owner."""
        me = threading.current_thread()
        with self.changed:
            while self.owner is not me:
                others = self.readers.total() > self.readers[me]
                if self.owner is None and (shared or not others):
                    if shared:
                        self.readers[me] += 1
                        return me
                    self.owner, self.block = me, block
                    break
                if self.block or self.readers[me]:
                    holder = self.owner or next(thread for thread in self.readers if thread is not me)
                    raise RuntimeError(
                        f"the model is in use by thread {holder.name!r}, inside `with editing(...)` or a callback: end"
                        " that first, or give every thread its own copy.deepcopy(model)"
                    )
                self.changed.wait()
            self.depth += 1
            return None

    def leave(self, reader: threading.Thread | None) -> None:
        """Undo one `enter`, from whatever thread a generator is closed in."""
        with self.changed:
            if reader is not None:
                self.readers[reader] -= 1
                self.readers += Counter()  # drops threads that are out
            else:
                self.depth -= 1
                if self.depth == 0:
                    self.owner, self.block = None, False
            self.changed.notify_all()


_HOLDS: WeakKeyDictionary[Any, _Hold] = WeakKeyDictionary()
_MAKING = threading.Lock()


@contextmanager
def held(model: HookedModel, *, shared: bool = False, block: bool = False) -> Iterator[None]:
    """Keep other threads out of the model, again and again in the thread that does so already.

    shared: for what neither adds hooks nor changes weights; block: whether the caller's caller decides when it ends.
    Raises RuntimeError if waiting could last for ever.
    """
    with _MAKING:
        hold = _HOLDS.setdefault(model, _Hold())
    reader = hold.enter(shared, block)
    try:
        yield
    finally:
        hold.leave(reader)


@contextmanager
def using(
    model: HookedModel, *, causal: bool = True, shared: bool = False, gradients: bool = False
) -> Iterator[HookedModel]:
    """The model itself, held, without autocast.

    causal: whether what follows is wrong of a model that attends both ways; shared: as for `held`; gradients: whether
    they are to pass through its weights, for which inference mode is left. Raises as `plain` and `held` do, and
    ValueError for a model that does not fit.
    """
    whole = plain(model)
    if causal and attends_both_ways(whole):
        raise ValueError(
            "attention_dir is 'bidirectional': every position of such a model sees the text after it, so also the"
            " truth that it is asked for. Only sweep, patch, ablate, editing and harvest take it, on rows of one length"
        )
    if gradients and any(weight.is_inference() for _, weight in whole.named_parameters()):
        raise ValueError(
            "the model was made under torch.inference_mode(), so no gradient passes through its weights: make it"
            " outside, or under torch.no_grad()"
        )
    with held(whole, shared=shared), ExitStack() as contexts:
        for device in DEVICES:
            if torch.is_autocast_enabled(device):
                contexts.enter_context(torch.autocast(device, enabled=False))
        if gradients:
            contexts.enter_context(torch.inference_mode(False))
        yield whole


def on_model(
    *of: str, causal: bool = True, shared: bool = False, gradients: bool = False
) -> Callable[[Analysis], Analysis]:
    """A decorator for an analysis of the models that these arguments of it are, `model` where none is named: it runs
    in `using` them, and every batch that it is given, also as a part of an edit, goes to the device of the first."""

    def decorate(analysis: Analysis) -> Analysis:
        order = inspect.signature(analysis).parameters
        places = {name: list(order).index(name) for name in of or ("model",)}
        optional = {name for name in places if order[name].default is None}

        @functools.wraps(analysis)
        def run(*args: Any, **kwargs: Any) -> Any:
            listed, models = list(args), []
            for name, at in places.items():
                if at >= len(args) and name not in kwargs:
                    continue
                place: tuple[Any, Any] = (listed, at) if at < len(args) else (kwargs, name)
                if place[0][place[1]] is not None or name not in optional:
                    models.append(place)
            with ExitStack() as stack:  # two threads take two models in the same order
                for where, key in sorted(models, key=lambda found: id(found[0][found[1]])):
                    model = using(where[key], causal=causal, shared=shared, gradients=gradients)
                    where[key] = stack.enter_context(model)
                if models and (device := device_of(models[0][0][models[0][1]])) is not None:
                    moved = Moved(device)
                    listed, kwargs = [moved(one) for one in listed], {name: moved(one) for name, one in kwargs.items()}
                return analysis(*listed, **kwargs)

        return cast(Analysis, run)

    return decorate


def device_of(model: HookedModel) -> torch.device | None:
    """The device that a model reads its tokens on; None for a model without weights or device."""
    if isinstance(model, nn.Module):
        return next((weight.device for weight in model.parameters()), None)
    named = getattr(model.cfg, "device", None)
    return None if named is None else torch.device(named)


def plain(model: Any) -> HookedModel:
    """The model that torch.compile wraps, or the model itself. Raises TypeError for anything but a model, ValueError
    where a part of it is compiled: compiled code does not see hooks that come later."""
    whole = getattr(model, "_orig_mod", model)
    check_model(whole)
    for name, module in whole.named_modules() if isinstance(whole, nn.Module) else ():
        if module._compiled_call_impl is not None or hasattr(module, "_orig_mod"):
            raise ValueError(
                f"{name or 'the model'} is compiled, and compiled code does not see hooks that are added later: give"
                " the model as it was before .compile() or torch.compile"
            )
    return cast(HookedModel, whole)


def attends_both_ways(model: HookedModel) -> bool:
    """True if positions see what stands after them."""
    return getattr(model.cfg, "attention_dir", "causal") == "bidirectional"


def check_padding(model: HookedModel, mask: Tensor) -> None:
    """Raise ValueError if padding would be read: by a model that attends both ways, which has no mask for it."""
    if attends_both_ways(model) and not mask.all():
        row = int((~mask).any(1).nonzero()[0])
        raise ValueError(
            f"row {row} of the batch is padded, and a model with attention_dir 'bidirectional' reads padding as text:"
            " give rows of one length together"
        )
