"""The intervention engine: edits of a model's activations and weights, run together and checked against the model."""
