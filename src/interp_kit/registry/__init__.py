"""Names of tasks and models, and what they stand for."""
