"""Filling a film: at any rate, from known frames that stay as they are, and with the detail that a codec loses."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from flowvid.encoders.codec import Codec, IdentityCodec
from flowvid.generate.fill import fill_gap, fill_video, with_detail
from flowvid.models.baselines import CopyLast, LinearBlend
from flowvid.noise import Noise
from flowvid.video import Video, as_times

SIDE = 4


class Coarse(Codec):
    """Latents are pixels rounded to quarters: what is lost is known exactly."""

    def latents(self, frames: Float[Tensor, "n pixel height width"]) -> Float[Tensor, "n channel h w"]:
        return (4 * frames).round() / 4

    def frames(self, latents: Float[Tensor, "n channel h w"]) -> Float[Tensor, "n pixel height width"]:
        return latents.clamp(-1, 1)


def ramp(times: Sequence[float]) -> Video:
    """Frames that are linear in time, so that a linear blend is exact."""
    slope = Noise.of([1]).uniform("slope", 3, SIDE, SIDE)[0] * 0.1 - 0.05
    start = Noise.of([2]).uniform("start", 3, SIDE, SIDE)[0] - 0.5
    points = as_times(list(times))
    return Video(start + slope * points.float()[None, :, None, None, None], points)


@st.composite
def increasing(draw: st.DrawFn) -> list[float]:
    gaps = draw(st.lists(st.floats(0.05, 1.0), min_size=1, max_size=5))
    known = [draw(st.floats(-3.0, 3.0))]
    for gap in gaps:
        known.append(known[-1] + gap)
    return known


@given(increasing(), st.floats(1.0, 60.0))
def test_a_film_has_its_rate_and_the_truth_of_linear_motion(known: list[float], fps: float) -> None:
    asked: list[list[float]] = []

    def frames(times: Sequence[float]) -> Video:
        asked.append(list(times))
        return ramp(times)

    pieces = list(fill_video(IdentityCodec(), LinearBlend(), known, frames, fps=fps))
    times = torch.cat([piece.times for piece in pieces])
    same = min(1e-3, 0.25 / fps)
    count = int((known[-1] - known[0] + same) * fps) + 1
    expected = known[0] + torch.arange(count, dtype=torch.float64) / fps
    torch.testing.assert_close(times, expected, atol=same, rtol=0)
    found = torch.cat([piece.frames for piece in pieces], dim=1)
    torch.testing.assert_close(found, ramp(times.tolist()).frames, atol=1e-5, rtol=0)
    assert asked == [list(pair) for pair in pairwise(known)]


def test_known_frames_on_the_film_s_grid_stay_as_they_are() -> None:
    """Only the film's own moments are asked of a model, which here would answer with the past."""
    known = [0.0, 0.5, 1.0]
    pieces = list(fill_video(Coarse(), CopyLast(), known, ramp, fps=4.0))
    assert torch.cat([piece.times for piece in pieces]).tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    found = torch.cat([piece.frames for piece in pieces], dim=1)
    assert torch.equal(found[:, ::2], ramp(known).frames)
    assert not torch.equal(found[:, 1::2], ramp([0.25, 0.75]).frames)


def test_stamps_rounded_to_milliseconds_are_those_frames() -> None:
    """As Matroska stores 30 frames per second: every one of them stands in the film of twice the rate."""
    known = [round(number / 30, 3) for number in range(60)]
    pieces = list(fill_video(Coarse(), CopyLast(), known, ramp, fps=60.0))
    times = torch.cat([piece.times for piece in pieces]).tolist()
    assert len(times) == 119
    assert set(known) <= set(times)


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4, unique=True), st.integers(0, 2**31))
def test_what_stands_still_keeps_its_detail(times: list[float], seed: int) -> None:
    still = Noise.of([seed]).uniform("still", 3, SIDE, SIDE)[:, None] * 1.8 - 0.9
    ends = Video(still.expand(-1, 2, -1, -1, -1), as_times([0.0, 1.0]))
    found = fill_gap(Coarse(), LinearBlend(), ends, sorted(times))
    torch.testing.assert_close(found.frames, still.expand_as(found.frames), atol=1e-6, rtol=0)


@given(st.floats(0, 1), st.floats(-0.2, 0.2), st.floats(-0.2, 0.2))
def test_detail_is_blended_linearly(share: float, first: float, last: float) -> None:
    decoded = torch.full((2, 1, 3, SIDE, SIDE), 0.3)
    lost = torch.full((2, 3, SIDE, SIDE), first), torch.full((2, 3, SIDE, SIDE), last)
    found = with_detail(decoded, lost, torch.tensor([share]))
    torch.testing.assert_close(found, torch.full_like(decoded, 0.3 + (1 - share) * first + share * last))


def test_filled_frames_stay_in_range() -> None:
    decoded, lost = torch.ones(1, 1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5)
    assert torch.equal(with_detail(decoded, (lost, lost), torch.tensor([0.5])), decoded)


@pytest.mark.parametrize("times", [[0.0], [1.0], [-0.1, 0.5], [0.5, 1.2]])
def test_times_outside_a_gap_are_refused(times: list[float]) -> None:
    with pytest.raises(ValueError, match=r"must lie between 0\.0 s and 1\.0 s"):
        fill_gap(IdentityCodec(), LinearBlend(), ramp([0.0, 1.0]), times)


def test_a_gap_has_two_ends() -> None:
    with pytest.raises(ValueError, match="two ends; got 3"):
        fill_gap(IdentityCodec(), LinearBlend(), ramp([0.0, 1.0, 2.0]), [0.5])


@pytest.mark.parametrize(
    ("known", "fps", "match"), [([0.0], 5.0, "two known times"), ([0.0, 1.0], 0.0, "rate must be")]
)
def test_impossible_films_are_refused(known: list[float], fps: float, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        list(fill_video(IdentityCodec(), LinearBlend(), known, ramp, fps=fps))
