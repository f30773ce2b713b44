"""What several tests of the analyses need: one thread, the runtime shape checks out of the way, and two activations."""

from collections.abc import Callable, Iterator

import jaxtyping
import pytest
import torch
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.engine.edits import Edit
from interp_kit.engine.sites import hook_name
from interp_kit.engine.sweep import editing
from interp_kit.models.hooked_model import HookedModel
from interp_kit.tasks.boolean import BooleanTask

ReadActivation = Callable[..., Tensor]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Matrices this small are slower on several threads, and many times slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """The library as its users have it: jaxtyping does not look at arguments, so its own errors come to light."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def batch(task: BooleanTask) -> TokenBatch:
    """All 32 worlds of the boolean task."""
    return task.batch(task.enumerate())


@pytest.fixture(scope="session")
def activation() -> ReadActivation:
    """activation(model, batch, site, layer, edits=()): what stands at a site, under edits where some are given."""

    def read(model: HookedModel, batch: TokenBatch, site: str, layer: int | None, edits: tuple[Edit, ...] = ()):
        name = hook_name(site, layer)
        with torch.inference_mode():
            if not edits:
                return model.run_with_cache(batch.tokens, names_filter=[name])[1][name]
            with editing(model, batch, edits):
                return model.run_with_cache(batch.tokens, names_filter=[name])[1][name]

    return read
