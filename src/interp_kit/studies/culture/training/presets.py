"""The networks that are trained, and how a step updates each."""

from dataclasses import dataclass

from interp_kit.models.mygpt import MyGPTConfig
from interp_kit.tasks.culture.grids import VOCABULARY


@dataclass(frozen=True)
class GPTPreset:
    """A network and how one step updates it. optimiser "muon": Muon on the matrices of the blocks, AdamW on the rest;
    "adam": Adam on everything, as the original has it. weight_decay: of the matrices, decoupled, with Muon; warm_up:
    steps; decay: the share of the budget, at its end, over which learning rates fall linearly to 0; clip: of the
    gradient's norm, 0 for none."""

    d_model: int = 128
    d_key: int = 16
    d_mlp: int = 512
    n_heads: int = 8
    n_layers: int = 4
    dropout: float = 0.0
    optimiser: str = "muon"
    matrix_lr: float = 0.02
    lr: float = 1e-3
    batch: int = 16
    warm_up: int = 100
    weight_decay: float = 0.1
    decay: float = 1.0
    clip: float = 1.0
    embedding_scale: float = 0.3

    def network(self) -> MyGPTConfig:
        d_value = self.d_model // self.n_heads
        return MyGPTConfig(VOCABULARY, self.d_model, self.d_key, d_value, self.d_mlp, self.n_heads, self.n_layers)


_ADAM = {
    "optimiser": "adam",
    "lr": 5e-4,
    "batch": 25,
    "dropout": 0.1,
    "decay": 0.0,
    "clip": 0.0,
    "warm_up": 0,
    "weight_decay": 0.0,
}
PRESETS = {
    "wide": GPTPreset(192, 16, 768, 12, 4, matrix_lr=0.03, batch=192, warm_up=200),
    "fast": GPTPreset(),
    "17K": GPTPreset(32, 32, 32, 2, 2, **_ADAM),
    "4M": GPTPreset(256, 32, 1024, 4, 6, **_ADAM),
    "37M": GPTPreset(512, 64, 2048, 8, 12, **_ADAM),
    "122M": GPTPreset(768, 64, 2048, 8, 24, **_ADAM),
    "352M": GPTPreset(1024, 64, 2048, 8, 48, **_ADAM),
}
