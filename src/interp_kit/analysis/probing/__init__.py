"""Probes: what is readable where, against baselines and controls."""
