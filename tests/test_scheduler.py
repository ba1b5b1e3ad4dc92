"""Schedulers in diffusers' form: our DDIM behind their interface, their schedulers behind ours, where both agree."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flowvid.denoise.ddim import Ddim
from flowvid.denoise.denoiser import Denoiser
from flowvid.denoise.oracles import Gaussian
from flowvid.denoise.predictions import target
from flowvid.denoise.schedule import AngleUniform, Cosine, LinearPath, Schedule
from flowvid.denoise.scheduler import Scheduled, Scheduler
from flowvid.noise import Noise

KINDS = {"v_prediction": "v", "epsilon": "noise", "sample": "clean", "flow_prediction": "velocity"}
EACH_KIND = st.sampled_from(sorted(KINDS))
SCHEDULES = (AngleUniform(), Cosine(), LinearPath())
EACH_SCHEDULE = st.sampled_from(SCHEDULES)


def pair(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    noise = Noise.batch(seed, 3)
    return noise.normal("clean", *shape, dtype=dtype), noise.normal("noise", *shape, dtype=dtype)


def wavy(noisy: Tensor, level: float) -> Tensor:
    return torch.sin(1.3 * noisy + 2 * level) + 0.2 * noisy.flip(-1)


def looped(scheduler: Scheduler, noisy: Tensor) -> Tensor:
    """The loop of a pipeline."""
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(noisy, timestep)
        said = wavy(scaled, float(timestep) / scheduler.train_timesteps)
        noisy = scheduler.step(said, timestep, noisy, return_dict=False)[0]
    return noisy


def start_of(kind: str) -> float:
    return 0.9 if kind == "epsilon" else 1.0


# Our scheduler


@settings(max_examples=25)
@given(EACH_KIND, EACH_SCHEDULE, st.integers(1, 8), st.integers(0, 1000))
def test_the_loop_of_a_pipeline_is_the_solver(kind: str, schedule: Schedule, steps: int, seed: int) -> None:
    scheduler, noisy = Scheduler(kind, schedule=schedule, start=start_of(kind)), pair(seed, 3)[0]
    scheduler.set_timesteps(steps)
    levels = np.linspace(start_of(kind), 0.0, steps + 1)
    solution = Ddim(substeps=1).solve(Denoiser(wavy, KINDS[kind], schedule), noisy, levels.tolist())
    found = looped(scheduler, noisy)
    torch.testing.assert_close(found, solution.trajectory.states[:, -1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(looped(scheduler, noisy), found)


@given(st.integers(1, 1000), st.integers(1, 2000), st.floats(0.1, 1.0))
def test_timesteps_are_even_start_at_noise_and_stop_one_step_before_data(steps: int, train: int, start: float) -> None:
    scheduler = Scheduler(train_timesteps=train, start=start)
    scheduler.set_timesteps(steps)
    expected = train * np.linspace(start, 0, steps + 1)[:-1]
    np.testing.assert_allclose(scheduler.timesteps, expected, rtol=1e-6)
    assert scheduler.timesteps[0] == pytest.approx(train * start)
    assert scheduler.timesteps.dtype == torch.float32


@given(
    EACH_KIND, EACH_SCHEDULE, st.integers(0, 1000), st.lists(st.floats(0.01, 0.9), min_size=1, max_size=5, unique=True)
)
def test_levels_of_ones_own_are_walked_to_data(kind: str, schedule: Schedule, seed: int, levels: list[float]) -> None:
    """With the exact answer about a fixed pair every step stays on it and the last one is the data."""
    levels = sorted({round(level, 3) for level in levels}, reverse=True)
    clean, epsilon = pair(seed, 2)
    scheduler = Scheduler(kind, schedule=schedule, start=start_of(kind))
    scheduler.set_timesteps(levels=levels)
    assert len(scheduler.timesteps) == len(levels)
    noisy = scheduler.add_noise(clean, epsilon, levels[0] * 1000)
    for timestep, following in zip(scheduler.timesteps, [*levels[1:], 0.0], strict=True):
        said = target(KINDS[kind], clean, epsilon, float(timestep) / 1000, schedule)
        step = scheduler.step(said, timestep, noisy)
        torch.testing.assert_close(
            step.prev_sample, scheduler.add_noise(clean, epsilon, following * 1000), atol=2e-4, rtol=0
        )
        torch.testing.assert_close(step.pred_original_sample, clean, atol=1e-3, rtol=0)
        noisy = step.prev_sample
    torch.testing.assert_close(noisy, clean, atol=1e-3, rtol=0)


def test_noise_is_added_at_any_timestep_one_for_each_sample() -> None:
    clean, epsilon = pair(0, 3, 5, 4)
    scheduler = Scheduler()
    timesteps = torch.tensor([0, 333, 1000])
    found = scheduler.add_noise(clean, epsilon, timesteps)
    angles = timesteps.double()[:, None, None, None] / 1000 * math.pi / 2
    torch.testing.assert_close(found, angles.cos() * clean + angles.sin() * epsilon, atol=1e-12, rtol=0)


def test_pure_noise_is_finite_and_samples_keep_their_type() -> None:
    scheduler = Scheduler()
    scheduler.set_timesteps(1)
    for dtype in (torch.bfloat16, torch.float32):
        noisy = torch.ones(2, 3, dtype=dtype)
        step = scheduler.step(torch.full_like(noisy, -0.5, dtype=torch.bfloat16), 1000.0, noisy)
        for found in step:
            assert found.dtype == dtype
            assert torch.equal(found, torch.full_like(noisy, 0.5))
    assert (scheduler.order, scheduler.init_noise_sigma) == (1, 1.0)


def test_steps_are_computed_in_full_precision() -> None:
    """A bfloat16 sample is rounded once a step, after it, not within."""
    noisy, said = (values.bfloat16() for values in pair(0, 1000, dtype=torch.float32))
    scheduler = Scheduler()
    scheduler.set_timesteps(7)
    turn = math.pi / 14
    exact = (math.cos(turn) * noisy.double() - math.sin(turn) * said.double()).bfloat16()
    assert torch.equal(scheduler.step(said, 1000.0, noisy).prev_sample, exact)


def test_what_was_measured_to_go_wrong_elsewhere_is_refused() -> None:
    scheduler, values = Scheduler(), torch.ones(1, 2)
    with pytest.raises(ValueError, match="call set_timesteps first"):
        scheduler.step(values, 1000.0, values)
    with pytest.raises(ValueError, match="call set_timesteps first"):
        _ = scheduler.timesteps
    scheduler.set_timesteps(10)
    for timestep in (999.0, 0.0, 950.0, math.nan):
        with pytest.raises(ValueError, match=r"not on the schedule; its 10 timesteps run from 1000 to 100\."):
            scheduler.step(values, timestep, values)
    scheduler.set_timesteps(4)
    assert scheduler.step(values, 250.0, values).prev_sample.isfinite().all()
    with pytest.raises(ValueError, match="not on the schedule"):
        scheduler.step(values, 900.0, values)


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="v_prediction, epsilon, sample, flow_prediction; got 'v'"):
        Scheduler("v")
    for schedule in SCHEDULES:
        with pytest.raises(ValueError, match="nothing about the clean data at pure noise"):
            Scheduler("epsilon", schedule=schedule)
    for start in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match=rf"start in \(0, 1\].*got {start}"):
            Scheduler(start=start)
    with pytest.raises(ValueError, match=r"train_timesteps >= 1.*got 1.0 and 0"):
        Scheduler(train_timesteps=0)
    scheduler = Scheduler()
    for arguments in ({}, {"num_inference_steps": 3, "levels": [0.5]}):
        with pytest.raises(ValueError, match="one of the two"):
            scheduler.set_timesteps(**arguments)
    with pytest.raises(ValueError, match="at least one step; got 0"):
        scheduler.set_timesteps(0)
    for levels in ([], [0.5, 0.5], [0.3, 0.5], [1.2, 0.5], [0.5, 0.0], [math.nan]):
        with pytest.raises(ValueError, match=r"decrease within \(0, 1\]"):
            scheduler.set_timesteps(levels=levels)


# Somebody else's scheduler


class Turning:
    """A minimal scheduler of somebody else's."""

    def __init__(self, sigma: float = 1.0) -> None:
        self.init_noise_sigma = sigma
        self.timesteps: list[int] = []

    def set_timesteps(self, num_inference_steps: int) -> None:
        self.timesteps = [1000 - 1000 * step // num_inference_steps for step in range(num_inference_steps)]

    def step(self, model_output: Tensor, timestep: int, sample: Tensor):
        class Answer:
            turn = math.pi / 2 / len(self.timesteps)
            prev_sample = math.cos(turn) * sample - math.sin(turn) * model_output

        return Answer


@pytest.mark.parametrize("predicts", ["v", "clean", "velocity"])
def test_a_scheduler_samples_any_denoiser(predicts: str) -> None:
    noisy, denoiser = pair(0, 2)[0], Gaussian(0.5, 0.7).denoiser(predicts)
    solver = Scheduled(scheduler=Turning(), steps=10, level_of=lambda timestep: timestep / 1000)
    solution = solver.solve(denoiser, noisy, [1.0, 0.0])
    expected = Ddim(substeps=10).solve(denoiser, noisy, [1.0, 0.0])
    torch.testing.assert_close(solution.trajectory.states, expected.trajectory.states, atol=1e-12, rtol=1e-12)
    assert solution.evaluations == solution.depth == 10


def test_our_scheduler_fits_its_own_adapter() -> None:
    noisy, denoiser = pair(0, 2)[0], Denoiser(wavy, "velocity", LinearPath())
    scheduler = Scheduler("flow_prediction", start=0.8)
    solver = Scheduled(scheduler=scheduler, steps=7, level_of=lambda timestep: timestep / 1000, predicts="velocity")
    found = solver.solve(denoiser, noisy, [0.8, 0.0]).trajectory.states[:, -1]
    levels = [0.8 * (1 - step / 7) for step in range(7)]
    expected = Ddim(substeps=1).solve(denoiser, noisy, [*levels, 0.0]).trajectory.states[:, -1]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_schedulers_that_do_not_fit_are_refused_and_failures_reported() -> None:
    noisy, denoiser = pair(0, 2)[0], Denoiser(wavy)
    for sigma, steps in ((14.6, 3), (1.0, 0)):
        with pytest.raises(ValueError, match=f"init_noise_sigma 1; got {steps} and {sigma:g}"):
            Scheduled(scheduler=Turning(sigma), steps=steps, level_of=lambda timestep: timestep / 1000)
    solver = Scheduled(scheduler=Turning(), steps=3, level_of=lambda timestep: timestep / 1000)
    for levels in ([0.5, 0.0], [1.0, 0.1], [1.0, 0.5, 0.0], [1.0]):
        with pytest.raises(ValueError, match=r"the times are \[1, 0.0\]; got \["):
            solver.solve(denoiser, noisy, levels)
    with pytest.raises(ValueError, match="needs a Denoiser"):
        solver.solve(wavy, noisy, [1.0, 0.0])
    broken = Denoiser(lambda x, level: torch.full_like(x, math.nan))
    assert "level 0 in samples 0, 1, 2" in solver.solve(broken, noisy, [1.0, 0.0]).status


# diffusers


def of_diffusers(name: str, **config: object):
    schedulers = pytest.importorskip("diffusers.schedulers")
    return getattr(schedulers, name)(**config)


def ddim_of_diffusers(schedule: Schedule, **config: object):
    """Their DDIM with our angles: signal^2 at (t + 1) / 1000, nothing clipped, grids from pure noise."""
    kept = np.array([schedule.signal(t / 1000) ** 2 for t in range(1001)])
    settings = {"clip_sample": False, "set_alpha_to_one": True, "timestep_spacing": "trailing"} | config
    return of_diffusers("DDIMScheduler", trained_betas=1 - kept[1:] / kept[:-1], **settings)


@pytest.mark.parametrize("schedule", [AngleUniform(), Cosine()])
@pytest.mark.parametrize("steps", [1, 4, 10, 50])
@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_ddim_agrees_with_diffusers_on_equal_time_pairs(schedule: Schedule, steps: int, kind: str) -> None:
    theirs = ddim_of_diffusers(schedule, prediction_type=kind)
    theirs.set_timesteps(steps)
    noisy = pair(0, 4, dtype=torch.float32)[0]
    ours = Scheduler(kind, schedule=schedule)
    ours.set_timesteps(steps)
    expected, found = noisy, noisy
    for at, timestep in zip(theirs.timesteps, ours.timesteps, strict=True):
        assert (int(at) + 1) == pytest.approx(float(timestep))
        expected = theirs.step(wavy(expected, 0.3), at, expected).prev_sample
        found = ours.step(wavy(found, 0.3), timestep, found).prev_sample
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("start", [0.999, 0.7])
def test_predicted_noise_agrees_with_diffusers_below_pure_noise(start: float) -> None:
    theirs = ddim_of_diffusers(AngleUniform(), prediction_type="epsilon")
    theirs.set_timesteps(1000)
    levels = [start, start - 0.001]
    ours = Scheduler("epsilon", start=start)
    ours.set_timesteps(levels=levels)
    clean, epsilon = pair(0, 4)
    noisy, said = ours.add_noise(clean, epsilon, start * 1000), epsilon + 1e-4 * clean
    expected = theirs.step(said, round(start * 1000) - 1, noisy).prev_sample
    torch.testing.assert_close(ours.step(said, start * 1000, noisy).prev_sample, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 5, 30])
def test_straight_paths_agree_with_diffusers_flow_matching(steps: int) -> None:
    levels = [1 - step / steps for step in range(steps)]
    theirs = of_diffusers("FlowMatchEulerDiscreteScheduler", num_train_timesteps=1000)
    theirs.set_timesteps(sigmas=levels)
    ours = Scheduler("flow_prediction")
    ours.set_timesteps(steps)
    torch.testing.assert_close(ours.timesteps, theirs.timesteps)
    expected = found = pair(0, 4, dtype=torch.float32)[0]
    for timestep, also in zip(ours.timesteps, theirs.timesteps, strict=True):
        expected = theirs.step(wavy(expected, 0.3), also, expected).prev_sample
        found = ours.step(wavy(found, 0.3), timestep, found).prev_sample
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_schedulers_of_diffusers_sample_our_denoisers() -> None:
    noisy = pair(0, 2, dtype=torch.float32)[0]
    for kind in ("v", "clean"):
        denoiser = Gaussian(0.5, 0.7).denoiser(kind)
        ddim = ddim_of_diffusers(AngleUniform(), prediction_type="v_prediction")
        solver = Scheduled(scheduler=ddim, steps=20, level_of=lambda timestep: (timestep + 1) / 1000)
        found = solver.solve(denoiser, noisy, [1.0, 0.0]).require().trajectory.states
        expected = Ddim(substeps=20).solve(denoiser, noisy, [1.0, 0.0]).trajectory.states
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    flow = of_diffusers("FlowMatchEulerDiscreteScheduler")
    solver = Scheduled(scheduler=flow, steps=20, level_of=lambda timestep: timestep / 1000, predicts="velocity")
    denoiser = Gaussian(0.5, 0.7, LinearPath()).denoiser()
    found = solver.solve(denoiser, noisy, [1.0, 0.0]).trajectory.states[:, -1]
    levels = [*torch.linspace(1.0, 0.001, 20, dtype=torch.float64).tolist(), 0.0]
    expected = Ddim(substeps=1).solve(denoiser, noisy, levels).trajectory.states[:, -1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_our_grid_is_even_where_the_steps_do_not_divide_the_timesteps() -> None:
    """There diffusers' previous timestep is not the next entry of its own grid; ours is."""
    theirs = ddim_of_diffusers(AngleUniform(), prediction_type="v_prediction")
    theirs.set_timesteps(7)
    pairs = [(int(t), int(t) - 1000 // 7) for t in theirs.timesteps]
    assert [previous for _, previous in pairs[:-1]] != [t for t, _ in pairs[1:]]
    ours, noisy = Scheduler(), torch.ones(1, 2)
    ours.set_timesteps(7)
    for timestep, following in pairwise([*ours.timesteps.tolist(), 0.0]):
        turned = ours.step(torch.zeros_like(noisy), timestep, noisy).prev_sample
        angle = (timestep - following) / 1000 * math.pi / 2
        torch.testing.assert_close(turned, noisy * math.cos(angle), atol=1e-6, rtol=0)
