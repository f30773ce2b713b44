"""Circuits of the trained models, with their faithfulness."""
