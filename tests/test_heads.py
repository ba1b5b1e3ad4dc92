"""Transition heads and the states they are asked about: end points, anchors, context, independence of rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flowvid.dynamics.drift import MultiScaleField
from flowvid.dynamics.heads import TransitionHeads, dyadic_gaps
from flowvid.dynamics.state import Anchor, Query, Surroundings, query_channels
from flowvid.dynamics.weights import lagrange
from flowvid.solve.flow_map import Jump, nearest_three
from flowvid.solve.grid import Grid
from flowvid.solve.ode import Ode
from flowvid.video import Condition, Trajectory

GAPS = dyadic_gaps(0.1, 3)
CHANNELS, SIZE = 2, 4


def heads(seed: int, *, randomised: bool = True) -> TransitionHeads:
    """Small heads with random units and, unless as initialised, random weights everywhere."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = TransitionHeads(CHANNELS, GAPS, width=8)
    built.set_scales(0.1 + torch.rand(len(GAPS), 2, generator=generator))
    if randomised:
        for parameter in built.parameters():
            parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return built.requires_grad_(False)


HEADS = heads(1)


def constant(seed: int) -> TransitionHeads:
    """Heads whose network says the same whatever it is asked."""
    blind = heads(seed)
    for parameter in blind.trunk.parameters():
        parameter.zero_()
    bias = blind.trunk.leave.bias
    bias.copy_(torch.randn(len(bias), generator=torch.Generator().manual_seed(seed)))
    return blind


def grids(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def anchor(seed: int, span: float, count: int = 3) -> Anchor:
    there = torch.ones(count).bool()
    return Anchor(grids(seed, count, 2 * CHANNELS), there, torch.full((count,), span), there)


def asked(seed: int, *, past: Anchor | None = None, future: Anchor | None = None, count: int = 3) -> Query:
    state = grids(seed, count, 2 * CHANNELS)
    none = Anchor.none(state)
    return Query(state, torch.ones(count).bool(), past or none, future or none)


def condition(times: list[float], seed: int = 0, batch: int = 2) -> Condition:
    return Condition(Trajectory(grids(seed, batch, len(times), CHANNELS), torch.tensor(times, dtype=torch.float64)))


# Heads


@given(st.integers(0, 1000), st.sampled_from(GAPS))
def test_heads_land_on_an_anchor_a_gap_away_whatever_the_network_says(seed: int, gap: float) -> None:
    near = anchor(seed + 1, gap)
    query = asked(seed, future=near) if gap > 0 else asked(seed, past=near)
    rate = HEADS(query)[:, GAPS.index(gap)].chunk(2, dim=1)[0]
    assert float((rate - (near.latent - query.latent) / gap).abs().max()) < 1e-4 / abs(gap)
    assert torch.allclose(query.latent + gap * rate, near.latent, atol=1e-5)


@given(st.integers(0, 1000), st.sampled_from(GAPS), st.sampled_from([1.3, 2.0, 7.0]))
def test_heads_mix_the_line_to_the_anchor_and_the_network_by_the_share_of_the_way(
    seed: int, gap: float, ratio: float
) -> None:
    """With a network that does not look at the anchor: u = slope + (1 - gap / span) * plain."""
    blind, near = constant(seed), anchor(seed + 1, gap * ratio)
    k = GAPS.index(gap)
    query = asked(seed, future=near) if gap > 0 else asked(seed, past=near)
    plain, found = blind(asked(seed))[:, k], blind(query)[:, k]
    slope = (near.latent - query.latent) / (gap * ratio)
    expected = slope + (1 - 1 / ratio) * plain[:, :CHANNELS]
    assert torch.allclose(found[:, :CHANNELS], expected, atol=1e-4)
    assert torch.equal(found[:, CHANNELS:], plain[:, CHANNELS:])


@given(st.integers(0, 1000))
def test_a_far_anchor_leaves_the_plain_form(seed: int) -> None:
    blind = constant(seed)
    plain = blind(asked(seed))
    errors = [
        float((blind(asked(seed, past=anchor(5, -span), future=anchor(6, span))) - plain).abs().max())
        for span in (1e2, 1e3, 1e4)
    ]
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.1)
    assert errors[2] == pytest.approx(errors[0] / 100, rel=0.1)


@given(st.integers(0, 1000), st.sampled_from([0.05, 0.15, 0.3]))
def test_a_gap_beyond_the_anchor_or_against_its_direction_is_plain(seed: int, span: float) -> None:
    fresh = heads(seed, randomised=False)
    rates = fresh(asked(seed, future=anchor(seed + 1, span)))
    for k, gap in enumerate(GAPS):
        assert bool(rates[:, k, :CHANNELS].any()) == (0 < gap <= span)
    assert not rates[:, :, CHANNELS:].any()


@given(st.integers(0, 1000))
def test_untrained_heads_stand_still_or_move_straight_to_what_is_known(seed: int) -> None:
    fresh, near = heads(seed, randomised=False), anchor(seed + 1, 0.4)
    assert not fresh(asked(seed)).any()
    query = asked(seed, future=near)
    expected = (near.latent - query.latent) / 0.4
    for k, gap in enumerate(GAPS):
        assert torch.allclose(fresh(query)[:, k, :CHANNELS], expected * (gap > 0), atol=1e-5)


def test_all_heads_come_from_one_trunk_evaluation() -> None:
    built, calls = heads(0), []
    built.trunk.register_forward_hook(lambda *_: calls.append(1))
    surroundings = Surroundings(condition([0.0, 0.1, 1.0]), gap=0.1)
    rates = MultiScaleField(built, surroundings).rates([0.3, 0.5], grids(1, 2, 2, 2 * CHANNELS), [True, True])
    assert rates.shape == (2, 2, len(GAPS), 2 * CHANNELS, SIZE, SIZE)
    assert len(calls) == 1


@given(st.lists(st.floats(0.01, 10.0), min_size=2, max_size=2))
def test_rates_are_in_the_units_of_the_structure_function(units: list[float]) -> None:
    built = heads(3)
    before = built(asked(0))
    built.scale.mul_(torch.tensor(units))
    ratio = built(asked(0)) / before
    assert torch.allclose(ratio[:, :, :CHANNELS], torch.tensor(units[0]), rtol=1e-3)
    assert torch.allclose(ratio[:, :, CHANNELS:], torch.tensor(units[1]), rtol=1e-3)


def test_set_scales_takes_the_velocity_unit_from_the_shortest_gap() -> None:
    built, structure = heads(0), 0.1 + torch.arange(2.0 * len(GAPS)).reshape(len(GAPS), 2)
    built.set_scales(structure)
    assert torch.equal(built.scale, structure)
    shortest = min(range(len(GAPS)), key=lambda k: abs(GAPS[k]))
    assert built.velocity_scale.item() == pytest.approx(structure[shortest, 0].item() / 0.1)
    assert (built.shortest, built.longest) == (0.1, 0.4)


@given(st.integers(0, 1000), st.permutations(range(5)))
def test_rows_of_a_query_are_independent(seed: int, order: list[int]) -> None:
    query = asked(seed, past=anchor(seed + 1, -0.2, 5), future=anchor(seed + 2, 0.7, 5), count=5)

    def rows(index: list[int]) -> Query:
        parts = [(a.state, a.moving, a.span, a.present) for a in (query.past, query.future)]
        anchors = [Anchor(*(part[index] for part in one)) for one in parts]
        return Query(query.state[index], query.moving[index], *anchors)

    together = HEADS(query)
    assert torch.allclose(HEADS(rows(order)), together[order], atol=1e-4)
    assert torch.allclose(HEADS(rows([order[0]])), together[[order[0]]], atol=1e-4)


def test_the_network_is_told_everything_about_its_query() -> None:
    """Each part of a query changes the rates of random heads."""
    base = asked(0, past=anchor(1, -0.2), future=anchor(2, 0.7))
    still = torch.zeros(3).bool()
    changed = [
        Query(base.state + 0.1, base.moving, base.past, base.future),
        Query(base.state, still, base.past, base.future),
        Query(base.state, base.moving, anchor(3, -0.2), base.future),
        Query(base.state, base.moving, anchor(1, -0.3), base.future),
        Query(base.state, base.moving, base.past, Anchor(base.future.state, still, base.future.span, ~still)),
        Query(base.state, base.moving, base.past, Anchor.none(base.state)),
    ]
    reference = HEADS(base)[..., CHANNELS:, :, :]
    assert all(float((HEADS(query)[..., CHANNELS:, :, :] - reference).abs().max()) > 1e-4 for query in changed)


@given(st.integers(1, 5), st.floats(1e-3, 10.0))
def test_dyadic_gaps_double_and_come_in_both_signs(count: int, shortest: float) -> None:
    gaps = dyadic_gaps(shortest, count)
    assert gaps == tuple(sorted(gaps)) == tuple(-gap for gap in reversed(gaps))
    assert [gap / shortest for gap in gaps if gap > 0] == pytest.approx([2.0**k for k in range(count)])


@pytest.mark.parametrize("gaps", [(0.2, 0.1), (0.0, 0.1), (0.1, 0.1)])
def test_heads_refuse_unordered_or_zero_gaps(gaps: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="increasing seconds without zero"):
        TransitionHeads(CHANNELS, gaps, width=8)


@pytest.mark.parametrize(("shortest", "count"), [(0.0, 2), (-0.1, 2), (0.1, 0)])
def test_dyadic_gaps_refuse_none_and_nonpositive_ones(shortest: float, count: int) -> None:
    with pytest.raises(ValueError, match="positive shortest gap"):
        dyadic_gaps(shortest, count)


# Anchors


@given(st.integers(0, 1000))
def test_an_absent_anchor_does_not_leak(seed: int) -> None:
    state, keep = grids(seed, 3, 2 * CHANNELS), torch.tensor([True, False, True])
    none, partly = Anchor.none(state), anchor(seed + 1, 0.3).where(keep)
    assert not none.present.any()
    assert partly.present.tolist() == keep.tolist()
    dropped, fresh = (
        HEADS(Query(state, torch.ones(3).bool(), none, future))
        for future in (partly, anchor(seed + 2, 0.3).where(keep))
    )
    assert torch.equal(dropped[1], fresh[1])
    assert torch.allclose(dropped[1], HEADS(Query(state, torch.ones(3).bool(), none, none))[1], atol=1e-5)
    assert not torch.allclose(dropped[0], fresh[0], atol=1e-3)


def test_a_packed_query_has_its_channels_and_order_one_numbers() -> None:
    query = asked(0, past=anchor(1, -0.2), future=anchor(2, 0.7))
    grid, spans = query.packed(velocity_scale=2.0, time_scale=0.4)
    assert grid.shape == (3, query_channels(CHANNELS), SIZE, SIZE)
    assert torch.allclose(spans, torch.tensor([[-0.5, 1.75]]).expand(3, 2))
    parts = grid.split([CHANNELS, CHANNELS, 1] * 3 + [1, 1], dim=1)
    assert torch.equal(parts[0], query.latent)
    assert torch.equal(parts[1], query.state[:, CHANNELS:] / 2)
    assert torch.equal(parts[3], query.past.latent)
    assert torch.equal(parts[7], query.future.state[:, CHANNELS:] / 2)
    assert all(part.eq(1).all() for part in (parts[2], parts[5], parts[8], parts[9], parts[10]))


# Surroundings


def test_a_context_frame_supplies_a_velocity_and_is_no_anchor() -> None:
    known = condition([0.0, 0.1, 1.5])
    around = Surroundings(known, gap=0.1)
    frames = known.require().states
    assert around.times == [0.1, 1.5]
    assert around.moving == [True, False]
    assert around.start(0.2) == 0
    assert torch.equal(around.state(0)[:, :CHANNELS], frames[:, 1])
    assert torch.allclose(around.state(0)[:, CHANNELS:], (frames[:, 1] - frames[:, 0]) / 0.1)
    assert torch.equal(around.state(1), torch.cat((frames[:, 2], torch.zeros_like(frames[:, 2])), dim=1))


@pytest.mark.parametrize(
    ("times", "kept", "moving", "first", "start"),
    [
        ([0.7], [0.7], [False], 0.8, 0),
        ([0.0, 1.5], [0.0, 1.5], [False, False], 0.2, 0),
        ([0.0, 0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [True, True, True], 0.35, 2),
        ([0.0, 0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [True, True, True], 0.2, 1),
        ([0.0, 0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [True, True, True], 0.05, 0),
        ([0.0, 0.4, 0.5, 1.5], [0.0, 0.5, 1.5], [False, True, False], 1.6, 1),
        ([0.0, 0.4, 0.5, 1.5], [0.0, 0.5, 1.5], [False, True, False], 0.2, 1),
        ([0.0, 0.1, 1.4, 1.5], [0.1, 1.5], [True, True], 0.2, 0),
        ([0.0, 0.05, 0.1, 0.15], [0.1, 0.15], [True, True], 0.2, 1),
    ],
    ids=["one", "ends", "prefix", "within", "before", "key frames", "still first", "moving ends", "irregular"],
)
def test_every_task_is_known_states_and_flags(
    times: list[float], kept: list[float], moving: list[bool], first: float, start: int
) -> None:
    around = Surroundings(condition(times), gap=0.1)
    assert (around.times, around.moving, around.start(first)) == (kept, moving, start)


def expected_anchor(around: Surroundings, time: float, side: int) -> int | None:
    """Later: the nearest one. Earlier: the latest that moves, a state itself included; else the latest before it."""
    if side > 0:
        return next((i for i, at in enumerate(around.times) if at > time + 1e-6), None)
    moving = [i for i, at in enumerate(around.times) if at <= time + 1e-6 and around.moving[i]]
    before = [i for i, at in enumerate(around.times) if at < time - 1e-6]
    itself = [i for i, at in enumerate(around.times) if abs(at - time) <= 1e-6]
    for choice in (moving, before, itself):
        if choice:
            return choice[-1]
    return None


@given(st.lists(st.integers(0, 30), min_size=1, max_size=5, unique=True).map(sorted), st.integers(-5, 35))
def test_anchors_are_the_nearest_known_states_up_to_now_and_after(frames: list[int], frame: int) -> None:
    around = Surroundings(condition([0.1 * f for f in frames]), gap=0.1)
    query = around.query([0.1 * frame], grids(9, 2, 1, 2 * CHANNELS), [True])
    for side, found in ((-1, query.past), (1, query.future)):
        index = expected_anchor(around, 0.1 * frame, side)
        assert found.present.tolist() == [index is not None] * 2
        if index is None:
            assert not found.state.any()
            assert not found.moving.any()
        else:
            assert torch.equal(found.state, around.state(index))
            assert found.moving.tolist() == [around.moving[index]] * 2
            assert found.span.tolist() == pytest.approx([around.times[index] - 0.1 * frame] * 2, rel=1e-5, abs=1e-9)


def test_a_known_start_is_its_own_anchor_and_a_lone_end_has_the_start() -> None:
    around = Surroundings(condition([-0.1, 0.0, 1.5]), gap=0.1)
    start, end = (around.query([time], grids(9, 2, 1, 2 * CHANNELS), [True]).past for time in (0.0, 1.5))
    assert start.span.tolist() == [0.0, 0.0]
    assert end.span.tolist() == [-1.5, -1.5]
    assert torch.equal(start.state, around.state(0))
    assert torch.equal(end.state, around.state(0))


@settings(max_examples=20)
@given(st.lists(st.floats(-0.5, 2.0), min_size=1, max_size=4, unique=True), st.data())
def test_queries_are_flattened_sample_by_sample(times: list[float], data: st.DataObject) -> None:
    around = Surroundings(condition([0.0, 0.1, 0.8, 1.5], batch=3), gap=0.1)
    states = grids(4, 3, len(times), 2 * CHANNELS)
    moving = data.draw(st.lists(st.booleans(), min_size=len(times), max_size=len(times)))
    field = MultiScaleField(HEADS, around)
    together = field.rates(times, states, moving)
    for sample in range(3):
        one = condition([0.0, 0.1, 0.8, 1.5], batch=3).require().states[sample : sample + 1]
        known = Condition(Trajectory(one, torch.tensor([0.0, 0.1, 0.8, 1.5], dtype=torch.float64)))
        alone = MultiScaleField(HEADS, Surroundings(known, gap=0.1))
        for index, time in enumerate(times):
            rates = alone.rates([time], states[sample : sample + 1, index : index + 1], [moving[index]])
            assert torch.allclose(rates[0, 0], together[sample, index], rtol=1e-4, atol=1e-4)


def test_the_drift_is_the_heads_combined_by_the_weights_at_zero() -> None:
    field = MultiScaleField(HEADS, Surroundings(condition([0.0, 0.1, 1.5]), gap=0.1))
    state = grids(7, 2, 2 * CHANNELS)
    rates = field.rates([0.4], state[:, None], [True])[:, 0]
    weights = lagrange(GAPS, 0.0)
    expected = sum(float(w) * rates[:, k] for k, w in enumerate(weights))
    assert torch.allclose(field.drift(lambda h: lagrange(GAPS, h))(0.4, state), expected, atol=1e-4)


def test_eulers_method_told_of_its_steps_jumps_along_the_field() -> None:
    """w(h) through torchdiffeq's callback_step and through our grid: frame 3 from 2 from 0, as on the Fenwick tree."""
    field = MultiScaleField(HEADS, Surroundings(condition([0.0, 0.1]), gap=0.1))
    state, rule = grids(7, 2, 2 * CHANNELS), nearest_three(field.gaps)
    jumped = Jump(weights=rule).solve(field, state, [0.1, 0.4])
    branch = [0.1, 0.3, 0.4]
    for euler in (Ode(method="euler"), Grid(method="euler")):
        stepped = euler.solve(field.stepping(rule), state, branch)
        assert stepped.evaluations == jumped.evaluations == 2
        assert torch.allclose(stepped.trajectory.states[:, -1], jumped.trajectory.states[:, -1], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="solver that announces its steps"):
        field.stepping(rule)(0.1, state)
    with pytest.raises(ValueError, match="asks it inside the step"):
        Grid(method="rk4").solve(field.stepping(rule), state, branch)


def test_nothing_known_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="the condition holds none; give at least one"):
        Surroundings(Condition(), gap=0.1)
