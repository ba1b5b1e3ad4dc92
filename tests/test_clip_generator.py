"""Whole clips from noise: what is drawn and planned, exact laws under an exact network, and what training reaches."""

import math
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flowvid.denoise.oracles import Gaussian, GaussianMixture
from flowvid.denoise.predictions import add_noise, shares, target
from flowvid.denoise.schedule import LinearPath, Schedule
from flowvid.models.clip_generator import CLIP_SCHEDULES, ClipGenerator
from flowvid.models.clip_windows import draw_frames, draw_known, plan_windows
from flowvid.models.heard import heard
from flowvid.models.hub import load_pretrained
from flowvid.noise import Noise
from flowvid.solve.grid import Grid
from flowvid.video import Condition, Said, Trajectory, as_text

FRAME, FRAMES, CHANNELS, SIDE = 0.125, 6, 2, 4
CPU = torch.device("cpu")
WAYS = (("velocity", "linear"), ("v", "angle-uniform"), ("noise", "angle-uniform"), ("clean", "angle-uniform"))
TEXTS = ["a ball moves right", None, [(0.5, "the ball bounces"), (1.0, "the ball rests")]]


def waves(batch: int = 3, count: int = 17, *, seed: int = 0) -> Trajectory:
    """z = a cos(t) + b sin(t) in every place."""
    times = FRAME * torch.arange(count, dtype=torch.float64)
    a, b = Noise.batch(seed, batch).normal("waves", 2, 1, CHANNELS, SIDE, SIDE).unbind(1)
    at = times.float()[:, None, None, None]
    return Trajectory(a * torch.cos(at) + b * torch.sin(at), times)


def fresh(predicts: str = "velocity", schedule: str = "linear", **options: object) -> ClipGenerator:
    """A small untrained model that has seen its units."""
    sizes = dict(frames=FRAMES, width=16, heads=2, depth=1, steps=3) | options
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ClipGenerator(CHANNELS, frame=FRAME, predicts=predicts, schedule=schedule, **sizes)
    model.prepare(waves())
    return model


@cache
def alive(predicts: str = "velocity", schedule: str = "linear", network: str = "patches") -> ClipGenerator:
    """A model whose parameters are all random, in double precision."""
    model, generator = fresh(predicts, schedule, network=network).double(), torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model.requires_grad_(False).eval()


def known_at(*times: float, batch: int = 3) -> Trajectory:
    whole = waves(batch, 33)
    return Trajectory(whole.states.double(), whole.times).at(*times)


def sampled(
    model: ClipGenerator, condition: Condition, times: list[float], seeds: list[int], **options: object
) -> Tensor:
    return model.sample(condition, times, Noise.of(seeds), **options).trajectory.states


# Units


def test_a_model_of_starts_spans_its_windows_and_others_whole_clips() -> None:
    assert fresh(starts=True).span.item() == pytest.approx((FRAMES - 1) * FRAME)
    assert fresh().span.item() == pytest.approx(16 * FRAME)
    short = fresh(starts=True)
    short.prepare(waves(count=4))
    assert short.span.item() == pytest.approx(3 * FRAME)


def test_a_model_of_starts_refuses_clips_that_it_may_know_whole() -> None:
    model = fresh(starts=True)
    for learn in (model.prepare, lambda clips: model.loss(clips, Noise.batch(0, 3))):
        with pytest.raises(ValueError, match="at least 3 frames"):
            learn(waves(count=2))
    assert model.loss(waves(count=3), Noise.batch(0, 3)).isfinite()


# Sets of frames in training


@given(st.integers(1, 20), st.integers(1, 8), st.integers(0, 2**31))
def test_drawn_frames_increase_within_the_clip(total: int, places: int, seed: int) -> None:
    places = min(places, total)
    index, exists = draw_frames(Noise.batch(seed, 16), total, places, CPU)
    assert index.shape == exists.shape == (16, places)
    assert 0 <= index.min() <= index.max() < total
    assert bool(exists[:, 0].all())
    assert not bool((exists[:, 1:] & ~exists[:, :-1]).any())
    assert bool(((index.diff(dim=1) > 0) | ~exists[:, 1:]).all())


def test_all_sets_of_frames_are_drawn() -> None:
    index, exists = draw_frames(Noise.batch(0, 4000), 17, 5, CPU)
    full = exists.all(1)
    assert 0.55 < full.float().mean() < 0.65
    assert set(exists.sum(1).tolist()) == {1, 2, 3, 4, 5}
    gaps = index[full].diff(dim=1)
    even = (gaps == gaps[:, :1]).all(1)
    assert {1, 2, 3, 4} <= set(gaps[even, 0].tolist())
    far = (gaps[:, :-1] == 1).all(1) & (gaps[:, -1] > 1)
    assert far.float().mean() > 0.2
    assert (~even & ~far).float().mean() > 0.2
    assert set(index[full, -1].tolist()) == set(range(4, 17))
    assert set(index[full, 0].tolist()) == set(range(13))


def test_all_kinds_of_known_frames_are_drawn_and_never_all_frames() -> None:
    exists = torch.arange(5) < torch.arange(1, 6).repeat(800)[:, None]
    known = draw_known(Noise.batch(0, 4000), exists)
    assert not bool((known & ~exists).any())
    assert bool((exists & ~known).any(1).all())
    counts = {tuple(row) for row in known[exists.all(1)].int().tolist()}
    named = {(0, 0, 0, 0, 0), (1, 0, 0, 0, 0), (1, 1, 0, 0, 0), (1, 0, 0, 0, 1), (1, 1, 1, 1, 0), (1, 1, 0, 0, 1)}
    assert named | {(0, 0, 1, 0, 0), (0, 1, 0, 1, 0)} <= counts
    ends = (known[exists.sum(1) == 4] == torch.tensor([True, False, False, True, False])).all(1)
    assert ends.float().mean() > 1 / 9
    nothing = (~known[exists.all(1)]).all(1).float().mean()
    assert 1 / 7 < nothing < 0.4


def test_a_set_belongs_to_its_seed() -> None:
    noise = Noise.batch(4, 9)
    index, exists = draw_frames(noise, 17, 5, CPU)
    again = draw_frames(noise[3:4], 17, 5, CPU)
    assert torch.equal(again[0], index[3:4])
    assert torch.equal(draw_known(noise[3:4], exists[3:4]), draw_known(noise, exists)[3:4])


# Windows in sampling

TICKS = st.lists(st.integers(0, 400), min_size=1, max_size=30, unique=True).map(sorted)


@given(TICKS, st.lists(st.integers(0, 400), max_size=8, unique=True).map(sorted), st.integers(4, 8))
def test_windows_sample_every_time_once_given_what_came_before(
    wanted_ticks: list[int], known_ticks: list[int], frames: int
) -> None:
    span, wanted = 2.0, (0.1 * torch.tensor(wanted_ticks, dtype=torch.float64)).tolist()
    known_times = 0.1 * torch.tensor(known_ticks, dtype=torch.float64)
    known = Trajectory(torch.zeros(1, len(known_ticks), 1), known_times) if known_ticks else None
    held = set() if known is None else set(known.times.tolist())
    unknown, done = {time for time in wanted if time not in held}, set(held)
    for window in plan_windows(wanted, known, frames=frames, span=span):
        assert len(window.times) == len(window.given) <= frames
        assert all(a < b for a, b in pairwise(window.times))
        assert window.times[-1] - window.times[0] <= span + 1e-5
        pairs = list(zip(window.times, window.given, strict=True))
        assert all((time in done) == given for time, given in pairs)
        new = [time for time, given in pairs if not given]
        before, after = [t for t in done if t < new[0]], [t for t in held if t > new[0]]
        near = [t for t in sorted(before)[-2:] if new[0] - t <= span / 2 + 1e-9]
        assert set(near) <= set(window.times)
        assert not before or near or min(after, default=math.inf) - new[0] <= span / 2 + 1e-5
        following = min((t for t in held if t > new[-1]), default=math.inf)
        assert following > window.times[0] + span - 1e-5 or following in window.times
        done |= set(new)
    assert unknown <= done


def test_what_fits_into_one_window_is_sampled_at_once() -> None:
    known = waves().at(0.0, 1.5)
    (window,) = plan_windows([0.1, 0.5, 1.2, 1.9], known, frames=6, span=2.0)
    assert window.times == (0.0, 0.1, 0.5, 1.2, 1.5, 1.9)
    assert window.given == (True, False, False, False, True, False)


def test_a_long_video_is_sampled_a_window_after_the_other_towards_what_is_known() -> None:
    windows = plan_windows([0.1 * n for n in range(1, 11)], waves(1, 9).at(0.0, 1.0), frames=5, span=2.0)
    numbers = [[round(10 * time) for time in window.times] for window in windows]
    assert numbers == [[0, 1, 2, 3, 10], [2, 3, 4, 5, 10], [4, 5, 6, 7, 10], [6, 7, 8, 9, 10]]


def test_far_times_are_reached_over_others() -> None:
    (first, *_, last) = plan_windows([5.0], waves(1, 3).at(0.0), frames=4, span=2.0)
    assert first.times == (0.0, 1.0, 2.0)
    assert last.times == (4.0, 5.0)


# The loss


@pytest.mark.parametrize(("predicts", "schedule"), WAYS)
def test_the_loss_falls(predicts: str, schedule: str) -> None:
    """All clips are one, and what is sampled from nothing comes nearer to it."""
    model, one, noise = fresh(predicts, schedule, text=None), waves(1), Noise.batch(99, 8)
    clips = Trajectory(one.states.expand(8, -1, -1, -1, -1), one.times)

    def measured() -> tuple[float, float]:
        with torch.no_grad():
            found = sampled(model, Condition(), [0.0, 1.0], [1, 2], solver="heun2-5")
            off = (found - one.at(0.0, 1.0).states).square().mean().item()
            return model.loss(clips, noise).item(), off

    before, optimiser = measured(), torch.optim.AdamW(model.parameters(), 1e-2)
    for step in range(40):
        optimiser.zero_grad()
        model.loss(clips, Noise.batch(step, 8)).backward()
        optimiser.step()
    after = measured()
    assert after[0] < 0.6 * before[0]
    assert after[1] < 0.6 * before[1]


def test_words_are_learned_from() -> None:
    """Two words say what a still clip holds; nothing else does."""
    model = fresh(width=16)
    signs = torch.tensor([1.0, -1.0] * 8)[:, None, None, None, None]
    clips = Trajectory(signs.expand(16, 9, CHANNELS, SIDE, SIDE), FRAME * torch.arange(9, dtype=torch.float64))
    text = model.text_encoder.tokens(as_text(["left", "right"] * 8))
    optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
    for step in range(30):
        optimiser.zero_grad()
        model.loss(clips, Noise.batch(step, 16), text=text).backward()
        optimiser.step()
    told = model.requires_grad_(False).sample(Condition(text=["left", "right"]), [0.0, 0.25], Noise.batch(5, 2))
    assert told.trajectory.states[0].mean() > 0.5
    assert told.trajectory.states[1].mean() < -0.5


def test_a_loss_is_the_mean_over_unknown_entries_of_all_samples() -> None:
    """A fresh network answers zero, so the loss is the mean square of the target; of noise, it is near one."""
    model, noise = fresh("noise", "angle-uniform"), Noise.batch(2, 64)
    clips = waves(64)
    _, exists = draw_frames(noise, 17, FRAMES, CPU)
    counted = exists & ~draw_known(noise, exists)
    drawn = noise.normal("noise", FRAMES, CHANNELS, SIDE, SIDE)
    torch.testing.assert_close(model.loss(clips, noise), drawn[counted].square().mean())


def test_the_network_sees_known_frames_clean_at_their_times_and_words_of_most_samples() -> None:
    model, noise, clips, seen = fresh(), Noise.batch(8, 300), waves(300), {}

    class Recorder(nn.Module):
        def forward(self, clip: Tensor, times: Tensor, level: Tensor, known: Tensor, **rest: Tensor) -> Tensor:
            seen.update(rest, clip=clip, times=times, known=known, level=level)
            return torch.zeros_like(clip)

    model.network = Recorder()
    tokens = model.text_encoder.tokens(as_text([(0.5, "the ball bounces")] * 300))
    model.loss(Trajectory(clips.states, clips.times + 3.0), noise, text=tokens)
    index, exists = draw_frames(noise, 17, FRAMES, CPU)
    clean = clips.states[torch.arange(300)[:, None], index]
    assert torch.equal(seen["known"], draw_known(noise, exists))
    assert torch.equal(seen["clip"][seen["known"]], clean[seen["known"]])
    unknown = exists & ~seen["known"]
    assert (seen["clip"] - clean)[unknown].flatten(1).norm(dim=1).min() > 0
    torch.testing.assert_close(seen["times"], FRAME * index.double())
    assert torch.equal(seen["exists"], exists)
    assert torch.equal(seen["context_times"], torch.full_like(seen["context_times"], 0.5 - 3.0))
    assert 0.05 < (~seen["said"].any(1)).float().mean() < 0.15
    assert torch.equal(seen["said"].any(1), seen["said"].all(1))


def test_levels_are_uniform_in_the_angle() -> None:
    """For data and noise of unit variance the mean square of a velocity is 2, and of its error at best 1 + 2 / pi."""
    levels = LinearPath().level((torch.arange(20000, dtype=torch.float64) + 0.5) / 20000 * math.pi / 2)
    least = (1 / (levels**2 + (1 - levels) ** 2)).mean().item()
    assert least == pytest.approx(1 + 2 / math.pi, rel=1e-4)
    model, white = fresh(), Trajectory(Noise.batch(1, 256).normal("white", 9, CHANNELS, SIDE, SIDE), waves(1, 9).times)

    class Best(nn.Module):
        def forward(self, clip: Tensor, times: Tensor, level: Tensor, known: Tensor, **rest: Tensor) -> Tensor:
            return Gaussian(0.0, 1.0, LinearPath()).denoiser("velocity").network(clip, level)

    model.network = Best()
    with torch.no_grad():
        assert model.loss(white, Noise.batch(3, 256)).item() == pytest.approx(least, rel=0.03)


# What an exact network makes of it: clips of a Gaussian process, of which conditional laws are known

TAU = 0.7


def kernel(one: Tensor, other: Tensor) -> Tensor:
    return torch.exp(-(one[:, None] - other[None]).abs() / TAU)


class GaussianProcess(nn.Module):
    """The best prediction for entries that are independent Ornstein-Uhlenbeck processes of unit variance."""

    def __init__(self, predicts: str, schedule: Schedule) -> None:
        super().__init__()
        self.unit = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.predicts, self.schedule = predicts, schedule

    def forward(self, clip: Tensor, times: Tensor, level: Tensor, known: Tensor, **rest: Tensor) -> Tensor:
        (seconds, *_), (flags, *_) = times, known
        mean, covariance = conditional(seconds[flags], clip[:, flags], seconds[~flags])
        signal, noise = self.schedule.signal(level[0]), self.schedule.noise(level[0])
        spread = signal**2 * covariance + noise**2 * torch.eye(len(covariance)).to(covariance)
        off = torch.linalg.solve(spread, (clip[:, ~flags] - signal * mean).flatten(2))
        clean = mean + (signal * covariance @ off).unflatten(2, mean.shape[2:])
        one, other = shares(self.predicts, level[0], self.schedule)
        answer = torch.zeros_like(clip)
        answer[:, ~flags] = one * clean + other * (noise * off).unflatten(2, mean.shape[2:])
        return answer


def conditional(known: Tensor, states: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the process given its states at some times."""
    cross = kernel(times, known) @ torch.linalg.inv(kernel(known, known))
    mean = torch.einsum("uk,bkchw->buchw", cross, states)
    return mean, kernel(times, times) - cross @ kernel(known, times)


def exact(predicts: str, schedule: str) -> ClipGenerator:
    model = fresh(predicts, schedule, text=None, frames=5).double()
    model.network = GaussianProcess(predicts, CLIP_SCHEDULES[schedule])
    return model


def process_at(times: list[float], side: int) -> Trajectory:
    seconds = torch.tensor(times, dtype=torch.float64)
    root = torch.linalg.cholesky(kernel(seconds, seconds))
    white = Noise.batch(7, 2).normal("truth", len(times), CHANNELS, side, side, dtype=torch.float64)
    return Trajectory(torch.einsum("uk,bkchw->buchw", root, white), seconds)


@pytest.mark.parametrize(("predicts", "schedule"), WAYS)
def test_samples_of_an_exact_network_follow_the_law_given_what_is_known(predicts: str, schedule: str) -> None:
    """Three windows, known frames before, between and after: a Markov kernel loses nothing between windows."""
    known, wanted = process_at([0.0, 0.625, 1.5], 48), [0.1, 0.3, 0.5, 0.8, 1.0, 1.2, 1.7]
    model = exact(predicts, schedule)
    found = model.sample(Condition(known), wanted, Noise.batch(3, 2), solver="heun2-16")
    mean, covariance = conditional(known.times, known.states, torch.tensor(wanted, dtype=torch.float64))
    off = (found.trajectory.states - mean).transpose(0, 1).flatten(1)
    torch.testing.assert_close(off.mean(1), torch.zeros(7).double(), rtol=0, atol=0.04)
    torch.testing.assert_close(off @ off.T / off.shape[1], covariance, rtol=0, atol=0.05)


def test_a_video_from_nothing_has_the_law_of_one_long_sample() -> None:
    wanted = [0.1 * n for n in range(12)]
    model = exact("velocity", "linear")
    model.size.fill_(64)
    states = sampled(model, Condition(), wanted, [1, 2], solver="heun2-16")
    rows = states.transpose(0, 1).flatten(1)
    seconds = torch.tensor(wanted, dtype=torch.float64)
    torch.testing.assert_close(rows @ rows.T / rows.shape[1], kernel(seconds, seconds), rtol=0, atol=0.06)


@pytest.mark.parametrize(("predicts", "schedule"), WAYS[:3])
def test_likelihoods_of_an_exact_network_are_those_of_the_process(predicts: str, schedule: str) -> None:
    truth = process_at([0.0, 0.2, 0.5], 1)
    model = exact(predicts, schedule)
    for known in (None, truth.at(0.0, 0.5)):
        held = set() if known is None else set(known.times.tolist())
        rest = truth.at(*(time for time in truth.times.tolist() if time not in held))
        given_states = truth.states[:, :0] if known is None else known.states
        given_times = truth.times[:0] if known is None else known.times
        mean, covariance = conditional(given_times, given_states, rest.times)
        law = torch.distributions.MultivariateNormal(torch.zeros(len(covariance)).double(), covariance)
        closed = law.log_prob((rest.states - mean).flatten(2).transpose(1, 2)).sum(1)
        with torch.no_grad():
            found = model.log_likelihood(truth, Condition(known), solver=Grid(method="rk4", substeps=24))
        near = 1e-4 if predicts != "noise" else 0.3
        torch.testing.assert_close(found.nats, closed, rtol=0, atol=near)


def test_likelihoods_use_the_known_states_and_refuse_what_is_not_one_window() -> None:
    model, truth = alive(), known_at(0.0, 0.125, 0.25, 0.5)
    with torch.no_grad():
        options = dict(noise=Noise.batch(0, 3), solver="midpoint")
        found = model.log_likelihood(truth, Condition(truth.at(0.125), TEXTS), **options)
        other = Trajectory(truth.states + torch.tensor([0, 9, 0, 0])[:, None, None, None], truth.times)
        same = model.log_likelihood(other, Condition(truth.at(0.125), TEXTS), **options)
        assert torch.equal(found.nats, same.nats)
        assert not torch.equal(found.nats, model.log_likelihood(truth, Condition(truth.at(0.125)), **options).nats)
        for known, whole in ((truth, truth), (known_at(1.0), truth), (None, known_at(0.0, 4.0))):
            with pytest.raises(ValueError, match=r"Known are|A likelihood is"):
                model.log_likelihood(whole, Condition(known), **options)
        with pytest.raises(ValueError, match="A likelihood is"):
            model.log_likelihood(known_at(*(FRAME * n for n in range(7))), **options)


# Identities of flow matching


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_the_marginal_velocity_of_a_mixture_is_the_mean_of_its_targets(level: float) -> None:
    """E[eps - clean | noisy], by quadrature over the clean data, is the oracle's velocity."""
    means, deviations, weights = torch.tensor([[-1.0], [0.5], [2.0]]).double(), [0.3, 0.5, 0.2], [0.2, 0.5, 0.3]
    oracle = GaussianMixture(means, deviations, weights, LinearPath())
    clean = torch.linspace(-5, 6, 20001, dtype=torch.float64)
    prior = sum(
        weight * torch.distributions.Normal(mean, spread).log_prob(clean).exp()
        for mean, spread, weight in zip(means, deviations, weights, strict=True)
    )
    for noisy in (-1.0, 0.2, 1.5):
        eps = (noisy - (1 - level) * clean) / level
        weight = prior * torch.exp(-(eps**2) / 2)
        velocity = target("velocity", clean[:, None], eps[:, None], level, LinearPath())[:, 0]
        expected = (weight * velocity).sum() / weight.sum()
        found = oracle.denoiser("velocity").network(torch.tensor([[noisy]]).double(), level)
        torch.testing.assert_close(found[0, 0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("predicts", "schedule"), WAYS)
@pytest.mark.parametrize("level", [0.2, 0.7])
def test_least_squares_finds_the_oracle_of_a_gaussian(predicts: str, schedule: str, level: float) -> None:
    """The regression of targets on noisy data is the closed form, which is affine: no training, only its minimiser."""
    chosen = CLIP_SCHEDULES[schedule]
    noise = Noise.batch(11, 1)
    clean = 0.4 + 0.6 * noise.normal("clean", 200_000, dtype=torch.float64)[0]
    eps = noise.normal("eps", 200_000, dtype=torch.float64)[0]
    noisy = add_noise(clean, eps, level, chosen)
    features = torch.stack((torch.ones_like(noisy), noisy), 1)
    solution = torch.linalg.lstsq(features, target(predicts, clean, eps, level, chosen)[:, None]).solution
    asked = torch.tensor([[-1.0], [0.0], [1.0]]).double()
    found = Gaussian(0.4, 0.6, chosen).denoiser(predicts).network(asked, level)
    torch.testing.assert_close(torch.cat((torch.ones_like(asked), asked), 1) @ solution, found, rtol=0, atol=0.02)


# Sampling


@pytest.mark.parametrize("network", ["patches", "factorised"])
@pytest.mark.parametrize(("predicts", "schedule"), WAYS)
@pytest.mark.parametrize(
    "known",
    [(), (0.0,), (0.0, 0.125), (0.0, 1.0), (0.25, 0.5), (0.0, 0.125, 0.25, 0.375, 0.5, 0.625), (0.0, 0.375, 2.0)],
    ids=["nothing", "first", "context", "ends", "between", "prefix", "keys"],
)
def test_every_condition_is_answered(predicts: str, schedule: str, network: str, known: tuple[float, ...]) -> None:
    model, times = alive(predicts, schedule, network), [-0.2, 0.0, 0.125, 0.3, 0.71, 1.0, 2.0, 3.7]
    given_states = known_at(*known) if known else None
    found = model.sample(Condition(given_states, TEXTS), times, Noise.of([5, 6, 7])).trajectory
    assert found.times.tolist() == times
    assert found.states.shape == (3, 8, CHANNELS, SIDE, SIDE)
    assert bool(found.states.isfinite().all())
    for time in set(known) & set(times):
        assert torch.equal(found.at(time).states, given_states.at(time).states)
    assert not torch.equal(found.states[:, 2], found.states[:, 3])


@settings(max_examples=3)
@given(st.permutations(range(3)), st.sampled_from(["ddim-2", "heun2-1"]), st.booleans())
def test_a_sample_depends_on_its_seed_and_not_on_its_batch(order: list[int], solver: str, told: bool) -> None:
    model, times, seeds, known = alive(), [0.3, 0.6, 1.9], [3, 1, 4], known_at(0.0, 0.5)
    text = TEXTS if told else None
    whole = sampled(model, Condition(known, text), times, seeds, solver=solver)
    assert torch.equal(whole, sampled(model, Condition(known, text), times, seeds, solver=solver))
    moved = Condition(Trajectory(known.states[order], known.times), text and [text[n] for n in order])
    again = sampled(model, moved, times, [seeds[n] for n in order], solver=solver)
    torch.testing.assert_close(again, whole[order], rtol=1e-7, atol=1e-8)
    alone = Condition(Trajectory(known.states[2:], known.times), text and text[2:])
    torch.testing.assert_close(sampled(model, alone, times, seeds[2:], solver=solver), whole[2:], rtol=1e-7, atol=1e-8)
    other = sampled(model, Condition(known, text), times, [3, 1, 5], solver=solver)
    assert torch.equal(other[:2], whole[:2])
    assert not torch.allclose(other[2], whole[2])


def test_samples_of_shifted_times_and_words_differ_by_their_noise_alone() -> None:
    model, shift, known = alive(), 5.0, known_at(0.0, 0.5)
    exact_noise = Noise.batch(0, 1)
    flows = []
    for by in (0.0, shift):
        (window,) = plan_windows(
            [0.25 + by, 0.75 + by], Trajectory(known.states[:1], known.times + by), frames=6, span=2.0
        )
        words = heard(
            model.text_encoder,
            as_text([[Said("a ball moves right"), Said("the ball bounces", 0.4 + by)]]),
            known.states[:1],
        )
        clean = torch.zeros(1, 4, CHANNELS, SIDE, SIDE).double()
        flows.append(model._flow(window, clean, words))
    noisy = exact_noise.normal("x", 2, CHANNELS, SIDE, SIDE, dtype=torch.float64)
    torch.testing.assert_close(flows[0](0.5, noisy), flows[1](0.5, noisy), rtol=1e-6, atol=1e-7)


def test_a_frame_starts_from_noise_of_its_own_time() -> None:
    """A fresh velocity is zero, so a sample is its starting noise."""
    model = fresh()
    few, many = (sampled(model, Condition(), times, [1, 2]) for times in ([0.5], [0.0, 0.3, 0.5, 0.9]))
    assert torch.equal(few[:, 0], many[:, 2])
    flat = many.flatten(2)
    assert all(not torch.allclose(flat[:, a], flat[:, b]) for a in range(4) for b in range(a))


@pytest.mark.parametrize(
    ("way", "solver", "guidance", "evaluations", "depth"),
    [
        (0, None, 1.0, 3, 3),
        (0, "heun2-4", 1.0, 8, 8),
        (0, "ddim-5", 2.0, 10, 5),
        (0, "ddim-5", 0.0, 5, 5),
        (3, "ddim-5", 1.0, 6, 6),
        (3, "ddim-5", 3.0, 12, 6),
    ],
)
def test_evaluations_are_what_the_network_was_asked(
    way: int, solver: str | None, guidance: float, evaluations: int, depth: int
) -> None:
    model, asked = fresh(*WAYS[way]), 0

    def count(*_: object) -> None:
        nonlocal asked
        asked += 1

    model.network.register_forward_hook(count)
    with torch.no_grad():
        found = model.sample(
            Condition(text=["a ball"]), [0.0, 0.5], Noise.batch(0, 1), solver=solver, guidance=guidance
        )
        assert (found.evaluations, found.depth, asked) == (evaluations, depth, evaluations)
        everything = Condition(waves().at(0.0, 0.5))
        assert model.sample(everything, [0.0, 0.5], Noise.batch(0, 3), solver=solver).evaluations == 0
        twice = model.sample(Condition(), [FRAME * n for n in range(8)], Noise.batch(0, 1), solver=solver)
        assert twice.depth == 2 * depth


# Words


def test_guidance_one_is_the_conditional_and_zero_the_unconditional_sample() -> None:
    model, times, seeds = alive(), [0.0, 0.4], [1, 2, 3]
    told, silent = (sampled(model, Condition(text=text), times, seeds) for text in (TEXTS, None))
    assert torch.equal(sampled(model, Condition(text=TEXTS), times, seeds, guidance=1.0), told)
    assert torch.equal(sampled(model, Condition(text=TEXTS), times, seeds, guidance=0.0), silent)
    assert torch.equal(told[1], silent[1])
    assert not torch.allclose(told[0], silent[0])
    more = sampled(model, Condition(text=TEXTS), times, seeds, guidance=3.0)
    assert not torch.allclose(more[0], told[0])
    torch.testing.assert_close(more[1], silent[1])


def test_guided_velocity_goes_on_from_silence_to_words() -> None:
    model = alive()
    drift, noisy = {}, Noise.batch(0, 1).normal("x", 1, CHANNELS, SIDE, SIDE, dtype=torch.float64)
    for guidance in (0.0, 1.0, 2.5):
        drift[guidance] = sampled(model, Condition(text=["a ball"]), [0.0], [4], solver="euler-1", guidance=guidance)
    step = drift[1.0] - drift[0.0]
    torch.testing.assert_close(drift[2.5], drift[0.0] + 2.5 * step)
    assert step.abs().max() > 1e-4
    assert noisy.shape == (1, 1, CHANNELS, SIDE, SIDE)


def test_the_moment_that_is_spoken_of_counts_unless_it_is_far_away() -> None:
    model, times, seeds = alive(), [0.0, 0.25, 0.5], [1]
    said = [sampled(model, Condition(text=[(at, "the ball bounces")]), times, seeds) for at in (0.0, 0.25, 9.0)]
    assert not torch.allclose(said[0], said[1])
    torch.testing.assert_close(said[2], sampled(model, Condition(), times, seeds))


@pytest.mark.parametrize(("predicts", "schedule"), WAYS)
def test_padded_clips_answer_as_they_do_alone(predicts: str, schedule: str) -> None:
    for network in ("patches", "factorised"):
        inner, clips = alive(predicts, schedule, network).network, waves(2, 5)
        clip, times = clips.states.double(), clips.times.expand(2, -1)
        level, known = torch.tensor([0.3, 0.8]).double(), torch.tensor([[True, False, False, True, False]] * 2)
        exists = torch.arange(5) < torch.tensor([[3], [5]])
        whole = inner(clip, times, level, known, exists=exists)
        alone = inner(clip[:1, :3], times[:1, :3], level[:1], known[:1, :3])
        torch.testing.assert_close(whole[:1, :3], alone)
        torch.testing.assert_close(whole[1:], inner(clip[1:], times[1:], level[1:], known[1:]))


def test_a_frame_of_another_size_is_sampled_too() -> None:
    known = Trajectory(Noise.batch(0, 2).normal("wide", 1, CHANNELS, 3, 7, dtype=torch.float64), waves(1, 1).times)
    assert sampled(alive(), Condition(known), [0.0, 0.5], [1, 2]).shape == (2, 2, CHANNELS, 3, 7)


# Files and refusals


@pytest.mark.parametrize("network", ["patches", "factorised"])
def test_a_saved_model_samples_the_same(network: str, tmp_path: Path) -> None:
    model = fresh("clean", "angle-uniform", network=network, tubelet=(1, 2, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
        model.save_pretrained(tmp_path / "model")
        loaded = load_pretrained(tmp_path / "model")
        assert isinstance(loaded, ClipGenerator)
        found = [sampled(each.eval(), Condition(text=TEXTS), [0.0, 0.4], [1, 2, 3]) for each in (model, loaded)]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(frames=3), "at least 4 frames"),
        (dict(steps=0), "at least one step"),
        (dict(predicts="score"), "predicts"),
        (dict(schedule="cosine"), "schedules are"),
        (dict(network="unet"), "networks are"),
        (dict(network="factorised", tubelet=(2, 2, 2)), "networks are"),
        (dict(network="factorised", tubelet=(1, 2, 1)), "networks are"),
        (dict(text="latin"), "Text encoders"),
    ],
)
def test_models_that_cannot_be_are_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        fresh(**options)


def test_conditions_that_cannot_be_answered_are_refused() -> None:
    mute, reading, noise = fresh(text=None), fresh(), Noise.batch(0, 3)
    with pytest.raises(ValueError, match="does not read"):
        mute.sample(Condition(text=TEXTS), [0.0], noise)
    with pytest.raises(ValueError, match="does not read"):
        mute.loss(waves(), noise, text=reading.text_encoder.tokens(as_text(TEXTS)))
    with pytest.raises(ValueError, match="Guidance leads"):
        reading.sample(Condition(waves().at(0.0)), [0.5], noise, guidance=2.0)
    with pytest.raises(ValueError, match="Guidance leads"):
        reading.sample(Condition(text=TEXTS), [0.5], noise, guidance=math.nan)
    with pytest.raises(ValueError, match="got 3 seeds"):
        reading.sample(Condition(waves(2).at(0.0)), [0.5], noise)
    with pytest.raises(ValueError, match="one text for each"):
        reading.sample(Condition(text=TEXTS[:2]), [0.5], noise)
    with pytest.raises(ValueError, match="not in this encoder's vocabulary"):
        reading.sample(Condition(text=["a zeppelin"]), [0.5], Noise.batch(0, 1))
    with pytest.raises(ValueError, match="solvers of a probability flow"):
        reading.sample(Condition(), [0.5], noise, solver="jump")
    unprepared = ClipGenerator(CHANNELS, frame=FRAME, text=None, width=16, heads=2, depth=1)
    with pytest.raises(ValueError, match="call prepare"):
        unprepared.sample(Condition(), [0.5], noise)
    for method in (unprepared.prepare, lambda clips: unprepared.loss(clips, noise)):
        with pytest.raises(ValueError, match="trains on frames"):
            method(Trajectory(waves().states, waves().times * 2))
