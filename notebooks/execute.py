"""Run every notebook from top to bottom; any error fails. `--write` keeps the outputs in the files."""

import argparse
import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the kernel: the matrices are small


def execute(path: Path) -> nbformat.NotebookNode:
    """Run one notebook in its own folder and return it with outputs. Raises CellExecutionError where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}).execute()
    for cell in notebook.cells:  # timings, and warnings about this machine, are no results
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def main() -> None:
    """Execute all notebooks beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = execute(path)
        if options.write:
            for cell in notebook.cells:
                if cell.get("id") == "colab-install":  # which does nothing here
                    cell.execution_count = None
            aside = path.with_suffix(".tmp")
            nbformat.write(notebook, aside)
            aside.replace(path)
        print(f"{path.name}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells ran")


if __name__ == "__main__":
    main()
