"""The culture checkpoints by number: `gpt_NNN.pth` and `c_quizzes.pth` in a folder or a hub repository, and what a
model writes into the grids that a quiz leaves open."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import torch
from jaxtyping import Bool, Int
from loguru import logger
from numpy.typing import NDArray
from torch import Tensor

from interp_kit.core.showing import PROGRESS
from interp_kit.engine.decode import decode
from interp_kit.models.checkpoints import (
    ELSEWHERE,
    Provenance,
    checkpoint_root,
    digest_of,
    provenance,
    read_manifest,
    verify_entry,
    weights_hash,
)
from interp_kit.models.convert import convert_mygpt
from interp_kit.models.gpt2 import HUB_ID
from interp_kit.models.hooked_model import HookedModel, attach
from interp_kit.models.mygpt import MyGPT, load_mygpt
from interp_kit.models.tensor_files import CheckpointError
from interp_kit.studies.culture.training import quiz_making as making
from interp_kit.studies.culture.training.quiz_making import QUIZZES
from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.task import build_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from interp_kit.models.hooked_model import HookedTransformer

FOLDER = "culture"
MODEL = re.compile(r"gpt_(\d{3,})\.pth")


class Quizzes(NamedTuple):
    """(n, 404) quizzes that models made, in canonical order: those trained on, and those kept for tests."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]

    @property
    def unseen(self) -> NDArray[np.int64]:
        """(k, 404) the distinct test quizzes that are not trained on."""
        known = {quiz.tobytes() for quiz in self.train}
        distinct = np.unique(self.test, axis=0)
        return distinct[[quiz.tobytes() not in known for quiz in distinct]]


class Written(NamedTuple):
    """right: (n,) whether every cell written is that of the quiz; quizzes: (n, 404) with what was written."""

    right: Bool[Tensor, " n"]
    quizzes: Int[Tensor, "n 404"]


def culture_ids(checkpoint_dir: str | Path | None = None) -> list[int]:
    """The numbers of the models that there are. Raises CheckpointError if there are none."""
    folder = _folder(checkpoint_dir)
    found = sorted(int(match[1]) for name in _names(folder) if (match := MODEL.fullmatch(name)))
    if not found:
        raise CheckpointError(f"{folder} has no gpt_NNN.pth; {ELSEWHERE}")
    return found


def has_quizzes(checkpoint_dir: str | Path | None = None) -> bool:
    """True if there are quizzes that models made."""
    return QUIZZES in _names(_folder(checkpoint_dir))


@overload
def load_culture(ids: int, checkpoint_dir: str | Path | None = ..., device: str = ...) -> MyGPT: ...
@overload
def load_culture(ids: Sequence[int], checkpoint_dir: str | Path | None = ..., device: str = ...) -> list[MyGPT]: ...
def load_culture(
    ids: int | Sequence[int], checkpoint_dir: str | Path | None = None, device: str = "cpu"
) -> MyGPT | list[MyGPT]:
    """The MyGPT of that number, or a list for several, in eval mode; each carries `provenance` and the `accuracy` that
    was stored with it.

    checkpoint_dir: a folder, or as text the id of a hub repository, of which only the files wanted are fetched; by
    default `culture` among the library's checkpoints. Raises CheckpointError naming a file that is missing, damaged or
    not the one that the manifest names.
    """
    if isinstance(ids, int):
        return _load(ids, checkpoint_dir, device)
    return [_load(id, checkpoint_dir, device) for id in ids]


@overload
def load_hooked(
    ids: int, sae: bool = ..., checkpoint_dir: str | Path | None = ..., device: str = ...
) -> "HookedTransformer": ...
@overload
def load_hooked(
    ids: Sequence[int], sae: bool = ..., checkpoint_dir: str | Path | None = ..., device: str = ...
) -> "list[HookedTransformer]": ...
def load_hooked(
    ids: int | Sequence[int], sae: bool = False, checkpoint_dir: str | Path | None = None, device: str = "cpu"
) -> "HookedTransformer | list[HookedTransformer]":
    """As `load_culture`, as HookedTransformers (with `sae`, HookedSAETransformers) of 405 tokens: hooked([0] +
    quiz[:-1]) gives what MyGPT(quiz) gives. Each conversion is checked, and kept as `model.conversion`."""
    if isinstance(ids, int):
        return hooked(load_culture(ids, checkpoint_dir), sae=sae, device=device)
    return [hooked(source, sae=sae, device=device) for source in load_culture(ids, checkpoint_dir)]


def hooked(source: MyGPT, *, sae: bool = False, device: str = "cpu") -> "HookedTransformer":
    """A loaded MyGPT as a HookedTransformer of the same provenance."""
    model, origin = convert_mygpt(source, sae=sae, device=device), provenance(source)
    attach(model, provenance=origin, accuracy=getattr(source, "accuracy", None))
    logger.info("{}: {}", origin.name, model.conversion)
    return model


def load_quizzes(checkpoint_dir: str | Path | None = None) -> Quizzes:
    """The quizzes of `c_quizzes.pth`. Nothing in the file is executed.

    Raises CheckpointError naming the file if there is none or it is damaged, with row and position of a token or
    marker that is out of place.
    """
    return Quizzes(*making.load_quizzes(_file(QUIZZES, checkpoint_dir)))


def create_tokenizer(words: str = "decimal", *, push_to_hub: str | None = None) -> "PreTrainedTokenizerFast":
    """Make a tokenizer of quizzes, for axes and texts. Its padding token is none of the tokens of a quiz.

    Args:
        words: "decimal" for 0 … 10 and A, f_A, B, f_B; unknown text is an error. "hexadecimal" for the original's
            0 … a and X, f_X, Y, f_Y, with [UNK] = 15 (and [PAD] = 16 for its padding, which was "0", as white is).
        push_to_hub: Id of a hub repository that it is pushed to, by the tokenizer's own method of that name.

    Returns:
        The tokenizer. The same ids as in quizzes; at most 405 of them.

    Raises:
        ValueError: There are no such words.
    """
    made = build_tokenizer(words)
    if push_to_hub is not None:
        made.push_to_hub(push_to_hub)
    return made


def generate(
    model: MyGPT | HookedModel,
    quizzes: Any,
    *,
    temperature: float | int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = PROGRESS,
) -> Written:
    """Let a model write the grids that each quiz's structure asks for: the last one; all but the first in f_B f_A A B.

    quizzes: (n, 404) tokens, with or without the 0 before them, or one such row; markers are given, never written, and
    what stands in the grids asked for is only compared with. temperature: of sampling; None takes the most probable
    colours. Raises ValueError for anything but quizzes.
    """
    tokens = np.atleast_2d(np.asarray(quizzes))
    if tokens.shape[-1] == grids.LENGTH + 1 and not tokens[:, 0].any():
        tokens = tokens[:, 1:]
    if tokens.shape[-1] != grids.LENGTH:
        raise ValueError(f"quizzes have {grids.LENGTH} tokens, got shape {tokens.shape}")
    structures = grids.structure_of(tokens)
    last = grids.cells_of(np.array([False, False, False, True]))
    free = np.where((structures >= 0)[:, None], grids.predicted_cells(structures), last)
    grids.check(np.where(free, 0, tokens))
    given = torch.as_tensor(np.pad(tokens, ((0, 0), (1, 0))).astype(np.int64))
    done = decode(
        convert_mygpt(model, device=str(model.embed.weight.device)) if isinstance(model, MyGPT) else model,
        given,
        torch.as_tensor(np.pad(free, ((0, 0), (1, 0)))),
        temperature=temperature,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    return Written((done.tokens == given).all(1), done.tokens[:, 1:])


def _load(id: int, checkpoint_dir: str | Path | None, device: str) -> MyGPT:
    path = _file(f"gpt_{id:03d}.pth", checkpoint_dir)
    model, accuracy = load_mygpt(path)
    folder = _folder(checkpoint_dir)
    name = f"{folder.resolve().name if isinstance(folder, Path) else folder}/gpt_{id:03d}"
    entry = read_manifest().get(name) if checkpoint_dir is None else None
    if entry is not None:
        verify_entry(entry, path, f"checkpoint {name!r}")
    sha256 = weights_hash(path)
    origin = Provenance(
        name=name,
        path=str(path),
        sha256=sha256,
        digest=digest_of(path),
        initialisation=entry.initialisation if entry else f"{name} {sha256[:12]}",  # every file its own
        task="culture",
    )
    attach(model, provenance=origin, accuracy=accuracy)
    return model.to(device)


def _folder(checkpoint_dir: str | Path | None) -> Path | str:
    """A folder, or the id of a hub repository. Raises CheckpointError if it can be neither."""
    if checkpoint_dir is None:
        checkpoint_dir = checkpoint_root() / FOLDER
    path = Path(checkpoint_dir)
    if path.is_dir():
        return path
    if (
        isinstance(checkpoint_dir, str)
        and not path.exists()
        and "/" in checkpoint_dir
        and HUB_ID.fullmatch(checkpoint_dir)
    ):
        return checkpoint_dir
    missing = "" if path.exists() else f": it is missing; {ELSEWHERE}"
    raise CheckpointError(f"{path} is not a folder of checkpoints{missing}")


def _names(folder: Path | str) -> list[str]:
    """The files of a folder or a hub repository."""
    if isinstance(folder, Path):
        return sorted(path.name for path in folder.iterdir() if path.is_file())
    return _ask_hub(folder, lambda hub: hub.list_repo_files(folder))


def _file(name: str, checkpoint_dir: str | Path | None) -> Path:
    folder = _folder(checkpoint_dir)
    if isinstance(folder, str):
        return Path(_ask_hub(folder, lambda hub: hub.hf_hub_download(folder, name), f" {name}"))
    if not (folder / name).is_file():
        models = [name for name in _names(folder) if MODEL.fullmatch(name)]
        raise CheckpointError(f"{folder / name} is missing; the folder has {', '.join(models) or 'no gpt_NNN.pth'}")
    return folder / name


def _ask_hub(folder: str, what: Any, name: str = "") -> Any:
    import huggingface_hub

    try:
        return what(huggingface_hub)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"no folder {folder}, and the hub does not give it{name}: {reason}") from error
