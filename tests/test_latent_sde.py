"""Latent stochastic equations: likelihoods and estimates in closed form, laws of paths and bridges, contract."""

import copy
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from flowvid.dynamics.stochastic import kinetic, kinetic_bridge
from flowvid.models.latent_sde import KINDS, LatentSde
from flowvid.noise import Noise
from flowvid.solve.sde_grid import StochasticGrid
from flowvid.solvers import solver_methods
from flowvid.video import Condition, Trajectory

H, CHANNELS, SIDE = 0.125, 2, 3
STRENGTHS = torch.tensor([0.7, 1.9], dtype=torch.float64)


class Linear(nn.Module):
    """In place of a trunk: every output channel is a combination of the input channels and a constant."""

    def __init__(self, weight: Sequence[Sequence[float]], bias: Sequence[float] | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
        self.bias = torch.tensor(bias or [0.0] * len(weight), dtype=torch.float64)

    def forward(self, grid: Tensor, scalars: Tensor) -> Tensor:
        return torch.einsum("oc,bchw->bohw", self.weight, grid) + self.bias[:, None, None]


def build(kind: str = "kinetic", *, channels: int = CHANNELS, lagged: bool = False, steps: int = 4) -> LatentSde:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LatentSde(channels, frame=H, kind=kind, width=8, parameters=15_000, lagged=lagged, steps=steps)
    return model.double()


def simulated(rate: Sequence[Sequence[float]], strengths: Tensor, *, batch: int, frames: int, start: Tensor) -> Tensor:
    """Exact samples of ds = rate s dt + noise on the last entry of s, [batch frame entry channel], by Van Loan."""
    a = torch.tensor(rate, dtype=torch.float64)
    size = len(a)
    noise = torch.zeros_like(a)
    noise[-1, -1] = 1.0
    block = torch.cat((torch.cat((-a, noise), dim=1), torch.cat((torch.zeros_like(a), a.T), dim=1)))
    power = torch.linalg.matrix_exp(block * H)
    step = power[size:, size:].T
    root = torch.linalg.cholesky(step @ power[:size, size:])
    states, xi = [start], Noise.batch(11, batch).normal("path", frames, size, len(strengths), dtype=torch.float64)
    for number in range(frames - 1):
        states.append(step @ states[-1] + root @ xi[:, number] * strengths)
    return torch.stack(states, dim=1)


def kinetic_clips(
    *, feedback: float = 0.0, strengths: Tensor = STRENGTHS, batch: int = 3000, frames: int = 6
) -> Trajectory:
    """dz = p dt, dp = -feedback p dt + g dW, from the stationary law of p where there is one."""
    p = Noise.batch(1, batch).normal("p", len(strengths), dtype=torch.float64)
    p = p * strengths / math.sqrt(2 * feedback) if feedback else p
    start = torch.stack((torch.zeros_like(p), p), dim=1)
    paths = simulated([[0, 1], [0, -feedback]], strengths, batch=batch, frames=frames, start=start)
    return as_clips(paths[:, :, 0])


def white_clips(*, strengths: Tensor = STRENGTHS, batch: int = 3000, frames: int = 6) -> Trajectory:
    start = Noise.batch(1, batch).normal("z", 1, len(strengths), dtype=torch.float64)
    return as_clips(simulated([[0.0]], strengths, batch=batch, frames=frames, start=start)[:, :, 0])


def as_clips(values: Tensor) -> Trajectory:
    times = H * (torch.arange(values.shape[1], dtype=torch.float64) - 1)
    return Trajectory(values[..., None, None], times)


def clips(batch: int = 6, frames: int = 14) -> Trajectory:
    """Noisy oscillations."""
    times = H * (torch.arange(frames, dtype=torch.float64) - 1)
    draw = Noise.batch(3, batch)
    turn = draw.uniform("phase", 1, CHANNELS, SIDE, SIDE, dtype=torch.float64) * 2 * math.pi
    jitter = 0.02 * draw.normal("jitter", frames, CHANNELS, SIDE, SIDE, dtype=torch.float64)
    return Trajectory(torch.cos(2 * times[:, None, None, None] + turn) + jitter, times)


@cache
def stirred(kind: str) -> LatentSde:
    """A model whose parameters are all random."""
    model, generator = build(kind), torch.Generator().manual_seed(1)
    model.prepare(clips())
    for parameter in model.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    model.requires_grad_(False)
    model.finish(clips())
    return model


def paths(model: LatentSde, known: Trajectory, times: Sequence[float], solver: str | None = None) -> Tensor:
    return model.sample(Condition(known), times, Noise.of(range(len(known))), solver=solver).trajectory.states


def without_drift(model: LatentSde) -> Linear:
    """What its untrained network says, in less time."""
    return Linear(
        [[0.0] * (2 if model.kinetic else 3) * model.channels] * (2 if model.kind == "neural" else 1) * model.channels
    )


def still(*, strength: float | Tensor, kind: str = "kinetic", steps: int = 4) -> LatentSde:
    """A model without drift (its network is untrained) and with a given volatility."""
    model = build(kind, steps=steps)
    model.volatility.copy_(torch.as_tensor(strength, dtype=torch.float64).expand(CHANNELS))
    model.trunk = without_drift(model)
    return model.requires_grad_(False)


# Estimates


def test_the_volatility_of_a_kinetic_equation_is_found_although_its_velocity_is_not_seen() -> None:
    """Taking increments of backward differences for increments of p would find sqrt(2/3) g."""
    trajectory = kinetic_clips()
    model = build()
    model.trunk = without_drift(model)
    model.prepare(trajectory)
    model.finish(trajectory)
    increments = trajectory.states.diff(n=2, dim=1) / H
    count = increments[:, :, 0].numel()
    error = 5 * math.sqrt(2 * (1 + 2 / 16) / count) / 2
    torch.testing.assert_close(model.volatility, STRENGTHS, rtol=error, atol=0)
    naive = (increments.square().mean(dim=(0, 1, 3, 4)) / H).sqrt()
    torch.testing.assert_close(naive, math.sqrt(2 / 3) * STRENGTHS, rtol=error, atol=0)
    neighbours = (increments[:, 1:] * increments[:, :-1]).mean() / increments.square().mean()
    assert neighbours.item() == pytest.approx(1 / 4, abs=5 / math.sqrt(count))


@pytest.mark.parametrize("kind", ["first-order", "neural"])
def test_the_volatility_of_a_first_order_equation_is_that_of_its_increments(kind: str) -> None:
    trajectory = white_clips()
    model = build(kind)
    model.trunk = without_drift(model)
    model.prepare(trajectory)
    model.finish(trajectory)
    count = trajectory.states[:, 1:-1, 0].numel()
    torch.testing.assert_close(model.volatility, STRENGTHS, rtol=5 * math.sqrt(1 / (2 * count)), atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_finishing_twice_is_finishing_once_and_training_does_not_move_the_volatility(kind: str) -> None:
    model = stirred(kind)
    before = model.volatility.clone()
    model.loss(clips(), Noise.batch(0, 6))
    model.finish(clips())
    torch.testing.assert_close(model.volatility, before, rtol=1e-9, atol=0)


def slope(trajectory: Trajectory, *, lagged: bool) -> float:
    """The feedback -k that minimises the loss, whose exponential is a parabola in it."""
    model = build(channels=1, lagged=lagged)
    model.prepare(trajectory)
    unit = float(model.drift_scale / model.velocity_scale)
    errors = []
    for feedback in (-1.0, 0.0, 1.0):
        model.trunk = Linear([[0.0, feedback / unit]])
        errors.append(math.exp(2 * model.loss(trajectory, Noise.batch(0, len(trajectory))).item()))
    low, middle, high = errors
    return (low - high) / (2 * (low - 2 * middle + high))


@pytest.mark.parametrize("lagged", [False, True])
def test_feedback_found_from_backward_differences_has_its_closed_form(lagged: bool) -> None:
    """Cov(q_i, q_i+n) of the averages q of an Ornstein-Uhlenbeck velocity; a third is lost unless they lag behind."""
    feedback, count = 0.8, 40_000
    trajectory = kinetic_clips(feedback=feedback, strengths=torch.ones(1, dtype=torch.float64), batch=count)
    a = feedback * H
    variance = 2 * (a - 1 + math.exp(-a)) / a**2
    apart = [((1 - math.exp(-a)) / a) ** 2 * math.exp(-a * n) for n in range(2)]
    expected = ((apart[1] - apart[0]) if lagged else (apart[0] - variance)) / variance / H
    assert expected / -feedback == pytest.approx(0.9 if lagged else 2 / 3, abs=0.06)
    error = math.sqrt(4 * feedback / (3 * count * H))
    assert slope(trajectory, lagged=lagged) == pytest.approx(expected, abs=5 * error)


def test_the_loss_of_a_neural_equation_is_the_likelihood_of_a_step() -> None:
    trajectory = Trajectory(clips().states[:, :3], clips().times[:3])
    model = build("neural")
    model.prepare(trajectory)
    mixing = [[0.3, -0.2, 0.1, 0.0, 0.4, 0.5], [0.1, 0.2, 0.0, -0.3, 0.0, 0.2]]
    logs = [[0.2, 0.0, 0.0, 0.1, 0.0, -0.3], [0.0, -0.1, 0.3, 0.0, 0.1, 0.0]]
    model.trunk = Linear([*mixing, *logs], [0.1, 0.2, -0.4, 9.0])
    before, now, after = trajectory.states.unbind(dim=1)
    velocity = (now - before) / H
    with torch.no_grad():
        rate, volatility = model.coefficients(now, torch.cat((now, velocity), dim=1))
    unit = model.volatility[:, None, None] * math.sqrt(H)
    surprise = -Normal(now + H * rate, volatility * math.sqrt(H)).log_prob(after) - (math.tau**0.5 * unit).log()
    assert model.loss(trajectory, Noise.batch(0, 6)).item() == pytest.approx(surprise.mean().item(), rel=1e-9)
    said = torch.einsum("oc,bchw->bohw", torch.tensor(mixing, dtype=torch.float64), told(model, now, now, velocity))
    torch.testing.assert_close(
        rate, (said + torch.tensor([0.1, 0.2])[:, None, None]) * model.drift_scale[:, None, None]
    )
    ratio = volatility / model.volatility[:, None, None]
    assert math.exp(2.9) < float(ratio[:, 1].max()) < math.exp(3)


def told(model: LatentSde, *latents: Tensor) -> Tensor:
    *rest, velocity = latents
    return torch.cat((*rest, velocity / model.velocity_scale[:, None, None]), dim=1)


@pytest.mark.parametrize(("kind", "share"), [("kinetic", 2 / 3), ("first-order", 1.0)])
def test_the_loss_of_a_constant_volatility_is_the_best_likelihood_over_it(kind: str, share: float) -> None:
    trajectory = Trajectory(clips().states[:, :3], clips().times[:3])
    model = build(kind)
    model.prepare(trajectory)
    inputs = 2 if kind == "kinetic" else 3
    model.trunk = Linear([[0.1] * (inputs * CHANNELS), [-0.2] * (inputs * CHANNELS)])
    before, now, after = trajectory.states.unbind(dim=1)
    velocity = (now - before) / H
    given = (torch.cat((now, velocity), dim=1), None) if inputs == 2 else (now, torch.cat((now, velocity), dim=1))
    with torch.no_grad():
        rate, _ = model.coefficients(*given)
    residual = ((after - now) / H - velocity if inputs == 2 else after - now) - H * rate
    best = 0.0
    for channel, unit in enumerate(model.volatility.tolist()):
        strengths = unit * torch.linspace(0.2, 2, 4001, dtype=torch.float64)
        spread = strengths * math.sqrt(share * H)
        surprise = -Normal(0.0, spread[:, None]).log_prob(residual[:, channel].reshape(1, -1)).mean(dim=1)
        best += float(surprise.min()) - math.log(unit * math.sqrt(math.tau * math.e * share * H))
    assert model.loss(trajectory, Noise.batch(0, 6)).item() == pytest.approx(best / CHANNELS, abs=2e-6)


def test_lagged_training_asks_at_the_state_that_uniform_motion_foretells() -> None:
    """A world at rest until a single jump in the last of four frames."""
    states = torch.randn(5, 4, CHANNELS, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = build(lagged=True)
    trajectory = Trajectory(states, clips().times[:4])
    model.prepare(trajectory)
    seen: list[Tensor] = []
    model.trunk.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    model.loss(trajectory, Noise.batch(0, 5))
    velocity = (states[:, 1] - states[:, 0]) / H
    torch.testing.assert_close(seen[0], told(model, states[:, 1] + H * velocity, velocity))


# Laws of paths


@pytest.mark.parametrize(("kind", "expected"), [("kinetic", 2 / 3 * H**3), ("first-order", 2 * H), ("neural", 2 * H)])
def test_paths_go_on_from_known_frames_with_the_flicker_of_their_equation(kind: str, expected: float) -> None:
    """Second differences of samples, of the kinetic kind also those that reach back into the known frames."""
    batch, strength = 400, 0.8
    model = still(strength=strength, kind=kind)
    known = Trajectory(clips(batch).states[:, :2], clips().times[:2])
    found = paths(model, known, [H, 2 * H, 3 * H], "heun-16" if kind != "neural" else None)
    whole = torch.cat((known.states, found), dim=1)
    second = whole.diff(n=2, dim=1)[:, 0 if kind == "kinetic" else 1 :]
    for number in range(second.shape[1]):
        error = 5 * math.sqrt(2 / second[:, number].numel()) + 0.01
        assert second[:, number].square().mean().item() == pytest.approx(strength**2 * expected, rel=error)
    correlation = (second[:, 1:] * second[:, :-1]).mean() / second.square().mean()
    assert correlation.item() == pytest.approx(1 / 4 if kind == "kinetic" else -1 / 2, abs=0.04)


def test_the_velocity_at_the_start_is_half_a_frame_ahead_of_the_average() -> None:
    """Without noise, under constant acceleration a: p(0) = q + a h / 2, and the path is a parabola."""
    model = still(strength=0.0)
    model.trunk = Linear([[0.0] * 4, [0.0] * 4], [3.0, -2.0])
    times = torch.tensor([-H, 0.0, 0.3, 1.0], dtype=torch.float64)
    parabola = (
        (torch.tensor([3.0, -2.0])[:, None] * times.square() / 2).T[None, :, :, None, None].expand(2, -1, -1, 1, 1)
    )
    known = Trajectory(parabola[:, :2], times[:2])
    torch.testing.assert_close(paths(model, known, [0.3, 1.0], "heun"), parabola[:, 2:].contiguous())


def gaussian_bridge(state: tuple[float, float], end: float, time: float, at: float, g: float) -> tuple[float, ...]:
    """Mean and variance of z(at), and of p(time), given z(time): integrated Brownian motion, conditioned."""
    z, p = state
    cross = g**2 * (at**2 * time / 2 - at**3 / 6)
    total = g**2 * time**3 / 3
    miss = end - z - p * time
    at_end = g**2 * time**2 / 2
    return (
        z + p * at + cross / total * miss,
        g**2 * at**3 / 3 - cross**2 / total,
        p + at_end / total * miss,
        g**2 * time - at_end**2 / total,
    )


@pytest.mark.parametrize("uneven", [False, True])
def test_a_kinetic_bridge_has_the_law_of_integrated_brownian_motion_given_its_end(uneven: bool) -> None:
    """Also where a very short step comes last."""
    batch, g, time, end = 3000, 0.9, 1.5, -1.0
    free = kinetic(lambda t, s: torch.cat((s[:, 1:], torch.zeros_like(s[:, 1:])), dim=1), g)
    state = torch.tensor([[0.5, 2.0]], dtype=torch.float64).repeat(batch, 1)
    grid = [time * number / 48 for number in range(49)]
    grid = [*grid[:-1], time - 1e-3, time] if uneven else grid
    pinned = kinetic_bridge(free, torch.full((batch, 1), end, dtype=torch.float64), grid)
    states = StochasticGrid().solve(pinned, state, grid, Noise.batch(0, batch)).trajectory.states
    torch.testing.assert_close(states[:, -1, 0], torch.full((batch,), end, dtype=torch.float64), rtol=0, atol=1e-9)
    *middle, mean, variance = gaussian_bridge((0.5, 2.0), end, time, grid[24], g)
    for values, expected, spread in ((states[:, -1, 1], mean, variance), (states[:, 24, 0], *middle)):
        assert values.mean().item() == pytest.approx(expected, abs=5 * math.sqrt(spread / batch) + 0.06)
        assert values.var().item() == pytest.approx(spread, rel=5 * math.sqrt(2 / batch) + 0.05)


def test_a_kinetic_bridge_is_the_euler_chain_given_its_end() -> None:
    """Mean and variance of the first velocity against those of the chain's joint law, on an uneven grid."""
    g, grid, end = 0.7, [0.0, 0.2, 0.3, 0.7, 1.0], 2.0
    state = torch.tensor([[0.4, -1.0]], dtype=torch.float64)
    free = kinetic(lambda t, s: torch.cat((s[:, 1:], torch.zeros_like(s[:, 1:])), dim=1), g)
    pinned = kinetic_bridge(free, torch.full((1, 1), end, dtype=torch.float64), grid)
    loading = [0.8, 0.7, 0.3, 0.0]
    total = sum(g**2 * h * w**2 for h, w in zip([0.2, 0.1, 0.4, 0.3], loading, strict=True))
    miss = end - 0.4 + 1.0
    rate, strength = pinned.drift(0.0, state), pinned.volatility(0.0, state)
    assert rate.tolist()[0] == pytest.approx([-1.0, g**2 * 0.2 * 0.8 / total * miss / 0.2])
    assert strength.square().tolist()[0] == pytest.approx([0.0, g**2 - (g**2 * 0.8) ** 2 * 0.2 / total])
    assert pinned.volatility(0.3, state).tolist() == [[0.0, 0.0]]
    assert pinned.volatility(0.7, state).tolist() == [[0.0, pytest.approx(g)]]


def test_a_kinetic_bridge_lands_whatever_the_drift_of_the_velocity() -> None:
    wild = kinetic(lambda t, s: torch.cat((s[:, 1:], 9 * torch.sin(5 * s[:, :1]) - s[:, 1:]), dim=1), 0.4)
    grid, end = [0.0, 0.1, 0.2, 0.35, 0.4, 0.5, 0.5001], torch.full((5, 1), 0.3, dtype=torch.float64)
    pinned = kinetic_bridge(wild, end, grid)
    states = StochasticGrid().solve(pinned, torch.ones(5, 2).double(), grid, Noise.batch(0, 5)).trajectory.states
    torch.testing.assert_close(states[:, -1, :1], end, rtol=0, atol=1e-9)
    assert float(states[:, -1, 1].abs().max()) < 30
    assert float((pinned.drift(0.0, states[:, 0])[:, 1] - pinned.drift(0.35, states[:, 0])[:, 1]).abs().min()) > 1


def test_a_kinetic_bridge_refuses_what_it_cannot_pin() -> None:
    free, end = kinetic(lambda t, s: s, 1.0), torch.zeros(1, 1)
    with pytest.raises(ValueError, match=r"needs two steps.*\[0.0, 1.0\]"):
        kinetic_bridge(free, end, [0.0, 1.0])
    with pytest.raises(ValueError, match="sense of Ito"):
        kinetic_bridge(kinetic(lambda t, s: s, 1.0, calculus="stratonovich"), end, [0.0, 0.5, 1.0])
    for time in (0.25, 1.0):
        with pytest.raises(ValueError, match=f"steps it was made for; got {time} s"):
            kinetic_bridge(free, end, [0.0, 0.5, 1.0]).drift(time, torch.zeros(1, 2))


@pytest.mark.parametrize("kind", ["kinetic", "first-order"])
def test_where_the_equation_foretells_the_end_the_bridge_adds_nothing(kind: str) -> None:
    """An oscillator without noise; the state it reaches is then told beforehand."""
    model = still(strength=0.0, kind=kind)
    inputs = 2 if kind == "kinetic" else 3
    model.trunk = Linear([[-4.0] + [0.0] * (inputs * CHANNELS - 1), [0.0, -9.0] + [0.0] * (inputs * CHANNELS - 2)])
    known, times = clips().at(-H, 0.0), [0.2, 0.45, 0.8, 1.0]
    free = paths(model, known, times)
    told_end = Trajectory(torch.cat((known.states, free[:, -1:]), dim=1), torch.tensor([-H, 0.0, 1.0]).double())
    torch.testing.assert_close(paths(model, told_end, times), free)


@pytest.mark.parametrize("kind", KINDS)
def test_between_known_frames_deviations_shrink_towards_both(kind: str) -> None:
    """Of samples with the same ends and without drift: variances of a bridge, g^2 t (T - t) / T for z."""
    batch, time = 250, 8 * H
    model = still(strength=0.5, kind=kind, steps=8)
    known = Trajectory(torch.zeros(batch, 3, CHANNELS, SIDE, SIDE).double(), torch.tensor([-H, 0.0, time]).double())
    times = [H, 4 * H, 7 * H]
    variances = paths(model, known, times).square().mean(dim=(0, 2, 3, 4)).tolist()
    if kind != "kinetic":
        expected = [0.25 * t * (time - t) / time for t in times]
    else:
        expected = [kinetic_variance(t, time, 0.5) for t in times]
    assert variances == pytest.approx(expected, rel=5 * math.sqrt(2 / (batch * CHANNELS * SIDE**2)) + 0.06)


def kinetic_variance(at: float, time: float, g: float) -> float:
    """Of z(at) given z(0) = z(T) = 0, where p(0) is normal with variance g^2 h / 3."""
    lead = g**2 * H / 3

    def covariance(s: float, t: float) -> float:
        return g**2 * (s**2 * t / 2 - s**3 / 6) + lead * s * t

    return covariance(at, at) - covariance(at, time) ** 2 / covariance(time, time)


# Paths, steps and times


@pytest.mark.parametrize("kind", KINDS)
def test_more_steps_follow_the_same_path(kind: str) -> None:
    known = clips(2).at(-H, 0.0)
    finest = paths(stirred(kind), known, [0.3, 0.5], "euler-maruyama-32")
    errors = [
        float((paths(stirred(kind), known, [0.3, 0.5], f"euler-maruyama-{n}") - finest).square().mean().sqrt())
        for n in (1, 3, 9)
    ]
    assert errors[0] > 1.8 * errors[1] > 3.24 * errors[2] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_path_does_not_depend_on_what_else_is_asked(kind: str) -> None:
    known, times = clips().at(-H, 0.0), [2 * H, 3.25 * H]
    alone = paths(stirred(kind), known, times)
    among = paths(stirred(kind), known, [H, 2 * H, 3 * H, 3.25 * H, 9 * H])
    torch.testing.assert_close(among[:, [1, 3]], alone)
    other = paths(stirred(kind), known, [0.1234, *times])
    assert 0 < float((other[:, 1:] - alone).abs().max()) < 0.3 * float(alone.std())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [(-H, 0.0), (-H, 0.0, 1.0), (-H, 0.0, 0.5, 0.5 + H, 1.0, 1.5)])
def test_evaluations_are_counted_and_the_depth_is_their_longest_chain(kind: str, given: tuple[float, ...]) -> None:
    model, calls = stirred(kind), []
    hook = model.trunk.register_forward_hook(lambda *_: calls.append(1))
    solution = model.sample(Condition(clips().at(*given)), [0.25, 0.7, 1.25, 1.75], Noise.batch(0, 6))
    hook.remove()
    assert solution.evaluations == len(calls)
    assert solution.accepted > 0
    if len(given) == 2:
        assert solution.depth == solution.evaluations == 14 * 4 + 1 + (kind == "kinetic")
    elif kind == "kinetic":
        assert solution.depth == solution.evaluations - (0 if len(given) == 3 else 1 + 16 + 14)
    else:
        assert solution.evaluations > solution.depth


@pytest.mark.parametrize("kind", KINDS)
def test_every_named_solver_samples(kind: str) -> None:
    model, known = stirred(kind), clips(2).at(-H, 0.0)
    names = [name for name in model.solvers if not name.endswith("-N")]
    assert {f"{name}-N" for name in names} == {name for name in model.solvers if name.endswith("-N")}
    assert {solver_methods()[name].source for name in names} == {"flowvid", "torchsde"}
    assert all(solver_methods()[name].family == "sde" for name in names)
    assert ("heun" in names) == (kind != "neural")
    found = {name: paths(model, known, [0.2, 0.25], f"{name}-4") for name in names}
    torch.testing.assert_close(found["torchsde:euler"], found["euler-maruyama"])
    torch.testing.assert_close(found["torchsde:milstein"], found["milstein"], rtol=0.02, atol=0.02)
    spread = found["euler-maruyama"].std().item()
    for name, states in found.items():
        assert bool(states.isfinite().all())
        if name != "srk":
            assert float((states - found["euler-maruyama"]).abs().max()) < 0.3 * spread


# What every model keeps to

CONTEXT, FILL, KEYS = (-H, 0.0), (-H, 0.0, 1.0), (-H, 0.0, 0.5, 1.0, 1.0 + H)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [CONTEXT, FILL, KEYS, (-H, 0.0, H)])
def test_samples_have_the_requested_times_and_known_frames_as_they_were(kind: str, given: tuple[float, ...]) -> None:
    known = clips().at(*given)
    times = [0.0, 0.1, 0.5, 0.7234, 1.0, 1.5]
    found = stirred(kind).sample(Condition(known), times, Noise.batch(0, 6)).trajectory
    assert found.times.tolist() == times
    assert found.states.shape == (6, 6, CHANNELS, SIDE, SIDE)
    assert bool(found.states.isfinite().all())
    shared = [time for time in times if time in given]
    assert torch.equal(found.at(*shared).states, known.at(*shared).states)


@pytest.mark.parametrize("kind", KINDS)
def test_known_ends_are_met_without_a_jump(kind: str) -> None:
    known, near = clips().at(*KEYS), 0.01
    times = sorted(time + side * near for time in (0.5, 1.0) for side in (-1, 1))
    found = paths(stirred(kind), known, times)
    around = known.at(0.5, 1.0).states.repeat_interleave(2, dim=1)
    coarse = paths(stirred(kind), known, [0.4, 0.6, 0.9, 1.1])
    assert float((found - around).square().mean()) < 0.35 * float((coarse - around).square().mean())
    assert float((found - around).abs().max()) < 0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [CONTEXT, KEYS])
def test_a_sample_depends_on_its_seed_and_its_own_frames_alone(kind: str, given: tuple[float, ...]) -> None:
    known, times = clips().at(*given), [0.3, 0.8, 1.4]
    whole = stirred(kind).sample(Condition(known), times, Noise.of([5, 6, 7, 8, 9, 5])).trajectory.states
    alone = Trajectory(known.states[2:3], known.times)
    again = stirred(kind).sample(Condition(alone), times, Noise.of([7])).trajectory.states
    torch.testing.assert_close(again, whole[2:3])
    other = stirred(kind).sample(Condition(alone), times, Noise.of([8])).trajectory.states
    assert float((other - again).abs().min(dim=-1)[0].max()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_losses_fall(kind: str) -> None:
    trajectory = Trajectory(clips(16).states.float(), clips().times)
    model = build(kind).float()
    model.prepare(trajectory)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for step in range(60):
        loss = model.loss(trajectory, Noise.batch(step, 16))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < sum(losses[:10]) - 0.5


def test_a_neural_equation_learns_where_it_is_noisy() -> None:
    """Volatility 0.5 where the picture is dark and 2 where it is bright."""
    bright = (torch.arange(64) % 2).double()[:, None, None]
    start = 4 * bright - 2
    noise = Noise.batch(0, 64).normal("walk", 8, CHANNELS, dtype=torch.float64)
    steps = torch.cat((start.expand(-1, 1, CHANNELS), (0.5 + 1.5 * bright) * math.sqrt(H) * noise), dim=1)
    trajectory = as_clips(steps.cumsum(dim=1))
    model = build("neural")
    model.prepare(trajectory)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(60):
        optimiser.zero_grad()
        model.loss(trajectory, Noise.batch(step, 64)).backward()
        optimiser.step()
    model.finish(trajectory)
    latents = torch.full((1, CHANNELS, 1, 1), 2.0, dtype=torch.float64) * torch.tensor([-1.0, 1.0])[:, None, None, None]
    with torch.no_grad():
        dark, light = model.coefficients(latents, torch.cat((latents, 0 * latents), dim=1))[1].mean(dim=(1, 2, 3))
    assert dark.item() == pytest.approx(0.5, rel=0.35)
    assert light.item() == pytest.approx(2.0, rel=0.35)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_samples_the_same(kind: str, tmp_path: Path) -> None:
    model = copy.deepcopy(stirred(kind)).float()
    model.save_pretrained(tmp_path / "model")
    loaded = LatentSde.from_pretrained(tmp_path / "model")
    assert (loaded.kind, loaded.frame, loaded.steps) == (kind, H, 4)
    known = Trajectory(clips().at(*FILL).states.float(), clips().at(*FILL).times)
    torch.testing.assert_close(paths(loaded, known, [0.4, 1.2]), paths(model, known, [0.4, 1.2]), rtol=0, atol=0)


def known_of(*times: float) -> Condition:
    return Condition(clips(2).at(*times))


@pytest.mark.parametrize(
    ("condition", "times", "solver", "message"),
    [
        (Condition(), [0.5], None, "the condition holds none"),
        (Condition(clips(2).at(*CONTEXT), text=["a", "b"]), [0.5], None, "does not read text"),
        (known_of(0.0), [0.5], None, "One frame does not determine motion"),
        (known_of(0.0, 1.0), [0.5], None, "two known frames 0.125 s apart"),
        (known_of(*CONTEXT), [-0.05], None, "answers times from 0.0 s on.*got -0.05 s"),
        (known_of(*CONTEXT), [0.5], "rk4", "solvers of a kinetic equation.*got 'rk4'"),
        (known_of(*CONTEXT), [0.5], "euler-maruyama-0", "got 'euler-maruyama-0'"),
        (known_of(*FILL), [0.5], "heun", "On the way to a known frame the solvers are euler-maruyama.*got 'heun'"),
        (known_of(*FILL), [0.5], "srk-2", "On the way.*got 'srk'"),
    ],
)
def test_what_the_model_cannot_answer_is_refused(
    condition: Condition, times: list[float], solver: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        stirred("kinetic").sample(condition, times, Noise.batch(0, 2), solver=solver)


def test_after_the_last_known_frame_every_solver_will_do() -> None:
    """Of the kinetic kind only where the velocity there is known; else it is that of a path to there."""
    assert bool(paths(stirred("first-order"), clips(2).at(*FILL), [1.0, 1.2], "heun").isfinite().all())
    assert bool(paths(stirred("kinetic"), clips(2).at(*KEYS), [1.2, 1.3], "heun").isfinite().all())
    with pytest.raises(ValueError, match="On the way"):
        paths(stirred("kinetic"), clips(2).at(*FILL), [1.0, 1.2], "heun")


def test_wrong_options_and_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="one seed for each of the 2 samples; got 3"):
        stirred("kinetic").sample(known_of(*CONTEXT), [0.5], Noise.batch(0, 3))
    with pytest.raises(ValueError, match="solvers of a neural equation"):
        stirred("neural").sample(known_of(*CONTEXT), [0.5], Noise.batch(0, 2), solver="heun")
    with pytest.raises(ValueError, match="at least 3 frames; got 2"):
        build().prepare(clips().between(-H, 0.0))
    with pytest.raises(ValueError, match="at least 4 frames; got 3"):
        build(lagged=True).loss(clips().between(-H, H), Noise.batch(0, 6))
    with pytest.raises(ValueError, match=r"frames 0.125 s apart"):
        build().finish(Trajectory(clips().states[:, :3], 2 * clips().times[:3]))
    with pytest.raises(ValueError, match=r"kinds of latent equations are kinetic.*got 'white'"):
        LatentSde(2, frame=H, kind="white", parameters=20_000)
    with pytest.raises(ValueError, match="at least one step per frame"):
        LatentSde(2, frame=H, steps=0, parameters=20_000)
    with pytest.raises(ValueError, match="Only the kinetic kind"):
        LatentSde(2, frame=H, kind="neural", lagged=True, parameters=20_000)
