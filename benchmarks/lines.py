"""A line of a benchmark: what was measured, what was aimed at, and whether that was met."""

__all__ = ["Line", "counted", "differing", "skipped", "table", "timed"]

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.timing import Ratio


@dataclass(frozen=True, kw_only=True)
class Line:
    """One measurement.

    Arguments:
        name: What was measured.
        kind: "count" for what is exact and the same everywhere, "ratio" for times, "difference" for how far two
            answers are apart.
        measured: The number; None where it could not be had.
        target: What was aimed at; None for a number given to compare with.
        bound: Whether the target is the most or the least.
        low: The lowest pair, of a ratio.
        high: The highest.
        note: What else to know.
    """

    name: str
    kind: Literal["count", "ratio", "difference"]
    measured: float | None
    target: float | None = None
    bound: Literal["<=", ">="] = "<="
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target was met, by the numbers; None without a target or a measurement."""
        if self.measured is None or self.target is None:
            return None
        return self.measured <= self.target if self.bound == "<=" else self.measured >= self.target

    def as_dict(self) -> dict[str, Any]:
        """The line with its verdict, as JSON holds it."""
        return {**asdict(self), "met": self.met}


def counted(
    name: str, measured: float, target: float | None = None, *, bound: Literal["<=", ">="] = "<=", note: str = ""
) -> Line:
    """A line of what is exact."""
    return Line(name=name, kind="count", measured=measured, target=target, bound=bound, note=note)


def differing(name: str, measured: float, target: float) -> Line:
    """A line of how far two answers are apart."""
    return Line(name=name, kind="difference", measured=measured, target=target)


def timed(
    name: str, ratio: Ratio, target: float | None = None, *, bound: Literal["<=", ">="] = "<=", steps: int = 1
) -> Line:
    """A line of a ratio; times in its note are per step."""
    note = f"{_microseconds(ratio.first / steps)} against {_microseconds(ratio.second / steps)}"
    return Line(
        name=name,
        kind="ratio",
        measured=ratio.median,
        target=target,
        bound=bound,
        low=ratio.low,
        high=ratio.high,
        note=note,
    )


def skipped(name: str, why: str) -> Line:
    """A line of what could not be measured."""
    return Line(name=name, kind="ratio", measured=None, note=why)


def table(lines: list[Line], *, markdown: bool = False) -> str:
    """The lines as an aligned table, or in markdown."""
    rows = [("", "measured", "range", "target", "met", "note"), *(_cells(line) for line in lines)]
    if markdown:
        rows.insert(1, ("---",) * 6)
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _cells(line: Line) -> tuple[str, ...]:
    spread = "" if line.low is None or line.high is None else f"{_number(line.low)} to {_number(line.high)}"
    target = "" if line.target is None else f"{line.bound} {_number(line.target)}"
    met = {True: "yes", False: "NO", None: ""}[line.met]
    return line.name, "" if line.measured is None else _number(line.measured), spread, target, met, line.note


def _number(value: float) -> str:
    if value == round(value):
        return str(round(value))
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}" if abs(value) >= 1e-3 else f"{value:.1e}"


def _microseconds(time: float) -> str:
    return f"{time * 1e6:.{1 if time < 1e-5 else 0}f} us"
