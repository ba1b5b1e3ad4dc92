"""Plots: files that open, frames where they should be, and nothing left behind when drawing fails."""

import colorsys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from flowvid.plot.curves import CostPoint, Curve, draw_curves
from flowvid.plot.film import Strip, film_strips, side_by_side

ORANGE = (217, 95, 2)


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def flat(level: float, count: int = 3, *, channels: int = 1, side: int = 8) -> Tensor:
    return torch.full((count, channels, side, side), float(level))


def near(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    """How many pixels have a colour."""
    return int((np.abs(image - np.array(colour)).max(axis=2) < 12).sum())


def panel(*strips: Strip, times: tuple[float, ...] = (0.0, 0.5, 1.0)) -> tuple[str, tuple[float, ...], list[Strip]]:
    return ("title", times, list(strips))


# Film strips


def test_film_strips_grow_with_their_rows_and_keep_their_width(tmp_path: Path) -> None:
    truth, other = Strip("truth", flat(-1)), Strip("other", flat(-1))
    sizes = {}
    for name, panels in {
        "small": [panel(truth, other)],
        "tall": [panel(truth, other, other)],
        "two": [panel(truth, other)] * 2,
        "wide": [("title", tuple(0.1 * n for n in range(9)), [Strip("truth", flat(-1, 9))])],
    }.items():
        film_strips(tmp_path / f"{name}.png", panels, known=[()] * len(panels))
        sizes[name] = opened(tmp_path / f"{name}.png").shape[:2]
    assert sizes["small"][0] < sizes["tall"][0]
    assert sizes["two"][0] == pytest.approx(2 * sizes["small"][0], abs=2)
    assert sizes["wide"][0] < sizes["small"][0]
    assert len({width for _, width in sizes.values()}) == 1
    assert all(200 < side < 4000 for size in sizes.values() for side in size)


def test_known_frames_are_framed_and_others_not(tmp_path: Path) -> None:
    counts = []
    for number, known in enumerate([(), (0.5,), (0.0, 0.5)]):
        path = tmp_path / f"{number}.png"
        film_strips(path, [panel(Strip("truth", flat(0.0)), Strip("other", flat(0.0)))], known=[known])
        counts.append(near(opened(path), ORANGE))
    assert counts[0] == 0 < counts[1]
    assert counts[2] == pytest.approx(2 * counts[1], rel=0.1)


def test_errors_are_drawn_dark_below_their_strip(tmp_path: Path) -> None:
    """White strips on white paper: only the row below a wrong strip is black, one cell for each wrong frame."""
    black = []
    for wrong in range(4):
        frames = flat(1.0)
        frames[:wrong] = -1.0
        film_strips(tmp_path / "a.png", [panel(Strip("truth", flat(-1.0)), Strip("other", -frames))], known=[()])
        black.append(near(opened(tmp_path / "a.png"), (0, 0, 0)))
    cell = black[0] / 6
    assert cell > 500
    assert black[1:] == pytest.approx([6 * cell] * 3, rel=0.05)
    film_strips(tmp_path / "a.png", [panel(Strip("truth", flat(1.0)), Strip("other", flat(1.0)))], known=[()])
    assert near(opened(tmp_path / "a.png"), (0, 0, 0)) < 0.1 * cell


def test_strips_show_their_own_frames_in_order(tmp_path: Path) -> None:
    """Gray levels that rise from left to right are found in that order along a line through the first row."""
    frames = torch.cat([flat(level, 1) for level in (-0.8, -0.2, 0.4)])
    film_strips(tmp_path / "a.png", [panel(Strip("truth", frames))], known=[()])
    image = opened(tmp_path / "a.png")
    columns = []
    for level in (-0.8, -0.2, 0.4):
        shown = round((level + 1) / 2 * 255)
        rows, found = np.nonzero(np.abs(image - shown).max(axis=2) <= 2)
        assert len(rows) > 500
        columns.append(found.mean())
    assert columns == sorted(columns)


@pytest.mark.parametrize("count", [2, 4])
def test_strips_need_a_frame_for_each_time_and_nothing_is_written_otherwise(tmp_path: Path, count: int) -> None:
    with pytest.raises(ValueError, match=f"other has {count} frames for 3 times"):
        film_strips(
            tmp_path / "a.png", [panel(Strip("truth", flat(0.0)), Strip("other", flat(0.0, count)))], known=[()]
        )
    with pytest.raises(ValueError, match="shorter"):
        film_strips(tmp_path / "a.png", [panel(Strip("truth", flat(0.0)))], known=[])
    assert list(tmp_path.iterdir()) == []


# Videos side by side


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.sampled_from([1, 3]))
@settings(max_examples=10)
def test_clips_stand_in_rows_and_methods_in_columns(
    clips: int, methods: int, count: int, zoom: int, channels: int
) -> None:
    height, width, border = 5, 6, 2
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(clips, methods, count, channels, height, width, generator=generator) * 2 - 1
    strips = [[Strip(f"m{column}", frames[row, column]) for column in range(methods)] for row in range(clips)]
    found = side_by_side(strips, zoom=zoom, captions=["now"] * count)
    tall, wide = height * zoom + 2 * border, width * zoom + 2 * border
    heading = (found.shape[2] - clips * tall) // 2
    assert found.shape == (count, 3, clips * tall + 2 * heading, methods * wide)
    assert heading > 0
    assert -1 <= float(found.min()) <= float(found.max()) <= 1
    for row in range(clips):
        for column in range(methods):
            top, left = heading + row * tall + border, column * wide + border
            cell = found[:, :, top : top + height * zoom : zoom, left : left + width * zoom : zoom]
            assert torch.equal(cell, frames[row, column].expand(-1, 3, -1, -1))
            last = found[:, :, top + height * zoom - 1, left + width * zoom - 1]
            assert torch.equal(last, frames[row, column, :, :, -1, -1].expand(-1, 3))
            assert bool((found[:, :, top - 1, left - 1] == 0.2).all())


def test_headings_name_the_methods_and_captions_change_with_time() -> None:
    strips = [[Strip("one", flat(0.0, 2, side=64)), Strip("two", flat(0.0, 2, side=64))]]
    plain = [[Strip("", flat(0.0, 2, side=64)), Strip("", flat(0.0, 2, side=64))]]
    found, empty = (side_by_side(given, zoom=2, captions=["a", "b"]) for given in (strips, plain))
    heading = (found.shape[2] - 132) // 2
    named = (found != empty)[0, 0]
    assert bool(named[:heading, :132].any())
    assert bool(named[:heading, 132:].any())
    assert not bool(named[heading:].any())
    changed = (found[0] != found[1])[0]
    assert bool(changed[-heading:].any())
    assert not bool(changed[:-heading].any())


def test_strips_and_captions_of_different_lengths_are_refused() -> None:
    for lengths, captions in (((2, 3), 2), ((2, 2), 3)):
        strips = [[Strip("a", flat(0.0, length)) for length in lengths]]
        with pytest.raises(ValueError, match="as many frames as there are captions"):
            side_by_side(strips, zoom=1, captions=["now"] * captions)


# Curves

CURVE = Curve("multi-scale", [0.1, 0.2], [1.0, 2.0], [0.5, 1.5], [1.5, 2.5])
POINTS = [
    CostPoint("two-sided", "multi-scale, jumps", 5.0, 0.1, 0.5),
    CostPoint("rk4", "multi-scale, ODE solvers", 64.0, 0.8, 0.7),
    CostPoint("ddim, 1 steps", "ddim", 1.0, 0.02, 3.0),
    CostPoint("ddim, 8 steps", "ddim", 8.0, 0.2, 0.4),
]


def test_curves_are_drawn_for_every_task(tmp_path: Path) -> None:
    heights = []
    for tasks in (1, 2):
        path = tmp_path / f"{tasks}.png"
        costs = [(f"task {number}", POINTS) for number in range(tasks)]
        draw_curves(path, over_time=[("predict", [CURVE], 0.15), ("fill", [CURVE], None)], costs=costs, batch="4 clips")
        heights.append(opened(path).shape[0])
        assert opened(path).shape[1] == pytest.approx(6.2 * 2 * 120, abs=1)
    assert heights[1] == pytest.approx(heights[0] * 3 / 2, abs=2)


def test_families_have_colours_of_their_own(tmp_path: Path) -> None:
    """What jumps and what ODE solvers reach with one model can be told apart."""
    path, empty = tmp_path / "a.png", [("predict", [], None), ("fill", [], None)]
    with pytest.warns(UserWarning, match="No artists with labels"):
        draw_curves(path, over_time=empty, costs=[("predict", POINTS)], batch="4 clips")
    image = opened(path).reshape(-1, 3)
    strong = image[image.max(axis=1) - image.min(axis=1) > 80] / 255
    hues = Counter(round(18 * colorsys.rgb_to_hsv(*colour)[0]) % 18 for colour in strong)
    assert len([hue for hue, count in hues.items() if count > 100]) == 3


def test_nothing_is_written_when_drawing_fails(tmp_path: Path) -> None:
    over_time = [("predict", [CURVE], None), ("fill", [CURVE], None)]
    with pytest.raises(ValueError, match="argument 2"):
        draw_curves(tmp_path / "a.png", over_time=over_time[:1], costs=[("predict", POINTS)], batch="4 clips")
    with pytest.raises(ValueError, match="not supported"):
        draw_curves(tmp_path / "a.picture", over_time=over_time, costs=[("predict", POINTS)], batch="4 clips")
    assert list(tmp_path.iterdir()) == []
