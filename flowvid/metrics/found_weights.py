"""Which networks of metrics can be used: those whose weights lie in a folder, and where to get the others."""

__all__ = ["Networks", "find_networks"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from flowvid.metrics.features import (
    I3D_TORCHSCRIPT,
    INCEPTION_TORCHSCRIPT,
    FeatureNetwork,
    fd_i3d_mixed4d,
    fd_squeezenet,
    fid,
    fvd,
)
from flowvid.metrics.i3d import I3D_MIXED_4D
from flowvid.metrics.perceptual import LPIPS_LINEAR, Lpips, load_lpips
from flowvid.metrics.squeezenet import SQUEEZENET
from flowvid.metrics.weights import Source, file_digest

_SQUEEZENET_FILES = ("squeezenet1_1-b8a52dc0.pth", "squeezenet1_1_torchvision_fp16.npz")
_LPIPS_FILES = ("squeeze.pth", "lpips_v0.1_squeeze_lin.npz")
_Loader = Callable[..., FeatureNetwork]
_FEATURES: tuple[tuple[str, _Loader, tuple[str, ...], Source], ...] = (
    ("fvd", fvd, ("i3d_torchscript.pt",), I3D_TORCHSCRIPT),
    ("fid", fid, ("inception-2015-12-05.pt",), INCEPTION_TORCHSCRIPT),
    (
        "fd_i3d_mixed4d",
        fd_i3d_mixed4d,
        ("i3d_kinetics400_rgb_scratch_to_mixed4d.npz", "i3d_mixed4d.npz"),
        I3D_MIXED_4D,
    ),
    ("fd_squeezenet", fd_squeezenet, _SQUEEZENET_FILES, SQUEEZENET),
)


@dataclass(frozen=True, eq=False)
class Networks:
    """Networks that metrics may use.

    Arguments:
        features: Those of distances between sets.
        lpips: LPIPS, if there.
        lpips_digest: Checksum of its weights.
        missing: What is not there and where to get it, by name of the metric.
    """

    features: tuple[FeatureNetwork, ...] = ()
    lpips: Lpips | None = None
    lpips_digest: str = ""
    missing: tuple[tuple[str, str], ...] = ()


def find_networks(folder: Path | None, *, device: torch.device | str = "cpu") -> Networks:
    """Load every network whose weights are in a folder under their published name.

    Arguments:
        folder: Where weights lie; None finds nothing.
        device: Where to compute.

    Raises:
        ValueError: There is no such folder.
    """
    if folder is not None and not folder.is_dir():
        raise ValueError(f"Expected a folder of weights; there is none at {folder}.")
    features: list[FeatureNetwork] = []
    missing: list[tuple[str, str]] = []
    for name, load, files, source in _FEATURES:
        path = _first(folder, files)
        try:
            if path is None:
                missing.append((name, _hint(files, source)))
            else:
                features.append(load(path, device=device))
        except (ValueError, KeyError, RuntimeError) as error:
            missing.append((name, f"{path} cannot be used: {error}"))
    backbone, linear = _first(folder, _SQUEEZENET_FILES), _first(folder, _LPIPS_FILES)
    if backbone is None or linear is None:
        lacking = [
            _hint(files, source)
            for path, files, source in (
                (backbone, _SQUEEZENET_FILES, SQUEEZENET),
                (linear, _LPIPS_FILES, LPIPS_LINEAR),
            )
            if path is None
        ]
        return Networks(tuple(features), missing=(*missing, ("lpips", "; and ".join(lacking))))
    network = load_lpips(backbone, linear).to(device)
    return Networks(tuple(features), network, file_digest(backbone) + file_digest(linear), tuple(missing))


def _first(folder: Path | None, files: Sequence[str]) -> Path | None:
    return next((folder / name for name in files if folder is not None and (folder / name).is_file()), None)


def _hint(files: Sequence[str], source: Source) -> str:
    return f"{' or '.join(files)}: {source}"
