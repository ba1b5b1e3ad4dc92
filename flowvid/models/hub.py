"""Every codec and learned model, from the folder that its `save_pretrained` wrote.

    network.save_pretrained("folder", model_card_kwargs={"data": "...", "steps": 4000})
    network = load_pretrained("folder")

The class may also be asked for what it is: `MultiScale.from_pretrained("folder")` refuses a folder of another one.
"""

__all__ = ["PRETRAINED", "load_pretrained"]

from pathlib import Path

import torch

from flowvid.data.model_files import ModelFiles
from flowvid.encoders.autoencoder import Autoencoder
from flowvid.encoders.codec import Codec, IdentityCodec
from flowvid.encoders.vae import ConvVae
from flowvid.encoders.vector_vae import VectorVae
from flowvid.models.bisection import RecursiveBisection
from flowvid.models.clip_generator import ClipGenerator
from flowvid.models.clip_regression import ClipRegression
from flowvid.models.coded import CodedMultiScale
from flowvid.models.continuous import MultiScale
from flowvid.models.diffusion import ClipDiffusion
from flowvid.models.frame_flow import FrameFlow
from flowvid.models.latent_sde import LatentSde
from flowvid.models.recurrent import RecurrentComposite
from flowvid.models.regression import DirectRegression
from flowvid.models.unet_video import UNetVideo
from flowvid.models.video_model import LearnedModel

PRETRAINED: tuple[type[Codec] | type[LearnedModel], ...] = (
    Autoencoder,
    ClipDiffusion,
    ClipGenerator,
    ClipRegression,
    CodedMultiScale,
    ConvVae,
    DirectRegression,
    FrameFlow,
    IdentityCodec,
    LatentSde,
    MultiScale,
    RecurrentComposite,
    RecursiveBisection,
    UNetVideo,
    VectorVae,
)
"""Classes that a folder can hold."""


def load_pretrained(folder: Path | str, *, device: torch.device | str = "cpu") -> Codec | LearnedModel:
    """The codec or model of a folder, in evaluation mode.

    Arguments:
        folder: A folder that `save_pretrained` wrote.
        device: Where the network shall live, wherever it was saved from.

    Raises:
        ValueError: There is no such folder, a file is missing or damaged, or it holds an unknown class, an argument
            that the class does not have, or other tensors than the network.
    """
    network = ModelFiles.from_pretrained(folder, device=device)
    assert isinstance(network, Codec | LearnedModel)
    return network
