"""Video models: what every one of them keeps to, closed forms of untrained ones, and exactness on known motions."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flowvid.dynamics.heads import TransitionHeads, dyadic_gaps
from flowvid.dynamics.state import Anchor, Query
from flowvid.models.baselines import CopyLast, LinearBlend
from flowvid.models.bisection import RecursiveBisection
from flowvid.models.continuous import WEIGHTS, MultiScale
from flowvid.models.diffusion import ClipDiffusion
from flowvid.models.frames import not_known, place_known
from flowvid.models.regression import DirectRegression
from flowvid.models.rivals import RIVALS, build_rival
from flowvid.models.video_model import LearnedModel, VideoModel
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.video import Condition, Trajectory, time_grid

FRAME, REACH, SCALES, CHANNELS, SIDE = 0.125, 16, 5, 2, 3
HORIZON = FRAME * REACH
OMEGA = torch.tensor([1.3, 0.7], dtype=torch.float64)[:, None, None]
CONTEXT, FILL = (-FRAME, 0.0), (-FRAME, 0.0, HORIZON)

WAYS = (
    ("multiscale", "two-sided"),
    ("multiscale", "two-sided-4"),
    ("multiscale", "jump"),
    ("multiscale", "jump-1"),
    ("multiscale", "rk4"),
    ("bisection", None),
    ("ddim", "ddim-3"),
    ("direct", None),
    ("copy", None),
    ("blend", None),
)


def oscillation(times: object, *, batch: int = 3, seed: int = 0) -> Trajectory:
    """z = a cos(omega t) + b sin(omega t) with amplitudes of its own in every place, and a frequency per channel."""
    seconds = torch.as_tensor(times, dtype=torch.float64)
    at = seconds[:, None, None, None]
    a, b = Noise.batch(seed, batch).normal("amplitude", 2, 1, CHANNELS, SIDE, SIDE, dtype=torch.float64).unbind(1)
    return Trajectory(a * torch.cos(OMEGA * at) + b * torch.sin(OMEGA * at), seconds)


def clips(batch: int = 8, *, frame: float = FRAME, reach: int = REACH) -> Trajectory:
    """Training clips with one context frame."""
    return oscillation(frame * (torch.arange(3 * reach + 2, dtype=torch.float64) - 1), batch=batch, seed=5)


def fresh(name: str) -> LearnedModel:
    """An untrained model in double precision that has seen its units."""
    model = build_rival(name, channels=CHANNELS, frame=FRAME, scales=SCALES, reach=REACH, width=8, seed=0).double()
    model.prepare(clips())
    return model


@cache
def model(name: str) -> VideoModel:
    """A baseline, or a learned model whose parameters are all random."""
    if name in ("copy", "blend"):
        return CopyLast() if name == "copy" else LinearBlend()
    made, generator = fresh(name), torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    made.requires_grad_(False)
    made.finish(clips())
    return made


def sampled(
    name: str, solver: str | None, known: Trajectory | None, times: object, seeds: object = None, **options: str
) -> Solution:
    noise = Noise.of(range(1 if known is None else len(known)) if seeds is None else seeds)
    return model(name).sample(Condition(known), times, noise, solver=solver, **options)


SECONDS = st.lists(st.integers(0, 2000), min_size=1, max_size=8, unique=True).map(
    lambda ticks: [1e-3 * tick for tick in sorted(ticks)]
)


# What all keep to


@pytest.mark.parametrize(("name", "solver"), WAYS)
@settings(max_examples=12)
@given(SECONDS)
def test_samples_have_the_requested_times_and_known_frames_as_they_were(
    name: str, solver: str | None, times: list[float]
) -> None:
    """Requested are a known time, any times between known ones, and the known end."""
    known = oscillation(FILL)
    times = sorted({0.0, HORIZON, *times})
    found = sampled(name, solver, known, times).trajectory
    assert found.times.dtype == torch.float64
    assert found.times.tolist() == times
    assert found.states.shape == (3, len(times), CHANNELS, SIDE, SIDE)
    assert bool(found.states.isfinite().all())
    assert torch.equal(found.at(0.0, HORIZON).states, known.at(0.0, HORIZON).states)


@pytest.mark.parametrize(("name", "solver"), [way for way in WAYS if way[0] != "bisection"])
def test_times_beyond_the_trained_horizon_are_answered(name: str, solver: str | None) -> None:
    times = [HORIZON + 0.3, 2.5 * HORIZON]
    found = sampled(name, solver, oscillation(CONTEXT), times).trajectory
    assert found.times.tolist() == times
    assert bool(found.states.isfinite().all())


@pytest.mark.parametrize(("name", "solver"), WAYS)
def test_known_times_asked_with_another_rounding_are_known(name: str, solver: str | None) -> None:
    known = oscillation([-FRAME, 0.0, math.nextafter(HORIZON, 3)])
    times = [math.nextafter(0.0, 1), 1.0, HORIZON]
    found = sampled(name, solver, known, times).trajectory
    assert found.times.tolist() == times
    assert torch.equal(found.states[:, [0, 2]], known.states[:, 1:])


@pytest.mark.parametrize(("name", "solver"), WAYS)
@settings(max_examples=5)
@given(SECONDS, st.permutations(range(4)))
def test_a_sample_does_not_depend_on_its_batch(
    name: str, solver: str | None, times: list[float], order: list[int]
) -> None:
    known, seeds = oscillation(FILL, batch=4), [11, 5, 8, 2]
    together = sampled(name, solver, known, times, seeds).trajectory.states
    shuffled = Trajectory(known.states[order], known.times)
    again = sampled(name, solver, shuffled, times, [seeds[i] for i in order]).trajectory.states
    torch.testing.assert_close(again, together[order], rtol=1e-9, atol=1e-10)
    alone = sampled(name, solver, Trajectory(known.states[2:3], known.times), times, seeds[2:3]).trajectory.states
    torch.testing.assert_close(alone, together[2:3], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("name", "solver"), WAYS)
def test_a_seed_repeats_its_sample_and_only_denoising_depends_on_it(name: str, solver: str | None) -> None:
    known, times = oscillation(FILL), [0.3, 1.0]
    first, same, other = (
        sampled(name, solver, known, times, seeds).trajectory.states for seeds in ([1, 2, 3], [1, 2, 3], [1, 7, 3])
    )
    assert torch.equal(first, same)
    assert torch.equal(first[[0, 2]], other[[0, 2]])
    assert torch.equal(first[1], other[1]) == (name != "ddim")


@pytest.mark.parametrize(("name", "solver"), WAYS)
def test_where_all_is_known_nothing_is_evaluated(name: str, solver: str | None) -> None:
    known = oscillation(FILL)
    found = sampled(name, solver, known, [0.0, HORIZON])
    assert (found.evaluations, found.depth) == (0, 0)
    assert torch.equal(found.trajectory.states, known.states[:, 1:])


@pytest.mark.parametrize(
    ("name", "solver", "known", "count", "evaluations", "depth"),
    [
        ("multiscale", "jump", CONTEXT, 16, 8, 4),
        ("multiscale", "jump-1", CONTEXT, 16, 16, 16),
        ("multiscale", "two-sided", CONTEXT, 15, 5, 4),
        ("multiscale", "two-sided", FILL, 16, 5, 3),
        ("multiscale", "rk4", CONTEXT, 16, 64, 64),
        ("multiscale", "euler", CONTEXT, 16, 16, 16),
        ("bisection", None, FILL, 16, 15, 4),
        ("ddim", "ddim-7", FILL, 16, 7, 7),
        ("ddim", "ddim-7", CONTEXT, 17, 14, 14),
        ("ddim", "ddim-2", CONTEXT, 48, 6, 6),
        ("ddim", "ddim", CONTEXT, 1, 50, 50),
        ("ddim", "dpm++2m-6", FILL, 16, 6, 6),
        ("ddim", "heun2-5", CONTEXT, 17, 20, 20),
        ("ddim", "rk4-38", FILL, 16, 200, 200),
        ("ddim", "rk4-38-2", FILL, 16, 8, 8),
        ("direct", None, CONTEXT, 16, 16, 1),
        ("copy", None, CONTEXT, 16, 0, 0),
        ("blend", None, FILL, 16, 0, 0),
    ],
)
def test_evaluations_and_depth(
    name: str, solver: str | None, known: tuple[float, ...], count: int, evaluations: int, depth: int
) -> None:
    found = sampled(name, solver, oscillation(known), [FRAME * n for n in range(1, count + 1)])
    assert (found.evaluations, found.depth) == (evaluations, depth)


@pytest.mark.parametrize("name", RIVALS)
def test_sampling_leaves_no_graph_behind(name: str) -> None:
    made = fresh(name)
    made.finish(clips())
    with torch.no_grad():
        states = made.sample(Condition(oscillation(FILL)), [0.3, 1.0], Noise.batch(0, 3)).trajectory.states
    assert not states.requires_grad


# Training


@pytest.mark.parametrize("name", RIVALS)
def test_every_parameter_learns(name: str) -> None:
    """Blocks begin as the identity, so it takes a few steps until a gradient has reached all layers."""
    made, data = fresh(name), clips(batch=24)
    for step in range(4):
        made.zero_grad()
        made.loss(data, Noise.batch(step, 24)).backward()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter -= 0.02 * parameter.grad
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in made.parameters())


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize("count", [2 * REACH + 2, 50])
def test_every_frame_of_a_clip_is_trained_on(name: str, count: int) -> None:
    data = oscillation(time_grid(-FRAME, (count - 2) * FRAME, FRAME), batch=1500)
    states = data.states.requires_grad_()
    loss = model(name).loss(Trajectory(states, data.times), Noise.batch(0, 1500))
    (gradient,) = torch.autograd.grad(loss, states)
    assert bool((gradient.abs().amax(dim=(0, 2, 3, 4)) > 0).all())


@pytest.mark.parametrize("name", RIVALS)
def test_the_loss_is_a_function_of_the_noise(name: str) -> None:
    made, data = model(name), clips()
    first, same, other = (made.loss(data, Noise.batch(seed, len(data))).item() for seed in (0, 0, 1))
    assert first == same != other
    assert math.isfinite(first)


@pytest.mark.parametrize("name", RIVALS)
def test_training_clips_of_another_spacing_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"frames 0\.125 s apart"):
        fresh(name).prepare(clips(frame=0.1))


@pytest.mark.parametrize(("name", "least"), [("multiscale", 34), ("bisection", 18), ("ddim", 18), ("direct", 18)])
def test_clips_that_are_too_short_are_refused(name: str, least: int) -> None:
    made, data = fresh(name), oscillation(time_grid(-FRAME, 4.0, FRAME))
    shortest = Trajectory(data.states[:, :least], data.times[:least])
    assert math.isfinite(made.loss(shortest, Noise.batch(0, 3)).item())
    with pytest.raises(ValueError, match=rf"at least {least} frames.*got {least - 1}"):
        made.loss(Trajectory(data.states[:, : least - 1], data.times[: least - 1]), Noise.batch(0, 3))


@pytest.mark.parametrize("name", ["bisection", "ddim", "direct"])
def test_units_are_not_measured_on_clips_that_are_too_short(name: str) -> None:
    with pytest.raises(ValueError, match="at least 18 frames; got 17"):
        fresh(name).prepare(oscillation([FRAME * n for n in range(17)]))


# Refusals


@pytest.mark.parametrize(("name", "solver"), WAYS)
def test_nothing_known_is_refused(name: str, solver: str | None) -> None:
    with pytest.raises(ValueError, match="starts from known frames"):
        sampled(name, solver, None, [0.5])


@pytest.mark.parametrize("name", [*RIVALS, "copy", "blend"])
def test_unknown_solvers_are_refused_and_the_known_ones_named(name: str) -> None:
    for solver in ("magic", "8", "ddim-0", "ddim-N", "ddim--1", "jump-16"):
        with pytest.raises(ValueError, match=f"solvers .*{model(name).solvers[0]}.*got '{solver}'"):
            sampled(name, solver, oscillation(FILL), [0.5])


@pytest.mark.parametrize(("name", "solver"), [way for way in WAYS if way[0] not in ("copy", "blend")])
def test_times_before_the_start_are_refused(name: str, solver: str | None) -> None:
    with pytest.raises(ValueError, match=r"-0\.2"):
        sampled(name, solver, oscillation(FILL), [-0.2, 0.5])


@pytest.mark.parametrize(("name", "solver"), WAYS)
def test_times_out_of_order_are_refused(name: str, solver: str | None) -> None:
    with pytest.raises(ValueError, match="increase strictly"):
        sampled(name, solver, oscillation(FILL), [0.5, 0.25])


def test_bisection_needs_both_ends() -> None:
    with pytest.raises(ValueError, match="both ends"):
        sampled("bisection", None, oscillation(CONTEXT), [0.5])
    with pytest.raises(ValueError, match=r"\[0\.0, 2\.0\] s; got 2\.1 s"):
        sampled("bisection", None, oscillation(FILL), [0.5, 2.1])
    with pytest.raises(ValueError, match="powers of two; got a reach of 12"):
        RecursiveBisection(1, frame=FRAME, reach=12, width=8, parameters=20_000)


def test_ode_solvers_need_a_velocity() -> None:
    with pytest.raises(ValueError, match="needs the velocity at the start"):
        sampled("multiscale", "rk4", oscillation([0.0, HORIZON]), [0.5])


def test_unknown_weights_are_refused_and_the_known_ones_named() -> None:
    with pytest.raises(ValueError, match=r"calibrated, lagrange.*got 'best'"):
        sampled("multiscale", "jump", oscillation(CONTEXT), [0.5], weights="best")


def test_a_model_without_calibration_says_so() -> None:
    with pytest.raises(ValueError, match="has no calibration for"):
        fresh("multiscale").sample(Condition(oscillation(CONTEXT)), [0.5], Noise.batch(0, 3))


def test_denoising_knows_only_frames_on_its_grid_and_in_its_window() -> None:
    for times in ([0.0, 0.3], [0.0, FRAME, (REACH + 2) * FRAME]):
        with pytest.raises(ValueError, match=r"grid of 0\.125 s within 18 frames"):
            sampled("ddim", "ddim-2", oscillation(times), [0.5])


def test_denoising_needs_steps_and_a_seed_for_each_sample() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        ClipDiffusion(1, frame=FRAME, width=8, parameters=20_000, steps=0)
    with pytest.raises(ValueError, match="one seed for each of the 3 samples; got 1"):
        sampled("ddim", "ddim-2", oscillation(FILL), [0.5], [0])


def test_unknown_rivals_are_refused() -> None:
    with pytest.raises(ValueError, match=r"multiscale, bisection, ddim, .*, lstm; got 'gan'"):
        build_rival("gan", channels=1, frame=FRAME, scales=2, reach=4, width=8, seed=0)


# Known frames put back


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=6, unique=True), st.data())
def test_known_frames_are_told_from_others_to_within_rounding(ticks: list[int], data: st.DataObject) -> None:
    known = oscillation([0.1 * tick for tick in sorted(ticks)])
    asked = sorted(data.draw(st.lists(st.integers(-20, 20), min_size=1, unique=True)))
    times = [tick / 10 for tick in asked]
    unknown = not_known(times, known)
    assert unknown == [tick / 10 for tick in asked if tick not in ticks]
    found = {time: torch.full((3, CHANNELS, SIDE, SIDE), time, dtype=torch.float64) for time in unknown}
    placed = place_known(found, times, known)
    assert placed.times.tolist() == times
    for index, (tick, time) in enumerate(zip(asked, times, strict=True)):
        expected = known.states[:, sorted(ticks).index(tick)] if tick in ticks else found[time]
        assert torch.equal(placed.states[:, index], expected)


# Closed forms: baselines, and networks that say nothing


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=5, unique=True), SECONDS)
def test_copies_and_blends_in_closed_form(ticks: list[int], times: list[float]) -> None:
    given_at = np.array(sorted(ticks)) / 10
    known = Trajectory(torch.tensor(np.sin(given_at))[None, :, None, None, None], torch.tensor(given_at))
    copied = CopyLast().sample(Condition(known), times, Noise.of([0])).trajectory.states.flatten()
    blended = LinearBlend().sample(Condition(known), times, Noise.of([0])).trajectory.states.flatten()
    last = [max((t for t in given_at if t <= time + 1e-9), default=given_at[0]) for time in times]
    assert copied.tolist() == np.sin(last).tolist()
    assert blended.numpy() == pytest.approx(np.interp(times, given_at, np.sin(given_at)), abs=1e-12)


@pytest.mark.parametrize("name", ["multiscale", "bisection", "direct"])
def test_between_two_frames_an_untrained_network_blends(name: str) -> None:
    """All have forms that are exact at known frames and linear between them when the network says nothing."""
    made, times = fresh(name), [FRAME * n for n in range(1, REACH)]
    made.finish(clips())
    condition, noise = Condition(oscillation(FILL)), Noise.batch(0, 3)
    blend = LinearBlend().sample(condition, times, noise).trajectory.states
    torch.testing.assert_close(made.sample(condition, times, noise).trajectory.states, blend)


def test_untrained_midpoints_are_means_and_their_velocities_means_of_those_that_are_known() -> None:
    left, right = Noise.batch(0, 4).normal("ends", 2, 2 * CHANNELS, SIDE, SIDE, dtype=torch.float64).unbind(1)
    first, last = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    middle = fresh("bisection").midpoint(left, right, torch.full((4,), 4 * FRAME), first, last)
    a, b = left[:, CHANNELS:], right[:, CHANNELS:]
    velocity = torch.stack(((a[0] + b[0]) / 2, a[1], b[2], torch.zeros_like(a[3])))
    torch.testing.assert_close(middle, torch.cat(((left + right)[:, :CHANNELS] / 2, velocity), dim=1))


@pytest.mark.parametrize(
    ("name", "solver"), [("multiscale", "two-sided"), ("multiscale", "jump"), ("multiscale", "rk4"), ("direct", None)]
)
def test_frames_before_the_last_pair_change_nothing_of_what_follows_it(name: str, solver: str | None) -> None:
    times = [FRAME, 2 * FRAME, 4 * FRAME]

    def after(count: int) -> Tensor:
        known = oscillation([number * FRAME for number in range(1 - count, 1)])
        return sampled(name, solver, known, times).trajectory.states

    pair = after(2)
    assert float((pair[:, -1] - pair[:, 0]).abs().max()) > 1e-3
    for count in (3, 4):
        torch.testing.assert_close(after(count), pair)


@pytest.mark.parametrize("name", ["multiscale", "bisection", "direct"])
def test_key_frames_that_begin_still_are_filled_in_from_the_first(name: str) -> None:
    known = oscillation([0.0, 3 * FRAME, 4 * FRAME])
    moved = Trajectory(torch.cat((known.states[:, :1] + 1, known.states[:, 1:]), dim=1), known.times)
    found, other = (sampled(name, None, one, [0.0, FRAME, 2 * FRAME]).trajectory.states for one in (known, moved))
    assert torch.equal(found[:, 0], known.states[:, 0])
    assert bool(((other - found)[:, 1:].abs().amax(dim=(2, 3, 4)) > 1e-3).all())


@pytest.mark.parametrize(("name", "solver"), [("multiscale", "jump"), ("multiscale", "two-sided"), ("direct", None)])
def test_without_an_end_an_untrained_network_stands_still(name: str, solver: str | None) -> None:
    made, condition = fresh(name), Condition(oscillation(CONTEXT))
    made.finish(clips())
    states = made.sample(condition, [0.3, 1.0, 2.0], Noise.batch(0, 3), solver=solver).trajectory.states
    torch.testing.assert_close(states, condition.require().states[:, [1, 1, 1]])


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_p13_an_untrained_denoiser_shrinks_its_noise_by_the_cosines_of_its_steps(steps: int) -> None:
    """With v = 0 every step multiplies by cos(pi / 2 S); the window begins at the context frame."""
    noise = Noise.of([3, 4, 5])
    states = fresh("ddim").sample(Condition(oscillation(FILL)), [FRAME, 0.3, 5 * FRAME], noise, solver=f"ddim-{steps}")
    begin = noise.fold(0).normal("sample", REACH + 2, CHANNELS, SIDE, SIDE, dtype=torch.float64)
    final = begin * math.cos(math.pi / 2 / steps) ** steps
    between = torch.lerp(final[:, 3], final[:, 4], 0.4)
    expected = torch.stack((final[:, 2], between, final[:, 6]), dim=1)
    torch.testing.assert_close(states.trajectory.states, expected)


@pytest.mark.parametrize("known", [(0.0,), (0.0, HORIZON), CONTEXT, FILL])
def test_denoising_puts_known_frames_where_training_had_them(known: tuple[float, ...]) -> None:
    """In training, frame 0 of the window is context, sometimes unknown, and frame 1 the first one, always known."""
    made, given_frames, noise = model("ddim"), oscillation(known), Noise.of([3, 4, 5])
    found = made.sample(Condition(given_frames), [0.5, 1.5], noise, solver="ddim-3").trajectory.states
    clean = torch.zeros(3, REACH + 2, CHANNELS, SIDE, SIDE, dtype=torch.float64)
    mask = torch.zeros(3, REACH + 2, dtype=torch.bool)
    for index, time in enumerate(known):
        mask[:, 1 + round(time / FRAME)], clean[:, 1 + round(time / FRAME)] = True, given_frames.states[:, index]

    def v(noisy: Tensor, level: float) -> Tensor:
        inside = torch.where(mask[:, :, None, None, None], clean, noisy)
        return made.v(inside, torch.full((3,), level, dtype=torch.float64), mask)

    expected, turn = noise.fold(0).normal("sample", *clean.shape[1:], dtype=torch.float64), -math.pi / 6
    for level in (1.0, 2 / 3, 1 / 3):
        expected = math.cos(turn) * expected + math.sin(turn) * v(expected, level)
    torch.testing.assert_close(found, expected[:, [5, 13]])


def test_every_solver_of_the_v_field_goes_to_the_same_clip() -> None:
    """DDIM is of first order in the angle, so two runs extrapolated (2 * fine - coarse) meet what the others reach."""
    made, condition, noise = model("ddim"), Condition(oscillation(CONTEXT)), Noise.of([3, 4, 5])

    def found(solver: str) -> Tensor:
        return made.sample(condition, [FRAME, 4 * FRAME], noise, solver=solver).trajectory.states

    fine = found("rk4-16")
    assert (found("ddim-1") - fine).abs().max() > 1e-2
    for solver, atol in (("heun2-96", 1e-3), ("tsit5", 1e-2), ("dpm++2m-48", 1e-2)):
        torch.testing.assert_close(found(solver), fine, rtol=0, atol=atol)
    torch.testing.assert_close(2 * found("ddim-128") - found("ddim-64"), fine, rtol=0, atol=1e-3)


# Networks that know the motion


def moved(here: Tensor, there: Tensor, span: Tensor, step: Tensor) -> Tensor:
    """The oscillation ``step`` after ``here``, when ``there`` is what comes ``span`` after it."""
    return (torch.sin(OMEGA * (span - step)) * here + torch.sin(OMEGA * step) * there) / torch.sin(OMEGA * span)


def _grid(values: Tensor) -> Tensor:
    return values[:, None, None, None]


class ExactHeads(TransitionHeads):
    """Average rates of the oscillation: of a state with its velocity from the state alone, of others by an anchor."""

    def forward(self, query: Query) -> Tensor:
        latent, velocity = query.state.chunk(2, dim=1)
        return torch.stack([self._rate(query, latent, velocity, gap) for gap in self.gaps], dim=1)

    def _rate(self, query: Query, latent: Tensor, velocity: Tensor, gap: float) -> Tensor:
        after, before = self._after(query, gap), self._after(query, gap - self.shortest)
        rates = (after - latent) / gap, ((after - before) / self.shortest - velocity) / gap
        return torch.cat(rates, dim=1)

    def _after(self, query: Query, step: float) -> Tensor:
        found = self._between(query, query.future, step)
        found = torch.where(_grid(query.past.span != 0), self._between(query, query.past, step), found)
        span = _grid(query.past.span)
        found = torch.where(_grid(query.past.moving), self._on(query.past.state, step - span), found)
        return torch.where(_grid(query.moving), self._on(query.state, torch.full_like(span, step)), found)

    def _between(self, query: Query, anchor: Anchor, step: float) -> Tensor:
        span = _grid(torch.where(anchor.span == 0, 1.0, anchor.span))
        return moved(query.latent, anchor.latent, span, torch.full_like(span, step))

    def _on(self, state: Tensor, step: Tensor) -> Tensor:
        latent, velocity = state.chunk(2, dim=1)
        back = torch.full_like(step, -self.shortest)
        return moved(latent, latent - self.shortest * velocity, back, step)


@cache
def exact(*, frame: float = FRAME, scales: int = SCALES, reach: int = REACH) -> MultiScale:
    """A multi-scale model with exact heads, calibrated."""
    made = MultiScale(CHANNELS, frame=frame, scales=scales, reach=reach, width=8, input_noise=0.0)
    made.heads = ExactHeads(CHANNELS, dyadic_gaps(frame, scales), width=8)
    made = made.double()
    data = clips(frame=frame, reach=reach, batch=48)
    made.prepare(data)
    made.finish(data)
    return made


EXACT = exact()


def wrong(made: VideoModel, known: object, times: object, **options: str) -> float:
    """The largest error of a sample."""
    found = made.sample(Condition(oscillation(known)), times, Noise.batch(0, 3), **options).trajectory
    return float((found.states - oscillation(times).states).abs().max())


def order(errors: list[float]) -> float:
    """The order of errors at steps that are halved each time."""
    return float(-np.polyfit(np.arange(len(errors)), np.log2(errors), 1)[0])


def test_exact_heads_attain_the_least_loss() -> None:
    """So targets, pushforward states and anchors are what they are said to be: one floor of 1e-6 for each head."""
    least = math.log(1e-6) * (1 + EXACT.velocity_weight)
    assert EXACT.loss(clips(batch=64), Noise.batch(3, 64)).item() == pytest.approx(least, rel=1e-9)


@pytest.mark.parametrize("context", ["open", "bounded", "still"])
@pytest.mark.parametrize("forward", [True, False])
def test_p6_calibrated_weights_jump_exactly_over_the_gaps_of_exact_heads(context: str, forward: bool) -> None:
    """One-hot weights have no error, so with a ridge w'Sw <= ridge * mean diagonal of S, the value they have there."""
    calibration = EXACT.calibration(context=context, forward=forward)
    for index, gap in enumerate(calibration.gaps):
        moment, weights = calibration.moment(gap), calibration.weights(gap)
        assert moment[index, index] < 1e-12
        assert calibration.error(gap) <= abs(gap) * math.sqrt(1e-6 * np.trace(moment) / len(moment))
        assert weights.argmax() == index
        assert weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("solver", ["two-sided", "two-sided-4", "jump", "jump-8", "jump-2", "jump-1"])
@pytest.mark.parametrize(("weights", "tolerance"), [("lagrange", 1e-9), ("calibrated", 1e-3)])
@pytest.mark.parametrize("known", [CONTEXT, FILL])
def test_p7_jumps_with_exact_heads_are_exact_where_steps_are_gaps(
    solver: str, weights: str, tolerance: float, known: tuple[float, ...]
) -> None:
    """At every frame, or, from evaluated states four frames apart on both sides, at every other frame.

    A lone frame has no velocity: the one that jumps from it give is less exact, and what lies beyond it is left out.
    """
    lone = solver.startswith("two") and known == FILL
    times = [FRAME * n for n in range(1, (1 if lone else 2) * REACH + 1)]
    whole = times[1::2] if solver.startswith("two") else times
    assert wrong(EXACT, known, whole, solver=solver, weights=weights) < tolerance
    assert wrong(EXACT, known, times, solver=solver, weights=weights) < (1e-2 if lone else 1e-3)


@pytest.mark.parametrize("lone", [FRAME * 16, FRAME * 8])
def test_p17_two_lone_frames_are_filled_in_exactly(lone: float) -> None:
    times = [FRAME * n for n in range(2, round(lone / FRAME), 2)]
    assert wrong(EXACT, [0.0, lone], times, solver="two-sided", weights="lagrange") < 1e-9


@pytest.mark.parametrize(("solver", "promised"), [("jump", 4), ("two-sided", 4)])
def test_p2_times_between_frames_converge_at_the_order_of_three_gaps(solver: str, promised: int) -> None:
    """At t + 1/3 frame three heads make h * O(h^3); two-sided may gain, when errors of either side cancel."""
    errors = []
    for frame in (1 / 8, 1 / 16, 1 / 32):
        made = exact(frame=frame, scales=3, reach=4)
        times = [(n + 1 / 3) * frame for n in range(round(1 / frame))]
        errors.append(wrong(made, [-frame, 0.0], times, solver=solver, weights="lagrange"))
    assert order(errors) == pytest.approx(promised, abs=0.3) or (solver == "two-sided" and order(errors) > promised)


@pytest.mark.parametrize(
    ("weights", "promised"), [("richardson", 3), ("least-squares", 2), ("instant", 1), ("long", 1)]
)
def test_p4_runge_kutta_is_of_the_order_of_its_weights_and_convex_ones_are_of_the_first(
    weights: str, promised: int
) -> None:
    errors = []
    for frame in (1 / 8, 1 / 16, 1 / 32):
        made = exact(frame=frame, scales=3, reach=4)
        times = [0.25, 0.5, 0.77, 1.0]
        made_of = {"solver": "rk4", "weights": weights}
        errors.append(wrong(made, [-frame, 0.0], [frame * n for n in range(1, round(1 / frame) + 1)], **made_of))
        assert wrong(made, [-frame, 0.0], times, **made_of) < 3 * errors[-1] + 1e-3
    assert order(errors) == pytest.approx(promised, abs=0.3)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_every_rule_of_weights_moves_exact_heads_to_finite_states(weights: str) -> None:
    assert math.isfinite(wrong(EXACT, FILL, [0.3, 1.0, 1.5], weights=weights))


class ExactClip(nn.Module):
    """The v of clips that two known neighbouring frames determine: the data are a point, given what is known."""

    def forward(self, grid: Tensor, level: Tensor) -> Tensor:
        frames = grid.unflatten(1, (REACH + 2, CHANNELS + 1))
        noisy, known = frames[:, :, :CHANNELS], frames[0, :, CHANNELS, 0, 0]
        first = int(known.nonzero()[0])
        assert known[first + 1] == 1
        step = FRAME * (torch.arange(REACH + 2, dtype=torch.float64) - first)[:, None, None, None]
        span = torch.full_like(step, FRAME)
        clean = moved(noisy[:, first, None], noisy[:, first + 1, None], span, step)
        angle = level[:, :, None, None, None] * math.pi / 2
        epsilon = (noisy - torch.cos(angle) * clean) / torch.sin(angle)
        return (torch.cos(angle) * epsilon - torch.sin(angle) * clean).flatten(1, 2)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("known", [CONTEXT, FILL])
def test_p13_denoising_a_point_is_exact_over_several_windows_and_linear_between_frames(
    steps: int, known: tuple[float, ...]
) -> None:
    made, last = fresh("ddim"), 3 * REACH
    made.trunk = ExactClip()
    times = [FRAME * n for n in range(1, last + 1)]
    assert wrong(made, known, times, solver=f"ddim-{steps}") < 1e-8
    between = [(n + 0.25) * FRAME for n in range(last)]
    found = made.sample(Condition(oscillation(known)), between, Noise.batch(0, 3), solver="ddim-1").trajectory
    grid = oscillation([FRAME * n for n in range(last + 1)]).states
    torch.testing.assert_close(found.states, torch.lerp(grid[:, :-1], grid[:, 1:], 0.25), rtol=0, atol=1e-8)


class ExactMiddle(nn.Module):
    """The correction of the mean that makes the midpoint of an oscillation, in units of the model."""

    def __init__(self, made: RecursiveBisection) -> None:
        super().__init__()
        self.scale = made.scale

    def forward(self, grid: Tensor, spans: Tensor) -> Tensor:
        gap = (spans[:, 1] * HORIZON)[:, None, None, None]
        left, right = grid[:, :CHANNELS], grid[:, 4 * CHANNELS + 2 : 5 * CHANNELS + 2]
        middle = (left + right) / (2 * torch.cos(OMEGA * gap / 2))
        level = (gap / FRAME).log2().round().long().flatten() - 1
        correction = (middle - (left + right) / 2) / self.scale[level, :1, None, None]
        return torch.cat((correction, torch.zeros_like(correction)), dim=1)


def test_p11_bisection_with_exact_midpoints_is_exact_at_all_frames_and_linear_between() -> None:
    made = fresh("bisection")
    made.trunk = ExactMiddle(made)
    assert wrong(made, FILL, [FRAME * n for n in range(1, REACH)]) < 1e-9
    between = [(n + 0.25) * FRAME for n in range(REACH)]
    found = made.sample(Condition(oscillation(FILL)), between, Noise.batch(0, 3)).trajectory
    grid = oscillation([FRAME * n for n in range(REACH + 1)]).states
    torch.testing.assert_close(found.states, torch.lerp(grid[:, :-1], grid[:, 1:], 0.25), rtol=0, atol=1e-9)


class ExactAnswer(nn.Module):
    """What the direct regressor must say of an oscillation that moves, in its units: (z(t + gap) - mean) / size."""

    def __init__(self, made: DirectRegression) -> None:
        super().__init__()
        self.scale, self.velocity_scale = made.scale.numpy(), made.velocity_scale

    def forward(self, grid: Tensor, scalars: Tensor) -> Tensor:
        gap, span = ((scalars[:, i] * HORIZON)[:, None, None, None] for i in (2, 1))
        latent, velocity = grid[:, :CHANNELS], grid[:, CHANNELS : 2 * CHANNELS] * self.velocity_scale
        after = moved(latent, latent - FRAME * velocity, torch.full_like(gap, -FRAME), gap)
        future = grid[:, 4 * CHANNELS + 2 : 5 * CHANNELS + 2]
        share = torch.where(span == 0, 0.0, gap / torch.where(span == 0, 1.0, span))
        size = np.interp(gap.numpy() / FRAME, np.arange(REACH + 1), self.scale)
        return (after - latent - share * (future - latent)) / (torch.from_numpy(size) * (1 - share))


@pytest.mark.parametrize("known", [CONTEXT, FILL])
def test_direct_regression_says_what_its_network_means_at_any_time(known: tuple[float, ...]) -> None:
    made = fresh("direct")
    made.trunk = ExactAnswer(made)
    assert wrong(made, known, [0.01, 0.3, FRAME * 7, 1.9]) < 1e-9
