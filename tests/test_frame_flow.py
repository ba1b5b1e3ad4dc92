"""Frame-wise flow matching: exact laws with exact networks, the loss at its optimum, long gaps, a short training."""

import math
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flowvid.models.frame_flow import STARTS, FrameFlow
from flowvid.models.hub import load_pretrained
from flowvid.models.past import draw_length, draw_lengths, draw_pasts
from flowvid.networks.trunk import count_parameters
from flowvid.noise import Noise
from flowvid.video import Condition, Trajectory, time_grid

FRAME, REACH, SIDE = 0.125, 4, 2
SLOPE = 0.8
TURN, DAMPING = 0.5, 0.95


def first_order(lags: int) -> Tensor:
    """Autocovariances of an Ornstein-Uhlenbeck process of variance one."""
    return SLOPE ** torch.arange(lags, dtype=torch.float64)


def second_order(lags: int) -> Tensor:
    """Autocovariances of a damped oscillation driven by noise, of variance one."""
    one, two = 2 * DAMPING * math.cos(TURN), -(DAMPING**2)
    found = [1.0, one / (1 - two)]
    while len(found) < lags:
        found.append(one * found[-1] + two * found[-2])
    return torch.tensor(found, dtype=torch.float64)


def seconds(frames: Any) -> Tensor:
    return FRAME * torch.tensor(list(frames), dtype=torch.float64)


LAWS = {"first": first_order(64), "second": second_order(64)}


def covariance(law: str, frames: list[int]) -> Tensor:
    at = torch.tensor(frames)
    return LAWS[law][(at[:, None] - at).abs()]


def clips(law: str, count: int, batch: int, seed: int = 0, side: int = SIDE) -> Trajectory:
    """Stationary clips; pixels are independent."""
    root = torch.linalg.cholesky(covariance(law, list(range(count))))
    drawn = Noise.batch(seed, batch).normal("clip", count, 1, side, side, dtype=torch.float64)
    return Trajectory(torch.einsum("st,btchw->bschw", root, drawn), seconds(range(count)))


class Oracle(nn.Module):
    """What the trunk should answer about one channel whose law given (previous, latest, other) is known."""

    def __init__(self, model: FrameFlow, law: Any) -> None:
        super().__init__()
        self.units = model.scale if model.start == "previous" else torch.ones_like(model.scale)
        self.relative = model.start == "previous"
        self.reach = model.reach
        self.law = law
        self.seen: list[Tensor] = []
        self.least: list[Tensor] = []

    def forward(self, grid: Tensor, scalars: Tensor) -> Tensor:
        noisy, previous, latest, _, has_latest, other, _, has_other = grid[:, :, None].unbind(1)
        longest = torch.tensor([self.reach, 2 * self.reach, 2 * self.reach])
        lengths = 2 ** (scalars[:, 1:] * torch.log2(1 + longest)) - 1
        present = torch.stack((has_latest[:, 0, 0, 0], has_other[:, 0, 0, 0]), dim=1)
        self.seen.append(torch.cat((lengths, present), dim=1))
        mean, variance = self.law(previous, latest, other, lengths, present)
        unit = self.units[lengths[:, 0].round().long() - 1][:, None, None, None]
        mean = (mean - previous * self.relative) / unit
        variance = variance[:, None, None, None] / unit**2
        level = scalars[:, 0, None, None, None]
        total = (1 - level) ** 2 * variance + level**2
        off = noisy - (1 - level) * mean
        self.least.append((variance / total).expand_as(off))
        return level / total * off - mean - (1 - level) * variance / total * off


def gaussian(law: str) -> Any:
    """Mean and variance of the next pixel given those that are present."""

    def given_all(previous: Tensor, latest: Tensor, other: Tensor, lengths: Tensor, present: Tensor) -> Any:
        back = torch.stack((torch.zeros_like(lengths[:, 0]), lengths[:, 1], lengths[:, 2]), dim=1)
        here = torch.cat((torch.ones_like(present[:, :1]), present), dim=1)
        lags = (back[:, :, None] - back[:, None]).abs().round().long()
        among = LAWS[law][lags] * here[:, :, None] * here[:, None] + torch.diag_embed(1 - here)
        ahead = LAWS[law][(back + lengths[:, :1]).round().long()] * here
        weights = torch.linalg.solve(among, ahead)
        mean = torch.einsum("bk,kbchw->bchw", weights, torch.stack((previous, latest, other)))
        return mean, 1 - (weights * ahead).sum(dim=1)

    return given_all


def exact(law: Any, *, start: str = "previous", reach: int = REACH, steps: int = 10) -> FrameFlow:
    """A model with the best possible network; its units are arbitrary."""
    model = FrameFlow(1, frame=FRAME, reach=reach, width=8, start=start, steps=steps).double()
    model.scale.copy_(torch.linspace(0.7, 1.3, reach))
    model.trunk = Oracle(model, gaussian(law) if isinstance(law, str) else law)
    return model


@cache
def random_model(start: str = "previous", channels: int = 2) -> FrameFlow:
    """A model whose parameters are all random."""
    model = FrameFlow(channels, frame=FRAME, reach=REACH, width=8, start=start, steps=2).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    model.scale.copy_(torch.linspace(0.5, 0.9, REACH))
    return model.requires_grad_(False).eval()


def context(frames: list[float], batch: int = 3, channels: int = 2) -> Trajectory:
    states = Noise.batch(4, batch).normal("context", len(frames), channels, 3, 3, dtype=torch.float64)
    return Trajectory(states, seconds(frames))


def sampled(model: FrameFlow, known: Trajectory, frames: list[float], seeds: Any = None, **options: str) -> Tensor:
    noise = Noise.of(range(len(known)) if seeds is None else seeds)
    return model.sample(Condition(known), [FRAME * at for at in frames], noise, **options).trajectory.states


# Laws


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    ("law", "known", "frames"),
    [("first", [0], [1, 3, 9]), ("first", [-3, 0], [4, 5]), ("second", [0], [1, 2, 3]), ("second", [-1, 0], [1, 2, 6])],
)
def test_samples_have_the_law_of_the_process_given_what_is_known(
    start: str, law: str, known: list[int], frames: list[int]
) -> None:
    """Mean and covariance over time; in long steps too, where the next state depends on the previous one alone."""
    batch = 1500
    model = exact(law, start=start, steps=12)
    values = torch.tensor([1.1, -0.4][: len(known)], dtype=torch.float64)
    states = values[:, None, None, None].expand(batch, -1, 1, SIDE, SIDE)
    asked = list(range(1, max(frames) + 1)) if law == "second" else frames
    found = sampled(model, Trajectory(states, seconds(known)), asked, Noise.batch(2, batch).seeds)
    found = found[:, [asked.index(at) for at in frames]].transpose(1, 2).flatten(0, 1).flatten(2)
    pixels = found.transpose(1, 2).flatten(0, 1)
    whole = covariance(law, known + frames)
    n = len(known)
    weights = torch.linalg.solve(whole[:n, :n], whole[:n, n:]).T
    mean, spread = weights @ values, whole[n:, n:] - weights @ whole[:n, n:]
    size = spread.diag().sqrt()
    error = (pixels.mean(dim=0) - mean).abs() / size
    assert float(error.max()) < 4 / len(pixels) ** 0.5
    measured = pixels.T.cov() / size / size[:, None]
    torch.testing.assert_close(measured, spread / size / size[:, None], rtol=0, atol=5 / len(pixels) ** 0.5 + 0.01)


def along_a_line(previous: Tensor, latest: Tensor, other: Tensor, lengths: Tensor, present: Tensor) -> Any:
    """A straight motion read off the random earlier state, or off the latest where there is no other."""
    state = torch.where(present[:, 1, None, None, None] > 0, other, latest)
    back = torch.where(present[:, 1] > 0, lengths[:, 2], lengths[:, 1])
    mean = previous + (previous - state) * (lengths[:, 0] / back)[:, None, None, None]
    return mean, torch.full_like(back, 1e-10)


@pytest.mark.parametrize("start", STARTS)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=4, unique=True), st.lists(st.floats(0.3, 7), max_size=3))
@settings(max_examples=8)
def test_every_earlier_state_comes_with_its_distance(start: str, frames: list[int], steps: list[float]) -> None:
    """A straight motion continues exactly whichever earlier state is drawn, known frames at any real times included."""
    model, batch = exact(along_a_line, start=start, steps=1), 6
    times = torch.tensor([-sum(steps[:n]) for n in range(len(steps), -1, -1)], dtype=torch.float64) * FRAME
    times = torch.cat((times[:-1], torch.tensor([-0.5 * FRAME, 0.0], dtype=torch.float64)))
    times = times[torch.cat((times.diff() > 1e-3, torch.tensor([True])))]
    times = torch.cat((times[times < -0.6 * FRAME], times[-2:]))
    place, speed = Noise.batch(0, batch).normal("line", 2, 1, SIDE, SIDE, dtype=torch.float64).unbind(1)

    def line(at: Tensor) -> Tensor:
        return place[:, None] + speed[:, None] * at[:, None, None, None]

    found = sampled(model, Trajectory(line(times), times), sorted(frames))
    want = line(torch.tensor(sorted(frames), dtype=torch.float64) * FRAME)
    torch.testing.assert_close(found, want, rtol=0, atol=2e-3)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("count", [REACH + 2, 20])
def test_the_loss_of_an_exact_network_is_what_cannot_be_predicted(law: str, start: str, count: int) -> None:
    """E Var(eps - y | x) = s^2 / ((1 - level)^2 s^2 + level^2) for y of variance s^2; a wrong input adds to it."""
    model, batch = exact(law, start=start), 6000
    loss = model.loss(clips(law, count, batch), Noise.batch(1, batch)).item()
    least = torch.cat(model.trunk.least)
    deviation = (2 * least.square().mean() / least.numel()).sqrt().item()
    assert abs(loss - least.mean().item()) < 4 * deviation
    assert deviation < 0.02 * loss


def test_training_sees_every_situation_that_sampling_meets() -> None:
    model, batch = exact("first"), 4000
    model.loss(clips("first", 16, batch), Noise.batch(0, batch))
    gap, latest, other, has_latest, has_other = torch.cat(model.trunk.seen).round().long().unbind(1)
    pairs = {(int(a), int(b)) for a, b in zip(latest, other, strict=True)}
    assert set(gap.tolist()) == set(range(1, REACH + 1))
    assert {(a, b) for a in range(1, 2 * REACH) for b in range(a + 1, 2 * REACH + 1)} <= pairs
    assert not bool((has_other > has_latest).any())
    for there, least, most in ((has_latest, 0.75, 0.9), (has_other, 0.55, 0.75), (latest == 1, 0.55, 0.85)):
        assert least < there.double().mean().item() < most


def test_a_short_training_comes_near_the_law() -> None:
    torch.manual_seed(0)
    model, batch, side = FrameFlow(1, frame=FRAME, reach=2, width=16, start="noise"), 48, 4
    data = clips("first", 8, 1024, side=side)
    data = Trajectory(data.states.float(), data.times)
    model.prepare(data)
    torch.testing.assert_close(model.scale, (2 - 2 * LAWS["first"][1:3]).sqrt().float(), rtol=0.03, atol=0)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for step in range(150):
        noise = Noise.batch(step, batch)
        rows = noise.integers("clip", 0, len(data))
        loss = model.loss(Trajectory(data.states[rows], data.times), noise)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.9 * sum(losses[:20])
    model.requires_grad_(False)
    start = Noise.batch(3, 250).normal("start", 1, 1, side, side)
    for gap in (1, 2):
        found = sampled(model, Trajectory(start, seconds([0])), [gap])[:, 0]
        slope = (found * start[:, 0]).mean() / start.square().mean()
        spread = (found - slope * start[:, 0]).std()
        assert abs(float(slope) - SLOPE**gap) < 0.12
        assert abs(float(spread) / math.sqrt(1 - SLOPE ** (2 * gap)) - 1) < 0.1


# Draws of earlier states


def test_near_lengths_are_drawn_more_often() -> None:
    drawn = draw_length(Noise.batch(0, 20000), "length", torch.full((20000,), 7))
    shares = torch.bincount(drawn, minlength=9).double() / len(drawn)
    want = torch.tensor([0, *(math.log1p(1 / n) / math.log(8) for n in range(1, 8)), 0], dtype=torch.float64)
    torch.testing.assert_close(shares, want, rtol=0, atol=0.012)
    assert draw_length(Noise.batch(0, 500), "length", torch.arange(500) % 3 + 1).max() <= 3


def test_lengths_in_training_stay_within_memory() -> None:
    at = torch.arange(4000) % 12
    latest, other = draw_lengths(Noise.batch(0, 4000), at, 6).unbind(1)
    assert bool((other > latest).all())
    assert bool((latest <= at.clamp(1, 6)).all())
    assert bool((other <= torch.maximum(at.clamp(max=6), latest + 1)).all())
    assert bool((latest[at >= 6] == 6).any())


def test_in_sampling_the_other_state_is_any_within_memory_and_each_sample_has_its_own() -> None:
    batch = 20000
    frames = [-9.0, -7.5, -4.0, -2.0, -1.0, 0.0, 3.0]
    history = {at: torch.full((batch, 1, 1, 1), at) for at in frames}
    latest, other = draw_pasts(history, 0.0, Noise.batch(0, batch), 8)
    assert latest.present.all()
    assert other.present.all()
    assert latest.state.unique().tolist() == [-1.0]
    assert latest.distance.unique().tolist() == [1.0]
    assert torch.equal(other.state[:, 0, 0, 0], -other.distance)
    weights = {at: math.log1p(1 / at) for at in (2.0, 4.0, 7.5)}
    assert set(other.distance.unique().tolist()) == set(weights)
    for at, weight in weights.items():
        assert abs((other.distance == at).double().mean().item() - weight / sum(weights.values())) < 0.015
    for only, counts in ((history[0.0], (0, 0)), (history[-1.0], (1, 0))):
        few = {0.0: history[0.0], float(only[0]): only, -9.0: history[-9.0]}
        assert tuple(int(past.present.all()) for past in draw_pasts(few, 0.0, Noise.batch(0, batch), 8)) == counts


# What every model keeps to


@pytest.mark.parametrize(
    ("start", "known", "solver"),
    [
        ("previous", [0.0], None),
        ("noise", [-1.0, 0.0], "ddim-3"),
        ("noise", [-5.3, -2.0, -1.0, 0.0], None),
        ("previous", [-5.3, -2.0, -1.0, 0.0], "dpm++2m-2"),
    ],
)
def test_samples_have_their_times_and_do_not_depend_on_their_batch(
    start: str, known: list[float], solver: str | None
) -> None:
    model, frames, seeds = random_model(start), [0.4, 1, 2.5, 3, 9, 13.3], [11, 5, 8, 2]
    options = {} if solver is None else {"solver": solver}
    before = context(known, batch=4)
    together = sampled(model, before, frames, seeds, **options)
    assert together.shape == (4, 6, 2, 3, 3)
    assert bool(together.isfinite().all())
    assert torch.equal(together, sampled(model, before, frames, seeds, **options))
    order = [2, 0, 3, 1]
    again = sampled(model, Trajectory(before.states[order], before.times), frames, [seeds[i] for i in order], **options)
    torch.testing.assert_close(again, together[order], rtol=1e-9, atol=1e-10)
    alone = sampled(model, Trajectory(before.states[2:3], before.times), frames, seeds[2:3], **options)
    torch.testing.assert_close(alone, together[2:3], rtol=1e-9, atol=1e-10)
    other = sampled(model, before, frames, [11, 6, 8, 2], **options)
    assert torch.equal(other[[0, 2, 3]], together[[0, 2, 3]])
    assert float((other[1] - together[1]).abs().max()) > 1e-3


def test_steps_draw_noise_of_their_own() -> None:
    found = sampled(exact("first"), Trajectory(torch.zeros(800, 1, 1, SIDE, SIDE).double(), seconds([0])), [1, 2, 3, 7])
    noise = found[:, 1:3] - SLOPE * found[:, 0:2]
    first, second = noise.flatten(2).transpose(0, 1).flatten(1)
    assert abs(float((first * second).mean() / first.std() / second.std())) < 4 / len(first) ** 0.5


def test_what_is_asked_later_does_not_change_what_was_asked() -> None:
    model, before = random_model(), context([-1.0, 0.0])
    whole = sampled(model, before, [1, 2, 3, 4, 5])
    assert torch.equal(sampled(model, before, [1, 2, 3]), whole[:, :3])


def test_between_frames_latents_are_linear() -> None:
    model, before = random_model(), context([-1.0, 0.0])
    frames = sampled(model, before, [1, 2])
    found = sampled(model, before, [0.25, 1.0, 1.5, 1.9, 2.0])
    want = [torch.lerp(before.states[:, 1], frames[:, 0], 0.25), frames[:, 0], frames.mean(dim=1)]
    want += [torch.lerp(frames[:, 0], frames[:, 1], 0.9), frames[:, 1]]
    torch.testing.assert_close(found, torch.stack(want, dim=1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("frames", "gaps"),
    [([1, 2, 3], [1, 1, 1]), ([4], [4]), ([3, 7], [3, 4]), ([9], [4, 4, 1]), ([2.5], [2, 1]), ([0.5, 6], [1, 4, 1])],
)
@pytest.mark.parametrize(("solver", "each"), [(None, 14), ("ddim-3", 3), ("heun2-4", 8), ("rk4", 28)])
def test_times_far_apart_are_met_in_long_steps(
    frames: list[float], gaps: list[int], solver: str | None, each: int
) -> None:
    model = exact("first", steps=7)
    known = Trajectory(torch.zeros(2, 1, 1, SIDE, SIDE, dtype=torch.float64), seconds([0]))
    found = model.sample(Condition(known), [FRAME * at for at in frames], Noise.batch(0, 2), solver=solver)
    assert (found.evaluations, found.depth) == (each * len(gaps), each * len(gaps))
    assert len(model.trunk.seen) == found.evaluations
    asked = [round(float(seen[0, 0])) for seen in model.trunk.seen]
    assert asked == [gap for gap in gaps for _ in range(each)]


def test_adaptive_solvers_count_what_they_ask_for() -> None:
    model = exact("first")
    known = Trajectory(torch.zeros(2, 1, 1, SIDE, SIDE, dtype=torch.float64), seconds([0]))
    found = model.sample(Condition(known), [FRAME, 2 * FRAME], Noise.batch(0, 2), solver="dopri5")
    fine = model.sample(Condition(known), [FRAME, 2 * FRAME], Noise.batch(0, 2), solver="rk4-60")
    assert found.evaluations > 20
    assert found.accepted > 4
    torch.testing.assert_close(found.trajectory.states, fine.trajectory.states, rtol=0, atol=2e-3)


def test_known_frames_come_back_and_cost_nothing() -> None:
    model, before = random_model(), context([-2.0, -1.0, 0.0])
    found = model.sample(Condition(before), before.times.tolist(), Noise.batch(0, 3))
    assert torch.equal(found.trajectory.states, before.states)
    assert (found.evaluations, found.depth) == (0, 0)
    mixed = sampled(model, before, [-1, 0, 1])
    assert torch.equal(mixed[:, :2], before.states[:, 1:])


@pytest.mark.parametrize("offset", [0.0, 17.3])
def test_only_times_relative_to_the_known_frames_matter(offset: float) -> None:
    before = context([-1.0, 0.0])
    moved = Trajectory(before.states, before.times + offset)
    found = random_model().sample(Condition(moved), [offset + FRAME * n for n in (1, 2, 3)], Noise.batch(0, 3))
    torch.testing.assert_close(
        found.trajectory.states, sampled(random_model(), before, [1, 2, 3], Noise.batch(0, 3).seeds)
    )


def test_the_default_solver_is_the_first() -> None:
    model, before = random_model(), context([0.0])
    assert torch.equal(sampled(model, before, [1]), sampled(model, before, [1], solver=model.solvers[0]))
    assert len(set(model.solvers)) == len(model.solvers)


def test_a_saved_model_gives_the_same_samples(tmp_path: Path) -> None:
    model, before = FrameFlow(2, frame=FRAME, reach=REACH, width=8, start="noise", steps=3), context([-1.0, 0.0])
    model.prepare(Trajectory(context(list(range(12))).states.float(), context(list(range(12))).times))
    for parameter in model.parameters():
        parameter.data.add_(0.02)
    before = Trajectory(before.states.float(), before.times)
    model.save_pretrained(tmp_path / "model")
    loaded = load_pretrained(tmp_path / "model")
    assert isinstance(loaded, FrameFlow)
    assert torch.equal(sampled(loaded, before, [1, 2, 9]), sampled(model.eval(), before, [1, 2, 9]))


def test_a_number_of_parameters_is_matched() -> None:
    assert abs(count_parameters(FrameFlow(2, frame=FRAME, width=16, parameters=90_000)) - 90_000) < 2_000


def test_every_parameter_and_every_frame_is_trained() -> None:
    model = FrameFlow(1, frame=FRAME, reach=REACH, width=8).double()
    data = clips("second", 11, 600)
    model.prepare(data)
    for step in range(4):
        model.zero_grad()
        states = data.states.clone().requires_grad_()
        model.loss(Trajectory(states, data.times), Noise.batch(step, 600)).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.02 * parameter.grad
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in model.parameters())
    assert states.grad is not None
    assert bool((states.grad.abs().amax(dim=(0, 2, 3, 4)) > 0).all())


def test_the_loss_is_a_mean_over_samples() -> None:
    """So equal parts of a batch on many processes need no exchange."""
    model, data, noise = random_model(channels=1), clips("second", 9, 6), Noise.batch(0, 6)
    whole = model.loss(data, noise)
    parts = [
        model.loss(Trajectory(data.states[rows], data.times), noise[rows])
        for rows in (slice(start, stop) for start, stop in pairwise((0, 2, 4, 6)))
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), whole, rtol=1e-9, atol=1e-10)


# Refusals


def test_what_cannot_be_answered_is_refused() -> None:
    model, before = random_model(), context([-1.0, 0.0])
    noise = Noise.batch(0, 3)
    with pytest.raises(ValueError, match="after the last known frame"):
        model.sample(Condition(context([-1.0, 0.0, 8.0])), [3 * FRAME, 8 * FRAME], noise)
    with pytest.raises(ValueError, match="after the last known frame"):
        model.sample(Condition(before), [-0.5 * FRAME, FRAME], noise)
    with pytest.raises(ValueError, match="none; give at least one"):
        model.sample(Condition(), [FRAME], noise)
    with pytest.raises(ValueError, match="does not read text"):
        model.sample(Condition(before, ["a digit"] * 3), [FRAME], noise)
    with pytest.raises(ValueError, match="one seed for each of the 3 samples; got 2"):
        model.sample(Condition(before), [FRAME], Noise.batch(0, 2))
    with pytest.raises(ValueError, match="got 'two-sided'"):
        model.sample(Condition(before), [FRAME], noise, solver="two-sided")


def test_wrong_arguments_and_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="previous or noise; got 'middle'"):
        FrameFlow(1, frame=FRAME, start="middle")
    for wrong in ({"steps": 0}, {"reach": 0}):
        with pytest.raises(ValueError, match="at least one step"):
            FrameFlow(1, frame=FRAME, **wrong)
    model = exact("first")
    for use in (model.prepare, lambda data: model.loss(data, Noise.batch(0, 2))):
        with pytest.raises(ValueError, match="at least 6 frames; got 5"):
            use(clips("first", 5, 2))
        with pytest.raises(ValueError, match=r"frames 0\.125 s apart"):
            use(Trajectory(clips("first", 6, 2).states, time_grid(0.0, 0.5, 0.1)))
    still = Trajectory(torch.zeros(2, 6, 1, 2, 2, dtype=torch.float64), clips("first", 6, 2).times)
    model.prepare(still)
    assert bool((model.scale > 0).all())
