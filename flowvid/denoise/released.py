r"""Released video models of diffusers as denoisers, so that every solver here samples them.

    denoiser = released_denoiser(transformer, scheduler, Prompt(embeds), negative=Prompt(others), guidance=5.0)
    solve(denoiser, latents, [1.0, 0.0], "dopri5")

    scheduler.set_timesteps(30)                                          # the steps of the pipeline's own loop,
    solve(denoiser, latents, released_levels(scheduler), "rk4")          # with another method, or
    solve(denoiser, latents, released_levels(scheduler), Ddim(substeps=1))     # as it is

The transformer says how latents are laid out and what it is told besides (`flowvid.denoise.released_networks`); the
scheduler says what it predicts and how it is told the noise level (`flowvid.denoise.released_timing`), and solves
nothing.

Euler's step in s, theirs for flows and for SVD, and DDIM's are one step in other coordinates, so `Ddim` through
`released_levels` is the pipeline's loop. It starts from standard noise, for SVD too, whose pipeline multiplies by
init_noise_sigma. Latents are [batch time channel height width] for every model, in the units that its pipeline
diffuses in and `DiffusersVideoCodec` decodes. Gradients pass; sample under `torch.no_grad()`. Not here: a first frame
that is held by timesteps of its own (LTX and Wan 2.2 image-to-video; `replaced` holds one), two networks by level (Wan
2.2 A14B), CogVideoX's guidance that changes with the step.

References:
    Wan: Open and Advanced Large-Scale Video Generative Models (Wan Team, 2025), https://arxiv.org/abs/2503.20314
    LTX-Video: Realtime Video Latent Diffusion (HaCohen et al., 2024), https://arxiv.org/abs/2501.00103
    CogVideoX: Text-to-Video Diffusion Models with An Expert Transformer (Yang et al., 2024), https://arxiv.org/abs/2408.06072
    Stable Video Diffusion (Blattmann et al., 2023), https://arxiv.org/abs/2311.15127
"""

__all__ = ["Prompt", "released_denoiser", "released_drift", "released_levels"]

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from flowvid.denoise.denoiser import Denoiser
from flowvid.denoise.released_networks import Family, Prompt, family_of
from flowvid.denoise.released_timing import Timing, released_levels, timing_of
from flowvid.dynamics.drift import RowDrift


def released_denoiser(
    transformer: Any,
    scheduler: Any,
    prompt: Prompt,
    *,
    negative: Prompt | None = None,
    guidance: float | Float[Tensor, "time"] = 1.0,
) -> Denoiser:
    """A released model as a denoiser of [batch time channel height width], for every solver and every kind of guidance.

    With guidance it answers negative + guidance (prompt - negative), from one evaluation of a double batch, which
    solvers count as one. `classifier_free` over two such denoisers is the same at half the memory, and offers
    intervals and rescaling.

    Arguments:
        transformer: One of the transformers of the module, in evaluation mode.
        scheduler: Its scheduler; only what it says of levels is used.
        prompt: What the network is told of each sample.
        negative: What guidance leads away from; what it leaves out, but for a mask, is as in the prompt. For SVD None
            stands for zeros, as in its pipeline.
        guidance: Scale, 1 for none; or one for each frame of the latents, as SVD's pipeline spaces them.

    Raises:
        ValueError: The transformer or the scheduler is of no known class or configured for what is not known here, the
            prompts do not hold what the model needs or hold what it does not take, or guidance has nothing to lead
            away from or is not finite. When asked: the noisy latents do not fit the prompt or the network.
    """
    family, timing, scale = family_of(transformer), timing_of(scheduler), torch.as_tensor(guidance)
    family.check(prompt)
    if scale.ndim > 1 or not bool(scale.isfinite().all()):
        raise ValueError(f"Guidance is a finite scale, or one for each frame; got {guidance}.")
    if bool((scale == 1).all()):
        return _denoiser(_Network(transformer, family, timing, prompt))
    against = family.against(prompt) if negative is None else negative
    return _denoiser(_Network(transformer, family, timing, prompt.after(against), scale))


def released_drift(denoiser: Denoiser) -> RowDrift:
    """The probability flow of a released model, which can be had for some samples alone.

    A solver that steps samples separately asks a `Denoiser` about the whole batch until its last sample is done, and
    this only about those that are not.

    Arguments:
        denoiser: From `released_denoiser`.

    Raises:
        ValueError: It is another denoiser.
    """
    if not isinstance(denoiser.network, _Network):
        raise ValueError("Only what released_denoiser returns has rows; a denoiser that wraps it has none.")
    return _Flow(denoiser.network)


@dataclass(frozen=True, eq=False)
class _Network:
    """A transformer under a prompt, as the network of a denoiser.

    Arguments:
        prompt: What it is told of each sample; with guidance, first of what guidance leads away from.
        scale: Of the guidance; None: there is none.
    """

    transformer: Any
    family: Family
    timing: Timing
    prompt: Prompt
    scale: Tensor | None = None

    def __call__(self, noisy: Float[Tensor, "batch *x"], level: Any) -> Float[Tensor, "batch *x"]:
        self._check(noisy)
        timestep = self.timing.timestep(torch.as_tensor(level, dtype=torch.float64))
        timestep = timestep.to(noisy.device, torch.float32).expand(len(noisy))
        if self.scale is None:
            return self._asked(noisy, timestep)
        against, told = self._asked(torch.cat((noisy, noisy)), torch.cat((timestep, timestep))).chunk(2)
        return against + self.scale.to(noisy).reshape(1, -1, 1, 1, 1) * (told - against)

    def rows(self, index: Int64[Tensor, "n"]) -> "_Network":
        """The network for some of the samples."""
        double = index if self.scale is None else torch.cat((index, index + len(self.prompt) // 2))
        return replace(self, prompt=self.prompt.rows(double))

    def _asked(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        kind = self.transformer.dtype
        return self.family.ask(self.transformer, noisy.to(kind), timestep, self.prompt.to(kind)).to(noisy)

    def _check(self, noisy: Tensor) -> None:
        prompt, config = self.prompt, self.transformer.config
        size, beside = len(prompt) // (1 if self.scale is None else 2), prompt.image_latents
        if noisy.ndim != 5 or len(noisy) != size:
            raise ValueError(
                f"Expected noisy latents [batch time channel height width] of the {size} samples of the prompt; got "
                f"shape {tuple(noisy.shape)}."
            )
        sides = (noisy.shape[1], *noisy.shape[3:])
        channels = noisy.shape[2] + (0 if beside is None else beside.shape[2])
        if channels != config.in_channels or (beside is not None and (beside.shape[1], *beside.shape[3:]) != sides):
            raise ValueError(
                f"This network takes {config.in_channels} channels, noisy ones and image latents beside them in the "
                f"same frames; got shapes {tuple(noisy.shape)} and {None if beside is None else tuple(beside.shape)}."
            )
        patch = self.family.patch(config)
        if any(side % each for side, each in zip(sides, patch, strict=True)):
            raise ValueError(f"Frames and sides of latents must be multiples of {patch}; got {sides}.")
        if self.scale is not None and self.scale.numel() not in (1, sides[0]):
            raise ValueError(f"Guidance names {self.scale.numel()} frames; the latents have {sides[0]}.")


@dataclass(frozen=True, eq=False)
class _Flow:
    """The drift of a released model, row by row."""

    network: _Network

    def __call__(self, time: Any, state: Float[Tensor, "batch *x"]) -> Float[Tensor, "batch *x"]:
        return _denoiser(self.network)(time, state)

    def rows(self, index: Int64[Tensor, "n"]) -> "_Flow":
        return _Flow(self.network.rows(index))


def _denoiser(network: _Network) -> Denoiser:
    return Denoiser(network, network.timing.predicts, network.timing.schedule)
