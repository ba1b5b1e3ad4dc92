r"""F3: what a generic ODE solver makes of combined average velocities, on an oscillator whose heads are perfect.

On z' = i w z a head answers u_k = (exp(i w d_k) - 1) / d_k z, so a combination with fixed weights is itself a linear
drift with eigenvalue

    mu = sum_k w_k (exp(i w d_k) - 1) / d_k,    Im mu / w = sum_k w_k sinc(w d_k),
                                                -Re mu  = sum_k w_k (1 - cos w d_k) / d_k  ~  w^2 sum_k w_k d_k / 2.

With non-negative weights motion is slowed by the first and fades by the second, and a better solver only follows the
wrong field more closely (P7). Richardson's weights remove both to their order. A jump, a step as long as a gap with
the weights of that step, is exact.

Every number here comes from solves with flowvid's own solvers: rk4 on the drift, and the forward plan for jumps.

References:
    Hierarchical Deep Learning of Multiscale Differential Equation Time-Steppers (Liu et al., 2020), https://arxiv.org/abs/2008.09768
"""

__all__ = ["Mismatch", "Oscillator", "measure_mismatch"]

import cmath
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from experiments.claims import claim, fitted_slope, interval
from experiments.latents import dyadic
from flowvid.dynamics.weights import lagrange, one_hot, uniform
from flowvid.noise import Noise
from flowvid.solve.flow_map import Jump
from flowvid.solve.ode import Ode

CONVEX = ("uniform", "longest", "instant")


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """What F3 measures.

    Arguments:
        seeds: Seeds of the initial states and of the frequencies of the sweep.
        states: Initial states, and frequencies of the sweep, for each seed.
        frequency: Radians per second of the oscillator in the table.
        heads: Number of heads.
        shortest: Their shortest gap in seconds.
        duration: Seconds of the table.
        steps: Numbers of rk4 steps of the table, increasing; four evaluations each.
        sweep_gap: The gap of the single head of the sweep, in seconds.
        sweep_steps: rk4 steps of the sweep for each of its gaps.
        sweep_gaps: Duration of the sweep in gaps.
        stated: Relative errors expected of rk4 by rule.
        stated_steps: The number of steps they are expected at.
        rounding: Relative difference that counts as agreement with them.
    """

    seeds: tuple[int, ...]
    states: int = 8
    frequency: float = 2.0
    heads: int = 6
    shortest: float = 1 / 64
    duration: float = 1.0
    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    sweep_gap: float = 1 / 8
    sweep_steps: int = 32
    sweep_gaps: int = 4
    stated: tuple[tuple[str, float], ...] = (("uniform", 0.275), ("instant", 0.031), ("Richardson, 3", 2e-5))
    stated_steps: int = 16
    rounding: float = 0.05


@dataclass(frozen=True, eq=False)
class Oscillator:
    """Independent rotations with perfect heads.

    Arguments:
        frequencies: Radians per second of each row.
        gaps: Gaps of the heads in seconds.
    """

    frequencies: Float64[Tensor, "batch"]
    gaps: tuple[float, ...]

    def rates(
        self, times: Sequence[float], states: Float[Tensor, "batch n 2"], moving: Sequence[bool]
    ) -> Float[Tensor, "batch n gap 2"]:
        """Average velocities of n states over every gap."""
        gaps = torch.tensor(self.gaps, dtype=torch.float64)
        turn = self.frequencies[:, None] * gaps
        slope = torch.complex(-2 * torch.sin(turn / 2) ** 2, torch.sin(turn)) / gaps
        z = torch.view_as_complex(states.contiguous())
        return torch.view_as_real(slope[:, None, :] * z[:, :, None])

    def velocity(self, weights: Float64[np.ndarray, "gap"], state: Float[Tensor, "batch 2"]) -> Tensor:
        """The drift under fixed weights."""
        return torch.einsum("k,bkc->bc", torch.tensor(weights), self.rates([0.0], state[:, None], [True])[:, 0])

    def exact(self, state: Float[Tensor, "batch 2"], time: float) -> Tensor:
        """The true state after a time in seconds."""
        z = torch.view_as_complex(state.contiguous())
        return torch.view_as_real(z * torch.exp(1j * self.frequencies * time))


def eigenvalue(weights: Float64[np.ndarray, "gap"], gaps: Sequence[float], frequency: float) -> complex:
    """The predicted eigenvalue of the drift.

    Arguments:
        weights: One for each gap.
        gaps: In seconds.
        frequency: Radians per second.
    """
    return complex(sum(w * (cmath.exp(1j * frequency * d) - 1) / d for w, d in zip(weights, gaps, strict=True)))


def rules(gaps: tuple[float, ...]) -> dict[str, Float64[np.ndarray, "gap"]]:
    """Weights for the instantaneous velocity, by rule.

    Arguments:
        gaps: In seconds, increasing.
    """
    return {
        "uniform": uniform(gaps),
        "longest": one_hot(gaps, gaps[-1]),
        "instant": one_hot(gaps, gaps[0]),
        "Richardson, 3": lagrange(gaps, 0.0, local=3),
        "Richardson, all": lagrange(gaps, 0.0),
    }


def measure_mismatch(mismatch: Mismatch) -> dict[str, Any]:
    """Errors, speeds, amplitudes and claims of F3.

    Arguments:
        mismatch: What to measure.
    """
    gaps = dyadic(mismatch.shortest, mismatch.heads)
    weights = rules(gaps)
    table: dict[str, list[dict[str, list[float]]]] = {
        name: [_solved(mismatch, weights[name], steps) for steps in mismatch.steps] for name in weights
    }
    jumps = {"last frame": _jumped(mismatch, dense=False), "all frames": _jumped(mismatch, dense=True)}
    sweep = _swept(mismatch)
    values = {name: eigenvalue(weights[name], gaps, mismatch.frequency) for name in weights}
    predicted = {
        name: {"speed": mu.imag / mismatch.frequency, "amplitude": math.exp(mu.real * mismatch.duration)}
        for name, mu in values.items()
    }
    return {
        "gaps": list(gaps),
        "evaluations": [4 * steps for steps in mismatch.steps],
        "rules": {
            name: {what: [asdict(interval(found[what])) for found in rows] for what in rows[0]}
            for name, rows in table.items()
        },
        "predicted": predicted,
        "jumps": {name: found | {"error": asdict(interval(found["error"]))} for name, found in jumps.items()},
        "sweep": sweep,
        "claims": [
            *_field_claims(mismatch, table, predicted),
            *_jump_claims(jumps),
            *_sweep_claims(mismatch, sweep),
        ],
    }


def _states(mismatch: Mismatch, seed: int) -> Float[Tensor, "batch 2"]:
    """Random points of the unit circle."""
    phase = Noise.batch(seed, mismatch.states).uniform("phases", dtype=torch.float64) * 2 * math.pi
    return torch.stack((torch.cos(phase), torch.sin(phase)), dim=1)


def _solved(mismatch: Mismatch, weights: Float64[np.ndarray, "gap"], steps: int) -> dict[str, list[float]]:
    """Relative error, speed factor and amplitude at the end, by seed, of rk4 on the drift with fixed weights."""
    rows: dict[str, list[float]] = {"error": [], "speed": [], "amplitude": []}
    for seed in mismatch.seeds:
        start = _states(mismatch, seed)
        frequencies = torch.full((len(start),), mismatch.frequency, dtype=torch.float64)
        world = Oscillator(frequencies, dyadic(mismatch.shortest, mismatch.heads))
        solution = Ode(method="rk4", substeps=steps).solve(
            lambda time, state, world=world: world.velocity(weights, state), start, [0.0, mismatch.duration]
        )
        assert solution.evaluations == 4 * steps, "rk4 asks four times a step"
        end = solution.trajectory.states[:, -1]
        turned = torch.view_as_complex(end) / torch.view_as_complex(start)
        rows["error"].append(_relative(end, world.exact(start, mismatch.duration)))
        rows["speed"].append(float(turned.angle().mean()) / (mismatch.frequency * mismatch.duration))
        rows["amplitude"].append(float(turned.abs().mean()))
    return rows


def _jumped(mismatch: Mismatch, *, dense: bool) -> dict[str, Any]:
    """Relative error by seed, evaluations and depth of jumps to the last frame, or to all frames."""
    gaps = dyadic(mismatch.shortest, mismatch.heads)
    frames = round(mismatch.duration / mismatch.shortest)
    times = [n * mismatch.shortest for n in (range(1, frames + 1) if dense else [frames])]
    errors: list[float] = []
    evaluations, depth = 0.0, 0
    for seed in mismatch.seeds:
        start = _states(mismatch, seed)
        world = Oscillator(torch.full((len(start),), mismatch.frequency, dtype=torch.float64), gaps)
        solution = Jump().solve(world, start, [0.0, *times])
        evaluations, depth = solution.evaluations, solution.depth
        exact = torch.stack([world.exact(start, time) for time in [0.0, *times]], dim=1)
        errors.append(
            max(
                _relative(found, wanted)
                for found, wanted in zip(solution.trajectory.states.unbind(dim=1), exact.unbind(dim=1), strict=True)
            )
        )
    return {"error": errors, "evaluations": evaluations, "depth": depth, "frames": len(times)}


def _swept(mismatch: Mismatch) -> dict[str, list[float]]:
    """Speed factors and damping of single heads at random frequencies, one entry for each of them."""
    gap, times = mismatch.sweep_gap, [n * mismatch.sweep_gap for n in range(mismatch.sweep_gaps + 1)]
    found: dict[str, list[float]] = {"turn": [], "speed": [], "damping": []}
    for seed in mismatch.seeds:
        start = _states(mismatch, seed)
        turn = 0.05 + 2.95 * Noise.batch(seed, mismatch.states).uniform("turns", dtype=torch.float64)
        world = Oscillator(turn / gap, (gap,))
        solution = Ode(method="rk4", substeps=mismatch.sweep_steps).solve(
            lambda time, state, world=world: world.velocity(np.ones(1), state), start, times
        )
        path = torch.view_as_complex(solution.trajectory.states.contiguous())
        angle = (path[:, 1:] / path[:, :-1]).angle().sum(dim=1)
        fall = -torch.log(path[:, -1].abs() / path[:, 0].abs())
        found["turn"] += turn.tolist()
        found["speed"] += (angle / (turn * mismatch.sweep_gaps)).tolist()
        found["damping"] += (fall / (turn**2 / 2 * mismatch.sweep_gaps)).tolist()
    return found


def _field_claims(
    mismatch: Mismatch,
    table: dict[str, list[dict[str, list[float]]]],
    predicted: dict[str, dict[str, float]],
) -> list[dict[str, Any]]:
    """Claims about rk4 on a drift with fixed weights."""
    at = mismatch.steps.index(mismatch.stated_steps)
    claims = [
        claim(
            "F3",
            f"{name}: relative error of rk4 with {4 * mismatch.stated_steps} evaluations",
            table[name][at]["error"],
            least=(1 - mismatch.rounding) * stated,
            most=(1 + mismatch.rounding) * stated,
        )
        for name, stated in mismatch.stated
    ]
    for name in CONVEX:
        last, first = table[name][-1], table[name][2]
        for what in ("speed", "amplitude"):
            missing = [(1 - value) / (1 - predicted[name][what]) for value in last[what]]
            claims.append(claim("F3", f"{name}: loss of {what} over the predicted one", missing, least=0.99, most=1.01))
        gain = [a / b for a, b in zip(last["error"], first["error"], strict=True)]
        claims.append(claim("F3", f"{name}: error that more steps of rk4 leave", gain, least=0.9))
    steps, rows = mismatch.steps[2:], table["Richardson, all"][2:]
    orders = [-fitted_slope(steps, [row["error"][n] for row in rows]) for n in range(len(mismatch.seeds))]
    return [*claims, claim("F3", "Richardson, all heads: order of rk4 in its steps", orders, least=3.7, most=4.3)]


def _jump_claims(jumps: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Claims about jumps."""
    return [
        claim(
            "F3", f"jumps, {name}: relative error with {found['evaluations']} evaluations", found["error"], most=1e-12
        )
        for name, found in jumps.items()
    ]


def _sweep_claims(mismatch: Mismatch, sweep: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Claims about single heads at any frequency, the worst frequency of each seed."""
    speed = [abs(s - math.sin(x) / x) for x, s in zip(sweep["turn"], sweep["speed"], strict=True)]
    damping = [abs(d - (1 - math.cos(x)) / (x * x / 2)) for x, d in zip(sweep["turn"], sweep["damping"], strict=True)]
    parts = [slice(n * mismatch.states, (n + 1) * mismatch.states) for n in range(len(mismatch.seeds))]
    return [
        claim(
            "F3",
            "one head: largest error of the predicted speed factor",
            [max(speed[part]) for part in parts],
            most=1e-4,
        ),
        claim(
            "F3", "one head: largest error of the predicted damping", [max(damping[part]) for part in parts], most=1e-4
        ),
    ]


def _relative(found: Float[Tensor, "batch 2"], exact: Float[Tensor, "batch 2"]) -> float:
    return float(torch.linalg.vector_norm(found - exact) / torch.linalg.vector_norm(exact))
