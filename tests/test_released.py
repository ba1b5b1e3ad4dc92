"""Released video models behind our solvers: their own pipelines to the last digits, then what theirs cannot do.

Every network is built here, tiny and random, of the released class; nothing is downloaded.
"""

import copy
import math
import sys
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flowvid.denoise.ddim import Ddim
from flowvid.denoise.guidance import classifier_free, reconstruction_guided, shown
from flowvid.denoise.released import Prompt, released_denoiser, released_drift, released_levels
from flowvid.denoise.released_timing import timing_of
from flowvid.denoise.schedule import ANGLE_UNIFORM, LinearPath
from flowvid.denoise.scheduler import Scheduled
from flowvid.noise import Noise
from flowvid.solve.adaptive import Adaptive
from flowvid.solve.grid import Grid
from flowvid.solvers import make_solver, solve

diffusers = pytest.importorskip("diffusers")
# Their Euler scheduler asks numpy for tables in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BATCH, FRAMES, CHANNELS, SIDES, TOKENS, WIDTH = 2, 3, 4, (4, 6), 5, 8
TINY: dict[str, dict[str, Any]] = {
    "WanTransformer3DModel": {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "text_dim": WIDTH,
        "freq_dim": 16,
        "ffn_dim": 16,
        "num_layers": 1,
        "rope_max_seq_len": 32,
    },
    "LTXVideoTransformer3DModel": {
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "cross_attention_dim": 24,
        "num_layers": 1,
        "caption_channels": WIDTH,
    },
    "CogVideoXTransformer3DModel": {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "time_embed_dim": 8,
        "text_embed_dim": WIDTH,
        "num_layers": 1,
        "sample_width": 6,
        "sample_height": 6,
        "sample_frames": 9,
        "max_text_seq_length": TOKENS,
        "use_rotary_positional_embeddings": True,
    },
    "UNetSpatioTemporalConditionModel": {
        "in_channels": 2 * CHANNELS,
        "out_channels": CHANNELS,
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal",),
        "up_block_types": ("CrossAttnUpBlockSpatioTemporal",),
        # Twice the 32 groups of its norms, which would take out all that the time says of a single channel.
        "block_out_channels": (64,),
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24,
        "layers_per_block": 1,
        "cross_attention_dim": WIDTH,
        "num_attention_heads": 2,
        "num_frames": FRAMES,
    },
    "FlowMatchEulerDiscreteScheduler": {"shift": 3.0},
    "UniPCMultistepScheduler": {
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": 3.0,
    },
    "CogVideoXDDIMScheduler": {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "snr_shift_scale": 1.0,
    },
    "EulerDiscreteScheduler": {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "sigma_min": 0.002,
        "sigma_max": 700.0,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "timestep_type": "continuous",
        "use_karras_sigmas": True,
    },
}
"""Schedulers as they were released."""
LTX_FLOW = {"shift": 1.0, "use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05, "shift_terminal": 0.1}
FAMILIES = {
    "wan": ("WanTransformer3DModel", "FlowMatchEulerDiscreteScheduler"),
    "ltx": ("LTXVideoTransformer3DModel", "FlowMatchEulerDiscreteScheduler"),
    "cogvideox": ("CogVideoXTransformer3DModel", "CogVideoXDDIMScheduler"),
    "svd": ("UNetSpatioTemporalConditionModel", "EulerDiscreteScheduler"),
}
EACH_FAMILY = pytest.mark.parametrize("family", FAMILIES)
EDGE_OF_SVD = 2 / math.pi * math.atan(700)


def scheduler_of(name: str, **config: Any) -> Any:
    """A new one each time, since schedulers keep where they are."""
    if not hasattr(diffusers, name):
        pytest.skip(f"diffusers {diffusers.__version__} has no {name}")
    return getattr(diffusers, name)(**(TINY[name] | config))


@cache
def network_of(name: str, **config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return scheduler_of(name, **config).eval().requires_grad_(False)


@cache
def calm(family: str) -> Any:
    """A network that is deaf to the fast half of its time embedding, which turns by up to one radian per timestep.

    A random one follows those turns, a thousand radians from noise to data, and no solver takes few steps over that.
    """
    network = copy.deepcopy(network_of(FAMILIES[family][0]))
    first = {
        "wan": lambda: network.condition_embedder.time_embedder,
        "ltx": lambda: network.time_embed.emb.timestep_embedder,
        "cogvideox": lambda: network.time_embedding,
        "svd": lambda: network.time_embedding,
    }[family]().linear_1
    first.weight.unflatten(1, (4, -1))[:, [0, 2]] = 0
    return network


def of(family: str) -> tuple[Any, Any]:
    network, scheduler = FAMILIES[family]
    return network_of(network), scheduler_of(scheduler, **(LTX_FLOW if family == "ltx" else {}))


def draw(name: str, *shape: int, samples: int = BATCH, seed: int = 0) -> Tensor:
    return Noise.batch(seed, samples).normal(name, *shape)


def latents(samples: int = BATCH) -> Tensor:
    return draw("latents", FRAMES, CHANNELS, *SIDES, samples=samples)


def prompt_of(family: str, name: str = "prompt", samples: int = BATCH) -> Prompt:
    embeds = draw(name, 1 if family == "svd" else TOKENS, WIDTH, samples=samples)
    if family == "ltx":
        mask = torch.arange(TOKENS) < (4 if name == "prompt" else 2)
        return Prompt(embeds, mask=mask.float().expand(samples, -1), frame_rate=25.0)
    if family == "svd":
        image = draw(name + " image", 1, CHANNELS, *SIDES, samples=samples).expand(-1, FRAMES, -1, -1, -1)
        return Prompt(embeds, image_latents=image, added_time_ids=torch.tensor([[6.0, 127.0, 0.02]]).expand(samples, 3))
    return Prompt(embeds)


def frame_scales(high: float) -> Tensor:
    return torch.linspace(1.0, high, FRAMES)


def denoiser_of(family: str, guidance: float = 1.0, samples: int = BATCH, network: Any = None) -> Any:
    own, scheduler = of(family)
    negative = None if family == "svd" else prompt_of(family, "negative", samples)
    scale = frame_scales(guidance) if family == "svd" else guidance
    prompt = prompt_of(family, samples=samples)
    return released_denoiser(network or own, scheduler, prompt, negative=negative, guidance=scale)


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def of_pipeline(family: str, network: Any, scheduler: Any, begin: Tensor, *, steps: int, guidance: float) -> Tensor:
    """What the released pipeline makes of standard noise; its own code from the encoded prompt to the last latents."""
    prompt = prompt_of(family)
    height, width = begin.shape[-2:]
    common: dict[str, Any] = {"num_inference_steps": steps, "output_type": "latent"}
    if family == "svd":
        return of_svd(network, scheduler, begin, prompt, guidance, common)
    negative = prompt_of(family, "negative")
    common |= {
        "prompt_embeds": prompt.embeds,
        "negative_prompt_embeds": negative.embeds,
        "guidance_scale": guidance,
    }
    parts = {"tokenizer": None, "text_encoder": None, "vae": None, "transformer": network, "scheduler": scheduler}
    if family == "wan":
        pipeline = quiet(diffusers.WanPipeline(**parts))
        found = pipeline(
            **common, height=8 * height, width=8 * width, num_frames=4 * FRAMES - 3, latents=begin.transpose(1, 2)
        )
        return found.frames.transpose(1, 2)
    if family == "cogvideox":
        pipeline = quiet(diffusers.CogVideoXPipeline(**parts))
        frames = begin.shape[1]
        return pipeline(**common, height=8 * height, width=8 * width, num_frames=4 * frames - 3, latents=begin).frames
    pipeline = quiet(diffusers.LTXPipeline(**parts))
    tokens = pipeline._pack_latents(begin.transpose(1, 2))
    found = pipeline(
        **common,
        height=32 * height,
        width=32 * width,
        num_frames=8 * FRAMES - 7,
        latents=tokens,
        prompt_attention_mask=prompt.mask,
        negative_prompt_attention_mask=negative.mask,
    )
    return pipeline._unpack_latents(found.frames, FRAMES, height, width).transpose(1, 2)


def of_svd(network: Any, scheduler: Any, begin: Tensor, prompt: Prompt, guidance: float, common: Any) -> Tensor:
    """SVD's pipeline, whose image encoders answer what the prompt holds."""
    pipeline = quiet(
        diffusers.StableVideoDiffusionPipeline(
            vae=None, image_encoder=None, unet=network, scheduler=scheduler, feature_extractor=None
        )
    )
    pipeline.vae = SimpleNamespace(dtype=torch.float32)
    assert prompt.image_latents is not None

    def encoded(told: Tensor) -> Any:
        def encode(*inputs: Any, **options: Any) -> Tensor:
            return torch.cat((torch.zeros_like(told), told)) if guidance > 1 else told

        return encode

    pipeline._encode_image = encoded(prompt.embeds)
    pipeline._encode_vae_image = encoded(prompt.image_latents[:, 0])
    height, width = (8 * side for side in begin.shape[-2:])
    return pipeline(
        torch.zeros(len(begin), 3, height, width),
        height=height,
        width=width,
        num_frames=FRAMES,
        latents=begin,
        max_guidance_scale=guidance,
        **common,
    ).frames


def moved(denoiser: Any, begin: Tensor, levels: Any, solver: Any) -> Tensor:
    with torch.no_grad():
        return solve(denoiser, begin, levels, solver).trajectory.states[:, -1]


# The pipelines


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("steps", [2, 5])
@EACH_FAMILY
def test_through_its_levels_ddim_is_the_loop_of_the_released_pipeline(family: str, steps: int, guidance: float) -> None:
    network, scheduler = of(family)
    begin = latents()
    expected = of_pipeline(family, network, scheduler, begin, steps=steps, guidance=guidance)
    levels = released_levels(scheduler)
    found = moved(denoiser_of(family, guidance), begin, levels, Ddim(substeps=1))
    assert len(levels) == steps + 1
    assert levels[0] == pytest.approx(EDGE_OF_SVD if family == "svd" else 1.0, abs=1e-9)
    assert levels[-1] == 0
    assert float((expected - begin).std()) > 0.1
    # Theirs holds SVD's states unscaled, up to 700 in float32.
    torch.testing.assert_close(found, expected, atol=4e-4 if family == "svd" else 2e-5, rtol=2e-5)


def test_with_less_noise_svds_loop_is_met_more_closely() -> None:
    network, scheduler = of("svd")[0], scheduler_of("EulerDiscreteScheduler", sigma_max=5.0)
    begin, prompt = latents(), prompt_of("svd")
    expected = of_pipeline("svd", network, scheduler, begin, steps=5, guidance=3.0)
    denoiser = released_denoiser(network, scheduler, prompt, guidance=frame_scales(3.0))
    found = moved(denoiser, begin, released_levels(scheduler), Ddim(substeps=1))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["wan", "ltx"])
def test_for_flows_it_is_eulers_method_and_their_scheduler_samples_the_denoiser_too(family: str) -> None:
    network, scheduler = of(family)
    begin = latents()
    expected = of_pipeline(family, network, scheduler, begin, steps=4, guidance=4.0)
    denoiser = denoiser_of(family, 4.0)
    found = moved(denoiser, begin, released_levels(scheduler), Grid(method="euler", substeps=1))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
    if family == "wan":
        theirs = Scheduled(scheduler=scheduler, steps=4, level_of=lambda t: t / 1000, predicts="velocity")
        torch.testing.assert_close(moved(denoiser, begin, [1.0, 0.0], theirs), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    ("patch", "size"), [(None, (4, 12)), (None, (12, 4)), (None, (6, 6)), (2, (6, 6)), (2, (4, 6)), (2, (6, 2))]
)
def test_both_versions_of_cogvideox_know_their_positions(patch: int | None, size: tuple[int, int]) -> None:
    """1.0 stretches the grid it was trained on to that of another shape, 1.5 numbers patches of two frames."""
    network = network_of("CogVideoXTransformer3DModel", patch_size_t=patch)
    scheduler = of("cogvideox")[1]
    begin = draw("latents", 2, CHANNELS, *size)
    expected = of_pipeline("cogvideox", network, scheduler, begin, steps=2, guidance=3.0)
    found = moved(denoiser_of("cogvideox", 3.0, network=network), begin, released_levels(scheduler), Ddim(substeps=1))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


@EACH_FAMILY
def test_the_clean_data_are_those_that_the_released_scheduler_predicts(family: str) -> None:
    scheduler, noisy = of(family)[1], latents()
    scheduler.set_timesteps(5, **({"mu": 1.1} if family == "ltx" else {}))
    denoiser, levels = denoiser_of(family), released_levels(scheduler)
    for index, (timestep, level) in enumerate(zip(scheduler.timesteps, levels, strict=False)):
        said, scale = denoiser.ask(noisy, level), 1.0
        if family == "svd":
            scale = math.hypot(1.0, float(scheduler.sigmas[index]))
        if family in ("wan", "ltx"):
            expected = noisy - float(scheduler.sigmas[index]) * said
        else:
            expected = scheduler.step(said, timestep, noisy * scale).pred_original_sample
        torch.testing.assert_close(denoiser.clean(noisy, level), expected, atol=3e-5 * scale, rtol=1e-4)


# Levels and timesteps


def test_every_released_timestep_of_cogvideox_is_met_exactly_and_none_lies_beyond() -> None:
    for shift in (1.0, 3.0):
        scheduler = scheduler_of("CogVideoXDDIMScheduler", snr_shift_scale=shift)
        found, kept = timing_of(scheduler), scheduler.alphas_cumprod.double()
        levels = torch.atan2((1 - kept).sqrt(), kept.sqrt()) * 2 / math.pi
        torch.testing.assert_close(ANGLE_UNIFORM.signal(levels).square(), kept, atol=1e-12, rtol=1e-9)
        numbers = torch.arange(1000, dtype=torch.float64)
        torch.testing.assert_close(found.timestep(levels), numbers, atol=1e-7, rtol=0)
        assert found.predicts == "v"
        ends = found.timestep(torch.tensor([0.0, 1.0], dtype=torch.float64))
        assert ends.tolist() == pytest.approx([0.0, 999.0])
        fine = found.timestep(torch.linspace(0, 1, 20001, dtype=torch.float64))
        assert bool((fine.diff() >= 0).all())
        assert fine.min() >= 0
        assert fine.max() <= 999 + 1e-9
        between = found.timestep((levels[1:] + levels[:-1]) / 2)
        torch.testing.assert_close(between, numbers[:-1] + 0.5, atol=0.2, rtol=0)


def test_the_interpolated_timestep_has_no_kinks() -> None:
    """The slope on both sides of a released timestep is one, so that error control meets no corner."""
    scheduler = scheduler_of("CogVideoXDDIMScheduler")
    found, kept, step = timing_of(scheduler), scheduler.alphas_cumprod.double(), 1e-9
    levels = (torch.atan2((1 - kept).sqrt(), kept.sqrt()) * 2 / math.pi)[1:-1]
    before, at, after = (found.timestep(levels + shift) for shift in (-step, 0.0, step))
    torch.testing.assert_close((after - at) / step, (at - before) / step, atol=1.0, rtol=1e-3)


@cache
def timing(name: str) -> Any:
    return timing_of(scheduler_of(name))


@given(st.floats(-8, 8))
def test_svd_is_told_a_quarter_of_the_log_of_the_noise(logarithm: float) -> None:
    level = torch.tensor(2 / math.pi * math.atan(math.exp(logarithm)), dtype=torch.float64)
    expected = min(max(logarithm, math.log(0.002)), math.log(700)) / 4
    assert float(timing("EulerDiscreteScheduler").timestep(level)) == pytest.approx(expected, abs=1e-9)


def test_without_a_range_the_table_gives_svds() -> None:
    scheduler = scheduler_of("EulerDiscreteScheduler", sigma_min=None, sigma_max=None)
    ends = timing_of(scheduler).timestep(torch.tensor([0.0, 1.0], dtype=torch.float64))
    expected = (((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt().log() / 4)[[0, -1]]
    torch.testing.assert_close(ends, expected.double(), atol=1e-6, rtol=1e-6)


@given(st.floats(0, 1))
def test_flows_are_told_the_level_whatever_the_shift(level: float) -> None:
    at = torch.tensor(level, dtype=torch.float64)
    for name in ("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"):
        assert (timing(name).predicts, timing(name).schedule) == ("velocity", LinearPath())
        assert float(timing(name).timestep(at)) == 1000 * level


def test_levels_of_a_flow_are_its_shifted_sigmas() -> None:
    scheduler = scheduler_of("UniPCMultistepScheduler")
    scheduler.set_timesteps(10)
    even = np.linspace(1, 1 / 1000, 11)[:-1]
    assert released_levels(scheduler) == pytest.approx([*(3 * even / (1 + 2 * even)), 0.0], abs=1e-5)


def test_levels_of_cogvideox_end_where_its_scheduler_does() -> None:
    scheduler = scheduler_of("CogVideoXDDIMScheduler", set_alpha_to_one=False)
    scheduler.set_timesteps(4)
    last = math.acos(math.sqrt(float(scheduler.alphas_cumprod[0]))) * 2 / math.pi
    assert released_levels(scheduler)[-1] == pytest.approx(last, abs=1e-9)
    assert released_levels(scheduler)[:2] == pytest.approx(
        [math.acos(math.sqrt(float(scheduler.alphas_cumprod[t]))) * 2 / math.pi for t in (999, 749)], abs=1e-9
    )


# Solvers that the pipelines do not have


@EACH_FAMILY
def test_solvers_agree_the_better_the_tighter_they_are_and_to_their_orders(family: str) -> None:
    denoiser, begin = denoiser_of(family, samples=1, network=calm(family)), latents(1)

    def error(name: str, **options: float) -> float:
        found = moved(denoiser, begin, [1.0, 0.0], make_solver(name, **options))
        return float((found - expected).abs().max())

    expected = moved(denoiser, begin, [1.0, 0.0], make_solver("rk4", substeps=16))
    loose, tight = (error("dopri5", rtol=tolerance, atol=tolerance) for tolerance in (1e-2, 1e-4))
    assert tight < min(5e-4, max(loose / 3, 3e-5))
    assert error("euler", substeps=5) / error("euler", substeps=10) == pytest.approx(2, rel=0.2)
    few = 2 if family == "svd" else 4
    assert error("rk4", substeps=few) / error("rk4", substeps=2 * few) > 6
    assert error("ddim", substeps=5) / error("ddim", substeps=10) == pytest.approx(2, rel=0.3)


@EACH_FAMILY
def test_a_sample_under_its_own_control_does_not_depend_on_its_batch(family: str) -> None:
    sizes = torch.tensor([1.0, 6.0 if family == "wan" else 0.05])
    begin, solver = latents() * sizes.reshape(-1, 1, 1, 1, 1), Adaptive(method="dopri5", rtol=1e-4)
    denoiser = denoiser_of(family, network=calm(family))
    drift = released_drift(denoiser)
    with torch.no_grad():
        together, apart = (solve(field, begin, [1.0, 0.0], solver) for field in (denoiser, drift))
        for row in range(BATCH):
            alone = solve(drift.rows(torch.tensor([row])), begin[row : row + 1], [1.0, 0.0], solver)
            for solution in (together, apart):
                states = solution.trajectory.states[row : row + 1]
                torch.testing.assert_close(alone.trajectory.states, states, atol=1e-3, rtol=1e-3)
            assert apart.samples[row].evaluations == pytest.approx(alone.evaluations, abs=7)
    needed = [sample.evaluations for sample in apart.samples]
    assert apart.evaluations == pytest.approx(sum(needed) / BATCH)
    assert together.evaluations == pytest.approx(max(needed))
    assert min(needed) < max(needed)


def test_it_encodes_what_it_decodes() -> None:
    denoiser, begin = denoiser_of("cogvideox", network=calm("cogvideox")), latents()
    sampled = moved(denoiser, begin, [1.0, 0.0], make_solver("rk4", substeps=10))
    torch.testing.assert_close(
        moved(denoiser, sampled, [0.0, 1.0], make_solver("rk4", substeps=10)), begin, atol=1e-3, rtol=0
    )


# What a network is told


@EACH_FAMILY
def test_guidance_of_a_double_batch_is_that_of_two_denoisers(family: str) -> None:
    network, scheduler = of(family)
    prompt, negative, noisy, level = prompt_of(family), prompt_of(family, "negative"), latents(), 0.6
    told, against = (released_denoiser(network, scheduler, each) for each in (prompt, negative))
    both = released_denoiser(network, scheduler, prompt, negative=negative, guidance=3.0)
    expected = classifier_free(told, against, 3.0).ask(noisy, level)
    torch.testing.assert_close(both.ask(noisy, level), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(told.ask(noisy, level), against.ask(noisy, level), atol=1e-3)
    alone = released_denoiser(network, scheduler, prompt, negative=negative, guidance=1.0)
    torch.testing.assert_close(alone.ask(noisy, level), told.ask(noisy, level), atol=0, rtol=0)


@EACH_FAMILY
def test_each_frame_and_each_row_has_its_own(family: str) -> None:
    """Scales belong to frames; rows keep their prompt, their negative prompt and their level."""
    network, scheduler = of(family)
    prompt, negative, noisy = prompt_of(family), prompt_of(family, "negative"), latents()
    told, against = (released_denoiser(network, scheduler, each).ask(noisy, 0.6) for each in (prompt, negative))
    scales = torch.tensor([1.0, 0.0, 2.5])
    guided = released_denoiser(network, scheduler, prompt, negative=negative, guidance=scales)
    expected = torch.stack((told[:, 0], against[:, 1], against[:, 2] + 2.5 * (told - against)[:, 2]), dim=1)
    torch.testing.assert_close(guided.ask(noisy, 0.6), expected, atol=1e-5, rtol=1e-5)
    levels = torch.tensor([0.3, 0.8], dtype=torch.float64)
    drift = released_drift(guided)
    rates = drift(levels, noisy)
    torch.testing.assert_close(rates, guided(levels, noisy), atol=0, rtol=0)
    for row, level in enumerate(levels):
        alone = drift.rows(torch.tensor([row]))(level, noisy[row : row + 1])
        torch.testing.assert_close(alone[0], rates[row], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(guided(float(level), noisy)[row], rates[row], atol=1e-4, rtol=1e-4)


def test_what_a_negative_prompt_leaves_out_is_as_in_the_prompt() -> None:
    network, scheduler = of("svd")
    prompt, noisy = prompt_of("svd"), latents()
    zeros = torch.zeros_like(prompt.embeds)
    short = released_denoiser(network, scheduler, prompt, negative=Prompt(zeros), guidance=2.0)
    full = released_denoiser(network, scheduler, prompt, negative=replace(prompt, embeds=zeros), guidance=2.0)
    torch.testing.assert_close(short.ask(noisy, 0.5), full.ask(noisy, 0.5), atol=0, rtol=0)
    assert prompt.image_latents is not None
    unseen = replace(prompt, embeds=zeros, image_latents=torch.zeros_like(prompt.image_latents))
    default = released_denoiser(network, scheduler, prompt, guidance=2.0)
    other = released_denoiser(network, scheduler, prompt, negative=unseen, guidance=2.0)
    torch.testing.assert_close(default.ask(noisy, 0.5), other.ask(noisy, 0.5), atol=0, rtol=0)
    assert not torch.allclose(default.ask(noisy, 0.5), short.ask(noisy, 0.5), atol=1e-4)


def test_image_to_video_of_wan_is_told_its_channels_and_its_image() -> None:
    network = network_of("WanTransformer3DModel", in_channels=2 * CHANNELS + 2, image_dim=WIDTH, added_kv_proj_dim=24)
    noisy, beside = latents(), draw("beside", FRAMES, CHANNELS + 2, *SIDES)
    prompt = replace(prompt_of("wan"), image_latents=beside, image_embeds=draw("seen", 3, WIDTH))
    found = released_denoiser(network, of("wan")[1], prompt).ask(noisy, 0.25)
    expected = network(
        hidden_states=torch.cat((noisy.transpose(1, 2), beside.transpose(1, 2)), dim=1),
        timestep=torch.full((BATCH,), 250.0),
        encoder_hidden_states=prompt.embeds,
        encoder_hidden_states_image=prompt.image_embeds,
    ).sample.transpose(1, 2)
    torch.testing.assert_close(found, expected)


def test_image_to_video_of_cogvideox_is_told_its_image_and_its_offset() -> None:
    network = network_of(
        "CogVideoXTransformer3DModel", in_channels=2 * CHANNELS, ofs_embed_dim=8, use_rotary_positional_embeddings=False
    )
    noisy, beside = latents(), draw("beside", FRAMES, CHANNELS, *SIDES)
    prompt = replace(prompt_of("cogvideox"), image_latents=beside)
    found = released_denoiser(network, of("cogvideox")[1], prompt).ask(noisy, 1.0)
    expected = network(
        hidden_states=torch.cat((noisy, beside), dim=2),
        timestep=torch.full((BATCH,), 999),
        encoder_hidden_states=prompt.embeds,
        ofs=torch.full((1,), 2.0),
    ).sample
    torch.testing.assert_close(found, expected)


def test_a_network_runs_in_its_own_type_and_answers_in_the_callers() -> None:
    exact, noisy = denoiser_of("wan"), latents()
    coarse = denoiser_of("wan", network=copy.deepcopy(of("wan")[0]).to(torch.bfloat16))
    said = coarse.ask(noisy, 0.5)
    assert said.dtype == torch.float32
    torch.testing.assert_close(said, exact.ask(noisy, 0.5), atol=0.1, rtol=0.1)


def test_guidance_by_gradients_works_after_inference_mode() -> None:
    """What is kept of CogVideoX's positions from the first call must not bar gradients from a later one."""
    denoiser, noisy = denoiser_of("cogvideox"), draw("latents", FRAMES + 1, CHANNELS, 6, 6)
    with torch.inference_mode():
        said = denoiser.ask(noisy, 0.5)
    mask = torch.zeros(BATCH, FRAMES + 1, dtype=torch.bool)
    mask[:, 0] = True
    guided = reconstruction_guided(denoiser, shown(mask)(noisy), shown(mask)).ask(noisy, 0.5)
    assert bool(guided.isfinite().all())
    assert not torch.allclose(guided, said, atol=1e-4)


def test_a_compiled_network_is_known() -> None:
    network, scheduler = of("wan")
    compiled = SimpleNamespace(_orig_mod=network)
    network: Any = released_denoiser(compiled, scheduler, prompt_of("wan")).network
    assert network.transformer is compiled


# Refusals


def test_networks_and_schedulers_that_are_not_known_are_refused_by_name() -> None:
    network, scheduler = of("wan")
    prompt = prompt_of("wan")
    with pytest.raises(ValueError, match=r"known here are WanTransformer3DModel, .*got Linear"):
        released_denoiser(torch.nn.Linear(1, 1), scheduler, prompt)
    with pytest.raises(ValueError, match=r"Schedulers of released models .*got SimpleNamespace"):
        released_denoiser(network, SimpleNamespace(), prompt)
    for name, config in (
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": False}),
        ("UniPCMultistepScheduler", {"prediction_type": "epsilon"}),
        ("CogVideoXDDIMScheduler", {"prediction_type": "epsilon"}),
        ("EulerDiscreteScheduler", {"timestep_type": "discrete"}),
        ("EulerDiscreteScheduler", {"prediction_type": "epsilon"}),
    ):
        with pytest.raises(ValueError, match=f"Schedulers of released models .*got {name}"):
            released_denoiser(network, scheduler_of(name, **config), prompt)
    still = scheduler_of("CogVideoXDDIMScheduler", trained_betas=[0.1, 0.0, 0.1], num_train_timesteps=3)
    with pytest.raises(ValueError, match="must grow"):
        released_denoiser(network, still, prompt)
    for family in FAMILIES:
        with pytest.raises(ValueError, match="no timesteps yet"):
            released_levels(of(family)[1])


@pytest.mark.parametrize(
    ("family", "change", "words"),
    [
        ("wan", {"frame_rate": 25.0}, "takes image_embeds, image_latents; the prompt holds embeds, frame_rate"),
        ("ltx", {"frame_rate": None}, "needs embeds, frame_rate, mask and takes no more; .*holds embeds, mask"),
        ("ltx", {"mask": None}, "needs embeds, frame_rate, mask"),
        ("cogvideox", {"added_time_ids": torch.zeros(BATCH, 3)}, "takes image_latents"),
        ("svd", {"added_time_ids": None}, "needs added_time_ids"),
        ("svd", {"image_latents": None}, "needs added_time_ids, embeds, image_latents"),
    ],
)
def test_prompts_that_do_not_fit_the_model_are_refused(family: str, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        released_denoiser(*of(family), replace(prompt_of(family), **change))


def test_prompts_that_do_not_fit_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match="one row per sample"):
        Prompt(draw("prompt", 2, 3), mask=torch.ones(3, 2))
    for rate in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="positive number of frames per second"):
            Prompt(draw("prompt", 2, 3), frame_rate=rate)


def test_guidance_that_cannot_be_is_refused() -> None:
    network, scheduler = of("ltx")
    prompt, noisy = prompt_of("ltx"), latents()
    assert prompt.mask is not None
    for scale in (math.nan, math.inf):
        with pytest.raises(ValueError, match="finite scale"):
            released_denoiser(network, scheduler, prompt, negative=prompt, guidance=scale)
    with pytest.raises(ValueError, match="give one"):
        released_denoiser(network, scheduler, prompt, guidance=2.0)
    for wrong in (
        Prompt(prompt.embeds),
        replace(prompt, embeds=prompt.embeds[:, :3], mask=prompt.mask[:, :3]),
        replace(prompt, frame_rate=24.0),
        prompt.rows(torch.tensor([0])),
        replace(prompt, added_time_ids=torch.zeros(BATCH, 3)),
    ):
        with pytest.raises(ValueError, match="A negative prompt has the shapes of the prompt"):
            released_denoiser(network, scheduler, prompt, negative=wrong, guidance=2.0)
    two = released_denoiser(network, scheduler, prompt, negative=prompt, guidance=torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="Guidance names 2 frames; the latents have 3"):
        two.ask(noisy, 0.5)
    with pytest.raises(ValueError, match="has rows"):
        released_drift(replace(two, network=lambda noisy, level: noisy))


def test_latents_that_do_not_fit_are_refused() -> None:
    wan, noisy = denoiser_of("wan"), latents()
    for wrong in (latents(3), noisy.flatten(3), noisy[:1]):
        with pytest.raises(ValueError, match="of the 2 samples of the prompt"):
            wan.ask(wrong, 0.5)
    with pytest.raises(ValueError, match="takes 4 channels"):
        wan.ask(noisy.transpose(1, 2), 0.5)
    with pytest.raises(ValueError, match=r"multiples of \(1, 2, 2\); got \(3, 3, 6\)"):
        wan.ask(noisy[..., :3, :], 0.5)
    for wrong in (noisy[:, :2], noisy[..., :2], noisy[:, :, :2]):
        with pytest.raises(ValueError, match="takes 8 channels"):
            denoiser_of("svd").ask(wrong, 0.5)
    paired = network_of("CogVideoXTransformer3DModel", patch_size_t=2)
    with pytest.raises(ValueError, match=r"multiples of \(2, 2, 2\)"):
        denoiser_of("cogvideox", network=paired).ask(noisy, 0.5)


def test_without_diffusers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers.models.embeddings", None)
    with pytest.raises(ImportError, match=r"flowvid\[pretrained\]"):
        denoiser_of("cogvideox").ask(draw("latents", FRAMES + 2, CHANNELS, *SIDES), 0.5)
