"""Terms of the field that a page explains if it uses them."""

import re
from collections.abc import Iterable

TERMS = {
    "interval": "brackets hold a 95 % interval: a range that contains the true value in 95 of 100 repetitions.",
    "n =": "the independent units behind a figure. Texts or pairs that share an input count once.",
    "logit difference": "logit of the right answer minus logit of the wrong one. At 0 the model prefers neither.",
    "recover": "share of the difference between two runs that comes back: 0 if nothing changes, 1 if all of it does.",
    "baseline": "what the same score is without the thing that is claimed, such as from the visible tokens alone.",
    "ablation": "replacing what a part writes, by zero, its mean or another example's value, and measuring the loss.",
    "Holm": "a correction for the number of comparisons: the largest of many figures proves nothing by itself.",
    "do(": "do(X) sets a variable from outside, which cuts it off from its own causes.",
    "AUROC": "probability that a true case scores higher than a false one: 1 is perfect, 0.5 is chance.",
    "EAP": "edge attribution patching: the effect of patching every edge, estimated from gradients.",
    "ACDC": "removing edges one by one as long as the answer hardly changes.",
    "CPR": "area under the curve of faithfulness over the size of a circuit; CMD is the area between that curve and 1.",
    "PCA": "principal components: the directions along which activations vary most.",
    "Jaccard": "size of the intersection of two sets over the size of their union.",
}


def used(texts: Iterable[str]) -> dict[str, str]:
    """Term -> explanation, for the terms that occur in the texts of a page."""
    page = "\n".join(texts)
    found = {term: text for term, text in TERMS.items() if re.search(rf"(?<!\w){re.escape(term)}", page)}
    return {term.removesuffix(" =").removesuffix("("): text for term, text in found.items()}
