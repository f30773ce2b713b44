"""Would learned edge masks, or information flow, earn a place in the kit? Both are judged as the audit judges its
methods, on compiled programs and on networks trained to compute alike, beside EAP-IG.

`python -m benchmarks.edge_masks 33 5` audits 33 programs and 5 trained networks; docs/decisions/circuits.md says what
was found.
"""

import sys
from collections import defaultdict

import numpy as np
import torch

from interp_kit.core.stats.intervals import wilson
from interp_kit.engine.graph import Graph
from interp_kit.engine.metrics import kl
from interp_kit.studies.audit.case import Case, Found, Method
from interp_kit.studies.audit.methods import METHODS
from interp_kit.studies.audit.programs.draw import draw
from interp_kit.studies.audit.programs.run import audited

STEPS, DRAWS, RATE, SEED = 200, 4, 0.1, 0
PRICES = (0.001, 0.01)  # nats that an edge must be worth to stay
BESIDE = ("EAP", "EAP-IG", "ACDC", "path patching, denoise")


def masks(case: Case, price: float, steps: int = STEPS, seed: int = SEED) -> Found:
    """Shares by which edges are kept, learned by uniform gradient sampling (Li & Janson 2024, arXiv:2409.09951): most
    edges are drawn whole or not at all, a few uniformly between, and only these pass a gradient. Edges that go carry
    the corrupt run's value; the loss is the KL from the whole model, and `price` for each edge kept."""
    graph, measured, into = Graph(case.model), kl(case.pairs), case.pairs.clean
    reads, generator = measured.reads(into), torch.Generator().manual_seed(seed)
    with torch.inference_mode(False):
        reference = graph.outputs(case.pairs.corrupt.tokens).clone()
        before = graph.logits(into.tokens, reads)[0].detach().clone()
        exists = graph.mask(into, graph.edges)
        wish = torch.full_like(exists, 1.0).requires_grad_(True)
        optimizer = torch.optim.Adam([wish], lr=RATE)
        for _ in range(steps):
            share = wish.detach().sigmoid()
            lots = torch.rand(3, DRAWS, *share.shape, generator=generator)
            between = lots[0] < 2 * share * (1 - share)
            kept = torch.where(between, lots[1], (lots[2] < share).float()).requires_grad_(True)
            with torch.enable_grad():
                logits = graph.logits(into.tokens, reads, (1 - kept) * exists, reference)
                loss = measured.measure(logits, into, before).mean(1).sum()
                (gradient,) = torch.autograd.grad(loss, kept)
            seen = between.sum(0).clamp(min=1)
            slope = (gradient * between).sum(0) / seen + price
            wish.grad = torch.where(between.any(0), slope * share * (1 - share), 0.0)
            optimizer.step()
        scores = wish.detach().sigmoid()
    return Found({edge: float(scores[graph.place(edge)]) for edge in graph.edges}, 2 * steps * DRAWS)


def flow(case: Case) -> Found:
    """Nearness of what a sender adds to what the receiver reads, as a share over senders (information flow routes,
    Ferrando & Voita 2024, arXiv:2403.00824), averaged over texts and positions: no second run, and no answer."""
    graph, outs = Graph(case.model), Graph(case.model).outputs(case.pairs.clean.tokens)
    total, near = outs.cumsum(0), {}
    for count in range(1, len(outs) + 1):
        whole = total[count - 1]
        values = (whole.abs().sum(-1) - (whole - outs[:count]).abs().sum(-1)).clamp(min=0)
        near[count] = (values / values.sum(0).clamp(min=1e-9)).flatten(1).mean(1)
    before: dict[object, int] = defaultdict(int)
    for edge in graph.edges:
        before[edge.receiver] = max(before[edge.receiver], graph.place(edge)[0] + 1)
    return Found({edge: float(near[before[edge.receiver]][graph.place(edge)[0]]) for edge in graph.edges}, 1)


def _rows(kind: str, programs: int, methods: list[Method]) -> None:
    found, seconds, lost = defaultdict(list), defaultdict(list), defaultdict(int)
    for number in range(programs):
        for row in audited(draw(number), kind, methods)["scores"]:  # pyright: ignore[reportArgumentType]
            seconds[row["method"]].append(row["seconds"])
            if row["auroc"] is None:
                lost[row["method"]] += 1
            else:
                found[row["method"]].append(row["auroc"])
    for name, values in found.items():
        low, mid, high = np.quantile(values, [0.25, 0.5, 0.75])
        below = sum(value < 0.9 for value in values)
        print(
            f"{kind:10} {name:26} n = {len(values):3}  median {mid:.2f} ({low:.2f} to {high:.2f})  below 0.9: {below}"
            f" {wilson(below, len(values)).short()}  {np.median(seconds[name]):6.2f} CPU-s  no score: {lost[name]}"
        )


def main(programs: int, trained: int) -> None:
    """Print one row per method and kind of network."""
    torch.set_num_threads(1)
    ours = [
        *(Method(f"learned masks, {price}", "edges", lambda case, price=price: masks(case, price)) for price in PRICES),
        Method("information flow", "edges", flow),
    ]
    beside = [method for method in METHODS if method.level == "edges" and method.name in BESIDE]
    for kind, count in (("compiled", programs), ("trained", trained), ("untrained", min(trained, programs))):
        if count:
            _rows(kind, count, [*beside, *ours])


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:3]))
