"""Feature networks, LPIPS and the cache: layers against closed forms, published values where weights are at hand."""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from flowvid.data.cache import TensorCache
from flowvid.metrics.features import FeatureNetwork, extract, fd_i3d_mixed4d, fd_squeezenet, fid, fvd
from flowvid.metrics.frechet import GaussianStatistics, frechet_distance
from flowvid.metrics.i3d import I3DMixed4d
from flowvid.metrics.perceptual import Lpips, load_lpips, lpips
from flowvid.metrics.squeezenet import SqueezeNet, as_rgb
from flowvid.metrics.weights import load_arrays
from flowvid.video import Video

I3D_FILE = "i3d_kinetics400_rgb_scratch_to_mixed4d.npz"
SQUEEZENET_FILE = "squeezenet1_1_torchvision_fp16.npz"
LPIPS_FILE = "lpips_v0.1_squeeze_lin.npz"


def rand(*shape: int, seed: int = 0) -> Tensor:
    """Uniform numbers in [-1, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def clips(*shape: int, seed: int = 0) -> Video:
    frames = rand(*shape, seed=seed)
    return Video(frames, torch.arange(frames.shape[1], dtype=torch.float64))


def squeezenet_arrays() -> dict[str, Tensor]:
    """SqueezeNet with two or four channels where there are dozens; layers named as torchvision's."""
    shapes = {"features.0": (4, 3, 3)}
    inputs = 4
    for number in (3, 4, 6, 7, 9, 10, 11, 12):
        shapes[f"features.{number}.squeeze"] = (2, inputs, 1)
        shapes[f"features.{number}.expand1x1"] = (3, 2, 1)
        shapes[f"features.{number}.expand3x3"] = (3, 2, 3)
        inputs = 6
    arrays = {}
    for seed, (name, (outputs, channels, side)) in enumerate(shapes.items()):
        arrays[f"{name}.weight"] = rand(outputs, channels, side, side, seed=seed)
        arrays[f"{name}.bias"] = rand(outputs, seed=100 + seed) / 4
    return arrays


def i3d_arrays() -> dict[str, Tensor]:
    """I3D with few channels, by the checkpoint's names."""
    shapes = {"Conv3d_1a_7x7": (7, 3, 4), "Conv3d_2b_1x1": (1, 4, 3), "Conv3d_2c_3x3": (3, 3, 5)}
    inputs = 5
    for block in ("Mixed_3b", "Mixed_3c", "Mixed_4b", "Mixed_4c", "Mixed_4d"):
        shapes[f"{block}/Branch_0/Conv3d_0a_1x1"] = (1, inputs, 2)
        for branch in (1, 2):
            shapes[f"{block}/Branch_{branch}/Conv3d_0a_1x1"] = (1, inputs, 2)
            shapes[f"{block}/Branch_{branch}/Conv3d_0b_3x3"] = (3, 2, 1 + branch)
        shapes[f"{block}/Branch_3/Conv3d_0b_1x1"] = (1, inputs, 4)
        inputs = 2 + 2 + 3 + 4
    arrays = {}
    for seed, (name, (side, channels, outputs)) in enumerate(shapes.items()):
        arrays[f"{name}/conv_3d/w"] = rand(side, side, side, channels, outputs, seed=seed)
        arrays[f"{name}/batch_norm/beta"] = rand(outputs, seed=100 + seed)
        arrays[f"{name}/batch_norm/moving_mean"] = rand(outputs, seed=200 + seed)
        arrays[f"{name}/batch_norm/moving_variance"] = 1 + rand(outputs, seed=300 + seed) / 2
    return arrays


def saved(folder: Path, arrays: dict[str, Tensor], ending: str = ".npz") -> Path:
    path = folder / f"weights{ending}"
    if ending == ".npz":
        np.savez(path, **{name: array.numpy() for name, array in arrays.items()})
    else:
        torch.save(arrays, path)
    return path


# SqueezeNet and LPIPS


def _stages(arrays: dict[str, Tensor], images: Tensor) -> list[Tensor]:
    """The published network, layer by layer."""

    def conv(x: Tensor, name: str, **options: int) -> Tensor:
        return F.conv2d(x, arrays[f"{name}.weight"], arrays[f"{name}.bias"], **options).relu()

    def fire(x: Tensor, number: int) -> Tensor:
        x = conv(x, f"features.{number}.squeeze")
        expanded = [conv(x, f"features.{number}.expand{k}x{k}", padding=k // 2) for k in (1, 3)]
        return torch.cat(expanded, dim=1)

    def pool(x: Tensor) -> Tensor:
        return nn.MaxPool2d(3, 2, ceil_mode=True)(x)

    mean, deviation = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    one = conv(((images + 1) / 2 - mean) / deviation, "features.0", stride=2)
    two = fire(fire(pool(one), 3), 4)
    three = fire(fire(pool(two), 6), 7)
    four = fire(pool(three), 9)
    five = fire(four, 10)
    six = fire(five, 11)
    return [one, two, three, four, five, six, fire(six, 12)]


@pytest.mark.parametrize("side", [17, 33, 40])
def test_squeezenet_is_the_published_network(side: int) -> None:
    arrays, images = squeezenet_arrays(), rand(2, 3, side, side + 3)
    stages = SqueezeNet(arrays)(images)
    for found, expected in zip(stages, _stages(arrays, images), strict=True):
        torch.testing.assert_close(found, expected)
    assert stages[-1].numel() > 0


def test_squeezenet_refuses_images_of_which_nothing_is_left() -> None:
    with pytest.raises(ValueError, match=r"at least 17 x 17 pixels; got \(16, 40\)"):
        SqueezeNet(squeezenet_arrays())(rand(1, 3, 16, 40))


def tiny_lpips() -> Lpips:
    channels = (4, 6, 6, 6, 6, 6, 6)
    return Lpips(SqueezeNet(squeezenet_arrays()), [rand(n, seed=n + k).abs() for k, n in enumerate(channels)])


def test_lpips_is_the_weighted_distance_of_unit_excitations() -> None:
    network, (one, other) = tiny_lpips(), (rand(2, 3, 33, 40, seed=seed) for seed in (1, 2))
    expected = torch.zeros(2)
    for weights, a, b in zip(network.linear, network.network(one), network.network(other), strict=True):
        units = [x / (x.norm(dim=1, keepdim=True) ** 2 + 1e-8) ** 0.5 for x in (a, b)]
        expected += ((units[0] - units[1]) ** 2 * weights[:, None, None]).sum(dim=1).mean(dim=(1, 2))
    torch.testing.assert_close(network(one, other), expected)
    torch.testing.assert_close(network(other, one), expected)
    assert network(one, one).tolist() == [0, 0]


def test_lpips_of_videos_goes_frame_by_frame() -> None:
    network, (one, other) = tiny_lpips(), (clips(2, 3, 1, 20, 24, seed=seed) for seed in (1, 2))
    kept = one.frames.clone(), other.frames.clone()
    scores = lpips(network, one, other, batch=4)
    assert scores.shape == (2, 3)
    for clip in range(2):
        for time in range(3):
            pair = [video.frames[clip, time].expand(1, 3, -1, -1) for video in (one, other)]
            assert scores[clip, time].item() == pytest.approx(network(*pair).item(), rel=1e-5)
    torch.testing.assert_close(lpips(network, one, other, batch=1), scores)
    assert torch.equal(one.frames, kept[0])
    assert torch.equal(other.frames, kept[1])


def test_lpips_has_a_gradient_in_the_images_alone() -> None:
    network, image = tiny_lpips(), rand(1, 3, 24, 24).requires_grad_()
    network(image, rand(1, 3, 24, 24, seed=1)).sum().backward()
    assert image.grad is not None
    assert image.grad.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_lpips_refuses_what_it_cannot_compare() -> None:
    network, one = tiny_lpips(), clips(1, 2, 3, 20, 20)
    with pytest.raises(ValueError, match="equal shapes"):
        lpips(network, one, clips(1, 2, 1, 20, 20))
    with pytest.raises(ValueError, match="at least one frame at a time; got batch=0"):
        lpips(network, one, one, batch=0)
    with pytest.raises(ValueError, match="1 or 3 channels; got 2"):
        lpips(network, clips(1, 2, 2, 20, 20), clips(1, 2, 2, 20, 20))
    with pytest.raises(ValueError, match="7 vectors of weights, one per stage; got 6"):
        Lpips(network.network, list(network.linear)[:6])


def test_lpips_of_files_as_published(tmp_path: Path) -> None:
    """The published file of linear weights holds them as filters, by another name."""
    network = tiny_lpips()
    squeezenet = saved(tmp_path, squeezenet_arrays(), ".pth")
    linear = {f"lin{k}.model.1.weight": weights.data[None, :, None, None] for k, weights in enumerate(network.linear)}
    loaded = load_lpips(squeezenet, saved(tmp_path, linear))
    pair = [rand(1, 3, 33, 33, seed=seed) for seed in (1, 2)]
    torch.testing.assert_close(loaded(*pair), network(*pair))


# I3D


def _places(layer: Callable[[Tensor], Tensor], size: int) -> list[int]:
    """The index along the width that each output of a layer shows, when values are their index plus one."""
    x = torch.arange(1.0, size + 1).expand(1, 3, 8, 8, size)
    return [round(value) - 1 for value in layer(x)[0, 0, 2, 2].tolist()]


@pytest.mark.parametrize(("size", "expected"), [(8, [1, 3, 5, 7]), (9, [0, 2, 4, 6, 8]), (1, [0])])
def test_the_middle_of_a_strided_filter_lies_where_same_padding_puts_it(size: int, expected: list[int]) -> None:
    """7 wide, stride 2: 5 zeros around an even axis, two before it; 6 around an odd one, three before it."""
    arrays = i3d_arrays()
    weight = torch.zeros(7, 7, 7, 3, 4)
    weight[3, 3, 3, 0, 0] = 1
    arrays["Conv3d_1a_7x7/conv_3d/w"] = weight
    for part, value in (("beta", 0.0), ("moving_mean", 0.0), ("moving_variance", 1 - 1e-3)):
        arrays[f"Conv3d_1a_7x7/batch_norm/{part}"] = torch.full((4,), value)
    assert _places(I3DMixed4d(arrays).layers[0], size) == expected


@pytest.mark.parametrize(("size", "expected"), [(6, [2, 4, 5]), (7, [1, 3, 5, 6])])
def test_pools_start_at_the_first_point_of_an_even_axis(size: int, expected: list[int]) -> None:
    layers = I3DMixed4d(i3d_arrays()).layers
    for number in (1, 4, 7):
        assert _places(layers[number], size) == expected


def test_pools_halve_space_twice_and_time_once() -> None:
    x, shapes = rand(1, 3, 12, 40, 48), []
    for layer in I3DMixed4d(i3d_arrays()).layers:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes[0] == (4, 6, 20, 24)
    assert shapes[1] == (4, 6, 10, 12)
    assert shapes[2:4] == [(3, 6, 10, 12), (5, 6, 10, 12)]
    assert shapes[4:7] == [(5, 6, 5, 6), (11, 6, 5, 6), (11, 6, 5, 6)]
    assert shapes[7:] == [(11, 3, 3, 3)] * 4


def _unit(arrays: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight = arrays[f"{name}/conv_3d/w"].permute(4, 3, 0, 1, 2)
    shift, mean, variance = (
        arrays[f"{name}/batch_norm/{part}"][:, None, None, None] for part in ("beta", "moving_mean", "moving_variance")
    )
    return ((F.conv3d(x, weight, padding=weight.shape[2] // 2) - mean) / (variance + 1e-3).sqrt() + shift).relu()


def test_units_and_blocks_are_the_published_ones() -> None:
    arrays = i3d_arrays()
    layers, x = I3DMixed4d(arrays).layers, rand(1, 4, 5, 6, 7)
    small = _unit(arrays, "Conv3d_2b_1x1", x)
    torch.testing.assert_close(layers[2](x), small)
    torch.testing.assert_close(layers[3](small), _unit(arrays, "Conv3d_2c_3x3", small))
    for number, name in ((5, "Mixed_3b"), (8, "Mixed_4b")):
        y = rand(1, 5 if number == 5 else 11, 5, 6, 7, seed=9).abs()
        pooled = F.max_pool3d(y, 3, stride=1, padding=1)
        expected = [
            _unit(arrays, f"{name}/Branch_0/Conv3d_0a_1x1", y),
            *(
                _unit(arrays, f"{name}/Branch_{k}/Conv3d_0b_3x3", _unit(arrays, f"{name}/Branch_{k}/Conv3d_0a_1x1", y))
                for k in (1, 2)
            ),
            _unit(arrays, f"{name}/Branch_3/Conv3d_0b_1x1", pooled),
        ]
        torch.testing.assert_close(layers[number](y), torch.cat(expected, dim=1))


def test_an_epsilon_guards_small_variances() -> None:
    arrays = i3d_arrays()
    arrays["Conv3d_2b_1x1/batch_norm/moving_variance"] = torch.zeros(3)
    layer, x = I3DMixed4d(arrays).layers[2], rand(1, 4, 2, 2, 2)
    torch.testing.assert_close(layer(x), _unit(arrays, "Conv3d_2b_1x1", x))


# Networks


def test_i3d_features_are_means_over_the_resized_clip(tmp_path: Path) -> None:
    network, video = fd_i3d_mixed4d(saved(tmp_path, i3d_arrays())), clips(2, 3, 1, 20, 30)
    found = extract(network, video)
    assert found.shape == (2, 1, 11)
    resized = F.interpolate(video.frames.flatten(0, 1), size=(224, 224), mode="bilinear").unflatten(0, (2, 3))
    expected = I3DMixed4d(i3d_arrays()).layers(resized.expand(-1, -1, 3, -1, -1).transpose(1, 2)).mean(dim=(2, 3, 4))
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-4, atol=1e-4)
    assert network.name == "fd_i3d_mixed4d"


@pytest.mark.parametrize("ending", [".npz", ".pth"])
def test_squeezenet_features_are_means_over_each_resized_frame(tmp_path: Path, ending: str) -> None:
    network, video = fd_squeezenet(saved(tmp_path, squeezenet_arrays(), ending)), clips(2, 3, 3, 20, 30)
    found = extract(network, video)
    assert found.shape == (2, 3, 6)
    frame = F.interpolate(video.frames[1, 2:3], size=(224, 224), mode="bilinear")
    torch.testing.assert_close(found[1, 2], _stages(squeezenet_arrays(), frame)[-1].mean(dim=(0, 2, 3)))
    assert network.name == "fd_squeezenet"


class Detector(nn.Module):
    """Called as the published I3D is: says which size, range and flags it saw."""

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False) -> Tensor:
        batch, channels, time, height, width = x.shape
        flags = torch.tensor([rescale, resize, return_features])
        seen = torch.cat((flags.long(), torch.tensor([channels, time, height, width])))
        return torch.cat((seen.expand(batch, 7), x.mean(dim=(3, 4))[:, 0]), dim=1)


class Classifier(nn.Module):
    """Called as the published Inception is."""

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        flags = torch.tensor([float(return_features), float(x.dtype == torch.uint8)])
        return torch.cat((flags.expand(x.shape[0], 2), x[:, 0, 0].float()), dim=1)


@functools.cache
def _script(module: type[nn.Module]) -> torch.jit.ScriptModule:
    return torch.jit.script(module())


def scripted(folder: Path, module: type[nn.Module]) -> Path:
    path = folder / "network.pt"
    _script(module).save(str(path))
    return path


def test_fvd_calls_the_published_network_as_its_authors_do(tmp_path: Path) -> None:
    video = Video(torch.linspace(-1, 1, 20).reshape(2, 10, 1, 1, 1).expand(-1, -1, 1, 8, 8), torch.arange(10).double())
    found = extract(fvd(scripted(tmp_path, Detector), sha256=None), video)
    assert found.shape == (2, 1, 17)
    assert found[1, 0, :7].tolist() == [0, 0, 1, 3, 10, 224, 224]
    torch.testing.assert_close(found[:, 0, 7:], torch.linspace(-1, 1, 20).reshape(2, 10))
    with pytest.raises(ValueError, match="fvd needs clips of at least 10 frames; got 9"):
        extract(fvd(scripted(tmp_path, Detector), sha256=None), clips(1, 9, 1, 8, 8))


def test_fid_gives_the_published_network_bytes(tmp_path: Path) -> None:
    row = torch.tensor([-1.0, 0.0, 0.999, 1.0]).expand(2, 3, 1, 2, 4)
    found = extract(fid(scripted(tmp_path, Classifier), sha256=None), Video(row, torch.arange(3).double()))
    assert found.shape == (2, 3, 6)
    assert found[1, 2].tolist() == [1, 1, 0, 128, 255, 255]


@pytest.mark.parametrize("load", [fvd, fid])
def test_a_program_of_another_checksum_is_not_run(
    tmp_path: Path, load: Callable[..., FeatureNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = scripted(tmp_path, Detector)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load(path, sha256=digest.upper()).digest == digest
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("loaded before it was checked"))
    with pytest.raises(ValueError, match=f"has sha256 {digest}, not the expected.*https://"):
        load(path)


@pytest.mark.parametrize("load", [fvd, fid, fd_i3d_mixed4d, fd_squeezenet])
def test_missing_weights_say_where_to_get_them(tmp_path: Path, load: Callable[..., FeatureNetwork]) -> None:
    with pytest.raises(FileNotFoundError, match=r"No weights at .*absent\.npz\. Get .* from https://"):
        load(tmp_path / "absent.npz")


def test_weights_are_read_from_known_files_in_single_precision(tmp_path: Path) -> None:
    halves = {"a": torch.tensor([1.5]).half()}
    for ending in (".npz", ".pth"):
        arrays = load_arrays(saved(tmp_path, halves, ending))
        assert arrays["a"].dtype == torch.float32
        assert arrays["a"].tolist() == [1.5]
    with pytest.raises(ValueError, match=r"\.npz or \.pth files; got weights\.bin"):
        load_arrays(tmp_path / "weights.bin")


@given(st.integers(1, 3), st.integers(1, 3))
def test_grey_counts_as_colour(batch: int, time: int) -> None:
    grey = rand(batch, time, 1, 2, 2)
    torch.testing.assert_close(as_rgb(grey), torch.cat((grey, grey, grey), dim=2))
    assert torch.equal(as_rgb(as_rgb(grey)), as_rgb(grey))


# Extraction and cache


class Stub:
    """A network that says mean and spread of every frame, and remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[tuple[int, ...]] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.given.append(tuple(x.shape))
        return torch.stack((x.mean(dim=(2, 3, 4)), x.std(dim=(2, 3, 4))), dim=2)

    def network(self, name: str = "stub", digest: str = "0") -> FeatureNetwork:
        return FeatureNetwork(name, digest, self)


@given(st.integers(1, 5), st.integers(1, 6))
def test_features_come_in_bounded_batches_and_in_order(size: int, batch: int) -> None:
    stub, video, calls = Stub(), clips(size, 2, 1, 3, 3), []
    found = extract(stub.network(), video, batch=batch, progress=lambda done, total: calls.append((done, total)))
    torch.testing.assert_close(found[:, :, 0], video.frames.mean(dim=(2, 3, 4)))
    assert max(shape[0] for shape in stub.given) <= batch
    assert sum(shape[0] for shape in stub.given) == size
    assert calls == [(min(done, size), size) for done in range(0, size + batch, batch)]


def test_extraction_needs_a_batch_and_finite_features_and_leaves_the_video() -> None:
    video = clips(2, 2, 3, 4, 4)
    kept = video.frames.clone()
    extract(Stub().network(), video)
    assert torch.equal(video.frames, kept)
    with pytest.raises(ValueError, match="at least one clip at a time; got batch=0"):
        extract(Stub().network(), video, batch=0)
    with pytest.raises(ValueError, match="1 or 3 channels; got 2"):
        extract(Stub().network(), clips(1, 1, 2, 4, 4))
    with pytest.raises(ValueError, match="broken gave features that are NaN or infinite"):
        extract(FeatureNetwork("broken", "0", lambda x: x.mean(dim=(3, 4)) / 0), video)


def test_clips_seen_before_are_not_run_again(tmp_path: Path) -> None:
    stub, cache, video = Stub(), TensorCache(tmp_path / "cache"), clips(3, 2, 1, 4, 4)
    first = extract(stub.network(), Video(video.frames[1:2], video.times), cache=cache)
    whole = extract(stub.network(), video, cache=cache)
    assert [shape[0] for shape in stub.given] == [1, 2]
    torch.testing.assert_close(whole, extract(Stub().network(), video), rtol=0, atol=0)
    assert torch.equal(whole[1:2], first)
    calls: list[tuple[int, int]] = []
    later = Video(video.frames.flip(0), video.times + 7)
    again = extract(stub.network(), later, cache=cache, progress=lambda *done: calls.append(done))
    assert torch.equal(again, whole.flip(0))
    assert len(stub.given) == 2
    assert calls == [(3, 3)]


@pytest.mark.parametrize(
    "change",
    [
        lambda video: (video, "other", "0"),
        lambda video: (video, "stub", "1"),
        lambda video: (Video(video.frames.nextafter(torch.ones(())), video.times), "stub", "0"),
        lambda video: (Video(video.frames.double(), video.times), "stub", "0"),
        lambda video: (Video(video.frames.mT.contiguous().reshape(1, 2, 1, 2, 8), video.times), "stub", "0"),
        lambda video: (Video(video.frames.reshape(1, 2, 1, 2, 8), video.times), "stub", "0"),
    ],
)
def test_other_content_or_another_network_is_other_features(
    tmp_path: Path, change: Callable[[Video], tuple[Video, str, str]]
) -> None:
    stub, cache, video = Stub(), TensorCache(tmp_path), clips(1, 2, 1, 4, 4)
    extract(stub.network(), video, cache=cache)
    changed, name, digest = change(video)
    extract(stub.network(name, digest), changed, cache=cache)
    assert len(stub.given) == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_damaged_features_are_reported_and_computed_again(tmp_path: Path) -> None:
    stub, video = Stub(), clips(1, 2, 1, 4, 4)
    whole = extract(stub.network(), video, cache=TensorCache(tmp_path))
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.warns(UserWarning, match=f"{path.name} is damaged"):
        assert torch.equal(extract(stub.network(), video, cache=TensorCache(tmp_path)), whole)
    assert path.read_bytes() == content
    assert len(stub.given) == 2


# Published values


def _image(path: Path) -> Tensor:
    """A picture as RGB in [-1, 1], [1 channel height width]."""
    with av.open(str(path)) as container:
        pixels = next(container.decode(video=0)).to_ndarray(format="rgb24")
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1


def test_lpips_of_the_documented_noise(data: Path) -> None:
    """torchmetrics documents both values."""
    network = load_lpips(data / "weights" / SQUEEZENET_FILE, data / "weights" / LPIPS_FILE)
    for seed, expected in ((42, 0.1005), (123, 0.1008)):
        generator = torch.Generator().manual_seed(seed)
        pair = [torch.rand(10, 3, 100, 100, generator=generator) * 2 - 1 for _ in range(2)]
        assert network(*pair).mean().item() == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("name", "expected"), [("ex_p0", 0.7112), ("ex_p1", 0.1479)])
def test_lpips_of_the_documented_pictures(data: Path, name: str, expected: float) -> None:
    network = load_lpips(data / "weights" / SQUEEZENET_FILE, data / "weights" / LPIPS_FILE)
    pair = [_image(data / "images" / f"{picture}.png") for picture in ("ex_ref", name)]
    assert network(*pair).item() == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("frames", "expected"), [(16, 7.8541), pytest.param(30, 6.5331, marks=pytest.mark.slow)])
def test_i3d_tells_zeros_from_ones_as_an_independent_implementation_does(
    data: Path, tmp_path: Path, frames: int, expected: float
) -> None:
    network, times = fd_i3d_mixed4d(data / "weights" / I3D_FILE), torch.arange(frames).double()
    pair = [Video(torch.full((1, frames, 1, 64, 64), value), times) for value in (-1.0, 1.0)]
    cache = TensorCache(tmp_path)
    features = [extract(network, video, cache=cache).expand(2, 1, 512) for video in pair]
    with pytest.warns(UserWarning, match="2 samples of 512 features"):
        found = frechet_distance(*(GaussianStatistics.of(each) for each in features))
    assert found.value == pytest.approx(expected, abs=5e-5)
    assert found.covariance_term == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_fvd_tells_zeros_from_ones_as_published(data: Path) -> None:
    """Needs the full network, which its authors publish."""
    path = data / "weights" / "i3d_torchscript.pt"
    if not path.is_file():
        pytest.skip("needs the full I3D: put i3d_torchscript.pt into the folder of weights")
    network, times = fvd(path), torch.arange(30).double()
    pair = [Video(torch.full((1, 30, 1, 64, 64), value), times) for value in (-1.0, 1.0)]
    means = [extract(network, video)[0, 0].double() for video in pair]
    assert float((means[0] - means[1]).square().sum()) == pytest.approx(151.256, abs=0.1)
