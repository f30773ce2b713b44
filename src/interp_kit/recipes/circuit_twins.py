"""`python -m interp_kit.recipes.circuit_twins`: a door to `interp_kit.studies.audit.twins`."""

from interp_kit.core.program import ended
from interp_kit.studies.audit.twins import main

if __name__ == "__main__":
    raise SystemExit(ended("circuit_twins", main))
