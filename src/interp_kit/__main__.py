"""`python -m interp_kit`: the program `interp-kit`."""

from interp_kit.cli import main

raise SystemExit(main())
