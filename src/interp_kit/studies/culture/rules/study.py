"""Everything that is measured of rules on one model."""

from dataclasses import dataclass

import numpy as np

from interp_kit.analysis.causal.ablation import AblationResult
from interp_kit.models.hooked_model import HookedModel
from interp_kit.studies.culture.rules.answers import Answers, answers_at_once, exchanged_answers
from interp_kit.studies.culture.rules.circuit import RuleCircuits, rule_circuits
from interp_kit.studies.culture.rules.exchange import (
    RuleExchange,
    carrying_layer,
    exchange,
    exchange_parts,
    exchange_within,
    rule_pairs,
)
from interp_kit.tasks.culture.composed import PLAIN
from interp_kit.tasks.culture.world import TASKS

CHOSEN = ("replace_color", "translate", "frame")  # whose parts are measured


@dataclass(frozen=True)
class RuleMeasures:
    """layer: the last before which the cells of f_A carry the rule, 0 if they do before none but the first; places,
    within: what is exchanged where, and in part; swapped: whole answers with all cells of f_A exchanged; at_once: whole
    answers to two rules at once; parts: heads and MLPs exchanged one by one, of quizzes of CHOSEN; by_rule: rule -> the
    rows of `parts`; circuits: the best of them alone, on other quizzes."""

    layer: int
    places: RuleExchange
    within: RuleExchange
    swapped: Answers
    at_once: Answers
    parts: AblationResult
    by_rule: dict[str, list[int]]
    circuits: RuleCircuits


def examine_rules(model: HookedModel, pairs: int, at_once: int) -> RuleMeasures:
    """Measure a model on so many pairs of quizzes, and on `at_once` quizzes of each pair of rules at once."""
    asked = rule_pairs(pairs, 11)
    places = exchange(model, asked)
    layer = carrying_layer(places)
    against = {rule: tuple(other for other in PLAIN if other != rule) for rule in CHOSEN}
    kinds = sum(map(len, against.values()))
    each = -(-pairs // kinds) * kinds  # as many of every two rules
    chosen, others = (rule_pairs(each, seed, against) for seed in (13, 14))
    of = chosen.clean.label("task").cpu().numpy()
    by_rule = {rule: np.flatnonzero(of == TASKS.index(rule)).tolist() for rule in CHOSEN}
    parts = exchange_parts(model, chosen)
    return RuleMeasures(
        layer=layer,
        places=places,
        within=exchange_within(model, asked, rule_pairs(2 * pairs, 12), layer),
        swapped=exchanged_answers(model, asked, layer),
        at_once=answers_at_once(model, at_once, layer),
        parts=parts,
        by_rule=by_rule,
        circuits=rule_circuits(model, others, parts, by_rule),
    )
