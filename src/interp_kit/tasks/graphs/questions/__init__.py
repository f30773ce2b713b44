"""Questions in words about causal models, with exact answers: made, printed, and scored."""
