"""Puts the small checkpoints into the wheel, so that an installed interp_kit has models; the rest is pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("manifest.json", "boolean-*", "circuit-twins", "sae")  # of checkpoints/; larger ones come with a clone


class BuildWithCheckpoints(build_py):
    """Copies them into interp_kit/checkpoints of what is built, never of an editable install."""

    def run(self) -> None:
        """Build the package, then add the checkpoints."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "interp_kit" / "checkpoints"
        for pattern in SHIPPED:
            for path in sorted(Path("checkpoints").glob(pattern)):
                if path.is_dir():
                    shutil.copytree(path, target / path.name, dirs_exist_ok=True)
                else:
                    target.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, target / path.name)


setup(cmdclass={"build_py": BuildWithCheckpoints})
