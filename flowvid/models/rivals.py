"""The learned models by name. The rivals of the paper are comparable: one trunk, one width, equal parameters.

The multi-scale model sets the number of parameters; the others match it through the length of the embedding of their
scalars, which changes what a network costs to run by next to nothing. So do the models of branching futures that are
made of the trunk (frame-flow and the stochastic equations); transformers and the LSTM have sizes of their own, which
the width scales.
"""

__all__ = ["MODELS", "RIVALS", "build_rival"]

import torch

from flowvid.models.bisection import RecursiveBisection
from flowvid.models.clip_generator import ClipGenerator
from flowvid.models.coded import CodedMultiScale
from flowvid.models.continuous import MultiScale
from flowvid.models.diffusion import ClipDiffusion
from flowvid.models.frame_flow import FrameFlow
from flowvid.models.latent_sde import Kind, LatentSde
from flowvid.models.recurrent import RecurrentComposite
from flowvid.models.regression import DirectRegression
from flowvid.models.video_model import LearnedModel
from flowvid.networks.trunk import count_parameters

RIVALS = ("multiscale", "bisection", "ddim", "direct", "multiscale-fill")
"""Names of the rivals. The last spends its whole training on filling in, as bisection must."""

MODELS = (
    *RIVALS,
    "coded",
    "clip-flow",
    "clip-diffusion",
    "frame-flow",
    "kinetic-sde",
    "first-order-sde",
    "neural-sde",
    "lstm",
)
"""Names of all models; those after the rivals decide which of many futures it is, except the LSTM."""


def build_rival(
    name: str, *, channels: int, frame: float, scales: int, reach: int, width: int, seed: int
) -> LearnedModel:
    """An untrained model by name; its initial weights depend only on the arguments.

    Arguments:
        name: One of `MODELS`.
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
            case "coded":
                return CodedMultiScale(channels, frame=frame, scales=scales, reach=reach, width=width)
            case "clip-flow":
                return ClipGenerator(channels, frame=frame, frames=reach + 2, width=width)
            case "clip-diffusion":
                return ClipGenerator(
                    channels, frame=frame, frames=reach + 2, width=width, predicts="v", schedule="angle-uniform"
                )
            case "frame-flow":
                return FrameFlow(channels, frame=frame, reach=reach, width=width, parameters=parameters)
            case "kinetic-sde" | "first-order-sde" | "neural-sde":
                kind = _EQUATIONS[name]
                return LatentSde(channels, frame=frame, kind=kind, reach=reach, width=width, parameters=parameters)
            case "lstm":
                return RecurrentComposite(
                    channels, frame=frame, patch=2, width=2 * width, kernel=3, given=reach, ahead=reach
                )
            case _:
                raise ValueError(f"The models are {', '.join(MODELS)}; got {name!r}.")


_EQUATIONS: dict[str, Kind] = {"kinetic-sde": "kinetic", "first-order-sde": "first-order", "neural-sde": "neural"}
