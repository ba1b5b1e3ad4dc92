"""The learned rivals of the paper, built to be comparable: one trunk, one width, equal numbers of parameters.

The multi-scale model sets the number of parameters; the others match it through the length of the embedding of their
scalars, which changes what a network costs to run by next to nothing.
"""

__all__ = ["RIVALS", "build_rival"]

import torch

from flowvid.models.bisection import RecursiveBisection
from flowvid.models.continuous import MultiScale
from flowvid.models.diffusion import ClipDiffusion
from flowvid.models.regression import DirectRegression
from flowvid.models.video_model import LearnedModel
from flowvid.networks.trunk import count_parameters

RIVALS = ("multiscale", "bisection", "ddim", "direct", "multiscale-fill")
"""Names of the learned models. The last spends its whole training on filling in, as bisection must."""


def build_rival(
    name: str, *, channels: int, frame: float, scales: int, reach: int, width: int, seed: int
) -> LearnedModel:
    """An untrained model by name; its initial weights depend only on the arguments.

    Arguments:
        name: One of `RIVALS`.
        channels: Channels of a latent.
        frame: Seconds between training frames.
        scales: Gaps of one sign of the multi-scale model.
        reach: Frames that every model is trained to look ahead.
        width: Width of the trunk.
        seed: Seed of the initial weights.

    Raises:
        ValueError: The name is unknown.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        multiscale = MultiScale(channels, frame=frame, scales=scales, reach=reach, width=width)
        parameters = count_parameters(multiscale)
        match name:
            case "multiscale":
                return multiscale
            case "multiscale-fill":
                return MultiScale(channels, frame=frame, scales=scales, reach=reach, width=width, bounded=1.0)
            case "bisection":
                return RecursiveBisection(channels, frame=frame, reach=reach, width=width, parameters=parameters)
            case "ddim":
                return ClipDiffusion(channels, frame=frame, frames=reach + 2, width=width, parameters=parameters)
            case "direct":
                return DirectRegression(channels, frame=frame, reach=reach, width=width, parameters=parameters)
            case _:
                raise ValueError(f"The models are {', '.join(RIVALS)}; got {name!r}.")
