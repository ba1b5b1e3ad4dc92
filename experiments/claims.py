"""What an experiment says of a claim: a number over seeds, its interval, and whether it lies where the claim puts it.

A claim is a prediction with a tolerance that is fixed before the run. It holds if the whole confidence interval over
the seeds lies between the two ends, or, where it says "no worse", unless none of it does; the ends, the interval and
the verdict are all written down, so that a reader can draw the line elsewhere. The interval of a mean is Student's; of
several comparisons made at once each is widened so that the chance of any false alarm stays what it says (Bonferroni).

References:
    The Probable Error of a Mean (Student, 1908), https://doi.org/10.1093/biomet/6.1.1
"""

__all__ = ["Interval", "claim", "fitted_slope", "gathered", "geometric", "interval", "report", "student"]

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its confidence interval.

    Arguments:
        mean: The mean.
        low: Lower end.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


@cache
def student(level: float, freedom: int) -> float:
    """The t for which a Student variable lies in [-t, t] with probability ``level``.

    With t = sqrt(freedom) tan(a) its density becomes cos(a)^(freedom - 1), which is summed up and inverted.

    Arguments:
        level: Probability, below one.
        freedom: Degrees of freedom, at least one.
    """
    angles = np.linspace(0.0, np.pi / 2, 100_001)
    density = np.cos(angles) ** (freedom - 1)
    mass = np.concatenate(([0.0], np.cumsum(density[1:] + density[:-1])))
    return float(np.sqrt(freedom) * np.tan(np.interp(level, mass / mass[-1], angles)))


def interval(values: Sequence[float], *, level: float = 0.95, comparisons: int = 1) -> Interval:
    """Mean over seeds with its Student interval.

    Arguments:
        values: One number for each seed, at least two.
        level: Probability that the interval holds the mean.
        comparisons: How many such intervals shall all hold theirs with that probability.

    Raises:
        ValueError: There are fewer than two numbers.
    """
    if len(values) < 2:
        raise ValueError(f"An interval needs numbers from at least two seeds; got {len(values)}.")
    mean = float(np.mean(values))
    reach = student(1 - (1 - level) / comparisons, len(values) - 1) * float(np.std(values, ddof=1))
    return Interval(mean, mean - reach / len(values) ** 0.5, mean + reach / len(values) ** 0.5)


def geometric(values: Sequence[float]) -> Interval:
    """Geometric mean over seeds with the interval of the logarithms, for errors that spread over orders of magnitude.

    Arguments:
        values: One positive number for each seed, at least two.
    """
    found = interval([float(np.log(value)) for value in values])
    return Interval(*(float(np.exp(value)) for value in (found.mean, found.low, found.high)))


def fitted_slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Slope of the least-squares line through (log x, log y).

    Arguments:
        x: Positive abscissae.
        y: Positive ordinates.
    """
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def claim(
    key: str,
    says: str,
    measured: Interval | Sequence[float],
    *,
    least: float | None = None,
    most: float | None = None,
    strict: bool = True,
) -> dict[str, Any]:
    """One claim with its verdict, as results hold it.

    Arguments:
        key: The claim's number, "F1" and so on.
        says: What is claimed, in words.
        measured: An interval, or one number for each seed of which the 95 % interval is taken.
        least: Lower end of what is claimed, if any.
        most: Upper end of what is claimed, if any.
        strict: Whether the whole interval must lie between the ends; otherwise the claim only fails if none of it
            does, which suits "no worse than".
    """
    found = measured if isinstance(measured, Interval) else interval(measured)
    lowest, highest = (found.low, found.high) if strict else (found.high, found.low)
    holds = (least is None or lowest >= least) and (most is None or highest <= most)
    ends = {"least": least, "most": most, "strict": strict}
    return {"key": key, "says": says, **asdict(found), **ends, "holds": bool(holds)}


def gathered(parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The numbers of the parts of an experiment, with all their claims in one list."""
    claims = [found for part in parts.values() for found in part["claims"]]
    numbers = {name: {key: value for key, value in part.items() if key != "claims"} for name, part in parts.items()}
    return {**numbers, "claims": claims}


def report(content: dict[str, Any]) -> str:
    """The claims of some results as text, a line for each.

    Arguments:
        content: What an experiment wrote.
    """
    lines = []
    for found in content["claims"]:
        verdict = "holds" if found["holds"] else "FAILS"
        ends = [f"{sign} {found[end]:.4g}" for sign, end in ((">=", "least"), ("<=", "most")) if found[end] is not None]
        numbers = f"{found['mean']:.5g} [{found['low']:.5g}, {found['high']:.5g}] {' and '.join(ends)}"
        lines.append(f"{verdict}  {found['key']}  {found['says']}: {numbers}")
    return "\n".join(lines)
