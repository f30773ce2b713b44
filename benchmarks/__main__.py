"""`make bench`: our work beside that of the library one would use otherwise, in one run, same numbers, as ratios.

Results are checked equal before they are timed against each other. Machines are noisy: each side runs alternately, and
the ratio of medians is given with its range. `python -m benchmarks decoding` prints one part alone.
"""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from benchmarks import cost, memory
from benchmarks.decoding import decoding
from benchmarks.graphs import graphs
from benchmarks.harvest import harvesting
from benchmarks.measure import HEADER
from benchmarks.patching import architectures, cells, patching, ranking
from benchmarks.probes import probing
from benchmarks.sae import sae
from interp_kit.core.files import write_text

RESULTS = Path(__file__).parent / "RESULTS.md"
CARD = RESULTS.with_name("card.md")  # what `python -m benchmarks.gpu` printed
NO_CARD = (
    "None was run: this was made without one. `python -m benchmarks.gpu > benchmarks/card.md` takes less than four"
    " minutes on a card, compares it with the processor, and writes what stands here."
)
TRUTH = RESULTS.with_name("sae_truth.md")  # what `python -m benchmarks.sae_truth` printed
NO_TRUTH = "Not run: `python -m benchmarks.sae_truth > benchmarks/sae_truth.md` takes a quarter of an hour on one core."
PARTS = {
    part.__name__: part
    for part in (patching, architectures, ranking, cells, decoding, harvesting, probing, graphs, sae)
}


def processor() -> str:
    """The processor's own name, where the system tells it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _printed(path: Path, otherwise: str) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else otherwise


def main(names: list[str]) -> None:
    """Run the named parts and print them, or run everything and write RESULTS.md and cost.png."""
    if unknown := set(names) - set(PARTS):
        raise SystemExit(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    threadpool_limits(1)  # numpy's and scikit-learn's
    print(HEADER, flush=True)
    rows = []
    for name in names or PARTS:
        for row in PARTS[name]():
            rows.append(str(row))
            print(row, flush=True)
    if names:
        return
    versions = {name: metadata.version(name) for name in ("torch", "transformer-lens", "scikit-learn", "numpy")}
    text = "\n".join(
        [
            "# Benchmarks",
            "",
            f"`make bench` wrote this. One thread of {processor()} ({os.cpu_count()} in all), Python"
            f" {platform.python_version()}, {', '.join(f'{name} {version}' for name, version in versions.items())}.",
            "",
            "Both sides run alternately in one process; range: of the ratios of the n single repetitions; “35 of "
            "240 timed”: that many of the peer's edits were timed, and scaled. Texts of a pair are unrelated "
            "where no token is named that differs. GPT-2 small's size: 12 layers, d 768, 50,257 words; a model of "
            "50 words beside it leaves out what the unembedding takes. Floor: the multiplications that the work "
            "cannot do without, at the rate at which a plain forward of the same model and batch does its own: an "
            "estimate, below which larger batches can come, as their products are faster.",
            "",
            HEADER,
            *rows,
            "",
            "## Memory",
            "",
            memory.table(),
            "",
            "## Cost",
            "",
            f"![cost of a sweep]({cost.draw().name})",
            "",
            "A single edit can take longer than a hook does, as the model is compared and the run planned first.",
            "",
            "## On a graphics card",
            "",
            _printed(CARD, NO_CARD),
            "",
            "## Autoencoders where the true features are known",
            "",
            _printed(TRUTH, NO_TRUTH),
            "",
        ]
    )
    write_text(RESULTS, text)


if __name__ == "__main__":
    main(sys.argv[1:])
