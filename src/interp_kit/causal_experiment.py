"""`causal-experiment`: the command of the boolean study, under the name that people already use."""

import sys

from interp_kit.studies.boolean.causal_experiment import GREEN as GREEN
from interp_kit.studies.boolean.causal_experiment import PLAIN as PLAIN
from interp_kit.studies.boolean.causal_experiment import RED as RED
from interp_kit.studies.boolean.causal_experiment import main as main

if __name__ == "__main__":
    sys.exit(main())
