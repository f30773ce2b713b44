"""Checkpoints of other libraries: a reader per layout in `layouts`, Hugging Face folders, and models in memory."""
