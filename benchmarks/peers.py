"""Other packages' solvers in one form each; those that flowvid itself does not need may be missing.

Each is given what is fastest for it: points instead of a size of steps, two output times, no clipping, no search for
the best order of an einsum, which slows torchode by half wherever opt_einsum is installed.

References:
    Neural Ordinary Differential Equations (Chen et al., 2018), https://arxiv.org/abs/1806.07366
    torchode: A Parallel ODE Solver for PyTorch (Lienen and Gunnemann, 2022), https://arxiv.org/abs/2210.12375
    Scalable Gradients for Stochastic Differential Equations (Li et al., 2020), https://arxiv.org/abs/2001.01328
    Denoising Diffusion Implicit Models (Song et al., 2020), https://arxiv.org/abs/2010.02502
"""

__all__ = [
    "PACKAGES",
    "brownian_tree",
    "diffusers_ddim",
    "installed",
    "torchdiffeq_dopri5",
    "torchdiffeq_grid",
    "torchode_dopri5",
    "torchsde_euler",
]

import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torchdiffeq
import torchsde
from torch import Tensor

from flowvid.dynamics.stochastic import StochasticDrift

PACKAGES = ("torchdiffeq", "torchode", "torchsde", "diffusers", "diffrax", "jax")


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    return find_spec(package) is not None


def torchdiffeq_grid(
    drift: Callable[..., Tensor], state: Tensor, method: str, steps: int, span: float, *, every: bool = False
) -> Tensor:
    """The state at ``span`` seconds, by a fixed-step method on a grid of points; ``every`` asks for all of them."""
    points = torch.linspace(0.0, span, steps + 1)
    if every:
        return torchdiffeq.odeint(drift, state, points, method=method)[-1]

    def grid(func: object, y0: object, t: object) -> Tensor:
        return points

    options = {"grid_constructor": grid}
    return torchdiffeq.odeint(drift, state, points[[0, -1]], method=method, options=options)[-1]


def torchdiffeq_dopri5(
    drift: Callable[..., Tensor], state: Tensor, span: float, tolerance: float
) -> tuple[Tensor, int]:
    """The state at ``span`` seconds under joint control, and the steps that were tried."""
    asked = 0

    def counted(time: Tensor, state: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        return drift(time, state)

    points = torch.tensor([0.0, span])
    found = torchdiffeq.odeint(counted, state, points, method="dopri5", rtol=tolerance, atol=tolerance)
    return found[-1], (asked - 2) // 6


def torchode_dopri5(
    drift: Callable[..., Tensor], state: Tensor, span: float, tolerance: float
) -> Callable[[], tuple[Tensor, int]]:
    """Solves under control per sample when called: the state at ``span`` seconds, and the steps that were tried."""
    torchode: Any = import_module("torchode")
    torch.backends.opt_einsum.enabled = False
    term = torchode.ODETerm(drift)
    control = torchode.IntegralController(atol=tolerance, rtol=tolerance, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), control)
    points = torch.tensor([0.0, span]).expand(len(state), 2)

    def solve() -> tuple[Tensor, int]:
        found = solver.solve(torchode.InitialValueProblem(y0=state, t_eval=points))
        return found.ys[:, -1], int(found.stats["n_steps"].max())

    return solve


class _Field(torch.nn.Module):
    noise_type = "diagonal"
    sde_type = "ito"

    def __init__(self, field: StochasticDrift) -> None:
        super().__init__()
        self.field = field

    def f(self, time: Tensor, state: Tensor) -> Tensor:
        return self.field.drift(time, state)

    def g(self, time: Tensor, state: Tensor) -> Tensor:
        return self.field.volatility(time, state)


def torchsde_euler(field: StochasticDrift, state: Tensor, steps: int) -> Tensor:
    """The state at one second by sdeint's Euler method with the noise that sdeint takes by itself."""
    return torchsde.sdeint(_Field(field), state, torch.tensor([0.0, 1.0]), dt=1 / steps, method="euler")[-1]


def brownian_tree(shape: tuple[int, ...], *, seed: int) -> Callable[[float, float], Any]:
    """torchsde's Brownian motion over one second on its dyadic tree: (from, to) -> the increment."""
    return torchsde.BrownianInterval(t0=0.0, t1=1.0, size=shape, entropy=seed, halfway_tree=True, tol=2**-12)


def diffusers_ddim(network: Callable[[Tensor, Any], Tensor], state: Tensor, steps: int) -> Callable[[], Tensor]:
    """Samples with diffusers' DDIM of a v-prediction when called; its times are set beforehand."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers: Any = import_module("diffusers")
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(steps)

    def sample() -> Tensor:
        noisy = state
        for time in scheduler.timesteps:
            noisy = scheduler.step(network(noisy, time), time, noisy).prev_sample
        return noisy

    return sample
