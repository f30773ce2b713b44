"""The formats that the kit reads: how a small valid file is written, how it is read through the public function, and
what figures come of it."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

TOKENS = torch.arange(20).remainder(15).reshape(2, 10)


@dataclass(frozen=True)
class Format:
    """A kind of file, or of a folder of files that belong together.

    write: makes it in a folder, as run number `seed` would; read: its figures, by the public function. unsealed: names
    of files that hold no checksum and lie under none, so that a change from one valid file to another cannot be noticed
    (people write and edit them by hand). Values that cannot be right must be refused there too.
    """

    name: str
    write: Callable[[Path, int], None]
    read: Callable[[Path], Any]
    unsealed: tuple[str, ...] = ()
    alone: bool = False  # another run's file is simply another valid file


def fingerprint(value: Any) -> str:
    """A digest of nested figures."""
    found = hashlib.sha256()

    def add(item: Any) -> None:
        if isinstance(item, torch.Tensor):
            item = item.detach().cpu().numpy()
        if isinstance(item, np.ndarray):
            found.update(f"{item.dtype}{item.shape}".encode() + np.ascontiguousarray(item).tobytes())
        elif is_dataclass(item) and not isinstance(item, type):
            add(asdict(item))
        elif isinstance(item, Mapping):
            for key in sorted(item, key=str):
                add(str(key))
                add(item[key])
        elif isinstance(item, list | tuple):
            found.update(f"[{len(item)}".encode())
            for part in item:
                add(part)
        else:
            found.update(f"{type(item).__name__}:{item!r}".encode())

    add(value)
    return found.hexdigest()


# GPT-2 folders


def _gpt2(seed: int) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(n_layer=1, n_head=2, n_embd=8, n_positions=24, vocab_size=15, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


def _enter(root: Path, path: str, task: str = "boolean") -> None:
    """A manifest that names one checkpoint."""
    from interp_kit.models.checkpoints import Entry, deciding_files, weights_hash, write_manifest

    entry = Entry(
        path=path, sha256=weights_hash(root / path), task=task, recipe="tests", seed=1, initialisation="first",
        revision="0", omitted=("1,1,1,1,1",), metrics={"exact match": {"value": 0.5, "n": 32}},
        files=deciding_files(root / path),
    )  # fmt: skip
    write_manifest({"model": entry}, root)


def write_gpt2(folder: Path, seed: int) -> None:
    _gpt2(seed).save_pretrained(folder / "gpt2")
    made = {"task": "boolean", "config": {"seed": seed}, "examples": 4}
    (folder / "gpt2" / "training.json").write_text(json.dumps(made))
    _enter(folder, "gpt2")


def write_gpt2_shards(folder: Path, seed: int) -> None:
    _gpt2(seed).save_pretrained(folder / "gpt2", max_shard_size="2KB")
    _enter(folder, "gpt2")


def write_gpt2_bin(folder: Path, seed: int) -> None:
    model = _gpt2(seed)
    model.config.save_pretrained(folder / "gpt2")
    torch.save(model.state_dict(), folder / "gpt2" / "pytorch_model.bin")


def read_named(folder: Path) -> Any:
    from interp_kit.models.checkpoints import load, provenance

    model = load("model", root=folder)
    origin = provenance(model)
    return model(TOKENS), origin.name, origin.sha256, origin.task, origin.initialisation, origin.omitted


def read_gpt2_folder(folder: Path) -> Any:
    from interp_kit.models.gpt2 import read_gpt2

    return read_gpt2(folder / "gpt2")(TOKENS).logits


def write_llama(folder: Path, seed: int) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {"vocab_size": 15, "hidden_size": 8, "intermediate_size": 12, "max_position_embeddings": 24}
    config = LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, bos_token_id=0)
    LlamaForCausalLM(config).save_pretrained(folder / "llama")


def read_llama(folder: Path) -> Any:
    from interp_kit.models.checkpoints import load

    return load(folder / "llama")(TOKENS)


# files of other libraries


def _nanogpt(seed: int) -> dict[str, torch.Tensor]:
    model = _gpt2(seed)
    names = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    return {k: (v.T if k.endswith(names) else v).detach().contiguous() for k, v in model.state_dict().items()}


def write_nanogpt(folder: Path, seed: int) -> None:
    args = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 24, "bias": True, "vocab_size": 15}
    state = {f"_orig_mod.{key}": value for key, value in _nanogpt(seed).items()}
    torch.save({"model": state, "model_args": args, "iter_num": 3}, folder / "ckpt.bin")


def read_foreign(name: str, folder: Path) -> Any:
    from interp_kit.models.checkpoints import load

    config = {} if name == "ckpt.bin" else {"n_heads": 2, "act_fn": "gelu_new"}
    return load(folder / name, config=config)(TOKENS)


def write_lens(folder: Path, seed: int) -> None:
    from interp_kit.models.convert import convert_gpt2

    torch.save(convert_gpt2(_gpt2(seed).eval()).state_dict(), folder / "weights.pth")


def write_json_weights(folder: Path, seed: int) -> None:
    import base64

    def shown(value: torch.Tensor) -> dict[str, Any]:
        data = base64.b64encode(value.numpy().astype("<f4").tobytes()).decode()
        return {"shape": list(value.shape), "dtype": "float32", "data": data}

    (folder / "weights.json").write_text(json.dumps({key: shown(value) for key, value in _nanogpt(seed).items()}))


# culture


def _mygpt(seed: int) -> Any:
    from interp_kit.models.mygpt import MyGPT, MyGPTConfig

    return MyGPT(MyGPTConfig(15, 8, 4, 4, 8, 2, 1), seed=seed)


def write_mygpt(folder: Path, seed: int) -> None:
    from interp_kit.models.mygpt import save_mygpt

    save_mygpt(_mygpt(seed), 0.25 + seed / 8, folder / "gpt_000.pth")


def read_mygpt(folder: Path) -> Any:
    from interp_kit.models.mygpt import load_mygpt

    model, accuracy = load_mygpt(folder / "gpt_000.pth")
    return model(TOKENS), accuracy


def write_mygpt_named(folder: Path, seed: int) -> None:
    write_mygpt(folder, seed)
    _enter(folder, "gpt_000.pth", "culture")


def write_state(folder: Path, seed: int) -> None:
    from interp_kit.studies.culture.training.learner import Learner
    from interp_kit.studies.culture.training.presets import GPTPreset

    preset = GPTPreset(d_model=8, d_key=4, d_mlp=8, n_heads=2, n_layers=1, batch=2)
    learner = Learner(preset, seed=seed, budget=100)
    learner.step(*_quizzes_to_learn())
    learner.save(folder / "gpt_000.state")


def read_state(folder: Path) -> Any:
    """What a further step makes of it: the momentum counts."""
    from interp_kit.studies.culture.training.learner import Learner

    learner = Learner.load(folder / "gpt_000.state")
    known = learner.seen, learner.budget, learner.seed, learner.right.copy(), learner.rate()
    learner.step(*_quizzes_to_learn())
    return known, learner.model.state_dict(), learner.seen


def _quizzes_to_learn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    quizzes = torch.as_tensor(_quizzes(0, 2))
    weight = torch.zeros(quizzes.shape)
    weight[:, -100:] = 1
    return quizzes, quizzes, weight


def _quizzes(seed: int, n: int) -> np.ndarray:
    from interp_kit.tasks.culture.world import draw_worlds

    return draw_worlds(np.arange(n) % 4, np.random.default_rng(seed)).quizzes().astype(np.int64)


def write_curve(folder: Path, seed: int) -> None:
    from interp_kit.studies.culture.training.turns import Point

    points = [
        Point(id=i % 2, seen=8 * (i // 2 + 1), loss=1.5, accuracy=0.25 * i, greedy=0.5, by_task={"frame": 0.5},
              by_structure={"A f_A B f_B": 0.25}, right=[[0.5, 0.25]], seconds=1.25 + seed)
        for i in range(4)
    ]  # fmt: skip
    (folder / "curve.jsonl").write_text("".join(json.dumps(asdict(point)) + "\n" for point in points))


def read_curve(folder: Path) -> Any:
    from interp_kit.studies.culture.training.turns import read_curve

    return read_curve(folder)


def write_quizzes(folder: Path, seed: int) -> None:
    from interp_kit.studies.culture.training.quiz_making import save_round

    save_round(folder / "c_quizzes.pth", _quizzes(seed, 5))


def read_quizzes(folder: Path) -> Any:
    from interp_kit.studies.culture.training.quiz_making import load_quizzes

    return load_quizzes(folder / "c_quizzes.pth")


def write_round(folder: Path, seed: int) -> None:
    """A round as `culture_round` leaves it: three judges, of whom one is lost at each quiz."""
    from interp_kit.studies.culture import round as culture_round
    from interp_kit.studies.culture.training.quiz_making import Agreement, judging_seed

    write_quizzes(folder, seed)
    quizzes = np.concatenate(read_quizzes(folder))
    kinds = Counter({"no rule": 90 - len(quizzes)}) + Counter(culture_round.kinds(quizzes))
    evidence = {
        "rule": asdict(Agreement(temperature=1.0)), "seed": seed, "judging seed": judging_seed(seed),
        "judges": {f"culture/gpt_{i:03d}": f"{i}" * 64 for i in range(3)}, "maker": "a" * 64, "made at a time": 200,
        "made": 400, "judged": 90, "p": [[1.0, 0.25, 0.984375]] * 5, "kinds": dict(kinds),
    }  # fmt: skip
    culture_round._write(folder, evidence, quizzes)


def read_round(folder: Path) -> Any:
    from interp_kit.studies.culture.round import kept, picture, summary

    axes = picture(folder, [0])
    title = axes.get_title()
    axes.figure.clear()
    return kept(folder), summary(folder), title


# results, harvests, data


def write_twin(folder: Path, seed: int) -> None:
    from interp_kit.models.checkpoints import checkpoint_root

    shipped = checkpoint_root() / "circuit-twins"
    manifest = json.loads((shipped / "manifest.json").read_text())
    name = "boolean-latent" if seed == 0 else "boolean-latent-seed1"
    (folder / "circuit-twins").mkdir(parents=True)
    shutil.copytree(shipped / name, folder / "circuit-twins" / "boolean-latent")
    entry = {**manifest[name], "path": "boolean-latent"}
    (folder / "circuit-twins" / "manifest.json").write_text(json.dumps({"boolean-latent": entry}, indent=2))


def read_twin(folder: Path) -> Any:
    from interp_kit.models.checkpoints import provenance
    from interp_kit.registry.twins import twin

    model = twin("boolean-latent", folder)
    origin = provenance(model)
    return model(TOKENS), origin.name, origin.sha256, origin.task, origin.initialisation


def write_result(folder: Path, seed: int) -> None:
    import interp_kit as ik

    task = ik.task("boolean")
    model = ik.load("boolean-latent" if seed == 0 else "boolean-via-token")
    ik.patch(model, task.pairs("newB", "newD"), progress=False).save(folder / "patch")


def read_result(folder: Path) -> Any:
    from interp_kit.analysis.causal.patching import PatchingResult

    result = PatchingResult.load(folder / "patch")
    return result.to_frame().to_csv(), result.caption(), result.config


def write_evaluation(folder: Path, seed: int) -> None:
    import interp_kit as ik

    model = ik.load("boolean-latent" if seed == 0 else "untrained:boolean-latent")
    ik.evaluate(model, ik.task("boolean")).save(folder / "evaluation")


def read_evaluation(folder: Path) -> Any:
    from interp_kit.analysis.behaviour.evaluation import EvaluationResult

    result = EvaluationResult.load(folder / "evaluation")
    return result.to_frame().to_csv(), result.caption(), result.config


def write_sae(folder: Path, seed: int) -> None:
    import warnings

    import interp_kit as ik

    config = ik.SAEConfig(width=4, k=2, training_samples=512, max_examples=32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = ik.train_sae(
            ik.load("boolean-latent"), ik.task("boolean"), site="mlp_out.0", config=config, seed=seed, progress=False
        )
    result.save(folder / "sae")


def read_sae(folder: Path) -> Any:
    from interp_kit.analysis.dictionaries.sae import SAEResult

    result = SAEResult.load(folder / "sae")
    return result.to_frame().to_csv(), result.caption(), result.to_sae_lens().state_dict(), result.config


def write_harvest(folder: Path, seed: int) -> None:
    import interp_kit as ik

    task = ik.task("boolean")
    model = ik.load("boolean-latent" if seed == 0 else "boolean-via-token")
    ik.harvest_to(folder / "harvest", model, task.batch(task.enumerate()[:6]), ["mlp_out.0"], rows=2, progress=False)


def read_harvest(folder: Path) -> Any:
    from interp_kit.engine.harvest_store import open_harvest

    files = open_harvest(folder / "harvest")
    return {site: files.load(site) for site in files.sites}, files.facts()


def write_mib(folder: Path, seed: int) -> None:
    import interp_kit as ik

    model = ik.planted("boolean-latent" if seed == 0 else "boolean-via-token")
    scored = ik.score_edges(model, ik.task("boolean").pairs("newB", "newD", limit=4), method="eap", progress=False)
    ik.write_mib(scored, folder / "circuit.json", model, kept=9)


def read_mib(folder: Path) -> Any:
    """Every score is a number, and what is kept is a part; which numbers and which part is the writer's choice."""
    import interp_kit as ik

    whole, kept = (ik.read_mib(folder / "circuit.json", in_graph=in_graph) for in_graph in (False, True))
    assert np.isfinite(whole.score).all()
    scores = dict(zip(whole.edges, whole.score, strict=True))
    assert [scores[edge] for edge in kept.edges] == list(kept.score)
    return whole.edges


def write_split(folder: Path, seed: int) -> None:
    from interp_kit.tasks.boolean import BooleanTask
    from interp_kit.tasks.boolean.dataset import splits, write_splits

    task = BooleanTask()
    write_splits(task, folder, splits(task, seed=seed, sizes={"train": 12}))


def read_split(folder: Path) -> Any:
    """Every row keeps the rules; which rows there are is the writer's choice."""
    from interp_kit.tasks.boolean import BooleanTask
    from interp_kit.tasks.boolean.dataset import read_split

    return read_split(BooleanTask(), folder / "train.jsonl")


FORMATS = (
    Format("gpt2", write_gpt2, read_named, unsealed=("manifest.json",)),
    Format("gpt2-shards", write_gpt2_shards, read_named, unsealed=("manifest.json",)),
    Format("gpt2-bin", write_gpt2_bin, read_gpt2_folder, unsealed=("config.json",), alone=True),
    Format("llama", write_llama, read_llama, unsealed=("config.json", "model.safetensors"), alone=True),
    Format("nanogpt", write_nanogpt, partial(read_foreign, "ckpt.bin"), alone=True),
    Format("transformer-lens", write_lens, partial(read_foreign, "weights.pth"), alone=True),
    Format(
        "json-weights",
        write_json_weights,
        partial(read_foreign, "weights.json"),
        unsealed=("weights.json",),
        alone=True,
    ),
    Format("mygpt", write_mygpt, read_mygpt, alone=True),
    Format("mygpt-named", write_mygpt_named, read_named, unsealed=("manifest.json",)),
    Format("twin", write_twin, read_twin, unsealed=("manifest.json",)),
    Format("state", write_state, read_state, alone=True),
    Format("curve", write_curve, read_curve, unsealed=("curve.jsonl",), alone=True),
    Format("quizzes", write_quizzes, read_quizzes, alone=True),
    Format("round", write_round, read_round),
    Format("patch", write_result, read_result),
    Format("evaluation", write_evaluation, read_evaluation),
    Format("sae", write_sae, read_sae),
    Format("harvest", write_harvest, read_harvest),
    Format("mib", write_mib, read_mib, unsealed=("circuit.json",), alone=True),
    Format("split", write_split, read_split, unsealed=("train.jsonl",), alone=True),
)


# a reader that does everything wrong: the harness must notice it


def naive_read(folder: Path) -> Any:
    import pickle

    return pickle.loads((folder / "data.pkl").read_bytes())


def naive_write(folder: Path, seed: int) -> None:
    import pickle

    (folder / "data.pkl").write_bytes(pickle.dumps({"values": list(range(300)), "run": seed}))


NAIVE = (Format("naive", naive_write, naive_read),)
