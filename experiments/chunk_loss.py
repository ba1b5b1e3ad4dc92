"""What principal components of chunks lose on drifting textures, against SCIENCE T1 and T2; and when nothing is lost.

Three patches see a texture that drifts: independent *pixels*, whose spectrum in time is all there is to know; a *line*
of pixels along the drift; and a *plane*. The components are found on some clips and tried on others.
"""

__all__ = ["PATCHES", "SPEEDS", "Loss", "exact", "measure_loss", "rank_of_chunk"]

from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from scipy.linalg import solve_discrete_lyapunov

from experiments.claims import Interval, claim, interval
from experiments.textures import Texture
from experiments.tokenisers import chunk_covariance, principal, spectral_bound, spectrum, tail
from flowvid.noise import Noise

SPEEDS = (1, 2, 4, 8)
PATCHES = {
    "pixels": Texture(rows=8, width=1),
    "line": Texture(rows=1, width=8),
    "plane": Texture(rows=4, width=4, correlated=True),
}
_RATES = {"pixels": 2, "line": 2, "plane": 4}
_WIDTHS = {"pixels": 8, "line": 8, "plane": 16}
_PRINTED = {"rate": (0.073, 0.040, 0.032, 0.028), "width": (None, 0.020, 0.032, 0.053)}
_PRINTED_FAST = 0.212


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What is measured of the losses.

    Arguments:
        seeds: Of the textures.
        clips: Textures to fit, and as many to test, each a whole circle; times the speed, for as many frames.
        chunks: Frames of a chunk, each twice the one before.
        systems: Random linear systems whose rank is found.
    """

    seeds: tuple[int, ...]
    clips: int
    chunks: tuple[int, ...] = (1, 2, 4, 8)
    systems: int = 20


def exact(value: float) -> Interval:
    """A number without a spread."""
    return Interval(value, value, value)


def measure_loss(run: Loss) -> dict[str, Any]:
    """All numbers and claims about losses."""
    cases = [(name, speed, budget) for name in PATCHES for speed in SPEEDS for budget in ("rate", "width")]
    numbers = {name: {str(speed): {} for speed in SPEEDS} for name in PATCHES}
    for name, speed, budget in cases:
        numbers[name][str(speed)][budget] = _case(run, name, speed, budget)
    rows = [numbers[name][str(speed)][budget] for name, speed, budget in cases]
    still = replace(PATCHES["line"], noise=0.0).lags()
    ranks = [_rank_error(seed, run.systems) for seed in run.seeds]
    claims = [
        *_bound_claims(rows, numbers["pixels"]),
        *_rate_claims(numbers),
        *_printed_claims(numbers["line"]),
        claim(
            "T2",
            "pure drift, 8 frames of 8 pixels at speed 1: loss at 15 floats",
            exact(tail(chunk_covariance(still, 8), 15)),
            most=1e-12,
        ),
        claim(
            "T2",
            "linear systems: rank of a chunk less m + (p - 1) q, largest",
            [float(off) for off, _, _ in ranks],
            most=0.0,
        ),
        claim("T2", "linear systems: loss at D = rank, relative", [kept for _, kept, _ in ranks], most=1e-12),
        claim(
            "T2",
            "linear systems: loss at D = rank - 1, relative, smallest",
            exact(min(less for _, _, less in ranks)),
            least=1e-9,
        ),
    ]
    for row in rows:
        row["measured"] = [asdict(interval(values)) for values in row["measured"]]
    return {"chunks": list(run.chunks), "patches": numbers, "claims": claims}


def _case(run: Loss, name: str, speed: int, budget: str) -> dict[str, Any]:
    """Closed form, bound and measured losses of one patch at one speed, by length of the chunk."""
    texture = replace(PATCHES[name], speed=speed)
    lags = texture.lags()
    floats = [_RATES[name] * p if budget == "rate" else _WIDTHS[name] for p in run.chunks]
    settings = list(zip(run.chunks, floats, strict=True))
    power = spectrum(lags)
    drawn = [[texture.draw(seed, part, run.clips * speed) for part in ("fit", "test")] for seed in run.seeds]
    return {
        "floats": floats,
        "closed_form": [tail(chunk_covariance(lags, p), count) for p, count in settings],
        "bound": [spectral_bound(power, p, count) for p, count in settings],
        "measured": [[_measured(fit, test, p, count) for fit, test in drawn] for p, count in settings],
    }


def _measured(
    fit: Float64[np.ndarray, "clip frame pixel"],
    test: Float64[np.ndarray, "clip frame pixel"],
    frames: int,
    floats: int,
) -> float:
    """Loss per pixel on other clips than those the components were found on."""
    starts = np.stack([np.roll(fit, -start, axis=1) for start in range(frames)])
    fitted, tried = (x.reshape(-1, frames * x.shape[-1]) for x in (starts, test))
    components = principal(fitted.T @ fitted / len(fitted), floats)
    return float(((tried - tried @ components.T @ components) ** 2).mean())


def _bound_claims(rows: list[dict[str, Any]], pixels: dict[str, Any]) -> list[dict[str, Any]]:
    closed, bound = (np.concatenate([row[key] for row in rows]) for key in ("closed_form", "bound"))
    measured = np.concatenate([np.array(row["measured"]) for row in rows])
    lossy = closed > 1e-3
    ratios = measured[lossy] / closed[lossy, None]
    gains = measured[lossy] / bound[lossy, None]
    at_rate = {v: pixels[str(v)]["rate"]["bound"] for v in SPEEDS}
    apart = [abs(found[3] / found[2] - 1) for found in at_rate.values()]
    whole = [abs(found[2] / _outside(v, 1 / 8) - 1) for v, found in at_rate.items()]
    return [
        claim("T1", "closed form less spectral bound, smallest", exact(float((closed - bound).min())), least=-1e-12),
        claim("T1", "measured loss over closed form, largest", ratios.max(axis=0).tolist(), most=1.15),
        claim("T1", "measured loss over closed form, smallest", ratios.min(axis=0).tolist(), least=0.85),
        claim("T1", "measured loss over spectral bound, smallest", gains.min(axis=0).tolist(), least=0.95),
        claim("T1", "independent pixels: bounds of chunks of 4 and 8 at one rate, apart", exact(max(apart)), most=0.02),
        claim("T1", "independent pixels: bound over the spectrum outside of 1/8, apart", exact(max(whole)), most=0.02),
    ]


def _outside(speed: int, edge: float) -> float:
    """Power of an independent pixel above a frequency, with half of what is on the edge."""
    texture = replace(PATCHES["pixels"], speed=speed, rows=1)
    power = spectrum(texture.lags())[:, 0, 0].real / texture.frames
    away = np.abs(np.fft.fftfreq(texture.frames)) - edge
    return float(power[away > 0].sum() + power[away == 0].sum() / 2)


def _rate_claims(numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """T2, and what happens at a fixed width instead."""
    claims = []
    for name, by_speed in numbers.items():
        at_rate = [row["rate"] for row in by_speed.values()]
        steps = [b - a for row in at_rate for a, b in pairwise(row["closed_form"])]
        claims.append(claim("T2", f"{name}: e(2p) - e(p) at a fixed rate, largest", exact(max(steps)), most=1e-12))
        ratios = np.array([np.array(b) / a for row in at_rate for a, b in pairwise(np.array(row["measured"]))])
        claims.append(
            claim(
                "T2", f"{name}: measured e(2p) / e(p) at a fixed rate, largest", ratios.max(axis=0).tolist(), most=1.02
            )
        )
        wide = [row["width"] for row in by_speed.values()]
        rises = np.array([b - a for row in wide for a, b in pairwise(np.array(row["measured"]))])
        claims.append(
            claim(
                "T2",
                f"{name}: rise of the measured loss with p at a fixed width, least",
                rises.min(axis=0).tolist(),
                least=0,
            )
        )
        fast = np.array([np.array(b["measured"][-1]) - a["measured"][-1] for a, b in pairwise(wide)])
        claims.append(
            claim(
                "T2",
                f"{name}: rise with speed at a fixed width, longest chunk, least",
                fast.min(axis=0).tolist(),
                least=0,
            )
        )
    return claims


def _printed_claims(line: dict[str, Any]) -> list[dict[str, Any]]:
    """SCIENCE's printed losses, which are for a texture of which nothing but them is known."""
    ratios = [
        np.array(found) / printed
        for budget, row in _PRINTED.items()
        for found, printed in zip(line["1"][budget]["measured"], row, strict=True)
        if printed is not None
    ]
    ratios = np.array([*ratios, np.array(line["8"]["width"]["measured"][-1]) / _PRINTED_FAST])
    return [
        claim("T1", "line: measured over SCIENCE's printed losses, smallest", ratios.min(axis=0), least=0.7),
        claim("T1", "line: measured over SCIENCE's printed losses, largest", ratios.max(axis=0), most=1.3),
    ]


def rank_of_chunk(
    transition: Float64[np.ndarray, "state state"],
    drive: Float64[np.ndarray, "state noise"],
    seen: Float64[np.ndarray, "pixel state"],
    frames: int,
) -> tuple[int, Float64[np.ndarray, "entry"]]:
    """Rank of a chunk of x = C z of the stationary z' = A z + B xi, and the eigenvalues of its covariance.

    Arguments:
        transition: A; orthogonal if nothing drives, when the state has unit covariance.
        drive: B, of no columns for none.
        seen: C.
        frames: p.
    """
    state = solve_discrete_lyapunov(transition, drive @ drive.T) if drive.shape[1] else np.eye(len(transition))
    powers = [np.linalg.matrix_power(transition, t) for t in range(frames)]
    lags = np.stack([seen @ power @ state @ seen.T for power in powers])
    values = np.maximum(np.linalg.eigvalsh(chunk_covariance(lags, frames))[::-1], 0)
    return int((values > 1e-11 * values[0]).sum()), values


def _rank_error(seed: int, systems: int) -> tuple[int, float, float]:
    """Largest error of the rank over random systems, largest relative loss at it, smallest at one float less."""
    off, kept, less = 0, 0.0, np.inf
    for noise in (Noise.of([seed]).fold(n) for n in range(systems)):
        m, q, p = (
            int(noise.integers(name, low, high)[0]) for name, low, high in (("m", 3, 6), ("q", 0, 3), ("p", 2, 5))
        )
        draw = {
            name: noise.normal(name, *shape, dtype=torch.float64)[0].numpy()
            for name, shape in {"A": (m, m), "B": (m, q), "C": (m + 2, m)}.items()
            if min(shape)
        }
        turn = np.linalg.qr(draw["A"])[0]
        rank, values = rank_of_chunk(0.8 * turn if q else turn, draw.get("B", np.zeros((m, 0))), draw["C"], p)
        predicted = m + (p - 1) * q
        off = max(off, abs(rank - predicted))
        kept = max(kept, float(values[predicted:].sum() / values.sum()))
        less = min(less, float(values[predicted - 1 :].sum() / values.sum()))
    return off, kept, less
