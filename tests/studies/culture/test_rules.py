"""Exchanging the rule of a quiz: what must follow by construction, on random networks, and what a shipped one does."""

import numpy as np
import pytest
import torch

from interp_kit.core.pairs import PairBatch
from interp_kit.engine.edits import Copy, Edit
from interp_kit.engine.metrics import first_difference
from interp_kit.engine.sweep import sweep
from interp_kit.models.hooked_model import HookedModel
from interp_kit.models.mygpt import MyGPT, MyGPTConfig, save_mygpt
from interp_kit.studies.culture.models import load_hooked
from interp_kit.studies.culture.rules.answers import AT_INPUT, INTACT, PUT_IN, answers_at_once, exchanged_answers
from interp_kit.studies.culture.rules.circuit import parts_of, rule_circuits
from interp_kit.studies.culture.rules.exchange import (
    PLACES,
    WHOLE,
    Followed,
    Within,
    _measured,
    _turned,
    carrying_layer,
    exchange,
    exchange_parts,
    exchange_within,
    rule_pairs,
)
from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.composed import PLAIN
from interp_kit.tasks.culture.world import TASKS


@pytest.fixture(scope="module")
def pairs() -> PairBatch:
    return rule_pairs(20, 1)


@pytest.fixture(scope="module")
def random(tmp_path_factory: pytest.TempPathFactory) -> HookedModel:
    folder = tmp_path_factory.mktemp("random")
    save_mygpt(MyGPT(MyGPTConfig(15, 16, 4, 8, 16, 2, 2), seed=0), 0.1, folder / "gpt_000.pth")
    return load_hooked(0, checkpoint_dir=folder)


@pytest.fixture(scope="module")
def shipped() -> HookedModel:
    return load_hooked(0)


def test_pairs_share_a_and_b_and_cover_all_two_rules(pairs: PairBatch) -> None:
    one, two = (grids.split(side.tokens[:, 1:].numpy()) for side in (pairs.clean, pairs.corrupt))
    np.testing.assert_array_equal(one[:, 0::2], two[:, 0::2])
    assert (one[:, 1] != two[:, 1]).any(1).all()
    assert (one[:, 3] != two[:, 3]).any(1).all()
    kinds = set(zip(*(side.label("task").tolist() for side in (pairs.clean, pairs.corrupt)), strict=True))
    assert kinds == {(TASKS.index(a), TASKS.index(b)) for a in PLAIN for b in PLAIN if a != b}


def test_followed_tells_the_two_answers_and_others_apart(pairs: PairBatch) -> None:
    first = first_difference(pairs)
    assert first.right is not None
    assert first.wrong is not None
    metric = Followed(first.field, first.right, first.wrong, first.at)
    third = next(token for token in range(11) if token not in (int(first.right[0]), int(first.wrong[0])))
    logits = torch.zeros(len(pairs), 1, 15)
    for row, token in ((0, third), (1, int(first.right[1])), (2, int(first.wrong[2]))):
        logits[row, 0, token] = 5
    assert metric.measure(logits, pairs.clean)[:3].tolist() == [0, 1, 2]


def test_exchanging_all_that_differs_is_the_other_run(random: HookedModel, pairs: PairBatch) -> None:
    """f_A, B and f_B are all that differs, so before any layer the other quiz itself is answered: by its logits."""
    pairs = pairs.take(range(0, 20, 4))
    first = first_difference(pairs)
    other = sweep(random, pairs.corrupt, [], first).baseline[0]
    for layer in range(2):
        source = Copy(pairs.corrupt)
        edits = [Edit("resid_post", layer, source, position=name) for name in PLACES["f_A, B and f_B"]]
        found = sweep(random, pairs.clean, [edits], first).values[0, 0]
        np.testing.assert_allclose(found, other, atol=1e-4)
    before = [Edit("resid_pre", 0, Copy(pairs.corrupt), position=name) for name in PLACES["f_A cells"]]
    np.testing.assert_allclose(sweep(random, pairs.clean, [before], first).values[0, 0], other, atol=1e-4)


def test_a_subspace_of_all_dimensions_is_everything_and_of_none_is_nothing(
    random: HookedModel, pairs: PairBatch
) -> None:
    pairs = pairs.take(range(0, 20, 4))
    first = first_difference(pairs)
    basis = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0))).Q
    names = PLACES["f_A cells"]
    groups = [
        [Edit("resid_post", 0, source, position=name) for name in names]
        for source in (Copy(pairs.corrupt), Within(pairs.corrupt, basis), Within(pairs.corrupt, basis[:, :0]))
    ]
    swept = sweep(random, pairs.clean, groups, first)
    copied, whole, none = swept.values[:, 0]
    np.testing.assert_allclose(whole, copied, atol=1e-4)
    np.testing.assert_allclose(none, swept.baseline[0], atol=1e-6)
    assert np.abs(copied - swept.baseline[0]).max() > 1e-3


def test_shares_are_counts_of_quizzes(random: HookedModel, pairs: PairBatch) -> None:
    found = _measured(
        random, pairs, {(WHOLE, "markers", 1): [Edit("resid_post", 0, Copy(pairs.corrupt), position="f_B")]}
    )
    answers = np.repeat([2, 1, 0], (5, 12, 3))[None]
    made = type(found)(**{**vars(found), "answers": answers})
    row = made.to_frame().iloc[0]
    assert (row["follows"], row["stays"], row["neither"], row["n"]) == (0.25, 0.6, 0.15, 20)
    assert row["low"] == pytest.approx(0.1119, abs=1e-4)  # Wilson's interval for 5 of 20
    assert row["high"] == pytest.approx(0.4687, abs=1e-4)
    with pytest.raises(ValueError, match="no edit of everything at B cells"):
        made.at(WHOLE, "B cells")


def test_parts_of_no_effect_have_none_and_the_kinds_are_there(random: HookedModel, pairs: PairBatch) -> None:
    parts = exchange_parts(random, pairs)
    assert parts.component == ("L0H0", "L0H1", "L1H0", "L1H1", "L0 MLP", "L1 MLP")
    assert parts.effect.shape == (6, 1, 20)
    assert np.abs(parts.effect).max() > 0
    same = exchange_parts(random, pairs.take(range(4)))
    np.testing.assert_allclose(parts.effect[..., :4], same.effect, atol=1e-4)


@pytest.mark.slow
def test_a_shipped_network_holds_the_rule_in_the_cells_of_f_a(
    shipped: HookedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"frame": ("replace_color", "translate"), "translate": ("frame", "detect"), "detect": ("contact", "frame")}
    few = rule_pairs(6, 3, asked).take([0, 2, 3, 5])
    for name in set(PLACES) - {"markers", "f_A cells"}:
        monkeypatch.delitem(PLACES, name)
    found = exchange(shipped, few)
    assert (found.unedited == 1).all()
    layer = carrying_layer(found)
    assert layer == 2
    assert found.share(found.at(WHOLE, "f_A cells", layer)).value == 1
    assert found.share(found.at(WHOLE, "markers", layer)).value == 0
    within = exchange_within(shipped, few, rule_pairs(6, 4, asked), layer)
    assert within.share(within.at(WHOLE, "f_A cells")).value == 1
    assert within.share(within.at("constant direction x 1", "f_A cells")).value == 0
    assert within.share(within.at("random direction x 1", "f_A cells")).value == 0
    assert within.share(within.at("differences, rank 64", "f_A cells")).value > 0.8
    assert within.share(within.at("random, rank 16", "f_A cells")).value == 0
    swapped = exchanged_answers(shipped, few.take(range(2)), layer)
    assert swapped.whole("unedited", "first").value == 1
    assert swapped.whole("f_A cells exchanged", "second").value == 1
    assert swapped.differing("f_A cells exchanged", "second").value == 1
    assert swapped.differing("f_A cells exchanged", "first").value == 0


def test_a_shipped_network_applies_two_rules_at_once(shipped: HookedModel) -> None:
    found = answers_at_once(shipped, 1, 2)
    kind = "replace_color and frame"
    assert found.whole(INTACT, "first").value == 1
    assert found.whole(AT_INPUT, "both", kind).value == 1
    assert found.whole(PUT_IN, "both", kind).value == 1
    assert found.quizzes.shape == (3, 3, 404)
    assert found.to_frame().shape[0] == 3 * 3 * 3


def test_circuits_hold_everything_or_nothing_at_their_ends(random: HookedModel) -> None:
    """The same order of parts is found by hand, and a circuit of all but one part loses what that part alone does."""
    against = {rule: tuple(other for other in PLAIN if other != rule) for rule in ("replace_color", "frame")}
    chosen, others = rule_pairs(8, 5, against), rule_pairs(8, 6, against)
    parts = exchange_parts(random, chosen)
    found = rule_circuits(random, others, parts, {"replace_color": range(4), "frame": range(4, 8)})
    assert (found.sizes, found.total, found.n) == ((4,), 6, (4, 4))
    for rows, best in zip((range(4), range(4, 8)), found.best, strict=True):
        mean = parts.effect[:, 0, list(rows)].mean(1)
        assert best == tuple(sorted(parts.component, key=lambda name: -mean[parts.component.index(name)]))
    of = others.take(range(4, 8))
    edits = parts_of(random, Copy(of.corrupt))
    lost = [edits[name] for name in found.best[1][4:]]
    swept = sweep(random, of.clean, [lost, list(edits.values())], first_difference(of))
    kept, nothing = swept.values[:, 0].mean(1)
    assert found.value[1, 0] == pytest.approx((kept - nothing) / (swept.baseline[0].mean() - nothing), rel=1e-3)
    assert len(found.to_frame()) == 2


def test_random_directions_are_as_long_as_the_constant_ones() -> None:
    vectors = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    turned = _turned(vectors, 0)
    torch.testing.assert_close(turned.norm(dim=1), vectors.norm(dim=1))
    assert (torch.cosine_similarity(turned, vectors).abs() < 0.8).all()
    assert (torch.cosine_similarity(turned[:1], turned[1:]).abs() < 0.8).all()  # another for each pair
