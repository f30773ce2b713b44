"""Check that a culture checkpoint is what it should be: its positions, its conversion, and decoding with a cache."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from interp_kit.models.convert import TOLERANCE
from interp_kit.models.mygpt import MyGPT
from interp_kit.studies.culture.models import generate
from interp_kit.tasks.culture import grids

if TYPE_CHECKING:
    from interp_kit.models.hooked_model import HookedTransformer

POSITION_TOLERANCE = 1e-4  # the table is made in float32: at position 400 it is about 1e-5 off
CONVERSION = "conversion"
MARGIN = 1e-3  # of two logits that are as good as equal


@dataclass(frozen=True)
class Check:
    """name: what was checked; model: of which; value: the worst deviation; allowed: up to which it passes; over: what
    it was measured on."""

    name: str
    model: str
    value: float
    allowed: float
    over: str

    @property
    def passed(self) -> bool:
        """False for a value that is nan, too."""
        return self.value <= self.allowed

    @property
    def broken(self) -> bool:
        """True if there is no converted model to check; `over` then says why."""
        return self.name == CONVERSION

    def __str__(self) -> str:
        if self.broken:
            return f"{self.name}: FAILED, {self.over}"
        verdict = "ok" if self.passed else "FAILED"
        return f"{self.name}: {verdict}, {self.value:.3g} (allowed {self.allowed:.3g}) over {self.over}"


def check_positions(name: str, model: "HookedTransformer") -> Check:
    """The model's positions against sin(t / 1e5^((j - k) / D) + pi/2 k), k = j mod 2, computed in double precision."""
    found = model.pos_embed.W_pos.detach().double().cpu().numpy()
    t, j = np.arange(len(found))[:, None], np.arange(found.shape[1])[None]
    k = j % 2
    expected = np.sin(t / 1e5 ** ((j - k) / found.shape[1]) + np.pi / 2 * k)
    worst = float(np.abs(found - expected).max())
    return Check("positional encoding, max |difference|", name, worst, POSITION_TOLERANCE, f"{len(found)} positions")


@torch.inference_mode()
def check_logits(name: str, source: MyGPT, model: "HookedTransformer", quizzes: NDArray[Any]) -> Check:
    """MyGPT(quiz) against model([0] + quiz[:-1]) on (n, 404) quizzes: equal up to 1e-4 of the largest logit."""
    tokens = torch.as_tensor(quizzes).long().to(model.cfg.device)
    theirs, ours = source.eval()(tokens), model(F.pad(tokens, (1, -1)))
    allowed = TOLERANCE * max(1.0, float(theirs.abs().max()))
    worst = float((ours - theirs).abs().max())
    return Check("max |MyGPT - hooked| logit difference", name, worst, allowed, f"{len(tokens)} quizzes")


@torch.inference_mode()
def check_decoding(name: str, source: MyGPT, model: "HookedTransformer", quizzes: NDArray[Any]) -> Check:
    """Greedy answers decoded with a key/value cache against MyGPT reading them whole, without one: how many colours are
    not the most probable, ties aside."""
    written = generate(model, quizzes, progress=False).quizzes
    logits = source.eval()(written.to(model.cfg.device))[:, -grids.QUARTER + 1 :]
    chosen = written[:, -grids.QUARTER + 1 :, None].to(logits.device)
    short = logits.amax(-1) - logits.gather(-1, chosen)[..., 0]
    over = f"{chosen.numel()} cells of {len(written)} quizzes"
    return Check("cells decoded otherwise with a cache", name, float((~(short <= MARGIN)).sum()), 0.0, over)
