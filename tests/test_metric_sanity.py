"""The damage that the sanity experiment does is the damage it says, and its figure and claims come from its numbers."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments.corruptions import CORRUPTIONS, PERIOD
from experiments.metric_sanity import draw, measure, recipe
from flowvid.noise import Noise
from flowvid.plot.heat import draw_heat
from flowvid.video import Video, time_grid

FRAMES = 33


@pytest.fixture(scope="module")
def video() -> Video:
    """Two clips whose every frame differs, and one frame more than is asked for."""
    pixels = Noise.of([3, 4]).uniform("pixels", FRAMES + 1, 1, 12, 14)
    return Video(pixels * 1.6 - 0.8, time_grid(0.0, FRAMES / 16, 1 / 16))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_keeps_shape_and_times_and_never_its_input(video: Video, name: str) -> None:
    before = video.frames.clone()
    damaged = CORRUPTIONS[name](video, Noise.of([0, 1]))
    assert damaged.frames.shape == (2, FRAMES, 1, 12, 14)
    assert torch.equal(damaged.times, video.times[:-1])
    assert torch.equal(video.frames, before)
    assert not torch.equal(damaged.frames, video.frames[:, :-1])


@given(seed=st.integers(0, 2**32), name=st.sampled_from(sorted(CORRUPTIONS)))
def test_a_clip_is_damaged_alike_in_any_batch(seed: int, name: str) -> None:
    frames = Noise.of([1, 2]).uniform("pixels", 18, 1, 8, 8) * 1.6 - 0.8
    times = time_grid(0.0, 17 / 16, 1 / 16)
    noise = Noise.of([seed, seed + 1])
    both = CORRUPTIONS[name](Video(frames, times), noise).frames
    alone = CORRUPTIONS[name](Video(frames[1:], times), noise[1:]).frames
    assert torch.allclose(both[1:], alone, atol=1e-6)


@pytest.mark.parametrize("name", ["shuffled", "reversed"])
def test_order_alone_changes(video: Video, name: str) -> None:
    damaged = CORRUPTIONS[name](video, Noise.of([0, 1])).frames
    for one, other in zip(damaged, video.frames[:, :-1], strict=True):
        keys = [sorted(frame.flatten().tolist()[:3] for frame in frames) for frames in (one, other)]
        assert keys[0] == keys[1]


def test_what_each_damage_does(video: Video) -> None:
    clean, done = (
        video.frames[:, :-1],
        {name: damage(video, Noise.of([0, 1])).frames for name, damage in CORRUPTIONS.items()},
    )
    assert torch.equal(done["late"], video.frames[:, 1:])
    assert torch.equal(done["frozen"][:, 1::2], done["frozen"][:, :-1:2])
    assert torch.equal(done["frozen"][:, ::2], clean[:, ::2])
    assert torch.equal(done["dropped"][:, 12:20], clean[:, 16:24])
    assert torch.equal(done["between"][:, ::PERIOD], clean[:, ::PERIOD])
    assert torch.equal(done["between"][:, 1:PERIOD], done["blur"][:, 1:PERIOD])
    assert torch.allclose((done["seam"] - clean).mean(dim=(0, 2, 3, 4))[::PERIOD], torch.tensor(0.06), atol=1e-6)
    assert done["noise"].sub(clean).std().item() == pytest.approx(0.1, rel=0.05)


def test_jitter_shifts_whole_frames_by_up_to_two_pixels(video: Video) -> None:
    damaged, clean = CORRUPTIONS["jitter"](video, Noise.of([0, 1])).frames, video.frames[:, :-1]
    shifts = set()
    for moved, still in zip(damaged.flatten(0, 1), clean.flatten(0, 1), strict=True):
        found = [
            (y, x)
            for y in range(-2, 3)
            for x in range(-2, 3)
            if torch.equal(moved[:, 2:-2, 2:-2], still[:, 2 + y : 10 + y, 2 + x : 12 + x])
        ]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) > 15


def test_blur_keeps_the_mean_of_what_is_inside() -> None:
    frames = torch.full((1, 18, 1, 21, 21), -1.0)
    frames[..., 10, 10] = 1.0
    blurred = CORRUPTIONS["blur"](Video(frames, time_grid(0.0, 17 / 16, 1 / 16)), Noise.of([0])).frames
    assert blurred.add(1).sum(dim=(3, 4)).sub(2).abs().max() < 1e-4
    spread = (blurred[0, 0, 0].double() + 1).sum(0)
    place = torch.arange(21, dtype=torch.float64) - 10
    assert float((spread * place.square()).sum() / spread.sum()) == pytest.approx(1.0, abs=0.03)


def test_the_smallest_run_measures_claims_and_draws(tmp_path: Path) -> None:
    content = measure(recipe("quick"), None)
    assert len(content["claims"]) == 9
    for found in content["claims"]:
        least, most = found["least"], found["most"]
        assert least is None or found["mean"] >= least, found["says"]
        assert most is None or found["mean"] <= most, found["says"]
    response = content["digits"]["response"]
    assert all(row["late"] == pytest.approx(1) for name, row in response.items() if name in ("MSE", "PSNR", "SSIM"))
    draw(content, tmp_path)
    assert (tmp_path / "metric_sanity.png").stat().st_size > 10_000


def test_tables_need_equal_columns(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="all with the same columns"):
        draw_heat(tmp_path / "x.png", {"a": {"one": {"x": 1.0}, "two": {"y": 1.0}}}, legend="")
    with pytest.raises(ValueError, match="at least one panel"):
        draw_heat(tmp_path / "x.png", {}, legend="")
