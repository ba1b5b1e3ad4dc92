"""What solvers cost as ratios of times: ours and another's in turn, on the same problem, to the same times."""

__all__ = ["ratio_lines"]

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.lines import Line, skipped, timed
from benchmarks.problems import SMALL_AND_LARGE, TOLERANCE, decay, turning, wandering
from benchmarks.timing import paired
from flowvid.denoise.ddim import Ddim
from flowvid.denoise.denoiser import Denoiser
from flowvid.noise import Noise
from flowvid.solve.adaptive import Adaptive
from flowvid.solve.brownian import BrownianPath
from flowvid.solve.grid import Grid
from flowvid.solve.sde_grid import StochasticGrid


@torch.no_grad()
def ratio_lines(*, quick: bool) -> Iterator[Line]:
    """All ratios; the quick ones from fewer pairs and shorter solves."""
    pairs, steps = (3, 100) if quick else (15, 100)
    for size in SMALL_AND_LARGE:
        for method in ("euler", "midpoint", "rk4"):
            yield _grid(method, size, steps, pairs)
            yield _grid_kept(method, size, steps, pairs)
    for size in SMALL_AND_LARGE:
        yield from _adaptive(size, 3.0 if quick else 10.0, pairs)
    for size in SMALL_AND_LARGE:
        for number in (64, 100) if quick else (64, 256, 1000, 1024, 4096):
            # A long solve is its own average.
            yield _sde(size, number, max(2, min(pairs, 1024 // number)))
    for order in ("bisection", "time"):
        yield _noise(order, 64 if quick else 256, pairs)
    for number in (64,) if quick else (64, 256):
        yield _sde_peer(number, min(pairs, 5))
    for size in SMALL_AND_LARGE:
        yield _ddim(size, 10 if quick else 50, pairs)
    yield skipped("rk4 over diffrax, jitted", "not installed" if not peers.installed("diffrax") else "not measured")


def _state(size: int) -> Tensor:
    return torch.randn(16, size, generator=torch.Generator().manual_seed(0))


def _grid(method: str, size: int, steps: int, pairs: int) -> Line:
    state, solver = _state(size), Grid(method=method, substeps=steps)
    ours = partial(solver.solve, decay, state, [0.0, 1.0])
    theirs = partial(peers.torchdiffeq_grid, decay, state, method, steps, 1.0)
    return timed(f"{method} 16x{size}, over torchdiffeq", paired(ours, theirs, pairs), 0.25, steps=steps)


def _grid_kept(method: str, size: int, steps: int, pairs: int) -> Line:
    state, solver = _state(size), Grid(method=method)
    points = [number / steps for number in range(steps + 1)]
    ours = partial(solver.solve, decay, state, points)
    theirs = partial(peers.torchdiffeq_grid, decay, state, method, steps, 1.0, every=True)
    name = f"{method} 16x{size}, every step kept, over torchdiffeq"
    return timed(name, paired(ours, theirs, pairs), 0.25, steps=steps)


def _adaptive(size: int, span: float, pairs: int) -> Iterator[Line]:
    state = _state(size)
    solver = Adaptive(method="dopri5", rtol=TOLERANCE, atol=TOLERANCE)
    tried = (solver.solve(turning, state, [0.0, span]).depth - 2) // 6
    ours = partial(solver.solve, turning, state, [0.0, span])
    joint = partial(peers.torchdiffeq_dopri5, turning, state, span, TOLERANCE)
    yield _per_attempt(f"dopri5 16x{size}, over torchdiffeq", ours, tried, joint, 0.5, pairs)
    name = f"dopri5 16x{size}, over torchode"
    if not peers.installed("torchode"):
        yield skipped(name, "not installed")
        return
    yield _per_attempt(name, ours, tried, peers.torchode_dopri5(turning, state, span, TOLERANCE), 1.0, pairs)


def _per_attempt(
    name: str,
    ours: Callable[[], object],
    tried: int,
    theirs: Callable[[], tuple[Tensor, int]],
    target: float,
    pairs: int,
) -> Line:
    """A ratio of times per attempted step, where the two need different numbers of them."""
    return timed(name, paired(ours, theirs, pairs).per(tried, theirs()[1]), target)


def _sde(size: int, steps: int, pairs: int) -> Line:
    state, field, noise = _state(size), wandering(), Noise.batch(0, 16)

    def raw() -> Tensor:
        moving, step = state, 1 / steps
        for number in range(steps):
            time = number * step
            rate, strength = field.drift(time, moving), field.volatility(time, moving)
            moving = torch.add(moving, rate, alpha=step)
            moving.addcmul_(strength, torch.randn(moving.shape), value=step**0.5)
        return moving

    ours = partial(StochasticGrid(substeps=steps).solve, field, state, [0.0, 1.0], noise)
    return timed(
        f"euler-maruyama 16x{size}, {steps} steps, over a bare loop", paired(ours, raw, pairs), 1.3, steps=steps
    )


def _sde_peer(steps: int, pairs: int) -> Line:
    state, field, noise = _state(64), wandering(), Noise.batch(0, 16)
    ours = partial(StochasticGrid(substeps=steps).solve, field, state, [0.0, 1.0], noise)
    theirs = partial(peers.torchsde_euler, field, state, steps)
    return timed(f"euler-maruyama 16x64, {steps} steps, over torchsde", paired(ours, theirs, pairs), 1 / 3, steps=steps)


def _noise(order: str, count: int, pairs: int) -> Line:
    """Brownian paths at dyadic times, coarse before fine or one after the other."""
    path = BrownianPath(Noise.batch(0, 16), 0.0, 1.0, (64,))
    levels = [
        [(2 * number + 1) / 2**level for number in range(2 ** (level - 1))] for level in range(1, count.bit_length())
    ]
    points = [number / count for number in range(count + 1)]

    def ours() -> None:
        if order == "time":
            for _ in path.walk(points):
                pass
        else:
            for times in levels:
                path.at(times)

    def theirs() -> None:
        tree = peers.brownian_tree((16, 64), seed=0)
        if order == "time":
            for left, right in pairwise(points):
                tree(left, right)
        else:
            for times in levels:
                for time in times:
                    tree(0.0, time)

    name = f"Brownian path 16x64, {count} times in order of {order}, torchsde's tree over ours"
    return timed(name, paired(theirs, ours, pairs), 3, bound=">=", steps=count)


def _ddim(size: int, steps: int, pairs: int) -> Line:
    name = f"DDIM 16x{size}, over diffusers"
    if not peers.installed("diffusers"):
        return skipped(name, "not installed")
    state = _state(size)
    said = torch.zeros_like(state)
    ours = partial(Ddim(substeps=steps).solve, Denoiser(lambda noisy, level: said), state, [1.0, 0.0])
    theirs = peers.diffusers_ddim(lambda noisy, time: said, state, steps)
    return timed(name, paired(ours, theirs, pairs), 0.15, steps=steps)
