"""MyGPT against the original network's logits and against a plain loop written here; its files, whole and damaged."""

import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interp_kit.models.gpt2 import CheckpointError
from interp_kit.models.mygpt import MyGPT, MyGPTConfig, load_mygpt, save_mygpt, sinusoidal

FIXTURE = Path(__file__).parents[1] / "fixtures" / "culture"
ORIGINAL = FIXTURE / "gpt_000.pth"
ODD = MyGPTConfig(d_vocab=7, d_model=11, d_key=3, d_value=5, d_mlp=9, n_heads=2, n_layers=2)
State = dict[str, Tensor]

configs = st.builds(
    MyGPTConfig,
    d_vocab=st.integers(1, 17),
    d_model=st.integers(1, 19),
    d_key=st.integers(1, 7),
    d_value=st.integers(1, 7),
    d_mlp=st.integers(1, 23),
    n_heads=st.integers(1, 4),
    n_layers=st.integers(1, 3),
)


def perturbed(config: MyGPTConfig, seed: int = 0) -> MyGPT:
    """A network in eval mode whose biases and LayerNorms are not those of a fresh one."""
    model = MyGPT(config, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.requires_grad_(False)


def quizzes(config: MyGPTConfig, rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, config.d_vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


def loop(model: MyGPT, quiz: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(pos, vocab) logits and (layer, head, pos, pos) attention of one quiz, position by position and head by head."""
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    c, text = model.config, [0, *quiz[:-1]]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean()
        return centred / math.sqrt((centred**2).mean() + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    places, stream = sinusoidal(len(text), c.d_model).double().numpy(), []  # which test_positions holds to its formula
    for t, token in enumerate(text):
        stream.append(w["embed.weight"][token] + places[t])
    patterns = np.zeros((c.n_layers, c.n_heads, len(text), len(text)))
    for layer in range(c.n_layers):
        block = f"blocks.{layer}"
        normed = [norm(x, f"{block}.ln1") for x in stream]
        heads = [np.zeros(c.n_heads * c.d_value) for _ in text]
        for h in range(c.n_heads):
            q, k, v = (np.array([w[f"{block}.w_{x}"][h] @ y for y in normed]) for x in "qkv")
            for t in range(len(text)):
                weights = np.exp([(q[t] @ k[s]) / math.sqrt(c.d_key) for s in range(t + 1)])
                patterns[layer, h, t, : t + 1] = weights / weights.sum()
                heads[t][h * c.d_value : (h + 1) * c.d_value] = patterns[layer, h, t, : t + 1] @ v[: t + 1]
        for t in range(len(text)):
            stream[t] = stream[t] + heads[t] @ w[f"{block}.w_o"]
            hidden = w[f"{block}.fc1.weight"] @ norm(stream[t], f"{block}.ln2") + w[f"{block}.fc1.bias"]
            stream[t] = stream[t] + w[f"{block}.fc2.weight"] @ np.maximum(hidden, 0) + w[f"{block}.fc2.bias"]
    return np.array([w["readout.weight"] @ x + w["readout.bias"] for x in stream]), patterns


def test_logits_of_the_original_network() -> None:
    model, accuracy = load_mygpt(ORIGINAL)
    assert model.config == MyGPTConfig(15, 48, 20, 16, 96, 3, 2)
    assert accuracy == pytest.approx(0.9535)
    assert not model.training
    with torch.no_grad():
        found = model(torch.load(FIXTURE / "tokens.pt"))
    expected = torch.load(FIXTURE / "logits_000.pt")
    assert expected.std() > 10
    assert (found - expected).abs().max() < 1e-3


@given(config=configs, length=st.integers(1, 9), seed=st.integers(0, 1000))
@settings(max_examples=40)
def test_the_network_is_the_loop(config: MyGPTConfig, length: int, seed: int) -> None:
    """In double precision: a norm over a few numbers that are nearly equal keeps few digits."""
    model, tokens = perturbed(config, seed).double(), quizzes(config, 2, length, seed)
    logits, attention = model(tokens), model.attention(tokens)
    for row in range(2):
        expected, patterns = loop(model, tokens[row].tolist())
        assert np.abs(logits[row].numpy() - expected).max() < 1e-6
        assert np.abs(attention[:, row].numpy() - patterns).max() < 1e-6


@given(config=configs, at=st.integers(0, 8))
@settings(max_examples=20)
def test_no_token_is_seen_before_its_successor(config: MyGPTConfig, at: int) -> None:
    model, tokens = perturbed(config).double(), quizzes(config, 1, 9)
    changed = tokens.clone()
    changed[0, at] = (tokens[0, at] + 1) % config.d_vocab
    before, after = model(tokens), model(changed)
    assert torch.allclose(before[:, : at + 1], after[:, : at + 1], atol=1e-12)
    if at < 8 and config.d_vocab > 1 and config.d_model > 2:
        assert not torch.allclose(before[:, at + 1], after[:, at + 1], atol=1e-12)


def test_positions() -> None:
    table = sinusoidal(405, 48).double()
    t = torch.arange(405, dtype=torch.float64)[:, None]
    rate = 1e5 ** (-torch.arange(0, 48, 2, dtype=torch.float64) / 48)
    assert (table[:, 0::2] - (t * rate).sin()).abs().max() < 5e-5
    assert (table[:, 1::2] - (t * rate).cos()).abs().max() < 5e-5
    assert torch.equal(sinusoidal(3, 5, base=10), sinusoidal(7, 5, base=10)[:3])
    for t, row in enumerate(sinusoidal(9, 5).tolist()):
        expected = [(math.cos if j % 2 else math.sin)(t / 100_000 ** ((j - j % 2) / 5)) for j in range(5)]
        assert row == pytest.approx(expected, abs=1e-6)


def test_a_longer_text_follows_a_shorter_one() -> None:
    model, tokens = perturbed(ODD), quizzes(ODD, 2, 12)
    with torch.inference_mode():
        short = model(tokens[:, :5])
    assert (model(tokens)[:, :5] - short).abs().max() < 1e-5
    assert model(tokens[:, :0]).shape == (2, 0, 7)


def test_weights_are_drawn_as_the_original_draws_them() -> None:
    config = MyGPTConfig(d_vocab=40, d_model=100, d_key=30, d_value=20, d_mlp=50, n_heads=4, n_layers=1)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = MyGPT(config, seed=3), MyGPT(config, seed=3), MyGPT(config, seed=4)
    assert torch.equal(torch.get_rng_state(), state)  # The global stream is not drawn from.
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.embed.weight, other.embed.weight)
    weights = first.state_dict()
    assert weights["embed.weight"].std() == pytest.approx(1, rel=0.1)
    for name in ("w_q", "w_k", "w_v", "w_o"):
        assert weights[f"blocks.0.{name}"].std() == pytest.approx(0.1, rel=0.1)
    assert weights["readout.weight"].abs().max() <= 0.1  # torch's own bound, 1/sqrt(in)
    assert weights["blocks.0.fc2.bias"].abs().max() <= 50**-0.5


def test_every_weight_learns_and_dropout_is_for_training_only() -> None:
    tokens = quizzes(ODD, 4, 10)
    model, plain = MyGPT(ODD, dropout=0.5), MyGPT(ODD)
    model(tokens).logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 0, name
    with torch.no_grad():
        assert not torch.allclose(model(tokens), model(tokens))
        assert torch.equal(model.eval()(tokens), plain(tokens))


@pytest.mark.parametrize("name", MyGPTConfig.__dataclass_fields__)
def test_sizes_are_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0, it must be at least 1"):
        MyGPTConfig(**{**vars(ODD), name: 0})


# Files


def read(path: Path) -> tuple[State, Any]:
    return torch.load(path, weights_only=True)


def written(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def saved(path: Path, wrapper: bool = False, config: MyGPTConfig = ODD) -> Path:
    return save_mygpt(perturbed(config), 0.5, path, wrapper=wrapper)


def test_the_originals_keys_and_the_wrapped_ones(tmp_path: Path) -> None:
    state, accuracy = read(ORIGINAL)
    model, _ = load_mygpt(ORIGINAL)
    plain, _ = read(save_mygpt(model, accuracy, tmp_path / "plain.pth"))
    assert set(plain) == set(state)
    assert all(torch.equal(plain[key], state[key]) for key in state)
    wrapped, _ = read(save_mygpt(model, accuracy, tmp_path / "wrapped.pth", wrapper=True))
    assert {"embedding.f.0.f.0.weight", "trunk.0.f.f.1.w_q", "trunk.3.f.f.f.4.bias", "readout.f.f.weight"} < set(
        wrapped
    )
    moved = {}
    for key, value in state.items():
        head, rest = key.split(".f.", 1) if key.startswith("trunk") else key.split(".", 1)
        moved[f"{head}.f.f.{rest}" if key.startswith("trunk") else f"{head}.f.{rest}"] = value
    assert set(moved) == set(wrapped)
    again, _ = load_mygpt(written(tmp_path / "moved.pth", (moved, accuracy)))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@given(config=configs, wrapper=st.booleans(), accuracy=st.floats(0, 1))
@settings(max_examples=15)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, config: MyGPTConfig, wrapper: bool, accuracy: float
) -> None:
    model = perturbed(config)
    path = save_mygpt(model, accuracy, tmp_path_factory.mktemp("round") / "gpt_000.pth", wrapper=wrapper)
    again, stored = load_mygpt(path, d_vocab=config.d_vocab)
    assert (again.config, stored) == (config, accuracy)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    tokens = quizzes(config, 1, 5)
    assert torch.equal(model(tokens), again(tokens))
    again(tokens).sum().backward()  # It may be trained further.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    model = perturbed(ODD)
    path = save_mygpt(model, 1, tmp_path / "small.pth", dtype=dtype)
    assert {value.dtype for value in read(path)[0].values()} == {dtype}
    again, _ = load_mygpt(path, d_vocab=7)
    for mine, theirs in zip(model.parameters(), again.parameters(), strict=True):
        assert theirs.dtype == torch.float32
        assert torch.equal(mine.to(dtype).float(), theirs)


@pytest.mark.parametrize("accuracy", [torch.tensor(0.25), torch.tensor([0.25]), 0.25, torch.tensor(0.25).half()])
def test_accuracy_is_a_number_or_a_tensor(tmp_path: Path, accuracy: Any) -> None:
    state, _ = read(saved(tmp_path / "a.pth"))
    assert load_mygpt(written(tmp_path / "b.pth", (state, accuracy)), d_vocab=7)[1] == 0.25


def test_vocabulary_is_the_one_expected(tmp_path: Path) -> None:
    path = saved(tmp_path / "seven.pth")
    with pytest.raises(CheckpointError, match=r"seven\.pth: the vocabulary has 7 tokens, expected 15"):
        load_mygpt(path)


class Bomb:
    """A pickle of it runs code where it is unpickled carelessly."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("place", ["alone", "accuracy", "state", "old format"])
def test_code_in_a_file_does_not_run(tmp_path: Path, place: str) -> None:
    state, _ = read(saved(tmp_path / "good.pth"))
    target = tmp_path / "exploded"
    path = tmp_path / "bad.pth"
    match place:
        case "alone":
            path.write_bytes(pickle.dumps(Bomb(target)))
        case "accuracy":
            written(path, (state, Bomb(target)))
        case "state":
            written(path, ({**state, "readout.f.bias": Bomb(target)}, 0.5))
        case _:
            torch.save((state, Bomb(target)), path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"bad\.pth cannot be read: .*nothing in it was executed"):
        load_mygpt(path, d_vocab=7)
    assert not target.exists()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replaced(content: Callable[[State], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        written(path, content(read(path)[0]))

    return damage


def made_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def without(state: State, key: str) -> State:
    return {k: v for k, v in state.items() if k != key}


NAN = torch.full((9,), torch.nan)
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda p: p.unlink(), r"is missing"),
    "directory": (made_a_directory, r"is not a file"),
    "empty": (lambda p: p.write_bytes(b""), r"cannot be read: \S"),
    "truncated": (truncated, r"cannot be read: \S"),
    "text": (lambda p: p.write_text("not a checkpoint"), r"cannot be read: \S"),
    "no pair": (replaced(lambda s: s), r"no pair"),
    "a triple": (replaced(lambda s: (s, 0.5, 1)), r"no pair"),
    "reversed": (replaced(lambda s: (0.5, s)), r"first part is not a state dict but float"),
    "accuracy is text": (replaced(lambda s: (s, "0.5")), r"stored accuracy is '0\.5', no finite number"),
    "accuracy is nan": (replaced(lambda s: (s, math.nan)), r"stored accuracy is 'nan'"),
    "accuracy is huge": (replaced(lambda s: (s, 10**400)), r"stored accuracy is '1000+\.\.\.0+', not within 0\.\.1"),
    "accuracy is negative": (replaced(lambda s: (s, -5)), r"stored accuracy is '-5', not within 0\.\.1"),
    "accuracy is above 1": (replaced(lambda s: (s, 7.3)), r"stored accuracy is '7\.3', not within 0\.\.1"),
    "accuracy is true": (replaced(lambda s: (s, True)), r"stored accuracy is 'True', no finite number"),
    "accuracy is a tensor of truth": (replaced(lambda s: (s, torch.tensor(True))), r"'True', no finite number"),
    "accuracy is infinite": (replaced(lambda s: (s, math.inf)), r"stored accuracy is 'inf', "),
    "accuracy is a list": (replaced(lambda s: (s, torch.ones(3))), r"no finite number"),
    "no weights": (replaced(lambda s: ({}, 0.5)), r"embedding\.0\.f\.0\.weight is missing"),
    "key missing": (replaced(lambda s: (without(s, "trunk.1.f.f.4.bias"), 0.5)), r"trunk\.1\.f\.f\.4\.bias is missing"),
    "first key missing": (replaced(lambda s: (without(s, "trunk.0.f.1.w_q"), 0.5)), r"trunk\.0\.f\.1\.w_q is missing"),
    "block missing": (
        replaced(lambda s: ({k: v for k, v in s.items() if not k.startswith("trunk.2.")}, 0.5)),
        r"trunk\.2\.\S+ is missing",
    ),
    "key unknown": (
        replaced(lambda s: ({**s, "readout.f.scale": torch.ones(1)}, 0.5)),
        r"readout\.f\.scale is unknown",
    ),
    "trunk part unknown": (
        replaced(lambda s: ({**s, "trunk.99999.f.w": torch.ones(1)}, 0.5)),
        r"trunk\.99999 is unknown",
    ),
    "key no text": (replaced(lambda s: ({**s, 3: torch.ones(1)}, 0.5)), r"a key is '3', no text"),
    "layouts mixed": (
        replaced(lambda s: ({**without(s, "readout.f.bias"), "readout.f.f.bias": s["readout.f.bias"]}, 0.5)),
        r"readout\.f\.bias is missing",
    ),
    "shape inconsistent": (
        replaced(lambda s: ({**s, "trunk.2.f.1.w_k": s["trunk.2.f.1.w_k"][:, :2]}, 0.5)),
        r"trunk\.2\.f\.1\.w_k has shape \(2, 2, 11\), expected \(2, 3, 11\)",
    ),
    "output narrower": (
        replaced(lambda s: ({**s, "trunk.0.f.1.w_o": s["trunk.0.f.1.w_o"][:9]}, 0.5)),
        r"trunk\.0\.f\.1\.w_o has shape \(9, 11\), expected \(10, 11\)",
    ),
    "flat": (
        replaced(lambda s: ({**s, "trunk.0.f.1.w_v": s["trunk.0.f.1.w_v"].flatten()}, 0.5)),
        r"trunk\.0\.f\.1\.w_v has shape \(110,\), expected 3 dimensions",
    ),
    "no dimension left": (
        replaced(lambda s: ({**s, "embedding.0.f.0.weight": torch.ones(7, 0)}, 0.5)),
        r"by the shapes, d_model is 0",
    ),
    "larger than stored": (
        replaced(lambda s: ({**s, "readout.f.bias": torch.ones(1).expand(7)}, 0.5)),
        r"readout\.f\.bias has shape \(7,\), more than the file stores for it",
    ),
    "whole numbers": (
        replaced(lambda s: ({**s, "readout.f.bias": torch.ones(7, dtype=torch.long)}, 0.5)),
        r"readout\.f\.bias holds torch\.int64, no dense floating-point numbers",
    ),
    "sparse": (
        replaced(lambda s: ({**s, "readout.f.bias": torch.ones(7).to_sparse()}, 0.5)),
        r"readout\.f\.bias holds torch\._utils\._rebuild_sparse_tensor, no dense",
    ),
    "no tensor": (replaced(lambda s: ({**s, "readout.f.bias": 1.0}, 0.5)), r"readout\.f\.bias holds float, no dense"),
    "nan": (replaced(lambda s: ({**s, "trunk.1.f.f.2.bias": NAN}, 0.5)), r"trunk\.1\.f\.f\.2\.bias has 9 nan"),
    "infinite": (
        replaced(lambda s: ({**s, "trunk.0.f.1.w_q": s["trunk.0.f.1.w_q"] / 0}, 0.5)),
        r"trunk\.0\.f\.1\.w_q has \d+ nan or infinite values",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_clear_error(tmp_path: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    path = saved(tmp_path / "gpt_007.pth")
    damage(path)
    with pytest.raises(CheckpointError, match=message) as error:
        load_mygpt(path, d_vocab=7)
    assert "gpt_007.pth" in str(error.value)
    assert "\n" not in str(error.value)


def test_any_cut_and_any_flipped_byte_is_an_error_or_harmless(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.pth").read_bytes()
    generator = np.random.default_rng(0)
    path = tmp_path / "hurt.pth"
    for cut in generator.integers(0, len(whole), 30):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match="hurt"):
            load_mygpt(path, d_vocab=7)
    for at in generator.integers(0, len(whole), 100):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            load_mygpt(path, d_vocab=7)
        except CheckpointError as error:
            assert "hurt.pth" in str(error)  # noqa: PT017  Some bytes mean nothing, most are caught: no other error.


def test_a_failed_save_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "gpt.pth")
    before, model = path.read_bytes(), perturbed(ODD, 1)

    def fail(content: object, file: Path) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(OSError, match="disk full"):
            save_mygpt(model, 0.5, path)
    model.readout.bias[2] = 1e38
    with pytest.raises(ValueError, match=r"readout\.f\.bias has nan or infinite values in torch.float16"):
        save_mygpt(model, 0.5, path, dtype=torch.float16)
    for accuracy in (math.nan, 7.3, -5, True):
        with pytest.raises(ValueError, match=f"accuracy is {accuracy}, not within 0..1"):
            save_mygpt(model, accuracy, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["gpt.pth"]


def test_files_of_the_old_format_are_read(tmp_path: Path) -> None:
    state, accuracy = read(ORIGINAL)
    buffer = io.BytesIO()
    torch.save((state, accuracy), buffer, _use_new_zipfile_serialization=False)
    (tmp_path / "old.pth").write_bytes(buffer.getvalue())
    model, _ = load_mygpt(tmp_path / "old.pth")
    assert torch.equal(model.embed.weight, state["embedding.0.f.0.weight"])
