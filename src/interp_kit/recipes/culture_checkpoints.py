"""`python -m interp_kit.recipes.culture_checkpoints`: a door to `interp_kit.studies.culture.checkpoints`."""

from interp_kit.core.program import ended
from interp_kit.studies.culture.checkpoints import main

if __name__ == "__main__":
    raise SystemExit(ended("culture_checkpoints", main))
