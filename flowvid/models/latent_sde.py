r"""Latent stochastic equations in video time: a learned drift, and as noise what that leaves unexplained.

Three kinds, by where the noise enters:

    kinetic      dz = p dt, dp = a(z, p) dt + g dW       C^1 paths; one constant g per channel
    first-order  dz = f(z | context) dt + g dW           white flicker (see `flowvid.dynamics.stochastic`), the ablation
    neural       dz = f(z | context) dt + g(z | context) dW, with g from the network: an instant-head neural SDE

The context of the last two is an earlier state (z, p), since one frame does not determine motion. Time is not told.

Training simulates nothing. One Euler-Maruyama step of a frame h has the Gaussian law z' ~ N(z + f h, g^2 h), whose
likelihood pairs of neighbouring frames give exactly; as a likelihood of the equation itself it is biased by O(h): f is
the average velocity over a frame, like the head of a gap, and the volatility an average too. For a constant g the
maximum over g is known, which leaves the logarithm of the mean squared residual of each channel.

Frames do not show p, but q = (z(t) - z(t - h)) / h, the average of p over the last frame. Its next increment is the
integral of dp against a triangle of base 2 h, so for constant a and g

    E = a h,    Var = 2/3 g^2 h,    correlation of neighbouring increments = 1/4:

g measured from increments of q as if they were of p comes out too small by sqrt(2/3), which is undone here. Also,
increment and q share noise. Of dp = -k p dt + g dW, regression on q finds for small h the drift -2/3 k instead of -k.
With ``lagged`` the network is asked at the state one frame before, moved on uniformly, which shares none and finds -k;
but it does not see what happened in the last frame. Where accelerations are events such as walls that costs more.

`finish` measures g on validation clips in closed form. Between known frames paths are pinned (see
`flowvid.models.stochastic_paths`); for the law of the equation given its ends one would have to weight them.

References:
    Estimation of an ergodic diffusion from discrete observations (Kessler, 1997), https://doi.org/10.1111/1467-9469.00059
    Parameter estimation for a discretely observed integrated diffusion process (Gloter, 2006),
    https://doi.org/10.1111/j.1467-9469.2006.00465.x
    Applied Stochastic Differential Equations, chapter 11 (Sarkka and Solin, 2019), https://doi.org/10.1017/9781108186735
    Neural SDEs as a unified approach to continuous-domain sequence modeling (2025), https://arxiv.org/abs/2501.18871
"""

__all__ = ["KINDS", "Kind", "LatentSde"]

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from flowvid.models.frames import check_clips, not_known, place_known, state_at, take
from flowvid.models.stochastic_paths import AREAS, STRATONOVICH, KnownPath
from flowvid.models.video_model import LearnedModel
from flowvid.networks.trunk import Trunk
from flowvid.networks.whole_batch import whole_batch_mean
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.video import Condition, Trajectory, as_times

Kind = Literal["kinetic", "first-order", "neural"]
KINDS = ("kinetic", "first-order", "neural")

_PINNED = ("euler-maruyama", "milstein", "torchsde:euler", "torchsde:milstein")
_TRIANGLE = 2 / 3
_BOUND = 3.0
_LEAST = 1e-6


class LatentSde(LearnedModel):
    """A stochastic equation of latents, trained on neighbouring frames.

    Arguments:
        channels: Channels of a latent.
        frame: Seconds between training frames.
        kind: One of `KINDS`.
        reach: Frames up to which training tells an earlier context; unused by the kinetic kind.
        width: Width of the trunk.
        parameters: The number of parameters to match.
        steps: Solver steps per frame where the solver's name does not state them.
        lagged: Of the kinetic kind: whether training asks the network at states from one frame before.

    Raises:
        ValueError: The kind is unknown, there are no steps, or ``lagged`` is asked of another kind than kinetic.
    """

    velocity_scale: Tensor
    drift_scale: Tensor
    volatility: Tensor

    def __init__(
        self,
        channels: int,
        *,
        frame: float,
        kind: str = "kinetic",
        reach: int = 16,
        width: int = 48,
        parameters: int,
        steps: int = 4,
        lagged: bool = False,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"The kinds of latent equations are {', '.join(KINDS)}; got {kind!r}.")
        if steps < 1 or reach < 0:
            raise ValueError(f"Expected at least one step per frame and no negative reach; got {steps} and {reach}.")
        if lagged and kind != "kinetic":
            raise ValueError(f"Only the kinetic kind has a hidden velocity to lag behind; got lagged for {kind!r}.")
        self.channels = channels
        self.frame = frame
        self.kind = kind
        self.reach = reach
        self.steps = steps
        self.lagged = lagged
        self.kinetic = kind == "kinetic"
        inputs, outputs = (2 if self.kinetic else 3) * channels, (2 if kind == "neural" else 1) * channels
        self.trunk = Trunk.matching(parameters, inputs, outputs, scalars=1, width=width)
        for name in ("velocity_scale", "drift_scale", "volatility"):
            self.register_buffer(name, torch.ones(channels))

    @property
    def solvers(self) -> tuple[str, ...]:
        """SDE solvers of flowvid and torchsde, with N steps per frame or the model's own number."""
        offered = self._offered()
        return (*offered, *(f"{name}-N" for name in offered))

    def prepare(self, trajectory: Trajectory) -> None:
        """Measure the sizes of velocities, drifts and volatilities, the last two as if the other were absent.

        Raises:
            ValueError: The clips are not spaced by the model's frame, or too short.
        """
        self._check(trajectory)
        velocities = trajectory.states.diff(dim=1) / self.frame
        increments = velocities.diff(dim=1) if self.kinetic else trajectory.states.diff(dim=1)
        size = _rms(increments)
        self.velocity_scale.copy_(_rms(velocities))
        self.drift_scale.copy_(size / self.frame)
        self.volatility.copy_(size / math.sqrt(self._share * self.frame))

    def coefficients(
        self,
        state: Float[Tensor, "batch state height width"],
        context: Float[Tensor, "batch context height width"] | None,
    ) -> tuple[Float[Tensor, "batch channel height width"], Float[Tensor, "batch channel height width"]]:
        """What drives a state: its drift, of p for the kinetic kind and of z for others, and its volatility.

        Arguments:
            state: (z, p) for the kinetic kind, z for others.
            context: An earlier (z, p) for these; None for the kinetic kind.
        """
        given = state if context is None else torch.cat((state, context), dim=1)
        *latents, velocity = given.split(self.channels, dim=1)
        scaled = velocity / _grid(self.velocity_scale)
        speed = (scaled.square().mean(dim=(1, 2, 3)) + _LEAST).sqrt()
        said = self.trunk(torch.cat((*latents, scaled), dim=1), speed[:, None])
        rate = said[:, : self.channels] * _grid(self.drift_scale)
        constant = self.constant_volatility(rate)
        if constant is not None:
            return rate, constant
        return rate, _grid(self.volatility) * (_BOUND * torch.tanh(said[:, self.channels :] / _BOUND)).exp()

    def constant_volatility(
        self, like: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height width"] | None:
        """The volatility of the kinds that have a constant one, else None."""
        return None if self.kind == "neural" else _grid(self.volatility).expand_as(like)

    def loss(self, trajectory: Trajectory, noise: Noise) -> Float[Tensor, ""]:
        """Minus the log-likelihood of one transition per clip, per entry, up to a constant.

        Where volatilities are constants, their own best value is put in.

        Raises:
            ValueError: The clips are not spaced by the model's frame, or too short.
        """
        self._check(trajectory)
        count, device = trajectory.states.shape[1], trajectory.states.device
        index = noise.integers("index", self._first, count - 1, device=device)
        surprise, volatility = self._transition(trajectory, index, noise)
        if self.kind == "neural":
            return (surprise + 2 * (volatility / _grid(self.volatility)).log()).mean() / 2
        return (whole_batch_mean(surprise.mean(dim=(0, 2, 3))) + _LEAST).log().mean() / 2

    @torch.no_grad()
    def finish(self, trajectory: Trajectory) -> None:
        """Scale the volatility of each channel to what the drift leaves unexplained on validation trajectories.

        Raises:
            ValueError: The clips are not spaced by the model's frame, or too short.
        """
        self._check(trajectory)
        count, device = trajectory.states.shape[1], trajectory.states.device
        total = torch.zeros(self.channels, dtype=torch.float64, device=device)
        for number in range(self._first, count - 1):
            index = torch.full((len(trajectory),), number, device=device)
            surprise, _ = self._transition(trajectory, index, Noise.batch(number, len(trajectory)).fold("calibration"))
            total += surprise.double().mean(dim=(0, 2, 3))
        factor = (total / (count - 1 - self._first)).sqrt()
        self.volatility.copy_((self.volatility * factor).clamp(min=_LEAST))

    def sample(
        self, condition: Condition, times: Sequence[float], noise: Noise, *, solver: str | None = None
    ) -> Solution:
        """States at real times from the first known moving state on, pinned to all later known ones.

        The Brownian path belongs to the seed, not to the times or the steps: at times up to 64 frames after the last
        known state more steps or other times give the same sample up to the error of the steps.

        Arguments:
            condition: Two known states a frame apart, and any later ones.
            times: Increasing seconds.
            noise: One seed per sample.
            solver: One of `solvers`, such as "euler-maruyama-8" for eight steps per frame.

        Raises:
            ValueError: Something is said, no velocity is known, times lie before the first state whose velocity is
                known, the solver is unknown, or is one that cannot reach a later known state.
        """
        name, steps = self._chosen(solver)
        known, points = condition.states_only(), as_times(times).tolist()
        if len(noise) != len(known):
            raise ValueError(f"Sampling needs one seed for each of the {len(known)} samples; got {len(noise)}.")
        wanted = not_known(points, known)
        if not wanted:
            return Solution(place_known({}, points, known), 0, 0)
        path = KnownPath(self, known, noise, name, self.frame / steps)
        if path.start is None:
            raise ValueError(f"One frame does not determine motion: give two known frames {self.frame} s apart.")
        first = path.times[path.start]
        if wanted[0] < first:
            raise ValueError(f"This model answers times from {first} s on, where motion is known; got {wanted[0]} s.")
        if path.meets_ends(wanted) and name not in _PINNED:
            raise ValueError(f"On the way to a known frame the solvers are {', '.join(_PINNED)}; got {name!r}.")
        found = path.through(wanted)
        return Solution(place_known(found, points, known), path.evaluations, path.depth, accepted=path.accepted)

    @property
    def _share(self) -> float:
        """Variance of an increment over a frame, in units of g^2 h."""
        return _TRIANGLE if self.kinetic else 1.0

    @property
    def _first(self) -> int:
        """The first frame whose next increment training can use."""
        return 2 if self.lagged else 1

    def _check(self, trajectory: Trajectory) -> None:
        check_clips(trajectory, self.frame, least=self._first + 2)

    def _transition(
        self, trajectory: Trajectory, index: Int64[Tensor, "batch"], noise: Noise
    ) -> tuple[Float[Tensor, "batch channel height width"], Float[Tensor, "batch channel height width"]]:
        """Squared residuals of the increments after these frames, in units of their variance; and the volatility."""
        before, now, after = (take(trajectory.states, index + shift) for shift in (-1, 0, 1))
        increment = after - now
        if self.kinetic:
            increment = (increment - (now - before)) / self.frame
            state = state_at(trajectory, index - int(self.lagged), frame=self.frame)
            if self.lagged:
                latent, velocity = state.chunk(2, dim=1)
                state = torch.cat((latent + self.frame * velocity, velocity), dim=1)
            rate, volatility = self.coefficients(state, None)
        else:
            ages = 1 + (index - 1).clamp(max=self.reach)
            age = (noise.uniform("age", device=index.device) * ages).long()
            rate, volatility = self.coefficients(now, state_at(trajectory, index - age, frame=self.frame))
        residual = increment - self.frame * rate
        return residual.square() / (self._share * self.frame * volatility.square()), volatility

    def _offered(self) -> tuple[str, ...]:
        """Methods for the equation: with a state-dependent volatility those in the sense of Ito alone."""
        return (*_PINNED, *AREAS, *(() if self.kind == "neural" else STRATONOVICH))

    def _chosen(self, solver: str | None) -> tuple[str, int]:
        """The method of a solver's name and its steps per frame."""
        offered = self._offered()
        name = solver or offered[0]
        if name in offered:
            return name, self.steps
        stem, _, number = name.rpartition("-")
        if stem in offered and number.isdecimal() and int(number) > 0:
            return stem, int(number)
        raise ValueError(
            f"The solvers of a {self.kind} equation are {', '.join(self.solvers)}, with N >= 1 steps per frame; "
            f"got {solver!r}."
        )


def _grid(values: Float[Tensor, "channel"]) -> Float[Tensor, "channel 1 1"]:
    return values[:, None, None]


def _rms(values: Float[Tensor, "batch time channel height width"]) -> Float[Tensor, "channel"]:
    return values.square().mean(dim=(0, 1, 3, 4)).sqrt().clamp(min=_LEAST)
