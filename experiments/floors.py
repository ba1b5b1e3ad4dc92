r"""Where the error of a solver stops mattering: fields made of heads, first perfect ones, then trained ones.

A Runge-Kutta method follows the drift made of w(0), and more evaluations only bring it nearer to that drift's own
solution, which is off by the bias of w(0) and by what the heads have not learned. Jumps use the heads themselves, with
w(h). So two errors are kept apart: the distance to the fine solution of the same drift, the solver's own error; and the
distance to the truth, which levels off at a floor.

Every method is asked for one state, a horizon away, so that none pays for frames in between.

- Perfect heads: rotations z' = i w z with random frequencies, at a horizon a third of a frame off the grid. On it,
  jumps with perfect heads are exact.
- Trained heads: a small multi-scale model of digits in flight; the error is that of the decoded digit's position.

References:
    Hierarchical Deep Learning of Multiscale Differential Equation Time-Steppers (Liu et al., 2020), https://arxiv.org/abs/2008.09768
"""

__all__ = ["Exact", "Trained", "measure_exact", "measure_trained"]

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from experiments.claims import claim
from experiments.latents import dyadic
from experiments.mismatch import Oscillator
from experiments.precision import point, solvers_of
from flowvid.compare.measure import Bench, condition
from flowvid.dynamics.drift import MultiScaleField
from flowvid.dynamics.state import Surroundings
from flowvid.dynamics.weights import lagrange
from flowvid.metrics.motion import position_error
from flowvid.models.continuous import MultiScale
from flowvid.noise import Noise
from flowvid.solve.flow_map import AdaptiveJump, Jump
from flowvid.solve.grid import Grid
from flowvid.solve.jump import FlowMap
from flowvid.solve.solution import Solution
from flowvid.solve.solver import Solver
from flowvid.solvers import solver_methods
from flowvid.train.run import Run, latents, train_codec, train_model
from flowvid.video import Trajectory

JUMPS = ("jump", "jump-adaptive")
Curves = dict[str, list[dict[str, float]]]


@dataclass(frozen=True, kw_only=True)
class Exact:
    """What is measured with perfect heads.

    Arguments:
        seeds: Seeds of the frequencies.
        methods: Methods that follow w(0).
        steps: Numbers of steps of methods on a grid, increasing.
        tolerances: Tolerances of adaptive methods, decreasing.
        jump_tolerances: Tolerances of adaptive jumps, decreasing.
        batch: Rotations.
        slowest: Least frequency in radians per second.
        fastest: Greatest frequency.
        shortest: Shortest gap in seconds, one frame.
        heads: Number of heads.
        frames: Whole frames of the horizon, which is a third of a frame longer.
        near: An error counts as the field's own if it is at most this times that.
    """

    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    steps: tuple[int, ...]
    tolerances: tuple[float, ...]
    jump_tolerances: tuple[float, ...]
    batch: int = 32
    slowest: float = 0.5
    fastest: float = 3.0
    shortest: float = 1 / 16
    heads: int = 5
    frames: int = 32
    near: float = 1.1


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What is measured with trained heads.

    Arguments:
        run: The run; the seed of its model is replaced by each of ``seeds``.
        seeds: Seeds of the models.
        methods: Methods that follow w(0).
        steps: Numbers of steps of methods on a grid, increasing.
        tolerances: Tolerances of adaptive methods, decreasing.
        jump_tolerances: Tolerances of adaptive jumps, decreasing, in latent units.
        clips: Held-out clips.
        reference_steps: rk4 steps of the fine solution.
        near: An error counts as the field's own if it is at most this times that.
    """

    run: Run
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    steps: tuple[int, ...]
    tolerances: tuple[float, ...]
    jump_tolerances: tuple[float, ...]
    clips: int = 128
    reference_steps: int = 64
    near: float = 1.05


def measure_exact(exact: Exact) -> dict[str, Any]:
    """Curves by method, floors, and what it takes to reach them, with perfect heads.

    Arguments:
        exact: What to measure.
    """
    found = [_rotated(exact, seed) for seed in exact.seeds]
    says = "perfect heads: least evaluations of any RK method at the error of w(0) over those of jumps"
    on_grid = "perfect heads, horizon on the grid: error of one chain of jumps"
    return _summary(found, exact.near, "error") | {
        "claims": [
            claim("cost", says, [_saving(curves, floor, exact.near, "error") for curves, floor in found], least=1.0),
            claim("cost", on_grid, [_on_grid(exact, seed) for seed in exact.seeds], most=1e-12),
        ]
    }


def measure_trained(trained: Trained) -> dict[str, Any]:
    """Curves by method, floors, and what it takes to reach them, with trained heads.

    Arguments:
        trained: What to measure.
    """
    found: list[tuple[Curves, float]] = []
    with TemporaryDirectory() as place:
        folder = Path(place)
        codec = train_codec(trained.run, folder).network
        clips = {"train": trained.run.clips, "validation": trained.run.validation_clips}
        banks = {
            split: latents(trained.run, codec, split, trained.run.times, clips=count, device="cpu")
            for split, count in clips.items()
        }
        bench = Bench.of(trained.run, codec, "test", clips=trained.clips, device="cpu")
        for seed in trained.seeds:
            run = replace(trained.run, model=replace(trained.run.model, seed=seed))
            model = train_model("multiscale", run, banks.__getitem__, folder).network
            assert isinstance(model, MultiScale), "the rival multiscale is a MultiScale"
            found.append(_sampled(trained, bench, model))
    says = "trained heads: least evaluations of any RK method at the position error of w(0) over those of jumps"
    savings = [_saving(curves, floor, trained.near, "position_error") for curves, floor in found]
    best = [
        min(_all(curves, JUMPS, "position_error")) / min(_all(curves, trained.methods, "position_error"))
        for curves, _ in found
    ]
    ratio = "trained heads: least position error of jumps over that of RK methods, whatever the evaluations"
    return _summary(found, trained.near, "position_error") | {
        "claims": [claim("cost", says, savings, least=1.0), claim("cost", ratio, best, most=1.0)]
    }


def first_within(points: Sequence[Mapping[str, float]], floor: float, near: float, key: str) -> float:
    """Least evaluations from which on a curve stays within a factor of a floor, or below it; infinite if it never does.

    A curve that dips to the floor once and leaves it again was lucky there, which does not count.

    Arguments:
        points: By increasing cost.
        floor: The floor.
        near: The factor.
        key: Which error.
    """
    least = math.inf
    for found in sorted(points, key=lambda one: -one["evaluations"]):
        if not found[key] <= near * floor:
            break
        least = found["evaluations"]
    return least


def _saving(curves: Curves, floor: float, near: float, key: str) -> float:
    """Least evaluations of Runge-Kutta methods within a factor of the floor, over those of jumps.

    Where none of the former gets there the most that was tried counts; where no jump does the answer is zero.
    """
    least = {name: first_within(points, floor, near, key) for name, points in curves.items()}
    jumps = min(least[name] for name in JUMPS)
    others = [name for name in curves if name not in JUMPS]
    tried = max(_all(curves, others, "evaluations"))
    return min(tried, *(least[name] for name in others)) / jumps if math.isfinite(jumps) else 0.0


def _all(curves: Curves, names: Sequence[str], key: str) -> list[float]:
    return [found[key] for name in names for found in curves[name]]


def _summary(found: Sequence[tuple[Curves, float]], near: float, key: str) -> dict[str, Any]:
    """Curves by method, one for each seed, with their floors and the evaluations that reach these."""
    names = found[0][0]
    return {
        "floors": [floor for _, floor in found],
        "methods": {
            name: {
                "seeds": [curves[name] for curves, _ in found],
                "first_within": [
                    count if math.isfinite(count := first_within(curves[name], floor, near, key)) else None
                    for curves, floor in found
                ],
            }
            for name in names
        },
    }


def _measured(
    methods: Sequence[str],
    steps: Sequence[int],
    tolerances: Sequence[float],
    solve: Callable[[Solver], Solution],
    error: Callable[[Solution], Mapping[str, float]],
) -> Curves:
    """Curves of methods that follow a drift."""
    table = solver_methods()
    return {
        name: [
            point(setting, lambda solver=solver: solve(solver), error, repeats=1)
            for setting, solver in solvers_of(name, table[name], steps=steps, tolerances=tolerances).items()
        ]
        for name in methods
    }


def _oscillator(exact: Exact, seed: int, heads: int) -> tuple[Oscillator, Float[Tensor, "batch 2"]]:
    noise = Noise.batch(seed, exact.batch)
    share, phase = (noise.uniform(stream, dtype=torch.float64) for stream in ("frequencies", "phases"))
    frequencies = exact.slowest * (exact.fastest / exact.slowest) ** share
    start = torch.stack((torch.cos(2 * math.pi * phase), torch.sin(2 * math.pi * phase)), dim=1)
    return Oscillator(frequencies, dyadic(exact.shortest, heads)), start


def _on_grid(exact: Exact, seed: int) -> float:
    world, start = _oscillator(exact, seed, exact.heads)
    horizon = exact.frames * exact.shortest
    found = Jump().solve(world, start, [0.0, horizon]).require().trajectory.states[:, -1]
    return float((found - world.exact(start, horizon)).abs().max())


def _rotated(exact: Exact, seed: int) -> tuple[Curves, float]:
    """Curves with perfect heads, and the error of the exact solution of the drift made of w(0)."""
    world, start = _oscillator(exact, seed, exact.heads)
    horizon = (exact.frames + 1 / 3) * exact.shortest
    times, truth, weights = [0.0, horizon], world.exact(start, horizon), lagrange(world.gaps, 0.0)

    def drift(time: Any, state: Tensor) -> Tensor:
        return world.velocity(weights, state)

    own = Grid(method="rk4", substeps=4 * max(exact.steps)).solve(drift, start, times).trajectory.states[:, -1]

    def error(solution: Solution) -> dict[str, float]:
        end = solution.trajectory.states[:, -1]
        return {"error": float((end - truth).abs().max()), "solver_error": float((end - own).abs().max())}

    curves = _measured(
        exact.methods, exact.steps, exact.tolerances, lambda solver: solver.solve(drift, start, times), error
    )
    curves["jump"] = [
        point(
            heads, lambda heads=heads: Jump().solve(_oscillator(exact, seed, heads)[0], start, times), error, repeats=1
        )
        for heads in range(3, exact.heads + 1)
    ]
    curves["jump-adaptive"] = [
        point(t, lambda t=t: AdaptiveJump(tolerance=t).solve(world, start, times), error, repeats=1)
        for t in exact.jump_tolerances
    ]
    return curves, float((own - truth).abs().max())


@torch.no_grad()
def _sampled(trained: Trained, bench: Bench, model: MultiScale) -> tuple[Curves, float]:
    """Curves with trained heads, and the position error of the fine solution of the drift made of w(0)."""
    known = condition(bench, "predict")
    around = Surroundings(known, gap=model.frame)
    field = MultiScaleField(model.heads, around)
    first = around.start(bench.run.horizon)
    start, times = around.state(first), [around.times[first], bench.run.horizon]
    drift = field.drift(lambda h: _forward(model, h))
    own = Grid(method="rk4", substeps=trained.reference_steps).solve(drift, start, times).require()
    truth, channels = bench.positions(times[1:]), model.heads.channels

    def error(solution: Solution) -> dict[str, float]:
        end = solution.trajectory.states[:, -1:, :channels]
        video = bench.codec.decode(Trajectory(end, solution.trajectory.times[-1:]))
        apart = (end[:, 0] - own.trajectory.states[:, -1, :channels]).square().mean().sqrt()
        return {"solver_error": float(apart), "position_error": float(position_error(video, truth).mean())}

    curves = _measured(
        trained.methods, trained.steps, trained.tolerances, lambda solver: solver.solve(drift, start, times), error
    )
    limits = [2**k for k in range(round(math.log2(model.longest)))]
    names = [*(f"jump-{limit}" for limit in limits), "jump"]
    curves["jump"] = [
        point(limit, lambda name=name: model.sample(known, times[1:], bench.noise, solver=name), error, repeats=1)
        for limit, name in zip([*limits, model.longest], names, strict=True)
    ]
    flow_map: FlowMap = field
    curves["jump-adaptive"] = [
        point(t, lambda t=t: AdaptiveJump(tolerance=t).solve(flow_map, start, times), error, repeats=1)
        for t in trained.jump_tolerances
    ]
    return curves, error(own)["position_error"]


def _forward(model: MultiScale, h: float) -> Float64[np.ndarray, "gap"]:
    """The model's own weights w(0): calibrated ones of the forward heads, nothing for the others."""
    calibration = model.calibration()
    spread = np.zeros(len(model.heads.gaps))
    spread[[model.heads.gaps.index(gap) for gap in calibration.gaps]] = calibration.weights(h)
    return spread
