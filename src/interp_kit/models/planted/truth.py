"""Ground truth of the planted models, as nodes and edges: written down from their construction, before any method ran.

Question of the boolean models: `pairs("newB", "newD")`, that is A = 0 and D flipped, with newB's token and all that
follows from it. Of induction: `pairs("where", "answer")`, the key moved along the other letters.

A node belongs to the circuit where its output, replaced by that of the corrupt run at all positions, changes the
logit difference of the two answers by more than 5 % of the clean-corrupt gap; an edge where the same happens as its
sender's output is replaced in that one input of its receiver (path patching, Goldowsky-Dill et al. 2023,
arXiv:2304.05969). So what is the same in both runs is not part of it, though the model could not do without: the head
that brings A, queries and keys that stand on positions, the letter that induction looks for.

    via-token    newB's token, brought to `newD?` by L1H1, and the truth table in layer 1
    direct       the same nodes, from D's token: only the position where L1H1 reads is another
    latent       D's token, newB computed at `newB?` by L0H0 and layer 0's MLP, brought by L1H1, the truth table
    lookup       D's token, brought by L1H3, and the 32 memories
    backup       via-token, its truth table in layer 2. L2H2, which rests while L1H1 works, is the backup, and no node.
                 Layer 1's MLP, which tells L2H2 whether a bit came, says the same of either bit: it is neither
    decoy        direct. L0H2 brings newB to where nothing reads it: the decoy, and no node
    superposed   as latent
    induction    the letter before, from L0H0 to the keys of L1H1; and the letters that L1H1 copies, as the move shifts
                 those between the two places of the key
"""

from collections.abc import Iterable
from dataclasses import replace

from interp_kit.models.circuit import EMBED, LOGITS, Edge, GroundTruth, Input, head, mlp
from interp_kit.models.hooked_model import HookedModel, model_name
from interp_kit.models.planted.boolean import BACKUP, DECOY, PRIMARY
from interp_kit.models.planted.induction import INDUCTION, PREVIOUS

Way = tuple[str, str, Input]


def ground_truth(name: "str | HookedModel", variable: str | None = None, target: str | None = None) -> GroundTruth:
    """The circuit of a model whose weights were written, and not trained.

    Args:
        name: A planted model (`boolean-latent`, `induction`, …), whose circuit is true at every seed; or a model of
            `compile_task`.
        variable: Of a compiled model, the variable that is asked about; by default that of its question.
        target: The field that answers from it, likewise.

    Raises:
        ValueError: The name is unknown (listing those there are), the model was not compiled, it has no such variable
            or target, or a planted model is asked another question than its own.
    """
    if not isinstance(name, str):
        truth = getattr(name, "truth", None)
        if truth is None:
            raise ValueError(f"{model_name(name)} was not compiled; name a planted model, or compile a task")
        return truth(variable, target)
    if variable is not None or target is not None:
        raise ValueError(
            f"variable is {variable!r} and target {target!r}: the question of a planted model is fixed; only a compiled"
            " model answers others"
        )
    if name not in _TRUTHS:
        raise ValueError(f"no planted model {name!r}; there are {', '.join(_TRUTHS)}")
    return _TRUTHS[name]


def _truth(variable: str, target: str, site: tuple[str, int, str], ways: Iterable[Way]) -> GroundTruth:
    edges = frozenset(Edge(*way) for way in ways)
    ends = {end for edge in edges for end in (edge.sender, edge.receiver)}
    return GroundTruth(variable, target, frozenset(ends - {EMBED, LOGITS}), edges, site)


def _one_read(position: str, reader: str, answerer: str) -> GroundTruth:
    """A head reads a token, and an MLP answers."""
    ways: list[Way] = [(EMBED, reader, "v"), (reader, answerer, "mlp"), (answerer, LOGITS, "logits")]
    return _truth("newB", "newD", ("resid_pre", 1, position), ways)


_CARRIER = head(1, PRIMARY)
_VIA_TOKEN = _one_read("newB", _CARRIER, mlp(1))
_DIRECT = _one_read("D", _CARRIER, mlp(1))
_LATENT = _truth(
    "newB",
    "newD",
    ("resid_pre", 1, "newB?"),
    [
        (EMBED, head(0, 0), "v"),
        (head(0, 0), mlp(0), "mlp"),
        (mlp(0), _CARRIER, "v"),
        (_CARRIER, mlp(1), "mlp"),
        (mlp(1), LOGITS, "logits"),
    ],
)
_TRUTHS = {
    "boolean-via-token": _VIA_TOKEN,
    "boolean-direct": _DIRECT,
    "boolean-latent": _LATENT,
    "boolean-lookup": _one_read("D", head(1, 3), mlp(1)),
    "boolean-backup": replace(_one_read("newB", _CARRIER, mlp(2)), backup=frozenset({head(2, BACKUP)})),
    "boolean-decoy": replace(_DIRECT, decoy=frozenset({head(0, DECOY)}), decoy_site=("resid_pre", 1, "newD?")),
    "boolean-superposed": _LATENT,
    "induction": _truth(
        "where",
        "answer",
        ("attn_out", 1, "answer?"),
        [
            (EMBED, head(0, PREVIOUS), "v"),
            (head(0, PREVIOUS), head(1, INDUCTION), "k"),
            (EMBED, head(1, INDUCTION), "v"),
            (head(1, INDUCTION), LOGITS, "logits"),
        ],
    ),
}
