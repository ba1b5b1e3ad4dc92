"""Codecs of diffusers behind ours: the same numbers as theirs, at times that mean what they say.

Every VAE is built here, tiny and random.
"""

import copy
import itertools
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flowvid.encoders.codec import IdentityCodec
from flowvid.encoders.pretrained import DiffusersImageCodec, DiffusersVideoCodec, load_diffusers
from flowvid.metrics.distortion import mean_absolute_error, psnr
from flowvid.metrics.reconstruction import reconstruction
from flowvid.video import Trajectory, Video, as_times

diffusers = pytest.importorskip("diffusers")

BLOCK = 4
FOUR = [1.0, 2.0, 0.5, 4.0]


@cache
def vae(name: str, **config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(diffusers, name)(**(TINY[name] | config)).eval()


TINY: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 8),
        "norm_num_groups": BLOCK,
        "latent_channels": 4,
        "scaling_factor": 0.3,
    },
    "AutoencoderKLTemporalDecoder": {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "block_out_channels": (32, 32),
        "layers_per_block": 1,
        "scaling_factor": 0.3,
    },
    "AutoencoderKLWan": {
        "base_dim": 4,
        "z_dim": 4,
        "dim_mult": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "latents_mean": [0.1, -0.2, 0.3, 0.4],
        "latents_std": FOUR,
    },
    "AutoencoderKLCogVideoX": {
        "down_block_types": ("CogVideoXDownBlock3D",) * 4,
        "up_block_types": ("CogVideoXUpBlock3D",) * 4,
        "block_out_channels": (8, 8, 8, 8),
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 2,
    },
    "AutoencoderKLHunyuanVideo": {
        "latent_channels": 4,
        "block_out_channels": (8, 8, 8, 8),
        "layers_per_block": 1,
        "norm_num_groups": BLOCK,
    },
    "AutoencoderKLLTXVideo": {
        "latent_channels": 4,
        "block_out_channels": (8, 8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8, 8),
        "layers_per_block": (1, 1, 1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1, 1, 1),
    },
}

# Class, side of a frame, frames, frames to a latent, frames the count must be one more than a multiple of.
CAUSAL = [
    ("AutoencoderKLWan", 16, 9, 4, 4),
    ("AutoencoderKLWan", 16, 5, 4, 4),
    ("AutoencoderKLHunyuanVideo", 16, 9, 4, 4),
    ("AutoencoderKLCogVideoX", 16, 9, 4, 8),
    ("AutoencoderKLCogVideoX", 16, 17, 4, 8),
    ("AutoencoderKLLTXVideo", 32, 9, 8, 8),
]
causal = pytest.mark.parametrize(("name", "side", "count", "stride", "group"), CAUSAL)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 1


def footage(count: int, side: int, *, clips: int = 2, fps: float = 25.0, start: float = 0.3) -> Video:
    return Video(uniform(clips, count, 3, side, side), as_times([start + i / fps for i in range(count)]))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------------------------------------------------------
# Images
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 8])
@pytest.mark.parametrize(
    ("config", "pipeline"),
    [
        ({"scaling_factor": 0.18215}, lambda raw: raw * 0.18215),
        ({"scaling_factor": 0.3611, "shift_factor": 0.1159}, lambda raw: (raw - 0.1159) * 0.3611),
        ({"scaling_factor": 1.0, "shift_factor": None}, lambda raw: raw),
    ],
)
def test_images_are_coded_as_diffusers_does(
    config: dict[str, float], pipeline: Callable[[Tensor], Tensor], batch: int
) -> None:
    theirs = vae("AutoencoderKL", **config)
    codec, video = DiffusersImageCodec(theirs, batch=batch), footage(3, 8, clips=1)
    found = codec.encode(video)
    with torch.no_grad():
        close(found.states[0], pipeline(theirs.encode(video.frames[0]).latent_dist.mean))
        raw = theirs.encode(video.frames[0]).latent_dist.mean
        close(codec.decode(found).frames[0], theirs.decode(raw).sample.clamp(-1, 1))
    assert torch.equal(found.times, video.times)
    assert torch.equal(codec.decode(found).times, video.times)


@pytest.mark.parametrize("name", ["AutoencoderKL", "AutoencoderKLHunyuanVideo"])
def test_decoded_frames_are_clipped(name: str) -> None:
    bright = copy.deepcopy(vae(name))
    last = bright.decoder.conv_out
    torch.nn.init.constant_(getattr(last, "conv", last).bias, 5.0)
    codec = (DiffusersImageCodec if name == "AutoencoderKL" else DiffusersVideoCodec)(bright)
    assert codec.decode(Trajectory(uniform(1, 1, 4, 2, 2), as_times([0.0]))).frames.unique().tolist() == [1.0]


def test_a_codec_is_frozen_and_its_units_are_no_weights() -> None:
    codec = DiffusersImageCodec(vae("AutoencoderKL").train())
    assert not codec.vae.training
    assert not any(parameter.requires_grad for parameter in codec.parameters())
    assert all(name.startswith("vae.") for name in codec.state_dict())


def test_latents_keep_the_type_of_the_frames() -> None:
    with torch.random.fork_rng(devices=[]):
        half = type(vae("AutoencoderKL"))(**TINY["AutoencoderKL"]).to(torch.bfloat16)
    codec = DiffusersImageCodec(half)
    latents = codec.latents(uniform(1, 3, 4, 4))
    assert latents.dtype == codec.frames(latents).dtype == torch.float32


# ----------------------------------------------------------------------------------------------------------------------
# Time
# ----------------------------------------------------------------------------------------------------------------------


@causal
def test_causal_codecs_are_diffusers_at_the_times_of_their_chunks(
    name: str, side: int, count: int, stride: int, group: int
) -> None:
    theirs, video = vae(name), footage(count, side)
    codec = DiffusersVideoCodec(theirs)
    found = codec.encode(video)
    assert (codec.stride, codec.group) == (stride, group)
    assert torch.equal(found.times, video.times[::stride])
    with torch.no_grad():
        raw = theirs.encode(video.frames.transpose(1, 2)).latent_dist.mean
        expected = theirs.decode(raw).sample.transpose(1, 2)
    match name:
        case "AutoencoderKLWan":
            mean, deviation = (torch.tensor(theirs.config[key]) for key in ("latents_mean", "latents_std"))
            latents = (raw - mean[:, None, None, None]) * (1 / deviation)[:, None, None, None]
        case "AutoencoderKLLTXVideo":
            latents = (raw - theirs.latents_mean[:, None, None, None]) / theirs.latents_std[:, None, None, None]
        case _:
            latents = raw * theirs.config.scaling_factor
    close(found.states, latents.transpose(1, 2))
    back = codec.decode(found)
    torch.testing.assert_close(back.times, video.times, rtol=0, atol=1e-12)
    torch.testing.assert_close(back.frames, expected.clamp(-1, 1), rtol=1e-3, atol=1e-4)


def test_the_units_of_buffers_are_used() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = type(vae("AutoencoderKLLTXVideo"))(**TINY["AutoencoderKLLTXVideo"], scaling_factor=0.5).eval()
    theirs.latents_mean.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    theirs.latents_std.copy_(torch.tensor(FOUR))
    codec, video = DiffusersVideoCodec(theirs), footage(9, 32, clips=1)
    with torch.no_grad():
        raw = theirs.encode(video.frames.transpose(1, 2)).latent_dist.mean.transpose(1, 2)
    found = codec.encode(video)
    close(found.states, (raw - theirs.latents_mean[:, None, None]) * 0.5 / theirs.latents_std[:, None, None])


@causal
def test_a_latent_has_seen_no_frame_after_its_time(
    name: str, side: int, count: int, stride: int, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apart from the statistics of group norms, which two of the networks take over time."""
    monkeypatch.setattr(torch.nn.GroupNorm, "forward", lambda self, x: x)
    codec, video = DiffusersVideoCodec(vae(name)), footage(count, side, clips=1)
    before = codec.encode(video).states
    for number in range(1, before.shape[1]):
        changed = video.frames.clone()
        changed[:, stride * (number - 1) + 1 :] *= -1
        after = codec.encode(Video(changed, video.times)).states
        assert torch.equal(after[:, :number], before[:, :number])
        assert not torch.allclose(after[:, number], before[:, number])


def test_a_temporal_decoder_keeps_every_time() -> None:
    theirs = vae("AutoencoderKLTemporalDecoder")
    codec = DiffusersVideoCodec(theirs)
    video = Video(uniform(2, 3, 3, 8, 8), as_times([0.0, 0.1, 0.7]))
    found = codec.encode(video)
    with torch.no_grad():
        raw = theirs.encode(video.frames.flatten(0, 1)).latent_dist.mean
        expected = theirs.decode(raw, num_frames=3).sample.clamp(-1, 1).unflatten(0, (2, 3))
        alone = codec.decode(Trajectory(found.states[:1, :1], as_times([0.0]))).frames
    close(found.states, 0.3 * raw.unflatten(0, (2, 3)))
    back = codec.decode(found)
    close(back.frames, expected)
    assert torch.equal(found.times, video.times)
    assert torch.equal(back.times, video.times)
    assert not torch.allclose(alone[0, 0], expected[0, 0])


@causal
def test_one_frame_is_one_latent(name: str, side: int, count: int, stride: int, group: int) -> None:
    codec, video = DiffusersVideoCodec(vae(name)), footage(1, side)
    found = codec.encode(video)
    assert found.states.shape[1] == 1
    assert torch.equal(codec.decode(found).times, video.times)


@causal
def test_other_numbers_of_frames_are_refused(name: str, side: int, count: int, stride: int, group: int) -> None:
    codec = DiffusersVideoCodec(vae(name))
    for wrong in range(2, group + 1):
        with pytest.raises(ValueError, match=rf"takes 1 \+ {group} k frames; got {wrong}. Leave {wrong - 1} out, or "):
            codec.encode(footage(wrong, side))
    if group > stride:
        with pytest.raises(ValueError, match=rf"decodes 1 \+ {group // stride} k latents; got 2"):
            codec.decode(Trajectory(uniform(1, 2, 4, 2, 2), as_times([0.0, 1.0])))


def test_uneven_frames_within_a_chunk_are_refused_and_stamps_in_milliseconds_are_not() -> None:
    codec = DiffusersVideoCodec(vae("AutoencoderKLWan"))
    frames = uniform(1, 9, 3, 16, 16)
    even = [i / 60 for i in range(9)]
    found = codec.encode(Video(frames, as_times([round(time, 3) for time in even])))
    torch.testing.assert_close(codec.decode(found).times, as_times(even), rtol=0, atol=1e-3)
    steps = [0.1, 0.1, 0.1, 0.1, 0.2, 0.2, 0.2, 0.2]
    slower = as_times([0.0, *itertools.accumulate(steps)])
    torch.testing.assert_close(codec.decode(codec.encode(Video(frames, slower))).times, slower, rtol=0, atol=1e-12)
    steps[4], steps[5] = 0.1, 0.3
    with pytest.raises(ValueError, match=r"frame 5 is off by 0.67 of a frame. Sample the footage at a constant rate"):
        codec.encode(Video(frames, as_times([0.0, *itertools.accumulate(steps)])))


def test_trajectories_backward_in_time_are_refused() -> None:
    codec = DiffusersVideoCodec(vae("AutoencoderKLWan"))
    with pytest.raises(ValueError, match="Times must increase strictly"):
        codec.decode(Trajectory(uniform(1, 2, 4, 2, 2), as_times([1.0, 0.0], backward=True)))


# ----------------------------------------------------------------------------------------------------------------------
# Files and refusals
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["AutoencoderKL", "AutoencoderKLWan"])
def test_a_folder_holds_the_same_codec(name: str, tmp_path: Path) -> None:
    vae(name).save_pretrained(tmp_path / "pipeline" / "vae")
    found = load_diffusers(str(tmp_path / "pipeline" / "vae"))
    ours = (DiffusersImageCodec if name == "AutoencoderKL" else DiffusersVideoCodec)(vae(name))
    assert type(found) is type(ours)
    video = footage(5, 16, clips=1)
    assert torch.equal(found.encode(video).states, ours.encode(video).states)
    with pytest.raises(ValueError, match=r"has no config.json. Did you mean .*vae"):
        load_diffusers(tmp_path / "pipeline")


def test_what_is_no_folder_of_a_known_vae_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config.json. Nothing is downloaded"):
        load_diffusers("someone/some-vae")
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderOobleck"}')
    with pytest.raises(ValueError, match="holds a AutoencoderOobleck; flowvid can use AutoencoderKL, "):
        load_diffusers(tmp_path)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    vae("AutoencoderKL").save_pretrained(tmp_path, safe_serialization=False)
    assert not list(tmp_path.glob("*.safetensors"))
    with pytest.raises(ValueError, match="missing or damaged, or no safetensors"):
        load_diffusers(tmp_path)


def test_without_diffusers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vae("AutoencoderKL").save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"pip install 'flowvid\[pretrained\]'"):
        load_diffusers(tmp_path)


def test_networks_of_other_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="AutoencoderKL; got AutoencoderKLWan"):
        DiffusersImageCodec(vae("AutoencoderKLWan"))
    with pytest.raises(ValueError, match="AutoencoderKLWan; got AutoencoderKL"):
        DiffusersVideoCodec(vae("AutoencoderKL"))
    with pytest.raises(ValueError, match="wants a noise level"):
        DiffusersVideoCodec(vae("AutoencoderKLLTXVideo", timestep_conditioning=True))
    with pytest.raises(ValueError, match="batch=0"):
        DiffusersImageCodec(vae("AutoencoderKL"), batch=0)


@pytest.mark.parametrize(
    ("name", "sides"), [("AutoencoderKL", 2), ("AutoencoderKLWan", 8), ("AutoencoderKLCogVideoX", 8)]
)
def test_frames_that_do_not_fit_are_refused(name: str, sides: int) -> None:
    codec = (DiffusersImageCodec if name == "AutoencoderKL" else DiffusersVideoCodec)(vae(name))
    for channels, height, width in ((1, 16, 16), (3, 16, 15), (3, 17, 16)):
        with pytest.raises(ValueError, match=rf"3 channels with sides that are multiples of {sides}; got"):
            codec.encode(Video(uniform(1, 1, channels, height, width), as_times([0.0])))


def test_what_wraps_a_vae_is_saved_through_diffusers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="DiffusersImageCodec was built with vae, which JSON cannot hold"):
        DiffusersImageCodec(vae("AutoencoderKL")).save_pretrained(tmp_path / "model")


# ----------------------------------------------------------------------------------------------------------------------
# What a codec loses
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_reconstruction_is_the_mean_over_all_frames(batch: int) -> None:
    codec, video = DiffusersImageCodec(vae("AutoencoderKL")), footage(5, 8)
    decoded = codec.decode(codec.encode(video))
    found = reconstruction(codec, video, batch=batch)
    assert found.keys() == {"psnr", "mean_absolute_error"}
    assert found["psnr"] == pytest.approx(psnr(decoded, video).mean().item(), rel=1e-5)
    assert found["mean_absolute_error"] == pytest.approx(mean_absolute_error(decoded, video).mean().item(), rel=1e-5)


def test_a_codec_of_time_takes_whole_clips() -> None:
    codec, video = DiffusersVideoCodec(vae("AutoencoderKLWan")), footage(9, 16)
    decoded = codec.decode(codec.encode(video))
    assert reconstruction(codec, video, batch=2)["psnr"] == pytest.approx(psnr(decoded, video).mean().item(), rel=1e-5)


def test_the_identity_loses_nothing() -> None:
    assert reconstruction(IdentityCodec(), footage(3, 4)) == {"psnr": 100.0, "mean_absolute_error": 0.0}
    with pytest.raises(ValueError, match="batch=0"):
        reconstruction(IdentityCodec(), footage(3, 4), batch=0)
