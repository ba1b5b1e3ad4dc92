"""P7, P8, P9 and P16 of the theory: what heads, jumps and Runge-Kutta on combined heads do, in closed form.

The other propositions stand beside the code they are about: P1 to P6 in test_weights, P9, P10 and P17 in test_jump, P11
and P12 in test_bisect, P13 in test_ddim.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import jvp

from flowvid.dynamics.weights import lagrange, one_hot, uniform
from flowvid.solve.flow_map import Jump
from flowvid.solve.grid import Grid
from flowvid.testing import ExactHeads, linear

DYADIC = (0.05, 0.1, 0.2, 0.4)


def rotation(angle: float) -> Tensor:
    return torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)


def head_drift(omega: float, weights: np.ndarray, gaps: tuple[float, ...]) -> Tensor:
    """The matrix of the drift that perfect heads of a rotation make under fixed weights."""
    heads = torch.stack([(rotation(omega * gap) - torch.eye(2, dtype=torch.float64)) / gap for gap in gaps])
    return torch.einsum("k,kij->ij", torch.tensor(weights), heads)


@given(st.floats(0.1, 3.0), st.sampled_from(DYADIC))
def test_p7_a_long_head_as_a_drift_slows_and_fades_motion(omega: float, gap: float) -> None:
    """Speed falls by sin(w d) / (w d), amplitude at the rate (1 - cos w d) / d, about w^2 d / 2."""
    matrix = head_drift(omega, one_hot((gap,), gap), (gap,))
    start, duration = torch.tensor([[1.0, 0.0]], dtype=torch.float64), 1.5
    end = Grid(method="rk4", substeps=400).solve(lambda t, z: z @ matrix.T, start, [0.0, duration]).trajectory.states
    x, y = end[0, -1].tolist()
    turned = duration * math.sin(omega * gap) / gap
    assert math.remainder(math.atan2(y, x) - turned, 2 * math.pi) == pytest.approx(0, abs=1e-7)
    assert math.hypot(x, y) == pytest.approx(math.exp(-duration * (1 - math.cos(omega * gap)) / gap), rel=1e-7)


def test_p7_richardson_repairs_the_drift_jumps_need_no_repair_and_uniform_weights_do_not() -> None:
    """A quarter turn and more by perfect heads: RK4 on w(0), RK4 on uniform weights, and two jumps."""
    field, times = linear(((0.0, -2.0), (2.0, 0.0))), [0.0, 0.8]
    start = field.states(3)
    truth = field.flow(start, 0.0, 0.8)

    def error(weights: np.ndarray) -> float:
        matrix = head_drift(2.0, weights, DYADIC)
        solved = Grid(method="rk4", substeps=64).solve(lambda t, z: z @ matrix.T, start, times)
        return float((solved.trajectory.states[:, -1].norm(dim=1) - start.norm(dim=1)).abs().max())

    assert error(lagrange(DYADIC, 0.0)) < 1e-3 < 0.05 < error(uniform(DYADIC))
    jumped = Jump().solve(ExactHeads(field, DYADIC), start, times)
    assert jumped.evaluations == 2
    assert torch.allclose(jumped.trajectory.states[:, -1], truth, atol=1e-12)


@given(st.integers(0, 10**6), st.floats(0.01, 1.0), st.sampled_from([1, 2, math.inf]))
def test_p7_short_euler_steps_on_a_long_head_expand_in_no_norm_in_which_the_flow_does_not(
    seed: int, share: float, norm: float
) -> None:
    """A step h on the head of gap d is (1 - h/d) I + (h/d) Phi: a convex combination, however stiff Phi is."""
    flow = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    flow = flow / torch.linalg.matrix_norm(flow, norm)
    head = (flow - torch.eye(4, dtype=torch.float64)) / 0.3
    step = torch.eye(4, dtype=torch.float64) + share * 0.3 * head
    assert torch.linalg.matrix_norm(step, norm) <= 1 + 1e-12


@given(st.floats(-1e4, 0.0), st.integers(1, 6))
def test_p7_richardson_of_a_decay_is_a_decay_no_faster_than_the_gaps_allow(rate: float, count: int) -> None:
    gaps = tuple(0.1 * 2**k for k in range(count))
    weights = lagrange(gaps, 0.0)
    combined = sum(w * math.expm1(rate * gap) / gap for w, gap in zip(weights, gaps, strict=True))
    assert -min(-rate, sum(1 / gap for gap in gaps)) * (1 + 1e-9) - 1e-9 <= combined <= 1e-9


# P8: identities of average velocities, on dz/dt = cos(t) z, whose flow is z exp(sin(t + d) - sin t).


def average(z: Tensor, time: Tensor, gap: Tensor) -> Tensor:
    return z * torch.expm1(torch.sin(time + gap) - torch.sin(time)) / gap


def velocity(z: Tensor, time: Tensor) -> Tensor:
    return torch.cos(time) * z


def scalars(low: float, high: float) -> st.SearchStrategy[Tensor]:
    return st.floats(low, high).map(lambda value: torch.tensor(value, dtype=torch.float64))


POINTS = st.tuples(scalars(-2.0, 2.0), scalars(-3.0, 3.0), scalars(0.05, 2.0))


@given(POINTS, st.floats(0.05, 2.0))
def test_p8_average_velocities_form_a_semigroup(point: tuple[Tensor, Tensor, Tensor], more: float) -> None:
    z, time, gap = point
    there = z + gap * average(z, time, gap)
    second = more * average(there, time + gap, torch.tensor(more, dtype=torch.float64))
    assert torch.isclose((gap + more) * average(z, time, gap + more), there - z + second, rtol=1e-10, atol=1e-12)


@given(POINTS)
def test_p8_lagrangian_identity(point: tuple[Tensor, Tensor, Tensor]) -> None:
    """u + d du/dd is the velocity at the far end."""
    z, time, gap = point
    u, slope = jvp(lambda d: average(z, time, d), (gap,), (torch.ones_like(gap),))
    assert torch.isclose(u + gap * slope, velocity(z + gap * u, time + gap), rtol=1e-8, atol=1e-9)


@given(POINTS)
def test_p8_eulerian_identity(point: tuple[Tensor, Tensor, Tensor]) -> None:
    """u = v + d (du/dt + (du/dz) v - du/dd): MeanFlow's, read forward in time."""
    z, time, gap = point
    one, here = torch.ones_like(gap), velocity(z, time)
    u, along = jvp(average, (z, time, gap), (here, one, -one))
    assert torch.isclose(u, here + gap * along, rtol=1e-8, atol=1e-9)


@given(st.integers(1, 63), st.lists(st.floats(-1.0, 1.0), min_size=6, max_size=6))
def test_p9_on_the_tree_a_frame_carries_one_error_per_binary_digit(frame: int, errors: list[float]) -> None:
    """Uniform motion with heads whose displacements are off by e_k: frame n is off by the e_k of its bits."""
    gaps = tuple(0.1 * 2**k for k in range(6))

    class Off:
        def __init__(self) -> None:
            self.gaps = gaps

        def rates(self, times: object, states: Tensor, moving: object) -> Tensor:
            off = [1 + error / gap for error, gap in zip(errors, gaps, strict=True)]
            rates = torch.tensor(off, dtype=torch.float64)
            return rates.reshape(-1, 1).expand(*states.shape[:2], -1, states.shape[2])

    start = torch.zeros(1, 1, dtype=torch.float64)
    end = Jump().solve(Off(), start, [0.0, 0.1 * frame]).trajectory.states[0, -1, 0].item()
    carried = sum(error for k, error in enumerate(errors) if frame >> k & 1)
    assert end - 0.1 * frame == pytest.approx(carried, abs=1e-9)


# P16: noise on the input is a restoring force.


@given(st.floats(-4.0, 4.0), st.floats(0.1, 1.0), st.sampled_from(DYADIC))
def test_p16_the_optimal_head_under_input_noise_adds_the_score(noisy: float, sigma: float, gap: float) -> None:
    """E[(z' - x) / d | x = z + sigma eta] = E[U | x] + (sigma^2 / d) d/dx log p_sigma(x), for three points as data."""
    points = torch.tensor([-1.5, 0.2, 1.0], dtype=torch.float64)
    share = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
    later = torch.cos(3 * points)

    def log_density(x: Tensor) -> Tensor:
        return torch.logsumexp(share.log() - (x - points) ** 2 / (2 * sigma**2), dim=0)

    x = torch.tensor(noisy, dtype=torch.float64, requires_grad=True)
    (score,) = torch.autograd.grad(log_density(x), x)
    posterior = torch.softmax(share.log() - (noisy - points) ** 2 / (2 * sigma**2), dim=0)
    optimum = (posterior * (later - noisy) / gap).sum()
    transport = (posterior * (later - points) / gap).sum()
    assert torch.isclose(optimum, transport + sigma**2 / gap * score, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("share", "settles"), [(1.3, True), (1.5, False)])
def test_p16_under_richardson_the_restoring_force_limits_rk4_to_1_4_shortest_gaps(share: float, settles: bool) -> None:
    """Heads that put a still point back are -z / gap_k; combined they pull at sum 1 / gap_k, nearly 2 / gap_1."""
    gaps = tuple(0.1 * 2**k for k in range(8))
    rate = float(np.dot(lagrange(gaps, 0.0), [-1 / gap for gap in gaps]))
    assert rate == pytest.approx(-sum(1 / gap for gap in gaps))
    steps = 200
    start = torch.ones(1, 1, dtype=torch.float64)
    solver = Grid(method="rk4", substeps=steps)
    end = solver.solve(lambda t, z: rate * z, start, [0.0, steps * share * 0.1]).trajectory.states[0, -1].item()
    assert (abs(end) < 1) == settles
