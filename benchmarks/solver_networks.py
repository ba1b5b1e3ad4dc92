"""What solvers cost and keep with a network for a field: end to end, compiled, alone and in a batch, with gradients."""

__all__ = ["network_lines"]

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.counting import Live
from benchmarks.lines import Line, counted, differing, skipped, timed
from benchmarks.problems import Attention, Convolutions, decay
from benchmarks.timing import paired
from flowvid.dynamics.drift import RowWise
from flowvid.solve.adaptive import Adaptive
from flowvid.solve.grid import Grid

_SPAN = [0.0, 1.0]


def network_lines(*, quick: bool) -> Iterator[Line]:
    """All lines; the quick ones from fewer pairs, and without compiling."""
    torch.manual_seed(0)
    yield from _end_to_end(3 if quick else 25)
    yield from _alone()
    yield from _gradients(8 if quick else 64, 3 if quick else 7)
    yield skipped("euler compiled, over eager", "left out of the quick run") if quick else _compiled(25)


@torch.no_grad()
def _end_to_end(pairs: int) -> Iterator[Line]:
    networks: list[tuple[str, nn.Module, Tensor]] = [
        ("convolutions", Convolutions(8, 32).eval(), torch.randn(4, 8, 16, 16)),
        ("transformer", Attention(128, 4).eval(), torch.randn(4, 64, 128)),
    ]
    for name, network, state in networks:
        for method in ("euler", "rk4"):
            ours = partial(Grid(method=method, substeps=4).solve, network, state, _SPAN)
            theirs = partial(peers.torchdiffeq_grid, network, state, method, 4, 1.0)
            label = f"{method} with {name}, batch 4, over torchdiffeq"
            yield timed(label, paired(ours, theirs, pairs), 1.02, steps=4)


@torch.no_grad()
def _alone() -> Iterator[Line]:
    """How far a sample's answer moves when others are solved beside it."""
    transformer = Attention().eval()
    fields: list[tuple[str, Callable[[Any, Tensor], Tensor], Tensor, float]] = [
        ("an elementwise field", decay, torch.randn(16, 32, 64), 0.0),
        ("a transformer", transformer, torch.randn(16, 32, 64), 1e-4),
    ]
    for name, field, state, most in fields:
        state = state * torch.linspace(0.1, 3.0, 16)[:, None, None]
        for label, solver in (("dopri5", Adaptive(method="dopri5", rtol=1e-4, atol=1e-4)), ("rk4", Grid(substeps=8))):
            drift = RowWise(field)
            whole = solver.solve(drift, state, _SPAN).trajectory.states
            alone = torch.cat([solver.solve(drift, row[None], _SPAN).trajectory.states for row in state])
            difference = (whole - alone).abs().max().item()
            yield differing(f"{label} with {name}, alone against in a batch", difference, most)


def _gradients(steps: int, pairs: int) -> Iterator[Line]:
    network, state = Convolutions(8, 32), torch.randn(1, 8, 16, 16)
    weights = list(network.parameters())

    def backward(*, checkpoint: bool) -> tuple[Tensor, ...]:
        found = Grid(method="euler", substeps=steps, checkpoint=checkpoint).solve(network, state, _SPAN)
        return torch.autograd.grad(found.trajectory.states[:, -1].square().mean(), weights)

    again, kept = partial(backward, checkpoint=True), partial(backward, checkpoint=False)
    pairings = zip(again(), kept(), strict=True)
    yield differing(
        f"checkpointed gradients, {steps} steps, against direct ones",
        max((a - b).abs().max().item() for a, b in pairings),
        0.0,
    )
    most = []
    for work in (again, kept):
        with Live(state, *weights) as live:
            work()
        most.append(live.most)
    yield counted(f"checkpointed gradients, {steps} steps, most memory over direct", most[0] / most[1], 0.35)
    name = f"checkpointed gradients, {steps} steps, time over direct"
    yield timed(name, paired(again, kept, pairs), 1.6, steps=steps)


@torch.no_grad()
def _compiled(pairs: int) -> Line:
    name = "euler compiled, with convolutions, batch 1, over eager"
    network, state = Convolutions(8, 32).eval(), torch.randn(1, 8, 16, 16)
    compiled = partial(Grid(method="euler", substeps=16, compiled=True).solve, network, state, _SPAN)
    eager = partial(Grid(method="euler", substeps=16).solve, network, state, _SPAN)
    try:
        compiled()
    except RuntimeError as error:
        return skipped(name, f"no step could be compiled: {type(error).__name__}")
    return timed(name, paired(compiled, eager, pairs), 1.0, steps=16)
