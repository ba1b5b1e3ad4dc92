"""Terms of the loss of transition heads: zero for exact heads, gradients where promised, and what each pulls to."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flowvid.dynamics.heads import TransitionHeads
from flowvid.dynamics.state import Anchor, Query
from flowvid.models.continuous import MultiScale
from flowvid.models.loss_terms import (
    LossTerms,
    bending_mismatch,
    rollout_errors,
    semigroup_errors,
    wanted_displacements,
)
from flowvid.models.transitions import Transitions, draw_transitions
from flowvid.noise import Noise
from flowvid.video import Trajectory, time_grid

FRAME, REACH, SCALES, CHANNELS, SIDE = 0.125, 8, 4, 2, 4
OMEGA = torch.tensor([1.3, 0.7], dtype=torch.float64)[:, None, None]
TIMES = time_grid(-FRAME, (2 * REACH + 4) * FRAME, FRAME)
BATCH = 96


def clips(batch: int = BATCH, *, seed: int = 0, straight: bool = False) -> Trajectory:
    """Oscillations, or straight motion."""
    a, b = Noise.batch(seed, batch).normal("amplitude", 2, 1, CHANNELS, SIDE, SIDE, dtype=torch.float64).unbind(1)
    at = TIMES[:, None, None, None]
    states = a + b * at if straight else a * torch.cos(OMEGA * at) + b * torch.sin(OMEGA * at)
    return Trajectory(states, TIMES)


class Exact(nn.Module):
    """In place of a trunk: what makes heads exact on moving states, straight or oscillating ones."""

    def __init__(self, heads: TransitionHeads, *, straight: bool, wrong: float = 0.0) -> None:
        super().__init__()
        # In a tuple: heads hold this trunk, and modules must not hold each other.
        self._heads = (heads,)
        self.straight = straight
        self.asked: list[tuple[bool, Tensor]] = []
        self.factor = nn.Parameter(torch.tensor(1.0 + wrong, dtype=torch.float64))

    def forward(self, grid: Tensor, scalars: Tensor) -> Tensor:
        heads = self._heads[0]
        self.asked.append((torch.is_grad_enabled(), scalars[:, 0] * heads.longest))
        z, p = grid[:, :CHANNELS], grid[:, CHANNELS : 2 * CHANNELS] * heads.velocity_scale
        rows = []
        for k, gap in enumerate(heads.gaps):
            moved, velocity = self._after(z, p, gap)
            rate = torch.cat((moved - z, velocity - p), dim=1) / gap
            rows.append(rate.unflatten(1, (2, -1)) / heads.scale[k, :, None, None, None] * abs(gap))
        return self.factor * torch.stack(rows, dim=1).flatten(1, 3)

    def _after(self, z: Tensor, p: Tensor, gap: float) -> tuple[Tensor, Tensor]:
        if self.straight:
            return z + gap * p, p
        before = z - FRAME * p
        sine = (z * torch.cos(OMEGA * FRAME) - before) / torch.sin(OMEGA * FRAME)

        def at(t: float) -> Tensor:
            return z * torch.cos(OMEGA * t) + sine * torch.sin(OMEGA * t)

        return at(gap), (at(gap) - at(gap - FRAME)) / FRAME


def heads_for(data: Trajectory, trunk: Callable[[TransitionHeads], nn.Module] | None) -> TransitionHeads:
    made = MultiScale(CHANNELS, frame=FRAME, scales=SCALES, reach=REACH, width=8).double()
    made.prepare(data)
    if trunk is not None:
        made.heads.trunk = trunk(made.heads)
        made.heads.trunk.requires_grad_(False)
    return made.heads


def drawn_of(
    heads: TransitionHeads, data: Trajectory, *, bounded: float = 0.0, input_noise: float = 0.0
) -> Transitions:
    noise = Noise.batch(1, len(data))
    return draw_transitions(heads, data, noise, frame=FRAME, reach=REACH, bounded=bounded, input_noise=input_noise)


def known(drawn: Transitions) -> Transitions:
    """States as they are in the data, moving, and nothing known around them."""
    query = drawn.query
    rows = torch.nonzero(query.moving & ~query.future.present)[:, 0]
    none = Anchor.none(query.state[rows])
    asked = Query(query.state[rows], query.moving[rows], none, none)
    return Transitions(asked, drawn.clip[rows], drawn.index[rows], torch.ones_like(drawn.weight[rows]))


def of_rows(data: Trajectory, drawn: Transitions) -> Trajectory:
    return Trajectory(data.states[drawn.clip], data.times)


STRAIGHT = [True, False]


# Self-consistency


@pytest.mark.parametrize("straight", STRAIGHT)
def test_exact_heads_are_consistent_and_wrong_ones_are_not(straight: bool) -> None:
    data = clips(straight=straight)
    for wrong in (0.0, 0.1):
        heads = heads_for(data, lambda made, wrong=wrong: Exact(made, straight=straight, wrong=wrong))
        drawn = known(drawn_of(heads, data))
        found = semigroup_errors(heads, drawn, heads(drawn.query), Noise.batch(0, len(drawn.clip)))
        assert found.shape == (2 * SCALES, 2)
        shortest = [SCALES - 1, SCALES]
        assert not bool(found[shortest].any())
        if wrong and not straight:
            assert bool((found[[k for k in range(2 * SCALES) if k not in shortest], 0] > 1e-7).all())
        elif not wrong:
            # Where nothing turns, velocities have no unit.
            assert float(found[:, : 1 if straight else 2].abs().max()) < 1e-12


def test_the_error_of_consistency_in_closed_form() -> None:
    """Heads a factor f too long on straight motion: 2 d v f against d v f twice; z agrees, for p there is no rate."""
    data = clips(straight=True)
    heads = heads_for(data, lambda made: Exact(made, straight=True))
    drawn = known(drawn_of(heads, data))
    rates = heads(drawn.query)
    extra = torch.full_like(rates, 0.3)
    found = semigroup_errors(heads, drawn, rates + extra, Noise.batch(0, len(drawn.clip)))
    # The first half moves p by 0.3 d, which the exact second half adds to its rate; half of the first is kept.
    for double in (SCALES + 1, SCALES + 2, SCALES + 3):
        gap = heads.gaps[double]
        p_part = (0.3 - 0.15) * gap / float(heads.scale[double, 1])
        z_part = (0.3 - (0.3 + 0.3 * gap / 2) / 2) * gap / float(heads.scale[double, 0])
        assert float(found[double, 1]) == pytest.approx(p_part**2, rel=1e-6)
        assert float(found[double, 0]) == pytest.approx(z_part**2, rel=1e-6)


def test_only_the_long_jump_learns_from_consistency() -> None:
    data = clips()
    heads = heads_for(data, lambda made: Exact(made, straight=False, wrong=0.2))
    drawn = known(drawn_of(heads, data))
    rates = heads(drawn.query).detach().requires_grad_()
    semigroup_errors(heads, drawn, rates, Noise.batch(0, len(drawn.clip))).sum().backward()
    size = rates.grad.abs().amax(dim=(0, 2, 3, 4))
    shortest = torch.tensor([k in (SCALES - 1, SCALES) for k in range(2 * SCALES)])
    assert not bool(size[shortest].any())
    assert bool((size[~shortest] > 0).all())
    pairs = (rates.grad.abs().amax(dim=(2, 3, 4)) > 0).sum(dim=1)
    assert int(pairs.max()) == 1


def test_jumps_that_would_pass_an_anchor_or_that_nobody_takes_do_not_count() -> None:
    data = clips()
    heads = heads_for(data, None)
    for parameter in heads.parameters():
        parameter.data.add_(0.1)
    drawn = known(drawn_of(heads, data))
    noise = Noise.batch(0, len(drawn.clip))
    whole = semigroup_errors(heads, drawn, heads(drawn.query), noise)
    assert bool((whole[SCALES + 1 :] > 0).all())

    def bounded(span: float) -> Tensor:
        query = drawn.query
        there = torch.ones_like(query.moving)
        future = Anchor(query.state, ~there, torch.full_like(query.past.span, span), there)
        asked = Query(query.state, query.moving, query.past, future)
        shown = Transitions(asked, drawn.clip, drawn.index, drawn.weight)
        return semigroup_errors(heads, shown, heads(asked), noise)

    near = bounded(2 * FRAME)
    assert bool((near[SCALES + 1] > 0).all())
    assert not bool(near[SCALES + 2 :].any())
    silent = Transitions(drawn.query, drawn.clip, drawn.index, torch.full_like(drawn.weight, 0.1))
    assert not bool(semigroup_errors(heads, silent, heads(drawn.query), noise).any())


def test_one_gap_has_nothing_to_agree_with() -> None:
    data = clips()
    made = MultiScale(CHANNELS, frame=FRAME, scales=1, reach=REACH, width=8, terms=ALL).double()
    made.prepare(data)
    assert math.isfinite(made.loss(data, Noise.batch(0, BATCH)).item())


# Roll-outs


@pytest.mark.parametrize("straight", STRAIGHT)
@pytest.mark.parametrize("jumps", [1, 2, 5])
def test_exact_heads_roll_out_exactly(straight: bool, jumps: int) -> None:
    data = clips(straight=straight)
    heads = heads_for(data, lambda made: Exact(made, straight=straight))
    found = rollout_errors(heads, data, Noise.batch(0, BATCH), frame=FRAME, reach=REACH, jumps=jumps)
    assert found.shape == (BATCH, 2)
    # Where nothing turns, velocities have no unit.
    assert float(found[:, : 1 if straight else 2].abs().max()) < 1e-12
    wrong = heads_for(data, lambda made: Exact(made, straight=straight, wrong=0.1))
    assert bool(
        (rollout_errors(wrong, data, Noise.batch(0, BATCH), frame=FRAME, reach=REACH, jumps=jumps)[:, 0] > 0).all()
    )


def hasty(data: Trajectory, factor: float) -> tuple[TransitionHeads, Exact]:
    """Heads that move straight at a multiple of the velocity, and their trunk, which notes what it was asked."""
    made = heads_for(data, lambda heads: Exact(heads, straight=True, wrong=factor - 1))
    trunk = made.trunk
    assert isinstance(trunk, Exact)
    trunk.requires_grad_(True)
    return made, trunk


@pytest.mark.parametrize("jumps", [1, 2, 6])
def test_the_gradient_passes_through_the_last_two_jumps_alone(jumps: int) -> None:
    """Straight motion, a factor f too fast: after gaps d_1, ..., d_n the error is (f - 1) v sum d; its slope is not."""
    data = clips(straight=True)
    made, trunk = hasty(data, 1.1)
    found = rollout_errors(made, data, Noise.batch(0, BATCH), frame=FRAME, reach=REACH, jumps=jumps)
    assert [learns for learns, _ in trunk.asked] == [index >= jumps - 2 for index in range(jumps)]
    elapsed = torch.stack([-span for _, span in trunk.asked], dim=1) / FRAME
    assert bool((elapsed.diff(dim=1) >= 0).all())
    assert not bool(elapsed[:, 0].any())
    (slope,) = torch.autograd.grad(found[:, 0].sum(), trunk.factor)
    found = found.detach()
    # With all of the path in the gradient the slope would be 2 (f - 1) v^2 covered^2 = 2 found / (f - 1).
    whole = 2 * found[:, 0].sum() / 0.1
    if jumps <= 2:
        assert float(slope) == pytest.approx(float(whole), rel=1e-9)
    else:
        assert 0.1 * float(whole) < float(slope) < 0.99 * float(whole)


@settings(max_examples=10)
@given(st.integers(0, 1000), st.integers(1, 6))
def test_jumps_cover_at_most_the_reach_and_none_waits_after_one(seed: int, jumps: int) -> None:
    data = clips(32, straight=True)
    made, trunk = hasty(data, 0.0)
    found = rollout_errors(made, data, Noise.batch(seed, 32), frame=FRAME, reach=REACH, jumps=jumps)
    assert bool((found[:, 0] > 0).all())
    elapsed = torch.stack([-span for _, span in trunk.asked], dim=1) / FRAME
    assert float(elapsed.max()) < REACH
    steps = elapsed.diff(dim=1) > 0
    assert bool((steps.int().diff(dim=1) >= 0).all())


def test_roll_outs_of_every_length_and_gap_happen() -> None:
    data = clips(400, straight=True)
    made, trunk = hasty(data, 1.1)
    rollout_errors(made, data, Noise.batch(0, 400), frame=FRAME, reach=REACH, jumps=3)
    elapsed = (torch.stack([-span for _, span in trunk.asked], dim=1) / FRAME).round()
    lengths = (elapsed.diff(dim=1) > 0).sum(dim=1) + 1
    assert {int(length) for length in lengths} == {1, 2, 3}
    assert {int(step) for step in elapsed.diff(dim=1).flatten()} >= {1, 2, 4}


# The restoring rate


def shifted(seed: int = 0) -> tuple[TransitionHeads, Trajectory, Transitions, Tensor]:
    """States beside the data, and how far."""
    data = clips()
    heads = heads_for(data, None)
    drawn = known(drawn_of(heads, data))
    data = of_rows(data, drawn)
    away = 0.3 * Noise.batch(seed, len(data)).normal("away", *drawn.query.state.shape[1:], dtype=torch.float64)
    exact = torch.cat((data.states, data.states.diff(dim=1, prepend=data.states[:, :1]) / FRAME), dim=2)
    exact = exact[torch.arange(len(data)), drawn.index]
    query = Query(exact + away, drawn.query.moving, drawn.query.past, drawn.query.future)
    return heads, data, Transitions(query, drawn.clip, drawn.index, drawn.weight), away


@pytest.mark.parametrize("restoring", [0.0, 0.7, 3.0, 1e6, None])
def test_p16_the_wanted_rate_is_the_data_s_and_kappa_times_the_way_back(restoring: float | None) -> None:
    heads, data, drawn, away = shifted()
    found = wanted_displacements(heads, drawn, data, frame=FRAME, restoring=restoring)
    for k, gap in enumerate(heads.gaps):
        at = (drawn.index + round(gap / FRAME)).clamp(1, len(TIMES) - 1)
        rows = torch.arange(len(data))
        ahead = torch.cat((data.states[rows, at], (data.states[rows, at] - data.states[rows, at - 1]) / FRAME), dim=1)
        rate = (ahead - (drawn.query.state - away)) / gap
        back = math.inf if restoring is None else restoring
        expected = rate * gap - min(back * abs(gap), 1.0) * away
        torch.testing.assert_close(found[:, k], expected, rtol=1e-9, atol=1e-9)


def test_heads_are_asked_the_whole_way_to_an_anchor_and_from_an_unknown_velocity() -> None:
    heads, data, drawn, _ = shifted()
    query, there = drawn.query, torch.ones_like(drawn.query.moving)
    future = Anchor(query.state, ~there, torch.full_like(query.past.span, 4 * FRAME), there)
    past = Anchor(query.state, there, torch.full_like(query.past.span, -2 * FRAME), there)
    asked = Transitions(Query(query.state, there, past, future), drawn.clip, drawn.index, drawn.weight)
    whole = wanted_displacements(heads, asked, data, frame=FRAME, restoring=None)
    part = wanted_displacements(heads, asked, data, frame=FRAME, restoring=0.5)
    same = (whole - part).abs().amax(dim=(0, 2, 3, 4)) < 1e-12
    frames = [round(gap / FRAME) for gap in heads.gaps]
    assert {frame for frame, one in zip(frames, same.tolist(), strict=True) if one} == {4, -2}
    still = Transitions(Query(query.state, ~there, past, future), drawn.clip, drawn.index, drawn.weight)
    assert torch.equal(wanted_displacements(heads, still, data, frame=FRAME, restoring=0.5), whole)


# Second differences


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 2.0])
def test_bending_compares_sizes_of_second_differences(factor: float) -> None:
    heads, data, drawn, _ = shifted()
    wanted = wanted_displacements(heads, drawn, data, frame=FRAME, restoring=None)
    straight = heads.gap[:, None, None, None] * wanted.new_ones(wanted.shape)
    found = bending_mismatch(heads, factor * wanted + straight, wanted, drawn.weight)
    assert float(found) == pytest.approx((factor - 1) ** 2, abs=0.02 if factor == 0 else 1e-4)


def test_bending_is_no_penalty_of_curvature() -> None:
    """Predictions that bend otherwise, but as much, are as good; the gradient at too little bends more."""
    heads, data, drawn, _ = shifted()
    wanted = wanted_displacements(heads, drawn, data, frame=FRAME, restoring=None)
    turned = -wanted
    assert float(bending_mismatch(heads, turned, wanted, drawn.weight)) < 1e-6
    little = (0.5 * wanted).requires_grad_()
    bending_mismatch(heads, little, wanted, drawn.weight).backward()
    bend = wanted[:, -1] - 2 * wanted[:, -2]
    step = -(little.grad[:, -1] - 2 * little.grad[:, -2])
    channels = slice(0, CHANNELS)
    assert float((bend * step)[:, channels].sum()) > 0
    assert not bool(little.grad[:, :, CHANNELS:].any())


@pytest.mark.parametrize("straight", STRAIGHT)
def test_exact_heads_bend_as_the_data(straight: bool) -> None:
    data = clips(straight=straight)
    heads = heads_for(data, lambda made: Exact(made, straight=straight))
    drawn = known(drawn_of(heads, data))
    data = of_rows(data, drawn)
    true = torch.cat((data.states, data.states.diff(dim=1, prepend=data.states[:, :1]) / FRAME), dim=2)
    true = true[torch.arange(len(data)), drawn.index]
    asked = Query(true, drawn.query.moving, drawn.query.past, drawn.query.future)
    drawn = Transitions(asked, drawn.clip, drawn.index, drawn.weight)
    wanted = wanted_displacements(heads, drawn, data, frame=FRAME, restoring=None)
    predicted = heads(drawn.query) * heads.gap[:, None, None, None]
    # A clip ends before some of the targets of its last states.
    inside = (drawn.index[:, None] + (heads.gap / FRAME).round()).clamp(1, len(TIMES) - 1) == drawn.index[:, None] + (
        heads.gap / FRAME
    ).round()
    assert float(bending_mismatch(heads, predicted, wanted, inside.double())) < 1e-8


# All together

ALL = LossTerms(consistency=0.3, deterministic=True, rollout=0.2, jumps=3, restoring=1.0, bending=0.1)


def fresh(terms: LossTerms | None = None) -> MultiScale:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = MultiScale(
            CHANNELS, frame=FRAME, scales=SCALES, reach=REACH, width=8, **({} if terms is None else {"terms": terms})
        ).double()
    made.prepare(clips())
    for parameter in made.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return made


def test_by_default_there_are_none() -> None:
    data, noise = clips(), Noise.batch(3, BATCH)
    plain = fresh().loss(data, noise).detach()
    assert torch.equal(plain, fresh(LossTerms()).loss(data, noise))
    for term in ({"rollout": 0.2}, {"restoring": 0.5}, {"bending": 0.1}, {"consistency": 0.3, "deterministic": True}):
        assert float(fresh(LossTerms(**term)).loss(data, noise).detach()) != float(plain)


def test_consistency_is_part_of_a_head_s_error() -> None:
    """d log(e + w c): never less than the regression, and by log(1 + w c / e) more."""
    data, noise = clips(), Noise.batch(3, BATCH)
    plain = float(fresh().loss(data, noise).detach())
    some, more = (
        float(fresh(LossTerms(consistency=weight, deterministic=True)).loss(data, noise).detach())
        for weight in (0.3, 3.0)
    )
    assert plain < some < more < plain + 1.1 * math.log(1 + 3.0 * 50)


def test_the_whole_loss_falls_and_every_parameter_learns() -> None:
    data, made = clips(), fresh(ALL)
    optimiser = torch.optim.Adam(made.parameters(), lr=3e-3)
    losses = []
    for step in range(25):
        optimiser.zero_grad()
        loss = made.loss(data, Noise.batch(step, BATCH))
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < sum(losses[:5]) - 1.0
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in made.parameters())


def test_terms_come_back_from_a_folder(tmp_path: Any) -> None:
    made = MultiScale(CHANNELS, frame=FRAME, scales=SCALES, reach=REACH, width=8, terms=ALL)
    made.prepare(Trajectory(clips().states.float(), TIMES))
    made.save_pretrained(tmp_path / "model")
    assert MultiScale.from_pretrained(tmp_path / "model").terms == ALL


@pytest.mark.parametrize(
    "wrong",
    [{"consistency": -1.0}, {"rollout": math.nan}, {"bending": math.inf}, {"restoring": -0.1}, {"jumps": 0}],
)
def test_terms_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        LossTerms(**wrong)


def test_p15_consistency_without_a_code_needs_a_word_that_the_data_are_deterministic() -> None:
    with pytest.raises(ValueError, match=r"fights regression where futures branch.*deterministic=True"):
        MultiScale(1, frame=FRAME, scales=2, reach=4, width=8, terms=LossTerms(consistency=0.1))
    MultiScale(1, frame=FRAME, scales=2, reach=4, width=8, terms=LossTerms(consistency=0.1), code=2)
