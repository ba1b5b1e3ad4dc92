r"""The networks of released video models and what they are told, for `flowvid.denoise.released`.

    =========================================  =====================================================================
    transformer                                a `Prompt` holds, beside ``embeds``
    =========================================  =====================================================================
    WanTransformer3DModel                      for image-to-video: image_latents (mask channels and latents) and,
                                               where the model reads them, image_embeds
    LTXVideoTransformer3DModel                 mask, frame_rate
    CogVideoXTransformer3DModel                for image-to-video: image_latents
    UNetSpatioTemporalConditionModel (SVD)     image_latents, added_time_ids
    =========================================  =====================================================================

Latents are [batch time channel height width] here; Wan wants channels before time, LTX one token per position, and
image latents stand beside the noisy channels. The positions of LTX are seconds and pixels, those of CogVideoX patches,
which its first version stretches to the grid that it was trained on.

References:
    Wan: Open and Advanced Large-Scale Video Generative Models (Wan Team, 2025), https://arxiv.org/abs/2503.20314
    LTX-Video: Realtime Video Latent Diffusion (HaCohen et al., 2024), https://arxiv.org/abs/2501.00103
    CogVideoX: Text-to-Video Diffusion Models with An Expert Transformer (Yang et al., 2024), https://arxiv.org/abs/2408.06072
    Stable Video Diffusion (Blattmann et al., 2023), https://arxiv.org/abs/2311.15127
"""

__all__ = ["Family", "Prompt", "family_of"]

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

_LTX_STRIDES = (8, 32, 32)
"""Frames, rows and columns of pixels to a latent of LTX."""
_ROWS = ("embeds", "mask", "image_latents", "image_embeds", "added_time_ids")


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a released network is told of each sample, as its pipeline encodes it.

    Arguments:
        embeds: The pipeline's prompt_embeds; for SVD its image embeddings.
        mask: Which tokens exist.
        image_latents: Channels that stand beside the noisy ones.
        image_embeds: Features of an image, for those that read them beside text.
        added_time_ids: SVD's frame rate less one, motion bucket and noise augmentation.
        frame_rate: Frames per second, for LTX, whose positions are seconds.

    Raises:
        ValueError: They are not of the same number of samples, or the frame rate is not positive.
    """

    embeds: Float[Tensor, "batch token feature"]
    mask: Tensor | None = None
    image_latents: Float[Tensor, "batch time _ height width"] | None = None
    image_embeds: Float[Tensor, "batch patch seen"] | None = None
    added_time_ids: Float[Tensor, "batch 3"] | None = None
    frame_rate: float | None = None

    def __post_init__(self) -> None:
        sizes = {name: len(tensor) for name, tensor in self._tensors().items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"A prompt holds one row per sample in all that it says; got {sizes}.")
        if self.frame_rate is not None and not (self.frame_rate > 0 and math.isfinite(self.frame_rate)):
            raise ValueError(f"A frame rate is a positive number of frames per second; got {self.frame_rate}.")

    def __len__(self) -> int:
        return len(self.embeds)

    def rows(self, index: Int64[Tensor, "n"]) -> "Prompt":
        """What is said of some of the samples."""
        return replace(self, **{name: tensor[index.to(tensor.device)] for name, tensor in self._tensors().items()})

    def said(self) -> set[str]:
        """Names of what it holds."""
        return {*self._tensors(), *(() if self.frame_rate is None else ("frame_rate",))}

    def to(self, dtype: torch.dtype) -> "Prompt":
        """Its numbers in another type; a mask stays as it is."""
        kept = {name: tensor.to(dtype) for name, tensor in self._tensors().items() if name != "mask"}
        return replace(self, **kept)

    def after(self, first: "Prompt") -> "Prompt":
        """Both, one batch after the other; what the first leaves out, but for a mask, is as in this one.

        Raises:
            ValueError: They have other shapes or frame rates, or only one has a mask.
        """
        theirs, ours = first._tensors(), self._tensors()
        filled = {name: tensor for name, tensor in ours.items() if name != "mask"} | theirs
        shapes, wanted = ({name: tuple(x.shape) for name, x in found.items()} for found in (filled, ours))
        if shapes != wanted or first.frame_rate not in (None, self.frame_rate):
            raise ValueError(
                "A negative prompt has the shapes of the prompt, its frame rate, and a mask of its own where that has "
                f"one; got {shapes} at {first.frame_rate} for {wanted} at {self.frame_rate} frames per second."
            )
        return replace(self, **{name: torch.cat((filled[name], tensor)) for name, tensor in ours.items()})

    def _tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in _ROWS if getattr(self, name) is not None}


def _nothing_given(prompt: Prompt) -> Prompt:
    raise ValueError("Guidance leads away from a negative prompt; give one, that of no words for instance.")


def _nothing_seen(prompt: Prompt) -> Prompt:
    assert prompt.image_latents is not None, "checked with the prompt"
    return Prompt(torch.zeros_like(prompt.embeds), image_latents=torch.zeros_like(prompt.image_latents))


@dataclass(frozen=True, eq=False)
class Family:
    """A class of transformers.

    Arguments:
        ask: (transformer, noisy, timestep, prompt) -> prediction; noisy and prediction [batch time channel height
            width], in the transformer's type.
        patch: The sides (time, height, width) that sizes of latents are multiples of, from the configuration.
        needs: What a prompt must hold.
        takes: What it may hold besides.
        against: What guidance leads away from where nothing is given, for a prompt.
    """

    ask: Callable[[Any, Tensor, Tensor, Prompt], Tensor]
    patch: Callable[[Any], tuple[int, ...]]
    needs: frozenset[str]
    takes: frozenset[str] = frozenset()
    against: Callable[[Prompt], Prompt] = _nothing_given

    def check(self, prompt: Prompt) -> None:
        """Refuse a prompt that lacks what the model needs, or holds what it does not take.

        Raises:
            ValueError: It does.
        """
        said = prompt.said()
        if not self.needs <= said <= self.needs | self.takes:
            takes = ", ".join(sorted(self.takes)) or "no more"
            raise ValueError(
                f"This model needs {', '.join(sorted(self.needs))} and takes {takes}; the prompt holds "
                f"{', '.join(sorted(said))}."
            )


def family_of(transformer: Any) -> Family:
    """The class of a transformer, a compiled one's included.

    Raises:
        ValueError: It is not known.
    """
    name = type(getattr(transformer, "_orig_mod", transformer)).__name__
    if name not in _FAMILIES:
        raise ValueError(f"Released transformers known here are {', '.join(_FAMILIES)}; got {name}.")
    return _FAMILIES[name]


def _beside(noisy: Tensor, prompt: Prompt) -> Tensor:
    return noisy if prompt.image_latents is None else torch.cat((noisy, prompt.image_latents), dim=2)


def _ask_wan(network: Any, noisy: Tensor, timestep: Tensor, prompt: Prompt) -> Tensor:
    return network(
        hidden_states=_beside(noisy, prompt).transpose(1, 2),
        timestep=timestep,
        encoder_hidden_states=prompt.embeds,
        encoder_hidden_states_image=prompt.image_embeds,
        return_dict=False,
    )[0].transpose(1, 2)


def _ask_ltx(network: Any, noisy: Tensor, timestep: Tensor, prompt: Prompt) -> Tensor:
    assert prompt.frame_rate is not None, "checked with the prompt"
    frames, _, height, width = noisy.shape[1:]
    said = network(
        hidden_states=noisy.movedim(2, -1).flatten(1, 3),
        timestep=timestep,
        encoder_hidden_states=prompt.embeds,
        encoder_attention_mask=prompt.mask,
        num_frames=frames,
        height=height,
        width=width,
        rope_interpolation_scale=(_LTX_STRIDES[0] / prompt.frame_rate, *_LTX_STRIDES[1:]),
        return_dict=False,
    )[0]
    return said.unflatten(1, (frames, height, -1)).movedim(-1, 2)


def _ask_cogvideox(network: Any, noisy: Tensor, timestep: Tensor, prompt: Prompt) -> Tensor:
    config, rotary = network.config, None
    if config.use_rotary_positional_embeddings:
        sides = (noisy.shape[1], *(side // config.patch_size for side in noisy.shape[3:]))
        base = (config.sample_height // config.patch_size, config.sample_width // config.patch_size)
        rotary = _rotary(config.attention_head_dim, sides, base, config.patch_size_t, noisy.device)
    return network(
        hidden_states=_beside(noisy, prompt),
        timestep=timestep,
        encoder_hidden_states=prompt.embeds,
        image_rotary_emb=rotary,
        ofs=None if config.ofs_embed_dim is None else noisy.new_full((1,), 2.0),
        return_dict=False,
    )[0]


def _ask_svd(network: Any, noisy: Tensor, timestep: Tensor, prompt: Prompt) -> Tensor:
    return network(
        sample=_beside(noisy, prompt),
        timestep=timestep,
        encoder_hidden_states=prompt.embeds,
        added_time_ids=prompt.added_time_ids,
        return_dict=False,
    )[0]


@lru_cache(maxsize=8)
def _rotary(
    features: int, sides: tuple[int, ...], base: tuple[int, int], patch: int | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Rotary embeddings of CogVideoX: version 1.0 stretches the grid it was trained on, 1.5 numbers patches.

    Arguments:
        features: Of a head.
        sides: Frames, and rows and columns of patches.
        base: Rows and columns of patches in training.
        patch: Frames of a patch, in version 1.5.
        device: Where they shall be.
    """
    try:
        from diffusers.models.embeddings import get_3d_rotary_pos_embed
    except ImportError as error:
        raise ImportError(
            "Released models need diffusers; install it with the extra: pip install 'flowvid[pretrained]'."
        ) from error
    frames, grid = sides[0], sides[1:]
    # It is kept for callers who take gradients too, so it must not be made in inference mode.
    with torch.inference_mode(False), torch.no_grad():
        found: Any = (
            get_3d_rotary_pos_embed(features, _fitted(grid, base), grid, frames, device=device)
            if patch is None
            else get_3d_rotary_pos_embed(
                features, None, grid, frames // patch, grid_type="slice", max_size=base, device=device
            )
        )
    return found


def _fitted(grid: tuple[int, ...], base: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Corners of the largest rectangle of a grid's shape in the middle of another."""
    height, width = grid
    if height / width > base[0] / base[1]:
        rows, columns = base[0], round(base[0] / height * width)
    else:
        rows, columns = round(base[1] / width * height), base[1]
    top, left = round((base[0] - rows) / 2), round((base[1] - columns) / 2)
    return (top, left), (top + rows, left + columns)


_FAMILIES = {
    "WanTransformer3DModel": Family(
        _ask_wan,
        lambda config: tuple(config.patch_size),
        frozenset({"embeds"}),
        frozenset({"image_latents", "image_embeds"}),
    ),
    "LTXVideoTransformer3DModel": Family(
        _ask_ltx, lambda config: (1, 1, 1), frozenset({"embeds", "mask", "frame_rate"})
    ),
    "CogVideoXTransformer3DModel": Family(
        _ask_cogvideox,
        lambda config: (config.patch_size_t or 1, config.patch_size, config.patch_size),
        frozenset({"embeds"}),
        frozenset({"image_latents"}),
    ),
    "UNetSpatioTemporalConditionModel": Family(
        _ask_svd,
        lambda config: (1, 1, 1),
        frozenset({"embeds", "image_latents", "added_time_ids"}),
        against=_nothing_seen,
    ),
}
