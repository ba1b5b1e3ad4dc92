"""The reader: tracks and curves recover known motions, and captions of held-out clips are read back from frames."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowvid.data.worlds.captions import Caption, Event, Part
from flowvid.data.worlds.clips import Clip, World, clip_positions, render_clips
from flowvid.data.worlds.describe import describe
from flowvid.data.worlds.digits import ink_box, load_glyphs
from flowvid.data.worlds.motions import Flight, Motion, Pendulum, Spin
from flowvid.metrics.identity import DigitClassifier
from flowvid.metrics.paths import fit_path
from flowvid.metrics.reader import CaptionScore, DigitReader, caption_score
from flowvid.metrics.tracks import Track, ink_tracks
from flowvid.video import Video, time_grid

TIMES = time_grid(0.0, 4.0, 1 / 12)
SCORES = tuple(field.name for field in dataclasses.fields(CaptionScore))


@pytest.fixture(scope="module")
def classifier() -> DigitClassifier:
    return DigitClassifier.fit()


def track(motion: Motion, times: torch.Tensor = TIMES, noise: float = 0.03) -> Track:
    """What is seen of a point, with the noise of a centroid."""
    seconds = times.numpy()
    points = motion.position(seconds) + noise * np.random.default_rng(0).normal(size=(len(seconds), 2))
    return Track(seconds, points, np.zeros((len(seconds), 4, 4)))


def scores_of(score: CaptionScore) -> dict[str, float]:
    return {name: float(getattr(score, name).mean()) for name in SCORES}


# Tracks


def test_tracks_of_two_digits_are_the_true_positions_where_they_are_apart() -> None:
    clips = World(digits=2, canvas=64, speed=(8.0, 18.0)).clips(range(4), "test")
    video, truth = render_clips(clips, TIMES), clip_positions(clips, TIMES).numpy()
    before = video.frames.clone()
    found = []
    for tracks, places in zip(ink_tracks(video, 2), truth, strict=True):
        orders = []
        for order in itertools.permutations(range(2)):
            away = [
                np.abs(seen.positions - places[np.searchsorted(TIMES.numpy(), seen.times), i])
                for i, seen in zip(order, tracks, strict=True)
            ]
            orders.append(max(errors.max() for errors in away))
        assert min(orders) < 0.3
        found.append(len(tracks[0].times))
    assert min(found) >= 5
    assert sum(found) > 0.5 * len(clips) * len(TIMES)
    assert torch.equal(video.frames, before)


def test_a_frame_that_does_not_show_things_apart_is_left_out() -> None:
    frames = torch.full((1, 6, 1, 12, 24), -1.0)
    frames[0, :, 0, 4:8, 2:6] = 1
    frames[0, :, 0, 4:8, 16:20] = 0.6
    frames[0, 2, 0, 4:8, 6:16] = 1
    frames[0, 4, 0, 4:8, 16:20] = -1
    video = Video(frames, torch.arange(6, dtype=torch.float64))
    left, right = sorted(ink_tracks(video, 2)[0], key=lambda one: one.positions[0, 0])
    assert left.times.tolist() == right.times.tolist() == [0, 1, 3, 5]
    assert np.allclose(left.positions, [4, 6])
    assert np.allclose(right.positions, [18, 6])
    assert left.ink[:, :, 12:].max() == 0
    assert right.ink[0, 5, 17] == pytest.approx(0.8)


def test_things_that_cross_are_told_by_what_they_look_like() -> None:
    """A bar and a block meet in the middle and go on, or turn back: the ink tells which."""
    for passes in (True, False):
        frames = torch.full((1, 13, 1, 16, 44), -1.0)
        for n in range(13):
            place = n if passes or n <= 6 else 12 - n
            frames[0, n, 0, 2:14, 3 + 3 * place : 5 + 3 * place] = 1
            frames[0, n, 0, 5:10, 37 - 3 * place : 42 - 3 * place] = 1
        video = Video(frames, torch.arange(13, dtype=torch.float64))
        bar, block = sorted(ink_tracks(video, 2)[0], key=lambda one: one.positions[0, 0])
        assert 5 < len(bar.times) < 13
        assert bar.positions[0, 0] == pytest.approx(4)
        assert bar.positions[-1, 0] == pytest.approx(40 if passes else 4)
        assert block.positions[-1, 0] == pytest.approx(3.5 if passes else 39.5)


def test_nothing_to_see_makes_an_empty_track() -> None:
    empty = Video(torch.full((1, 6, 1, 8, 8), -1.0), torch.arange(6, dtype=torch.float64))
    for things in (1, 2):
        assert [len(one.times) for one in ink_tracks(empty, things)[0]] == [0] * things
        assert DigitReader(DigitClassifier.fit(), things).read(empty) == [None]


# Curves


@settings(max_examples=12)
@given(st.integers(0, 2**60))
def test_bounces_are_found_where_they_are(seed: int) -> None:
    path = World().clip(seed, "train").motions[0]
    hits = path.events(0.0, 4.0)
    found = fit_path(track(path))
    edges = np.concatenate(([0.0], hits, [4.0]))
    if np.diff(edges).min() < 0.3 or any(
        np.abs(path.velocity(np.array([hit + 1e-6])) - path.velocity(np.array([hit - 1e-6]))).max() < 2 for hit in hits
    ):
        return
    assert found.kind == "straight"
    assert [kink.time for kink in found.kinks] == pytest.approx(hits.tolist(), abs=0.05)
    for kink in found.kinks:
        for seen, at in ((kink.before, kink.time - 0.1), (kink.after, kink.time + 0.1), (kink.position, None)):
            truth = path.position(np.array([kink.time])) if at is None else path.velocity(np.array([at]))
            assert np.abs(seen - truth[0]).max() < 0.6
    assert np.abs(found.position(TIMES.numpy()) - path.position(TIMES.numpy())).max() < 0.15
    middle = (edges[:-1] + edges[1:]) / 2
    assert np.abs(found.velocity(middle) - path.velocity(middle)).max() < 0.5
    assert found.misfit == pytest.approx(0.03 * math.sqrt(2), rel=0.3)


@settings(max_examples=12)
@given(st.sampled_from(("oscillation", "orbit", "pendulum")), st.integers(0, 2**60), st.floats(-5, 5))
def test_curves_are_those_of_the_motion(motion: str, seed: int, start: float) -> None:
    path = World(motion=motion).clip(seed, "train").motions[0]
    times = TIMES + start
    if np.ptp(path.position(times.numpy()), axis=0).max() < 3:
        return
    found = fit_path(track(path, times))
    assert found.kind == ("arc" if motion == "pendulum" else "wave")
    assert np.abs(found.position(times.numpy()) - path.position(times.numpy())).max() < 0.15
    inner = times.numpy()[4:-4]
    assert np.abs(found.velocity(inner) - path.velocity(inner)).max() < 0.8
    step = 1e-5
    slope = (found.position(inner + step) - found.position(inner - step)) / (2 * step)
    assert np.allclose(slope, found.velocity(inner), atol=1e-4)


def test_a_path_needs_five_frames() -> None:
    with pytest.raises(ValueError, match=r"at least five frames.*got 4"):
        fit_path(track(Flight((5.0, 5.0), (1.0, 0.0), (0.0, 0.0), (9.0, 9.0)), TIMES[:4]))
    found = fit_path(track(Flight((5.0, 5.0), (1.0, 0.5), (0.0, 0.0), (9.0, 9.0)), TIMES[:5], noise=0.0))
    assert found.kinks == ()
    assert np.allclose(found.velocity(np.array([0.1])), [[1.0, 0.5]])


# Captions


def chance(captions: Sequence[Caption]) -> dict[str, float]:
    """What a perfect reader gives when captions are dealt out at random: how often two clips' words agree."""

    def said(part: Part) -> dict[str, object]:
        return {
            "digit": part.subject,
            "motion": part.motion,
            "direction": (part.direction, part.sense),
            "speed": part.speed,
            "events": part.events,
        }

    words = [said(caption.parts[0]) for caption in captions]
    pairs = list(itertools.permutations(words, 2))
    return {name: sum(one[name] == other[name] for one, other in pairs) / len(pairs) for name in words[0]}


@pytest.mark.parametrize(
    ("motion", "least"),
    [
        ("flight", {"events": 0.85, "all": 0.8}),
        ("spin", {"speed": 0.85, "all": 0.85}),
        ("oscillation", {}),
        ("orbit", {}),
        ("pendulum", {"direction": 0.85, "all": 0.85}),
    ],
)
def test_held_out_clips_do_what_their_captions_say(
    classifier: DigitClassifier, motion: str, least: dict[str, float]
) -> None:
    clips = World(motion=motion).clips(range(8), "test")
    video = render_clips(clips, TIMES)
    captions = [describe(clip, 0.0, 4.0) for clip in clips]
    before = video.frames.clone()
    reader = DigitReader(classifier)
    score = caption_score(reader, video, captions)
    assert torch.equal(video.frames, before)
    found = scores_of(score)
    for name in SCORES:
        assert found[name] >= least.get(name, 0.95 if name in ("digit", "motion") else 0.85)


def test_shuffled_captions_score_as_chance_has_it(classifier: DigitClassifier) -> None:
    clips = World(motion="mixed").clips(range(24), "test")
    captions = [describe(clip, 0.0, 4.0) for clip in clips]
    found = scores_of(
        caption_score(DigitReader(classifier), render_clips(clips, TIMES[::2]), captions[5:] + captions[:5])
    )
    for name, share in chance(captions).items():
        assert abs(found[name] - share) <= 3 * math.sqrt(share * (1 - share) / len(clips)) + 0.02
    assert found["all"] <= 0.05


def test_what_is_read_is_what_was_described(classifier: DigitClassifier) -> None:
    clips = World().clips(range(8), "test")
    read = DigitReader(classifier).read(render_clips(clips, TIMES))
    truth = [describe(clip, 0.0, 4.0) for clip in clips]
    same = [one == other for one, other in zip(read, truth, strict=True)]
    assert sum(same) >= 6
    for one, other, right in zip(read, truth, same, strict=True):
        if right and one is not None:
            times = [event.time for event in one.parts[0].events]
            assert times == pytest.approx([event.time for event in other.parts[0].events], abs=0.05)


def test_two_digits_are_read_where_there_is_room(classifier: DigitClassifier) -> None:
    clips = World(digits=2, canvas=64, speed=(8.0, 18.0), motion="mixed").clips(range(4), "test")
    video = render_clips(clips, TIMES)
    captions = [describe(clip, 0.0, 4.0) for clip in clips]
    reader = DigitReader(classifier, 2)
    found = caption_score(reader, video, captions)
    assert min(scores_of(found)[name] for name in SCORES if name != "all") > 0.85
    assert float(found.all.mean()) > 0.6
    turned = [Caption(caption.parts[::-1]) for caption in captions]
    again = caption_score(reader, video, turned)
    assert all(torch.equal(getattr(again, name), getattr(found, name)) for name in SCORES)


def glyph(digit: int) -> torch.Tensor:
    glyphs = load_glyphs("train")
    return glyphs.images[glyphs.labels == digit][:1]


def walls(digit: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where the ink of the glyph touches the edges."""
    left, right, up, down = (2 * side for side in ink_box(glyph(digit)[0]))
    return (left, up), (32 - right, 32 - down)


def one(digit: int, motion: Motion, times: torch.Tensor = TIMES) -> Video:
    return render_clips([Clip(glyph(digit), (motion,), (digit,), 32, 2, 0)], times)


@pytest.mark.parametrize(("rate", "sense"), [(0.4, "clockwise"), (-0.3, "anticlockwise"), (0.1, "clockwise")])
def test_spins_are_read_with_sense_and_rate(classifier: DigitClassifier, rate: float, sense: str) -> None:
    motion = Spin.at((16.0, 16.0), frequency=abs(rate), phase=2.0, direction=1 if rate > 0 else -1)
    speed = {0.4: "quickly", 0.3: "at a medium pace", 0.1: "slowly"}[abs(rate)]
    expected = Caption((Part(subject="four", motion="spin", sense=sense, speed=speed),))
    assert DigitReader(classifier).read(one(4, motion)) == [expected]
    assert DigitReader(classifier).read(one(4, motion, TIMES + 10)) == [expected]


def test_rest_is_read(classifier: DigitClassifier) -> None:
    rest = Flight((16.0, 16.0), (0.0, 0.0), (8.0, 8.0), (24.0, 24.0))
    assert DigitReader(classifier).read(one(3, rest)) == [Caption((Part(subject="three", motion="rest"),))]
    swing = Pendulum((16.0, 6.0), 8.0, 0.6, 0.3)
    read = DigitReader(classifier).read(one(3, swing))
    assert read[0] is not None
    assert read[0].parts[0].motion == "pendulum"


def test_each_attribute_is_scored_by_itself(classifier: DigitClassifier) -> None:
    clip = Clip(glyph(7), (Flight((walls(7)[1][0] - 5.0, 18.0), (5.0, -1.5), *walls(7)),), (7,), 32, 2, 0)
    times = TIMES[:25]
    video, truth = render_clips([clip], times), describe(clip, 0.0, 2.0)
    part = truth.parts[0]
    assert [event.surface for event in part.events] == ["right wall"]
    reader = DigitReader(classifier)
    assert set(scores_of(caption_score(reader, video, [truth])).values()) == {1.0}
    for name, changed in {
        "digit": {"subject": "one"},
        "direction": {"direction": "up"},
        "speed": {"speed": "quickly" if part.speed == "slowly" else "slowly"},
        "motion": {"motion": "oscillation"},
    }.items():
        found = scores_of(caption_score(reader, video, [Caption((dataclasses.replace(part, **changed),))]))
        assert found == {other: 0.0 if other in (name, "all") else 1.0 for other in SCORES}
    right = {(Event("right wall"),): 1, (Event("right wall", "left"),): 1, (Event("right wall", "down"),): 0}
    wrong = {(): 0, (Event("left wall"),): 0, (Event("right wall"), Event("top wall")): 0, (Event("another"),): 0}
    for events, expected in {**right, **wrong}.items():
        said = Caption((dataclasses.replace(part, events=events),))
        assert scores_of(caption_score(reader, video, [said]))["events"] == expected


def test_walls_within_two_frames_may_come_in_either_order_or_as_a_corner(classifier: DigitClassifier) -> None:
    low, high = walls(0)
    path = Flight((high[0] - 5.0, high[1] - 5.2), (5.0, 5.0), low, high)
    read = [Event("bottom wall"), Event("right wall")]
    video = one(0, path, TIMES[:25])
    part = describe(Clip(glyph(0), (path,), (0,), 32, 2, 0), 0.0, 2.0).parts[0]
    for events in (read, read[::-1], [Event("bottom right corner")]):
        said = Caption((dataclasses.replace(part, events=tuple(events)),))
        assert float(caption_score(DigitReader(classifier), video, [said]).events[0]) == 1
    apart = Flight((high[0] - 5.0, high[1] - 9.0), (5.0, 5.0), low, high)
    video = one(0, apart, TIMES[:37])
    part = describe(Clip(glyph(0), (apart,), (0,), 32, 2, 0), 0.0, 3.0).parts[0]
    assert [event.surface for event in part.events] == ["right wall", "bottom wall"]
    swapped = Caption((dataclasses.replace(part, events=part.events[::-1]),))
    assert float(caption_score(DigitReader(classifier), video, [Caption((part,))]).events[0]) == 1
    assert float(caption_score(DigitReader(classifier), video, [swapped]).events[0]) == 0


def test_a_clip_that_cannot_be_read_scores_nothing(classifier: DigitClassifier) -> None:
    clip = World().clip(0, "test")
    video = render_clips([clip], TIMES)
    blank = Video(torch.cat((video.frames, torch.full_like(video.frames, -1))), video.times)
    caption = describe(clip, 0.0, 4.0)
    found = caption_score(DigitReader(classifier), blank, [caption, caption])
    assert all(float(getattr(found, name)[1]) == 0 for name in SCORES)
    assert float(found.digit[0]) == 1


def test_what_does_not_fit_is_refused(classifier: DigitClassifier) -> None:
    reader = DigitReader(classifier)
    video = one(1, Flight((16.0, 16.0), (1.0, 0.0), (8.0, 8.0), (24.0, 24.0)))
    rest = Part(subject="one", motion="rest")
    for captions in ([], [Caption((rest,))] * 2, [Caption((rest, rest))]):
        with pytest.raises(ValueError, match=r"Expected 1 captions of 1 part"):
            caption_score(reader, video, captions)
    with pytest.raises(ValueError, match="at least 5 square frames; got 4"):
        reader.read(Video(video.frames[:, :4], video.times[:4]))
    with pytest.raises(ValueError, match="32 x 30"):
        reader.read(Video(video.frames[..., :30], video.times))
    with pytest.raises(ValueError, match="1 or 2 digits; got 3"):
        DigitReader(classifier, 3)
