"""The first use of a term on a page of the site carries its explanation, and code and links stay as they are."""

from tools.glossary import GLOSSARY, explained, terms

PAGE = """# DAS in a heading

`DAS` and [DAS](x.md) stay; DAS is explained, DAS once. EAP-IG is not EAP.

| DAS |

```python
AUROC = 1
```

Activation patching, and activation patching.
"""


def test_terms_are_those_of_the_glossary_without_markup() -> None:
    known = terms(GLOSSARY.read_text(encoding="utf-8"))
    assert {"DAS", "EAP", "EAP-IG", "AUROC", "CPR", "SAE", "Activation patching", "Logit difference"} <= set(known)
    assert "Position" not in known
    assert all(text and not set(text) & set("`*[") and len(text) <= 242 for text in known.values())


def test_the_first_use_is_explained_and_no_other() -> None:
    known = {"DAS": 'a "search"', "EAP": "edges", "EAP-IG": "edges, averaged", "AUROC": "area",
             "Activation patching": "copying"}  # fmt: skip
    found = explained(PAGE, known)
    assert found.count("<abbr") == 4
    assert 'stay; <abbr title="a &quot;search&quot;">DAS</abbr> is explained, DAS once.' in found
    assert '<abbr title="edges, averaged">EAP-IG</abbr> is not <abbr title="edges">EAP</abbr>.' in found
    assert '<abbr title="copying">Activation patching</abbr>, and activation patching.' in found
    for kept in ("# DAS in a heading", "`DAS` and [DAS](x.md)", "| DAS |", "AUROC = 1"):
        assert kept in found


def test_an_explanation_is_not_explained() -> None:
    assert explained("DAS and EAP", {"DAS": "better than EAP", "EAP": "x"}).count("<abbr") == 2
    assert 'title="better than EAP"' in explained("DAS and EAP", {"DAS": "better than EAP", "EAP": "x"})
