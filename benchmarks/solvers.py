"""What solvers cost: counts first, then ratios to other packages on the same problems.

    python -m benchmarks.solvers [--quick] [--counts] [--out FILE]
    python -m benchmarks.solvers --readme

Counts are exact and the same on every machine. Ratios are of times of two pieces of work done in turn, in one process
on one thread. Every line has its target beside it and a miss is said. The last form writes no measurements: it makes
the table in benchmarks/README.md from the results that lie beside it.
"""

__all__ = ["lines_of", "main", "measured", "rewritten"]

import argparse
import json
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.lines import Line, table
from benchmarks.peers import PACKAGES
from benchmarks.solver_counts import count_lines, peer_lines
from benchmarks.solver_networks import network_lines
from benchmarks.solver_ratios import ratio_lines
from flowvid.compare.results import environment
from flowvid.data.files import write_atomically, write_json

_FOLDER = Path(__file__).parent
_README = _FOLDER / "README.md"
_RESULTS = _FOLDER / "results" / "solvers-cpu.json"
_START, _STOP = "<!-- solvers: start -->", "<!-- solvers: stop -->"


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.solvers", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer pairs and shorter solves")
    parser.add_argument("--counts", action="store_true", help="flowvid's counts alone")
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON here")
    parser.add_argument("--readme", action="store_true", help="only make the README's table from committed results")
    options = parser.parse_args()
    if options.readme:
        _write_readme()
        return
    torch.set_num_threads(1)
    lines = list(_measure(quick=options.quick, counts=options.counts))
    missed = [line.name for line in lines if line.met is False]
    print(f"\n{len(missed)} of {sum(line.met is not None for line in lines)} targets missed", *missed, sep="\n  ")
    if options.out is not None:
        write_json(options.out, measured(lines, quick=options.quick))


def measured(lines: list[Line], *, quick: bool) -> dict[str, Any]:
    """The lines with what is needed to trust or repeat them, as JSON holds them."""
    where = environment("cpu")
    return {
        "quick": quick,
        "environment": where | {"versions": where["versions"] | {package: _version(package) for package in PACKAGES}},
        "lines": [line.as_dict() for line in lines],
    }


def lines_of(content: dict[str, Any]) -> list[Line]:
    """The lines that JSON holds."""
    return [Line(**{key: value for key, value in line.items() if key != "met"}) for line in content["lines"]]


def rewritten(readme: str, content: dict[str, Any]) -> str:
    """The README with the table between its marks made from results.

    Raises:
        ValueError: The marks are missing.
    """
    if _START not in readme or _STOP not in readme:
        raise ValueError(f"Expected the marks {_START} and {_STOP} in the README.")
    head, tail = readme.split(_START)[0], readme.split(_STOP)[1]
    where = content["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items() if version)
    source = f"{versions}; {where['hardware']}, {where['threads']} thread, commit {where['commit']}."
    return f"{head}{_START}\n{table(lines_of(content), markdown=True)}\n\n{source}\n{_STOP}{tail}"


def _measure(*, quick: bool, counts: bool) -> Iterator[Line]:
    """All lines, in groups printed as they come."""
    groups = [lambda: count_lines(quick=quick)]
    if not counts:
        groups += [peer_lines, lambda: list(ratio_lines(quick=quick)), lambda: list(network_lines(quick=quick))]
    for group in groups:
        lines = group()
        print(table(lines), flush=True)
        yield from lines


def _write_readme() -> None:
    text = rewritten(_README.read_text(encoding="utf-8"), json.loads(_RESULTS.read_text(encoding="utf-8")))

    def write(place: Path) -> None:
        place.write_text(text, encoding="utf-8")

    write_atomically(_README, write)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
