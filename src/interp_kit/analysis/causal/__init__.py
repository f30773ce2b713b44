"""Interventions: patching, ablation, interchange, DAS, routes."""
