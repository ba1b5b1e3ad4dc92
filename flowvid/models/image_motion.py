r"""Motion and an image generator learned at once, on pixels: the rival of motion on a frozen generator.

Tian et al. take a good generator of single images, freeze it, and look for a path in its latent space. Here that needs
nothing new: train a `VectorVae` on single frames, and any model on the latents it gives. `joint_loss` trains the same
two networks end to end instead. With E the encoder, D the decoder and F the motion,

    mean (D(E(x)) - x)^2 over the known frames  +  mean (D(F(E(x known))) - x)^2 over those that follow.

References:
    A Good Image Generator Is What You Need for High-Resolution Video Synthesis (Tian et al., 2021),
        https://arxiv.org/abs/2104.15069
"""

__all__ = ["joint_loss"]

from jaxtyping import Float
from torch import Tensor

from flowvid.encoders.normalised import NormalisedCodec, wide
from flowvid.models.recurrent import RecurrentComposite
from flowvid.video import Video


def joint_loss(codec: NormalisedCodec, motion: RecurrentComposite, video: Video) -> Float[Tensor, ""]:
    """Squared error of pixels, of the known frames through the codec and of the predicted ones through all.

    Arguments:
        codec: Frames to latents and back; its units stay as they are.
        motion: Moves on the latents; it reads its `given` frames and is asked for all that follow.
        video: Clips of more frames than the motion reads.

    Raises:
        ValueError: The clips hold no frame to predict, or the latents are none that the motion can read.
    """
    frames, given = video.frames, motion.given
    count = frames.shape[1] - given
    if count < 1:
        raise ValueError(f"Clips need more than the {given} frames that the motion reads; got {frames.shape[1]}.")
    known, truth = frames.split((given, count), dim=1)
    latents = codec.latents(known.flatten(0, 1)).unflatten(0, known.shape[:2])
    states = (latents, motion.predicted(latents, count))
    errors = [
        (wide(codec.decoded(part.flatten(0, 1) * codec.deviation + codec.mean)) - want.flatten(0, 1)).square().mean()
        for part, want in zip(states, (known, truth), strict=True)
    ]
    return errors[0] + errors[1]
