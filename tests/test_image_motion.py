"""Frames as vectors, motion on a frozen generator of images, and both learned at once."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from experiments.image_motion import draw, measure, recipe
from flowvid.data.worlds.clips import World, clip_positions, render_clips
from flowvid.encoders.vae import gaussian_divergence
from flowvid.encoders.vector_vae import VectorVae
from flowvid.metrics.motion import position_error
from flowvid.models.continuous import MultiScale
from flowvid.models.hub import load_pretrained
from flowvid.models.image_motion import joint_loss
from flowvid.models.recurrent import RecurrentComposite
from flowvid.noise import Noise
from flowvid.train.loop import Optimisation, fit
from flowvid.video import Condition, Trajectory, Video, time_grid

SIDE, FRAME, GIVEN, AHEAD, CHANNELS = 16, 0.25, 3, 2, 6
WORLD = World(canvas=SIDE, scale=1, speed=(2.0, 4.5))
TIMES = time_grid(0.0, (GIVEN + AHEAD - 1) * FRAME, FRAME)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """First weights that do not depend on what ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def vae(seed: int = 0, *, pixels: int = 1, beta: float = 0.5) -> VectorVae:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VectorVae(SIDE, pixels=pixels, channels=CHANNELS, width=4, hidden=32, beta=beta)


def motion(seed: int = 0) -> RecurrentComposite:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        options = {"given": GIVEN, "ahead": AHEAD, "reconstruction": "off", "prediction": "unconditional"}
        return RecurrentComposite(CHANNELS, frame=FRAME, patch=1, width=16, **options)


def clips(count: int = 4, split: str = "train") -> Video:
    return render_clips(WORLD.clips(range(count), split), TIMES)


# ----------------------------------------------------------------------------------------------------------------------
# Frames as vectors
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_the_loss_is_minus_the_bound_at_the_best_scale(beta: float) -> None:
    """log-likelihood of Gaussian errors at the best of all deviations, and the divergence."""
    network, frames, noise = vae(beta=beta), clips().frames[:, 0], Noise.batch(3, 4)
    with torch.no_grad():
        network.encoder[-1].bias.normal_(std=0.3)
        mean, log_variance = network.posterior(frames)
        drawn = mean + (log_variance / 2).exp() * noise.normal("latent", CHANNELS, 1, 1)
        errors = (network.decoded(drawn) - frames).double().flatten()
        found = network.loss(frames, noise).item()
    scales = errors.square().mean().sqrt() * torch.linspace(0.5, 2, 301, dtype=torch.float64)
    bounds = [-torch.distributions.Normal(0.0, scale).log_prob(errors).mean().item() for scale in scales]
    divergence = gaussian_divergence(mean, log_variance).sum().item() / frames.numel()
    assert found == pytest.approx(min(bounds) + beta * divergence, abs=1e-4)
    assert divergence > 1e-3


def test_latents_are_vectors_of_normal_size() -> None:
    network, frames = vae(), clips(32).frames.flatten(0, 1)
    network.normalise(frames)
    latents = network.latents(frames)
    assert latents.shape == (len(frames), CHANNELS, 1, 1)
    torch.testing.assert_close(latents.mean(dim=0), torch.zeros(CHANNELS, 1, 1), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std(dim=0), torch.ones(CHANNELS, 1, 1), atol=1e-3, rtol=0)
    assert network.frames(latents).shape == frames.shape
    raw = network.posterior(frames)[0]
    torch.testing.assert_close(network.frames(latents), network.decoded(raw).clamp(-1, 1), atol=1e-5, rtol=1e-4)


def test_every_entry_of_a_vector_reaches_every_pixel() -> None:
    network, vector = vae(), torch.randn(1, CHANNELS, 1, 1, generator=torch.Generator().manual_seed(0))
    slopes = torch.autograd.functional.jacobian(network.decoded, vector)
    assert slopes.shape == (1, 1, SIDE, SIDE, 1, CHANNELS, 1, 1)
    assert bool((slopes != 0).all())


def test_the_posterior_starts_narrow() -> None:
    assert vae().posterior(clips().frames[:, 0])[1].unique().tolist() == [-6.0]


def test_a_draw_belongs_to_its_frame() -> None:
    """The loss of a batch of two equal frames with equal seeds is that of one."""
    network, frame = vae(), clips().frames[:1, 0]
    one = network.loss(frame, Noise.of([5]))
    two = network.loss(frame.expand(2, -1, -1, -1), Noise.of([5, 5]))
    assert one.item() == pytest.approx(two.item(), rel=1e-5)
    assert network.loss(frame, Noise.of([6])).item() != one.item()


def test_it_comes_back_from_a_folder(tmp_path: Path) -> None:
    network, frames = vae(pixels=3), clips().frames[:, 0].expand(-1, 3, -1, -1)
    network.normalise(frames)
    network.save_pretrained(tmp_path / "codec")
    found = load_pretrained(tmp_path / "codec")
    assert isinstance(found, VectorVae)
    assert torch.equal(found.latents(frames), network.latents(frames))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="16 x 16 pixels"):
        vae().latents(torch.zeros(1, 1, 32, 32))
    with pytest.raises(ValueError, match="multiples of 16"):
        vae().latents(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="frames of 1 channels"):
        vae().latents(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="a seed of its own"):
        vae().loss(torch.zeros(2, 1, 16, 16), Noise.batch(0, 1))
    for wrong in ({"side": 6}, {"side": 0}, {"channels": 0}, {"hidden": 0}, {"beta": -1.0}, {"beta": math.nan}):
        with pytest.raises(ValueError, match="a positive multiple of 4"):
            VectorVae(**({"side": 16} | wrong))


# ----------------------------------------------------------------------------------------------------------------------
# Frozen, and at once
# ----------------------------------------------------------------------------------------------------------------------


def test_the_joint_loss_is_the_error_of_pixels() -> None:
    codec, moving, video = vae(), motion(), clips()
    codec.normalise(video.frames.flatten(0, 1))
    with torch.no_grad():
        latents = codec.encode(video).states[:, :GIVEN]
        states = torch.cat((latents, moving.predicted(latents, AHEAD)), dim=1)
        raw = codec.mean + codec.deviation * states.flatten(0, 1)
        square = (codec.decoded(raw).unflatten(0, states.shape[:2]) - video.frames).square()
        found = joint_loss(codec, moving, video)
    assert found.item() == pytest.approx((square[:, :GIVEN].mean() + square[:, GIVEN:].mean()).item(), rel=1e-5)


def test_the_joint_loss_trains_every_part() -> None:
    codec, moving = vae(), motion()
    joint_loss(codec, moving, clips()).backward()
    ours = [parameter for part in (codec.decoder, moving) for parameter in part.parameters()]
    assert all(parameter.grad is not None and bool((parameter.grad != 0).any()) for parameter in ours)
    assert bool((codec.encoder[0].weight.grad != 0).any())


def test_without_a_frame_to_predict_there_is_no_joint_loss() -> None:
    video = clips()
    with pytest.raises(ValueError, match="more than the 3 frames"):
        joint_loss(vae(), motion(), Video(video.frames[:, :GIVEN], video.times[:GIVEN]))


def test_a_frozen_generator_stays_and_its_motion_is_learned() -> None:
    """The generator is bit for bit the same afterwards; predicted digits are nearer than copied ones."""
    torch.set_num_threads(1)
    codec, train, flat = VectorVae(SIDE, width=8, hidden=128), clips(256), clips(256).frames.flatten(0, 1)

    def objective(noise: Noise) -> Tensor:
        return codec.loss(flat[noise.integers("frame", 0, len(flat))], noise)

    fit(codec, objective, Optimisation(steps=400, batch=48, warmup=10, learning_rate=4e-3, average=0.95))
    codec.requires_grad_(False).normalise(flat)
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    latents = codec.encode(train)
    moving = RecurrentComposite(
        16, frame=FRAME, patch=1, width=64, given=GIVEN, ahead=AHEAD, prediction="unconditional"
    )
    moving.prepare(latents)

    def follow(noise: Noise) -> Tensor:
        return moving.loss(Trajectory(latents.states[noise.integers("clip", 0, 256)], TIMES), noise)

    fit(moving, follow, Optimisation(steps=300, batch=32, warmup=10, learning_rate=8e-3, average=0.95))
    assert all(torch.equal(value, codec.state_dict()[name]) for name, value in before.items())
    tests = WORLD.clips(range(64), "test")
    truth, places = render_clips(tests, TIMES), clip_positions(tests, TIMES)[:, GIVEN:, 0]
    known = codec.encode(Video(truth.frames[:, :GIVEN], TIMES[:GIVEN]))
    with torch.no_grad():
        found = codec.decode(moving.sample(Condition(known), TIMES[GIVEN:].tolist(), Noise.batch(0, 64)).trajectory)
    copied = Video(truth.frames[:, GIVEN - 1 : GIVEN].expand(-1, AHEAD, -1, -1, -1), TIMES[GIVEN:])
    assert position_error(found, places).mean() < 0.7 * position_error(copied, places).mean()


def test_other_models_move_on_vectors_too() -> None:
    """A trunk works on a grid of one place, if it is so wide that its group norms have something to compare."""
    steps = torch.randn(3, 12, CHANNELS, 1, 1, generator=torch.Generator().manual_seed(0))
    latents = Trajectory(steps.cumsum(dim=1), time_grid(-FRAME, 10 * FRAME, FRAME))
    model = MultiScale(CHANNELS, frame=FRAME, scales=2, reach=4, width=32)
    model.prepare(latents)
    model.loss(latents, Noise.batch(0, 3)).backward()
    model.requires_grad_(False).finish(latents)
    found = model.sample(Condition(latents.at(-FRAME, 0.0)), [FRAME, 2.3 * FRAME], Noise.batch(0, 3)).trajectory.states
    assert found.shape == (3, 2, CHANNELS, 1, 1)
    assert bool(found.isfinite().all())


# ----------------------------------------------------------------------------------------------------------------------
# The experiment
# ----------------------------------------------------------------------------------------------------------------------


def test_the_experiment_measures_and_draws(tmp_path: Path) -> None:
    run = recipe("quick")
    short = dataclasses.replace(run.codec, steps=4, warmup=1)
    run = dataclasses.replace(run, clips=32, test_clips=4, ahead=2, codec=short, motion=short)
    content = measure(run)
    rows = content["methods"]
    assert set(rows) == {"copy-last", "untrained", "frozen", "joint", "generator"}
    for name, row in rows.items():
        assert [len(row[key]) for key in ("position_error", "psnr", "seconds")] == [2, 2, 2]
        for key in ("position_error", "psnr"):
            assert [len(line) for line in row[f"{key}_by_frame"]] == [7 if name == "generator" else 2] * 2
            assert [sum(line) / len(line) for line in row[f"{key}_by_frame"]] == pytest.approx(row[key])
        assert all(math.isfinite(value) for value in row["psnr"])
    assert rows["copy-last"]["position_error"][0] == rows["copy-last"]["position_error"][1]
    assert rows["frozen"]["position_error"][0] != rows["frozen"]["position_error"][1]
    assert [found["key"] for found in content["claims"]] == ["M1", "M2", "M3", "M4", "M5"]
    draw(content | {"recipe": dataclasses.asdict(run)}, tmp_path)
    assert (tmp_path / "image_motion.png").stat().st_size > 0


def test_scales_of_the_experiment() -> None:
    assert all(len(recipe(scale).seeds) >= 3 for scale in ("cpu", "gpu"))
    with pytest.raises(ValueError, match="got 'huge'"):
        recipe("huge")
