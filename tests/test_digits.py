"""Digits: the splits partition the real data, and drawing puts centroids where they belong."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor

import flowvid.data.worlds.digits as digits
from flowvid.data.worlds.digits import SPLITS, centroid, ink_box, ink_radius, load_glyphs, render
from flowvid.noise import Noise


def measured(frames: Tensor) -> Tensor:
    """Intensity centroids (x, y) of frames [..., height, width]."""
    frames = frames.double()
    pixels = torch.arange(frames.shape[-1], dtype=torch.float64) + 0.5
    ink = frames.sum((-2, -1))
    return torch.stack((frames.sum(-2) @ pixels, frames.sum(-1) @ pixels), dim=-1) / ink[..., None]


def glyph(index: int) -> Tensor:
    images = load_glyphs("train").images
    return images[index % len(images)]


def draw(image: Tensor, place: tuple[float, float], angle: float = 0.0, *, canvas: int = 32, scale: int = 2) -> Tensor:
    position, turn = torch.tensor([[place]], dtype=torch.float64), torch.tensor([[angle]], dtype=torch.float64)
    return render(image[None], position, turn, canvas=canvas, scale=scale)[0, 0]


indices, shares = st.integers(0, 1200), st.floats(0, 1)


def test_splits_partition_the_data() -> None:
    images, labels = load_digits(return_X_y=True)
    parts = [load_glyphs(split) for split in SPLITS]
    assert sum(len(part) for part in parts) == len(labels) == 1797
    rows = [torch.cat((part.images.flatten(1) * 16, part.labels[:, None]), dim=1).numpy() for part in parts]
    found, whole = np.concatenate(rows), np.column_stack((images, labels))
    assert (found[np.lexsort(found.T)] == whole[np.lexsort(whole.T)]).all()


@pytest.mark.parametrize(("split", "share"), [("train", 0.7), ("validation", 0.1), ("test", 0.2)])
def test_every_digit_is_split_in_the_same_shares(split: str, share: float) -> None:
    totals = np.bincount(load_digits().target)
    counts = torch.bincount(load_glyphs(split).labels, minlength=10).numpy()
    assert (np.abs(counts - share * totals) <= 1).all()


def test_splits_are_fixed_and_kept() -> None:
    first = load_glyphs("test")
    assert load_glyphs("test") is first
    load_glyphs.cache_clear()
    second = load_glyphs("test")
    assert second is not first
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)


def test_glyphs_hold_ink_between_zero_and_one() -> None:
    images = load_glyphs("train").images
    assert images.dtype == torch.float32
    assert images.shape[1:] == (8, 8)
    assert images.min() == 0
    assert images.max() == 1


@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_full_ink_never_exceeds_one(angle: float) -> None:
    offsets = 16 + Noise.of([0]).uniform("offset", 200, 2, dtype=torch.float64)
    turns = torch.full((1, 200), angle, dtype=torch.float64)
    frames = render(torch.ones(1, 8, 8), offsets, turns, canvas=32, scale=3)
    assert frames.max() <= 1
    assert frames.min() >= 0
    assert (frames.amax((2, 3)) > 1 - 1e-5).all()


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="train, validation, test; got 'dev'"):
        load_glyphs("dev")


@settings(deadline=None, max_examples=50)
@given(indices, shares, shares, st.integers(1, 4), st.sampled_from((torch.float32, torch.float64)))
def test_the_drawn_centroid_is_the_position(index: int, u: float, v: float, scale: int, kind: torch.dtype) -> None:
    image, canvas = glyph(index).to(kind), 10 * scale + 3
    left, right, up, down = (scale * side for side in ink_box(image))
    place = (left + u * (canvas - left - right), up + v * (canvas - up - down))
    frame = draw(image, place, canvas=canvas, scale=scale)
    tolerance = 1e-4 if kind == torch.float32 else 1e-9
    assert frame.dtype == kind
    assert frame.min() >= 0
    assert frame.max() <= 1
    assert (measured(frame) - torch.tensor(place, dtype=torch.float64)).abs().max() < tolerance
    assert frame.double().sum().item() == pytest.approx(scale**2 * image.double().sum().item(), rel=1e-5)


@settings(deadline=None, max_examples=50)
@given(indices, shares, shares, st.floats(-7, 7), st.integers(2, 4))
def test_a_turned_centroid_stays_close_to_the_position(
    index: int, u: float, v: float, angle: float, scale: int
) -> None:
    place, image = (8.0 * scale + u, 8.0 * scale + v), glyph(index)
    frame = draw(image, place, angle, canvas=16 * scale, scale=scale)
    assert (measured(frame) - torch.tensor(place, dtype=torch.float64)).abs().max() < 0.1
    assert frame.min() >= 0
    assert frame.max() <= 1


@settings(deadline=None, max_examples=50)
@given(indices, shares, shares, st.integers(1, 4))
def test_both_ways_of_drawing_agree_on_an_upright_glyph(index: int, u: float, v: float, scale: int) -> None:
    image, place = glyph(index).double(), (20 * u, 20 * v)
    upright, turned = (draw(image, place, angle, canvas=20, scale=scale) for angle in (0.0, 1e-12))
    torch.testing.assert_close(upright, turned, atol=1e-9, rtol=0)


@settings(deadline=None, max_examples=50)
@given(indices, shares, shares)
def test_a_quarter_turn_is_clockwise_on_the_screen(index: int, u: float, v: float) -> None:
    image, place = glyph(index).double(), (16 + u, 16 + v)
    expected = draw(torch.rot90(image, -1), place)
    torch.testing.assert_close(draw(image, place, math.pi / 2), expected, atol=1e-9, rtol=0)
    assert not torch.allclose(draw(image, place, -math.pi / 2), expected, atol=1e-2)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_enlargement_is_bilinear_interpolation(scale: int) -> None:
    image = torch.nn.functional.pad(glyph(17).double(), (1, 1, 1, 1))
    expected = torch.nn.functional.interpolate(image[None, None], scale_factor=scale, mode="bilinear")[0, 0]
    x, y = (scale * centroid(image)).tolist()
    torch.testing.assert_close(draw(image, (x, y), canvas=10 * scale, scale=scale), expected, atol=1e-12, rtol=0)


@settings(deadline=None, max_examples=50)
@given(indices, shares, shares)
def test_a_shift_by_whole_pixels_shifts_the_frame(index: int, u: float, v: float) -> None:
    here = draw(glyph(index).double(), (14 + u, 14 + v))
    there = draw(glyph(index).double(), (17 + u, 12 + v))
    torch.testing.assert_close(there[:-2, 3:], here[2:, :-3], atol=1e-12, rtol=0)


@settings(deadline=None, max_examples=50)
@given(indices)
def test_ink_box_is_where_the_ink_ends(index: int) -> None:
    image, scale = glyph(index).double(), 8
    left, right, up, down = (scale * side for side in ink_box(image))
    inked = draw(image, (50.0, 50.0), canvas=100, scale=scale) > 0
    columns, rows = inked.any(0).nonzero()[:, 0] + 0.5, inked.any(1).nonzero()[:, 0] + 0.5
    reaches = (50 - columns[0], columns[-1] - 50, 50 - rows[0], rows[-1] - 50)
    for reach, bound in zip(reaches, (left, right, up, down), strict=True):
        assert bound - 1 - 1e-9 <= reach.item() <= bound


@settings(deadline=None, max_examples=50)
@given(indices, st.floats(-4, 4))
def test_ink_radius_bounds_the_ink_at_any_angle(index: int, angle: float) -> None:
    image, scale = glyph(index).double(), 4
    left, right, up, down = ink_box(image)
    rows, columns = (draw(image, (32.0, 32.0), angle, canvas=64, scale=scale) > 0).nonzero().double().add(0.5).T
    reach = torch.hypot(columns - 32, rows - 32).max().item()
    assert reach <= scale * ink_radius(image)
    assert max(left, right, up, down) <= ink_radius(image) <= math.hypot(max(left, right), max(up, down)) + 1e-9


def test_a_frame_does_not_depend_on_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    positions = 8 + 16 * torch.rand(5, 7, 2, dtype=torch.float64, generator=generator)
    angles = torch.rand(5, 7, dtype=torch.float64, generator=generator)
    angles[[0, 3]] = 0
    images = load_glyphs("train").images[:5]
    together = render(images, positions, angles, canvas=32, scale=2)
    monkeypatch.setattr(digits, "_CHUNK", 3 * 32**2)
    for i in range(5):
        for j in range(7):
            alone = render(images[i : i + 1], positions[i, j][None, None], angles[i, j][None, None], canvas=32, scale=2)
            assert torch.equal(alone[0, 0], together[i, j])
    assert torch.equal(render(images, positions, angles, canvas=32, scale=2), together)


def test_ink_outside_the_canvas_is_cut_off() -> None:
    frame = draw(glyph(3), (0.0, 16.0))
    assert not frame[:, 16:].any()
    assert frame[:, :8].any()
    assert not draw(glyph(3), (-30.0, 16.0)).any()


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="positive whole pixels; got canvas=0, scale=2"):
        draw(glyph(0), (1.0, 1.0), canvas=0)
    with pytest.raises(ValueError, match="without ink"):
        draw(torch.zeros(8, 8), (1.0, 1.0))
    with pytest.raises(ValueError, match="without ink"):
        ink_box(torch.zeros(8, 8))
