"""Published codecs, through diffusers: image VAEs frame by frame, and VAEs that compress time.

Latents are the means of the posteriors, in the units that the VAE's own pipelines diffuse in,

    (mean of posterior - latents_mean - shift_factor) * scaling_factor / latents_std,

with what its configuration names. A causal VAE gives the first frame a latent of its own and then one to every r
frames, and may want its r-frame chunks in groups: it takes 1 + m k frames, m a multiple of r (4 k + 1 for Wan and
HunyuanVideo, 8 k + 1 for LTX and CogVideoX). No convolution has seen a frame after the last one of a latent's chunk,
so that is its time: latent j stands at frame r j. (The group norms of HunyuanVideo, and of CogVideoX within a group,
average over later frames too.) Between latents decoded frames are evenly spaced; footage that is not cannot be
given back at its times, and is refused.

Weights are read from a folder on this machine, safetensors only; nothing is downloaded.

References:
    Stable Video Diffusion (Blattmann et al., 2023), https://arxiv.org/abs/2311.15127
    CogVideoX: Text-to-Video Diffusion Models with An Expert Transformer (Yang et al., 2024),
        https://arxiv.org/abs/2408.06072
    Wan: Open and Advanced Large-Scale Video Generative Models (Wan Team, 2025), https://arxiv.org/abs/2503.20314
"""

__all__ = ["DiffusersImageCodec", "DiffusersVideoCodec", "load_diffusers"]

import json
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from flowvid.encoders.codec import Codec, VideoCodec
from flowvid.video import Trajectory, Video, as_times

_IMAGE = ("AutoencoderKL",)
_DECODER = "AutoencoderKLTemporalDecoder"
_CAUSAL = ("AutoencoderKLCogVideoX", "AutoencoderKLHunyuanVideo", "AutoencoderKLLTXVideo", "AutoencoderKLWan")
_GROUPED = "AutoencoderKLCogVideoX"
"""Takes two chunks at a time; its decoder gives other numbers of frames to an even number of latents."""
_UNEVEN = 0.05
"""Share of a frame by which times may be off: a container's milliseconds at 60 frames per second are off by 0.04."""


@final
class DiffusersImageCodec(Codec):
    """An image VAE of diffusers, frame by frame.

    Arguments:
        vae: An AutoencoderKL, which is put into evaluation mode and frozen.
        batch: Frames at a time, which bounds the memory.

    Raises:
        ValueError: It is of another class, or the batch is not positive.
    """

    def __init__(self, vae: nn.Module, *, batch: int = 8) -> None:
        super().__init__()
        if batch < 1:
            raise ValueError(f"A codec takes at least one frame at a time; got batch={batch}.")
        self.vae = _frozen(vae, _IMAGE)
        self.units = _Units(vae)
        self.batch = batch

    def latents(self, frames: Float[Tensor, "n pixel height width"]) -> Float[Tensor, "n channel h w"]:
        """Latents in the pipeline's units.

        Raises:
            ValueError: Frames have other channels or sides than the VAE takes.
        """
        _check_frames(self.vae, frames)
        parts = [self.vae.encode(_like(part, self.vae)).latent_dist.mode() for part in frames.split(self.batch)]
        return self.units.divided(torch.cat(parts).to(frames))

    def frames(self, latents: Float[Tensor, "n channel h w"]) -> Float[Tensor, "n pixel height width"]:
        """Frames of latents, clipped to [-1, 1]."""
        parts = [self.vae.decode(part).sample for part in _like(self.units.times(latents), self.vae).split(self.batch)]
        return torch.cat(parts).to(latents).clamp(-1, 1)


@final
class DiffusersVideoCodec(VideoCodec):
    """A video VAE of diffusers, clip by clip.

    Arguments:
        vae: A causal VAE (Wan, CogVideoX, HunyuanVideo, LTX), or an AutoencoderKLTemporalDecoder, which encodes frame
            by frame and decodes them together; it is put into evaluation mode and frozen.

    Raises:
        ValueError: It is of another class, or its decoder wants to be told a noise level.
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae: Any = _frozen(vae, (_DECODER, *_CAUSAL))
        if self.vae.config.get("timestep_conditioning"):
            raise ValueError("The decoder of this VAE wants a noise level; a codec has none to give. Use another one.")
        self.units = _Units(vae)
        self.causal = type(vae).__name__ in _CAUSAL
        self.stride = _stride(self.vae) if self.causal else 1
        self.group = vae.num_sample_frames_batch_size if type(vae).__name__ == _GROUPED else self.stride

    def encode(self, video: Video) -> Trajectory:
        """The latent trajectory, at the times of every ``stride``-th frame; see the module.

        Raises:
            ValueError: The number of frames is not 1 + group k, they are not evenly spaced between latents, or they
                have other channels or sides than the VAE takes.
        """
        frames, times = video.frames, video.times
        _check_frames(self.vae, frames.flatten(0, 1))
        extra = (len(times) - 1) % self.group
        if extra:
            raise ValueError(
                f"{type(self.vae).__name__} takes 1 + {self.group} k frames; got {len(times)}. Leave {extra} out, or "
                f"sample {self.group - extra} more."
            )
        kept = times[:: self.stride]
        off = (self._between(kept) - times).abs() * (len(times) - 1) / (times[-1] - times[0]).clamp(min=1e-12)
        if float(off.max()) > _UNEVEN:
            raise ValueError(
                f"{type(self.vae).__name__} gives {self.stride} frames one latent and decodes them evenly spaced; "
                f"frame {int(off.argmax())} is off by {float(off.max()):.2g} of a frame. Sample the footage at a "
                "constant rate."
            )
        states = torch.stack([self._encoded(_like(clip, self.vae)).to(frames) for clip in frames])
        if states.shape[1] != len(kept):
            raise ValueError(f"Expected {len(kept)} latents of {len(times)} frames; the VAE gave {states.shape[1]}.")
        return Trajectory(self.units.divided(states), kept)

    def decode(self, trajectory: Trajectory) -> Video:
        """The video, clipped to [-1, 1], with ``stride`` evenly spaced frames to every latent after the first.

        Raises:
            ValueError: There are not as many latents as 1 + group k frames have, or times run backward.
        """
        times = self._between(as_times(trajectory.times))
        if (len(times) - 1) % self.group:
            raise ValueError(
                f"{type(self.vae).__name__} decodes 1 + {self.group // self.stride} k latents; "
                f"got {len(trajectory.times)}."
            )
        states = _like(self.units.times(trajectory.states), self.vae)
        frames = torch.stack([self._decoded(clip) for clip in states]).to(trajectory.states)
        if frames.shape[1] != len(times):
            raise ValueError(f"Expected {len(times)} frames; the VAE gave {frames.shape[1]}.")
        return Video(frames.clamp(-1, 1), times)

    def _encoded(self, frames: Float[Tensor, "time pixel height width"]) -> Float[Tensor, "moment channel h w"]:
        if not self.causal:
            return self.vae.encode(frames).latent_dist.mode()
        return self.vae.encode(frames.transpose(0, 1)[None]).latent_dist.mode()[0].transpose(0, 1)

    def _decoded(self, latents: Float[Tensor, "moment channel h w"]) -> Float[Tensor, "time pixel height width"]:
        if not self.causal:
            return self.vae.decode(latents, num_frames=len(latents)).sample
        return self.vae.decode(latents.transpose(0, 1)[None]).sample[0].transpose(0, 1)

    def _between(self, times: Float64[Tensor, "moment"]) -> Float64[Tensor, "time"]:
        """Times of frames from those of latents."""
        share = torch.arange(1, self.stride + 1, dtype=torch.float64) / self.stride
        later = times[:-1, None] + times.diff()[:, None] * share
        later[:, -1] = times[1:]
        return torch.cat((times[:1], later.flatten()))


def load_diffusers(
    folder: Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> DiffusersImageCodec | DiffusersVideoCodec:
    """A codec from a folder that diffusers' ``save_pretrained`` wrote: the VAE's own, not that of a whole pipeline.

    Arguments:
        folder: The folder, with config.json and diffusion_pytorch_model.safetensors.
        device: Where it shall live.
        dtype: Type of its weights; latents and frames keep theirs.

    Raises:
        ImportError: diffusers is not installed.
        ValueError: The folder holds no VAE that flowvid can use, or its weights are missing.
    """
    folder = Path(folder)
    path = folder / "config.json"
    if not path.is_file():
        hint = f" Did you mean {folder / 'vae'}?" if (folder / "vae" / "config.json").is_file() else ""
        raise ValueError(f"Expected the folder of a VAE; {folder} has no config.json.{hint} Nothing is downloaded.")
    name = json.loads(path.read_text(encoding="utf-8")).get("_class_name")
    if name not in (*_IMAGE, _DECODER, *_CAUSAL):
        known = ", ".join((*_IMAGE, _DECODER, *_CAUSAL))
        raise ValueError(f"{folder} holds a {name}; flowvid can use {known}.")
    try:
        import diffusers
    except ImportError as error:
        raise ImportError(
            "Published codecs need diffusers; install it with the extra: pip install 'flowvid[pretrained]'."
        ) from error
    try:
        vae = getattr(diffusers, name).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, torch_dtype=dtype
        )
    except OSError as error:
        raise ValueError(f"The weights of {folder} are missing or damaged, or no safetensors: {error}") from error
    codec = DiffusersImageCodec(vae) if name in _IMAGE else DiffusersVideoCodec(vae)
    return codec.to(device)


class _Units(nn.Module):
    """Between the raw latents of a VAE and those of its pipelines."""

    shift: Tensor
    scale: Tensor

    def __init__(self, vae: Any) -> None:
        super().__init__()
        held = dict(vae.named_buffers())
        said = {name: held.get(name, vae.config.get(name)) for name in ("latents_mean", "latents_std")}
        mean, deviation = (
            _channels(said[name], default) for name, default in (("latents_mean", 0.0), ("latents_std", 1.0))
        )
        factor, shift = vae.config.get("scaling_factor"), vae.config.get("shift_factor")
        self.register_buffer("shift", mean + (shift or 0), persistent=False)
        self.register_buffer("scale", (1.0 if factor is None else factor) / deviation, persistent=False)

    def divided(self, raw: Tensor) -> Tensor:
        """Raw latents in the pipeline's units."""
        return (raw - self.shift.to(raw)) * self.scale.to(raw)

    def times(self, latents: Tensor) -> Tensor:
        """Latents of the pipeline in raw units."""
        return latents / self.scale.to(latents) + self.shift.to(latents)


def _channels(values: Any, default: float) -> Float[Tensor, "channel 1 1"]:
    given = [default] if values is None else values
    return torch.as_tensor(given, dtype=torch.float32).detach().clone().reshape(-1, 1, 1)


def _frozen(vae: Any, known: tuple[str, ...]) -> Any:
    if type(vae).__name__ not in known:
        raise ValueError(f"Expected one of diffusers' {', '.join(known)}; got {type(vae).__name__}.")
    return vae.eval().requires_grad_(False)


def _stride(vae: Any) -> int:
    """Frames to every latent after the first."""
    config, own = vae.config, vars(vae)
    names = ("scale_factor_temporal", "temporal_compression_ratio")
    found = [own.get(name) or config.get(name) for name in names]
    return int(next(value for value in found if value))


def _check_frames(vae: Any, frames: Float[Tensor, "n pixel height width"]) -> None:
    config = vae.config
    sides = vars(vae).get("spatial_compression_ratio") or 2 ** (len(config.block_out_channels) - 1)
    # Wan counts the channels of 2 x 2 patches, which it makes of frames itself.
    patch = (config.get("patch_size") or 1) if type(vae).__name__ == "AutoencoderKLWan" else 1
    channels = config.in_channels // patch**2
    if frames.shape[1] != channels or frames.shape[-1] % sides or frames.shape[-2] % sides:
        raise ValueError(
            f"{type(vae).__name__} takes frames of {channels} channels with sides that are multiples of "
            f"{sides}; got {tuple(frames.shape[1:])}."
        )


def _like(values: Tensor, vae: Any) -> Tensor:
    return values.to(device=vae.device, dtype=vae.dtype)
