"""Speed and memory beside the peers, in one run, as ratios."""
