"""Videos that play as they were written, at their times, with what made them inside."""

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import flowvid
from flowvid.data.footage.gif import gif_comment, with_comment
from flowvid.data.footage.reader import BrokenFootage, Footage
from flowvid.data.footage.writers import VideoWriter, read_metadata, write_video
from tests.footage_files import codes, picture

SUFFIXES = (".mp4", ".webm", ".mkv", ".gif")
UNEVEN = [0.0, 0.1, 0.13, 0.3, 0.31, 0.5, 1.7, 1.72, 1.74]
each_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


def read(path: Path) -> tuple[np.ndarray, Fraction, list[float]]:
    """Pixels 0..255, rate and times of a video."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        pixels = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
        return pixels, stream.average_rate, [float(frame.pts * stream.time_base) for frame in frames]


def colours(channels: int) -> Tensor:
    """Frames of one colour each."""
    levels = torch.linspace(-0.9, 0.9, 5)
    mixed = torch.stack((levels, -levels, levels.flip(0) / 2))[:channels]
    return mixed.T[:, :, None, None].expand(-1, -1, 12, 10)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("zoom", [1, 3])
def test_a_video_has_its_frames_size_and_colours(tmp_path: Path, channels: int, zoom: int) -> None:
    frames = colours(channels)
    write_video(tmp_path / "film.mp4", frames, fps=8.0, zoom=zoom)
    pixels = read(tmp_path / "film.mp4")[0]
    assert pixels.shape == (5, 12 * zoom, 10 * zoom, 3)
    expected = ((frames[:, :, 0, 0] + 1) * 127.5).expand(-1, 3).numpy()
    assert np.abs(pixels.mean(axis=(1, 2)) - expected).max() < 4


@pytest.mark.parametrize("fps", [0.5, 8.0, 1 / 0.3, 29.97, 120.0])
def test_a_video_has_its_rate_and_times(tmp_path: Path, fps: float) -> None:
    write_video(tmp_path / "film.mp4", colours(1), fps=fps)
    _, rate, times = read(tmp_path / "film.mp4")
    assert float(rate) == pytest.approx(fps, rel=1e-3)
    assert times == pytest.approx([number / fps for number in range(5)], abs=2e-3 / fps)


@pytest.mark.parametrize(("height", "width", "zoom"), [(7, 9, 1), (7, 10, 3), (5, 4, 2), (1, 1, 1)])
def test_odd_sides_gain_one_row_or_column_and_lose_nothing(tmp_path: Path, height: int, width: int, zoom: int) -> None:
    frames = torch.zeros(3, 1, height, width)
    frames[:, :, 0, 0] = 1
    write_video(tmp_path / "film.mp4", frames, fps=5.0, zoom=zoom)
    pixels = read(tmp_path / "film.mp4")[0]
    tall, wide = height * zoom, width * zoom
    assert pixels.shape == (3, tall + tall % 2, wide + wide % 2, 3)
    assert pixels[:, :zoom, :zoom].mean() > 240
    assert abs(pixels[:, -1, -1].mean() - (255 if height * width == 1 else 128)) < 12


def test_pixels_beyond_the_range_are_clipped(tmp_path: Path) -> None:
    frames = torch.cat((torch.full((1, 1, 8, 8), -5.0), torch.full((1, 1, 8, 8), 5.0)))
    write_video(tmp_path / "film.mp4", frames, fps=1.0)
    means = read(tmp_path / "film.mp4")[0].mean(axis=(1, 2, 3))
    assert means == pytest.approx([0, 255], abs=4)


@pytest.mark.parametrize(
    ("name", "frames", "options", "message"),
    [
        (
            "film.avi",
            torch.zeros(1, 1, 4, 4),
            {"fps": 5.0},
            r"written as \.mp4, \.webm, \.mkv, \.gif, strips as \.png; got film\.avi",
        ),
        ("film.mp4", torch.zeros(1, 2, 4, 4), {"fps": 5.0}, r"1 or 3 channels.*\(1, 2, 4, 4\)"),
        ("film.mp4", torch.zeros(0, 1, 4, 4), {"fps": 5.0}, r"at least one frame.*\(0, 1, 4, 4\)"),
        ("film.mp4", torch.zeros(1, 1, 4, 4), {"fps": 0.0}, "fps >= 0.001.*fps=0.0"),
        ("film.mp4", torch.zeros(1, 1, 4, 4), {"fps": 1e-5}, "fps >= 0.001.*fps=1e-05"),
        ("film.mp4", torch.zeros(1, 1, 4, 4), {"fps": math.inf}, "fps=inf"),
        ("film.mp4", torch.zeros(1, 1, 4, 4), {"fps": math.nan}, "fps=nan"),
        ("film.mp4", torch.zeros(1, 1, 4, 4), {"fps": 5.0, "zoom": 0}, "zoom=0"),
        ("film.mp4", torch.full((1, 1, 4, 4), math.nan), {"fps": 5.0}, "NaN"),
        ("film.mp4", torch.zeros(1, 1, 4, 4), {}, "one of the two"),
        ("film.mp4", torch.zeros(1, 1, 4, 4), {"fps": 5.0, "times": [0.0]}, "one of the two"),
        ("film.mp4", torch.zeros(2, 1, 4, 4), {"times": [0.0]}, "1 times for 2 frames"),
        ("film.mp4", torch.zeros(2, 1, 4, 4), {"times": [0.0, 0.0]}, "increase strictly"),
        ("film.mkv", torch.zeros(2, 1, 4, 4), {"times": [0.0, 4e-4]}, r"at least 0\.001 s.*\.mkv"),
        ("film.gif", torch.zeros(2, 1, 4, 4), {"times": [0.0, 4e-3]}, r"at least 0\.01 s.*\.gif"),
        ("film.gif", torch.zeros(2, 1, 4, 4), {"fps": 101.0}, "100 a second at most; got fps=101"),
        ("film.png", torch.zeros(2, 1, 4, 4), {"times": [0.0]}, "one time for each of 2 frames"),
        ("film.png", torch.zeros(2, 1, 4, 4), {"zoom": 0}, "zoom=0"),
        ("film.png", torch.zeros(0, 1, 4, 4), {}, "at least one frame"),
        ("film.mp4", torch.zeros(1, 1, 4, 4), {"fps": 5.0, "metadata": {"loss": math.nan}}, "not JSON compliant"),
    ],
)
def test_refuses_what_is_no_video(tmp_path: Path, name: str, frames: Tensor, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / name, frames, **options)
    assert not list(tmp_path.iterdir())


def numbered(count: int) -> Tensor:
    """Pictures that tell their number, as uint8."""
    return torch.from_numpy(np.stack([picture(number) for number in range(count)])).permute(0, 3, 1, 2)


def smooth(count: int, height: int = 32, width: int = 48) -> Tensor:
    """A grey wave that moves, in [-1, 1]: nothing that halved colour resolution or 256 colours could harm."""
    x = torch.arange(width)[None, None] + 2.0 * torch.arange(count)[:, None, None]
    y = torch.arange(height)[None, :, None]
    return ((x / 9).sin() * (y / 7).cos() * 0.9)[:, None].expand(-1, 3, -1, -1)


def psnr(found: Tensor, truth: Tensor) -> float:
    """In decibels, of frames in [-1, 1]."""
    return -10 * math.log10(max(1e-12, float((found - truth).square().mean()) / 4))


def back(path: Path) -> Tensor:
    with Footage(path) as footage:
        return footage.at(footage.times).float() / 127.5 - 1


@each_suffix
def test_frames_return_at_their_rate(tmp_path: Path, suffix: str) -> None:
    write_video(tmp_path / f"a{suffix}", numbered(20), fps=12.5)
    with Footage(tmp_path / f"a{suffix}") as footage:
        assert footage.times.tolist() == [n * 0.08 for n in range(20)] or suffix != ".mp4"
        assert footage.times.tolist() == pytest.approx([n * 0.08 for n in range(20)], abs=1e-9)
        assert footage.info.duration == pytest.approx(1.6)
        assert codes(footage.at(footage.times)) == list(range(20))


@each_suffix
def test_frames_return_at_times_of_their_own(tmp_path: Path, suffix: str) -> None:
    write_video(tmp_path / f"a{suffix}", numbered(9), times=[time + 3.5 for time in UNEVEN])
    with Footage(tmp_path / f"a{suffix}") as footage:
        assert (footage.info.variable, footage.info.start) == (True, 0.0)
        assert footage.times.tolist() == pytest.approx(UNEVEN, abs=6e-6 if suffix == ".mp4" else 1e-9)
        assert footage.info.duration == pytest.approx(1.76, abs=0.011)
        assert codes(footage.at(footage.times)) == list(range(9))


@pytest.mark.parametrize(("suffix", "least"), [(".mp4", 44.0), (".webm", 40.0), (".mkv", 58.0), (".gif", 56.0)])
def test_quality(tmp_path: Path, suffix: str, least: float) -> None:
    """Rounding to eight bits alone gives 58.9 dB; limited range 57 dB."""
    write_video(tmp_path / f"a{suffix}", smooth(6), fps=10.0)
    assert psnr(back(tmp_path / f"a{suffix}"), smooth(6)) > least


def test_the_lossless_kind_loses_nothing(tmp_path: Path) -> None:
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 17, 23), dtype=np.uint8))
    write_video(tmp_path / "a.mkv", noise, fps=10.0)
    with Footage(tmp_path / "a.mkv") as footage:
        assert torch.equal(footage.at(footage.times), noise)


def test_a_gif_of_few_colours_loses_nothing(tmp_path: Path) -> None:
    coarse = torch.from_numpy(np.random.default_rng(0).integers(0, 6, (5, 3, 17, 23), dtype=np.uint8) * 51)
    write_video(tmp_path / "a.gif", coarse, fps=10.0)
    with Footage(tmp_path / "a.gif") as footage:
        assert torch.equal(footage.at(footage.times), coarse)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_colours_are_marked(tmp_path: Path, suffix: str) -> None:
    write_video(tmp_path / f"a{suffix}", colours(3), fps=5.0)
    with av.open(str(tmp_path / f"a{suffix}")) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range) == (1, 1)
    assert (back(tmp_path / f"a{suffix}") - colours(3)).abs().max() < 0.03


@pytest.mark.parametrize("frames", [smooth(4), (smooth(4) * 127.5 + 127.5).round().byte()], ids=["float", "bytes"])
def test_a_strip_holds_all_frames_side_by_side(tmp_path: Path, frames: Tensor) -> None:
    from PIL import Image

    write_video(tmp_path / "a.png", frames, times=[0.0, 1.0, 2.5, 3.0], zoom=2, metadata={"seed": 4})
    with Image.open(tmp_path / "a.png") as image:
        strip = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert strip.shape == (3, 64, 4 * 96)
    parts = strip.unflatten(2, (4, 96)).permute(2, 0, 1, 3)[..., ::2, ::2]
    assert torch.equal(parts, (smooth(4) * 127.5 + 127.5).round().byte())
    expected = {"flowvid": flowvid.__version__, "times": [0.0, 1.0, 2.5, 3.0], "seed": 4}
    assert read_metadata(tmp_path / "a.png") == expected
    write_video(tmp_path / "b.png", frames, fps=2.0)
    assert read_metadata(tmp_path / "b.png") == {"flowvid": flowvid.__version__, "fps": 2.0}


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".png"])
def test_what_made_a_video_is_inside(tmp_path: Path, suffix: str) -> None:
    made = {"seed": 7, "solver": "tsit5", "model": 'a "b" = c; \u00e9 #\n', "steps": [1, 2.5, None], "long": "x" * 700}
    path = tmp_path / f"a{suffix}"
    write_video(path, colours(1), fps=5.0, metadata=made)
    found = read_metadata(path)
    assert found == ({"fps": 5.0} if suffix == ".png" else {}) | made | {"flowvid": flowvid.__version__}


def test_other_files_hold_nothing(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), mode="w") as container:
        container.metadata["comment"] = '{"seed": 3}'
        stream = container.add_stream("libx264", rate=5)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), dtype=np.uint8))))
        container.mux(stream.encode())
    assert read_metadata(tmp_path / "a.mp4") == {}
    with pytest.raises(BrokenFootage, match="not there"):
        read_metadata(tmp_path / "gone.gif")


@given(text=st.text(max_size=600))
def test_comments_of_a_gif_return(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    from PIL import Image

    path = tmp_path_factory.getbasetemp() / "comment.gif"
    Image.new("P", (3, 2)).save(path)
    plain = path.read_bytes()
    path.write_bytes(with_comment(plain, text))
    assert gif_comment(path) == text
    with Image.open(path) as image:
        assert image.info.get("comment", b"").decode() == text


@each_suffix
def test_pieces_make_the_video_that_the_whole_makes(tmp_path: Path, suffix: str) -> None:
    frames = smooth(9)
    write_video(tmp_path / f"whole{suffix}", frames, fps=5.0, metadata={"seed": 1})
    with VideoWriter(tmp_path / f"pieces{suffix}", fps=5.0, metadata={"seed": 1}) as writer:
        for start in range(0, 9, 4):
            writer.write(frames[start : start + 4])
            assert not (tmp_path / f"pieces{suffix}").exists()
    assert torch.equal(back(tmp_path / f"pieces{suffix}"), back(tmp_path / f"whole{suffix}"))
    with VideoWriter(tmp_path / f"timed{suffix}") as writer:
        writer.write(frames[:4], UNEVEN[:4])
        writer.write(frames[4:], torch.tensor(UNEVEN[4:], dtype=torch.float64))
    with Footage(tmp_path / f"timed{suffix}") as footage:
        assert footage.times.tolist() == pytest.approx(UNEVEN, abs=6e-6)


def test_pieces_must_fit_each_other(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mkv") as writer:
        writer.write(smooth(2), [0.0, 1.0])
        with pytest.raises(ValueError, match="have one size"):
            writer.write(smooth(1, 16, 16), [2.0])
        with pytest.raises(ValueError, match=r"at least 0\.001 s"):
            writer.write(smooth(1), [1.0])
        writer.write(smooth(1), [2.0])
    with Footage(tmp_path / "a.mkv") as footage:
        assert footage.times.tolist() == [0.0, 1.0, 2.0]


def test_a_strip_is_not_written_in_pieces(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"strips as \.png"):
        VideoWriter(tmp_path / "a.png", fps=5.0)


def fails(writer: VideoWriter) -> None:
    writer.write(smooth(3))
    raise RuntimeError


def stops(writer: VideoWriter) -> None:
    writer.write(smooth(30))
    raise KeyboardInterrupt


def at_once(writer: VideoWriter) -> None:
    raise RuntimeError


@each_suffix
@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize(
    ("act", "error"),
    [(fails, RuntimeError), (stops, KeyboardInterrupt), (at_once, RuntimeError), (lambda writer: None, ValueError)],
)
def test_what_fails_leaves_nothing_and_keeps_the_old(
    tmp_path: Path, suffix: str, old: bytes | None, act: Callable[[VideoWriter], None], error: type[BaseException]
) -> None:
    path = tmp_path / f"a{suffix}"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(error), VideoWriter(path, fps=5.0) as writer:
        act(writer)
    assert {found.name: found.read_bytes() for found in tmp_path.iterdir()} == ({path.name: old} if old else {})
