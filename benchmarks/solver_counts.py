"""What solvers cost as counts: exact, the same on every machine, and so what a change is held to first."""

__all__ = ["count_lines", "peer_lines"]

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.counting import Counted, Live, per_step
from benchmarks.lines import Line, counted, skipped
from benchmarks.problems import TOLERANCE, decay, turning, wandering
from flowvid.denoise.ddim import Ddim
from flowvid.denoise.denoiser import Denoiser
from flowvid.dynamics.drift import RowWise, clock
from flowvid.noise import Noise
from flowvid.solve.adaptive import Adaptive
from flowvid.solve.grid import Grid
from flowvid.solve.ode import Ode
from flowvid.solve.sde_grid import StochasticGrid

Drift = Callable[[Any, Tensor], Tensor]


def count_lines(*, quick: bool) -> list[Line]:
    """Everything that flowvid's own solvers are held to in counts."""
    return [
        *(line for method, most in (("euler", 2), ("midpoint", 3), ("rk4", 9)) for line in _grid(method, most)),
        *_adaptive(),
        *_ddim(),
        *(_sde_memory(size, steps) for size, steps in _memory_cases(quick=quick)),
        *_grid_memory(),
        *(line for fast in (1, 255) for line in _mixed(fast)),
    ]


def peer_lines() -> list[Line]:
    """The same counts of other packages, to compare with."""
    lines: list[Line] = []
    for method in ("euler", "midpoint", "rk4"):
        found = per_step(partial(_their_grid, method))
        lines += _pair(f"torchdiffeq {method}", *found)
    lines += _pair("torchdiffeq dopri5", *per_step(_their_dopri5))
    for package, solve in (("torchode", _torchode), ("diffusers", _diffusers)):
        name = {"torchode": "torchode dopri5", "diffusers": "diffusers DDIM"}[package]
        lines += _pair(name, *per_step(solve)) if peers.installed(package) else [skipped(name, "not installed")]
    for steps in (64, 1000):
        state = torch.zeros(16, 64)
        with torch.no_grad(), Live(state) as live:
            peers.torchsde_euler(wandering(), state, steps)
        lines.append(counted(f"torchsde Euler, {steps} steps, live states", live.most / _size(state)))
    return lines


def _size(state: Tensor) -> int:
    return state.untyped_storage().nbytes()


def _pair(
    name: str, operations: float, reads: float, most: float | None = None, waits: float | None = None
) -> list[Line]:
    return [
        counted(f"{name}, operations per step", operations, most, note="beyond the field"),
        counted(f"{name}, host reads per step", reads, waits),
    ]


def _grid(method: str, most: int) -> list[Line]:
    def solve(counts: Counted, steps: int) -> int:
        Grid(method=method, substeps=steps).solve(counts.outside(decay), torch.ones(4, 8), [0.0, 1.0])
        return steps

    return _pair(method, *per_step(solve), most, 0)


def _their_grid(method: str, counts: Counted, steps: int) -> int:
    peers.torchdiffeq_grid(counts.outside(decay), torch.ones(4, 8), method, steps, 1.0)
    return steps


def _adaptive() -> list[Line]:
    def solve(counts: Counted, length: int) -> int:
        solver = Adaptive(method="dopri5", rtol=TOLERANCE, atol=TOLERANCE)
        found = solver.solve(counts.outside(turning), _start(), [0.0, float(length)])
        return (found.depth - 2) // 6

    return _pair("dopri5 per sample", *per_step(solve), waits=1)


def _start() -> Tensor:
    """Four samples alike, which end together: what a solver does where one ends is no cost of a step."""
    return torch.randn(1, 8, generator=torch.Generator().manual_seed(0)).repeat(4, 1)


def _their_dopri5(counts: Counted, length: int) -> int:
    return peers.torchdiffeq_dopri5(counts.outside(turning), _start(), float(length), TOLERANCE)[1]


def _torchode(counts: Counted, length: int) -> int:
    return peers.torchode_dopri5(counts.outside(turning), _start(), float(length), TOLERANCE)()[1]


def _minus(noisy: Tensor, level: Any) -> Tensor:
    return -noisy


def _ddim() -> list[Line]:
    def solve(counts: Counted, steps: int) -> int:
        network = counts.outside(_minus)
        Ddim(substeps=steps).solve(Denoiser(network), torch.ones(4, 8), [1.0, 0.0])
        return steps

    return _pair("DDIM", *per_step(solve), 2, 0)


def _diffusers(counts: Counted, steps: int) -> int:
    peers.diffusers_ddim(counts.outside(_minus), torch.ones(4, 8), steps)()
    return steps


def _memory_cases(*, quick: bool) -> list[tuple[int, int]]:
    """Entries of a sample and steps; the large state is as large as what a path draws at once."""
    few = [(64, 64), (64, 1000), (16384, 64)]
    return few if quick else [*few, (64, 4096), (16384, 1000)]


def _sde_memory(size: int, steps: int) -> Line:
    state = torch.zeros(16, size)
    with torch.no_grad(), Live(state) as live:
        StochasticGrid(substeps=steps).solve(wandering(), state, [0.0, 1.0], Noise.batch(0, 16))
    name = f"euler-maruyama, {steps} steps of 16x{size}, live states"
    return counted(name, live.most / _size(state), 5, note=f"{live.most / 2**20:.3g} MiB")


def _grid_memory() -> list[Line]:
    state = torch.ones(16, 4096)
    most: list[int] = []
    held: list[int] = []
    for steps in (2, 1000):
        with torch.no_grad(), Live(state) as live:
            found = Grid(method="rk4", substeps=steps).solve(decay, state, [0.0, 1.0])
            most.append(live.most)
            held.append(live.now)
        del found
    return [
        counted("rk4, 1000 steps to two times, states held by the solution", held[1] / _size(state), 2.01),
        counted("rk4, 1000 steps, most memory over that of 2 steps", most[1] / most[0], 1),
        counted(
            "rk4, 1000 steps, live states", most[1] / _size(state), note="most bytes alive at once / bytes of the state"
        ),
    ]


def _swing(time: Any, state: Tensor, speed: Tensor) -> Tensor:
    return (speed * torch.cos(speed * clock(time, state)[:, None])).expand_as(state)


def _mixed(fast: int) -> list[Line]:
    """Control per sample against one norm over the batch: by the same method, and by torchdiffeq's."""
    speed = torch.ones(256, 1)
    speed[:fast] = 40.0
    state, times, exact = torch.zeros(256, 8), [0.0, 3.0], torch.sin(3.0 * speed)
    solver = Adaptive(method="dopri5", rtol=1e-4, atol=1e-4)
    own = solver.solve(RowWise(_swing, (speed,)), state, times)

    def together(time: Any, state: Tensor) -> Tensor:
        return _swing(time, state.reshape(256, 8), speed).reshape(state.shape)

    joint = (
        ("of the same kind", solver.solve(together, state[None], times)),
        ("by torchdiffeq", Ode(method="dopri5", rtol=1e-4, atol=1e-4).solve(together, state, times)),
    )
    lines: list[Line] = []
    for kind, other in joint:
        errors = [
            (found.trajectory.states[:, -1].reshape(256, 8) - exact).abs().max().item() / 1e-4 for found in (own, other)
        ]
        note = (
            f"{own.evaluations:.4g} against {other.evaluations:.4g}; worst error {errors[0]:.3g} against "
            f"{errors[1]:.3g} tolerances"
        )
        name = f"{fast} fast, {256 - fast} slow: evaluations over joint control {kind}"
        lines.append(counted(name, own.evaluations / other.evaluations, 1, note=note))
    return lines
