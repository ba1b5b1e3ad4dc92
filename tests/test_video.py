"""Videos, trajectories and times: what is given is kept exactly, what makes no sense is refused."""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import config

from flowvid.video import Condition, Said, Trajectory, Video, as_text, as_times, from_bytes, time_grid, to_bytes

seconds = st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=20, unique=True).map(sorted)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """What users meet: no shapes are checked on the way in."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)


def trajectory(times: list[float]) -> Trajectory:
    states = torch.arange(float(2 * len(times) * 4)).reshape(2, len(times), 1, 2, 2)
    return Trajectory(states, as_times(times))


@settings(deadline=None)
@given(seconds)
def test_times_are_kept_to_the_last_bit(times: list[float]) -> None:
    assert as_times(times).tolist() == times
    assert as_times(torch.tensor(times, dtype=torch.float64)).tolist() == times
    assert as_times(times).dtype == torch.float64
    assert as_times(times).device.type == "cpu"


@settings(deadline=None)
@given(seconds.filter(lambda times: len(times) > 1), st.data())
def test_times_out_of_order_are_refused(times: list[float], data: st.DataObject) -> None:
    place = data.draw(st.integers(1, len(times) - 1))
    twice = [*times[:place], times[place - 1], *times[place:]]
    with pytest.raises(ValueError, match=r"increase strictly; got .* Sort them and drop duplicates"):
        as_times(twice)
    with pytest.raises(ValueError, match="increase strictly"):
        as_times(times[::-1])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_times_that_are_not_finite_are_refused(bad: float, place: int) -> None:
    times = [0.0, 1.0, 2.0]
    times[place] = bad
    with pytest.raises(ValueError, match="Times must be finite seconds"):
        as_times(times)


@pytest.mark.parametrize("times", [torch.zeros(0), torch.tensor(1.0), torch.zeros(2, 2)])
def test_times_must_be_a_list(times: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="non-empty list of seconds; got shape"):
        as_times(times)


def test_a_grid_of_steps_1_over_n_has_n_plus_1_points_and_ends_at_the_end() -> None:
    for n in range(1, 1001):
        for stop in (1.0, 3.0):
            grid = time_grid(0.0, stop, 1 / n)
            assert len(grid) == stop * n + 1, n
            assert abs(grid[-1].item() - stop) <= 2 * math.ulp(stop), n


@settings(deadline=None)
@given(st.integers(1, 1000), st.integers(-8, 8), st.integers(0, 50))
def test_grid_points_are_exact_to_rounding(n: int, start: int, index: int) -> None:
    point = time_grid(float(start), start + 60.0, 1 / n)[index].item()
    assert abs(point - float(start + Fraction(index, n))) <= 2 * math.ulp(max(1.0, abs(start) + index / n))


def test_a_grid_stops_before_an_end_that_is_not_on_it() -> None:
    assert time_grid(0.0, 1.0, 0.375).tolist() == [0.0, 0.375, 0.75]
    assert time_grid(2.0, 2.0, 1.0).tolist() == [2.0]


@pytest.mark.parametrize(
    ("start", "stop", "step"),
    [
        (0.0, 1.0, 0.0),
        (0.0, 1.0, -0.1),
        (1.0, 0.0, 0.1),
        (math.nan, 1.0, 0.1),
        (0.0, math.inf, 0.1),
        (0.0, 1.0, math.inf),
    ],
)
def test_impossible_grids_are_refused(start: float, stop: float, step: float) -> None:
    with pytest.raises(ValueError, match="finite start <= stop and step > 0; got start="):
        time_grid(start, stop, step)


def test_a_video_keeps_frames_and_times() -> None:
    frames = torch.linspace(-1, 1, 2 * 3 * 4 * 4).reshape(2, 3, 1, 4, 4)
    video = Video(frames, as_times([0.0, 1 / 3, 5.0]))
    assert len(video) == 2
    assert video.frames is frames
    assert video.times.tolist() == [0.0, 1 / 3, 5.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_frames_that_are_not_finite_are_refused(bad: float) -> None:
    frames = torch.zeros(2, 1, 1, 4, 4)
    frames[1, 0, 0, 2, 3] = bad
    with pytest.raises(ValueError, match=r"finite and lie in .* these range from"):
        Video(frames, as_times([0.0]))


@pytest.mark.parametrize("value", [1.01, -1.01, 255.0])
def test_frames_out_of_range_are_refused(value: float) -> None:
    frames = torch.zeros(1, 1, 1, 2, 2)
    frames[0, 0, 0, 1, 1] = value
    with pytest.raises(ValueError, match=r"these range from .* use x / 127.5 - 1"):
        Video(frames, as_times([0.0]))


_LAYOUT = r"\[batch, time, channel, height, width\]; got torch.float32 with shape \(1, 2, 4, 4\)"
_EITHER = [
    (torch.zeros(1, 2, 1, 4, 4, dtype=torch.uint8), "must be floating point .* got torch.uint8"),
    (torch.zeros(1, 3, 1, 4, 4), "hold 3 moments but 2 times were given"),
]


@pytest.mark.parametrize(
    ("kind", "values", "match"),
    [
        (Video, torch.zeros(1, 2, 4, 4), _LAYOUT),
        (Trajectory, torch.zeros(2), r"\[batch, time, \*state\]; got torch.float32 with shape \(2,\)"),
        *((kind, *case) for kind in (Video, Trajectory) for case in _EITHER),
    ],
)
def test_wrong_layouts_are_refused(unchecked: None, kind: type, values: torch.Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        kind(values, as_times([0.0, 1.0]))


@settings(deadline=None)
@given(st.permutations(range(5)), st.integers(1, 5))
def test_at_picks_the_states_of_the_times(order: list[int], count: int) -> None:
    whole, chosen = trajectory([0.0, 0.1, 1 / 3, 2.0, 7.5]), sorted(order[:count])
    part = whole.at(*whole.times[chosen].tolist())
    assert torch.equal(part.states, whole.states[:, chosen])
    assert torch.equal(part.times, whole.times[chosen])


def test_at_refuses_a_time_that_is_not_known() -> None:
    with pytest.raises(ValueError, match=r"No state is known at 0.5 s; known times are \[0.0, 1.0\] s"):
        trajectory([0.0, 1.0]).at(0.0, 0.5)


@settings(deadline=None)
@given(st.floats(-1, 8), st.floats(-1, 8))
def test_between_keeps_both_ends(one: float, other: float) -> None:
    whole, (start, stop) = trajectory([0.0, 0.1, 1 / 3, 2.0, 7.5]), sorted((one, other))
    inside = [index for index, time in enumerate(whole.times.tolist()) if start - 1e-9 <= time <= stop + 1e-9]
    if inside:
        part = whole.between(start, stop)
        assert torch.equal(part.states, whole.states[:, inside])
        assert torch.equal(part.times, whole.times[inside])
    else:
        with pytest.raises(ValueError, match=r"No state lies between .* covers \[0.0, 7.5\] s"):
            whole.between(start, stop)


def test_between_includes_its_ends() -> None:
    assert trajectory([0.0, 1.0, 2.0, 3.0]).between(1.0, 2.0).times.tolist() == [1.0, 2.0]


def test_a_condition_gives_what_is_known_or_refuses() -> None:
    known = trajectory([0.0, 0.125])
    assert Condition(known).require() is known
    with pytest.raises(ValueError, match="holds none; give at least one"):
        Condition().require()


def test_bytes_become_frames_from_end_to_end_and_stay_what_they_are() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    before = pixels.clone()
    frames = from_bytes(pixels)
    assert (frames[0].item(), frames[-1].item()) == (-1.0, 1.0)
    kept = frames.clone()
    assert torch.equal(to_bytes(frames), before)
    assert torch.equal(frames, kept)
    assert torch.equal(pixels, before)
    assert to_bytes(torch.tensor([-1.2, -1.0, 0.0, 0.0079, 1.0, 1.3])).tolist() == [0, 0, 128, 129, 255, 255]


def test_text_is_one_entry_for_each_sample_in_any_of_its_forms() -> None:
    said = as_text(["a", None, (1.5, "b"), [(0, "c"), (2.0, "d")], Said("e"), ["f", Said("g", 3.0)], []])
    assert said == (
        (Said("a"),),
        (),
        (Said("b", 1.5),),
        (Said("c", 0.0), Said("d", 2.0)),
        (Said("e"),),
        (Said("f"), Said("g", 3.0)),
        (),
    )
    assert as_text(said) == said
    assert Condition(text=["a", (1.0, "b")]).text == as_text(["a", (1.0, "b")])


@pytest.mark.parametrize("wrong", ["one string", [3], [(1.0, 2.0)], [{"a": 1}], [[("now", "a"), 4]]], ids=str)
def test_what_is_no_text_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"[tT]ext"):
        as_text(wrong)


def test_words_belong_to_finite_times() -> None:
    with pytest.raises(ValueError, match="finite time"):
        Said("a", math.inf)


def test_a_condition_has_one_text_for_each_sample_and_models_that_do_not_read_refuse_it() -> None:
    known = Trajectory(torch.zeros(2, 1, 3), torch.tensor([0.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="each of the 2 samples"):
        Condition(known, ["only one"])
    with pytest.raises(ValueError, match="does not read text"):
        Condition(known, ["one", "two"]).states_only()
    assert Condition(known).states_only() is known
