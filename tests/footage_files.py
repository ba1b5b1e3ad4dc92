"""Little video files in every container, whose pictures tell their own number, and files that are broken.

A picture is two rows of eight blocks: the number in binary, white for 1, and below it the opposite. Whether a block is
brighter than the one below it survives compression, scaling and palettes.
"""

__all__ = ["KINDS", "Kind", "codes", "picture", "write_broken", "write_footage", "write_pictures"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from torch import Tensor

_BITS = 8


@dataclass(frozen=True)
class Kind:
    """How a file is written: its ending, codec, pixels, options, times (milliseconds) or rate, and turn."""

    suffix: str
    codec: str
    pixels: str = "yuv420p"
    options: Mapping[str, str] = field(default_factory=dict)
    stamps: Sequence[int] | None = None
    size: tuple[int, int] = (32, 64)
    frames: int = 24
    rate: Fraction = Fraction(25)
    turn: tuple[float, bool, bool] | None = None
    aspect: Fraction | None = None
    container: Mapping[str, str] = field(default_factory=dict)
    seekable: bool = True


_B_FRAMES = {"g": "8", "bf": "3", "b-adapt": "0", "sc_threshold": "0"}
_OPEN = {**_B_FRAMES, "x264-params": "open-gop=1"}
_UNEVEN = (100, 140, 150, 300, 310, 500, 520, 530, 900, 910, 1000, 1010, 1500, 1510, 1520, 1600, 1700, 1750, 1760, 2000)
_HEVC = {"x265-params": "log-level=error:keyint=8:min-keyint=8:bframes=3:b-adapt=0:open-gop=1:scenecut=0:pools=1"}
KINDS = {
    "mp4": Kind(".mp4", "libx264"),
    "mp4, B-frames": Kind(".mp4", "libx264", options=_B_FRAMES, rate=Fraction(30000, 1001)),
    "mp4, open groups": Kind(".mp4", "libx264", options=_OPEN, frames=40),
    "mp4, hevc": Kind(".mp4", "libx265", options=_HEVC),
    "mp4, uneven": Kind(".mp4", "libx264", options=_B_FRAMES, stamps=_UNEVEN),
    "mp4, in fragments": Kind(
        ".mp4", "libx264", options=_B_FRAMES, container={"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    ),
    "mp4, ten bits": Kind(".mp4", "libx264", "yuv420p10le", options=_B_FRAMES),
    "mp4, grey": Kind(".mp4", "libx264", "gray"),
    "mp4, turned": Kind(".mp4", "libx264", turn=(-90, False, False)),
    "mp4, wide pixels": Kind(".mp4", "libx264", aspect=Fraction(3, 2)),
    "mp4, one frame": Kind(".mp4", "libx264", frames=1),
    "mkv": Kind(".mkv", "libx264", options=_OPEN, rate=Fraction(30)),
    "mkv, ffv1, odd": Kind(".mkv", "ffv1", "bgr0", options={"g": "5"}, size=(33, 65)),
    "mkv, uneven": Kind(".mkv", "ffv1", "bgr0", options={"g": "5"}, stamps=_UNEVEN),
    "webm": Kind(".webm", "libvpx-vp9", options={"g": "10", "lag-in-frames": "8", "auto-alt-ref": "1"}, size=(33, 65)),
    "webm, uneven": Kind(".webm", "libvpx-vp9", options={"g": "10"}, stamps=_UNEVEN),
    "webm, vp8": Kind(".webm", "libvpx", options={"g": "10", "lag-in-frames": "8"}, seekable=False),
    "mov, prores": Kind(".mov", "prores_ks", "yuv422p10le"),
    "mov, alpha": Kind(".mov", "qtrle", "argb", options={"g": "6"}),
    "gif": Kind(".gif", "gif", "rgb8", seekable=False),
    "gif, uneven": Kind(".gif", "gif", "rgb8", stamps=_UNEVEN, seekable=False),
    "avi": Kind(".avi", "libx264", options=_B_FRAMES, seekable=False),
    "avi, mpeg4": Kind(".avi", "mpeg4", options={"g": "8", "bf": "2"}, seekable=False),
    "avi, mjpeg": Kind(".avi", "mjpeg", "yuvj420p"),
    "mpegts": Kind(".ts", "libx264", options=_B_FRAMES, seekable=False),
    "mjpeg": Kind(".mjpeg", "mjpeg", "yuvj420p", seekable=False),
}


def picture(number: int, size: tuple[int, int] = (32, 64)) -> np.ndarray:
    """The picture of a number, [height, width, 3]."""
    height, width = size
    bits = np.array([number >> bit & 1 for bit in range(_BITS)], dtype=np.uint8) * 200 + 20
    columns = bits[np.arange(width) * _BITS // width]
    rows = np.where(np.arange(height)[:, None] < height / 2, columns, 240 - columns)
    return np.repeat(rows[..., None], 3, axis=2).astype(np.uint8)


def codes(pixels: Tensor) -> list[int]:
    """The numbers of pictures [time, 3, height, width]; one that is taller than wide lies on its right side."""
    values = pixels.numpy().mean(axis=1)
    if values.shape[1] > values.shape[2]:
        values = np.rot90(values, axes=(1, 2))
    height, width = values.shape[1:]
    upper, lower = values[:, : height // 2].mean(axis=1), values[:, -(height // 2) :].mean(axis=1)
    centre = ((np.arange(_BITS) + 0.5) * width / _BITS).astype(int)
    return ((upper > lower)[:, centre] * (1 << np.arange(_BITS))).sum(axis=1).tolist()


def write_footage(path: Path, kind: Kind) -> list[float]:
    """Write pictures 0, 1, ...; returns their times in seconds, the first at 0."""
    stamps = list(kind.stamps) if kind.stamps is not None else None
    count = len(stamps) if stamps is not None else kind.frames
    tick = Fraction(1, 1000) if stamps is not None else 1 / kind.rate
    with av.open(str(path), mode="w", options=dict(kind.container)) as container:
        stream = container.add_stream(kind.codec, rate=kind.rate, options=dict(kind.options))
        stream.height, stream.width = kind.size
        stream.pix_fmt = kind.pixels
        stream.time_base = stream.codec_context.time_base = tick
        stream.thread_count = 1
        if kind.turn is not None:
            stream.set_display_rotation(*kind.turn)
        if kind.aspect is not None:
            stream.codec_context.sample_aspect_ratio = kind.aspect
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number, kind.size), format="rgb24")
            frame.pts, frame.time_base = number if stamps is None else stamps[number], tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    marks = range(count) if stamps is None else stamps
    return [float((mark - marks[0]) * tick) for mark in marks]


def write_pictures(folder: Path, numbers: Sequence[int], *, name: str = "shot{}.png") -> None:
    """Write numbered pictures into a folder; their codes are 0, 1, ... in the order given."""
    from PIL import Image

    folder.mkdir(parents=True)
    for code, number in enumerate(numbers):
        Image.fromarray(picture(code)).save(folder / name.format(number))


def write_broken(folder: Path) -> dict[str, str]:
    """Broken files of every sort in a folder; returns by name what the reason must say."""
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / ".scratch"
    scratch.mkdir()

    def cut(name: str, kind: Kind, share: float) -> None:
        write_footage(scratch / name, kind)
        whole = (scratch / name).read_bytes()
        (folder / name).write_bytes(whole[: int(len(whole) * share)])
        (scratch / name).unlink()

    cut("no-moov.mp4", KINDS["mp4"], 0.3)
    cut("half-moov.mp4", KINDS["mp4"], 0.6)
    faststart = Kind(".mp4", "libx264", container={"movflags": "faststart"})
    cut("cut.mp4", faststart, 0.9)
    cut("cut.mkv", KINDS["mkv, ffv1, odd"], 0.6)
    cut("cut.webm", Kind(".webm", "libvpx-vp9"), 0.6)
    cut("cut.gif", KINDS["gif"], 0.6)
    cut("cut.avi", KINDS["avi, mjpeg"], 0.6)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("This is no video.\n" * 50, encoding="utf-8")
    _write_sound(folder / "sound.mp4")
    (folder / "pictures").mkdir()
    for number in (1, 2):
        (folder / "pictures" / f"{number}.png").write_text("no picture", encoding="utf-8")
    for name in ("no-frames.mkv", "no-frames.mp4"):
        with av.open(str(folder / name), mode="w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
            container.start_encoding()
    scratch.rmdir()
    return {
        "no-moov.mp4": "no video, or its head or tail is cut off",
        "half-moov.mp4": "no pictures that can be decoded",
        "cut.mp4": r"cut off: of the 24 frames it names, \d+ are there",
        "cut.mkv": r"cut off: it says it ends at 0\.96 s, and its 1[0-9] frames end at 0\.[56]",
        "cut.webm": "cut off: it says it ends at",
        "cut.gif": "after 1[0-9] frames",
        "cut.avi": r"cut off: it says it ends at tick 24, and its \d+ frames end at",
        "empty.mp4": "it is empty",
        "text.mp4": "it is no video",
        "sound.mp4": "only audio",
        "pictures": "1.png",
        "no-frames.mkv": "no video, or",
        "no-frames.mp4": "no",
    }


def _write_sound(path: Path) -> None:
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream("aac", rate=44100)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
