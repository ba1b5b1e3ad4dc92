"""The multi-scale model under a global code: the contract of models, the code, its prior, and the coin it recovers."""

import math
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flowvid.data.worlds.branching import BranchingWorld, futures
from flowvid.data.worlds.clips import Clip, clip_positions
from flowvid.dynamics.state import Surroundings
from flowvid.models.coded import CodedMultiScale
from flowvid.models.continuous import MultiScale
from flowvid.models.hub import PRETRAINED, load_pretrained
from flowvid.models.loss_terms import LossTerms
from flowvid.networks.vector import FrameSet, VectorField, seconds_shares, slowed
from flowvid.noise import Noise
from flowvid.train.loop import Optimisation, fit
from flowvid.video import Condition, Trajectory, time_grid

FRAME, REACH, SCALES, SIDE = 0.25, 4, 3, 4
TIMES = time_grid(-FRAME, 2 * REACH * FRAME, FRAME)
END = 2 * REACH * FRAME
WORLD = BranchingWorld.two_way(1.0)
CONTEXT, FILL, PREFIX = (-FRAME, 0.0), (-FRAME, 0.0, 1.0), tuple(FRAME * n for n in range(-1, 6))
LATER = [0.3, 0.75, 1.5]


def blobs(positions: Tensor) -> Tensor:
    """Smooth latents of places on a canvas of 32 pixels."""
    grid = (torch.arange(SIDE) + 0.5) * 32 / SIDE
    x, y = (torch.exp(-(((grid - positions[..., axis, None]) / 7) ** 2) / 2) for axis in (0, 1))
    return (3 * y[..., :, None] * x[..., None, :])[..., None, :, :].float()


def places(clips: list[Clip], times: Any) -> Tensor:
    return clip_positions(clips, torch.as_tensor(times, dtype=torch.float64))[:, :, 0]


@cache
def world(count: int, split: str) -> tuple[list[Clip], Trajectory]:
    clips = WORLD.clips(range(count), split)
    return clips, Trajectory(blobs(places(clips, TIMES)), TIMES)


def build(**options: Any) -> CodedMultiScale:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CodedMultiScale(1, frame=FRAME, scales=SCALES, reach=REACH, **{"width": 8, "features": 16, **options})


@cache
def model() -> CodedMultiScale:
    """An untrained model whose parameters are all random."""
    made, data = build(), world(64, "train")[1]
    made.prepare(data)
    generator = torch.Generator().manual_seed(1)
    for parameter in [*made.moves.parameters(), *made.prior.parameters()]:
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    made.requires_grad_(False)
    made.finish(data)
    return made


def known(times: tuple[float, ...], count: int = 3) -> Condition:
    clips, _ = world(64, "train")
    return Condition(Trajectory(blobs(places(clips[:count], times)), torch.tensor(times, dtype=torch.float64)))


# What every model keeps to


@pytest.mark.parametrize("solver", ["two-sided", "jump", "jump-1", "rk4"])
@pytest.mark.parametrize("given", [CONTEXT, FILL, PREFIX])
def test_samples_keep_times_known_frames_seeds_and_do_not_depend_on_their_batch(
    solver: str, given: tuple[float, ...]
) -> None:
    condition, times = known(given), sorted({0.0, *LATER})
    found = model().sample(condition, times, Noise.of([4, 5, 6]), solver=solver).trajectory
    assert found.times.tolist() == times
    assert found.states.shape == (3, len(times), 1, SIDE, SIDE)
    assert bool(found.states.isfinite().all())
    assert condition.known is not None
    assert torch.equal(found.at(0.0).states, condition.known.at(0.0).states)
    again = model().sample(condition, times, Noise.of([4, 9, 6]), solver=solver).trajectory.states
    assert torch.equal(again[[0, 2]], found.states[[0, 2]])
    assert not torch.equal(again[1], found.states[1])
    one = Condition(Trajectory(condition.known.states[1:2], condition.known.times))
    alone = model().sample(one, times, Noise.of([5]), solver=solver).trajectory.states
    torch.testing.assert_close(alone, found.states[1:2], rtol=1e-4, atol=1e-5)


def test_first_and_last_alone_are_answered_and_one_frame_is_refused() -> None:
    assert model().sample(known((0.0, 1.0)), [0.4], Noise.batch(0, 3)).trajectory.states.shape[1] == 1
    with pytest.raises(ValueError, match="One frame does not determine motion"):
        model().sample(known((0.0,)), [0.4], Noise.batch(0, 3))


def test_key_frames_that_begin_still_are_filled_in_between() -> None:
    """A lone frame, and a moving pair later: times between follow both."""
    condition, times = known((0.0, 1.0 - FRAME, 1.0)), [0.0, 0.25, 0.5, 1.0]
    assert condition.known is not None
    found = model().sample(condition, times, Noise.batch(0, 3), solver="two-sided").trajectory.states
    assert bool(found.isfinite().all())
    assert torch.equal(found[:, [0, 3]], condition.known.at(0.0, 1.0).states)
    for frame in (0, 2):
        states = condition.known.states.clone()
        states[:, frame] += 1.0
        other = Condition(Trajectory(states, condition.known.times))
        moved = model().sample(other, times, Noise.batch(0, 3), solver="two-sided").trajectory.states
        assert float((moved - found)[:, 1:3].abs().amax(dim=(2, 3, 4)).min()) > 1e-3


def test_other_conditions_are_refused() -> None:
    with pytest.raises(ValueError, match="starts from known frames"):
        model().sample(Condition(), [0.5], Noise.batch(0, 1))
    with pytest.raises(ValueError, match="does not read text"):
        model().sample(Condition(known(CONTEXT).known, ["a", "b", "c"]), [0.5], Noise.batch(0, 3))
    with pytest.raises(ValueError, match="one seed for each of the 3 samples; got 2"):
        model().sample(known(CONTEXT), [0.5], Noise.batch(0, 2))
    with pytest.raises(ValueError, match=r"solvers .*got 'magic'"):
        model().sample(known(CONTEXT), [0.5], Noise.batch(0, 3), solver="magic")
    with pytest.raises(ValueError, match=r"solvers of a probability flow.*got 'magic'"):
        model().sample(known(CONTEXT), [0.5], Noise.batch(0, 3), prior_solver="magic")
    with pytest.raises(ValueError, match="3 codes of 4 numbers"):
        model().sample(known(CONTEXT), [0.5], Noise.batch(0, 3), code=torch.zeros(3, 2))


def test_the_prior_s_evaluations_count_and_known_times_cost_nothing() -> None:
    condition, noise = known(CONTEXT), Noise.batch(0, 3)
    given = model().sample(condition, LATER, noise, code=torch.zeros(3, 4))
    drawn = model().sample(condition, LATER, noise)
    few = model().sample(condition, LATER, noise, prior_solver="euler-3")
    assert drawn.evaluations - given.evaluations == drawn.depth - given.depth == 16
    assert few.evaluations - given.evaluations == few.depth - given.depth == 3
    assert model().sample(condition, [0.0], noise).evaluations == 0


def test_a_given_code_is_used_and_decides() -> None:
    condition = known(CONTEXT)
    code = model().draw_code(condition, Noise.batch(7, 3)).trajectory.states[:, -1]
    assert code.shape == (3, 4)
    drawn = model().sample(condition, LATER, Noise.batch(7, 3)).trajectory.states
    told = model().sample(condition, LATER, Noise.batch(0, 3), code=code).trajectory.states
    assert torch.equal(drawn, told)


def test_it_comes_back_from_a_folder(tmp_path: Path) -> None:
    assert CodedMultiScale in PRETRAINED
    made = build(terms=LossTerms(consistency=0.1))
    data = world(64, "train")[1]
    made.prepare(data)
    made.finish(data)
    made.save_pretrained(tmp_path / "model")
    back = load_pretrained(tmp_path / "model")
    assert isinstance(back, CodedMultiScale)
    assert back.moves.terms == LossTerms(consistency=0.1)
    one, other = (
        each.sample(known(CONTEXT), LATER, Noise.batch(0, 3)).trajectory.states for each in (made.eval(), back)
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize("wrong", [{"code": 0}, {"steps": 0}, {"rate": -1.0}, {"free": -0.1}])
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a code of at least one number"):
        build(**wrong)


def test_heads_refuse_another_code_than_theirs() -> None:
    plain = MultiScale(1, frame=FRAME, scales=SCALES, reach=REACH, width=8)
    with pytest.raises(ValueError, match="code of 0 numbers; got one of 4"):
        plain.loss(world(64, "train")[1], Noise.batch(0, 64), code=torch.zeros(64, 4))
    with pytest.raises(ValueError, match="code of 4 numbers; got one of 0"):
        model().moves.loss(world(64, "train")[1], Noise.batch(0, 64))


# Parts of the code


def test_shares_of_seconds_are_those_of_trapezoids() -> None:
    assert seconds_shares(torch.tensor([0.0, 1.0, 3.0]).double()).tolist() == pytest.approx([1 / 6, 0.5, 1 / 3])
    assert seconds_shares(torch.tensor([2.0]).double()).tolist() == [1.0]


def test_a_set_has_no_order_and_what_has_no_weight_is_not_in_it() -> None:
    made = FrameSet(2, 16)
    frames, times = torch.randn(3, 4, 2, 5, 5), torch.rand(3, 4)
    weights = torch.tensor([1.0, 2.0, 1.0, 0.0]).expand(3, -1)
    found = made(frames, times, weights)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(made(frames[:, order], times[:, order], weights[:, order]), found, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made(frames[:, :3], times[:, :3], weights[:, :3]), found, rtol=1e-4, atol=1e-5)
    frames[:, 3] = 9.0
    assert torch.equal(made(frames, times, weights), found)
    twice = made(frames[:, [0, 1, 1, 2]], times[:, [0, 1, 1, 2]], torch.ones(3, 4))
    torch.testing.assert_close(twice, found, rtol=1e-4, atol=1e-5)


def test_slowed_layers_answer_alike_and_learn_more_slowly() -> None:
    plain = torch.nn.Linear(3, 2)
    slow = torch.nn.Linear(3, 2)
    slow.load_state_dict(plain.state_dict())
    slowed(slow, 10.0)
    x = torch.randn(5, 3)
    torch.testing.assert_close(slow(x), plain(x))
    before = plain.weight.detach().clone()
    for layer in (plain, slow):
        optimiser = torch.optim.Adam(layer.parameters(), lr=0.01)
        layer(x).sum().backward()
        optimiser.step()
    torch.testing.assert_close((slow.weight - before) * 10, plain.weight - before, rtol=1e-3, atol=1e-5)


def test_a_vector_field_listens_to_all_it_is_told() -> None:
    made = VectorField(3, 5).requires_grad_(False)
    vectors, level, context = torch.randn(4, 3), torch.rand(4), torch.randn(4, 5)
    found = made(vectors, level, context)
    for other in (made(vectors + 1, level, context), made(vectors, level / 2, context), made(vectors, level, -context)):
        assert float((other - found).abs().min()) > 0


def test_the_code_begins_with_unit_variance_and_with_news() -> None:
    """A straight line of clips that differ in what follows alone, and of clips that differ in their context alone."""
    made, data = build(), world(64, "train")[1]
    made.prepare(data)
    mean, log_variance = made.posterior_of(data)
    torch.testing.assert_close(mean.std(dim=0, correction=0), torch.ones(4), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(mean.mean(dim=0), torch.zeros(4), rtol=0, atol=1e-3)
    assert float(log_variance.detach().max()) == pytest.approx(-3.0)


def test_codes_follow_the_trajectory_rather_than_its_sampling() -> None:
    clips, _ = world(64, "train")
    made = model()
    fine = time_grid(-FRAME, END, FRAME / 2)
    dense = Trajectory(blobs(places(clips, fine)), fine)
    one, two = made.encode_code(world(64, "train")[1]), made.encode_code(dense)
    assert float((one - two).square().mean()) < 0.5 * float((one - one.roll(1, 0)).square().mean())
    later = Trajectory(dense.states, dense.times + 5.0)
    torch.testing.assert_close(made.encode_code(later), two, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="at least three frames; got 2"):
        made.encode_code(Trajectory(dense.states[:, :2], dense.times[:2]))


def test_nats_in_closed_form_and_free_ones_cost_nothing() -> None:
    """N(m, v) holds (m^2 + v - 1 - log v) / 2 nats beyond N(0, 1); the loss pays for those above the free ones."""
    data = world(64, "train")[1]
    made = build(rate=1.0, free=0.0)
    made.prepare(data)
    mean, log_variance = made.posterior_of(data)
    nats = ((mean**2 + log_variance.exp() - 1 - log_variance) / 2).mean(dim=0).detach()
    torch.testing.assert_close(torch.tensor(made.report(data).nats), nats, rtol=1e-5, atol=1e-6)
    assert made.report(data).bits == pytest.approx(float(nats.sum()) / math.log(2), rel=1e-5)
    noise = Noise.batch(0, 64)
    losses = []
    for rate, free in ((0.0, 0.0), (1.0, 0.0), (1.0, 100.0)):
        made.rate, made.free = rate, free
        losses.append(float(made.loss(data, noise).detach()))
    assert losses[1] - losses[0] == pytest.approx(float(nats.sum()), rel=1e-3)
    assert losses[2] - losses[0] == pytest.approx(400.0, rel=1e-3)


def test_the_prior_learns_from_codes_without_pulling_them() -> None:
    data, made = world(64, "train")[1], build()
    made.prepare(data)
    code = made.encode_code(data)
    made._prior_loss(data, code.detach(), Noise.batch(0, 64)).backward()
    assert all(parameter.grad is None for parameter in made.posterior.parameters())
    assert all(parameter.grad is None for parameter in made.moves.parameters())
    made.zero_grad()
    made.loss(data, Noise.batch(0, 64)).backward()
    assert all(parameter.grad is not None for parameter in made.prior.parameters())


def test_what_is_shown_to_the_prior_in_training() -> None:
    made = build()
    index, moving, exists = made._shown(Noise.batch(0, 2000), torch.device("cpu"))
    assert bool(exists[:, 0].all())
    assert bool((index[:, 0] == 1).all())
    assert int(index[exists].max()) == 1 + REACH
    counts = exists.sum(dim=1)
    assert set(counts.tolist()) == {1, 2, 4}
    assert bool(moving[counts == 4].all())
    assert not bool(moving[counts == 2, 1].any())
    lone = (~moving[counts == 2, 0]).float().mean()
    assert 0.1 < float(lone) < 0.2
    assert bool(moving[counts == 1, 0].all())


# Collapse


def test_collapse_is_reported_and_warned_of() -> None:
    data, made = world(64, "train")[1], build()
    made.prepare(data)
    assert not made.report(data).collapsed
    made.axes.zero_()
    report = made.report(data)
    assert report.collapsed
    assert abs(report.gain) < 1e-3
    with pytest.warns(UserWarning, match="global code collapsed"):
        made.finish(data)


def test_a_price_collapses_a_code_that_nothing_needs() -> None:
    """Only the price pulls: with heads that do not listen, active numbers die."""
    data, made = world(64, "train")[1], build(rate=10.0, free=0.0)
    made.prepare(data)
    before = sum(made.report(data).nats)
    optimiser = torch.optim.Adam(made.posterior.parameters(), lr=0.2)
    for step in range(30):
        optimiser.zero_grad()
        made.loss(data, Noise.batch(step, 64)).backward()
        optimiser.step()
    assert sum(made.report(data).nats) < 0.5 * before


# The coin


@cache
def trained(coded: bool) -> CodedMultiScale | MultiScale:
    data = world(1024, "train")[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: CodedMultiScale | MultiScale = (
            CodedMultiScale(1, frame=FRAME, scales=SCALES, reach=REACH, width=16, bounded=0.0, rate=0.005)
            if coded
            else MultiScale(1, frame=FRAME, scales=SCALES, reach=REACH, width=16, bounded=0.0)
        )
    made.prepare(data)

    def objective(noise: Noise) -> Tensor:
        chosen = noise.integers("clip", 0, len(data))
        return made.loss(Trajectory(data.states[chosen], data.times), noise)

    fit(made, objective, Optimisation(steps=STEPS, batch=32, learning_rate=4e-3, warmup=20, average=0.98))
    made.requires_grad_(False)
    made.finish(world(128, "validation")[1])
    return made


STEPS = 700


def entropy(share: float) -> float:
    return 0.0 if share in (0.0, 1.0) else -share * math.log2(share) - (1 - share) * math.log2(1 - share)


@pytest.mark.slow
def test_the_code_recovers_the_coin_and_given_it_energy_returns() -> None:
    """The nearer of two known futures tells the coin; an accuracy a in telling is at least 1 - h(a) bit."""
    clips, data = world(128, "test")
    condition = Condition(data.at(*CONTEXT))
    coded, plain = trained(True), trained(False)
    assert isinstance(coded, CodedMultiScale)
    assert isinstance(plain, MultiScale)
    both = torch.stack([places([clip for _, clip in futures(one, 0.0, END)], [END])[:, 0] for one in clips])
    true = places(clips, [END])[:, 0]
    side = (both - true[:, None]).norm(dim=2).argmin(dim=1)
    far = (both[:, 0] - both[:, 1]).norm(dim=1) > 4

    def end(made: Any, seed: int = 0, **told: Any) -> Tensor:
        return made.sample(condition, [END], Noise.batch(seed, 128), solver="jump", **told).trajectory.states[:, 0]

    def tossed(found: Tensor) -> Tensor:
        return (blobs(both) - found[:, None]).square().mean(dim=(2, 3, 4)).argmin(dim=1)

    code = coded.encode_code(data)
    right = float((tossed(end(coded, code=code)) == side)[far].float().mean())
    blind = float((tossed(end(plain)) == side)[far].float().mean())
    assert 1 - entropy(right) > 0.9
    assert 1 - entropy(blind) < 0.2
    tosses = torch.stack([tossed(end(coded, seed)) for seed in range(8)]).float()[:, far]
    assert 0.3 < float(tosses.mean()) < 0.7
    assert float(((tosses.mean(dim=0) > 0) & (tosses.mean(dim=0) < 1)).float().mean()) > 0.7
    energy = float(blobs(true).square().mean())
    missing, left = (1 - float(found.square().mean()) / energy for found in (end(plain), end(coded)))
    assert missing > 0.1
    assert abs(left) < 0.5 * missing
    report = coded.report(data)
    assert not report.collapsed
    assert report.gain > 0.05


def test_rows_and_repeats_of_codes() -> None:
    code = torch.arange(6.0).reshape(3, 2)
    around = Surroundings(known(CONTEXT), gap=FRAME, code=code)
    states = torch.zeros(3, 2, 2, SIDE, SIDE)
    asked = around.query([0.1, 0.2], states, [True, True])
    assert asked.code is not None
    assert asked.code.tolist() == [[0, 1], [0, 1], [2, 3], [2, 3], [4, 5], [4, 5]]
    picked = around.rows(torch.tensor([2])).query([0.1], states[:1, :1], [True])
    assert picked.code is not None
    assert picked.code.tolist() == [[4, 5]]


def test_the_loss_falls_and_repeats() -> None:
    data, made = world(64, "train")[1], build()
    made.prepare(data)
    first, same, other = (float(made.loss(data, Noise.batch(seed, 64)).detach()) for seed in (0, 0, 1))
    assert first == same != other
    optimiser = torch.optim.Adam(made.parameters(), lr=4e-3)
    losses = []
    for step in range(30):
        optimiser.zero_grad()
        loss = made.loss(data, Noise.batch(step, 64))
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < sum(losses[:5]) - 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.finish(data)


def test_a_report_needs_two_clips_and_finishing_on_one_says_nothing_of_collapse() -> None:
    made, data = build(), world(64, "train")[1]
    made.prepare(data)
    one = Trajectory(data.states[:1], data.times)
    with pytest.raises(ValueError, match="give at least two"):
        made.report(one)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.finish(one)
