"""Reinforcement learning of any task whose completions can be verified."""
