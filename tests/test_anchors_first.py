"""Anchors first: exact with exact parts, anchors where they belong and nowhere else, costs, solvers and words."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flowvid.models.anchors_first import AnchorsFirst
from flowvid.models.baselines import LinearBlend
from flowvid.models.bisection import RecursiveBisection
from flowvid.models.frame_flow import FrameFlow
from flowvid.models.video_model import LearnedModel, VideoModel, refuse_solver
from flowvid.noise import Noise
from flowvid.solve.solution import Solution, SolveError
from flowvid.video import Condition, Trajectory, as_times

FRAME, SPACING, BATCH = 0.125, 0.5, 3
CONTEXT = (-FRAME, 0.0)
SECONDS = st.lists(st.integers(0, 3000), min_size=1, max_size=6, unique=True).map(
    lambda ticks: [1e-3 * tick for tick in sorted(ticks)]
)


def line(times: Any, seeds: Sequence[int] = range(BATCH)) -> Trajectory:
    """A straight motion of each seed's own."""
    at = as_times(times)
    place, speed = Noise.of(seeds).normal("line", 2, 1, 2, 2, dtype=torch.float64).unbind(1)
    return Trajectory(place[:, None] + speed[:, None] * at[:, None, None, None], at)


def turns(times: Any, seeds: Sequence[int] = range(BATCH), *, coins: Noise | None = None) -> Trajectory:
    """A motion along one that turns at every multiple of the spacing after zero, as coins say."""
    at = as_times(times)
    knots = line([SPACING * n for n in range(9)], seeds).states
    if coins is not None:
        knots = torch.cat((knots[:, :1], knots[:, 1:] + coins.normal("turns", 8, 1, 2, 2, dtype=torch.float64)), dim=1)
    known = Trajectory(knots, torch.arange(9, dtype=torch.float64) * SPACING)
    late = LinearBlend().sample(Condition(known), at.clamp(min=0).tolist(), Noise.of(seeds)).trajectory.states
    return Trajectory(torch.where((at < 0)[:, None, None, None], line(at, seeds).states, late), at)


class Recorder(VideoModel):
    """A model that answers with given states and remembers what it was asked."""

    def __init__(self, answer: Any, *, names: tuple[str, ...] = ("exact", "other-N"), cost: Any = (5, 3, 2, 1)) -> None:
        self.answer, self.names, self.cost = answer, names, cost
        self.asked: list[tuple[Condition, list[float], Noise, str | None]] = []

    @property
    def solvers(self) -> tuple[str, ...]:
        return self.names

    def sample(
        self, condition: Condition, times: Sequence[float], noise: Noise, *, solver: str | None = None
    ) -> Solution:
        self.asked.append((condition, list(times), noise, solver))
        return Solution(self.answer(times, noise, condition), *self.cost)


def truth(world: Any = line) -> Recorder:
    return Recorder(lambda times, noise, condition: world(times))


def blend(*, cost: Any = (7, 4, 0, 0)) -> Recorder:
    return Recorder(
        lambda times, noise, condition: LinearBlend().sample(condition, times, noise).trajectory,
        names=("blend", "slow"),
        cost=cost,
    )


def asked_of(part: VideoModel) -> list[float]:
    assert isinstance(part, Recorder)
    return [time for _, times, _, _ in part.asked for time in times]


def sample(model: VideoModel, known: Trajectory | None, times: Any, **options: Any) -> Solution:
    return model.sample(Condition(known), times, options.pop("noise", Noise.of(range(BATCH))), **options)


# Exactness


@pytest.mark.parametrize("spacing", [None, SPACING])
@pytest.mark.parametrize("pair", [None, FRAME])
@pytest.mark.parametrize("known", [(0.0,), CONTEXT, (0.0, 3.0), (-FRAME, 0.0, 1.1, 1.7), None])
@given(SECONDS)
@settings(max_examples=8)
def test_exact_anchors_and_exact_filling_are_exact_at_any_time(
    known: tuple[float, ...] | None, pair: float | None, spacing: float | None, times: list[float]
) -> None:
    model = AnchorsFirst(truth(), blend(), spacing=spacing, pair=pair)
    found = sample(model, None if known is None else line(known), times).trajectory
    assert found.times.tolist() == times
    torch.testing.assert_close(found.states, line(times).states, rtol=0, atol=1e-9)


@given(SECONDS)
@settings(max_examples=15)
def test_turns_at_anchors_are_met_exactly(times: list[float]) -> None:
    """What is decided at the anchors is not linear over the whole; what lies between them is."""
    coins = Noise.batch(4, BATCH)
    model = AnchorsFirst(truth(lambda times: turns(times, coins=coins)), blend(), spacing=SPACING)
    found = sample(model, line(CONTEXT), times).trajectory
    torch.testing.assert_close(found.states, turns(times, coins=coins).states, rtol=0, atol=1e-9)


# Where anchors are


@pytest.mark.parametrize(
    ("spacing", "pair", "known", "times", "anchors"),
    [
        (None, None, CONTEXT, (0.3, 1.7), [1.7]),
        (None, None, (0.0,), (2.0,), [2.0]),
        (None, None, CONTEXT, (1e-3,), [1e-3]),
        (None, FRAME, CONTEXT, (0.3, 1.7), [1.7 - FRAME, 1.7]),
        (None, FRAME, CONTEXT, (0.1,), [0.1]),
        (None, FRAME, CONTEXT, (FRAME,), [FRAME]),
        (SPACING, None, CONTEXT, (0.3, 1.7), [0.5, 1.0, 1.5, 2.0]),
        (SPACING, None, CONTEXT, (0.1,), [0.5]),
        (SPACING, None, CONTEXT, (0.5, 1.5), [0.5, 1.0, 1.5]),
        (SPACING, None, (0.0, 0.7), (0.3, 1.0), [1.2]),
        (SPACING, FRAME, CONTEXT, (0.9,), [0.375, 0.5, 0.875, 1.0]),
        (SPACING, None, None, (0.3, 1.0), [0.3, 0.8, 1.3]),
        (None, None, None, (0.3, 0.4, 1.0), [0.3, 1.0]),
        (None, FRAME, None, (0.0, 1.0), [-FRAME, 0.0, 1.0 - FRAME, 1.0]),
        (None, None, None, (0.3,), [0.3]),
        (SPACING, FRAME, None, (0.25,), [0.25 - FRAME, 0.25]),
        (None, None, (0.0, 2.0), (0.3, 1.7), []),
        (SPACING, None, (-FRAME, 0.0, 2.0), (0.3, 1.7, 2.0), []),
        (SPACING, FRAME, (0.0, 0.9, 2.0), (0.5, 1.0), []),
        (None, None, CONTEXT, (-FRAME, 0.0), []),
    ],
)
def test_anchors_are_sampled_once_and_only_after_what_is_known(
    spacing: float | None,
    pair: float | None,
    known: tuple[float, ...] | None,
    times: tuple[float, ...],
    anchors: list[float],
) -> None:
    model = AnchorsFirst(truth(), blend(), spacing=spacing, pair=pair)
    sample(model, None if known is None else line(known), times)
    assert asked_of(model.anchors) == pytest.approx(anchors, abs=1e-12)
    assert isinstance(model.anchors, Recorder)
    assert isinstance(model.fill, Recorder)
    assert len(model.anchors.asked) == min(1, len(anchors))
    whole = sorted([*(known or ()), *anchors])
    rest = [time for time in times if min(abs(time - at) for at in whole) > 1e-9]
    assert asked_of(model.fill) == rest
    for condition, _, _, _ in model.fill.asked:
        assert condition.known is not None
        assert condition.known.times.tolist() == pytest.approx(whole, abs=1e-12)
        torch.testing.assert_close(condition.known.states, line(whole).states)


def test_anchors_and_known_frames_come_back_to_the_bit() -> None:
    spoiled = Recorder(lambda times, noise, condition: Trajectory(1e9 + line(times).states, as_times(times)))
    model = AnchorsFirst(truth(), spoiled, spacing=SPACING, pair=FRAME)
    times = [-FRAME, 0.0, 0.2, 0.375, 0.5, 1.0, 1.4]
    found = sample(model, line(CONTEXT), times).trajectory
    right = [0, 1, 3, 4, 5]
    assert torch.equal(found.states[:, right], line(times).states[:, right])
    assert asked_of(spoiled) == [0.2, 1.4]
    nudged = [math.nextafter(0.5, 0), math.nextafter(1.0, 2)]
    assert sample(model, line(CONTEXT), nudged).trajectory.times.tolist() == nudged
    assert asked_of(spoiled) == [0.2, 1.4]


# Costs, noise and solvers


def test_costs_add_up() -> None:
    model = AnchorsFirst(truth(), blend(), spacing=SPACING)
    both = sample(model, line(CONTEXT), [0.2, 0.5])
    assert (both.evaluations, both.depth, both.accepted, both.rejected) == (12, 7, 2, 1)
    only = sample(model, line(CONTEXT), [0.5, 1.0])
    assert (only.evaluations, only.depth, only.accepted, only.rejected) == (5, 3, 2, 1)
    filled = sample(model, line((0.0, 1.0)), [0.5])
    assert (filled.evaluations, filled.depth, filled.accepted, filled.rejected) == (7, 4, 0, 0)
    known = sample(model, line((0.0, 1.0)), [0.0, 1.0])
    assert (known.evaluations, known.depth, known.accepted, known.rejected) == (0, 0, 0, 0)


@pytest.mark.parametrize("times", [[0.2], [0.5]])
def test_what_a_model_did_not_finish_is_an_error(times: list[float]) -> None:
    lost = (5, 3, 2, 1, "NaN in sample 1")
    for parts in ((Recorder(lambda t, n, c: line(t), cost=lost), blend()), (truth(), blend(cost=lost))):
        model = AnchorsFirst(*parts, spacing=SPACING)
        if times == [0.2] or parts[0].cost == lost:
            with pytest.raises(SolveError, match="NaN in sample 1"):
                sample(model, line(CONTEXT), times)


def test_both_models_have_noise_of_their_own_which_the_seeds_alone_decide() -> None:
    model = AnchorsFirst(truth(), blend(), spacing=SPACING)
    for known, times in ((line(CONTEXT), [0.2]), (line((0.0,)), [0.1, 2.3])):
        sample(model, known, times, noise=Noise.of([5, 6, 7]))
    (ours, again), (theirs, last) = ([noise for _, _, noise, _ in part.asked] for part in (model.anchors, model.fill))
    assert ours == again
    assert theirs == last
    assert len({Noise.of([5, 6, 7]), ours, theirs}) == 3
    sample(model, line(CONTEXT), [0.2], noise=Noise.of([7, 5, 0]))
    assert model.anchors.asked[-1][2].seeds[:2] == (ours.seeds[2], ours.seeds[0])


@pytest.mark.parametrize(
    ("solver", "ours", "theirs"),
    [
        (None, None, None),
        ("/", None, None),
        ("exact/blend", "exact", "blend"),
        ("other-12/", "other-12", None),
        ("/slow", None, "slow"),
        ("other-N/slow", "other-N", "slow"),
    ],
)
def test_each_model_gets_its_part_of_a_solver(solver: str | None, ours: str | None, theirs: str | None) -> None:
    model = AnchorsFirst(truth(), blend(), spacing=SPACING)
    sample(model, line(CONTEXT), [0.2], solver=solver)
    assert [part.asked[0][3] for part in (model.anchors, model.fill)] == [ours, theirs]


@pytest.mark.parametrize("solver", ["exact", "exact/other", "slow/exact", "other-0/", "exact-3/", "/blend/", ""])
def test_unknown_solvers_are_refused_before_anything_is_sampled(solver: str) -> None:
    model = AnchorsFirst(truth(), blend(), spacing=SPACING)
    with pytest.raises(ValueError, match="exact, other-N for the anchors and blend, slow for filling in"):
        sample(model, line(CONTEXT), [0.2], solver=solver)
    assert not asked_of(model.anchors)


def test_solvers_name_every_pair_once_and_are_all_accepted() -> None:
    model = AnchorsFirst(truth(), blend(), spacing=SPACING)
    names = model.solvers
    assert names[0] == "exact/blend"
    assert len(set(names)) == len(names)
    assert {f"{one}/{other}" for one, other in itertools.product(("exact", "other-N"), ("blend", "slow"))} <= set(names)
    for name in names:
        assert refuse_solver(model, name) == name
        sample(model, line(CONTEXT), [0.2], solver=name)


# Words


def test_words_go_to_the_anchors_alone() -> None:
    model = AnchorsFirst(truth(), blend())
    words = [f"digit {n}" for n in range(BATCH)]
    for known in (line(CONTEXT), None):
        condition = Condition(known, words)
        found = model.sample(condition, [0.3, 1.0], Noise.of(range(BATCH))).trajectory
        torch.testing.assert_close(found.states, line([0.3, 1.0]).states)
        assert isinstance(model.anchors, Recorder)
        assert model.anchors.asked[-1][0] is condition
    assert isinstance(model.fill, Recorder)
    assert all(asked[0].text is None for asked in model.fill.asked)


def test_words_without_effect_are_refused() -> None:
    model = AnchorsFirst(truth(), blend())
    with pytest.raises(ValueError, match="leave the text out"):
        model.sample(Condition(line((0.0, 1.0)), ["a"] * BATCH), [0.5], Noise.of(range(BATCH)))


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_wrong_times_are_refused(value: float) -> None:
    for name in ("spacing", "pair"):
        with pytest.raises(ValueError, match=f"{name} > 0 seconds"):
            AnchorsFirst(truth(), blend(), **{name: value})
    with pytest.raises(ValueError, match=r"shorter than the spacing of 0\.5 s; got 0\.5 s"):
        AnchorsFirst(truth(), blend(), spacing=SPACING, pair=SPACING)


# Two learned models


def learned() -> tuple[LearnedModel, LearnedModel]:
    """Frame-wise flow matching and bisection, both with random parameters."""
    anchors = FrameFlow(1, frame=FRAME, reach=4, width=8, steps=2)
    fill = RecursiveBisection(1, frame=FRAME, reach=4, width=8, parameters=20_000)
    generator = torch.Generator().manual_seed(1)
    for parameter in itertools.chain(anchors.parameters(), fill.parameters()):
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return anchors.double().requires_grad_(False), fill.double().requires_grad_(False)


@pytest.mark.parametrize("pair", [None, FRAME])
def test_a_sample_does_not_depend_on_its_batch_nor_on_what_else_is_asked(pair: float | None) -> None:
    model = AnchorsFirst(*learned(), spacing=SPACING, pair=pair)
    times, seeds = [0.2, 0.5, 0.75, 1.1, 2.25], [11, 5, 8, 2]

    def states(rows: list[int], asked: list[float]) -> Tensor:
        known = line(CONTEXT, [seeds[row] for row in rows])
        return sample(model, known, asked, noise=Noise.of([seeds[row] for row in rows])).trajectory.states

    whole = states([0, 1, 2, 3], times)
    assert torch.equal(whole, states([0, 1, 2, 3], times))
    torch.testing.assert_close(states([2, 3, 0, 1], times), whole[[2, 3, 0, 1]], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(states([2], times), whole[2:3], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(states([2, 1], [0.75]), whole[[2, 1], 2:3], rtol=1e-9, atol=1e-10)


def test_costs_of_learned_parts() -> None:
    """Two hops of four frames at two steps of two evaluations; then each interval is halved twice, in parallel."""
    model = AnchorsFirst(*learned(), spacing=SPACING)
    found = sample(model, line(CONTEXT), [FRAME * n for n in range(1, 9)])
    assert (found.evaluations, found.depth) == (2 * 4 + 6, 2 * 4 + 2)
    few = sample(model, line(CONTEXT), [FRAME * n for n in range(1, 9)], solver="ddim-1/bisection")
    assert (few.evaluations, few.depth) == (2 * 1 + 6, 2 * 1 + 2)
