"""Harvested activations against TransformerLens's cache; what is not computed, kept or written twice."""

import dataclasses
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from torch import Tensor, nn
from transformer_lens import HookedTransformer

from interp_kit.core.batch import TokenBatch
from interp_kit.core.files import aside_prefix
from interp_kit.engine import harvest as harvesting
from interp_kit.engine import harvest_store as harvest_files
from interp_kit.engine.fast.forward import Executor
from interp_kit.engine.fast.matmul import ONEDNN, Products
from interp_kit.engine.harvest import Reader, harvest
from interp_kit.engine.harvest_store import HarvestFiles, harvest_to, open_harvest
from interp_kit.engine.sites import ACTIVATIONS, hook_name

MakeModel = Callable[..., HookedTransformer]
ROWS, LENGTH, VOCABULARY = 7, 11, 15


def ragged(seed: int = 0, rows: int = ROWS) -> TokenBatch:
    """Rows of 4 to 10 of 11 tokens (what stands after is not text), with positions that stand elsewhere in each."""
    g = np.random.default_rng(seed)
    lengths = g.integers(4, LENGTH, rows)
    mask = torch.as_tensor(np.arange(LENGTH) < lengths[:, None])
    positions = {"start": lengths * 0, "early": g.integers(0, 4, rows), "end": lengths - 1}
    return TokenBatch(
        tokens=torch.as_tensor(g.integers(0, VOCABULARY, (rows, LENGTH))), mask=mask, prompt_length=mask.sum(1),
        positions={name: torch.as_tensor(index) for name, index in positions.items()}, labels={}, fields=(), answer={},
        inputs=(), numeric=(), task="random", vocabulary=tuple(map(str, range(VOCABULARY))),
    )  # fmt: skip


def cached(model: HookedTransformer, batch: TokenBatch, hook: str, positions: list[str] | None = None) -> Tensor:
    """The same, by TransformerLens's cache of everything at once."""
    with torch.inference_mode():
        value = model.run_with_cache(batch.tokens)[1][hook]
    value = value.expand(len(batch), *value.shape[1:])
    if positions is None:
        return value[batch.mask]
    return torch.stack([value[torch.arange(len(batch)), batch.positions[name]] for name in positions], dim=1)


def sites_of(model: HookedTransformer) -> list[str]:
    """Every site of ACTIVATIONS that the model calls, with its layer."""
    absent = ("mlp_out", "mlp_post", "resid_mid") if model.cfg.attn_only else ()
    return [
        site if "{layer}" not in template else f"{site}.{layer}"
        for layer in range(model.cfg.n_layers)
        for site, (template, _) in ACTIVATIONS.items()
        if site not in absent and (layer == 0 or "{layer}" in template)
    ]


# ----------------------------------------------------------------------------------------- what hooks give, all of it


@given(data=st.data())
@settings(max_examples=50)
def test_what_is_harvested_is_what_the_cache_holds(tiny_model: MakeModel, data: st.DataObject) -> None:
    model = tiny_model(
        seed=data.draw(st.integers(0, 5)), n_layers=data.draw(st.integers(1, 3)), attn_only=data.draw(st.booleans()),
        d_model=data.draw(st.sampled_from([16, 64])), d_head=data.draw(st.sampled_from([3, 8])),
        normalization_type=data.draw(st.sampled_from(["LN", "LNPre", None])),
        act_fn=data.draw(st.sampled_from(sorted(ONEDNN))),
        dtype=data.draw(st.sampled_from([torch.float32, torch.float32, torch.float64])),
    )  # fmt: skip
    if data.draw(st.booleans()):
        model.ln_final = nn.Identity()
        model.setup()
    batch = ragged(data.draw(st.integers(0, 3)))
    sites = data.draw(st.lists(st.sampled_from(sites_of(model)), min_size=1, unique=True))
    positions = data.draw(st.sampled_from([None, ["end"], ["start", "early"], ["end", "early", "start"]]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harvesting, "TOKENS", data.draw(st.sampled_from([1, 25, 10_000])))
        found = harvest(model, batch, sites, positions=positions)
    assert list(found) == sites
    for site, values in found.items():
        name, _, layer = site.partition(".")
        expected = cached(model, batch, hook_name(name, int(layer) if layer else None), positions)
        assert values.dtype == model.cfg.dtype
        allowed = (1e-10 if values.dtype == torch.float64 else 3e-5) * max(1.0, float(expected.abs().max()))
        assert values.shape == expected.shape
        assert (values - expected).abs().max() < allowed, site


@pytest.mark.parametrize("d_model", [16, 64])
def test_the_executor_reads_every_site_and_multiplies_no_more_than_it_needs(
    tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch, d_model: int
) -> None:
    model, batch = tiny_model(n_layers=3, d_model=d_model), ragged()
    linear, products = Products.__call__, []

    def counted(self: Products, x: Tensor, weight: Tensor, bias: Tensor, *, act: bool = False) -> Tensor:
        products.append(x.shape[:2])
        return linear(self, x, weight, bias, act=act)

    monkeypatch.setattr(Products, "__call__", counted)
    within = {
        "q": 1,
        "k": 1,
        "v": 1,
        "z": 1,
        "attn_out": 2,
        "resid_mid": 2,
        "mlp_post": 3,
        "mlp_out": 4,
        "resid_post": 4,
    }
    for site in sites_of(model):
        name, _, layer = site.partition(".")
        hook = hook_name(name, int(layer) if layer else None)
        reader = Reader(model, batch, [hook], ["early"])
        assert reader.executor is not None
        products.clear()
        reader.read()
        wide = 4 * int(layer or 0) + (
            1 if name in within else 0
        )  # of 11 positions 8, as "early" is among the first four
        narrow = within[name] - 1 if name in within else 0
        if name == "resid_pre" and wide:
            wide, narrow = wide - 3, 3
        assert products == [(ROWS, 8)] * wide + [(ROWS, 1)] * narrow


def test_onednn_is_used_where_it_is_there_and_pays(tiny_model: MakeModel) -> None:
    there = torch.backends.mkldnn.is_available()
    assert (Executor(tiny_model(d_model=64), blocks=1).linear.fused is not None) == there
    assert Executor(tiny_model(d_model=16), blocks=1).linear.fused is None
    assert Executor(tiny_model(d_model=64, dtype=torch.float64), blocks=1).linear.fused is None


def test_small_products_of_a_sweep_are_not_worth_onednn(tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = Executor(tiny_model(d_model=64))
    x, (weight, bias) = torch.randn(3, 64), executor.layers[0].qkv
    expected = torch.nn.functional.linear(x, weight, bias)
    monkeypatch.setattr(executor.linear, "fused", ("nonsense", ""))  # which oneDNN would refuse
    torch.testing.assert_close(executor.linear(x, weight, bias), expected)
    activated = executor.linear(x, weight, bias, act=True)
    torch.testing.assert_close(activated, executor.linear.act(expected))


def test_rows_are_what_they_are_alone(tiny_model: MakeModel) -> None:
    model, batch = tiny_model(), ragged()
    found = harvest(model, batch, "resid_post.1")["resid_post.1"].split(batch.mask.sum(1).tolist())
    for row, values in enumerate(found):
        text = batch.tokens[row : row + 1, : len(values)]
        expected = model.run_with_cache(text)[1]["blocks.1.hook_resid_post"][0]
        torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "hook"),
    [
        ({}, "blocks.1.ln1.hook_normalized"),
        ({}, "ln_final.hook_scale"),
        ({"use_attn_result": True}, "blocks.0.attn.hook_result"),
        ({}, "blocks.0.hook_resid_mid"),  # with the one before
        ({"attn_scores_soft_cap": 30.0}, "blocks.1.hook_resid_post"),
        ({"attn_scores_soft_cap": 30.0}, "hook_embed"),
        ({"dtype": torch.bfloat16}, "blocks.1.hook_mlp_out"),
    ],
)
def test_what_the_executor_does_not_give_is_read_by_hooks(tiny_model: MakeModel, config: dict, hook: str) -> None:
    model, batch = tiny_model(**config), ragged()
    hooks = [hook, "blocks.0.ln1.hook_scale"] if hook == "blocks.0.hook_resid_mid" else [hook]
    assert Reader(model, batch, hooks).executor is None
    for positions in (None, ["end", "early"]):
        found = harvest(model, batch, hooks, positions=positions)
        for name in hooks:
            torch.testing.assert_close(found[name], cached(model, batch, name, positions), atol=1e-6, rtol=1e-6)


def test_by_hooks_no_token_is_padding_whatever_tokenizer_there_is(
    tiny_model: MakeModel, pads_with_0: SimpleNamespace
) -> None:
    model, batch, hook = tiny_model(), ragged(), "ln_final.hook_normalized"
    batch.tokens[:, 0] = 0
    expected = cached(model, batch, hook)
    model.tokenizer = pads_with_0
    torch.testing.assert_close(harvest(model, batch, [hook])[hook], expected, atol=1e-5, rtol=1e-5)


def test_a_model_that_is_not_what_its_config_says_is_read_by_hooks(tiny_model: MakeModel) -> None:
    model, batch = tiny_model(), ragged()
    model.blocks[0].mlp.act_fn = torch.tanh
    assert Reader(model, batch, ["blocks.0.attn.hook_z"]).executor is not None  # it stands before the difference
    assert Reader(model, batch, ["blocks.0.attn.hook_z", "blocks.0.mlp.hook_post"]).executor is None
    found = harvest(model, batch, ["mlp_post.0", "resid_post.1"])
    torch.testing.assert_close(found["mlp_post.0"], cached(model, batch, "blocks.0.mlp.hook_post"))
    torch.testing.assert_close(found["resid_post.1"], cached(model, batch, "blocks.1.hook_resid_post"))


def test_hooks_that_are_active_are_heard(tiny_model: MakeModel) -> None:
    model, batch = tiny_model(), ragged()
    with model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda value, hook: value * 0)]):
        found = harvest(model, batch, "attn_out.0")["attn_out.0"]
    torch.testing.assert_close(found, model.blocks[0].attn.b_O.expand_as(found))


def test_by_hooks_no_block_behind_the_sites_runs(tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny_model(n_layers=3, attn_scores_soft_cap=30.0), ragged()
    seen: list[int] = []
    for number, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda *_, number=number: seen.append(number))
    harvest(model, batch, ["resid_mid.1", "embed"])
    assert set(seen) == {0, 1}
    seen.clear()
    harvest(model, batch, ["embed"])
    assert not seen


def test_values_can_be_trained_on_and_are_of_the_dtype_asked_for(tiny_model: MakeModel) -> None:
    model, batch = tiny_model(), ragged()
    with torch.inference_mode():
        found = harvest(model, batch, "resid_post.1")["resid_post.1"]
    (found @ nn.Parameter(torch.ones(16))).sum().backward()
    for dtype in harvesting.DTYPES:
        half = harvest(model, batch, "resid_post.1", dtype=dtype)["resid_post.1"]
        torch.testing.assert_close(half, found.to(dtype), rtol=0, atol=0)


def test_nan_and_infinite_activations_are_refused_by_name(tiny_model: MakeModel) -> None:
    model, batch = tiny_model(), ragged()
    broken = int(batch.tokens[2, 1])
    count = int(((batch.tokens == broken) & batch.mask).sum())
    model.W_E[broken, 3] = torch.inf
    with pytest.raises(ValueError, match=rf"hook_embed: {count} of {batch.mask.sum()} activations are nan or infinite"):
        harvest(model, batch, ["embed"])
    model.W_E[broken, 3] = 1e5
    harvest(model, batch, ["embed"])
    with pytest.raises(ValueError, match=r"hook_embed: \d+ of \d+ activations are nan or infinite in torch.float16"):
        harvest(model, batch, ["embed"], dtype=torch.float16)


def test_what_cannot_be_harvested_is_refused(tiny_model: MakeModel, unchecked: None) -> None:
    model, batch = tiny_model(), ragged()
    for options, message in (
        ({"sites": "resid"}, "the model has no site 'resid'; there are resid_pre, resid_mid"),
        ({"sites": []}, "sites is empty"),
        ({"sites": "blocks.0.attn.hook_pattern"}, "not a vector per position"),
        ({"sites": "q"}, "site 'q' needs a layer"),
        ({"sites": "blocks.0.hook_mlp_in"}, "never calls blocks.0.hook_mlp_in"),
        ({"sites": "embed", "positions": ["nowhere"]}, "no position 'nowhere'"),
        ({"sites": "embed", "dtype": torch.int8}, "not torch.int8"),
    ):
        with pytest.raises(ValueError, match=message):
            harvest(model, batch, **options)
    with pytest.raises(ValueError, match=r"never calls blocks\.0\.hook_mlp_out"):
        harvest(tiny_model(attn_only=True), batch, "mlp_out.0")
    too_small: list[tuple[dict[str, Any], str]] = [
        ({"n_ctx": LENGTH - 1}, "texts of 11 tokens do not fit the model's context of 10"),
        ({"d_vocab": 3}, "token ids from 0 to 14; the model has 0 to 2"),
    ]
    for small, message in too_small:
        with pytest.raises(ValueError, match=message):
            harvest(tiny_model(**small), batch, "embed")


# ------------------------------------------------------------------------------------------------------------- on disk

SITES = ["z.0", "blocks.1.hook_resid_post", "pos_embed"]
Write = Callable[..., HarvestFiles]


@pytest.fixture
def write(tiny_model: MakeModel, tmp_path: Path) -> Write:
    """write(**changes) harvests 7 rows, 2 a shard, into tmp_path / "harvest"."""

    def run(**changes: Any) -> HarvestFiles:
        options = {"model": tiny_model(), "batch": ragged(), "sites": SITES, "rows": 2, "progress": False, **changes}
        return harvest_to(tmp_path / "harvest", **options)

    return run


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """failing(number, error) raises at the shard of that number; returns the starts of those that are read."""

    def make(number: int | None, error: BaseException | None = None) -> list[int]:
        read, starts = Reader.read, []

        def watched(self: Reader, start: int = 0, end: int | None = None) -> dict[str, Tensor]:
            starts.append(start)
            if len(starts) - 1 == number and error is not None:
                raise error
            return read(self, start, end)

        monkeypatch.setattr(Reader, "read", watched)
        return starts

    return make


@pytest.mark.parametrize("positions", [None, ["end", "early"]])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_files_hold_what_memory_does(
    tiny_model: MakeModel, write: Write, positions: list[str] | None, dtype: torch.dtype | None
) -> None:
    batch = ragged()
    expected = harvest(tiny_model(), batch, SITES, positions=positions, dtype=dtype)
    made = write(positions=positions, dtype=dtype)
    files = open_harvest(made.directory)
    assert (files, len(files)) == (made, 4)
    assert sorted(path.name for path in made.directory.iterdir()) == [
        "index.json", *(f"shard_0000{i}.safetensors" for i in range(4))
    ]  # fmt: skip
    for site in SITES:
        torch.testing.assert_close(files.load(site), expected[site], atol=1e-6, rtol=1e-2 if dtype else 1e-5)
    last = files.shard(3, ["z.0"])
    assert list(last) == ["z.0"]
    assert len(last["z.0"]) == files.lengths[3] == (1 if positions else batch.mask[6].sum())
    assert list(files.shard(0)) == ["blocks.0.attn.hook_z", "blocks.1.hook_resid_post", "hook_pos_embed"]
    with pytest.raises(ValueError, match=r"has no 'z.1'; there are blocks.0.attn.hook_z,"):
        files.shard(0, ["z.1"])


def ended_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_a_run_that_ended_early_goes_on_where_it_did(
    write: Write, failing: Callable[..., list[int]], tmp_path: Path, error: BaseException
) -> None:
    whole = {path.name: path.read_bytes() for path in write().directory.iterdir()}
    (tmp_path / "harvest").rename(tmp_path / "whole")
    failing(2, error)
    with pytest.raises(type(error)):
        write()
    directory = tmp_path / "harvest"
    assert sorted(path.name for path in directory.iterdir()) == ["index.json"] + [
        f"shard_0000{i}.safetensors" for i in (0, 1)
    ]
    with pytest.raises(ValueError, match="is not finished: 2 of 4 shards are missing"):
        open_harvest(directory)
    for process, name in ((ended_process(), "shard_00002.safetensors"), (os.getpid(), "another")):
        prefix = aside_prefix(directory / name).replace(f"-{os.getpid()}-", f"-{process}-")
        (directory / f"{prefix}abcdefgh").write_bytes(b"half of it")  # what SIGKILL leaves, and what another writes
    done = {path: path.stat().st_mtime_ns for path in directory.glob("shard_*")}
    starts = failing(None)
    write()
    assert starts == [4, 6]
    assert {path: path.stat().st_mtime_ns for path in done} == done
    (directory / f"{aside_prefix(directory / 'another')}abcdefgh").unlink()
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == whole
    starts.clear()
    write()
    assert not starts


def test_a_directory_with_another_harvest_is_refused(tiny_model: MakeModel, write: Write) -> None:
    directory = write().directory
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    other, scaled = tiny_model(), tiny_model(use_attn_scale=False)
    other.W_E[0, 0] += 1e-6
    shorter = dataclasses.replace(ragged(), mask=ragged().mask.clone())
    shorter.mask[0, 2:] = False
    for changes, named in (
        ({"model": other}, "model"),
        ({"model": scaled}, "model"),
        ({"batch": ragged(1)}, "tokens, lengths"),
        ({"batch": shorter}, "tokens, lengths"),
        ({"sites": SITES[:2]}, "sites"),
        ({"dtype": torch.float16}, "dtype"),
        ({"positions": ["end"]}, "tokens, positions, lengths"),
        ({"rows": 3}, "lengths"),
    ):
        with pytest.raises(ValueError, match=f"holds another harvest, of other {named}$"):
            write(**changes)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    again = write(sites=["blocks.0.attn.hook_z", *SITES[1:]])  # the same by another name
    assert again == open_harvest(directory)


def test_a_directory_with_other_files_is_refused(write: Write, tmp_path: Path) -> None:
    (tmp_path / "harvest").mkdir()
    (tmp_path / "harvest" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds other files: notes\.txt"):
        write()
    with pytest.raises(ValueError, match=r"holds no harvest: there is no index\.json"):
        open_harvest(tmp_path / "harvest")
    assert [path.name for path in (tmp_path / "harvest").iterdir()] == ["notes.txt"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 64
    path.write_bytes(bytes(data))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def exchange(path: Path) -> None:
    path.write_bytes(path.with_name("shard_00000.safetensors").read_bytes())


@pytest.mark.parametrize("damage", [truncate, flip, empty, exchange])
def test_a_damaged_shard_is_refused_and_made_again_without_it(write: Write, damage: Callable[[Path], None]) -> None:
    files = write()
    path = files.path(2)
    sound = path.read_bytes()
    damage(path)
    for run in (lambda: open_harvest(files.directory).shard(2), write):
        with pytest.raises(
            ValueError, match=r"shard_00002\.safetensors is damaged.*: delete it, and harvest_to makes it"
        ):
            run()
    path.unlink()
    with pytest.raises(ValueError, match=r"shard_00002\.safetensors is damaged or missing"):
        files.shard(2)
    write()
    assert path.read_bytes() == sound


MALFORMED: dict[str, Any] = {
    "sites as a list": {"sites": []},
    "sites without axes": {"sites": {"blocks.0.attn.hook_z": None}},
    "a negative axis": {"sites": {"blocks.0.attn.hook_z": [-1]}},
    "no dtype": {"dtype": "qint8"},
    "dtype of another type": {"dtype": ["float32"]},
    "lengths as text": {"lengths": "7"},
    "a length as text": {"lengths": ["7"]},
    "three million shards": {"lengths": [1] * 3_000_000},
    "positions as text": {"positions": "newB"},
    "another key": {"more": 1},
    "a key too few": {"model": None},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MALFORMED)
def test_an_index_of_other_values_is_refused_whatever_its_checksum(write: Write, name: str) -> None:
    path = write().directory / "index.json"
    data = {**json.loads(path.read_text()), **MALFORMED[name]}
    del data["digest"]
    path.write_text(json.dumps({**data, "digest": harvest_files.digest_of(data)}))
    with pytest.raises(ValueError, match=r"index\.json"):
        open_harvest(path.parent)


@pytest.mark.parametrize("marks", ["[", "[]", "1", "null", '{"number": 2}', None, "[" * 10**5])
def test_a_shard_of_other_marks_is_refused(write: Write, marks: str | None) -> None:
    from safetensors.torch import load_file, save_file

    files = write()
    own = f'{{"number": 2, "harvest": "{files.digest}", "sites": %s}}'
    for text in (marks, *(own % sites for sites in ("[]", "{}", "null", '{"blocks.0.attn.hook_z": 1}'))):
        save_file(load_file(files.path(2)), files.path(2), None if text is None else {"interp_kit": text})
        with pytest.raises(ValueError, match=r"shard_00002\.safetensors is damaged"):
            open_harvest(files.directory).shard(2)


def test_a_shard_that_is_no_file_is_refused(write: Write) -> None:
    files = write()
    files.path(1).unlink()
    files.path(1).symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"shard_00001\.safetensors is damaged or missing .*not a regular file"):
        open_harvest(files.directory).shard(1)


@pytest.mark.parametrize("change", [lambda text: text[:-9], lambda text: text.replace('"float32"', '"float64"')])
def test_a_damaged_index_is_refused(write: Write, change: Callable[[str], str]) -> None:
    path = write().directory / "index.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=r"index\.json is (damaged|not valid JSON)"):
        open_harvest(path.parent)
    with pytest.raises(ValueError, match=r"index\.json is not valid JSON|of other dtype"):
        write()


def test_an_index_without_its_checksum_is_written_anew(write: Write) -> None:
    path = write().directory / "index.json"
    whole = path.read_text()
    path.write_text(whole.replace('"digest": "', '"digest": "0'))
    assert write().directory == path.parent
    assert path.read_text() == whole


def test_a_disk_without_room_is_said_before_anything_is_computed(
    write: Write, failing: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    vectors = int(ragged().mask.sum())
    starts, needed = failing(None), vectors * (2 * 8 + 16 + 16) * 4
    usage = harvest_files.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(harvest_files.shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    with pytest.raises(OSError, match=f"takes {needed:,} bytes, {needed - 1:,} are free") as caught:
        write()
    assert (caught.value.errno, starts, list((tmp_path / "harvest").iterdir())) == (28, [], [])
    monkeypatch.setattr(harvest_files.shutil, "disk_usage", lambda path: usage._replace(free=needed))
    write()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left")])
def test_a_disk_that_fills_up_leaves_whole_shards_and_no_others(
    write: Write, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    import safetensors.torch

    save, calls = safetensors.torch.save_file, []

    def full(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        calls.append(path)
        if len(calls) > 2:
            Path(path).write_bytes(b"half of it")
            raise error
        save(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(
            OSError,
            match=r"^(\[Errno 28\] )?cannot write \S*shard_00002\.safetensors: .*No space",
        ):
            write()
    names = sorted(path.name for path in calls[0].parent.parent.iterdir())
    assert names == ["index.json", "shard_00000.safetensors", "shard_00001.safetensors"]
    assert write() == open_harvest(calls[0].parent.parent)


def test_nan_in_a_later_shard_names_the_site_and_writes_no_such_shard(tiny_model: MakeModel, write: Write) -> None:
    model, batch = tiny_model(), ragged()
    batch.tokens[:] = batch.tokens.clamp(max=13)
    batch.tokens[5, 0] = 14
    model.W_E[14] = torch.nan
    with pytest.raises(ValueError, match=r"hook_z: \d+ of \d+ activations are nan or infinite"):
        write(model=model, batch=batch)
    model.W_E[14] = 0
    with pytest.raises(ValueError, match=r"of other model$"):
        write(model=model, batch=batch)


def test_what_no_file_could_say_or_hold_is_refused(tiny_model: MakeModel, write: Write, tmp_path: Path) -> None:
    model = tiny_model()
    with (
        model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda value, hook: value * 0)]),
        pytest.raises(ValueError, match="hooks are active"),
    ):
        write(model=model)
    with pytest.raises(ValueError, match="rows is 0"):
        write(rows=0)
    (tmp_path / "harvest").write_text("a file")
    with pytest.raises(FileExistsError):
        write()


def test_progress_shows_a_bar_and_can_be_off(
    write: Write, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp_kit.core.showing.SECONDS", 0.0)
    write()
    assert capfd.readouterr() == ("", "")
    write(progress=True)
    assert "shards" in capfd.readouterr().err


def test_the_index_says_what_is_there(write: Write) -> None:
    index = json.loads((write(dtype=torch.bfloat16).directory / "index.json").read_text())
    assert index["sites"] == {"blocks.0.attn.hook_z": [2, 8], "blocks.1.hook_resid_post": [16], "hook_pos_embed": [16]}
    assert (index["dtype"], index["positions"]) == ("bfloat16", None)
    assert sum(index["lengths"]) == int(ragged().mask.sum())
