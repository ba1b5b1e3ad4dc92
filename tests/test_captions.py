"""Captions: sentences hold all that the structure says, and structures say what the closed forms do."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flowvid.data.worlds.captions import (
    CORNERS,
    DIRECTIONS,
    MOTIONS,
    PLACES,
    SENSES,
    SPEEDS,
    SUBJECTS,
    SURFACES,
    WALLS,
    Caption,
    Event,
    Part,
    parse,
    split_words,
    vocabulary,
)
from flowvid.data.worlds.clips import FAMILIES, Clip, World
from flowvid.data.worlds.describe import (
    compass,
    describe,
    describe_moment,
    pace,
    place_word,
    surface_hit,
    timed_captions,
)
from flowvid.data.worlds.motions import Flight, Motion, Orbit, Oscillation, Pendulum, Spin

WAYS = {"right": (1, 0), "down": (0, 1), "left": (-1, 0), "up": (0, -1)}


@st.composite
def parts(draw: st.DrawFn) -> dict[str, Any]:
    """Fields of a part."""
    motion = draw(st.sampled_from(MOTIONS))
    moves, turns = motion not in ("rest", "spin"), motion in ("spin", "orbit")
    sense = draw(st.sampled_from((None, *SENSES)) if motion == "flight" else st.sampled_from(SENSES))
    way = st.sampled_from((None, "rest", *DIRECTIONS))
    return dict(
        subject=draw(st.sampled_from(SUBJECTS)),
        motion=motion,
        direction=draw(st.sampled_from(DIRECTIONS)) if moves else None,
        sense=sense if turns or motion == "flight" else None,
        speed=draw(st.sampled_from(SPEEDS)) if motion != "rest" else None,
        events=draw(st.lists(st.tuples(st.sampled_from(SURFACES), way, st.floats(0, 9)), max_size=4)),
        place=draw(st.sampled_from((None, *PLACES))),
    )


def built(fields: dict[str, Any]) -> Part:
    return Part(**{**fields, "events": tuple(Event(*event) for event in fields["events"])})


@given(st.lists(parts(), min_size=1, max_size=3), st.none() | st.floats(-1e9, 1e9))
def test_a_sentence_says_all_of_a_caption_in_words_of_the_vocabulary(
    fields: list[dict[str, Any]], time: float | None
) -> None:
    caption = Caption(tuple(map(built, fields)), time)
    assert parse(str(caption)) == caption
    assert str(parse(str(caption))) == str(caption)
    assert set(split_words(str(caption))) <= set(vocabulary())


def test_sentences_read_like_this() -> None:
    bounce = Part(
        subject="seven",
        motion="flight",
        direction="up and right",
        speed="slowly",
        events=(Event("right wall", None, 1.0),),
    )
    assert str(Caption((bounce,))) == "the seven moves up and right, slowly, and bounces off the right wall"
    ball = Part(
        subject="ball",
        motion="flight",
        direction="left",
        sense="clockwise",
        speed="quickly",
        events=(Event("another", "rest"), Event("top left corner"), Event("top wall", "down")),
        place="in the middle",
    )
    text = (
        "the ball in the middle moves left, turning clockwise, quickly, and bounces off another, coming to rest, "
        "then off the top left corner, then off the top wall, going down"
    )
    assert str(Caption((ball, Part(subject="one", motion="rest")), 1.5)) == f"at 1.5 s {text}, while the one rests"
    others = {
        "orbit": "circles clockwise, first up, slowly",
        "oscillation": "goes back and forth, first up, slowly",
        "pendulum": "swings, first up, slowly",
    }
    for motion, words in others.items():
        sense = "clockwise" if motion == "orbit" else None
        part = Part(subject="two", motion=motion, direction="up", speed="slowly", sense=sense)
        assert str(part) == f"the two {words}"
    assert str(Part(subject="two", motion="spin", sense="clockwise", speed="at a medium pace")) == (
        "the two turns clockwise, at a medium pace"
    )


@pytest.mark.parametrize(
    ("time", "said"), [(0.0, "0"), (-0.0, "0"), (-0.0001, "0"), (100.0, "100"), (1 / 3, "0.333"), (-2.25, "-2.25")]
)
def test_times_are_said_in_milliseconds(time: float, said: str) -> None:
    caption = Caption((Part(subject="one", motion="rest"),), time)
    assert str(caption) == f"at {said} s the one rests"
    assert caption.time == float(said)


def test_when_a_bounce_happened_is_known_but_neither_said_nor_compared() -> None:
    assert Event("left wall", None, 1.0) == Event("left wall", None, 2.0) != Event("right wall", None, 1.0)
    assert Event("left wall", None, 1.0).time == 1.0


def test_the_vocabulary_is_fixed_sorted_and_split_into_words() -> None:
    words = vocabulary()
    assert list(words) == sorted(set(words))
    assert {"seven", "bounces", "at", "s", "1", ".", "-", ",", "clockwise", "corner", "another"} <= set(words)
    assert split_words("at -1.25 s the one rests, while") == [
        *("at", "-", "1", ".", "2", "5", "s", "the", "one", "rests", ",", "while")
    ]
    with pytest.raises(ValueError, match="got 'T'"):
        split_words("The one")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the eleven rests",
        "the one moves up",
        "the one moves up and right and slowly",
        "the one rests, then off the top wall",
        "the one rests, and bounces off the wall",
        "the one rests, and bounces off the top wall, and bounces off the left wall",
        "the one rests, while",
        "at x s the one rests",
        "the one rests\n",
        "the one turns left, slowly",
    ],
)
def test_other_sentences_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"caption"):
        parse(text)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"subject": "cat", "motion": "rest"}, "subject of a caption is one of"),
        ({"motion": "jump"}, "motion of a caption is one of"),
        ({"motion": "flight", "speed": "slowly"}, "flight needs a direction"),
        ({"motion": "rest", "direction": "up"}, "rest has no direction"),
        ({"motion": "spin", "speed": "slowly"}, "spin needs a sense"),
        ({"motion": "pendulum", "direction": "up", "speed": "slowly", "sense": "clockwise"}, "pendulum has no sense"),
        ({"motion": "flight", "direction": "up"}, "flight needs a speed"),
        ({"motion": "flight", "direction": "north", "speed": "slowly"}, "direction of a caption is one of"),
        ({"motion": "flight", "direction": "up", "speed": "fast"}, "speed of a caption is one of"),
        ({"motion": "flight", "direction": "up", "speed": "slowly", "sense": "left"}, "sense of a caption is one of"),
        ({"motion": "rest", "place": "here"}, "place of a caption is one of"),
    ],
)
def test_parts_say_only_what_goes_with_their_motion(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Part(**{"subject": "one", **fields})


def test_events_and_captions_are_checked() -> None:
    with pytest.raises(ValueError, match="surface"):
        Event("wall")
    with pytest.raises(ValueError, match="way out"):
        Event("left wall", "away")
    with pytest.raises(ValueError, match="at least one part"):
        Caption(())
    for time in (math.nan, math.inf, 2e9):
        with pytest.raises(ValueError, match="finite"):
            Caption((Part(subject="one", motion="rest"),), time)


# Words


@given(st.floats(-math.pi, math.pi), st.floats(0.1, 10))
def test_directions_are_sectors_of_45_degrees(angle: float, speed: float) -> None:
    """A direction's name holds the axis words within 67.5 degrees of it, on the screen, where y points down."""
    velocity = speed * math.cos(angle), speed * math.sin(angle)
    words = compass(velocity).split(" and ")
    for word, (x, y) in WAYS.items():
        away = math.acos(max(-1, min(1, (velocity[0] * x + velocity[1] * y) / speed)))
        if abs(away - math.radians(67.5)) > 1e-6:
            assert (word in words) == (away < math.radians(67.5))


def test_bounds_belong_to_the_quicker_word() -> None:
    assert [pace(rate) for rate in (0.0, 0.1799, 0.18, 0.2299, 0.23, 9.0)] == [SPEEDS[n] for n in (0, 0, 1, 1, 2, 2)]
    assert pace(0.2, (0.3, 0.4)) == "slowly"


def test_places_are_ninths_read_like_a_page() -> None:
    assert [place_word((x, y), 30) for y in (5.0, 15.0, 25.0) for x in (5.0, 15.0, 25.0)] == list(PLACES)
    assert place_word((-3.0, 31.0), 30) == "at the bottom left"


@pytest.mark.parametrize("surface", [*WALLS, *CORNERS])
def test_walls_are_told_by_the_components_that_turn(surface: str) -> None:
    words = surface.split()
    way = np.array([("right" in words) - ("left" in words), ("bottom" in words) - ("top" in words)]) * 2.0
    along = np.where(way == 0, 0.5, 0)
    place = 10 + 4 * way
    touched = {wall for wall in WALLS if wall.split()[0] in words}
    assert surface_hit(way + along, -way + along, place, 20, touched) == surface
    assert surface_hit(way + along, -way + along, 20 - place, 20, touched) == "another"
    assert surface_hit(-way + along, way + along, place, 20, touched) == "another"


def test_of_two_components_that_turn_the_touched_or_nearer_wall_counts() -> None:
    before, after = np.array([1.0, 1.0]), np.array([-1.0, -0.5])
    assert surface_hit(before, after, np.array([16.0, 15.0]), 20, ()) == "right wall"
    assert surface_hit(before, after, np.array([15.0, 16.0]), 20, ()) == "bottom wall"
    assert surface_hit(before, after, np.array([16.0, 15.0]), 20, {"bottom wall"}) == "bottom wall"


# Scenes


def clip(*motions: Motion, canvas: int = 20, labels: Sequence[int] = (7, 2)) -> Clip:
    """Round glyphs of 3 x 3 pixels, whose ink reaches 2 pixels from their centre, in boxes that ink keeps inside."""
    glyphs = torch.zeros(len(motions), 8, 8)
    glyphs[:, 2:5, 2:5] = 1
    return Clip(glyphs, motions, tuple(labels[: len(motions)]), canvas, 1, 0)


def flight(start: tuple[float, float], velocity: tuple[float, float]) -> Flight:
    return Flight(start, velocity, (2.0, 2.0), (18.0, 18.0))


@dataclass
class Things:
    """A scene of anything, without labels; ``jumps`` are the times of events."""

    motions: tuple[Motion, ...]
    jumps: tuple[float, ...] = ()
    canvas: int = 20
    seed: int = 0

    def frames(self, times: Sequence[float]) -> Tensor:
        return torch.full((len(times), 1, self.canvas, self.canvas), -1.0)

    def positions(self, times: Sequence[float]) -> Tensor:
        return torch.from_numpy(np.stack([motion.position(np.array(times)) for motion in self.motions], axis=1))

    def velocities(self, times: Sequence[float]) -> Tensor:
        return torch.from_numpy(np.stack([motion.velocity(np.array(times)) for motion in self.motions], axis=1))

    def events(self, start: float, stop: float) -> Tensor:
        return torch.tensor([jump for jump in self.jumps if start <= jump <= stop], dtype=torch.float64)


@dataclass
class Bent:
    """Through a place at a time, at one velocity before it and another after it."""

    place: tuple[float, float]
    time: float
    before: tuple[float, float]
    after: tuple[float, float]

    def position(self, times: np.ndarray) -> np.ndarray:
        return np.array(self.place) + (times - self.time)[:, None] * self.velocity(times)

    def velocity(self, times: np.ndarray) -> np.ndarray:
        return np.where((times >= self.time)[:, None], self.after, self.before).astype(float)


def test_the_sentence_of_the_seven() -> None:
    seven = clip(flight((10.0, 14.0), (2.0, -1.0)))
    assert str(describe(seven, 0.0, 5.0)) == "the seven moves up and right, slowly, and bounces off the right wall"
    assert describe(seven, 0.0, 5.0).parts[0].events[0].time == pytest.approx(4.0)
    assert str(describe(seven, 0.0, 3.99)) == "the seven moves up and right, slowly"
    assert str(describe(seven, 4.0, 6.0)) == "the seven moves up and left, slowly"
    assert str(describe(seven, 3.99, 4.0)) == "the seven moves up and right, slowly, and bounces off the right wall"
    up = describe(seven, 4.0, 20.0).parts[0].events
    assert [event.surface for event in up] == ["top left corner", "right wall"]
    assert [event.time for event in up] == pytest.approx([12.0, 20.0])


def test_bounces_are_told_in_order_and_of_each_digit_by_itself() -> None:
    both = clip(flight((4.0, 10.0), (-4.0, 8.0)), flight((10.0, 3.0), (0.0, -1.0)))
    said = describe(both, 0.0, 3.2)
    assert [event.surface for event in said.parts[0].events] == ["left wall", "bottom wall", "top wall"]
    assert [event.time for event in said.parts[0].events] == pytest.approx([0.5, 1.0, 3.0])
    assert [event.surface for event in said.parts[1].events] == ["top wall"]
    assert all(event.then is None for part in said.parts for event in part.events)
    assert [part.subject for part in said.parts] == ["seven", "two"]
    assert [part.speed for part in said.parts] == ["quickly", "slowly"]


@given(st.sampled_from((*FAMILIES, "mixed")), st.integers(1, 2), st.integers(0, 2**60), st.floats(-3, 3))
def test_every_digit_of_every_family_is_described(motion: str, digits: int, seed: int, start: float) -> None:
    scene = World(motion=motion, digits=digits).clip(seed, "test")
    said = describe(scene, start, start + 1.3)
    assert parse(str(said)) == said
    names = {Flight: "flight", Spin: "spin", Oscillation: "oscillation", Orbit: "orbit", Pendulum: "pendulum"}
    assert [part.motion for part in said.parts] == [names[type(motion)] for motion in scene.motions]
    assert [SUBJECTS.index(part.subject) for part in said.parts] == list(scene.labels)
    times = np.linspace(start, start + 1.3, 4001)[1:-1]
    for i, (part, path) in enumerate(zip(said.parts, scene.motions, strict=True)):
        speeds = np.linalg.norm(path.velocity(times), axis=1) / scene.canvas
        if part.motion == "spin":
            assert part.speed == pace(path.frequency, (0.23, 0.32))
            assert part.sense == SENSES[(1 - path.direction) // 2]
        elif min(abs(speeds.mean() - bound) for bound in (0.18, 0.23)) > 2e-3:
            assert part.speed == pace(float(speeds.mean()))
        if part.motion == "orbit":
            assert part.sense == SENSES[(1 - path.direction) // 2]
        if part.direction is not None:
            assert part.direction == compass(path.velocity(np.array([start + 1e-6]))[0])
        hits = [event.time for event in part.events]
        assert hits == pytest.approx(path.events(start, start + 1.3).tolist())
        for event in part.events:
            x, y = scene.positions([event.time])[0, i].tolist()
            walls = {
                "left": path.low[0] - x,
                "right": x - path.high[0],
                "top": path.low[1] - y,
                "bottom": y - path.high[1],
            }
            assert all(walls[word] == pytest.approx(0, abs=1e-6) for word in event.surface.split()[:-1])


def test_what_rests_and_what_turns_on_its_way() -> None:
    still = Flight((10.0, 10.0), (0.0, 0.0), (2.0, 2.0), (18.0, 18.0))
    assert str(describe(clip(still), 0.0, 1.0)) == "the seven rests"
    assert (
        str(describe(clip(Spin(still, 0.3, direction=-1)), 0.0, 1.0))
        == "the seven turns anticlockwise, at a medium pace"
    )
    flying = Spin(flight((5.0, 5.0), (5.0, 0.0)), 0.3)
    assert str(describe(clip(flying), 0.0, 1.0)) == "the seven moves right, turning clockwise, quickly"
    swinging = Pendulum((10.0, 4.0), 8.0, 0.5, 0.5, turns=True)
    assert str(describe(clip(swinging), 0.1, 1.0)) == "the seven swings, first down and left, quickly"


def test_both_walls_at_once_are_a_corner() -> None:
    said = describe(clip(flight((10.0, 10.0), (-2.0, 2.0))), 0.0, 5.0)
    assert said.parts[0].events == (Event("bottom left corner"),)


def test_a_way_out_that_is_no_mirror_image_is_said() -> None:
    ball = Things((Bent((18.0, 10.0), 1.0, (3.0, 0.0), (-2.0, -2.0)),), (1.0,))
    assert describe(ball, 0.0, 2.0).parts[0].events == (Event("right wall", "up and left"),)
    assert describe(ball, 0.0, 2.0).parts[0].subject == "ball"
    plain = Things((Bent((18.0, 10.0), 1.0, (3.0, 1.0), (-3.0, 1.0)),), (1.0,))
    assert describe(plain, 0.0, 2.0).parts[0].events == (Event("right wall"),)


def test_balls_that_collide_bounce_off_each_other() -> None:
    """Equal masses, head on along x: one is stopped, the other goes on in its stead."""
    left = Bent((8.0, 10.0), 1.0, (4.0, 1.0), (0.0, 1.0))
    right = Bent((12.0, 10.0), 1.0, (0.0, 0.0), (4.0, 0.0))
    said = describe(Things((left, right), (1.0,)), 0.0, 2.0)
    assert [part.events for part in said.parts] == [(Event("another", "down"),), (Event("another", "right"),)]
    assert [part.motion for part in said.parts] == ["flight", "rest"]
    halted = Things((Bent((8.0, 10.0), 1.0, (4.0, 0.0), (0.0, 0.0)), right), (1.0,))
    assert describe(halted, 0.0, 2.0).parts[0].events == (Event("another", "rest"),)
    assert str(describe(halted, 0.0, 2.0)) == (
        "the ball moves right, at a medium pace, and bounces off another, coming to rest, "
        "while the ball rests, and bounces off another, going right"
    )


def test_two_that_bounce_off_walls_at_one_time_do_not_collide() -> None:
    both = clip(flight((4.0, 6.0), (-2.0, 0.0)), flight((16.0, 12.0), (2.0, 0.0)))
    said = describe(both, 0.0, 2.0)
    assert [part.events for part in said.parts] == [(Event("left wall"),), (Event("right wall"),)]


def test_unlabelled_things_are_bobs_where_they_swing() -> None:
    bobs = Things((Pendulum((10.0, 4.0), 8.0, 0.5, 0.5), Pendulum((14.0, 4.0), 8.0, 0.3, 0.4)))
    assert [part.subject for part in describe(bobs, 0.0, 1.0).parts] == ["bob", "bob"]
    assert describe_moment(bobs, 0.3).parts[0].subject == "bob"
    assert describe(Things((Orbit((10.0, 10.0), 4.0, 0.5),)), 0.0, 1.0).parts[0].subject == "ball"


def test_timed_captions_tell_place_direction_and_speed_of_moments() -> None:
    seven = clip(flight((4.0, 14.0), (4.0, -4.0)), Spin.at((10.0, 10.0), frequency=0.25, direction=-1))
    assert timed_captions(seven, [0.0, 1.5]) == [
        (0.0, "at 0 s the seven at the bottom left moves up and right, quickly, "
              "while the two in the middle turns anticlockwise, at a medium pace"),
        (1.5, "at 1.5 s the seven in the middle moves up and right, quickly, "
              "while the two in the middle turns anticlockwise, at a medium pace"),
    ]  # fmt: skip
    assert (
        str(describe_moment(clip(flight((4.0, 14.0), (0.1, 0.0))), 0.0)) == "at 0 s the seven at the bottom left rests"
    )
    after = describe_moment(clip(flight((10.0, 14.0), (2.0, -1.0))), 4.0)
    assert after.parts[0].direction == "up and left"


def test_captions_need_a_span_or_a_moment() -> None:
    seven = clip(flight((10.0, 14.0), (2.0, -1.0)))
    for start, stop in ((1.0, 1.0), (1.0, 0.0), (0.0, math.inf), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="finite start to a later stop"):
            describe(seven, start, stop)
    with pytest.raises(ValueError, match="finite time"):
        describe_moment(seven, math.nan)
