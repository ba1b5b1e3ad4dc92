"""Checks that a sample is its own: it does not depend on its batch, whether in a solver, in noise or in a drift.

Whoever compares one sample with another, or runs the same one again in a different batch, takes this for granted; it
breaks silently where an adaptive solver controls the error of the whole batch, where one generator serves all samples,
and where a network normalises over the batch.
"""

__all__ = ["check_batch_invariance", "check_drift", "check_noise_invariance"]

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.dynamics.drift import Drift, RowDrift
from flowvid.dynamics.stochastic import StochasticDrift
from flowvid.noise import Noise
from flowvid.testing.fields import hyperbola
from flowvid.testing.probe import Problem, Solves, expect, far, solved
from flowvid.testing.stochastic import KnownSde, geometric

_TIMES = (0.0, 0.3, 1.0)


def check_batch_invariance(solver: Solves, problem: Problem | None = None, *, atol: float = 0.0) -> None:
    """A sample is the same alone, in any order, and beside any others.

    Arguments:
        solver: The solver.
        problem: What to solve; `hyperbola` when left out, which is arithmetic and so equal to the last bit.
        atol: The greatest difference.

    Raises:
        AssertionError: A sample changes with its batch.
    """
    problem = problem or hyperbola()
    everyone, order = problem.states(7), [2, 0, 3, 1]
    noise = Noise.batch(0, len(everyone))

    def answers(rows: Sequence[int], *, wrapped: bool) -> Tensor:
        drift = problem.drift
        if not wrapped and not isinstance(drift, StochasticDrift):
            drift = _plain(drift)
        return solved(solver, drift, everyone[list(rows)], _TIMES, noise[list(rows)]).trajectory.states

    for wrapped in (True, False):
        together = answers(range(4), wrapped=wrapped)
        others = {
            "in another order": answers(order, wrapped=wrapped)[[order.index(row) for row in range(4)]],
            "beside three other samples": answers(range(7), wrapped=wrapped)[:4],
            "alone": torch.cat([answers([row], wrapped=wrapped) for row in range(4)]),
        }
        for where, found in others.items():
            apart = far(found, together)
            expect(
                apart <= atol,
                f"Expected each sample of {problem.name} to be the same {where} as in a batch of four, to within "
                f"{atol:.2e}; it is {apart:.2e} off.",
            )


def _plain(drift: Drift) -> Drift:
    """A drift without its rows, as a closure would be."""

    def plain(time: Any, state: Tensor) -> Tensor:
        return drift(time, state)

    return plain


def check_noise_invariance(solver: Solves, sde: KnownSde | None = None, *, atol: float = 0.0) -> None:
    """A sample's path is that of its seed: neither its place nor the size of the batch matters, and the seed does.

    Arguments:
        solver: A stochastic solver.
        sde: The equation; `geometric` when left out.
        atol: The greatest difference of equal samples.

    Raises:
        AssertionError: A path depends on more than its seed, or not on it.
    """
    sde = sde or geometric()
    state = sde.states(1).expand(6, *sde.shape).clone()

    def paths(*seeds: int) -> Tensor:
        return solved(solver, sde.drift, state[: len(seeds)], _TIMES, Noise.of(seeds)).trajectory.states

    alone = paths(11)[0]
    for seeds in ((11, 12), (12, 11), (3, 4, 5, 11, 6, 7), (11, 11)):
        found = paths(*seeds)
        for place, seed in enumerate(seeds):
            apart = far(found[place], alone)
            expect(
                apart <= atol if seed == 11 else far(found[place, -1], alone[-1]) > 0,
                f"Expected the path of seed {seed} to be {'that' if seed == 11 else 'another than that'} of seed 11 "
                f"alone; in a batch of seeds {seeds} it is {apart:.2e} off.",
            )


def check_drift(
    drift: Drift | StochasticDrift,
    states: Float[Tensor, "batch *state"],
    *,
    times: Sequence[float] = (0.0, 0.3, 1.0),
    atol: float = 1e-5,
) -> None:
    """A drift is fit for any solver: finite, of the state's shape, row by row, in all three forms of the time.

    Arguments:
        drift: The drift; of a `StochasticDrift` its volatility is checked too.
        states: Two states or more to ask it at, in the type it is to be used with.
        times: Seconds to ask it at.
        atol: The greatest difference of rates of change that should be equal.

    Raises:
        AssertionError: It is not.
        ValueError: There is only one state, so that nothing can be said of others.
    """
    if len(states) < 2:
        raise ValueError(f"A drift is checked on two states or more; got {len(states)}.")
    if isinstance(drift, StochasticDrift):
        _check_field(drift.drift, states, times, atol, "drift", matrix=False)
        _check_field(drift.volatility, states, times, atol, "volatility", matrix=drift.noise in ("additive", "general"))
    else:
        _check_field(drift, states, times, atol, "drift", matrix=False)


def _check_field(field: Drift, states: Tensor, times: Sequence[float], atol: float, name: str, *, matrix: bool) -> None:
    for time in times:
        given = states.clone()
        rate = field(time, given)
        expect(far(given, states) == 0, f"Expected a {name} that leaves its state alone; this one wrote into it.")
        shape = rate.shape[:-1] if matrix else rate.shape
        wanted = (*states.shape, "noise") if matrix else tuple(states.shape)
        expect(
            shape == states.shape and rate.dtype == states.dtype and rate.device == states.device,
            f"Expected a {name} of shape {wanted}, {states.dtype}, on {states.device}; got {tuple(rate.shape)}, "
            f"{rate.dtype}, on {rate.device}.",
        )
        expect(bool(rate.isfinite().all()), f"Expected a finite {name} at {time} s; it holds NaN or infinity.")
        _equal(field(time, states), rate, atol, f"{name} at {time} s asked a second time")
        at = torch.tensor(time, dtype=torch.float64, device=states.device)
        _equal(field(at, states), rate, atol, f"{name} at {time} s as a float64 tensor of shape ()")
        _equal(field(at.expand(len(states)), states), rate, atol, f"{name} at {time} s as one time per sample")
        _check_rows(field, states, time, rate, atol, name)
    own = torch.linspace(min(times), max(times), len(states), dtype=torch.float64, device=states.device)
    expected = torch.stack([field(time, states)[row] for row, time in enumerate(own.tolist())])
    _equal(field(own, states), expected, atol, f"{name} at a time of its own for each sample")


def _check_rows(field: Drift, states: Tensor, time: float, rate: Tensor, atol: float, name: str) -> None:
    """A sample's rate stays what it is when the others change, and when they leave."""
    for row in range(len(states)):
        changed = 0.5 - 2 * states.roll(1, dims=0)
        changed[row] = states[row]
        _equal(field(time, changed)[row], rate[row], atol, f"{name} of sample {row} at {time} s beside other samples")
        if isinstance(field, RowDrift):
            index = torch.tensor([row], device=states.device)
            alone = field.rows(index)(time, states[index])
            _equal(alone[0], rate[row], atol, f"{name} of sample {row} at {time} s from rows([{row}])")


def _equal(found: Tensor, expected: Tensor, atol: float, what: str) -> None:
    apart = far(found, expected)
    expect(apart <= atol, f"Expected the same {what}, to within {atol:.2e}; it is {apart:.2e} off.")
