"""The curve that a track follows.

It is one of three, whichever leaves the smallest Bayesian information criterion: straight pieces,

    p(t) = p_0 + v_0 t + sum_k d_k max(0, t - b_k),

with as many kinks b_k as pay for themselves; a damped harmonic around a centre (an oscillation or an orbit); or a
damped swing below a pivot. Given the kinks, or frequency and damping, the first two are linear least squares; kinks are
placed greedily and then moved in turn, frequencies scanned and then refined with the damping.

References:
    Multivariate Adaptive Regression Splines (Friedman, 1991), https://doi.org/10.1214/aos/1176347963
    Estimating the Dimension of a Model (Schwarz, 1978), https://doi.org/10.1214/aos/1176344136
"""

__all__ = ["Kink", "Path", "fit_path"]

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import optimize

from flowvid.metrics.tracks import Track

_NOISE = 0.07
_KINKS = 8
_DAMPED = 0.5
_HERTZ = np.geomspace(0.06, 1.2, 60)
_CLOCKS = (2j * np.pi * _HERTZ[:, None] - np.array([0.0, 0.15])).flatten()
_WAVE_NUMBERS, _ARC_NUMBERS = 8, 7
_SLOWEST = float(_CLOCKS[0].imag) / 2
_HIDDEN = float("inf")


@dataclass(frozen=True, eq=False)
class Kink:
    """Where the velocity jumps.

    Arguments:
        time: Seconds.
        position: Pixels.
        before: Pixels per second before it.
        after: Pixels per second after it.
    """

    time: float
    position: Float[np.ndarray, "2"]
    before: Float[np.ndarray, "2"]
    after: Float[np.ndarray, "2"]


@dataclass(frozen=True, eq=False)
class Path:
    """The curve of a track.

    Arguments:
        position: Pixels at any seconds.
        velocity: Pixels per second at any seconds.
        kind: "straight", "wave" or "arc".
        kinks: Where straight pieces meet, in order.
        misfit: Root mean square distance of the track from it in pixels.
    """

    position: Callable[[np.ndarray], np.ndarray]
    velocity: Callable[[np.ndarray], np.ndarray]
    kind: str
    kinks: tuple[Kink, ...]
    misfit: float


def fit_path(track: Track, *, noise: float = _NOISE) -> Path:
    """The curve of a track of at least five frames.

    Arguments:
        track: Where the thing is.
        noise: Pixels that centroids are uncertain by, at least.

    Raises:
        ValueError: There are fewer than five frames.
    """
    if len(track.times) < 5:
        raise ValueError(f"A path needs at least five frames that show the thing by itself; got {len(track.times)}.")
    times, points = track.times - track.times[0], track.positions
    count, floor = points.size, points.size * noise**2

    def criterion(misfit: float, numbers: int) -> float:
        return count * np.log1p(misfit / floor) + numbers * np.log(count)

    fit = _straight_fit(times, points, noise)
    for other, numbers in ((_wave_fit, _WAVE_NUMBERS), (_arc_fit, _ARC_NUMBERS)):
        if criterion(0.0, numbers) < criterion(fit.misfit, fit.numbers):
            fit = min(fit, other(times, points), key=lambda one: criterion(one.misfit, one.numbers))
    start = track.times[0]
    kinks = tuple(dataclasses.replace(kink, time=kink.time + start) for kink in fit.kinks)
    return Path(
        lambda at: fit.position(np.asarray(at) - start),
        lambda at: fit.velocity(np.asarray(at) - start),
        fit.kind,
        kinks,
        float(np.sqrt(fit.misfit / len(points))),
    )


@dataclass(frozen=True, eq=False)
class _Fit:
    """A curve as in `Path`, from the first frame on, with the sum of squares it leaves and how many numbers it has."""

    kind: str
    position: Callable[[np.ndarray], np.ndarray]
    velocity: Callable[[np.ndarray], np.ndarray]
    misfit: float
    numbers: int
    kinks: tuple[Kink, ...] = ()


def _straight_fit(times: np.ndarray, points: np.ndarray, noise: float) -> _Fit:
    bends = np.sort(_place_kinks(times, points, noise))
    weights, misfit = _solve(_hinges(times, bends), points)
    velocities = weights[1] + np.concatenate((np.zeros((1, 2)), weights[2:].cumsum(axis=0)))
    places = _hinges(bends, bends) @ weights
    return _Fit(
        "straight",
        lambda at: _hinges(at, bends) @ weights,
        lambda at: velocities[np.searchsorted(bends, at, side="right")],
        misfit,
        4 + 3 * len(bends),
        tuple(Kink(float(bends[k]), places[k], velocities[k], velocities[k + 1]) for k in range(len(bends))),
    )


def _wave_fit(times: np.ndarray, points: np.ndarray) -> _Fit:
    """A damped harmonic around a centre."""

    def columns(at: np.ndarray, clocks: np.ndarray | complex, *, slope: bool = False) -> np.ndarray:
        waves = (clocks if slope else 1) * np.exp(clocks * at)
        return np.stack((np.full(waves.shape, 0.0 if slope else 1.0), waves.real, waves.imag), axis=-1)

    clock = _place_clock(lambda clocks: columns(times, clocks), points)
    weights, misfit = _solve(columns(times, clock), points)
    return _Fit(
        "wave",
        lambda at: columns(at, clock) @ weights,
        lambda at: columns(at, clock, slope=True) @ weights,
        misfit,
        _WAVE_NUMBERS,
    )


def _arc_fit(times: np.ndarray, points: np.ndarray) -> _Fit:
    """A damped swing below a pivot: the circle of the points, then the wave of the angle, then all numbers together."""

    def waves(clocks: np.ndarray | complex) -> np.ndarray:
        wave = np.exp(clocks * times)
        return np.stack((wave.real, wave.imag), axis=-1)

    def swing(at: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return complex(numbers[3], -numbers[4]) * np.exp(complex(*numbers[5:]) * at)

    def position(at: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        angle = swing(at, numbers).real
        return numbers[:2] + numbers[2] * np.stack((np.sin(angle), np.cos(angle)), axis=-1)

    def velocity(at: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        angle = swing(at, numbers)
        rate = numbers[2] * (complex(*numbers[5:]) * angle).real
        return np.stack((rate * np.cos(angle.real), -rate * np.sin(angle.real)), axis=-1)

    (x, y, rest), _ = _solve(np.column_stack((2 * points, np.ones(len(points)))), np.square(points).sum(axis=1))
    angles = np.arctan2(points[:, 0] - x, points[:, 1] - y)
    clock = _place_clock(waves, angles)

    def away(numbers: np.ndarray) -> np.ndarray:
        return (position(times, numbers) - points).flatten()

    found = optimize.least_squares(
        away,
        [x, y, math.sqrt(max(rest + x**2 + y**2, 0.0)), *_solve(waves(clock), angles)[0], clock.real, clock.imag],
        x_scale=[1, 1, 1, 0.1, 0.1, 0.1, 0.3],
        max_nfev=30,
    ).x
    hangs = found[2] > 0 and abs(found[5]) <= _DAMPED and found[6] >= _SLOWEST and np.hypot(*found[3:5]) < np.pi / 2
    misfit = float(np.square(away(found)).sum()) if hangs else _HIDDEN
    return _Fit("arc", lambda at: position(at, found), lambda at: velocity(at, found), misfit, _ARC_NUMBERS)


def _place_clock(columns: Callable[[np.ndarray | complex], np.ndarray], points: np.ndarray) -> complex:
    """Minus the damping, and the angular frequency as the imaginary part, of the wave that leaves the least."""
    bases = np.linalg.qr(columns(_CLOCKS[:, None]))[0]
    start = _CLOCKS[np.square(bases.mT @ points).reshape(len(_CLOCKS), -1).sum(axis=1).argmax()]

    def misfit(pair: np.ndarray) -> float:
        if abs(pair[0]) > _DAMPED or pair[1] < _SLOWEST:
            return _HIDDEN
        return _solve(columns(complex(*pair)), points)[1]

    simplex = np.array([start.real, start.imag]) + np.array([[0, 0], [0.1, 0], [0, 0.04 * start.imag]])
    options = {"maxfev": 40, "xatol": 1e-3, "fatol": 1e-4, "initial_simplex": simplex}
    return complex(*optimize.minimize(misfit, simplex[0], method="Nelder-Mead", options=options).x)


def _place_kinks(times: np.ndarray, points: np.ndarray, noise: float) -> list[float]:
    """Kinks added while they pay, each then moved to its best place given the others."""
    pause = float(np.median(np.diff(times)))
    grid = np.arange(times[0] + pause / 2, times[-1] - pause / 8, pause / 4)
    kinks: list[float] = []
    misfit = _solve(_hinges(times, kinks), points)[1]
    for _ in range(min(_KINKS, (len(times) - 3) // 2)):
        trial = [*kinks, _best_kink(times, points, kinks, grid)]
        for sweep in (pause / 4, pause / 4, pause / 16):
            for k in range(len(trial)):
                others = trial[:k] + trial[k + 1 :]
                near = trial[k] + sweep * np.arange(-8, 9)
                near = near[(near > times[0] + pause / 4) & (near < times[-1] - pause / 16)]
                trial[k] = _best_kink(times, points, others, near)
        found = _solve(_hinges(times, trial), points)[1]
        n = points.size
        floor = n * noise**2
        if n * np.log((misfit + floor) / (found + floor)) <= 3 * np.log(n):
            break
        kinks, misfit = trial, found
    return kinks


def _best_kink(times: np.ndarray, points: np.ndarray, kinks: list[float], grid: np.ndarray) -> float:
    """The place in a grid where one more kink leaves the least, by projecting its hinge off the ones there are."""
    basis = np.linalg.qr(_hinges(times, kinks))[0]
    rest = points - basis @ (basis.T @ points)
    hinges = np.clip(times[:, None] - grid, 0, None)
    hinges = hinges - basis @ (basis.T @ hinges)
    sizes = np.square(hinges).sum(axis=0)
    gains = np.square(hinges.T @ rest).sum(axis=1) / np.maximum(sizes, 1e-9)
    return float(grid[np.where(sizes > 1e-9, gains, -_HIDDEN).argmax()])


def _hinges(times: np.ndarray, kinks: list[float] | np.ndarray) -> np.ndarray:
    return np.column_stack((np.ones(len(times)), times, *(np.clip(times - kink, 0, None) for kink in kinks)))


def _solve(columns: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, float]:
    """Least squares and the sum of squares that it leaves."""
    weights = np.linalg.lstsq(columns, points, rcond=1e-9)[0]
    return weights, float(np.square(points - columns @ weights).sum())
