"""What reading footage costs beyond PyAV: the same frames read through `Footage` and by a bare loop.

    python -m benchmarks.decoding

A film of ten seconds is made (or some are given), and three pieces of work are timed against bare PyAV in turn: all
frames in order; 16 windows of one second at random, one reading each; and the same windows in one reading, which
decodes what they share only once. The bare loops seek to the key frame before a window, decode from there, and convert
what lies in it to RGB with one converter for all frames and one thread, which is several times quicker on small frames
than PyAV's `to_ndarray(format="rgb24")`. Opening, which for `Footage` means reading all packets, is timed alone.
Targets: in order at least 0.9 times as fast as bare; windows at most 1.3 times the cost of bare ones. Prints JSON.
"""

__all__ = ["main"]

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import torch
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from benchmarks.timing import Ratio, paired
from flowvid.data.files import write_json
from flowvid.data.footage.reader import Footage
from flowvid.noise import Noise

_WINDOWS, _SECONDS = 16, 1.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="films to read; default: two that are made")
    parser.add_argument("--repeats", type=int, default=9, help="timed pairs; default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="small films of two seconds, to see it run")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        given = {path.name: path for path in options.files}
        films = given or _films(Path(folder), quick=options.quick)
        results = {"threads": 1, "files": {name: measure(path, options.repeats) for name, path in films.items()}}
    print(json.dumps(results, indent=2))
    if options.out is not None:
        write_json(options.out, results)


def measure(path: Path, repeats: int) -> dict[str, Any]:
    """Ratios of times for one film."""
    with Footage(path) as footage, av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        info = footage.info
        converter = VideoReformatter()
        length = min(_SECONDS, info.duration / 2)
        uniform = Noise.of([0]).uniform("windows", _WINDOWS, dtype=torch.float64)[0]
        starts = (uniform * (info.duration - length)).tolist()
        windows = [_window(footage, start, length) for start in starts]

        def in_order() -> None:
            for _ in footage.stream():
                pass

        def bare_in_order() -> None:
            container.seek(0)
            for frame in container.decode(stream):
                converter.reformat(frame, format="rgb24", threads=1).to_ndarray()

        def by_window() -> None:
            for window in windows:
                footage.at(window)

        def bare_windows() -> None:
            for window in windows:
                _bare_window(container, converter, window, info.start)

        def together() -> None:
            footage.at([time for window in windows for time in window])

        return {
            "frames": info.frames,
            "width": info.width,
            "height": info.height,
            "key_frames": len(set(footage._source.index.keys.tolist())),
            "sequential_speed_over_bare": _content(paired(bare_in_order, in_order, repeats)),
            "windows_time_over_bare": _content(paired(by_window, bare_windows, repeats)),
            "windows_in_one_reading_over_bare": _content(paired(together, bare_windows, repeats)),
            "opening_over_bare_opening": _content(
                paired(lambda: Footage(path).close(), lambda: _open(path), max(3, repeats))
            ),
        }


def _window(footage: Footage, start: float, length: float) -> list[float]:
    inside = (footage.times >= start) & (footage.times < start + length)
    return footage.times[inside].tolist()


def _bare_window(container: InputContainer, converter: VideoReformatter, window: Sequence[float], start: float) -> None:
    stream = container.streams.video[0]
    base = stream.time_base
    assert base is not None
    first, last = (round((time + start) / base) for time in (window[0], window[-1]))
    container.seek(first, stream=stream)
    for frame in container.decode(stream):
        assert frame.pts is not None
        if frame.pts >= first:
            converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        if frame.pts >= last:
            break


def _open(path: Path) -> None:
    with av.open(str(path)) as container:
        next(container.decode(video=0))


def _content(ratio: Ratio) -> dict[str, float]:
    return {"ratio": ratio.median, "low": ratio.low, "high": ratio.high, "seconds": ratio.first, "other": ratio.second}


def _films(folder: Path, *, quick: bool) -> dict[str, Path]:
    """Moving waves, h264, with a key frame each second and each 250 frames."""
    found = {}
    for name, keys in (("key frame each second", 30), ("key frame each 250 frames", 250)):
        found[name] = folder / f"{keys}.mp4"
        _make(found[name], keys, 60 if quick else 300, (90, 160) if quick else (360, 640))
    return found


def _make(path: Path, keys: int, frames: int, size: tuple[int, int]) -> None:
    height, width = size
    grain = Noise.of([1]).uniform("grain", height, width, 3)[0] * 24
    y, x = torch.arange(height)[:, None, None], torch.arange(width)[None, :, None]
    channels = torch.arange(3)
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream("libx264", rate=30, options={"g": str(keys), "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(frames):
            wave = ((x + 3 * number) / 31 + channels).sin() * ((y - 2 * number) / 23).cos()
            pixels = (wave * 100 + 112 + grain.roll(number, 1)).clamp(0, 255).byte()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels.numpy(), format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    main()
