"""Data sets of questions about causal graphs: configured, split by graph, made by any number of workers."""
