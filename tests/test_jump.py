"""Flow-map integrators: exactness, cost, error growth and seams on the tree (P7, P9, P10, P17)."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flowvid.dynamics.weights import lagrange
from flowvid.solve.bisect import Bisection, bisect
from flowvid.solve.jump import integrate
from flowvid.solve.plans import Node, fenwick_plan, two_sided_plan

FORWARD = tuple(0.1 * 2.0**k for k in range(4))
SIGNED = (*(-gap for gap in reversed(FORWARD)), *FORWARD)
ROTATION = torch.tensor([[0.0, -2.0], [2.0, 0.0]], dtype=torch.float64)
DAMPED = torch.tensor([[-0.7, -3.0], [1.5, -0.1]], dtype=torch.float64)


class Flow:
    """The rates of a displacement (times, states, gap) -> states, keeping what it was asked."""

    def __init__(self, gaps: Sequence[float], displacement) -> None:
        self.gaps = tuple(gaps)
        self.displacement = displacement
        self.calls: list[tuple[list[float], list[bool]]] = []

    def rates(self, times: Sequence[float], states: Tensor, moving: Sequence[bool]) -> Tensor:
        self.calls.append((list(times), list(moving)))
        at = torch.tensor(times, dtype=torch.float64)[:, None]
        return torch.stack([self.displacement(at, states, gap) / gap for gap in self.gaps], dim=2)

    def jump(self, state: Tensor, gap: float) -> Tensor:
        return state + self.displacement(None, state, gap)


def linear(matrix: Tensor, gaps: Sequence[float] = SIGNED) -> Flow:
    """The exact flow map of dz/dt = matrix z."""
    unit = torch.eye(len(matrix), dtype=matrix.dtype)
    return Flow(gaps, lambda times, states, gap: states @ (torch.linalg.matrix_exp(matrix * gap) - unit).T)


def arbitrary(seed: int, gaps: Sequence[float], size: int = 3) -> Flow:
    """A random nonlinear map for every gap: no flow at all."""
    generator = torch.Generator().manual_seed(seed)
    mixing = {gap: torch.randn(size, size, generator=generator, dtype=torch.float64) for gap in gaps}
    return Flow(gaps, lambda times, states, gap: gap * torch.tanh(states @ mixing[gap]) + gap * mixing[gap][0])


def polynomial(coefficients: Sequence[float], times: Tensor) -> Tensor:
    return sum((c * times**power for power, c in enumerate(coefficients)), torch.zeros_like(times))


def exact(matrix: Tensor, start: Tensor, times: Sequence[float]) -> Tensor:
    return torch.stack([start @ torch.linalg.matrix_exp(matrix * time).T for time in times], dim=1)


def run(flow: Flow, nodes: list[Node], known: Tensor, *, error=lambda step: abs(step), moving=None):
    """The states of a plan, evaluations and depth, with interpolation weights."""
    return integrate(
        flow,
        nodes,
        known,
        moving or [True] * known.shape[1],
        weights=lambda step, moving: lagrange(flow.gaps, step),
        error=lambda step, moving: error(step),
    )


def at(nodes: list[Node], states: Tensor, times: Sequence[float]) -> Tensor:
    """The states at the requested times, which must be those of the plan to the last bit."""
    index = {node.time: position for position, node in enumerate(nodes)}
    return states[:, [index[time] for time in times]]


def random_state(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def tasks(draw: st.DrawFn) -> tuple[list[float], list[float], int | None]:
    """Known times, requested times, and the spacing of a two-sided plan (None: a Fenwick plan)."""
    spacing = draw(st.sampled_from([None, 1, 2, 4, 8]))
    start = draw(st.sampled_from([0.0, 0.3, -1.0]))
    more = draw(st.lists(st.integers(1, 40), max_size=3, unique=True)) if spacing else []
    known = [start, *sorted(start + 0.1 * tick + draw(st.sampled_from([0.0, 0.037])) for tick in more)]
    frames, anywhere = st.integers(0, 40).map(lambda n: 0.1 * n), st.integers(0, 3999).map(lambda n: 1e-3 * n)
    times = draw(st.lists(st.one_of(frames, anywhere), min_size=1, max_size=12, unique_by=lambda t: round(t, 4)))
    return known, sorted(start + time for time in times), spacing


def planned(task: tuple[list[float], list[float], int | None]) -> list[Node]:
    known, times, spacing = task
    if spacing is None:
        return fenwick_plan(known[0], times, FORWARD)
    return two_sided_plan(known, times, FORWARD, spacing=spacing)


def steps(nodes: list[Node]) -> list[list[float]]:
    return [[node.time - nodes[parent].time for parent in node.parents] for node in nodes]


@given(tasks())
def test_plans_hold_the_known_and_requested_times_and_nothing_that_is_not_needed(task) -> None:
    (known, times, _), nodes = task, planned(task)
    assert [node.time for node in nodes if not node.parents] == pytest.approx(known, abs=1e-9)
    assert {node.time for node in nodes} >= set(times)
    needed = {index for index, node in enumerate(nodes) if node.time in times or not node.parents}
    for index in reversed(range(len(nodes))):
        if index in needed:
            needed.update(nodes[index].parents)
    assert needed == set(range(len(nodes)))
    assert len({round(node.time, 7) for node in nodes}) == len(nodes)


@given(tasks())
def test_plans_jump_from_earlier_nodes_and_never_further_than_the_longest_gap(task) -> None:
    (_, _, spacing), nodes = task, planned(task)
    for index, (node, spans) in enumerate(zip(nodes, steps(nodes), strict=True)):
        assert all(parent < index for parent in node.parents)
        assert all(0 < abs(span) <= max(FORWARD) + 1e-9 for span in spans)
        if spacing is None:
            assert len(spans) <= 1
        elif spans:
            assert spans[0] > 0
            assert all(span < 0 or any(abs(span - gap) < 1e-9 for gap in FORWARD) for span in spans[1:])


@given(tasks())
def test_two_sided_times_lie_between_states_no_further_apart_than_the_spacing(task) -> None:
    (_, times, spacing), nodes = task, planned(task)
    parents = {parent for node in nodes for parent in node.parents}
    for index, (node, spans) in enumerate(zip(nodes, steps(nodes), strict=True)):
        off_grid = abs(node.time / 0.1 - round(node.time / 0.1)) > 1e-6
        if spacing and len(spans) == 2 and index not in parents and off_grid:
            assert node.time in times
            assert spans[0] - spans[1] <= 0.1 * spacing + 1e-9


@given(tasks(), st.lists(st.floats(-1, 1), min_size=1, max_size=5))
def test_p1_polynomial_motion_is_exact_at_every_real_time(task, coefficients: list[float]) -> None:
    (known, times, _), nodes = task, planned(task)
    forward = FORWARD if task[2] is None else SIGNED

    def displacement(at: Tensor, states: Tensor, gap: float) -> Tensor:
        return (polynomial(coefficients, at + gap) - polynomial(coefficients, at)).expand_as(states)

    start = polynomial(coefficients, torch.tensor(known, dtype=torch.float64))[None, :, None]
    states, _, _ = run(Flow(forward, displacement), nodes, start)
    true = polynomial(coefficients, torch.tensor(times, dtype=torch.float64))
    assert torch.allclose(at(nodes, states, times)[0, :, 0], true, atol=1e-9)


@given(tasks(), st.sampled_from([ROTATION, DAMPED]), st.integers(0, 1000))
def test_p7_exact_heads_make_every_chain_of_whole_gaps_exact(task, matrix: Tensor, seed: int) -> None:
    (known, _, spacing), nodes = task, planned(task)
    origin = random_state(seed, 2, 2)
    flow = linear(matrix, FORWARD if spacing is None else SIGNED)
    states, _, _ = run(flow, nodes, exact(matrix, origin, known))
    true = exact(matrix, origin, [node.time for node in nodes])
    whole: set[int] = set()
    for index, (node, spans) in enumerate(zip(nodes, steps(nodes), strict=True)):
        if whole.issuperset(node.parents) and all(min(abs(span - gap) for gap in SIGNED) < 1e-9 for span in spans):
            whole.add(index)
            assert torch.allclose(states[:, index], true[:, index], atol=1e-9 * float(true.abs().max()))
    assert len(whole) >= len(known)


@pytest.mark.parametrize("matrix", [ROTATION, DAMPED])
@given(st.integers(1, 70))
def test_p7_fenwick_is_exact_at_every_frame(matrix: Tensor, count: int) -> None:
    times = [0.5 + 0.1 * n for n in range(count)]
    nodes = fenwick_plan(0.5, times, FORWARD)
    start = random_state(count, 3, 2)
    states, _, _ = run(linear(matrix, FORWARD), nodes, start[:, None])
    true = exact(matrix, start, [time - 0.5 for time in times])
    assert torch.allclose(at(nodes, states, times), true, atol=1e-11)


@given(st.integers(1, 4), st.integers(0, 20), st.sampled_from([ROTATION, DAMPED]))
def test_p7_two_sided_is_exact_at_every_frame_for_known_frames_a_power_of_two_apart(
    windows: int, extra: int, matrix: Tensor
) -> None:
    known, times = [1.6 * n for n in range(windows)], [0.1 * n for n in range(16 * windows + extra)]
    nodes = two_sided_plan(known, times, FORWARD, spacing=1)
    origin = random_state(windows, 2, 2)
    states, _, _ = run(linear(matrix), nodes, exact(matrix, origin, known))
    true = exact(matrix, origin, times)
    assert torch.allclose(at(nodes, states, times), true, atol=1e-10 * float(true.abs().max()))


# P9: cost and error growth


@given(st.integers(1, 200), st.integers(0, 8))
def test_p9_fenwick_parents_clear_the_lowest_bit_unless_no_gap_is_that_long(count: int, longest: int) -> None:
    gaps = [2.0**k for k in range(longest + 1)]
    nodes = fenwick_plan(0.0, [float(n) for n in range(count)], gaps)
    for node in nodes[1:]:
        frame = round(node.time)
        (parent,) = node.parents
        assert nodes[parent].time == frame - min(frame & -frame, 2**longest)


@pytest.mark.parametrize("power", range(1, 8))
def test_p9_fenwick_takes_half_as_many_evaluations_as_frames_in_logarithmic_depth(power: int) -> None:
    gaps = [2.0**k for k in range(power)]
    nodes = fenwick_plan(0.0, [float(n) for n in range(2**power)], gaps)
    flow = arbitrary(0, gaps)
    _, evaluations, depth = run(flow, nodes, random_state(0, 2, 1, 3))
    assert evaluations == 2 ** (power - 1)
    assert depth == power
    assert len(flow.calls) == depth
    assert sum(len(times) for times, _ in flow.calls) == evaluations


def test_fenwick_plans_for_long_videos() -> None:
    nodes = fenwick_plan(0.0, [5000.0], [1.0, 2.0])
    assert [node.time for node in nodes] == [2.0 * n for n in range(2501)]


@given(st.integers(1, 130), st.integers(0, 7))
def test_p9_errors_of_jumps_add_up_over_the_bits_of_a_frame(count: int, longest: int) -> None:
    gaps = [2.0**k for k in range(longest + 1)]
    wrong = Flow(gaps, lambda times, states, gap: torch.full_like(states, 3.0 * gap + 0.01))
    times = [float(n) for n in range(count)]
    nodes = fenwick_plan(0.0, times, gaps)
    states, _, _ = run(wrong, nodes, torch.zeros(1, 1, 1, dtype=torch.float64))
    found = at(nodes, states, times)[0, :, 0] - 3.0 * torch.arange(count)
    jumps = [n // 2**longest + (n % 2**longest).bit_count() for n in range(count)]
    assert torch.allclose(found, 0.01 * torch.tensor(jumps, dtype=torch.float64))


@pytest.mark.parametrize(("longest", "depth"), [(16, 4), (8, 5)])
def test_two_sided_takes_a_quarter_of_the_frames_and_one_more_evaluation(longest: int, depth: int) -> None:
    gaps = [2.0**k for k in range(longest.bit_length())]
    nodes = two_sided_plan([0.0], [float(n) for n in range(16)], gaps, spacing=4)
    flow = arbitrary(0, [*(-gap for gap in gaps), *gaps])
    _, evaluations, found = run(flow, nodes, random_state(0, 2, 1, 3))
    assert evaluations == 16 // 4 + 1
    assert found == len(flow.calls) == depth
    assert sorted(time for times, _ in flow.calls for time in times) == [0, 4, 8, 12, 16]


@pytest.mark.parametrize("last", [15.0, 16.0])
def test_two_sided_with_a_known_last_frame_costs_no_more_and_is_shallower(last: float) -> None:
    gaps = [1.0, 2.0, 4.0, 8.0]
    nodes = two_sided_plan([0.0, last], [float(n) for n in range(16)], gaps, spacing=4)
    flow = arbitrary(0, [*(-gap for gap in gaps), *gaps])
    _, evaluations, depth = run(flow, nodes, random_state(0, 2, 2, 3))
    assert evaluations == 5
    assert depth == 3
    assert [sorted(times) for times, _ in flow.calls] == [[0.0, last], [8.0], [4.0, 12.0]]


@given(st.integers(1, 8))
def test_two_sided_evaluations_grow_with_the_frames_over_the_spacing(windows: int) -> None:
    nodes = two_sided_plan([0.0], [float(n) for n in range(16 * windows)], [1.0, 2.0, 4.0, 8.0], spacing=4)
    assert len({parent for node in nodes for parent in node.parents}) == 4 * windows + 1


def test_known_states_are_asked_with_their_flag_and_kept_as_they_are() -> None:
    known = random_state(0, 2, 3, 3)
    nodes = two_sided_plan([0.0, 0.8, 1.55], [0.0, 0.1, 0.8, 1.5, 1.55], FORWARD, spacing=4)
    flow = arbitrary(0, SIGNED)
    states, _, _ = run(flow, nodes, known, moving=[True, False, False])
    flags = dict(pair for times, moving in flow.calls for pair in zip(times, moving, strict=True))
    assert [flags.pop(time) for time in (0.0, 0.8, 1.55)] == [True, False, False]
    assert all(flags.values())
    assert torch.equal(at(nodes, states, [0.0, 0.8, 1.55]), known)


def test_nothing_is_evaluated_where_everything_is_known() -> None:
    known = random_state(0, 2, 2, 3)
    flow = arbitrary(0, SIGNED)
    states, evaluations, depth = run(flow, two_sided_plan([0.0, 1.0], [0.0, 1.0], FORWARD, spacing=4), known)
    assert torch.equal(states, known)
    assert (evaluations, depth, flow.calls) == (0, 0, [])


# P10


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_p10_seams_are_bounded_by_the_inconsistency_of_neighbouring_gaps(seed: int) -> None:
    gaps = [2.0**k for k in range(6)]
    flow = arbitrary(seed, gaps)
    times = [float(n) for n in range(64)]
    nodes = fenwick_plan(0.0, times, gaps)
    states, _, _ = run(flow, nodes, random_state(seed % 1000, 1, 1, 3))
    frames = at(nodes, states, times)[0]
    for n in range(63):
        seam = (frames[n + 1] - flow.jump(frames[n], 1.0)).norm()
        bound = 0.0
        for j in range(1, ((n + 1) & -(n + 1)).bit_length()):
            ancestor, half = frames[n + 1 - 2**j], 2.0 ** (j - 1)
            whole = flow.jump(ancestor, 2 * half) if 2 * half in gaps else None
            assert whole is not None
            bound += float((whole - flow.jump(flow.jump(ancestor, half), half)).norm())
        assert float(seam) <= bound + 1e-9
        assert n % 2 == 1 or float(seam) < 1e-12


@given(st.integers(0, 1000), st.integers(1, 5))
def test_fenwick_restarts_anywhere_on_the_tree(seed: int, power: int) -> None:
    gaps = [2.0**k for k in range(6)]
    flow = arbitrary(seed, gaps)
    whole = fenwick_plan(0.0, [float(n) for n in range(64)], gaps)
    states, _, _ = run(flow, whole, random_state(seed, 1, 1, 3))
    middle = 64 - 2**power
    later = [float(middle + n) for n in range(2**power)]
    part = fenwick_plan(float(middle), later, gaps)
    restarted, _, _ = run(flow, part, at(whole, states, [float(middle)]))
    assert torch.allclose(at(part, restarted, later), at(whole, states, later), atol=1e-12)


# P17


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_p17_equal_shares_at_midpoints_are_recursive_bisection(seed: int, depth: int) -> None:
    gaps = [0.1 * 2.0**k for k in range(depth)]
    flow = arbitrary(seed, [*(-gap for gap in reversed(gaps)), *gaps])
    known, ends = random_state(seed % 1000, 2, 2, 3), [0.3, 0.3 + 0.1 * 2**depth]
    times = [0.3 + 0.1 * n for n in range(1, 2**depth)]
    nodes = two_sided_plan(ends, times, gaps, spacing=1)
    states, _, found = run(flow, nodes, known, error=lambda step: 0.0)

    def midpoint(left: Tensor, right: Tensor, gap: Tensor, *_: Tensor) -> Tensor:
        (half,) = {min(gaps, key=lambda g: abs(g - value / 2)) for value in gap.tolist()}
        return (flow.jump(left, half) + flow.jump(right, -half)) / 2

    expected, _, levels = bisect(midpoint, ends, known, [True, True], times, options=Bisection())
    assert found == levels == depth
    assert torch.allclose(at(nodes, states, times), expected, atol=1e-9)


@given(st.floats(0.05, 0.75))
def test_p17_all_trust_moves_to_a_known_state_nearby(share: float) -> None:
    """Estimates with known errors: forward +e(h), backward -e(h), e(h) = h^2, so the average has a closed form."""
    time = 0.8 * share
    wrong = Flow(SIGNED, lambda times, states, gap: torch.full_like(states, gap**2))
    nodes = two_sided_plan([0.0, 0.8], [time], FORWARD, spacing=8)
    known = torch.tensor([[[0.0], [1.0]]], dtype=torch.float64)
    states, _, _ = run(wrong, nodes, known, error=lambda step: step**2)
    before, after = time, 0.8 - time
    precision = np.array([before**-4, after**-4])
    estimates = np.array([0.0 + before**2, 1.0 + after**2])
    assert float(at(nodes, states, [time])[0, 0, 0]) == pytest.approx(precision @ estimates / precision.sum())


# Between frames


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("kind", ["fenwick", "two-sided"])
def test_p2_times_between_frames_converge_at_the_order_of_interpolation(count: int, kind: str) -> None:
    start, shortest, errors = random_state(3, 1, 2), [0.08, 0.04, 0.02], []
    for first in shortest:
        forward = [first * 2**k for k in range(count)]
        time = 0.32 + first / 3
        both = [*(-gap for gap in reversed(forward)), *forward]
        if kind == "fenwick":
            flow, nodes = linear(DAMPED, forward), fenwick_plan(0.0, [time], forward)
        else:
            flow, nodes = linear(DAMPED, both), two_sided_plan([0.32], [time], forward, spacing=1)
        known = exact(DAMPED, start, [nodes[0].time])
        states, _, _ = run(flow, nodes, known)
        errors.append(float((at(nodes, states, [time]) - exact(DAMPED, start, [time])).norm()))
    slope = np.polyfit(np.log(shortest), np.log(errors), 1)[0]
    promised = count + 1 if kind == "fenwick" else 2 * count + 1
    assert slope == pytest.approx(promised, abs=0.3)


@given(st.integers(0, 100), st.sampled_from(["fenwick", "two-sided"]))
def test_a_sample_does_not_depend_on_its_batch(seed: int, kind: str) -> None:
    times = [0.0, 0.1, 0.25, 0.7, 1.3]
    gaps = FORWARD if kind == "fenwick" else SIGNED
    plan = fenwick_plan(0.0, times, FORWARD) if kind == "fenwick" else two_sided_plan([0.0], times, FORWARD, spacing=4)
    flow, known = arbitrary(seed, gaps), random_state(seed, 5, 1, 3)
    together, _, _ = run(flow, plan, known)
    for sample in range(5):
        alone, _, _ = run(flow, plan, known[sample : sample + 1])
        assert torch.allclose(alone[0], together[sample], rtol=1e-12, atol=1e-13)


def test_states_keep_their_precision_whatever_the_network_runs_in() -> None:
    third = Flow(FORWARD, lambda times, states, gap: torch.full_like(states, gap / 3))
    known = torch.full((1, 1, 3), 1.2345678)
    times = [0.1 * n for n in range(16)]
    nodes = fenwick_plan(0.0, times, FORWARD)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states, _, _ = run(third, nodes, known)
    assert states.dtype == torch.float32
    expected = 1.2345678 + torch.tensor(times) / 3
    assert torch.allclose(at(nodes, states, times), expected[None, :, None].expand(1, 16, 3), atol=1e-6)


def test_velocities_of_low_precision_are_taken_as_they_are() -> None:
    rough = Flow(FORWARD, lambda times, states, gap: torch.full_like(states, gap, dtype=torch.bfloat16))
    known = torch.full((1, 1, 3), 1.2345678)
    nodes = fenwick_plan(0.0, [0.1], FORWARD)
    states, _, _ = run(rough, nodes, known)
    assert states.dtype == torch.float32
    assert torch.allclose(at(nodes, states, [0.1]), known + 0.1, atol=1e-6)


def test_weights_and_errors_follow_the_flag_of_the_state_they_start_from() -> None:
    """A lone head of rate one, weighted 1 from a moving state and 2 from a still one, trusted 3 to 1."""
    flow = Flow((0.1,), lambda times, states, gap: torch.full_like(states, gap))
    nodes = [Node(0.0), Node(2.0), Node(1.0, (0, 1))]
    states, _, _ = integrate(
        flow,
        nodes,
        torch.zeros(1, 2, 1, dtype=torch.float64),
        [True, False],
        weights=lambda step, moving: np.array([1.0 if moving else 2.0]),
        error=lambda step, moving: 1.0 if moving else math.sqrt(3.0),
    )
    assert states[0, 2].item() == pytest.approx(0.75 * 1.0 + 0.25 * -2.0)


def test_p17_trust_falls_with_the_error_of_the_state_that_was_jumped_from() -> None:
    """0.8 is known, 0.4 lies between two known states, 0.2 between a known and that one; e(h)^2 = |h|."""
    rates = {0.0: 1.0, 0.8: 2.0, 0.4: 3.0}
    moves = torch.tensor(list(rates.values()), dtype=torch.float64)
    keys = torch.tensor(list(rates), dtype=torch.float64)

    def displacement(times: Tensor, states: Tensor, gap: float) -> Tensor:
        nearest = (times - keys).abs().argmin(dim=1)
        return gap * moves[nearest][:, None].expand_as(states)

    nodes = [Node(0.0), Node(0.8), Node(0.4, (0, 1)), Node(0.2, (0, 2))]
    known = torch.zeros(1, 2, 1, dtype=torch.float64)
    states, _, _ = run(Flow(SIGNED, displacement), nodes, known, error=lambda step: abs(step) ** 0.5)
    middle = (0.4 * 1.0 + -0.4 * 2.0) / 2
    precision = np.array([1 / 0.2, 1 / (0.2 + 0.4)])
    estimates = np.array([0.2 * 1.0, middle - 0.2 * 3.0])
    assert states[0, 2].item() == pytest.approx(middle)
    assert states[0, 3].item() == pytest.approx(precision @ estimates / precision.sum())


def test_gradients_reach_the_known_states_through_every_jump() -> None:
    known = random_state(0, 1, 1, 2).requires_grad_()
    nodes = fenwick_plan(0.0, [0.7], FORWARD)
    states, _, _ = run(linear(ROTATION, FORWARD), nodes, known)
    at(nodes, states, [0.7])[0, 0, 0].backward()
    assert torch.allclose(known.grad[0, 0], torch.linalg.matrix_exp(ROTATION * 0.7)[0])


def test_plans_refuse_times_before_the_start_and_gaps_that_are_not_dyadic() -> None:
    with pytest.raises(ValueError, match=r"from 1\.0 s on; got 0\.5 s"):
        fenwick_plan(1.0, [0.5, 2.0], FORWARD)
    with pytest.raises(ValueError, match=r"first known state on, 1\.0 s; got 0\.5 s"):
        two_sided_plan([1.0, 3.0], [0.5, 2.0], FORWARD, spacing=4)
    for gaps in ([0.1, 0.3], SIGNED):
        with pytest.raises(ValueError, match="powers of two"):
            fenwick_plan(0.0, [1.0], gaps)
