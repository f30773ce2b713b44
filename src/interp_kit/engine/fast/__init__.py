"""The same forward pass in plain torch, carrying only what edits can reach."""
