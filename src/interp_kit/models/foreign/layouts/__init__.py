"""One module per layout, each with a `READER`; a new layout is a new module here and nothing else."""
