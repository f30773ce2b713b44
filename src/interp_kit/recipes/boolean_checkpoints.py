"""`python -m interp_kit.recipes.boolean_checkpoints`: a door to `interp_kit.studies.boolean.checkpoints`."""

from interp_kit.core.program import ended
from interp_kit.studies.boolean.checkpoints import main

if __name__ == "__main__":
    raise SystemExit(ended("boolean_checkpoints", main))
