"""Files: complete or absent, and videos that play as they were written."""

import json
import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flowvid.data.files import write_atomically, write_json, write_video

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def read(path: Path) -> tuple[np.ndarray, Fraction, list[float]]:
    """Pixels 0..255, rate and times of a video."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        pixels = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
        return pixels, stream.average_rate, [float(frame.pts * stream.time_base) for frame in frames]


def test_makes_folders_and_leaves_nothing_but_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    write_atomically(path, lambda temporary: temporary.write_text("one"))
    write_atomically(path, lambda temporary: temporary.write_text("two"))
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]


def test_the_writer_is_given_another_name_with_the_same_ending_and_folder(tmp_path: Path) -> None:
    path, seen = tmp_path / "film.mp4", []

    def write(temporary: Path) -> None:
        seen.append((temporary, path.exists()))
        temporary.write_bytes(b"x")

    write_atomically(path, write)
    ((temporary, existed),) = seen
    assert temporary != path
    assert temporary.parent == path.parent
    assert temporary.suffix == ".mp4"
    assert not existed


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_writer_that_fails_changes_nothing(tmp_path: Path, old: str | None, error: type[BaseException]) -> None:
    path = tmp_path / "file.txt"
    if old is not None:
        path.write_text(old)

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise error

    with pytest.raises(error):
        write_atomically(path, write)
    assert {found.name: found.read_text() for found in tmp_path.iterdir()} == ({"file.txt": old} if old else {})


def test_a_writer_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "file.txt", lambda temporary: None)
    assert not list(tmp_path.iterdir())


@given(JSON)
def test_json_returns(place: Path, content: object) -> None:
    write_json(place / "content.json", content)
    assert json.loads((place / "content.json").read_text(encoding="utf-8")) == content


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_it_cannot_hold_and_keeps_the_old_file(tmp_path: Path, value: float) -> None:
    path = tmp_path / "content.json"
    write_json(path, [1.5])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": [0.0, value]})
    assert json.loads(path.read_text()) == [1.5]
    assert list(tmp_path.iterdir()) == [path]


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
        ("film.avi", torch.zeros(1, 1, 4, 4), {"fps": 5.0}, r"written as \.mp4; got film\.avi"),
        ("film.mp4", torch.zeros(1, 2, 4, 4), {"fps": 5.0}, r"1 or 3 channels.*\(1, 2, 4, 4\)"),
        ("film.mp4", torch.zeros(0, 1, 4, 4), {"fps": 5.0}, r"at least one frame.*\(0, 1, 4, 4\)"),
        ("film.mp4", torch.zeros(1, 1, 4, 4), {"fps": 0.0}, "fps >= 0.001.*fps=0.0"),
        ("film.mp4", torch.zeros(1, 1, 4, 4), {"fps": 1e-5}, "fps >= 0.001.*fps=1e-05"),
        ("film.mp4", torch.zeros(1, 1, 4, 4), {"fps": math.inf}, "fps=inf"),
        ("film.mp4", torch.zeros(1, 1, 4, 4), {"fps": math.nan}, "fps=nan"),
        ("film.mp4", torch.zeros(1, 1, 4, 4), {"fps": 5.0, "zoom": 0}, "zoom=0"),
        ("film.mp4", torch.full((1, 1, 4, 4), math.nan), {"fps": 5.0}, "NaN"),
    ],
)
def test_refuses_what_is_no_video(tmp_path: Path, name: str, frames: Tensor, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / name, frames, **options)
    assert not list(tmp_path.iterdir())
