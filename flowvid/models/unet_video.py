r"""From an image model to a video model: a prior of image embeddings, a decoder of images, and layers of time in it.

    words -> prior -> embedding of an image -> decoder -> frames

With `time="none"` this is a text-to-image model, trained on single frames: every time that is asked for gets an image
of its own, all of one embedding. With layers of time it is a video model, and one that takes over an image model
(`take_over`) at first answers, bit for bit, as that one does on every frame: K images that fit the words and have
nothing to do with each other. It is then trained on clips, whole or in its layers of time alone (`train_time_only` of
its network, the rest frozen), or from scratch.

The decoder is a diffusion model in v. Known frames enter clean, marked by a channel, and the loss counts the others.
Beside the level it is told of a clip its frames per second and how much moves: the logarithm of the root mean square
of differences of neighbouring latents per second, in standard deviations from the training clips' mean, so 0 is as
usual and 1 is a lot. Either may be left unsaid.

A training window of N places holds, half of the time, N frames at an even stride; else n < N such frames and N - n
single images, frames from anywhere in the clip that see nothing of it and are not seen (joint training). Strides are
drawn up to one that grows with the progress of the training that the loss is told: first high frame rates, where
little changes from frame to frame, then low ones. Words and embeddings are left out at random, so that guidance can
lean on them.

At sampling the embedding is that of the first known frame where there is one, else the prior's.

References:
    Make-A-Video: Text-to-Video Generation without Text-Video Data (Singer et al., 2022), https://arxiv.org/abs/2209.14792
    Video Diffusion Models (Ho et al., 2022), joint training, https://arxiv.org/abs/2204.03458
    CogVideo (Hong et al., 2022), frame rates as conditions, frozen layers of space, https://arxiv.org/abs/2205.15868
    Stable Video Diffusion (Blattmann et al., 2023), motion strength as a condition, https://arxiv.org/abs/2311.15127
"""

__all__ = ["UNetVideo"]

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from flowvid.denoise.denoiser import Denoiser
from flowvid.denoise.guidance import classifier_free
from flowvid.denoise.predictions import add_noise, target
from flowvid.dynamics.drift import clock
from flowvid.encoders.text import TextEncoder, TextTokens
from flowvid.encoders.words import make_text_encoder
from flowvid.models.clip_windows import draw_known
from flowvid.models.frame_rates import Told, draw_places, even_grid, motion_strength, told_rates
from flowvid.models.frames import check_frame_step, not_known, place_known, take
from flowvid.models.image_prior import SILENT, ImagePrior, same_words
from flowvid.models.samplers import flow_solver, flow_solvers
from flowvid.models.video_model import ReadingModel
from flowvid.networks.unet import UNet, inflate, train_time_only
from flowvid.networks.whole_batch import whole_batch_mean
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.solve.solver import Solver
from flowvid.solvers import solve
from flowvid.video import Condition, Times, Trajectory, as_times

_TICK = 1e-6
_LEAST = 1e-6


class UNetVideo(ReadingModel):
    """Text to images, and with layers of time to clips, through the embedding of an image.

    Arguments:
        channels: Channels of a latent.
        frame: Seconds between training frames.
        frames: Places of a window.
        time: Layers of time, "none", "pseudo" or "attention"; see `flowvid.networks.unet`.
        strides: Longest stride of a training window, in frames; the lowest frame rate is 1 / (strides * frame).
        text: A name of `make_text_encoder`; None: a model that does not read and has no prior.
        widths: Channels of the decoder at every level, the finest first.
        attending: Levels that attend, counted from the coarsest.
        heads: Of every attention.
        embedding: Numbers in the embedding of an image.
        steps: Steps of a solver whose number of steps is not stated.

    Raises:
        ValueError: A number or a name is none that there can be.
    """

    def __init__(
        self,
        channels: int,
        *,
        frame: float,
        frames: int = 12,
        time: str = "pseudo",
        strides: int = 4,
        text: str | None = "words",
        widths: Sequence[int] = (32, 64),
        attending: int = 2,
        heads: int = 4,
        embedding: int = 16,
        steps: int = 20,
    ) -> None:
        super().__init__()
        if not frame > 0 or min(frames, strides, embedding, steps) < 1:
            raise ValueError(
                f"Expected frame > 0 seconds and at least one frame, stride, number in an embedding and step; got "
                f"{frame}, {frames}, {strides}, {embedding} and {steps}."
            )
        self.channels, self.frame, self.frames, self.steps = channels, frame, frames, steps
        self.strides, self.images_only = strides, time == "none"
        width = 2 * widths[0]
        self.text_encoder = None if text is None else make_text_encoder(text, width=width)
        self.prior = None if text is None else ImagePrior(channels, width, size=embedding)
        self.network = UNet(
            channels,
            channels,
            scalars=1,
            widths=widths,
            attending=attending,
            heads=heads,
            context=None if text is None else width,
            time=time,
            told=(0, 0) if time == "none" else (1, 4),
            seconds=(4 * frame, 8 * frames * strides * frame),
        )
        self.register_buffer("size", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("usual_motion", torch.tensor([0.0, 1.0]))

    @property
    def solvers(self) -> tuple[str, ...]:
        """DDIM and its few-step rivals, with N steps or the model's own number; any ODE solver too."""
        return flow_solvers()

    def prepare(self, trajectory: Trajectory) -> None:
        """Measure how much moves and the size of a frame; latents are normalised already.

        Raises:
            ValueError: The clips of a video model are not spaced by its frame.
        """
        self._check(trajectory)
        self.size.copy_(torch.tensor(trajectory.states.shape[-2:]))
        if self.images_only:
            return
        every = torch.ones(trajectory.states.shape[:2], dtype=torch.bool, device=trajectory.states.device)
        motion = motion_strength(trajectory.states, trajectory.times.to(trajectory.states).expand_as(every), every)
        self.usual_motion.copy_(torch.stack((motion.mean(), motion.std(correction=0).clamp(min=_LEAST))))

    def take_over(self, image: "UNetVideo") -> None:
        """Take all weights of an image model; on single frames and on clips this model then answers as that one does.

        Raises:
            ValueError: The models differ in more than in their layers of time.
        """
        if not image.images_only:
            raise ValueError("Weights are taken over from an image model, one with time='none'.")
        inflate(self.network, image.network)
        self.size.copy_(image.size)
        for own, given in ((self.text_encoder, image.text_encoder), (self.prior, image.prior)):
            if (own is None) != (given is None):
                raise ValueError("Both models must read, or neither.")
            if own is not None and given is not None:
                own.load_state_dict(given.state_dict())

    def v(
        self, clip: Float[Tensor, "batch time channel height width"], level: Float[Tensor, "batch"], told: Told
    ) -> Float[Tensor, "batch time channel height width"]:
        """Predicted v of every frame; of known ones it means nothing.

        Arguments:
            clip: Noisy frames, and clean ones where they are known.
            level: Noise level in [0, 1] of the noisy frames.
            told: What else is told.
        """
        scalars = level.to(clip.dtype)[:, None]
        if not self.images_only:
            flags = told.known[:, :, None, None, None].to(clip.dtype).expand(-1, -1, 1, *clip.shape[-2:])
            clip, scalars = torch.cat((clip, flags), dim=2), torch.cat((scalars, told.rates.to(clip.dtype)), dim=1)
        return self.network(clip, told.times, scalars, exists=told.exists, context=told.context, said=told.said)

    def freeze_images(self) -> None:
        """Freeze all that the image model has, so that only the layers of time are trained.

        Raises:
            ValueError: There are none.
        """
        train_time_only(self.network)
        for part in (self.text_encoder, self.prior):
            if part is not None:
                part.requires_grad_(False)

    def loss(
        self, trajectory: Trajectory, noise: Noise, *, text: TextTokens | None = None, progress: float = 1.0
    ) -> Float[Tensor, ""]:
        """Mean squared error of v on unknown frames, plus the losses of the prior; see `ReadingModel.loss`.

        Arguments:
            trajectory: Clips at the model's frame rate; any frames for an image model.
            noise: All randomness.
            text: What is said of each; what is said of moments is not heard.
            progress: How much of the training is done, from 0 to 1; it lets longer strides in.

        Raises:
            ValueError: The clips are not spaced by the model's frame, words are told to a model without text, or the
                progress is not within [0, 1].
        """
        self._check(trajectory)
        states, device = trajectory.states, trajectory.states.device
        places = min(self.frames, states.shape[1])
        index, exists = draw_places(
            noise, states.shape[1], places, strides=self.strides, progress=progress, device=device
        )
        exists = exists & (not self.images_only)
        known = draw_known(noise, exists) & exists
        clean, times = take(states, index), index.to(states.dtype) * self.frame
        level = noise.uniform("level", device=device)
        epsilon = noise.normal("noise", *clean.shape[1:], device=device)
        mask = known[:, :, None, None, None]
        noisy = torch.where(mask, clean, add_noise(clean, epsilon, level))
        told, extra = Told(times, exists, known, self._rates(clean, times, exists, noise)), 0.0
        words = self._words(text, len(states), device)
        if self.prior is not None and words is not None:
            same = same_words(text, len(states), device)
            context, said, extra = self.prior.trained_context(clean, exists, *words, same, noise)
            told = replace(told, context=context, said=said)
        error = (self.v(noisy, level, told) - target("v", clean, epsilon, level)).square()
        total = whole_batch_mean(torch.where(mask, 0.0, error).sum())
        return total / whole_batch_mean((~known).sum().to(total.dtype)) / clean[0, 0].numel() + extra

    def sample(
        self,
        condition: Condition,
        times: Sequence[float],
        noise: Noise,
        *,
        solver: str | None = None,
        guidance: float = 1.0,
        motion: float | None = None,
    ) -> Solution:
        """States at evenly spaced times, given words, known frames, both or neither; see `VideoModel.sample`.

        Asked times and known ones lie on one grid, of their shortest distance, which fits into the window. An image
        model knows no frames, and gives each of any times an image of its own.

        Arguments:
            condition: What is known and said.
            times: Increasing seconds; their rate is the frame rate that the decoder is told.
            noise: One seed per sample.
            solver: One of `solvers`; None takes the first.
            guidance: How far to go from what is sampled without words and embedding, 0, to what is sampled with them,
                1, or beyond. Any other number asks the decoder twice, which counts as two evaluations.
            motion: How much shall move, in standard deviations from what is usual; None: anything.

        Raises:
            ValueError: The model was not prepared or does not read, the times are not evenly spaced, too many or at a
                rate that was not trained, words belong to moments, or there is not one seed for each sample.
        """
        sampler, wanted, known = flow_solver(solver, steps=self.steps), as_times(times), condition.known
        like = self._like(condition, len(noise), guidance, motion)
        if known is not None and not not_known(wanted.tolist(), known):
            return Solution(Trajectory(known.at(*wanted.tolist()).states, wanted), 0, 0)
        grid, clean, told = self._window(wanted, known, like, motion)
        ticks = [round(time / _TICK) for time in grid.tolist()]
        begin = noise.normal_at("sample", ticks, *like.shape[1:], device=like.device).to(like)
        tellings, asked = self._tellings(told, condition, noise, sampler, guidance)
        mask = told.known[:, :, None, None, None]

        def flow(telling: Told) -> Denoiser:
            return Denoiser(lambda noisy, level: self.v(torch.where(mask, clean, noisy), clock(level, noisy), telling))

        flows = [flow(telling) for telling in tellings]
        guided = flows[0] if len(flows) == 1 else classifier_free(flows[0], flows[1], guidance)
        solution = solve(guided, begin, [1.0, 0.0], sampler)
        found = dict(zip(grid.tolist(), solution.trajectory.states[:, -1].unbind(1), strict=True))
        moments = wanted.tolist()
        if known is None:
            trajectory = Trajectory(torch.stack([found[time] for time in moments], dim=1), wanted)
        else:
            trajectory = place_known(found, moments, known)
        return Solution(
            trajectory,
            len(flows) * solution.evaluations + sum(part.evaluations for part in asked),
            solution.depth + sum(part.depth for part in asked),
            solution.accepted + sum(part.accepted for part in asked),
            solution.rejected + sum(part.rejected for part in asked),
        )

    def _window(
        self, wanted: Times, known: Trajectory | None, like: Tensor, motion: float | None
    ) -> tuple[Float64[Tensor, "point"], Float[Tensor, "batch point channel height width"], Told]:
        """The times that are sampled, the known frames among zeros, and what is told but words."""
        rows, device = len(like), like.device
        held = set() if known is None else set(known.times.tolist())
        unknown = wanted.tolist() if known is None else not_known(wanted.tolist(), known)
        grid = wanted
        if not self.images_only:
            grid = even_grid(sorted({*held, *unknown}), most=self.frames, frame=self.frame, strides=self.strides)
        flags = torch.tensor([time in held for time in grid.tolist()], device=device)
        clean = like.new_zeros(rows, len(grid), *like.shape[1:])
        if known is not None:
            clean[:, flags] = known.states
        exists = torch.full((rows, len(grid)), len(grid) > 1 and not self.images_only, device=device)
        step = (grid[1] - grid[0]).item() if len(grid) > 1 else None
        rates = told_rates(rows, like, step=step, motion=motion)
        return grid, clean, Told((grid - grid[0]).to(like).expand(rows, -1), exists, flags.expand(rows, -1), rates)

    def _rates(
        self, clean: Tensor, times: Tensor, exists: Bool[Tensor, "batch time"], noise: Noise
    ) -> Float[Tensor, "batch 4"]:
        """What is told of the rate and the motion of training windows, either left out at random."""
        if self.images_only or clean.shape[1] < 2:
            return told_rates(len(clean), clean)
        mean, deviation = self.usual_motion
        motion = (motion_strength(clean, times, exists) - mean) / deviation
        rates = told_rates(len(clean), clean, step=times[:, 1] - times[:, 0], motion=motion)
        left_out = noise.uniform("rates", 2, device=clean.device) < SILENT
        return torch.where(left_out.repeat_interleave(2, 1), 0.0, rates)

    def _tellings(
        self, told: Told, condition: Condition, noise: Noise, sampler: Solver, guidance: float
    ) -> tuple[list[Told], list[Solution]]:
        """What the decoder is told at each level: words and embedding, neither, or each once; and what asking cost."""
        count, device = len(noise), told.times.device
        text = None if condition.text is None else self._encoder().tokens(condition.text)
        words = self._words(text, count, device)
        if self.prior is None or words is None:
            return [told], []
        heard, said = words
        asked: list[Solution] = []
        if condition.known is not None:
            embedding = self.prior.embed(condition.known.states[:, 0])
        elif guidance:
            embedding, solution = self.prior.sample(heard, said, noise, sampler)
            asked.append(solution)
        else:
            embedding = heard.new_zeros(count, self.prior.size)
        everywhere = embedding[:, None].expand(-1, told.times.shape[1], -1)
        tellings = []
        for telling in (True, False):
            there = torch.full((count,), telling, device=device)
            context, exists = self.prior.context(everywhere, heard, said & there[:, None], there)
            tellings.append(replace(told, context=context, said=exists))
        return (tellings[:1] if guidance == 1 else tellings[1:] if guidance == 0 else tellings), asked

    def _words(
        self, tokens: TextTokens | None, count: int, device: torch.device
    ) -> tuple[Float[Tensor, "batch token feature"], Bool[Tensor, "batch token"]] | None:
        """Features of what is said of whole clips, and which exist; of silence, a token that does not."""
        if tokens is not None and tokens.ids.shape[1]:
            tokens = tokens.to(device)
            return self._encoder()(tokens), tokens.said & ~tokens.timed
        if self.text_encoder is None:
            return None
        silence = self.network.enter.space.weight.new_zeros(count, 1, self.text_encoder.width)
        return silence, torch.zeros(count, 1, dtype=torch.bool, device=device)

    def _encoder(self) -> TextEncoder:
        if self.text_encoder is None:
            raise ValueError("This model does not read text; leave it out, or build it with text='words'.")
        return self.text_encoder

    def _check(self, trajectory: Trajectory) -> None:
        if not self.images_only:
            check_frame_step(trajectory, self.frame)

    def _like(
        self, condition: Condition, count: int, guidance: float, motion: float | None
    ) -> Float[Tensor, "batch channel height width"]:
        """A state of each sample, for its shape, type and device, of a condition that can be answered."""
        known, text = condition.known, condition.text
        if (known is not None and len(known) != count) or (text is not None and len(text) != count):
            raise ValueError(
                f"There is one seed, one text and one row of known states for each sample; got {count} seeds."
            )
        if text is not None and any(said.time is not None for sample in text for said in sample):
            raise ValueError("This model hears what is said of whole videos; leave out what is said of moments.")
        if guidance != 1 and (self.text_encoder is None or not math.isfinite(guidance)):
            raise ValueError(f"Guidance is finite, and needs a model that reads; got {guidance}.")
        if self.images_only and (known is not None or motion is not None):
            raise ValueError("An image model neither knows frames nor moves; build one with time='pseudo'.")
        if motion is not None and not math.isfinite(motion):
            raise ValueError(f"Motion is a finite number of standard deviations from what is usual; got {motion}.")
        if known is not None:
            if known.states.ndim != 5 or known.states.shape[2] != self.channels:
                raise ValueError(
                    f"Known states are [batch, time, {self.channels}, height, width]; got {tuple(known.states.shape)}."
                )
            return known.states[:, 0]
        if not self.size.any():
            raise ValueError("This model does not know the size of a frame; call prepare with training clips first.")
        return self.network.enter.space.weight.new_zeros(count, self.channels, *self.size.tolist())
