"""Features of videos: which networks, how frames are prepared for them, and a cache on the disk.

A `FeatureNetwork` turns clips into vectors: one per clip, or one per frame for networks of images. Its name is that of
the Frechet distance on its features:

``fd_i3d_mixed4d``  512 channels of I3D at Mixed_4d, one vector per clip, frames resized to 224 x 224. Not FVD.
``fd_squeezenet``   512 channels of SqueezeNet 1.1, one vector per frame, frames resized to 224 x 224. Not FID.
``fvd``             400 logits of the full I3D, one vector per clip, frames resized to 224 x 224.
``fid``             2048 channels of Inception, one vector per frame, which the network resizes itself.

Values depend on the protocol as much as on the model. State with every number: the count of videos, frames per clip
and their rate, the size of the frames before resizing, and whether known frames are part of the clips. Standard FVD
takes 16 frames and at least 256, often 2048, videos; it sees content far better than motion. Features of different
kinds of devices differ by rounding (on CUDA torch rounds convolutions to TensorFloat-32 by default); take all sets of
a comparison from one kind.

References:
    Towards Accurate Generative Models of Video: A New Metric & Challenges (Unterthiner et al., 2018),
        https://arxiv.org/abs/1812.01717
    StyleGAN-V (Skorokhodov et al., 2022), https://arxiv.org/abs/2112.14683
    GANs Trained by a Two Time-Scale Update Rule (Heusel et al., 2017), https://arxiv.org/abs/1706.08500
    On the Content Bias in Frechet Video Distance (Ge et al., 2024), https://arxiv.org/abs/2404.12391
"""

__all__ = [
    "I3D_TORCHSCRIPT",
    "INCEPTION_TORCHSCRIPT",
    "FeatureNetwork",
    "extract",
    "fd_i3d_mixed4d",
    "fd_squeezenet",
    "fid",
    "fvd",
]

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from flowvid.data.cache import TensorCache, cache_key, content_of
from flowvid.metrics.i3d import I3D_MIXED_4D, I3DMixed4d
from flowvid.metrics.squeezenet import SQUEEZENET, SqueezeNet, as_rgb
from flowvid.metrics.weights import Source, load_arrays, verified_digest
from flowvid.video import Video, to_bytes

I3D_TORCHSCRIPT = Source(
    "I3D of Kinetics-400 as torchscript, by the authors of StyleGAN-V (51 235 320 bytes)",
    "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
    "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
)
INCEPTION_TORCHSCRIPT = Source(
    "Inception of 2015-12-05 as torchscript, by the authors of StyleGAN2-ADA",
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
)

_SIDE = 224
_PROTOCOL = 1
_FVD_FRAMES = 10


@dataclass(frozen=True, eq=False)
class FeatureNetwork:
    """A frozen network that describes clips by vectors.

    Arguments:
        name: What a Frechet distance on its features is called.
        digest: Checksum of its weights.
        apply: Vectors of RGB clips in [-1, 1], shape (clip, time, 3, height, width).
        device: Where it computes.
        least_frames: Fewest frames of a clip.
    """

    name: str
    digest: str
    apply: Callable[[Float32[Tensor, "clip time 3 height width"]], Float[Tensor, "clip vector feature"]]
    device: torch.device | str = "cpu"
    least_frames: int = 1

    @property
    def identity(self) -> str:
        """Name, version of the preparation of frames, and checksum: equal only for equal features."""
        return f"{self.name}/{_PROTOCOL}/{self.digest}"


def fd_i3d_mixed4d(weights: Path, *, device: torch.device | str = "cpu") -> FeatureNetwork:
    """I3D up to Mixed_4d, averaged over time and space: 512 features per clip.

    Arguments:
        weights: The arrays as ``.npz``.
        device: Where to compute.

    Raises:
        FileNotFoundError: There are no weights there; says where to get them.
    """
    digest = verified_digest(weights, I3D_MIXED_4D)
    network = I3DMixed4d(load_arrays(weights)).to(device)
    return FeatureNetwork(
        "fd_i3d_mixed4d",
        digest,
        lambda clips: network(_resized(clips).transpose(1, 2))[:, None],
        device=device,
    )


def fd_squeezenet(weights: Path, *, device: torch.device | str = "cpu") -> FeatureNetwork:
    """SqueezeNet 1.1 before its classifier, averaged over space: 512 features per frame.

    Arguments:
        weights: torchvision's state dictionary, or its arrays as ``.npz``.
        device: Where to compute.

    Raises:
        FileNotFoundError: There are no weights there; says where to get them.
    """
    digest = verified_digest(weights, SQUEEZENET)
    network = SqueezeNet(load_arrays(weights)).to(device)
    return FeatureNetwork(
        "fd_squeezenet",
        digest,
        lambda clips: network(_resized(clips).flatten(0, 1))[-1].mean(dim=(2, 3)).unflatten(0, clips.shape[:2]),
        device=device,
    )


def fvd(
    torchscript: Path, *, sha256: str | None = I3D_TORCHSCRIPT.sha256, device: torch.device | str = "cpu"
) -> FeatureNetwork:
    """The full I3D for Frechet video distance: 400 logits per clip of at least 10 frames.

    The file is StyleGAN-V's; it is called as ``det(x, rescale=False, resize=False, return_features=True)`` with RGB in
    [-1, 1] of shape (clip, 3, time, 224, 224), resized bilinearly without antialiasing. Zeros against ones, 8 clips of
    30 frames of 64 x 64, is published as 151.256.

    Arguments:
        torchscript: The file. It is a program and runs as such: use one whose checksum you know.
        sha256: Checksum it must have; None takes any file.
        device: Where to compute.

    Raises:
        FileNotFoundError: There is no such file; says where to get it.
        ValueError: The checksum differs.
    """
    digest = verified_digest(torchscript, I3D_TORCHSCRIPT, sha256=sha256)
    network = _script(torchscript, device)

    def apply(clips: Tensor) -> Tensor:
        x = _resized(clips).transpose(1, 2).contiguous()
        return network(x, rescale=False, resize=False, return_features=True)[:, None]

    return FeatureNetwork("fvd", digest, apply, device=device, least_frames=_FVD_FRAMES)


def fid(
    torchscript: Path, *, sha256: str | None = INCEPTION_TORCHSCRIPT.sha256, device: torch.device | str = "cpu"
) -> FeatureNetwork:
    """Inception for Frechet inception distance: 2048 features per frame.

    The file is StyleGAN2-ADA's; it is called as ``det(x, return_features=True)`` with RGB of 0..255 in uint8, shape
    (frame, 3, height, width), and resizes itself.

    Arguments:
        torchscript: The file. It is a program and runs as such: use one whose checksum you know.
        sha256: Checksum it must have; None takes any file.
        device: Where to compute.

    Raises:
        FileNotFoundError: There is no such file; says where to get it.
        ValueError: The checksum differs.
    """
    digest = verified_digest(torchscript, INCEPTION_TORCHSCRIPT, sha256=sha256)
    network = _script(torchscript, device)

    def apply(clips: Tensor) -> Tensor:
        pixels = to_bytes(clips).flatten(0, 1)
        return network(pixels, return_features=True).unflatten(0, clips.shape[:2])

    return FeatureNetwork("fid", digest, apply, device=device)


@torch.no_grad()
def extract(
    network: FeatureNetwork,
    video: Video,
    *,
    batch: int = 4,
    cache: TensorCache | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Float32[Tensor, "video vector feature"]:
    """Features of every clip of a video, on the host; times do not enter.

    Arguments:
        network: What describes them.
        video: The clips; grey ones count as colour.
        batch: Clips at a time, which bounds the memory.
        cache: Where features of clips already seen are read, and new ones written.
        progress: Called with the numbers of finished clips and of all, at the start and after every batch.

    Raises:
        ValueError: Clips are too short, frames have neither 1 nor 3 channels, the batch is not positive, or the
            network gave features that are not finite.
    """
    frames = video.frames.detach()
    if frames.shape[1] < network.least_frames:
        raise ValueError(
            f"{network.name} needs clips of at least {network.least_frames} frames; got {frames.shape[1]}."
        )
    if batch < 1:
        raise ValueError(f"Features are computed for at least one clip at a time; got batch={batch}.")
    keys = [cache_key(network=network.identity, clip=content_of(clip)) for clip in frames] if cache else []
    found = {number: seen for number, key in enumerate(keys) if cache and (seen := cache.read(key)) is not None}
    missing = [number for number in range(len(frames)) if number not in found]
    report = progress or (lambda done, total: None)
    report(len(found), len(frames))
    for start in range(0, len(missing), batch):
        chosen = missing[start : start + batch]
        vectors = network.apply(as_rgb(frames[chosen]).to(network.device, torch.float32)).float().cpu()
        _refuse_broken(network, vectors)
        for number, vector in zip(chosen, vectors, strict=True):
            found[number] = vector
            if cache:
                cache.write(keys[number], vector)
        report(len(found), len(frames))
    return torch.stack([found[number] for number in range(len(frames))])


def _resized(clips: Float[Tensor, "clip time 3 height width"]) -> Float[Tensor, "clip time 3 224 224"]:
    frames = F.interpolate(clips.flatten(0, 1), size=(_SIDE, _SIDE), mode="bilinear", align_corners=False)
    return frames.unflatten(0, clips.shape[:2])


def _script(path: Path, device: torch.device | str) -> Callable[..., Tensor]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        return torch.jit.load(str(path), map_location=device).eval()


def _refuse_broken(network: FeatureNetwork, vectors: Tensor) -> None:
    if not bool(vectors.isfinite().all()):
        raise ValueError(f"{network.name} gave features that are NaN or infinite. Look at its weights and the frames.")
