r"""Whole clips from noise, told what is known and said: flow matching and video diffusion, at any real times.

All frames of a window are one sample of a flow from noise to data. Under straight paths a network that predicts the
velocity is flow matching; under the angle-uniform schedule one that predicts v, the noise or the clean data is a
diffusion model. They differ in these two words alone. Known frames enter clean, marked by a channel; the loss counts
the others. The network is a transformer that knows frames by their seconds, so one model does text-to-video,
prediction, interpolation, first and last frame, and key frames, at even or uneven times. Which sets of frames it is
trained on, and how longer videos are sampled, says `flowvid.models.clip_windows`. It is trained on frames of a grid;
asked for times between, it answers by the smoothness of its rotary embeddings alone, the shortest wave of which is four
frames long.

Training levels are uniform in the angle of the schedule. Under straight paths that is a density of
(2 / pi) / (level^2 + (1 - level)^2), twice as much in the middle as at the ends: more work where it is hardest, as the
logit-normal density of Esser et al. does, but the ends, which a likelihood passes through, are not starved.

Words are left out for a tenth of the samples, so that one network answers with and without them and guidance can
extrapolate from one to the other. What is said of a moment farther from a window than the trained span is left out too.

A predicted noise says nothing of the data at level 1, and little just below, where its error is divided by the signal.
So a model of the noise starts at level 0.95, from noise alone, though 0.6 % of the variance should be signal there; and
one of the clean data, which says nothing of the noise at level 0, ends with its prediction at level 0.01.

A frame's starting noise depends on the seed and its time (to the microsecond), not on what else is asked for.

References:
    Flow Matching for Generative Modeling (Lipman et al., 2022), https://arxiv.org/abs/2210.02747
    Video Diffusion Models (Ho et al., 2022), https://arxiv.org/abs/2204.03458
    Classifier-Free Diffusion Guidance (Ho and Salimans, 2022), https://arxiv.org/abs/2207.12598
    MCVD: Masked Conditional Video Diffusion (Voleti et al., 2022), random masks, https://arxiv.org/abs/2205.09853
    Scaling Rectified Flow Transformers for High-Resolution Image Synthesis (Esser et al., 2024), https://arxiv.org/abs/2403.03206
"""

__all__ = ["CLIP_SCHEDULES", "ClipGenerator"]

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowvid.denoise.denoiser import Denoiser
from flowvid.denoise.guidance import classifier_free
from flowvid.denoise.predictions import add_noise, check_prediction, target
from flowvid.denoise.schedule import ANGLE_UNIFORM, LinearPath, Schedule
from flowvid.dynamics.drift import clock
from flowvid.encoders.text import TextTokens
from flowvid.encoders.words import make_text_encoder
from flowvid.models.clip_windows import ClipWindow, draw_frames, draw_known, draw_start, plan_windows
from flowvid.models.frames import check_clips, not_known, place_known, take
from flowvid.models.heard import Words, heard
from flowvid.models.likelihood import ACCURATE, Likelihood, log_likelihood
from flowvid.models.samplers import flow_solver, flow_solvers
from flowvid.models.video_model import ReadingModel
from flowvid.networks.clip_network import ClipNetwork
from flowvid.networks.whole_batch import whole_batch_mean
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.solve.solver import Solver
from flowvid.solvers import solve
from flowvid.video import Condition, Trajectory, as_times

CLIP_SCHEDULES: dict[str, Schedule] = {"linear": LinearPath(), "angle-uniform": ANGLE_UNIFORM}
"""Schedules by name."""

_SILENT = 0.1
_CLEAN_FROM = 0.01
_NOISE_TO = 0.95
_TICK = 1e-6


class ClipGenerator(ReadingModel):
    """Generates all frames of a window together, from noise, by a flow.

    Arguments:
        channels: Channels of a latent.
        frame: Seconds between training frames.
        frames: Most frames of a window, at least 4.
        predicts: What the network predicts: "velocity", "v", "noise" or "clean".
        schedule: "linear", straight paths as in flow matching; or "angle-uniform", as in diffusion in v.
        network: "patches", which all attend to all; or "factorised", in space and then in time.
        text: A name of `make_text_encoder`; None: a model that does not read.
        tubelet: Frames, rows and columns of a patch; one frame and a square for the factorised network.
        width: Features of a token.
        heads: Of every attention.
        depth: Blocks; pairs of them in the factorised network.
        steps: Steps of a solver whose number of steps is not stated.
        starts: Whether it is trained on windows that begin with what is known, if anything, and not on other sets.

    Raises:
        ValueError: A name is unknown, or a size does not fit.
    """

    def __init__(
        self,
        channels: int,
        *,
        frame: float,
        frames: int = 12,
        predicts: str = "velocity",
        schedule: str = "linear",
        network: str = "patches",
        text: str | None = "words",
        tubelet: Sequence[int] = (1, 2, 2),
        width: int = 64,
        heads: int = 4,
        depth: int = 4,
        steps: int = 20,
        starts: bool = False,
    ) -> None:
        super().__init__()
        if frames < 4 or steps < 1 or not frame > 0:
            raise ValueError(
                f"Expected frame > 0 seconds, a window of at least 4 frames and at least one step; got {frame}, "
                f"{frames} and {steps}."
            )
        if schedule not in CLIP_SCHEDULES:
            raise ValueError(f"The schedules are {', '.join(CLIP_SCHEDULES)}; got {schedule!r}.")
        self.channels, self.frame, self.frames, self.steps = channels, frame, frames, steps
        self.starts = starts
        self.predicts = check_prediction(predicts)
        self.schedule = CLIP_SCHEDULES[schedule]
        self.text_encoder = None if text is None else make_text_encoder(text, width=width)
        self.network = ClipNetwork(
            network,
            channels,
            frame=frame,
            tubelet=tubelet,
            width=width,
            heads=heads,
            depth=depth,
            context=None if text is None else width,
            seconds=(4 * frame, 8 * frames * frame),
        )
        self.register_buffer("span", torch.zeros(()))
        self.register_buffer("size", torch.zeros(2, dtype=torch.int64))

    @property
    def solvers(self) -> tuple[str, ...]:
        """DDIM, which is Euler's method under straight paths, and its few-step rivals; any ODE solver too."""
        return flow_solvers()

    def prepare(self, trajectory: Trajectory) -> None:
        """Measure the seconds that a trained window spans and the size of a frame; latents are normalised already.

        Raises:
            ValueError: The clips are not spaced by the model's frame, or too short.
        """
        self._check(trajectory)
        whole = (trajectory.times[-1] - trajectory.times[0]).item()
        self.span.fill_(min(whole, (self.frames - 1) * self.frame) if self.starts else whole)
        self.size.copy_(torch.tensor(trajectory.states.shape[-2:]))

    def loss(self, trajectory: Trajectory, noise: Noise, *, text: TextTokens | None = None) -> Float[Tensor, ""]:
        """Mean squared error of the prediction on unknown frames of random sets; see `ReadingModel.loss`.

        Raises:
            ValueError: The clips are not spaced by the model's frame or too short, or words are told to a model
                without text.
        """
        self._check(trajectory)
        states, device = trajectory.states, trajectory.states.device
        count, places = states.shape[1], min(self.frames, states.shape[1])
        if self.starts:
            index, exists, known = draw_start(noise, count, places, device)
        else:
            index, exists = draw_frames(noise, count, places, device)
            known = draw_known(noise, exists)
        clean = take(states, index)
        level = self.schedule.level(noise.uniform("level", device=device) * (math.pi / 2))
        epsilon = noise.normal("noise", *clean.shape[1:], device=device)
        mask = known[:, :, None, None, None]
        noisy = torch.where(mask, clean, add_noise(clean, epsilon, level, self.schedule))
        times = (trajectory.times - trajectory.times[0]).to(device)[index]
        told = None if text is None else text.silenced(noise.uniform("silent", device=text.said.device) < _SILENT)
        words = heard(self.text_encoder, told, states)
        if words is not None:
            words = words.around(*trajectory.times[[0, -1]].tolist(), reach=math.inf)
        said = self.network(noisy, times, level, known, exists=exists, **_arguments(words))
        counted = (exists & ~known)[:, :, None, None, None]
        error = torch.where(counted, (said - target(self.predicts, clean, epsilon, level, self.schedule)).square(), 0.0)
        total = whole_batch_mean(error.sum())
        return total / whole_batch_mean(counted.sum().to(total.dtype)) / clean[0, 0].numel()

    def sample(
        self,
        condition: Condition,
        times: Sequence[float],
        noise: Noise,
        *,
        solver: str | None = None,
        guidance: float = 1.0,
    ) -> Solution:
        """States at any real times, given any known states and words or neither; see `VideoModel.sample`.

        Arguments:
            condition: What is known and said.
            times: Increasing seconds, on the frame grid or not, before, between and after what is known.
            noise: One seed per sample.
            solver: One of `solvers`; None takes the first.
            guidance: How far to go from what is sampled without words, 0, to what is sampled with them, 1, or beyond.
                Any other number asks the network twice, which counts as two evaluations.

        Raises:
            ValueError: The model was not prepared, does not read but is told words, is guided but told none, or there
                is not one seed and one text for each sample.
        """
        sampler, wanted = flow_solver(solver, steps=self.steps), as_times(times)
        known = condition.known
        like = self._like(condition, len(noise))
        told = self._tellings(condition, like, guidance)
        states = {} if known is None else dict(zip(known.times.tolist(), known.states.unbind(1), strict=True))
        solved: list[Solution] = []
        for window in plan_windows(wanted.tolist(), known, frames=self.frames, span=self.span.item()):
            clean = _placed(window, states, like)
            flows = [self._flow(window, clean, words) for words in told]
            flow = flows[0] if len(flows) == 1 else classifier_free(flows[0], flows[1], guidance)
            found, solution = self._window(window, flow, like, sampler, noise)
            states |= found
            solved.append(solution)
        moments = wanted.tolist()
        if known is None:
            trajectory = Trajectory(torch.stack([states[time] for time in moments], dim=1), wanted)
        else:
            trajectory = place_known(states, moments, known)
        return Solution(
            trajectory,
            len(told) * sum(solution.evaluations for solution in solved),
            sum(solution.depth for solution in solved),
            sum(solution.accepted for solution in solved),
            sum(solution.rejected for solution in solved),
        )

    def log_likelihood(
        self,
        trajectory: Trajectory,
        condition: Condition | None = None,
        noise: Noise | None = None,
        *,
        solver: str | Solver = ACCURATE,
        probes: int = 1,
    ) -> Likelihood:
        """Log likelihood of the unknown frames of one window given the known ones and the words.

        A model that predicts the clean data or the noise is followed from just above level 0, or to just below level 1.

        Arguments:
            trajectory: At most as many frames as a window holds, within the trained span.
            condition: What is known of it, states at some of its times, and said; None: nothing.
            noise: One seed per sample, to estimate the divergence; None: exact, which is slow.
            solver: Any ODE solver.
            probes: Probes of each sample.

        Raises:
            ValueError: The frames are too many or too far apart, a known time is not among them, or all are known.
        """
        condition = condition or Condition()
        moments, known = as_times(trajectory.times).tolist(), condition.known
        self._like(condition, len(trajectory))
        like = trajectory.states[:, 0]
        told = self._tellings(condition, like, 1.0)
        held = set() if known is None else set(moments) - set(not_known(moments, known))
        if known is not None and len(held) < len(known.times):
            raise ValueError(f"Known are {known.times.tolist()} s, but the frames lie at {moments} s.")
        fits = len(moments) <= self.frames and moments[-1] - moments[0] <= self.span.item() + _TICK
        if len(held) == len(moments) or not fits:
            raise ValueError(
                f"A likelihood is that of unknown frames, at most {self.frames} with the known ones, within "
                f"{self.span.item():g} s; got {len(moments)} from {moments[0]} s to {moments[-1]} s, {len(held)} known."
            )
        window = ClipWindow(tuple(moments), tuple(time in held for time in moments))
        states = dict(zip(moments, trajectory.states.unbind(1), strict=True))
        if known is not None:
            states |= {time: known.at(time).states[:, 0] for time in held}
        clean = _placed(window, states, like)
        flow = self._flow(window, clean, told[0])
        unknown = torch.stack([states[time] for time in moments if time not in held], dim=1)
        return log_likelihood(flow, unknown, noise, solver=solver, probes=probes, levels=self._levels())

    def _check(self, trajectory: Trajectory) -> None:
        """Refuse clips of which no frame may be left to predict: starts know up to two."""
        check_clips(trajectory, self.frame, least=3 if self.starts else 2)

    def _window(
        self, window: ClipWindow, flow: Denoiser, like: Tensor, sampler: Solver, noise: Noise
    ) -> tuple[dict[float, Tensor], Solution]:
        """Sample the unknown states of a window."""
        times = [time for time, given in zip(window.times, window.given, strict=True) if not given]
        first, last = self._levels()
        ticks = [round(time / _TICK) for time in times]
        begin = noise.normal_at("sample", ticks, *like.shape[1:], device=like.device).to(like)
        solution = solve(flow, begin * self.schedule.scale(last), [last, first], sampler)
        found = solution.trajectory.states[:, -1]
        if first > 0:
            found = flow.clean(found, first)
            solution = replace(solution, evaluations=solution.evaluations + 1, depth=solution.depth + 1)
        return dict(zip(times, found.unbind(1), strict=True)), solution

    def _flow(self, window: ClipWindow, clean: Tensor, words: Words | None) -> Denoiser:
        """The flow of a window's unknown frames, given the clean ones."""
        start, stop = window.times[0], window.times[-1]
        around = _arguments(None if words is None else words.around(start, stop, reach=self.span.item()))
        known = torch.tensor(window.given, device=clean.device)
        unknown = (~known).nonzero()[:, 0]
        seconds = torch.tensor(window.times, dtype=torch.float64, device=clean.device) - start
        rows = len(clean)

        def network(noisy: Tensor, level: Any) -> Tensor:
            clip = clean.to(noisy.dtype).index_copy(1, unknown, noisy)
            flags, moments = known.expand(rows, -1), seconds.expand(rows, -1)
            return self.network(clip, moments, clock(level, noisy), flags, **around)[:, unknown]

        return Denoiser(network, self.predicts, self.schedule)

    def _levels(self) -> tuple[float, float]:
        """The first and the last level at which the network's prediction determines the flow."""
        return (_CLEAN_FROM if self.predicts == "clean" else 0.0), (_NOISE_TO if self.predicts == "noise" else 1.0)

    def _like(self, condition: Condition, count: int) -> Float[Tensor, "batch channel height width"]:
        """A state of each sample, for its shape, type and device."""
        known = condition.known
        if not self.span.item() > 0:
            raise ValueError("This model knows neither clips nor their size; call prepare with training clips first.")
        held = count if known is None else len(known)
        if held != count:
            raise ValueError(f"What is known is of {held} samples; got {count} seeds or clips for them.")
        if known is not None:
            return known.states[:, 0]
        weight = next(self.network.parameters())
        return weight.new_zeros(count, self.channels, *self.size.tolist())

    def _tellings(self, condition: Condition, like: Tensor, guidance: float) -> list[Words | None]:
        """What the network is told at each level: words, nothing, or each of them once."""
        if guidance != 1 and (condition.text is None or not math.isfinite(guidance)):
            raise ValueError(f"Guidance leads from no words to words, so it needs both; got {guidance} without text.")
        words = [heard(self.text_encoder, text, like) for text in (condition.text, None)]
        return words[:1] if guidance == 1 else words[1:] if guidance == 0 else words


def _placed(
    window: ClipWindow, states: dict[float, Tensor], like: Tensor
) -> Float[Tensor, "batch time channel height width"]:
    """The states that a window is given, zero at its other times."""
    pairs = zip(window.times, window.given, strict=True)
    return torch.stack([states[time] if given else torch.zeros_like(like) for time, given in pairs], dim=1)


def _arguments(words: Words | None) -> dict[str, Tensor]:
    return {} if words is None else vars(words)
