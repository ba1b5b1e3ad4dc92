r"""The multi-scale model under a global code: *which* future it is, drawn once per sample; how it goes, deterministic.

Where futures branch, the best single answer is their mean: energy is missing (SCIENCE P14), and jumps of different
length disagree (P15). Let a code c say which branch is taken. Given c the future is determined, and all that the
multi-scale model does is legitimate again.

- *Posterior* q(c | whole clip) = N(mean, variance): random features of every frame at its real time, with its velocity
  and how that changes next, where news shows; and a small network on what of them the known frames do not explain.
- *Bottleneck*: rate * sum_j max(free, KL_j), with KL_j the mean nats that number j of the code holds beyond N(0, 1).
  Free nats keep a number alive until it finds a use; the heads' regression given c is the rest of the bound.
- *Prior* p(c | what is known): flow matching on the code along straight lines from noise, given the known frames,
  trained on samples of the posterior without gradient to it. So the fit is that of two stages, in one run.

The code of a clip begins with its first known frames and speaks of as many seconds as training clips have; times beyond
are answered, but of them it knows nothing. Collapse, a code that says nothing, is measured (`CodedMultiScale.report`)
and warned of; on data without branches it is right.

References:
    Stochastic Video Generation with a Learned Prior (Denton and Fergus, 2018), https://arxiv.org/abs/1802.07687
    Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016), free bits, https://arxiv.org/abs/1606.04934
    Importance Weighted Autoencoders (Burda et al., 2015), active units, https://arxiv.org/abs/1509.00519
    Flow Matching for Generative Modeling (Lipman et al., 2022), https://arxiv.org/abs/2210.02747
"""

__all__ = ["CodeReport", "CodedMultiScale"]

import dataclasses
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from flowvid.denoise.denoiser import Denoiser
from flowvid.denoise.predictions import add_noise, target
from flowvid.denoise.schedule import LinearPath
from flowvid.dynamics.drift import clock
from flowvid.dynamics.state import Surroundings
from flowvid.models.continuous import MultiScale
from flowvid.models.frames import draw_distance, not_known, state_at, still
from flowvid.models.loss_terms import REGRESSION, LossTerms
from flowvid.models.samplers import flow_solver
from flowvid.models.video_model import LearnedModel, refuse_solver
from flowvid.networks.layers import zeroed
from flowvid.networks.vector import FrameSet, VectorField, seconds_shares, slowed
from flowvid.networks.whole_batch import whole_batch_mean
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.solvers import solve
from flowvid.video import Condition, Trajectory, as_times

_ACTIVE = 0.01
_LOG_VARIANCE = -3.0
_MEASURED = 512
_LEAST_SPREAD = 1e-6
_RIDGE = 0.01
_SLOWNESS = 10.0
_KEPT = 4
_PATH = LinearPath()
_SHOWN = 4
_LONE = 0.15
_PREFIX = 0.25


@dataclass(frozen=True)
class CodeReport:
    """What a global code says.

    Arguments:
        nats: Mean KL of each number from N(0, 1).
        active: Whether the posterior mean of each number varies over clips, with a variance above 0.01.
        gain: Share of the variance of displacements, mean over heads, explained by the clip's own code beyond that of
            another clip; zero if heads do not listen.
    """

    nats: tuple[float, ...]
    active: tuple[bool, ...]
    gain: float

    @property
    def bits(self) -> float:
        """Bits that the whole code holds, at most."""
        return sum(self.nats) / math.log(2)

    @property
    def collapsed(self) -> bool:
        """Whether no number is active."""
        return not any(self.active)


class CodedMultiScale(LearnedModel):
    """Transition heads that are told a global code, its posterior, and its prior.

    Arguments:
        channels: Channels of a latent.
        frame: Seconds between training frames, also the shortest gap.
        scales: Number of gaps of one sign.
        reach: Frames that training looks ahead to a later anchor.
        width: Width of the trunk.
        bounded: Share of training states with a later anchor.
        terms: What the loss holds beside the regression; self-consistency is legitimate here.
        code: Numbers of the code.
        rate: Weight of a nat of the code in the loss.
        free: Nats of each number that cost nothing.
        features: Features of the networks of the code.
        steps: Steps of a solver of the prior whose number is not stated.

    Raises:
        ValueError: There is no code or no step, or a weight is negative.
    """

    centre: Tensor
    axes: Tensor

    def __init__(
        self,
        channels: int,
        *,
        frame: float,
        scales: int = 5,
        reach: int = 16,
        width: int = 48,
        bounded: float = 0.5,
        terms: LossTerms = REGRESSION,
        code: int = 4,
        rate: float = 0.01,
        free: float = 0.05,
        features: int = 64,
        steps: int = 8,
    ) -> None:
        super().__init__()
        if code < 1 or steps < 1 or rate < 0 or free < 0:
            raise ValueError(
                f"Expected a code of at least one number, at least one step, and a rate and free nats that are not "
                f"negative; got code={code}, steps={steps}, rate={rate}, free={free}."
            )
        self.moves = MultiScale(
            channels, frame=frame, scales=scales, reach=reach, width=width, bounded=bounded, terms=terms, code=code
        )
        self.code = code
        self.rate = rate
        self.free = free
        self.steps = steps
        inputs = 2 * channels + 1
        self.reader = FrameSet(inputs + channels, features).requires_grad_(False)
        kept = min(features, _KEPT * code)
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("axes", torch.zeros(features, kept))
        last = zeroed(nn.Linear(features, 2 * code))
        self.posterior = slowed(nn.Sequential(nn.Linear(kept, features), nn.SiLU(), last), _SLOWNESS)
        self.context = FrameSet(inputs, features)
        self.prior = VectorField(code, features, width=features)

    @property
    def solvers(self) -> tuple[str, ...]:
        """Those of `MultiScale`."""
        return self.moves.solvers

    @torch.no_grad()
    def prepare(self, trajectory: Trajectory) -> None:
        """Measure the units of the heads; see `MultiScale.prepare`.

        What whole clips say beyond their known frames is found in closed form: those directions of the features of
        clips of which a linear map of the features of the known frames explains least, centred and of unit variance.
        With the first of them the code begins. One that begins as anything else is noise to the heads, which learn to
        ignore it before it has a use.
        """
        self.moves.prepare(trajectory)
        clips = Trajectory(trajectory.states[:_MEASURED], trajectory.times)
        whole, known = (values.double() for values in (self._read(clips), self._seen(clips)))
        self.centre.copy_(whole.mean(dim=0))
        whole, known = whole - whole.mean(dim=0), known - known.mean(dim=0)
        explained = known @ torch.linalg.solve(_ridged(known), known.T @ whole)
        values, vectors = torch.linalg.eigh(_ridged(whole))
        white = vectors / values.sqrt()
        rest = (whole - explained) @ white
        axes = white @ torch.linalg.eigh(rest.T @ rest).eigenvectors.flip(1)[:, : self.axes.shape[1]]
        self.axes.copy_(axes / (whole @ axes).std(dim=0, correction=0).clamp(min=_LEAST_SPREAD))

    def loss(self, trajectory: Trajectory, noise: Noise) -> Float[Tensor, ""]:
        """The regression given the code, the price of the code, and the flow matching of its prior.

        Raises:
            ValueError: See `MultiScale.loss`.
        """
        mean, log_variance = self.posterior_of(trajectory)
        code = self._drawn(mean, log_variance, noise)
        regression = self.moves.loss(trajectory, noise.fold("moves"), code=code)
        price = whole_batch_mean(_nats(mean, log_variance).mean(dim=0)).clamp(min=self.free).sum()
        return regression + self.rate * price + self._prior_loss(trajectory, code.detach(), noise.fold("prior"))

    @torch.no_grad()
    def finish(self, trajectory: Trajectory) -> None:
        """Calibrate the weights given codes of validation clips, and warn of a code that says nothing."""
        code = self.encode_code(trajectory, Noise.batch(0, len(trajectory)).fold("finish"))
        self.moves.finish(trajectory, code=code)
        report = self.report(trajectory) if len(trajectory) > 1 else None
        if report is not None and report.collapsed:
            warnings.warn(
                f"The global code collapsed: it holds {report.bits:.2g} bits and no number of it is active, so all "
                "samples of a condition are alike. That is right where what is known determines the future; where it "
                "does not, lower the rate or raise the free nats.",
                stacklevel=2,
            )

    def posterior_of(self, trajectory: Trajectory) -> tuple[Float[Tensor, "batch code"], Float[Tensor, "batch code"]]:
        """Mean and log variance of the codes of whole clips.

        Arguments:
            trajectory: Clips at any times; the first frame is context, and the second is where the code begins.

        Raises:
            ValueError: There are fewer than three frames.
        """
        news = (self._read(trajectory) - self.centre) @ self.axes
        mean, log_variance = self.posterior(news).chunk(2, dim=1)
        return news[:, : self.code] + mean, (log_variance + _LOG_VARIANCE).clamp(-12.0, 4.0)

    def _read(self, trajectory: Trajectory) -> Float[Tensor, "batch feature"]:
        """What whole clips say."""
        if len(trajectory.times) < 3:
            raise ValueError(f"A code is read off at least three frames; got {len(trajectory.times)}.")
        latent, times = trajectory.states, trajectory.times
        velocity = latent.diff(dim=1) / times.diff().to(latent)[:, None, None, None]
        since = (times[1:] - times[1]).to(latent).expand(len(latent), -1)
        weights = seconds_shares(times[1:]).to(latent).expand(len(latent), -1)
        moving = torch.ones_like(since, dtype=torch.bool)
        states = self._packed(torch.cat((latent[:, 1:], velocity), dim=2), moving)
        turn = velocity.diff(dim=1, append=velocity[:, -1:]) / self.moves.heads.velocity_scale
        return self.reader(torch.cat((states, turn), dim=2), self._clock(since), weights)

    def _seen(self, trajectory: Trajectory) -> Float[Tensor, "batch feature"]:
        """What the known frames of clips say: the first two."""
        index = torch.ones(len(trajectory), 1, dtype=torch.long, device=trajectory.states.device)
        there = torch.ones_like(index, dtype=torch.bool)
        states = state_at(trajectory, index, frame=self.moves.frame)
        return self._context(states, torch.zeros_like(states[:, :, 0, 0, 0]), there, there)

    def encode_code(self, trajectory: Trajectory, noise: Noise | None = None) -> Float[Tensor, "batch code"]:
        """Codes of whole clips, as ``sample(..., code=...)`` takes them.

        Arguments:
            trajectory: Clips; see `posterior_of`.
            noise: Draws from the posterior; None: its mean.

        Raises:
            ValueError: There are fewer than three frames.
        """
        mean, log_variance = self.posterior_of(trajectory)
        return mean if noise is None else self._drawn(mean, log_variance, noise)

    def draw_code(self, condition: Condition, noise: Noise, *, solver: str | None = None) -> Solution:
        """Codes from the prior, at time 0 of a solution with what they cost.

        Arguments:
            condition: Known states, at least one.
            noise: One seed per sample.
            solver: A solver of a probability flow, such as "heun2-8"; None: Heun's with the model's own steps.

        Raises:
            ValueError: Nothing is known, something is said, there is not one seed per sample, or the solver is unknown.
        """
        known = condition.states_only()
        if len(noise) != len(known):
            raise ValueError(f"Sampling needs one seed for each of the {len(known)} samples; got {len(noise)}.")
        around = Surroundings(condition, gap=self.moves.frame)
        count = len(around.times)
        chosen = sorted({round(k * (count - 1) / (_SHOWN - 1)) for k in range(_SHOWN)})
        states = torch.stack([around.state(index) for index in chosen], dim=1)
        like = states[:, :, 0, 0, 0]
        seconds = torch.tensor([around.times[index] - around.times[0] for index in chosen]).to(like).expand_as(like)
        moving = torch.tensor([around.moving[index] for index in chosen], device=like.device).expand(like.shape)
        context = self._context(states, seconds, moving, torch.ones_like(moving))
        begin = noise.normal("code", self.code, device=like.device, dtype=like.dtype)

        def velocity(noisy: Tensor, level: float | Tensor) -> Tensor:
            return self.prior(noisy, clock(level, noisy), context)

        denoiser = Denoiser(velocity, "velocity", _PATH)
        return solve(denoiser, begin, [1.0, 0.0], flow_solver(solver, steps=self.steps, default="heun2"))

    def sample(
        self,
        condition: Condition,
        times: Sequence[float],
        noise: Noise,
        *,
        solver: str | None = None,
        weights: str = "calibrated",
        prior_solver: str | None = None,
        code: Float[Tensor, "batch code"] | None = None,
    ) -> Solution:
        """States at the requested times, after a code drawn for each sample; see `MultiScale.sample`.

        Evaluations and depth are those of the prior, which moves a few numbers, and of the heads together.

        Arguments:
            condition: Known states, as `MultiScale` takes them.
            times: Increasing seconds from the first known state on.
            noise: One seed for each sample: it decides the code.
            solver: What moves the states.
            weights: Which combination of heads.
            prior_solver: What draws the code; see `draw_code`.
            code: Codes to use instead, such as those of `encode_code`.

        Raises:
            ValueError: Codes are of another number or length; or see `MultiScale.sample` and `draw_code`.
        """
        solver = refuse_solver(self, solver)
        known = condition.states_only()
        if code is not None and code.shape != (len(known), self.code):
            raise ValueError(f"Expected {len(known)} codes of {self.code} numbers; got shape {tuple(code.shape)}.")
        drawn: Solution | None = None
        if code is None and not_known(as_times(times).tolist(), known):
            drawn = self.draw_code(condition, noise, solver=prior_solver)
            code = drawn.trajectory.states[:, -1]
        found = self.moves.sample(condition, times, noise, solver=solver, weights=weights, code=code)
        if drawn is None:
            return found
        total = (found.evaluations + drawn.evaluations, found.depth + drawn.depth)
        return dataclasses.replace(found, evaluations=total[0], depth=total[1])

    @torch.no_grad()
    def report(self, trajectory: Trajectory) -> CodeReport:
        """What the code says of clips, and whether heads listen.

        Arguments:
            trajectory: Clips as for training, at least two.

        Raises:
            ValueError: There is a single clip, whose code varies over nothing.
        """
        if len(trajectory) < 2:
            raise ValueError("Whether a code says anything shows in how it varies over clips; give at least two.")
        mean, log_variance = self.posterior_of(trajectory)
        noise = Noise.batch(0, len(trajectory)).fold("report")
        code = self._drawn(mean, log_variance, noise)
        own, other = (
            self.moves.explained(trajectory, noise, code=told).mean() for told in (code, code.roll(1, dims=0))
        )
        return CodeReport(
            nats=tuple(_nats(mean, log_variance).mean(dim=0).tolist()),
            active=tuple((mean.var(dim=0) > _ACTIVE).tolist()),
            gain=float(own - other),
        )

    def _drawn(self, mean: Tensor, log_variance: Tensor, noise: Noise) -> Tensor:
        draw = noise.normal("posterior", self.code, device=mean.device, dtype=mean.dtype)
        return mean + (log_variance / 2).exp() * draw

    def _prior_loss(self, trajectory: Trajectory, code: Tensor, noise: Noise) -> Float[Tensor, ""]:
        """Mean squared error of the flow's velocity at random levels, given what may be known."""
        device = code.device
        index, moving, exists = self._shown(noise, device)
        states = state_at(trajectory, index, frame=self.moves.frame)
        states = still(states.flatten(0, 1), moving.flatten()).unflatten(0, index.shape)
        seconds = ((index - 1) * self.moves.frame).to(code.dtype)
        level = noise.uniform("level", device=device, dtype=code.dtype)
        epsilon = noise.normal("noise", self.code, device=device, dtype=code.dtype)
        noisy = add_noise(code, epsilon, level, _PATH)
        said = self.prior(noisy, level, self._context(states, seconds, moving, exists))
        return (said - target("velocity", code, epsilon, level, _PATH)).square().mean()

    def _shown(
        self, noise: Noise, device: torch.device
    ) -> tuple[Int64[Tensor, "n shown"], Bool[Tensor, "n shown"], Bool[Tensor, "n shown"]]:
        """Frames that may be known, in a few places: their numbers, whether they move, and whether they are there.

        Always the first; in their share a later one, sometimes with the first one still; else sometimes a prefix.
        """
        draw = noise.uniform("known", 2, device=device)
        bounded = draw[:, 0] < self.moves.bounded
        lone = bounded & (draw[:, 1] < _LONE)
        prefix = ~bounded & (draw[:, 1] < _PREFIX)
        length = noise.integers("prefix", min(_SHOWN - 1, self.moves.reach), self.moves.reach + 1, device=device)
        place = torch.arange(_SHOWN, device=device)
        later = draw_distance(noise, "future", self.moves.reach, device)[:, None] * (place > 0)
        spread = (length[:, None] * place / (_SHOWN - 1)).round().long()
        index = 1 + torch.where(prefix[:, None], spread, torch.where(bounded[:, None], later, 0))
        moving = prefix[:, None] | ((place == 0) & ~lone[:, None])
        exists = prefix[:, None] | (place == 0) | (bounded[:, None] & (place == 1))
        return index, moving, exists

    def _context(self, states: Tensor, seconds: Tensor, moving: Tensor, exists: Tensor) -> Tensor:
        return self.context(self._packed(states, moving), self._clock(seconds), exists.to(states.dtype))

    def _packed(self, states: Tensor, moving: Tensor) -> Tensor:
        """States with p in units of the heads, and a plane that says where p is known."""
        latent, velocity = states.chunk(2, dim=2)
        plane = moving.to(states.dtype)[:, :, None, None, None].expand(-1, -1, 1, *states.shape[-2:])
        return torch.cat((latent, velocity / self.moves.heads.velocity_scale, plane), dim=2)

    def _clock(self, seconds: Tensor) -> Tensor:
        """Seconds in units of the reach."""
        return seconds / (self.moves.reach * self.moves.frame)


def _ridged(features: Float[Tensor, "n feature"]) -> Float[Tensor, "feature feature"]:
    """Products of features, with a little of their mean square added to the diagonal."""
    products = features.T @ features
    return products + _RIDGE * products.diagonal().mean() * torch.eye(len(products)).to(products)


def _nats(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL of N(mean, variance) from N(0, 1), number by number."""
    return (mean.square() + log_variance.exp() - 1 - log_variance) / 2
