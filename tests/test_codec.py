"""Codecs: what is kept exactly, what normalisation means, and that training lowers the error."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flowvid.data.worlds.clips import World, render_clips
from flowvid.encoders.autoencoder import Autoencoder
from flowvid.encoders.codec import IdentityCodec
from flowvid.noise import Noise
from flowvid.train.loop import Optimisation, fit
from flowvid.video import Trajectory, Video, as_times

TIMES = st.lists(st.integers(-1000, 1000), min_size=1, max_size=6, unique=True).map(
    lambda ticks: [0.0137 * tick for tick in sorted(ticks)]
)


def codec(seed: int = 0, *, pixels: int = 1, channels: int = 4, latent_noise: float = 0.05) -> Autoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Autoencoder(pixels, channels=channels, width=8, latent_noise=latent_noise)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 1


def digits(count: int) -> Tensor:
    world = World(canvas=16, scale=1)
    return render_clips(world.clips(range(count), "train"), [0.0, 0.4]).frames.flatten(0, 1)


@given(TIMES, st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**31))
def test_the_identity_keeps_everything(times: list[float], batch: int, side: int, seed: int) -> None:
    video = Video(uniform(batch, len(times), 3, side, side + 1, seed=seed), as_times(times))
    trajectory = IdentityCodec().encode(video)
    back = IdentityCodec().decode(trajectory)
    assert torch.equal(trajectory.states, video.frames)
    assert torch.equal(back.frames, video.frames)
    assert torch.equal(back.times, video.times)


def test_the_identity_clips_what_no_frame_can_hold() -> None:
    states = torch.tensor([-3.0, -1.0, 0.5, 1.0, 7.0]).reshape(1, 1, 1, 1, 5)
    clipped = IdentityCodec().decode(Trajectory(states, as_times([0.0]))).frames
    assert clipped.flatten().tolist() == [-1.0, -1.0, 0.5, 1.0, 1.0]


@settings(max_examples=20, deadline=None)
@given(TIMES, st.integers(1, 2), st.sampled_from([1, 3]), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
def test_shapes_and_times(times: list[float], batch: int, pixels: int, channels: int, height: int, width: int) -> None:
    video = Video(uniform(batch, len(times), pixels, 4 * height, 4 * width), as_times(times))
    network = codec(pixels=pixels, channels=channels)
    trajectory = network.encode(video)
    back = network.decode(trajectory)
    assert trajectory.states.shape == (batch, len(times), channels, height, width)
    assert back.frames.shape == video.frames.shape
    assert torch.equal(trajectory.times, video.times)
    assert torch.equal(back.times, video.times)


def test_frames_are_coded_one_by_one() -> None:
    network, frames = codec(), uniform(2, 5, 1, 8, 8)
    whole = network.encode(Video(frames, as_times([0.0, 0.1, 0.5, 0.6, 2.0]))).states
    for clip in range(2):
        for moment in range(5):
            alone = network.encode(Video(frames[clip : clip + 1, moment : moment + 1], as_times([7.0]))).states
            torch.testing.assert_close(alone[0, 0], whole[clip, moment])


@given(st.integers(1, 20), st.integers(1, 20))
def test_sides_must_be_multiples_of_four(height: int, width: int) -> None:
    network, frames = codec(), uniform(2, 1, height, width)
    if height % 4 == width % 4 == 0:
        assert network.latents(frames).shape == (2, 4, height // 4, width // 4)
        return
    for refused in (network.latents, network.normalise, lambda x: network.loss(x, Noise.batch(0, 2))):
        with pytest.raises(ValueError, match=rf"multiples of 4; got \({height}, {width}\)"):
            refused(frames)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6), st.floats(0.01, 1.0), st.floats(-0.5, 0.5))
def test_normalised_latents_have_mean_zero_and_deviation_one(seed: int, count: int, size: float, shift: float) -> None:
    network, frames = codec(seed), (size * uniform(count, 1, 8, 8, seed=seed) + shift).clamp(-1, 1)
    network.normalise(frames)
    latents = network.latents(frames)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)


def test_normalising_changes_neither_what_is_decoded_nor_itself() -> None:
    network, frames = codec(), uniform(6, 1, 8, 8)
    before = network.frames(network.latents(frames))
    network.normalise(frames)
    units = network.mean.clone(), network.deviation.clone()
    torch.testing.assert_close(network.frames(network.latents(frames)), before, atol=1e-5, rtol=1e-5)
    network.normalise(frames)
    assert torch.equal(network.mean, units[0])
    assert torch.equal(network.deviation, units[1])
    assert {"mean", "deviation"} <= network.state_dict().keys()


def test_a_channel_that_never_changes_stays_finite() -> None:
    network, frames = codec(), uniform(4, 1, 8, 8)
    with torch.no_grad():
        network.encoder[-1].weight[1] = 0
    network.normalise(frames)
    latents = network.latents(frames)
    assert latents.isfinite().all()
    assert latents[:, 1].abs().max() < 1


@given(st.floats(0, 1e4), st.integers(0, 2**31))
def test_decoded_frames_stay_within_their_range(size: float, seed: int) -> None:
    states = size * uniform(1, 2, 4, 2, 2, seed=seed)
    frames = codec(seed % 5).decode(Trajectory(states, as_times([0.0, 1.0]))).frames
    assert frames.abs().max() <= 1


@given(st.integers(0, 2**31))
def test_the_loss_is_a_function_of_frames_and_noise(seed: int) -> None:
    network, frames, noise = codec(latent_noise=1.0), uniform(4, 1, 8, 8), Noise.batch(seed, 4)
    assert torch.equal(network.loss(frames, noise), network.loss(frames, noise))
    assert not torch.equal(network.loss(frames, noise), network.loss(frames, noise.fold("other")))


def test_without_latent_noise_the_loss_is_the_error_of_reconstruction() -> None:
    network, frames = codec(latent_noise=0.0), uniform(4, 1, 8, 8)
    assert torch.equal(network.loss(frames, Noise.batch(0, 4)), network.loss(frames, Noise.batch(1, 4)))
    torch.testing.assert_close(
        network.loss(frames, Noise.batch(0, 4)), F.mse_loss(network.decoder(network.encoder(frames)), frames)
    )


def test_training_lowers_the_error_below_that_of_a_constant_frame() -> None:
    frames, network = digits(16), codec()

    def error() -> float:
        with torch.no_grad():
            return F.mse_loss(network.frames(network.latents(frames)), frames).item()

    before = error()
    options = Optimisation(steps=100, batch=len(frames), learning_rate=2e-2, warmup=5, average=0.9)
    fit(network, lambda noise: network.loss(frames, noise), options)
    network.normalise(frames)
    constant = (frames - frames.mean(dim=0)).square().mean().item()
    assert error() < constant < before


@pytest.mark.parametrize("width", [-2, 0, 1, 7])
def test_the_width_must_be_even(width: int) -> None:
    with pytest.raises(ValueError, match=f"positive and even; got {width}"):
        Autoencoder(width=width)
