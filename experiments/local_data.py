"""Real clips and weights in the folder that a user names, where there is one.

The folder holds `clips/` and `weights/`; nothing of it is part of the project, and what is missing is named with its
source. Results name footage by file name alone.
"""

__all__ = ["frame_network", "i3d", "perceptual", "real_footage"]

from pathlib import Path

from flowvid.data.footage.reader import FootageInfo, catalogue
from flowvid.metrics.features import FeatureNetwork, fd_i3d_mixed4d, fd_squeezenet
from flowvid.metrics.perceptual import Lpips, load_lpips

_SQUEEZENET = "squeezenet1_1_torchvision_fp16.npz"


def real_footage(data: Path, *, least: float) -> list[tuple[Path, FootageInfo]]:
    """The clips of the folder that last long enough, without those in folders of their own.

    Arguments:
        data: The folder.
        least: Seconds.

    Raises:
        ValueError: There are none.
    """
    found = [(path, info) for path, info in catalogue(data / "clips").entries if path.parent == data / "clips"]
    found = [(path, info) for path, info in found if info.duration >= least]
    if not found:
        raise ValueError(f"Expected clips of {least:.2f} s or more in {data / 'clips'}; there are none.")
    return found


def perceptual(data: Path) -> Lpips:
    """LPIPS on SqueezeNet."""
    return load_lpips(data / "weights" / _SQUEEZENET, data / "weights" / "lpips_v0.1_squeeze_lin.npz")


def frame_network(data: Path) -> FeatureNetwork:
    """SqueezeNet, frame by frame."""
    return fd_squeezenet(data / "weights" / _SQUEEZENET)


def i3d(data: Path) -> FeatureNetwork:
    """I3D up to Mixed_4d."""
    return fd_i3d_mixed4d(data / "weights" / "i3d_kinetics400_rgb_scratch_to_mixed4d.npz")
