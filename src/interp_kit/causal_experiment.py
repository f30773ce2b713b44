"""`causal-experiment`: the command of the boolean study, under the name that people already use."""

import sys

from interp_kit.studies.boolean.causal_experiment import GREEN, PLAIN, RED, main

__all__ = ["GREEN", "PLAIN", "RED", "main"]

if __name__ == "__main__":
    sys.exit(main())
