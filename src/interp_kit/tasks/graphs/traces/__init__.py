"""Reasoning traces about causal-graph questions: where they err, and how, by exact inference alone."""
