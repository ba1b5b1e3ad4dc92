"""What reading footage costs: from the cache against decoding, waiting for a loader, memory over many files.

    python -m benchmarks.data [FILE ...]

- **Cached** windows of 16 frames against the same windows decoded, in turn, in one process and one thread; once with
  16 neighbouring frames, which lie in one or two blocks of the cache, once at 8 frames per second, in three or four.
  What the cache costs depends on the size read alone, what decoding costs on that of the footage: so once with footage
  of 1280 x 720 pixels and once with footage of 320 x 180.
- **Waiting**: the share of its time that a consumer, which computes as long as a batch takes to decode, waits for one,
  without and with `Prefetch`, and with a cache that is full. Without it is a half by construction.
- **Memory**: how many bytes the process grows by for every file, of a thousand, after the first three hundred.

Files are made for the purpose, at 25 frames per second, h264 with a key frame every 50 frames, unless some are named.
Prints JSON.
"""

__all__ = ["main"]

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.timing import Ratio, paired
from flowvid.data.cache import TensorCache
from flowvid.data.files import write_json
from flowvid.data.footage.clips import FootageClips
from flowvid.data.footage.windows import FixedRate, WindowLaw
from flowvid.data.prefetch import Prefetch
from flowvid.noise import Noise

_FRAMES, _BATCH, _PAGE = 16, 4, 4096


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="footage to read; default: made for the purpose")
    parser.add_argument("--size", type=int, default=64, help="height and width of the frames; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=15, help="timed pairs; default: %(default)s")
    parser.add_argument("--steps", type=int, default=20, help="batches that are waited for; default: %(default)s")
    parser.add_argument(
        "--many", type=int, default=1000, help="files that memory is measured over; default: %(default)s"
    )
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = [film(folder / f"small{n}.mp4", 250, seed=n) for n in range(3)]
        large = [film(folder / f"large{n}.mp4", 100, seed=n, height=720, width=1280) for n in range(2)]
        sets = {"named": options.files} if options.files else {"1280 x 720": large, "320 x 180": small}
        size = options.size, options.size
        laws = {"neighbouring frames": FixedRate(25.0, _FRAMES), "8 frames per second": FixedRate(8.0, _FRAMES)}
        results = {
            "files": [path.name for path in options.files],
            "size": list(size),
            "cached": {
                f"{kind}, {name}": cached(files, size, law, folder / "cache", options.repeats)
                for kind, files in sets.items()
                for name, law in laws.items()
            },
            "waiting": waiting(small, size, folder / "waiting", options.steps),
            "memory": memory(folder / "many", options.many),
        }
    print(json.dumps(results, indent=2))
    if options.out is not None:
        write_json(options.out, results)


def film(path: Path, frames: int, *, seed: int, height: int = 180, width: int = 320) -> Path:
    """A picture of smooth noise that drifts, as h264."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3))
    picture = np.kron(coarse, np.ones((16, 16, 1))).astype(np.uint8)[:height, :width]
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.options = {"g": "50", "preset": "veryfast"}
        stream.codec_context.thread_count = 1
        for number in range(frames):
            image = np.ascontiguousarray(np.roll(picture, (number, 2 * number), axis=(0, 1)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def cached(
    files: Sequence[Path], size: tuple[int, int], law: WindowLaw, folder: Path, repeats: int
) -> dict[str, float]:
    """Time to decode windows over time to read the same windows from a cache that holds them."""
    noises = [Noise.batch(number, _BATCH) for number in range(repeats + 1)]
    with (
        FootageClips(files, law, size, threads=1) as plain,
        FootageClips(files, law, size, threads=1, cache=TensorCache(folder)) as kept,
    ):
        for noise in noises:
            assert torch.equal(kept.batch(noise).pixels, plain.batch(noise).pixels)
        turns = iter(noises), iter(noises)
        ratio = paired(lambda: plain.batch(next(turns[0])), lambda: kept.batch(next(turns[1])), repeats)
    return described(ratio)


def described(ratio: Ratio) -> dict[str, float]:
    """A ratio, and milliseconds per window."""
    return {
        "ratio": ratio.median,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "decoded_ms": 1e3 * ratio.first / _BATCH,
        "cached_ms": 1e3 * ratio.second / _BATCH,
    }


def waiting(files: Sequence[Path], size: tuple[int, int], folder: Path, steps: int) -> dict[str, float]:
    """Share of its time that a consumer waits, which is busy for as long as a batch takes to decode."""
    law = FixedRate(8.0, _FRAMES)
    shares = {}
    with FootageClips(files, law, size, threads=1) as clips:
        clips.batch(Noise.batch(0, _BATCH))
        start = time.perf_counter()
        for number in range(steps):
            clips.batch(Noise.batch(number, _BATCH))
        busy = (time.perf_counter() - start) / steps
        shares["one after the other"] = _direct(clips, steps, busy)
        shares["loaded ahead"] = _ahead(clips, steps, busy)
    with FootageClips(files, law, size, threads=1, cache=TensorCache(folder)) as clips:
        for number in range(steps):
            clips.batch(Noise.batch(number, _BATCH))
        shares["cached"] = _direct(clips, steps, busy)
        shares["cached and loaded ahead"] = _ahead(clips, steps, busy)
    return {**shares, "busy_ms": 1e3 * busy}


def _noises(steps: int) -> Iterator[Noise]:
    return (Noise.batch(number, _BATCH) for number in range(steps))


def _direct(clips: FootageClips, steps: int, busy: float) -> float:
    waited, start = 0.0, time.perf_counter()
    for noise in _noises(steps):
        before = time.perf_counter()
        clips.batch(noise)
        waited += time.perf_counter() - before
        time.sleep(busy)
    return waited / (time.perf_counter() - start)


def _ahead(clips: FootageClips, steps: int, busy: float) -> float:
    with Prefetch(clips.batch, _noises(steps)) as ahead:
        for _ in ahead:
            time.sleep(busy)
        return ahead.waited


def memory(folder: Path, many: int) -> dict[str, Any]:
    """Bytes that the process grows by for every file read, after three tenths of them."""
    first = film(folder / "film0000.mp4", 4, seed=0, height=36, width=48)
    for number in range(1, many):
        (folder / f"film{number:04d}.mp4").write_bytes(first.read_bytes())
    with FootageClips(folder, FixedRate(25.0, 2), (16, 16), threads=2) as clips:
        used = []
        for start in range(0, many, 10):
            numbers = list(range(start, min(start + 10, many)))
            clips.batch(Noise.batch(start, len(numbers)), pieces=numbers)
            used.append(resident())
    warm = 3 * len(used) // 10
    files = 10 * np.arange(warm, len(used))
    slope = float(np.polyfit(files, used[warm:], 1)[0])
    return {"files": many, "bytes_per_file": slope, "first_MiB": used[0] / 2**20, "last_MiB": used[-1] / 2**20}


def resident() -> int:
    """Bytes of memory that the process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


if __name__ == "__main__":
    main()
