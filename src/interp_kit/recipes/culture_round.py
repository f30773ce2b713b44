"""`python -m interp_kit.recipes.culture_round`: a door to `interp_kit.studies.culture.round`."""

from interp_kit.core.program import ended
from interp_kit.studies.culture.round import main

if __name__ == "__main__":
    raise SystemExit(ended("culture_round", main))
