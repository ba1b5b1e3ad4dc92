"""What scoring videos costs beyond the network that describes them: files through ``fd_i3d_mixed4d``, and memory.

    python -m benchmarks.features [--videos 256]

Files of 16 frames of 64 x 64 pixels are read, described by I3D up to Mixed_4d and filed in a cache on the disk, four
at a time, as ``flowvid evaluate`` does it. In turn with every four files the bare network describes four clips that are
in memory already; the ratio of the times is what reading, hashing, resizing and filing cost. Then as many files again:
the peak of memory must stay where it was. The network has the published sizes, and random weights unless ``--weights``
names the file. Prints JSON.
"""

__all__ = ["main"]

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.data import film
from benchmarks.timing import paired
from flowvid.data.cache import TensorCache
from flowvid.data.files import write_json
from flowvid.metrics.clip_measures import feature_measures
from flowvid.metrics.clip_set import ClipProtocol
from flowvid.metrics.features import FeatureNetwork, fd_i3d_mixed4d
from flowvid.metrics.found_weights import Networks
from flowvid.metrics.measured import Measured, measure_files

_BATCH = 4
_PROTOCOL = ClipProtocol(frames=16, fps=25.0, size=(64, 64))
_BLOCKS = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features", description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=256, help="then as many again; default: %(default)s")
    parser.add_argument("--weights", type=Path, help="the arrays of I3D as .npz; default: random ones of their sizes")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        weights = options.weights or random_weights(Path(name) / "i3d.npz")
        network = fd_i3d_mixed4d(weights, device=options.device)
        found = measure(network, Path(name), max(1, options.videos // _BATCH))
    results = {"threads": options.threads, "device": options.device, "frames": 16, "size": [64, 64], **found}
    print(json.dumps(results, indent=2))
    if options.out is not None:
        write_json(options.out, results)


def measure(network: FeatureNetwork, folder: Path, rounds: int) -> dict[str, Any]:
    """Ratio and rate over some rounds of four files, and peaks of memory before, after and after as many again.

    Arguments:
        network: What describes clips.
        folder: Where files may be written.
        rounds: How many times four files.
    """
    files = [film(folder / "films" / f"{n}.mp4", 16, seed=n, height=64, width=64) for n in range(_BATCH * rounds)]
    clips = torch.rand(_BATCH, 16, 3, 64, 64) * 2 - 1
    measures = feature_measures(Networks((network,)), _PROTOCOL)[0]
    cache = TensorCache(folder / "cache")

    def described(chosen: list[Path]) -> Measured:
        return measure_files([(path,) for path in chosen], measures, _PROTOCOL, cache=cache, batch=_BATCH)

    def bare() -> None:
        with torch.no_grad():
            network.apply(clips.to(network.device)).cpu()

    def fours() -> Iterator[list[Path]]:
        warm = film(folder / "films" / "warm.mp4", 16, seed=-1 % 2**32, height=64, width=64)
        yield [warm] * _BATCH
        for start in range(0, len(files), _BATCH):
            yield files[start : start + _BATCH]

    bare()
    peaks = {"bare": peak()}
    turns = fours()
    ratio = paired(lambda: described(next(turns)), bare, rounds, device=str(network.device))
    peaks["videos"] = peak()
    more = [film(folder / "films" / f"more{n}.mp4", 16, seed=10**6 + n, height=64, width=64) for n in range(len(files))]
    described(more)
    peaks["twice as many"] = peak()
    begun = time.perf_counter()
    again = described(files + more)
    return {
        "videos": len(files),
        "videos_per_second": _BATCH / ratio.first,
        "bare_videos_per_second": _BATCH / ratio.second,
        "ratio": ratio.median,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "peak_MiB": peaks,
        "from_the_cache_videos_per_second": len(again.items) / (time.perf_counter() - begun),
    }


def peak() -> float:
    """Most MiB of memory that the process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def random_weights(path: Path) -> Path:
    """Arrays of the published sizes; what they hold does not change what they cost."""
    shapes = {"Conv3d_1a_7x7": (7, 3, 64), "Conv3d_2b_1x1": (1, 64, 64), "Conv3d_2c_3x3": (3, 64, 192)}
    inputs = 192
    for block, (whole, reduce1, wide1, reduce2, wide2, pooled) in _BLOCKS.items():
        shapes[f"{block}/Branch_0/Conv3d_0a_1x1"] = (1, inputs, whole)
        for branch, (narrow, wide) in enumerate(((reduce1, wide1), (reduce2, wide2)), start=1):
            shapes[f"{block}/Branch_{branch}/Conv3d_0a_1x1"] = (1, inputs, narrow)
            shapes[f"{block}/Branch_{branch}/Conv3d_0b_3x3"] = (3, narrow, wide)
        shapes[f"{block}/Branch_3/Conv3d_0b_1x1"] = (1, inputs, pooled)
        inputs = whole + wide1 + wide2 + pooled
    draw = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for name, (side, channels, outputs) in shapes.items():
        deviation = (2 / (side**3 * channels)) ** 0.5
        arrays[f"{name}/conv_3d/w"] = draw.normal(0, deviation, (side, side, side, channels, outputs)).astype("f4")
        for part, value in (("beta", 0.0), ("moving_mean", 0.0), ("moving_variance", 1.0)):
            arrays[f"{name}/batch_norm/{part}"] = np.full(outputs, value, dtype="f4")
    np.savez(path, **arrays)
    return path


if __name__ == "__main__":
    main()
