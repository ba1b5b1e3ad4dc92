"""The convolutional VAE: closed forms of its objective, what its latents depend on, and that it learns."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flowvid.data.worlds.clips import World, render_clips
from flowvid.encoders.vae import ConvVae, _Attention, _Block, gaussian_divergence
from flowvid.metrics.perceptual import load_lpips
from flowvid.metrics.reconstruction import reconstruction
from flowvid.noise import Noise
from flowvid.train.loop import Optimisation, fit
from flowvid.video import Video, as_times


def vae(
    seed: int = 0,
    *,
    pixels: int = 1,
    factor: int = 4,
    channels: int = 3,
    width: int = 8,
    attention: bool = False,
    beta: float = 1.0,
    lively: bool = True,
) -> ConvVae:
    """A small VAE; a lively one has no zeros left in it, so that every layer shows in what it answers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ConvVae(pixels, factor=factor, channels=channels, width=width, attention=attention, beta=beta)
        if lively:
            for parameter in network.parameters():
                torch.nn.init.normal_(parameter, std=0.15)
    return network


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 1


def zeroed_encoder(network: ConvVae, *, mean: float, log_variance: float) -> ConvVae:
    """The VAE whose posterior is N(mean, exp(log_variance)) for every frame."""
    last = network.encoder[-1]
    half = len(last.bias) // 2
    with torch.no_grad():
        last.weight.zero_()
        last.bias[:half] = mean
        last.bias[half:] = log_variance
    return network


# ----------------------------------------------------------------------------------------------------------------------
# The divergence of Gaussians
# ----------------------------------------------------------------------------------------------------------------------


@given(st.floats(-3, 3), st.floats(-4, 3))
def test_the_divergence_is_that_of_gaussians(mean: float, log_variance: float) -> None:
    given_ = torch.tensor([mean], dtype=torch.float64), torch.tensor([log_variance], dtype=torch.float64)
    there = torch.distributions.Normal(given_[0], (given_[1] / 2).exp())
    standard = torch.distributions.Normal(torch.zeros_like(given_[0]), torch.ones_like(given_[0]))
    expected = torch.distributions.kl_divergence(there, standard)
    torch.testing.assert_close(gaussian_divergence(*given_), expected, rtol=1e-9, atol=1e-12)


@given(st.floats(-3, 3), st.floats(-4, 3))
def test_the_gradient_of_the_divergence_has_a_closed_form(mean: float, log_variance: float) -> None:
    m, s = (torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (mean, log_variance))
    by_mean, by_logarithm = torch.autograd.grad(gaussian_divergence(m, s).sum(), (m, s))
    assert by_mean.item() == pytest.approx(mean, abs=1e-12)
    assert by_logarithm.item() == pytest.approx((math.exp(log_variance) - 1) / 2, abs=1e-12)


def test_the_divergence_of_the_standard_normal_is_zero() -> None:
    assert gaussian_divergence(torch.zeros(3), torch.zeros(3)).tolist() == [0, 0, 0]


# ----------------------------------------------------------------------------------------------------------------------
# The loss
# ----------------------------------------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(st.floats(-2, 2), st.floats(-3, 2), st.sampled_from([0.0, 0.3, 1.0]))
def test_the_loss_is_minus_the_bound_at_the_best_scale(mean: float, log_variance: float, beta: float) -> None:
    """With a posterior that does not see the frame, both terms are known; the first is least over all scales."""
    network = zeroed_encoder(vae(beta=beta), mean=mean, log_variance=log_variance)
    frames, noise = uniform(4, 1, 8, 12), Noise.batch(3, 4)
    drawn = mean + math.exp(log_variance / 2) * noise.normal("latent", 3, 2, 3)
    with torch.no_grad():
        errors = (network.decoder(drawn) - frames).abs().double().flatten()
        found = network.loss(frames, noise).item()
    scales = errors.mean() * torch.linspace(0.5, 2, 61, dtype=torch.float64)
    bounds = [-torch.distributions.Laplace(0.0, scale).log_prob(errors).mean().item() for scale in scales]
    latents_per_pixel = 3 / 16
    each = (mean**2 + math.exp(log_variance) - 1 - log_variance) / 2
    assert found == pytest.approx(min(bounds) + beta * latents_per_pixel * each, abs=1e-3)


def test_a_perceptual_distance_is_added_to_the_error() -> None:
    network, frames, noise = vae(beta=0.0), uniform(4, 1, 8, 8), Noise.batch(0, 4)
    seen: list[tuple[torch.Size, torch.Size]] = []

    def distance(decoded: Tensor, truth: Tensor) -> Tensor:
        seen.append((decoded.shape, truth.shape))
        assert torch.equal(truth, frames)
        return torch.tensor([1.0, 2.0, 3.0, 4.0])

    plain, added = (network.loss(frames, noise, perceptual=x).item() for x in (None, distance))
    assert seen == [(frames.shape, frames.shape)]
    assert math.exp(added) - math.exp(plain) == pytest.approx(2 * math.e * 2.5, rel=1e-4)


def test_the_loss_is_a_function_of_frames_and_noise() -> None:
    network, frames, noise = vae(), uniform(4, 1, 8, 8), Noise.batch(0, 4)
    network = zeroed_encoder(network, mean=0.0, log_variance=0.0)
    assert torch.equal(network.loss(frames, noise), network.loss(frames, noise))
    assert not torch.equal(network.loss(frames, noise), network.loss(frames, noise.fold("other")))


def test_mixed_precision_changes_the_loss_by_its_rounding_alone() -> None:
    network, frames, noise = vae(lively=False), uniform(4, 1, 8, 8), Noise.batch(0, 4)
    exact = network.loss(frames, noise)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = network.loss(frames, noise)
        assert network.latents(frames).isfinite().all()
    mixed.backward()
    assert mixed.dtype == torch.float32
    assert mixed.item() == pytest.approx(exact.item(), rel=0.01)
    assert network.bfloat16().loss(frames.bfloat16(), noise).item() == pytest.approx(exact.item(), rel=0.01)


def test_every_parameter_learns() -> None:
    network, frames = vae(attention=True, pixels=3, factor=8), uniform(2, 3, 16, 24)
    network.loss(frames, Noise.batch(0, 2)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_perfect_frames_have_a_finite_loss_and_gradient() -> None:
    network = vae(beta=0.0)
    with torch.no_grad():
        network.decoder[-2].weight.zero_()
        network.decoder[-2].bias.zero_()
    loss = network.loss(torch.zeros(2, 1, 8, 8), Noise.batch(0, 2))
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


# ----------------------------------------------------------------------------------------------------------------------
# Latents and draws
# ----------------------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    st.sampled_from([2, 4, 8, 16]),
    st.sampled_from([1, 3]),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
)
def test_shapes(factor: int, pixels: int, channels: int, height: int, width: int, attention: bool) -> None:
    network = vae(factor=factor, pixels=pixels, channels=channels, attention=attention)
    frames = uniform(2, pixels, factor * height, factor * width)
    latents = network.latents(frames)
    assert latents.shape == (2, channels, height, width)
    back = network.frames(latents)
    assert back.shape == frames.shape
    assert back.abs().max() <= 1


@settings(max_examples=20)
@given(st.sampled_from([2, 4, 8]), st.integers(1, 17), st.integers(1, 17))
def test_sides_must_be_multiples_of_the_factor(factor: int, height: int, width: int) -> None:
    network, frames, noise = vae(factor=factor), uniform(2, 1, height, width), Noise.batch(0, 2)
    if height % factor == width % factor == 0:
        assert network.latents(frames).shape[2:] == (height // factor, width // factor)
        return
    for refused in (
        network.latents,
        network.normalise,
        network.posterior,
        lambda x: network.loss(x, noise),
        lambda x: network.sample(x, noise),
    ):
        with pytest.raises(ValueError, match=rf"multiples of {factor}; got \({height}, {width}\)"):
            refused(frames)


def test_frames_of_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="of 3 channels; got 1"):
        vae(pixels=3).latents(uniform(1, 1, 8, 8))


@pytest.mark.parametrize("attention", [False, True])
def test_a_frame_does_not_depend_on_its_batch(attention: bool) -> None:
    network, frames, noise = vae(attention=attention), uniform(5, 1, 8, 12), Noise.batch(0, 5)
    latents, drawn, decoded = (
        network.latents(frames),
        network.sample(frames, noise),
        network.frames(uniform(5, 3, 2, 3)),
    )
    for i in range(5):
        alone = slice(i, i + 1)
        torch.testing.assert_close(network.latents(frames[alone]), latents[alone], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network.sample(frames[alone], noise[alone]), drawn[alone], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network.frames(uniform(5, 3, 2, 3)[alone]), decoded[alone], rtol=1e-4, atol=1e-5)


def test_latents_are_the_mean_of_the_draws() -> None:
    network = vae(channels=2)
    frame = uniform(1, 1, 8, 8)
    network.normalise(uniform(6, 1, 8, 8, seed=1))
    mean, log_variance = network.posterior(frame)
    with torch.no_grad():
        drawn = network.sample(frame.expand(4000, -1, -1, -1), Noise.batch(0, 4000))
    deviation = (log_variance / 2).exp() / network.deviation
    error = (drawn.mean(dim=0) - network.latents(frame)[0]) / (deviation[0] / 4000**0.5)
    assert error.abs().max() < 4.5
    torch.testing.assert_close(drawn.std(dim=0), deviation[0], rtol=0.06, atol=0)
    torch.testing.assert_close(network.latents(frame), (mean - network.mean) / network.deviation)


def test_draws_need_one_seed_per_frame() -> None:
    for refused in (vae().sample, vae().loss):
        with pytest.raises(ValueError, match="2 frames and 3 seeds"):
            refused(uniform(2, 1, 8, 8), Noise.batch(0, 3))


def test_attention_joins_places_that_convolutions_do_not() -> None:
    """A change in one corner is felt in the far one; without attention only through the statistics of the norms."""
    frames = uniform(1, 1, 8, 64)
    changed = frames.clone()
    changed[..., :2] *= -1
    felt = []
    for attention in (False, True):
        network = vae(attention=attention)
        for module in network.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.forward = lambda x: x  # type: ignore[method-assign]
        felt.append((network.latents(changed) - network.latents(frames))[..., -1].abs().max().item())
    assert felt[0] == 0 < felt[1]


def test_normalised_latents_have_mean_zero_and_deviation_one() -> None:
    network, frames = vae(), uniform(130, 1, 8, 8)
    before = network.frames(network.latents(frames))
    network.normalise(frames)
    latents = network.latents(frames)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(network.frames(latents), before, atol=1e-5, rtol=1e-4)


def test_posteriors_start_narrow_and_blocks_as_identities() -> None:
    network = vae(lively=False, attention=True)
    assert network.posterior(uniform(2, 1, 8, 8))[1].unique().tolist() == [-6.0]
    blocks = [part for part in (*network.encoder, *network.decoder) if isinstance(part, _Block | _Attention)]
    assert len(blocks) == 2 * (2 + 3)
    for block in blocks:
        grid = uniform(1, block.first.in_channels if isinstance(block, _Block) else 16, 4, 4)
        assert torch.equal(block(grid), grid)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pixels": 2}, "1 or 3 channels"),
        ({"factor": 1}, "at least 2; got pixels=3, factor=1"),
        ({"factor": 6}, "power of two"),
        ({"width": 12}, "positive multiple of 8"),
        ({"width": 0}, "positive multiple of 8"),
        ({"channels": 0}, "at least one channel"),
        ({"blocks": 0}, "one block"),
        ({"beta": -0.1}, "beta >= 0"),
        ({"beta": float("nan")}, "beta >= 0"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvVae(**arguments)


# ----------------------------------------------------------------------------------------------------------------------
# Training and what is lost
# ----------------------------------------------------------------------------------------------------------------------


def test_training_lowers_the_loss_and_the_error_below_that_of_a_constant_frame() -> None:
    frames = render_clips(World(canvas=16, scale=1).clips(range(12), "train"), [0.0, 0.4]).frames.flatten(0, 1)
    network, noise = vae(lively=False, beta=0.01), Noise.batch(0, len(frames))
    before = network.loss(frames, noise).item()
    options = Optimisation(steps=40, batch=len(frames), learning_rate=1e-2, warmup=5, average=0.9)
    fit(network, lambda noise: network.loss(frames, noise), options)
    network.normalise(frames)
    with torch.no_grad():
        error = (network.frames(network.latents(frames)) - frames).abs().mean()
    assert network.loss(frames, noise).item() < before - 1
    assert error < (frames - frames.median(dim=0).values).abs().mean()


@pytest.mark.slow
def test_the_codec_is_one_graph() -> None:
    """In a process of its own, for checked signatures do not compile."""
    program = """
import torch
from flowvid.encoders.vae import ConvVae

codec = ConvVae(3, factor=4, width=8, attention=True)
frames = torch.rand(2, 3, 8, 12) * 2 - 1
for function, given in ((codec.latents, frames), (codec.frames, codec.latents(frames))):
    found = torch.compile(function, fullgraph=True, backend="aot_eager")(given)
    torch.testing.assert_close(found, function(given), rtol=1e-4, atol=1e-5)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_training_with_lpips_brings_reconstructions_closer(data: Path) -> None:
    """With real weights: what LPIPS says of reconstructions falls, and the gradient reaches the codec through it."""
    weights = data / "weights"
    distance = load_lpips(weights / "squeezenet1_1_torchvision_fp16.npz", weights / "lpips_v0.1_squeeze_lin.npz")
    clips = World(canvas=32, scale=2).clips(range(4), "train")
    frames = render_clips(clips, [0.0, 0.4]).frames.flatten(0, 1).expand(-1, 3, -1, -1)
    network = vae(lively=False, pixels=3, beta=0.01)
    video = Video(frames[None], as_times([0.1 * i for i in range(len(frames))]))
    before = reconstruction(network, video, distance)
    options = Optimisation(steps=25, batch=len(frames), learning_rate=1e-2, warmup=2, average=0.5)
    fit(network, lambda noise: network.loss(frames, noise, perceptual=distance), options)
    after = reconstruction(network, video, distance)
    assert after["lpips"] < before["lpips"]
    assert after["psnr"] > before["psnr"]
