r"""One code and a drift, against a code of a whole chunk, at equal floats per frame and at times between frames.

A ring of pixels turns at v pixels per frame: wave k is a pair (cos, sin) that turns by w_k = 2 pi k v / N per frame, of
variance S_k. With a memory a < 1 it also forgets, and new pattern comes in:

    Cov(x(t), x(u)) = S_k a^|t - u| Rot(w_k (t - u)),        at all real t, u.

All methods are linear, so their errors are exact sums over this covariance. They spend D = r p floats on p frames:

- *chunk*: principal components of p frames; between frames of the reconstruction, linearly or by a cubic.
- *chunk, any time*: the same tokens, and those of the next chunk, with the best linear decoder for every time: what
  a decoder could reach that is trained on frames between the frames.
- *frames*: r floats of every frame; the drift of the nearest one.
- *key frame*: D floats of one frame in p; the drift of the nearest one. The drift x' -> A x is fitted by least squares
  to pairs of frames, forwards and backwards, and A^t is its principal power; or it is the *known* turn a^|t| Rot(w t).

A wave that turns by more than half a circle per frame is above the Nyquist frequency of the frames: then A's
principal power turns the other way between frames.
"""

__all__ = ["METHODS", "Drift", "Ring", "errors", "fitted_drift", "measure_drift", "power"]

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from experiments.chunk_loss import exact
from experiments.claims import claim, interval
from experiments.tokenisers import principal
from flowvid.noise import Noise

METHODS = ("chunk", "chunk, cubic", "chunk, any time", "frames", "key frame", "key frame, known")
_WORLDS = {"turning": 1.0, "forgetting": 0.9}

Matrix = Float64[np.ndarray, "entry entry"]


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What is measured of drifts.

    Arguments:
        seeds: Of the frames that drifts are fitted to.
        pairs: Pairs of frames in a fit.
        speeds: Pixels per frame.
        between: Times after a frame, in frames.
        frames: p.
        rate: r, even.
    """

    seeds: tuple[int, ...]
    pairs: int
    speeds: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0)
    between: tuple[float, ...] = (0.0, 0.25, 1 / 3, 0.5, 0.75)
    frames: int = 4
    rate: int = 2


@dataclass(frozen=True, kw_only=True)
class Ring:
    """A turning ring, in the basis of its waves 1, 2, ..., without mean and without the shortest wave.

    Arguments:
        speed: v, in pixels per frame.
        memory: a, per frame.
        pixels: N.
    """

    speed: float
    memory: float = 1.0
    pixels: int = 16

    @property
    def waves(self) -> Float64[np.ndarray, "wave"]:
        """k."""
        return np.arange(1.0, self.pixels // 2)

    def variances(self) -> Float64[np.ndarray, "entry"]:
        """Of every entry; the sum is one."""
        power = np.repeat(self.waves**-2, 2)
        return power / power.sum()

    def turn(self, time: float) -> Matrix:
        """The best prediction after a time in frames, of either sign: a^|t| Rot(w t)."""
        angles = 2 * np.pi * self.waves * self.speed * time / self.pixels
        c, s = np.cos(angles), np.sin(angles)
        turn = np.zeros((2 * len(angles), 2 * len(angles)))
        even = 2 * np.arange(len(angles))
        turn[even, even], turn[even + 1, even + 1], turn[even + 1, even], turn[even, even + 1] = c, c, s, -s
        return self.memory ** abs(time) * turn

    def covariance(self, later: Float64[np.ndarray, "a"], earlier: Float64[np.ndarray, "b"]) -> Matrix:
        """Cov of the states at some times with those at others, time by time."""
        variances = self.variances()
        return np.block([[self.turn(t - u) * variances for u in earlier] for t in later])

    def pairs(self, seed: int, count: int) -> tuple[Matrix, Matrix]:
        """Pairs of successive states."""
        noise = Noise.batch(seed, count)
        first, new = (noise.normal(name, 2 * len(self.waves), dtype=torch.float64).numpy() for name in ("x", "new"))
        scale = self.variances() ** 0.5
        return first * scale, first * scale @ self.turn(1.0).T + (1 - self.memory**2) ** 0.5 * new * scale


def fitted_drift(first: Matrix, second: Matrix) -> Matrix:
    """A that maps states to the next ones with the least squared error."""
    return np.linalg.lstsq(first, second, rcond=None)[0].T


def power(drift: Matrix, time: float) -> Matrix:
    """The principal power of a matrix."""
    values, vectors = np.linalg.eig(drift)
    return (vectors * values.astype(np.complex128) ** time @ np.linalg.inv(vectors)).real


def _both_ways(first: Matrix, second: Matrix) -> Callable[[float], Matrix]:
    """The drift fitted to pairs, forwards, and the one fitted backwards: where the past is forgotten these differ."""
    forwards, backwards = fitted_drift(first, second), fitted_drift(second, first)
    return lambda time: power(forwards, time) if time >= 0 else power(backwards, -time)


def errors(ring: Ring, method: str, run: Drift, drift: Callable[[float], Matrix]) -> list[float]:
    """Mean squared error relative to the power of the frames, by time after a frame, mean over the frames of a chunk.

    Arguments:
        ring: The world.
        method: One of `METHODS`.
        run: Length of a chunk, rate and times.
        drift: What a state becomes after a time in frames, which may be negative.
    """
    p, size = run.frames, len(ring.variances())
    given = np.arange(-p, 3 * p, dtype=np.float64)
    known = ring.covariance(given, given)
    if method.startswith("chunk"):
        kept = principal(ring.covariance(given[:p], given[:p]), run.rate * p)
        code = np.kron(np.eye(4), kept.T @ kept)
    elif method == "frames":
        kept = principal(np.diag(ring.variances()), run.rate)
        code = np.kron(np.eye(4 * p), kept.T @ kept)
    else:
        kept = principal(np.diag(ring.variances()), min(run.rate * p, size))
        code = np.kron(np.eye(4), np.kron(np.diag(np.arange(p) == 0), kept.T @ kept))
    found = []
    for later in run.between:
        total = 0.0
        for frame in range(p):
            time = np.array([frame + later])
            cross = ring.covariance(time, given)
            if method == "chunk, any time":
                kernel = code @ known @ code.T
                decode = cross @ code.T @ np.linalg.pinv(kernel, rcond=1e-9, hermitian=True) @ code
            else:
                decode = _decoder(method, frame, later, given, size, p, drift) @ code
            total += 1 - 2 * np.sum(decode * cross) + np.sum(decode @ known * decode)
        found.append(float(total / p))
    return found


def _decoder(
    method: str,
    frame: int,
    later: float,
    given: Float64[np.ndarray, "time"],
    size: int,
    p: int,
    drift: Callable[[float], Matrix],
) -> Float64[np.ndarray, "entry input"]:
    """How the reconstructed frames make a state at a time."""
    if method == "chunk":
        weights = {frame: 1 - later, frame + 1: later}
    elif method == "chunk, cubic":
        t = later
        cubic = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3)
        weights = {frame - 1 + n: weight / 2 for n, weight in enumerate(cubic)}
    else:
        every = 1 if method == "frames" else p
        nearest = every * int((frame + later) / every + 0.5)
        return np.kron((given == nearest)[None].astype(np.float64), drift(frame + later - nearest))
    row = np.array([[weights.get(int(time), 0.0) for time in given]])
    return np.kron(row, np.eye(size))


def measure_drift(run: Drift) -> dict[str, Any]:
    """All numbers and claims about drifts."""
    numbers: dict[str, Any] = {}
    raw: dict[tuple[str, float, str], list[list[float]]] = {}
    for world, memory in _WORLDS.items():
        numbers[world] = {}
        for speed in run.speeds:
            ring = Ring(speed=speed, memory=memory)
            fits = [_both_ways(*ring.pairs(seed, run.pairs)) for seed in run.seeds]
            for method in METHODS:
                if method in ("frames", "key frame"):
                    rows = [errors(ring, method, run, fit) for fit in fits]
                else:
                    rows = [errors(ring, method, run, ring.turn)] * len(run.seeds)
                raw[world, speed, method] = rows
            numbers[world][f"{speed:g}"] = {
                method: [asdict(interval(values)) for values in zip(*raw[world, speed, method], strict=True)]
                for method in METHODS
            }
    return {"between": list(run.between), "worlds": numbers, "claims": _claims(run, raw)}


def _claims(run: Drift, raw: dict[tuple[str, float, str], list[list[float]]]) -> list[dict[str, Any]]:
    """Where a drift wins and where it does not, as expected before the run."""
    on, half = run.between.index(0.0), run.between.index(0.5)

    def ratios(world: str, speed: float, method: str, other: str, at: int) -> list[float]:
        return [a[at] / b[at] for a, b in zip(raw[world, speed, method], raw[world, speed, other], strict=True)]

    same = max(abs(ratios("turning", speed, "key frame, known", "chunk", on)[0] - 1) for speed in run.speeds)
    best = min(
        a / b
        for world in _WORLDS
        for speed in run.speeds
        for a, b in zip(raw[world, speed, "key frame, known"][0], raw[world, speed, "chunk, any time"][0], strict=True)
    )
    frames = min(ratios(world, speed, "frames", "chunk", on)[0] for world in _WORLDS for speed in run.speeds)
    fresh = np.array([ratios("forgetting", speed, "key frame", "chunk", on) for speed in run.speeds])
    fresh_half = np.array([ratios("forgetting", speed, "key frame", "chunk", half) for speed in (0.5, 1.0)])
    fast = ratios("turning", 3.0, "key frame", "key frame, known", half)
    return [
        claim("T6", "turning, at frames: key frame and known turn over chunk, apart", exact(same), most=1e-6),
        *(
            claim(
                "T6",
                f"turning, speed {speed:g}, half-way: key frame and {name} over {other}",
                ratios("turning", speed, method, other, half),
                most=most,
            )
            for speed, name, method, other, most in (
                (1.0, "fitted drift", "key frame", "chunk", 0.95),
                (1.0, "fitted drift", "key frame", "chunk, cubic", 1.0),
                (2.0, "known turn", "key frame, known", "chunk, cubic", 0.9),
            )
        ),
        claim("T6", "turning, speed 3, half-way: fitted drift over known turn, beyond Nyquist", fast, least=1.5),
        claim("T6", "both worlds: frames over chunk at frames, smallest", exact(frames), least=1.0),
        claim("T6", "forgetting, at frames: key frame over chunk, smallest", fresh.min(axis=0), least=1.05),
        claim(
            "T6",
            "forgetting, speed 1 or less, half-way: key frame over chunk, smallest",
            fresh_half.min(axis=0),
            least=1.0,
        ),
        claim("T6", "both worlds: known turn over a decoder of any time, smallest", exact(best), least=1 - 1e-6),
    ]
