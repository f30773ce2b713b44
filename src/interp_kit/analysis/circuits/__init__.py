"""Circuits: edges, their scores and their faithfulness; direct attribution."""
