r"""How a density changes along a flow: the divergence of a drift, carried beside the state.

If z moves by dz/dt = f(t, z), the density of what moves changes along the path by

    d log p(z(t)) / dt = -div f(t, z(t)),        div f = trace(df/dz),

so a drift whose state has one more entry, with the divergence as its rate, gives log densities by whatever solver
moves z. The trace is exact with one product J^T e per entry of the state, and unbiased with a few products J^T eps for
probes of E[eps eps^T] = 1: trace(J) = E[eps^T J eps]. Probes are drawn once for a solve, not once per evaluation, so
that the drift stays a function and adaptive solvers see a smooth one. Of all probes with independent entries those of
+-1 have the least variance, sum over i < j of (J_ij + J_ji)^2: none at all for a diagonal Jacobian.

References:
    Neural Ordinary Differential Equations (Chen et al., 2018), https://arxiv.org/abs/1806.07366
    FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models (Grathwohl et al., 2018), https://arxiv.org/abs/1810.01367
    A Stochastic Estimator of the Trace of the Influence Matrix (Hutchinson, 1989), https://doi.org/10.1080/03610918908812806
"""

__all__ = ["apart", "signs", "with_divergence", "with_log_density"]

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.dynamics.drift import Drift
from flowvid.noise import Noise


def with_log_density(drift: Drift, shape: Sequence[int], *, probes: Tensor | None = None) -> Drift:
    """A drift of states with one more entry, at whose end stands the integral of the divergence.

    A joint state is the flattened state followed by that entry, shape (batch, entries + 1); `apart` takes it to pieces.
    Rows of the drift must not depend on each other. Gradients pass to the state and the drift's parameters where they
    are recorded. An adaptive solver's norm counts the last entry as one among all, so it is bounded by sqrt(entries)
    times the tolerance.

    Arguments:
        drift: (time, state) -> rate, of states of shape (batch, *shape).
        shape: The shape of one sample's state.
        probes: From `signs`, shape (batch, probe, *shape); None: the exact trace, at the price of one backward pass
            per entry of the state.
    """
    form = tuple(shape)

    def joint(time: Any, both: Float[Tensor, "batch joint"]) -> Float[Tensor, "batch joint"]:
        state, _ = apart(both, form)
        rate, divergence = with_divergence(lambda z: drift(time, z), state, probes=probes)
        return torch.cat((rate.flatten(1), divergence[:, None]), dim=1)

    return joint


def apart(
    joint: Float[Tensor, "batch joint"], shape: Sequence[int]
) -> tuple[Float[Tensor, "batch *state"], Float[Tensor, "batch"]]:
    """The state of a joint state, and what stands behind it.

    Raises:
        ValueError: The shape has another number of entries.
    """
    if joint.shape[1] != math.prod(shape) + 1:
        raise ValueError(
            f"A state of shape {tuple(shape)} and its log density are {math.prod(shape) + 1} numbers for each sample; "
            f"got {joint.shape[1]}."
        )
    return joint[:, :-1].reshape(len(joint), *shape), joint[:, -1]


def with_divergence(
    field: Callable[[Tensor], Tensor],
    state: Float[Tensor, "batch *state"],
    *,
    probes: Tensor | None = None,
) -> tuple[Float[Tensor, "batch *state"], Float[Tensor, "batch"]]:
    """What a field answers and its divergence, exact or as the mean over probes.

    Arguments:
        field: The field at one moment; its rows must not depend on each other.
        state: Where it is asked.
        probes: From `signs`, shape (batch, probe, *state); None: the exact trace.

    Raises:
        ValueError: The probes do not have the shape of the state.
    """
    if probes is not None and (probes.shape[:1] + probes.shape[2:] != state.shape or probes.shape[1] == 0):
        raise ValueError(
            f"Probes have the shape of the state after their number, {(len(state), 'probe', *state.shape[1:])}; got "
            f"{tuple(probes.shape)}."
        )
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        point = state if recorded and state.requires_grad else state.detach().requires_grad_()
        rate = field(point)
        divergence = state.new_zeros(len(state))
        for probe in _units(state) if probes is None else probes.to(state).unbind(1):
            pulled = _pulled(rate, point, probe, recorded)
            divergence = divergence + (pulled * probe).flatten(1).sum(1)
    if probes is not None:
        divergence = divergence / probes.shape[1]
    return (rate, divergence) if recorded else (rate.detach(), divergence.detach())


def signs(
    noise: Noise, count: int, *shape: int, device: torch.device | str = "cpu"
) -> Float[Tensor, "batch probe *state"]:
    """Probes of +1 and -1, each with equal probability.

    Arguments:
        noise: One seed per sample.
        count: How many probes for each sample.
        shape: The shape of one sample's state.
        device: Where to draw.
    """
    return (noise.uniform("probes", count, *shape, device=device) < 0.5).float() * 2 - 1


def _units(state: Tensor) -> Iterator[Tensor]:
    """The unit vectors of one sample's entries, for all samples at once."""
    entries = math.prod(state.shape[1:])
    for entry in range(entries):
        unit = torch.zeros(entries, dtype=state.dtype, device=state.device)
        unit[entry] = 1.0
        yield unit.reshape(state.shape[1:]).expand_as(state)


def _pulled(rate: Tensor, point: Tensor, probe: Tensor, recorded: bool) -> Tensor:
    """J^T probe; zero where the rate does not depend on the state."""
    if not rate.requires_grad:
        return torch.zeros_like(point)
    (pulled,) = torch.autograd.grad(
        rate, point, probe, retain_graph=True, create_graph=recorded, materialize_grads=True
    )
    return pulled
