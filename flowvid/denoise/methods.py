"""The denoising solvers by name."""

__all__ = ["denoising_methods"]

from functools import partial

from flowvid.denoise.ddim import Ddim
from flowvid.denoise.dpm import DpmSolverPlusPlus
from flowvid.solve.solver import Method


def denoising_methods() -> tuple[Method, ...]:
    """DDIM and DPM-Solver++; every ODE solver samples a `Denoiser` too."""
    method = partial(Method, family="denoising", adaptive=False, evaluations="1", gradients="direct", source="flowvid")
    return (
        method(name="ddim", order=1.0, make=Ddim, note="equal steps of the angle; eta > 0 adds fresh noise"),
        method(
            name="dpm++2m",
            order=2.0,
            make=DpmSolverPlusPlus,
            note="from noise to data only; its order holds up to a logarithm from pure noise",
        ),
    )
