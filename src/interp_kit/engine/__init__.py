"""The intervention engine: edits of a model's activations and weights, run together and checked against the model.

One edit, in three files. `edits.py` says where it is: an `Edit` has a site, a layer, a head, a position and a source.
`sources/source.py` says what is put there: a source names the batch whose activation it needs, and gives new values
from old ones and that activation. `apply.py` puts it there.

How it travels: `sweep` makes groups of edits and checks them (`edit_checks.py`). `References` computes each activation
that a source needs once, and `References.new_value` gives the function from old to new values. The fast path (`fast/`)
plans where a group enters, carries many through the layers as one batch (`plan.py`, `batched.py`, `stream.py`), and
calls `apply.write` at the edit's site. What it cannot compute goes one group at a time through hooks (`apply.Engine`),
with the same function. Metrics (`metrics.py`) measure the logits that either gives.
"""
