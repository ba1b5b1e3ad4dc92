"""The U-Net of frames and clips: identity at the start bit for bit, what is frozen, who sees whom, sizes."""

import copy
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flowvid.networks.layers import coordinates
from flowvid.networks.unet import UNet, inflate, train_time_only
from flowvid.networks.unet_blocks import FrameConvolution

SEEDS = st.integers(0, 2**31)
KINDS = ("pseudo", "attention")


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def alive(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with no parameter left at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network.eval()


def unet(time: str = "pseudo", *, told: tuple[int, int] = (0, 0), widths: tuple[int, ...] = (8, 16)) -> UNet:
    return UNet(2, 3, scalars=1, widths=widths, attending=2, heads=2, context=5, time=time, told=told)


def clip_of(
    batch: int, frames: int, *, seed: int = 0, height: int = 5, width: int = 4
) -> tuple[Tensor, Tensor, Tensor]:
    """A clip, its increasing times, and one scalar for each sample."""
    times = normal(batch, frames, seed=seed + 1).abs().add(0.1).cumsum(1)
    return normal(batch, frames, 2, height, width, seed=seed), times, normal(batch, 1, seed=seed + 2)


def with_more(clip: Tensor, scalars: Tensor, told: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The same with what only a clip is told of, drawn at random."""
    more = normal(*clip.shape[:2], told[0], *clip.shape[3:], seed=8).to(clip)
    return torch.cat((clip, more), dim=2), torch.cat((scalars, normal(len(clip), told[1], seed=9).to(clip)), dim=1)


# At the start


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("told", [(0, 0), (1, 0), (1, 2)])
@pytest.mark.parametrize("time", KINDS)
def test_inflated_network_answers_as_the_image_network_bit_for_bit(
    time: str, told: tuple[int, int], dtype: torch.dtype
) -> None:
    image, video = alive(unet("none")).to(dtype), alive(unet(time, told=told), seed=1).to(dtype)
    clip, times, scalars = (part.to(dtype) for part in clip_of(2, 4))
    context, said = normal(2, 3, 5).to(dtype), torch.tensor([[True, False, True], [False] * 3])
    more, told_scalars = with_more(clip, scalars, told)
    expected = image(clip, times, scalars, context=context, said=said)
    assert not torch.equal(video(more, times, told_scalars, context=context, said=said), expected)
    inflate(video, image)
    assert torch.equal(video(more, times, told_scalars, context=context, said=said), expected)


def test_a_fresh_video_network_sees_no_other_frame() -> None:
    image, video = unet("none").double(), unet("pseudo", told=(1, 2)).double()
    video.load_state_dict(video.state_dict() | alive(image).state_dict())
    clip, times, scalars = clip_of(2, 4)
    more, told = with_more(clip, scalars, (1, 2))
    assert torch.equal(video(more, times, told), image(clip, times, scalars))


def test_image_network_takes_frames_one_by_one() -> None:
    image = alive(unet("none").double())
    clip, times, scalars = clip_of(2, 3)
    alone = [image(clip[:, i : i + 1], times[:, i : i + 1], scalars) for i in range(3)]
    torch.testing.assert_close(image(clip, times, scalars), torch.cat(alone, dim=1))


def test_inflation_starts_time_anew_and_keeps_the_image_network() -> None:
    image, video = alive(unet("none")), alive(unet(told=(1, 2)), seed=1)
    before = copy.deepcopy(image.state_dict())
    inflate(video, image)
    assert all(torch.equal(tensor, before[name]) for name, tensor in image.state_dict().items())
    fresh = sorted(before.items())
    assert all(torch.equal(video.state_dict()[name], tensor) for name, tensor in fresh)
    with torch.no_grad():
        video.enter.space.weight.add_(1)
    assert torch.equal(image.enter.space.weight, before["enter.space.weight"])


def test_networks_of_other_widths_are_not_inflated() -> None:
    with pytest.raises(ValueError, match="same layers of space"):
        inflate(unet("pseudo"), unet("none", widths=(8, 24)))
    with pytest.raises(ValueError, match=r"same layers of space.*time"):
        inflate(unet("attention"), unet("pseudo"))


@given(SEEDS, st.sampled_from([1, 2]))
def test_layers_are_the_factored_convolutions_of_space_and_time(seed: int, stride: int) -> None:
    layer = alive(FrameConvolution(3, 4, time=True, stride=stride).double(), seed)
    clip = normal(2, 5, 3, 6, 7, seed=seed)
    across = nn.Conv3d(3, 4, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1)).double()
    along = nn.Conv3d(4, 4, (3, 1, 1), padding=(1, 0, 0)).double()
    with torch.no_grad():
        across.weight.copy_(layer.space.weight[:, :, None])
        across.bias.copy_(layer.space.bias)
        nn.init.dirac_(along.weight).add_(layer.time.weight)
        along.bias.copy_(layer.time.bias)
    expected = along(across(clip.transpose(1, 2))).transpose(1, 2)
    torch.testing.assert_close(layer(clip), expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_space_is_the_convolution_of_one_frame_exactly(stride: int) -> None:
    layer = alive(FrameConvolution(3, 4, time=False, stride=stride).double())
    clip = normal(2, 5, 3, 6, 7)
    assert torch.equal(layer(clip), layer.space(clip.flatten(0, 1)).unflatten(0, (2, 5)))


# Who sees whom


@given(SEEDS, st.integers(1, 3), st.sampled_from(KINDS))
@settings(max_examples=6)
def test_single_images_in_a_batch_of_videos_see_nobody_and_are_not_seen(seed: int, frames: int, time: str) -> None:
    image, video = alive(unet("none").double(), seed), alive(unet(time, told=(1, 2)).double(), seed + 1)
    video.load_state_dict(video.state_dict() | image.state_dict())
    shown, times, level = clip_of(2, frames + 2, seed=seed)
    clip, scalars = with_more(shown, level, (1, 2))
    context = normal(2, 3, 5, seed=seed)
    exists = (torch.arange(frames + 2) < frames).expand(2, -1)
    joint = video(clip, times, scalars, exists=exists, context=context)
    torch.testing.assert_close(joint[:, :frames], video(clip[:, :frames], times[:, :frames], scalars, context=context))
    torch.testing.assert_close(joint[:, frames:], image(shown, times, level, context=context)[:, frames:])
    other = clip.clone()
    other[:, frames] += 10
    changed = (video(other, times, scalars, exists=exists, context=context) - joint).abs().amax(dim=(0, 2, 3, 4))
    assert (changed > 0).tolist() == [number == frames for number in range(frames + 2)]


@pytest.mark.parametrize("time", KINDS)
def test_frames_of_a_clip_see_each_other_and_no_other_clip(time: str) -> None:
    video = alive(unet(time).double())
    clip, times, scalars = clip_of(2, 4)
    answer, other = video(clip, times, scalars), clip.clone()
    other[0, 2] += 1
    changed = (video(other, times, scalars) - answer).abs().amax(dim=(2, 3, 4)) > 0
    assert changed.tolist() == [[True] * 4, [False] * 4]


def test_frames_may_be_told_of_differently() -> None:
    video = alive(unet().double())
    clip, times, scalars = clip_of(2, 3)
    context, said = normal(2, 3, 4, 5, seed=5), torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1)) < 0.6
    exists = torch.zeros(2, 3, dtype=torch.bool)
    together = video(clip, times, scalars, exists=exists, context=context, said=said)
    for n in range(3):
        here = slice(n, n + 1)
        alone = video(
            clip[:, here], times[:, here], scalars, exists=exists[:, here], context=context[:, n], said=said[:, n]
        )
        torch.testing.assert_close(together[:, here], alone)


def test_a_frame_that_holds_nothing_finite_is_not_seen() -> None:
    video = alive(unet().double())
    clip, times, scalars = clip_of(1, 3)
    exists = torch.tensor([[True, True, False]])
    expected = video(clip, times, scalars, exists=exists)
    clip[:, 2] = 1e30
    torch.testing.assert_close(video(clip, times, scalars, exists=exists)[:, :2], expected[:, :2])


def test_norms_are_of_single_frames() -> None:
    """Were a norm taken across time, a frame a thousand times brighter would change the others."""
    image = alive(unet("none").double())
    clip, times, scalars = clip_of(1, 3)
    brighter = torch.cat((clip[:, :2], 1000 * clip[:, 2:]), dim=1)
    assert torch.equal(image(brighter, times, scalars)[:, :2], image(clip, times, scalars)[:, :2])


@given(SEEDS, st.floats(-50, 50))
@settings(max_examples=6)
def test_only_differences_of_times_matter(seed: int, shift: float) -> None:
    video = alive(unet().double())
    clip, times, scalars = clip_of(1, 3, seed=seed)
    answer = video(clip, times, scalars)
    torch.testing.assert_close(video(clip, times + shift, scalars), answer, rtol=1e-6, atol=1e-7)
    assert (video(clip, 3 * times, scalars) - answer).abs().max() > 1e-9


def test_what_is_told_matters() -> None:
    video = alive(unet(told=(1, 2)).double())
    clip, times, scalars = clip_of(1, 3)
    more, told = with_more(clip, scalars, (1, 2))
    context = normal(1, 2, 5)
    answer = video(more, times, told, context=context)
    for column in range(3):
        moved = told.clone()
        moved[:, column] += 1
        assert (video(more, times, moved, context=context) - answer).abs().max() > 1e-6
    flagged = more.clone()
    flagged[:, 1, 2] += 1
    assert (video(flagged, times, told, context=context) - answer).abs().max() > 1e-6
    assert (video(more, times, told, context=context + 1) - answer).abs().max() > 1e-6
    silent = video(more, times, told, context=context, said=torch.zeros(1, 2, dtype=torch.bool))
    padded = torch.cat((context, normal(1, 1, 5, seed=4)), dim=1)
    heard = video(more, times, told, context=padded, said=torch.tensor([[True, True, False]]))
    torch.testing.assert_close(heard, answer)
    assert (silent - answer).abs().max() > 1e-6


# Sizes


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 3), st.sampled_from([(16,), (16, 32), (16, 16, 16)]))
@settings(max_examples=12)
def test_any_size_goes_through(height: int, width: int, frames: int, widths: tuple[int, ...]) -> None:
    video = alive(unet(widths=widths).double())
    clip, times, scalars = clip_of(2, frames, height=height, width=width)
    answer = video(clip, times, scalars)
    assert answer.shape == (2, frames, 3, height, width)
    torch.testing.assert_close(video(clip[1:], times[1:], scalars[1:]), answer[1:])


def test_a_fresh_network_answers_zero() -> None:
    clip, times, scalars = clip_of(1, 2)
    assert not unet().double()(clip, times, scalars).any()


def test_the_first_layer_is_told_of_places() -> None:
    image, entered = alive(unet("none").double()), []
    image.enter.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    clip, times, scalars = clip_of(2, 3)
    image(clip, times, scalars)
    assert torch.equal(entered[0][:, :, :2], clip)
    assert torch.equal(entered[0][:, :, 2:], coordinates(clip[:, 0])[:, None].expand(-1, 3, -1, -1, -1))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"widths": ()}, "Widths"),
        ({"widths": (12,)}, "multiples of 8"),
        ({"widths": (8, 0)}, "multiples of 8"),
        ({"widths": (8,), "heads": 3}, "twice the heads"),
        ({"time": "later"}, "layers of time"),
        ({"told": (1, 0)}, "Only a video network"),
        ({"told": (0, 1)}, "Only a video network"),
        ({"time": "pseudo", "told": (0, -1)}, "Only a video network"),
    ],
)
def test_impossible_networks_are_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        UNet(2, 3, scalars=1, **({"widths": (8,), "heads": 2} | options))


# Training


def step(network: UNet, told: tuple[int, int], *, steps: int = 3) -> None:
    """A few steps of AdamW, with decay, on everything that it is given."""
    clip, times, scalars = clip_of(2, 3)
    more, told_scalars = with_more(clip, scalars, told)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        (network(more, times, told_scalars, context=normal(2, 3, 5)) - 1).square().mean().backward()
        optimiser.step()


@pytest.mark.parametrize("time", KINDS)
def test_frozen_space_is_unchanged_by_training_and_all_of_time_moves(time: str) -> None:
    image, video = alive(unet("none").double()), unet(time, told=(1, 2)).double()
    inflate(video, image)
    train_time_only(video)
    before = copy.deepcopy(video.state_dict())
    step(video, (1, 2))
    after, space = video.state_dict(), image.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in space.items())
    assert {name for name in after if not torch.equal(after[name], before[name])} == after.keys() - space.keys()
    video.requires_grad_(True)
    step(video, (1, 2))
    assert any(not torch.equal(video.state_dict()[name], tensor) for name, tensor in space.items())


def test_an_image_network_has_no_time_to_train() -> None:
    with pytest.raises(ValueError, match="no layers of time"):
        train_time_only(unet("none"))


@pytest.mark.parametrize("time", ["none", "pseudo"])
def test_everything_is_trained_from_scratch(time: str) -> None:
    network = unet(time, told=(0, 0) if time == "none" else (1, 2)).double()
    before = copy.deepcopy(network.state_dict())
    step(network, (0, 0) if time == "none" else (1, 2), steps=4)
    stuck = {name for name, tensor in network.state_dict().items() if torch.equal(tensor, before[name])}
    assert not stuck


def test_compiles_as_one_graph() -> None:
    # In a process of its own: the run-time checks of shapes, which the tests switch on, break graphs.
    code = """
import torch
from flowvid.networks.unet import UNet
torch.set_num_threads(1)
network = UNet(2, 3, scalars=1, widths=(8, 16), attending=1, heads=2, context=5, time="pseudo", told=(1, 2))
torch.nn.init.normal_(network.leave.space.weight)
given = (torch.randn(2, 3, 3, 5, 4), torch.rand(2, 3), torch.rand(2, 3))
heard = {"exists": torch.rand(2, 3) > 0.3, "context": torch.randn(2, 4, 5)}
compiled = torch.compile(network, fullgraph=True, backend="eager")
torch.testing.assert_close(compiled(*given, **heard), network(*given, **heard))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
