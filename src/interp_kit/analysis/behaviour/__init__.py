"""Answers of models, and what they attend to."""
