"""What a codec loses: the distance between a video and what its latents decode to.

No model that moves in a codec's latent space can be told from the truth by less than this, so it stands above every
table of a codec's models as their ceiling.
"""

__all__ = ["reconstruction"]

import torch

from flowvid.encoders.codec import Codec, VideoCodec
from flowvid.metrics.distortion import mean_absolute_error, psnr
from flowvid.metrics.perceptual import Lpips
from flowvid.metrics.perceptual import lpips as perceptual_distance
from flowvid.video import Video


@torch.no_grad()
def reconstruction(codec: VideoCodec, video: Video, lpips: Lpips | None = None, *, batch: int = 16) -> dict[str, float]:
    """Means over all clips and frames of a video coded and decoded, for pixels in [0, 1].

    Arguments:
        codec: The codec.
        video: True frames, one clip after another through the codec; on the codec's device.
        lpips: The network of LPIPS, where its weights are there; see `load_lpips`.
        batch: Frames at a time, which bounds the memory; a codec that compresses time takes a whole clip.

    Returns:
        ``psnr`` in dB (the mean over frames), ``mean_absolute_error``, and ``lpips`` if asked for.

    Raises:
        ValueError: The codec cannot take such frames, LPIPS needs larger ones, or the batch is not positive.
    """
    if batch < 1:
        raise ValueError(f"A codec takes at least one frame at a time; got batch={batch}.")
    size = batch if isinstance(codec, Codec) else len(video.times)
    sums: dict[str, float] = {}
    for clip in video.frames.split(1):
        for first in range(0, len(video.times), size):
            truth = Video(clip[:, first : first + size], video.times[first : first + size])
            decoded = codec.decode(codec.encode(truth))
            scores = {"psnr": psnr(decoded, truth), "mean_absolute_error": mean_absolute_error(decoded, truth)}
            if lpips is not None:
                scores["lpips"] = perceptual_distance(lpips, decoded, truth, batch=batch)
            for name, score in scores.items():
                sums[name] = sums.get(name, 0.0) + float(score.double().sum())
    count = video.frames.shape[0] * video.frames.shape[1]
    return {name: total / count for name, total in sums.items()}
