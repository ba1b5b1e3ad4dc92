"""Video from an image model: what the image model hands on, who is told what, conditions, rates, and training."""

import copy
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flowvid.encoders.text import TextTokens
from flowvid.models.frame_rates import Told, draw_places, even_grid, motion_strength, told_rates
from flowvid.models.hub import load_pretrained
from flowvid.models.unet_video import UNetVideo
from flowvid.noise import Noise
from flowvid.video import Condition, Trajectory

FRAME, FRAMES, STRIDES, SIDE = 0.125, 5, 3, 4
SIZES = {"frame": FRAME, "frames": FRAMES, "strides": STRIDES, "widths": (8,), "attending": 1, "heads": 2, "steps": 2}
WORDS = ("zero moves right", "one moves left", "two rests", None)


def world(batch: int, *, seed: int = 0, frames: int = 20) -> tuple[Trajectory, list[str]]:
    """A bar that moves left or right; what is said of it gives the sign of one channel, and where it moves."""
    noise = Noise.batch(seed, batch)
    kind, way = (noise.integers(name, 0, 2) for name in ("kind", "way"))
    start = noise.uniform("start", 1) * SIDE
    place = start + (2 * way[:, None] - 1) * 2 * FRAME * torch.arange(frames)
    columns = torch.arange(SIDE) + 0.5
    away = (place[:, :, None] - columns + SIDE / 2) % SIDE - SIDE / 2
    bar = (2 * torch.exp(-away.square()) - 0.8)[:, :, None].expand(-1, -1, SIDE, -1)
    states = torch.stack(((2 * kind - 1)[:, None, None, None] * bar, bar), dim=2)
    said = [
        f"{('zero', 'one')[k]} moves {('left', 'right')[w]}" for k, w in zip(kind.tolist(), way.tolist(), strict=True)
    ]
    return Trajectory(states, FRAME * torch.arange(frames, dtype=torch.float64)), said


def tokens_of(model: UNetVideo, texts: list[str]) -> TextTokens:
    assert model.text_encoder is not None
    return model.text_encoder.tokens(Condition(text=texts).text)


def build(time: str = "pseudo", **options: object) -> UNetVideo:
    """An untrained model that has seen its units, in which no parameter is zero."""
    model = UNetVideo(2, time=time, **(SIZES | options))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter + 0.1 * torch.randn(parameter.shape, generator=generator))
    model.prepare(world(8)[0])
    return model.requires_grad_(False).eval()


@cache
def ready(time: str = "pseudo") -> UNetVideo:
    return build(time)


def known(*times: float, batch: int = 2) -> Trajectory:
    return world(batch)[0].at(*times)


def states(model: UNetVideo, condition: Condition, times: list[float], *, seed: int = 1, **options: object) -> Tensor:
    count = len(condition.text or condition.require())
    with torch.no_grad():
        return model.sample(condition, times, Noise.batch(seed, count), **options).trajectory.states


TIMES = [FRAME * number for number in range(FRAMES)]
TOLD = Condition(text=WORDS[:2])
CONDITIONS = {
    "words": TOLD,
    "first": Condition(known(0.0)),
    "first and words": Condition(known(0.0), WORDS[:2]),
    "first two": Condition(known(0.0, FRAME)),
    "both ends": Condition(known(0.0, 4 * FRAME), WORDS[:2]),
    "keys": Condition(known(FRAME, 3 * FRAME)),
    "silence": Condition(text=[None, None]),
}
every = pytest.mark.parametrize("name", CONDITIONS)


# What the image model hands on


@pytest.mark.parametrize("time", ["pseudo", "attention"])
def test_at_first_frames_come_out_exactly_as_the_image_model_makes_them(time: str) -> None:
    image, video = ready("none"), build(time)
    before = copy.deepcopy(image.state_dict())
    expected = states(image, TOLD, TIMES, guidance=2.0)
    assert not torch.equal(states(video, TOLD, TIMES, guidance=2.0), expected)
    video.take_over(image)
    assert torch.equal(states(video, TOLD, TIMES, guidance=2.0), expected)
    assert torch.equal(states(video, TOLD, TIMES, guidance=2.0, motion=1.0), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in image.state_dict().items())
    assert not torch.equal(expected[:, 0], expected[:, 1])


def test_weights_are_taken_over_from_an_image_model_alone() -> None:
    with pytest.raises(ValueError, match="image model"):
        build().take_over(ready())
    speechless = build("none", text=None)
    with pytest.raises(ValueError, match="same layers of space"):
        build().take_over(speechless)
    with pytest.raises(ValueError, match="same layers of space"):
        build(widths=(16,)).take_over(ready("none"))


def test_a_frozen_image_model_is_unchanged_by_training() -> None:
    model = build().requires_grad_(True)
    model.freeze_images()
    before = copy.deepcopy(model.state_dict())
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("time" in name for name in trained)
    train(model, 2)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == trained


def train(model: UNetVideo, steps: int, *, batch: int = 8, rate: float = 3e-3) -> list[float]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser, losses = torch.optim.AdamW(trained, lr=rate), []
    for step in range(steps):
        clips, texts = world(batch, seed=step)
        text = None if model.text_encoder is None else tokens_of(model, texts)
        loss = model.loss(clips, Noise.batch(step, batch), text=text)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(("time", "text"), [("none", "words"), ("pseudo", "words"), ("attention", None)])
def test_loss_falls_and_everything_is_trained(time: str, text: str | None) -> None:
    torch.manual_seed(0)
    model = UNetVideo(2, time=time, text=text, **SIZES)
    model.prepare(world(8)[0])
    before = copy.deepcopy(model.state_dict())
    losses = train(model, 16)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    parameters = dict(model.named_parameters())
    stuck = {name for name in parameters if torch.equal(parameters[name], before[name])}
    assert stuck <= {"text_encoder.moment.weight"}


def test_loss_of_a_batch_is_finite_with_any_text() -> None:
    model, (clips, _) = ready(), world(4)
    noise = Noise.batch(0, 4)
    mixed = model.loss(clips, noise, text=tokens_of(model, list(WORDS)))
    none = model.loss(clips, noise)
    empty = model.loss(clips, noise, text=tokens_of(model, [None] * 4))
    assert bool(mixed.isfinite())
    torch.testing.assert_close(none, empty)
    assert mixed != none


def test_single_images_train_the_image_model_alone() -> None:
    """A window of one place holds no clip: the layers of time get no gradient from it."""
    model = build(frames=1).requires_grad_(True)
    clips, texts = world(4)
    model.loss(clips, Noise.batch(0, 4), text=tokens_of(model, texts)).backward()
    for name, parameter in model.network.named_parameters():
        of_time = any(part.startswith("time") for part in name.split("."))
        assert of_time != bool(parameter.grad is not None and parameter.grad.abs().max() > 0), name


# Who is told what


def told_of(exists: Tensor, flags: Tensor, **options: float) -> Told:
    times = FRAME * torch.arange(exists.shape[1]).expand_as(exists)
    return Told(times, exists, flags, told_rates(len(exists), times, **options))


def test_what_unknown_frames_hold_does_not_leak_into_training_at_full_noise() -> None:
    """At level 1 nothing of an unknown frame goes in; what the loss shows the network are the known ones."""
    model = build(text=None)
    clips, noise = world(12)[0], Noise.batch(4, 12)
    seen: list[tuple[Tensor, Told]] = []
    v = model.v

    def spy(clip: Tensor, level: Tensor, told: Told) -> Tensor:
        seen.append((clip, told))
        return v(clip, level, told)

    model.__dict__["v"] = spy
    model.loss(clips, noise)
    model.loss(Trajectory(clips.states + 1, clips.times), noise)
    (one, told), (other, _) = seen
    flags = told.known
    assert not bool((flags & ~told.exists).any())
    assert not bool(told.exists.all())
    level = noise.uniform("level")
    change = (other - one).mean(dim=(2, 3, 4))
    signal = torch.cos(level * torch.pi / 2)[:, None].expand_as(change)
    torch.testing.assert_close(change, torch.where(flags, 1.0, signal), rtol=1e-3, atol=1e-4)
    assert bool(flags.any())
    assert not bool(flags.all())


def test_loss_is_the_error_of_v_on_unknown_frames_alone() -> None:
    """A network that is right on them and wrong by 1 on those that are known costs nothing; one wrong by 2 costs 4."""
    model, clips, noise = build(text=None), world(12)[0], Noise.batch(4, 12)
    clips = Trajectory(clips.states.double(), clips.times)
    phi = (noise.uniform("level").double() * torch.pi / 2)[:, None, None, None, None]
    off = 0.0

    def v(clip: Tensor, level: Tensor, told: Told) -> Tensor:
        epsilon = noise.normal("noise", *clip.shape[1:]).double()
        clean = (clip - phi.sin() * epsilon) / phi.cos()
        assert bool(told.known.any())
        right = phi.cos() * epsilon - phi.sin() * clean
        return torch.where(told.known[:, :, None, None, None], right + 1, right + off)

    model.__dict__["v"] = v
    assert model.loss(clips, noise).item() == pytest.approx(0.0, abs=1e-6)
    off = 2.0
    assert model.loss(clips, noise).item() == pytest.approx(4.0, rel=1e-4)


def test_known_frames_enter_clean_and_marked_at_every_level() -> None:
    model, held = build(), known(FRAME, 3 * FRAME)
    seen: list[tuple[Tensor, Told]] = []
    v = model.v

    def spy(clip: Tensor, level: Tensor, told: Told) -> Tensor:
        seen.append((clip, told))
        return v(clip, level, told)

    model.__dict__["v"] = spy
    states(model, Condition(held), TIMES)
    assert len(seen) == model.steps
    for clip, told in seen:
        assert told.known.tolist() == [[False, True, False, True, False]] * 2
        assert torch.equal(clip[told.known].unflatten(0, (2, 2)), held.states)


def test_an_image_depends_on_its_time_and_not_on_the_others() -> None:
    both = states(ready("none"), TOLD, [0.25, 0.5])
    torch.testing.assert_close(states(ready("none"), TOLD, [0.5]), both[:, 1:])
    assert not torch.equal(both[:, 0], both[:, 1])


def test_single_images_in_a_batch_are_answered_as_by_the_image_model() -> None:
    image, video = ready("none"), ready()
    video = build()
    video.take_over(image)
    with torch.no_grad():
        for name, parameter in video.network.named_parameters():
            if any(part.startswith("time") for part in name.split(".")):
                parameter.add_(0.1)
    clip, level = world(2)[0].states[:, :4], torch.tensor([0.3, 0.8])
    exists = torch.tensor([[True, True, False, False]] * 2)
    flags = torch.tensor([[True, False, False, False]] * 2)
    answer = video.v(clip, level, told_of(exists, flags, step=0.25, motion=0.5))
    alone = image.v(clip, level, told_of(torch.zeros_like(exists), torch.zeros_like(flags)))
    torch.testing.assert_close(answer[:, 2:], alone[:, 2:])
    assert (answer[:, :2] - alone[:, :2]).abs().max() > 1e-3
    other = clip.clone()
    other[:, 3] += 1
    changed = video.v(other, level, told_of(exists, flags, step=0.25, motion=0.5))
    assert ((changed - answer).abs().amax(dim=(0, 2, 3, 4)) > 0).tolist() == [False, False, False, True]


def test_a_clip_is_told_of_its_rate_and_motion_and_of_known_frames() -> None:
    model, clip, level = ready(), world(1)[0].states[:, :3], torch.tensor([0.5])
    exists, none = torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 3, dtype=torch.bool)
    answer = model.v(clip, level, told_of(exists, none))
    for telling in (
        told_of(exists, none, step=FRAME),
        told_of(exists, none, motion=0.0),
        told_of(exists, torch.tensor([[True, False, False]])),
    ):
        assert (model.v(clip, level, telling) - answer).abs().max() > 1e-4
    assert not torch.equal(
        model.v(clip, level, told_of(exists, none, step=FRAME)), model.v(clip, level, told_of(exists, none, step=0.25))
    )


def test_words_embedding_and_motion_all_matter() -> None:
    model, times = ready(), TIMES[:3]
    answer = states(model, TOLD, times)
    assert not torch.equal(states(model, Condition(text=WORDS[1:3]), times), answer)
    assert not torch.equal(states(model, TOLD, times, motion=1.0), answer)
    assert not torch.equal(states(model, TOLD, times, motion=2.0), states(model, TOLD, times, motion=1.0))
    assert not torch.equal(states(model, TOLD, [0.0, 2 * FRAME, 4 * FRAME], motion=None), answer)
    prior = copy.deepcopy(model)
    with torch.no_grad():
        prior.prior.shown.weight.zero_()
    assert not torch.equal(states(prior, TOLD, times), answer)


# Sampling


@every
@pytest.mark.parametrize("guidance", [1.0, 0.0, 2.5])
def test_every_condition_is_answered_and_what_is_known_comes_back(name: str, guidance: float) -> None:
    model, condition = ready(), CONDITIONS[name]
    solution = model.sample(condition, TIMES, Noise.batch(1, 2), guidance=guidance)
    assert solution.trajectory.states.shape == (2, FRAMES, 2, SIDE, SIDE)
    assert solution.trajectory.times.tolist() == TIMES
    assert bool(solution.trajectory.states.isfinite().all())
    prior = 0 if condition.known is not None or guidance == 0 else model.steps
    twice = 1 if guidance in (0.0, 1.0) else 2
    assert (solution.evaluations, solution.depth) == (prior + twice * model.steps, prior + model.steps)
    if condition.known is not None:
        for time in condition.known.times.tolist():
            assert torch.equal(solution.trajectory.at(time).states, condition.known.at(time).states)


@every
def test_a_sample_depends_on_its_seed_and_not_on_its_batch(name: str) -> None:
    model, condition = ready(), CONDITIONS[name]
    whole = states(model, condition, TIMES, guidance=2.0)
    assert torch.equal(states(model, condition, TIMES, guidance=2.0), whole)
    held = condition.known
    alone = Condition(
        None if held is None else Trajectory(held.states[1:], held.times),
        None if condition.text is None else condition.text[1:],
    )
    torch.testing.assert_close(
        model.sample(alone, TIMES, Noise.batch(1, 2)[1:], guidance=2.0).trajectory.states, whole[1:]
    )
    assert not torch.equal(states(model, condition, TIMES, seed=2, guidance=2.0), whole)


def test_guidance_leads_on_from_silence_to_words() -> None:
    model = ready()
    silent, told = (states(model, TOLD, TIMES, guidance=guidance) for guidance in (0.0, 1.0))
    assert not torch.equal(silent, told)
    torch.testing.assert_close(states(model, TOLD, TIMES, guidance=1 + 1e-6), told, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(states(model, TOLD, TIMES, guidance=1e-6), silent, rtol=1e-3, atol=1e-3)
    without = states(model, Condition(text=[None, None]), TIMES, guidance=0.0)
    torch.testing.assert_close(silent, without)


def test_times_shift_and_stretch() -> None:
    model, condition = ready(), CONDITIONS["first"]
    answer = states(model, condition, TIMES[:3])
    at_six_per_second = states(model, condition, [0.0, 1 / 6, 2 / 6])
    assert at_six_per_second.shape == answer.shape
    assert not torch.equal(at_six_per_second[:, 1:], answer[:, 1:])
    later = Condition(Trajectory(known(0.0).states, torch.tensor([2.0], dtype=torch.float64)))
    assert states(model, later, [2.0 + time for time in TIMES[:3]]).shape == answer.shape


def test_frames_between_those_asked_for_are_sampled_too() -> None:
    """Asking for fewer times on the same grid changes nothing."""
    model = ready()
    condition = Condition(known(0.0, FRAME))
    answer = states(model, condition, TIMES)
    torch.testing.assert_close(states(model, condition, [0.0, TIMES[3], TIMES[4]]), answer[:, [0, 3, 4]])


def test_known_frames_alone_cost_nothing() -> None:
    solution = ready().sample(CONDITIONS["first two"], [0.0, FRAME], Noise.batch(1, 2))
    assert (solution.evaluations, solution.depth) == (0, 0)
    assert torch.equal(solution.trajectory.states, known(0.0, FRAME).states)


def test_one_time_gives_an_image() -> None:
    video = build()
    video.take_over(ready("none"))
    assert torch.equal(states(video, TOLD, [0.5]), states(ready("none"), TOLD, [0.5]))
    assert torch.equal(states(ready(), TOLD, [0.5], motion=1.0), states(ready(), TOLD, [0.5]))


@pytest.mark.parametrize("solver", ["heun2-3", "dpm++2m-3"])
def test_other_solvers_answer_too(solver: str) -> None:
    assert bool(states(ready(), TOLD, TIMES, solver=solver).isfinite().all())


@pytest.mark.parametrize(("time", "text"), [("pseudo", "words"), ("none", "words"), ("attention", None)])
def test_a_saved_model_gives_the_same_samples(time: str, text: str | None, tmp_path: Path) -> None:
    model = build(time, text=text)
    model.save_pretrained(tmp_path / "model")
    again = load_pretrained(tmp_path / "model")
    condition = CONDITIONS["first"] if text is None else TOLD
    assert isinstance(again, UNetVideo)
    assert torch.equal(states(again, condition, TIMES), states(model, condition, TIMES))


@pytest.mark.parametrize(
    ("condition", "times", "options", "match"),
    [
        (TOLD, [0.0, FRAME, 3.4 * FRAME], {}, "evenly spaced"),
        (CONDITIONS["first"], [0.3 * FRAME, 1.3 * FRAME], {}, "evenly spaced|frames per second"),
        (TOLD, [FRAME * number for number in range(FRAMES + 1)], {}, "at most 5 frames"),
        (CONDITIONS["first"], [FRAME, 9 * FRAME], {}, "at most 5 frames"),
        (TOLD, [0.0, 4 * FRAME], {}, "2.66667 to 8 frames per second"),
        (TOLD, [0.0, 0.5 * FRAME], {}, "frames per second"),
        (TOLD, [0.0, 0.0], {}, "increase"),
        (Condition(text=[(0.5, "zero rests"), None]), TIMES, {}, "whole videos"),
        (Condition(text=["zzero", None]), TIMES, {}, "zero"),
        (Condition(text=["zero"]), TIMES, {}, "one seed, one text"),
        (CONDITIONS["first"], TIMES, {"guidance": float("nan")}, "Guidance"),
        (TOLD, TIMES, {"motion": float("inf")}, "Motion"),
        (TOLD, TIMES, {"solver": "magic"}, "magic"),
        (
            Condition(Trajectory(torch.ones(2, 1, 3, 4, 4), torch.zeros(1, dtype=torch.float64))),
            TIMES,
            {},
            "time, 2, h",
        ),
    ],
)
def test_what_cannot_be_answered_is_refused(
    condition: Condition, times: list[float], options: dict[str, object], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        ready().sample(condition, times, Noise.batch(1, 2), **options)


def test_models_refuse_what_is_not_theirs() -> None:
    noise, silent = Noise.batch(1, 2), build(text=None)
    with pytest.raises(ValueError, match="does not read"):
        silent.sample(TOLD, TIMES, noise)
    with pytest.raises(ValueError, match="reads"):
        silent.sample(CONDITIONS["first"], TIMES, noise, guidance=2.0)
    with pytest.raises(ValueError, match="does not read"):
        silent.loss(world(2)[0], noise, text=tokens_of(ready(), ["zero", "one"]))
    with pytest.raises(ValueError, match="image model"):
        ready("none").sample(CONDITIONS["first"], TIMES, noise)
    with pytest.raises(ValueError, match="image model"):
        ready("none").sample(TOLD, TIMES, noise, motion=1.0)
    with pytest.raises(ValueError, match="call prepare"):
        UNetVideo(2, **SIZES).sample(TOLD, TIMES, noise)
    slow = Trajectory(world(2)[0].states, 2 * world(2)[0].times)
    with pytest.raises(ValueError, match="s apart"):
        ready().loss(slow, noise)
    with pytest.raises(ValueError, match="s apart"):
        build().prepare(slow)
    with pytest.raises(ValueError, match="progress"):
        ready().loss(world(2)[0], noise, progress=1.5)


@pytest.mark.parametrize("wrong", [{"frame": 0.0}, {"frames": 0}, {"strides": 0}, {"steps": 0}, {"embedding": 0}])
def test_impossible_models_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Expected frame > 0"):
        UNetVideo(2, **(SIZES | wrong))


def test_an_image_model_trains_on_frames_of_any_clip() -> None:
    model = ready("none")
    single = Trajectory(world(4)[0].states[:, :1], torch.zeros(1, dtype=torch.float64))
    assert bool(model.loss(single, Noise.batch(0, 4)).isfinite())
    fresh = build("none")
    fresh.prepare(single)


# Rates


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 8), st.integers(1, 6), st.floats(0, 1))
@settings(max_examples=30)
def test_places_are_even_windows_and_single_images(
    seed: int, total: int, places: int, strides: int, progress: float
) -> None:
    places = min(places, total)
    index, exists = draw_places(
        Noise.batch(seed, 20), total, places, strides=strides, progress=progress, device=torch.device("cpu")
    )
    assert index.shape == exists.shape == (20, places)
    assert bool(((index >= 0) & (index < total)).all())
    assert set(exists.sum(1).tolist()) <= ({0} if places < 2 else set(range(2, places + 1)))
    assert bool((exists.int().diff(dim=1) <= 0).all())
    for row, there in zip(index.tolist(), exists.sum(1).tolist(), strict=True):
        steps = {b - a for a, b in pairwise(row[:there])} if there else {1}
        assert len(steps) == 1
        assert 1 <= min(steps) <= 1 + round(progress * (strides - 1))


def test_all_places_strides_and_images_are_drawn() -> None:
    index, exists = draw_places(Noise.batch(0, 4000), 16, 4, strides=3, progress=1.0, device=torch.device("cpu"))
    count = exists.sum(1)
    shares = [(count == number).float().mean().item() for number in (2, 3, 4)]
    assert shares == pytest.approx([1 / 6, 1 / 6, 2 / 3], abs=0.03)
    strides = index[:, 1] - index[:, 0]
    assert [(strides == s).float().mean().item() for s in (1, 2, 3)] == pytest.approx([1 / 3] * 3, abs=0.03)
    assert set(index[~exists].tolist()) == set(range(16))
    whole = index[count == 4]
    assert int(whole.min()) == 0
    assert int(whole.max()) == 15


@given(st.floats(-3, 3), st.integers(2, 6), st.floats(0.1, 0.3))
def test_a_grid_holds_its_points_exactly(start: float, count: int, step: float) -> None:
    points = [start + step * number for number in range(count)]
    grid = even_grid(points, most=6, frame=0.1, strides=3)
    assert grid.tolist() == points
    kept = [points[0], points[1], points[-1]][: min(count, 3)]
    again = even_grid(sorted(set(kept)), most=6, frame=0.1, strides=3)
    assert len(again) == count
    assert set(kept) <= set(again.tolist())
    torch.testing.assert_close(again, grid)


def test_a_grid_between_rounded_points_meets_them() -> None:
    points = [1.1, 1.2, 1.4, 1.5, 1.7]
    grid = even_grid(points, most=7, frame=0.1, strides=1)
    assert len(grid) == 7
    assert set(points) <= set(grid.tolist())
    torch.testing.assert_close(grid, torch.arange(11, 18, dtype=torch.float64) / 10)


def test_motion_is_the_size_of_change_per_second() -> None:
    slope = torch.tensor([0.5, 2.0])
    times = torch.tensor([[0.0, 0.25, 0.5, 0.5], [0.0, 0.5, 1.0, 1.5]])
    line = (slope[:, None] * times)[:, :, None, None, None].expand(-1, -1, 2, 3, 3).clone()
    line[0, 3] = 100.0
    exists = torch.tensor([[True, True, True, False], [True] * 4])
    torch.testing.assert_close(motion_strength(line, times, exists), slope.log())
    still = motion_strength(torch.ones(1, 3, 1, 2, 2), torch.arange(3.0)[None], torch.ones(1, 3, dtype=torch.bool))
    assert bool(still.isfinite().all())


def test_usual_motion_has_mean_zero_and_deviation_one() -> None:
    model, clips = build(), world(8)[0]
    exists = torch.ones(clips.states.shape[:2], dtype=torch.bool)
    motion = motion_strength(clips.states, clips.times.float().expand_as(exists), exists)
    usual = (motion - model.usual_motion[0]) / model.usual_motion[1]
    torch.testing.assert_close(usual.mean(), torch.zeros(()), atol=1e-3, rtol=0)
    torch.testing.assert_close(usual.std(correction=0), torch.ones(()), atol=1e-3, rtol=0)


def test_rates_are_told_with_flags() -> None:
    like = torch.zeros(1)
    assert told_rates(2, like).tolist() == [[0.0] * 4] * 2
    told = told_rates(1, like, step=1 / 9, motion=-0.5)
    torch.testing.assert_close(told, torch.tensor([[torch.tensor(3.0).log().item(), 1.0, -0.5, 1.0]]))
