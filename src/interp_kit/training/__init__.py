"""Training. Nothing here knows a concrete task: it gets an AbstractTask and examples."""
