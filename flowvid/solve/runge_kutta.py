"""One explicit Runge-Kutta step: plain operations with coefficients from the host, or one compiled graph."""

__all__ = ["Program", "advance", "compiled", "compiling"]

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from flowvid.dynamics.drift import Drift
from flowvid.solve.tableau import Tableau

_COMPILED_STEPS = 64


@dataclass(frozen=True)
class Program:
    """A tableau as what to do: for each stage its node and the rates to add with their weights, then for the step."""

    stages: tuple[tuple[float, tuple[tuple[int, float], ...]], ...]
    last: tuple[tuple[int, float], ...]

    @staticmethod
    @cache
    def of(tableau: Tableau, stages: int) -> "Program":
        """The program of a tableau; weights that are zero are left out."""
        rows = tuple(
            (node, tuple((j, weight) for j, weight in enumerate(row) if weight != 0))
            for node, row in zip(tableau.c[:stages], tableau.a[:stages], strict=True)
        )
        return Program(rows, tuple((j, weight) for j, weight in enumerate(tableau.b) if weight != 0))


def advance(program: Program, drift: Drift, state: Tensor, left: Any, right: Any) -> Tensor:
    """One step between two times: floats, or tensors where a float would be compiled in."""
    step = right - left
    rates: list[Tensor] = []
    for node, row in program.stages:
        time = left if node == 0 else right if node == 1 else left + node * step
        rates.append(drift(time, _moved(state, rates, row, step)))
    return _moved(state, rates, program.last, step)


def _moved(state: Tensor, rates: list[Tensor], row: tuple[tuple[int, float], ...], step: float | Tensor) -> Tensor:
    """state + step * (sum of weights * rates), one operation for each rate."""
    if isinstance(step, Tensor):
        for j, weight in row:
            state = state + step * (weight * rates[j].to(state.dtype))
        return state
    for j, weight in row:
        state = torch.add(state, rates[j], alpha=step * weight)
    return state


@cache
def _compiler() -> Callable[..., Tensor]:
    """The step as one graph; a function, since compilers are slow to import."""
    return torch.compile(advance, fullgraph=True)


def compiled(*arguments: Any) -> Tensor:
    """A compiled step. What is wrong with a drift is said by the drift, not by the compiler."""
    try:
        return _compiler()(*arguments)
    except RuntimeError:
        advance(*arguments)
        raise


def compiling() -> AbstractContextManager[None]:
    """Where compiled steps are called: lets one exist for each kind of drift, method, type and shape of state."""
    return torch.compiler.config.patch(recompile_limit=_COMPILED_STEPS)  # pyrefly: ignore[missing-attribute]
