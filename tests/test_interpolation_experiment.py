"""Filling in: what is given stays, each frame is judged against its own truth, spans do not touch, and runs resume."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from experiments import interpolation, real_clips
from experiments.digit_gaps import Digits, told
from experiments.fill_in import EVERY, ceiling, filled, found_perceptual, in_pixels, kept_detail, scores, through_codec
from experiments.real_spans import RealRun, Spans, read_spans
from experiments.real_training import MODELS, train_real
from experiments.recipes import SCALES, Interpolation
from experiments.recipes import interpolation as interpolation_recipe
from experiments.recipes import real_clips as real_recipe
from flowvid.data.footage.reader import Footage
from flowvid.data.footage.writers import write_video
from flowvid.data.worlds.clips import World, clip_positions, render_clips
from flowvid.encoders.codec import Codec, IdentityCodec
from flowvid.metrics.motion import position_error
from flowvid.models.baselines import CopyLast, LinearBlend
from flowvid.noise import Noise
from flowvid.plot.film import Strip, film_strips
from flowvid.train import loop
from flowvid.train.loop import Optimisation
from flowvid.train.plan import Run
from flowvid.video import Video, as_times, time_grid

NAMES = ("carphone_pristine.mp4", "world.mp4")


def moving_texture(frames: int, *, seed: int, side: int = 24) -> Tensor:
    """A smooth coloured texture that drifts; [time, 3, side, side]."""
    waves = Noise.of([seed]).uniform("waves", 3, 4)[0].double()
    y, x = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    time = torch.arange(frames)[:, None, None, None] / 24
    channels = [torch.sin(6.28 * ((1 + a) * x + (1 + b) * y + c * time[:, 0] + d)) for a, b, c, d in waves.tolist()]
    return (0.8 * torch.stack(channels, dim=1)).float()


def clip_of(frames: int, *, count: int = 2) -> Video:
    videos = torch.stack([moving_texture(frames, seed=seed) for seed in range(count)])
    return Video(videos, time_grid(0.0, (frames - 1) / 24, 1 / 24))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of real data without weights: two clips, and one too short for any window in a folder of its own."""
    place = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(NAMES):
        write_video(place / "clips" / name, moving_texture(64, seed=seed), fps=24.0 + seed)
    write_video(place / "clips" / "private" / "other.mp4", moving_texture(80, seed=9), fps=24.0)
    return place


def tiny() -> RealRun:
    how = Optimisation(steps=4, batch=4, warmup=1)
    return RealRun(
        name="tiny",
        files=NAMES,
        side=16,
        most=64,
        gaps=1,
        windows=2,
        channels=2,
        codec_width=8,
        codec=how,
        width=8,
        model=how,
    )


class Halved(Codec):
    """Loses half of every pixel."""

    def latents(self, frames: Tensor) -> Tensor:
        return frames

    def frames(self, latents: Tensor) -> Tensor:
        return latents / 2


# The task


@pytest.mark.parametrize("gaps", [1, 3])
def test_given_frames_stay_and_the_rest_are_answers(gaps: int) -> None:
    truth = clip_of(EVERY * gaps + 1)
    answer = filled(in_pixels(LinearBlend()), truth)
    assert torch.equal(answer.frames[:, ::EVERY], truth.frames[:, ::EVERY])
    assert torch.equal(answer.times, truth.times)
    for number in range(EVERY * gaps):
        first, share = number // EVERY * EVERY, number % EVERY / EVERY
        expected = torch.lerp(truth.frames[:, first], truth.frames[:, first + EVERY], share)
        assert torch.allclose(answer.frames[:, number], expected, atol=1e-5)


def test_no_method_sees_more_than_the_given_frames() -> None:
    truth = clip_of(17)
    other = truth.frames.clone()
    hidden = [number for number in range(17) if number % EVERY]
    other[:, hidden] = 0.5
    for filler in (
        in_pixels(LinearBlend()),
        in_pixels(CopyLast()),
        through_codec(Halved(), LinearBlend(), detail=True),
    ):
        one, two = filled(filler, truth), filled(filler, Video(other, truth.times))
        assert torch.equal(one.frames, two.frames)


@pytest.mark.parametrize("frames", [1, 8, 16, 18])
def test_clips_begin_and_end_with_a_given_frame(frames: int) -> None:
    with pytest.raises(ValueError, match=f"one frame more than a multiple of 8; got {frames}"):
        filled(in_pixels(LinearBlend()), clip_of(frames))


def test_detail_kept_undoes_a_linear_loss() -> None:
    """Of blended latents through a linear codec nothing is lost; without it the codec's loss is there in full."""
    truth = clip_of(17)
    blend = filled(in_pixels(LinearBlend()), truth).frames
    between = [number for number in range(17) if number % EVERY]
    plain = filled(through_codec(Halved(), LinearBlend()), truth).frames[:, between]
    kept = filled(through_codec(Halved(), LinearBlend(), detail=True), truth).frames
    assert torch.allclose(plain, blend[:, between] / 2, atol=1e-6)
    assert torch.allclose(kept, blend, atol=1e-5)


def test_detail_is_blended_by_the_share_of_the_gap() -> None:
    given = Video(
        torch.tensor([0.8, -0.4, 0.6]).reshape(1, 3, 1, 1, 1).expand(1, 3, 1, 4, 4), as_times([0.0, 2.0, 4.0])
    )
    decoded = torch.zeros(1, 3, 1, 4, 4)
    found = kept_detail(torch.zeros(1, 2, 2, 1, 4, 4), given, decoded, [0.5, 1.5])
    assert found[0, :, :, 0, 0, 0].flatten().tolist() == pytest.approx([0.5, -0.1, -0.15, 0.35])


def test_the_ceiling_is_the_codec_on_the_truth() -> None:
    truth = clip_of(17)
    between = [number for number in range(17) if number % EVERY]
    assert torch.equal(filled(ceiling(IdentityCodec(), truth), truth).frames, truth.frames)
    halved = filled(ceiling(Halved(), truth), truth).frames
    assert torch.equal(halved[:, between], truth.frames[:, between] / 2)


def test_the_truth_scores_best_and_only_frames_between_count() -> None:
    truth = clip_of(17)
    found = scores(truth, truth)
    assert found["psnr"] == pytest.approx([100.0] * 2)
    assert found["ssim"] == pytest.approx([1.0] * 2, abs=1e-4)
    assert found["second_difference_ratio"] == pytest.approx([1.0] * 2)
    worse = truth.frames.clone()
    worse[1, 1:8] = 0.0
    judged = scores(Video(worse, truth.times), truth)
    assert judged["psnr"][0] == pytest.approx(100.0)
    assert judged["psnr"][1] < 60
    assert judged["second_difference_ratio"][0] == pytest.approx(1.0)
    assert judged["second_difference_ratio"][1] > 1.5
    given = truth.frames.clone()
    given[:, ::EVERY] = 0.0
    assert scores(Video(given, truth.times), truth, moving=False)["psnr"] == pytest.approx([100.0] * 2)
    assert set(scores(truth, truth, moving=False)) == {"psnr", "ssim"}


def test_the_oracle_knows_where_the_digit_is() -> None:
    clips = World(motion="mixed").clips(range(3), "test")
    truth = render_clips(clips, time_grid(0.0, 2.0, 0.125))
    answer = filled(told(clips), truth)
    assert float(position_error(answer, clip_positions(clips, truth.times)[:, :, 0]).max()) < 0.6
    assert min(scores(answer, truth)["psnr"]) > 28


# Real clips


def test_spans_are_cut_in_time_with_room_between(folder: Path, tmp_path: Path) -> None:
    run = tiny()
    spans = read_spans(run, folder, tmp_path)
    assert spans.names == list(NAMES)
    for name, training, held_out in zip(NAMES, spans.training, spans.held_out, strict=True):
        with Footage(folder / "clips" / name) as footage:
            frames = footage.at(footage.times, size=(16, 16))
        assert torch.equal(training, frames[: len(training)])
        assert torch.equal(held_out, frames[-len(held_out) :])
        assert len(frames) - len(training) - len(held_out) == run.apart
        assert len(held_out) == pytest.approx(0.35 * 64, abs=run.apart / 2 + 1)
    assert [len(spans.windows(run, part)[0]) for part in ("training", "held_out")] == [4, 4]
    video, clips = spans.windows(run, "held_out")
    assert clips == [0, 0, 1, 1]
    first, last = spans.held_out[1][: run.length], spans.held_out[1][-run.length :]
    for window, pixels in ((video.frames[2], first), (video.frames[3], last)):
        assert torch.allclose(window, pixels.float() / 127.5 - 1, atol=1e-6)
    assert video.times.diff().tolist() == pytest.approx([1 / 30] * EVERY)


def test_decoded_frames_are_read_from_the_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_spans(tiny(), folder, tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("experiments.real_spans.Footage", refuse)
    after = read_spans(tiny(), folder, tmp_path)
    assert all(torch.equal(one, two) for one, two in zip(before.training, after.training, strict=True))


def test_missing_and_short_clips_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected gone.mp4 in .*; found carphone_pristine.mp4, world.mp4"):
        read_spans(replace(tiny(), files=(NAMES[0], "gone.mp4")), folder, tmp_path)
    with pytest.raises(ValueError, match=r"carphone_pristine.mp4 has 40 frames; both of its parts need 18"):
        read_spans(replace(tiny(), most=40), folder, tmp_path)
    with pytest.raises(ValueError, match=r"No clip in .* is long enough"):
        read_spans(replace(tiny(), files=("gone.mp4",), most=40), folder, tmp_path)
    assert read_spans(replace(tiny(), files=("gone.mp4",)), folder, tmp_path).names == list(NAMES)
    with pytest.raises(ValueError, match="name their folder"):
        real_clips.measure(tiny(), None, work=tmp_path)
    assert found_perceptual(folder) is None


def test_what_is_trained_is_loaded_and_what_is_half_done_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(MODELS, "bisection")
    run, said = replace(tiny(), seeds=(0,)), list[str]()
    spans = read_spans(run, folder, tmp_path)

    def trained(place: Path) -> dict[str, Tensor]:
        found = train_real(run, spans, place, say=said.append)
        return {**found.codec.state_dict(), **found.models["multi-scale", 0].state_dict()}

    whole = trained(tmp_path / "whole")
    assert said == ["training codec", "training multi-scale-seed0"]
    said.clear()
    again = trained(tmp_path / "whole")
    assert not said
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert set(train_real(run, spans, tmp_path / "whole").curves) == {"codec", "multi-scale-seed0"}

    real, calls = loop.Trainer.advance, list[int]()

    def stop(self: loop.Trainer, *inputs: object) -> None:
        calls.append(self.step)
        if len(calls) == 7:
            raise KeyboardInterrupt
        real(self, *inputs)  # pyrefly: ignore

    monkeypatch.setattr(loop.Trainer, "advance", stop)
    with pytest.raises(loop.Interrupted):
        trained(tmp_path / "broken")
    monkeypatch.setattr(loop.Trainer, "advance", real)
    resumed = trained(tmp_path / "broken")
    assert said == ["training codec", *["training multi-scale-seed0"] * 2]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(ValueError, match="belongs to another run"):
        train_real(replace(run, fps=25.0), spans, tmp_path / "whole")


def clean(content: dict[str, Any]) -> dict[str, Any]:
    """What is left after JSON, which refuses NaN, and holds no path."""
    text = json.dumps(content, allow_nan=False)
    assert "/" not in text.replace("/ ", "")
    return json.loads(text)


def test_real_clips_measures_claims_and_draws(folder: Path, tmp_path: Path) -> None:
    run, work = replace(tiny(), windows=1), tmp_path / "work"
    found = real_clips.measure(run, folder, work=work)
    content = clean({"recipe": asdict(run), **found})
    assert [one["key"] for one in found["claims"]] == [f"R{number}" for number in range(1, 8)]
    assert found["footage"] == list(NAMES)
    rows = found["held_out"]["methods"]
    assert len(rows["multi-scale"]["psnr"]) == len(run.seeds)
    assert len(rows["linear blend"]["psnr"]) == 1
    assert all(len(values) == 2 for row in rows.values() for seeds in row.values() for values in seeds)
    assert {"warping_error", "heartbeat"} <= set(rows["bisection, detail kept"])
    assert set(found["training"]["codec"]) == {"psnr", "mean_absolute_error"}
    real_clips.draw(content, tmp_path, work=work)
    with Image.open(tmp_path / "real_clips_film.png") as image:
        hues = np.asarray(image.convert("HSV").resize((200, 200)))
    assert int((hues[..., 1] > 100).sum()) > 2000
    with Footage(tmp_path / "real_clips.mp4") as footage:
        assert footage.info.frames == run.length
    real_clips.draw(content, tmp_path / "lines", work=tmp_path / "nothing")
    assert (tmp_path / "lines" / "real_clips.png").exists()
    assert not (tmp_path / "lines" / "real_clips_film.png").exists()


def test_interpolation_measures_claims_and_draws(folder: Path, tmp_path: Path) -> None:
    how = Optimisation(steps=6, batch=16, warmup=2)
    plan = Run(
        clips=32,
        validation_clips=8,
        codec_width=8,
        width=8,
        codec=how,
        model=how,
        scales=4,
        reach=8,
        clip_frames=18,
    )
    real = replace(tiny(), windows=1, seeds=(0,))
    run = Interpolation(digits=Digits(name="tiny", run=plan, seeds=(0, 1), clips=2, gaps=1), real=real)
    found = interpolation.measure(run, folder, work=tmp_path / "work")
    content = clean({"recipe": asdict(run), **found})
    assert [one["key"] for one in found["claims"]] == [f"I{number}" for number in range(1, 12)]
    rows = found["digits"]["methods"]
    assert rows["oracle"]["position_error"][0] < 0.2 < rows["copy-last"]["position_error"][0]
    assert rows["oracle"]["position_error_off_grid"][0] < 0.2
    assert all(len(by_frame) == EVERY - 1 for by_frame in rows["direct"]["position_error_by_frame"])
    assert "position_error_off_grid" not in rows["codec"]
    interpolation.draw(content, tmp_path, work=tmp_path / "work")
    for name in ("interpolation.png", "interpolation_digits_film.png", "interpolation_real_film.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    alone = {name: content[name] for name in ("recipe", "digits")}
    interpolation.draw(alone, tmp_path / "alone", work=tmp_path / "nothing")
    assert (tmp_path / "alone" / "interpolation.png").exists()


# Recipes and pictures


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_is_complete(scale: str) -> None:
    run = interpolation_recipe(scale)
    assert run.real == real_recipe(scale)
    assert run.digits.run.reach == EVERY == 2 ** (run.digits.run.scales - 1)
    assert len(run.digits.seeds) >= (2 if scale == "quick" else 3)
    assert run.digits.name != run.real.name
    assert json.loads(json.dumps(asdict(run)))


@pytest.mark.parametrize("recipe", [interpolation_recipe, real_recipe])
def test_unknown_scales_are_refused(recipe: object) -> None:
    assert callable(recipe)
    with pytest.raises(ValueError, match="quick, cpu, gpu; got 'huge'"):
        recipe("huge")


@pytest.mark.parametrize("wrong", [{"held_out": 0.0}, {"held_out": 1.0}, {"seeds": ()}, {"windows": 0}, {"gaps": 0}])
def test_runs_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Expected a share"):
        replace(tiny(), **wrong)


def test_windows_of_a_span_that_fits_one_begin_with_it() -> None:
    pixels = torch.arange(20, dtype=torch.uint8)[:, None, None, None].expand(20, 3, 16, 16)
    run = replace(tiny(), gaps=2)
    video, clips = Spans(["one"], [pixels], [pixels]).windows(run, "training")
    assert clips == [0]
    assert ((video.frames[0, :, 0, 0, 0] + 1) * 127.5).round().tolist() == list(range(17))


def test_strips_keep_their_colours_and_errors_are_grey(tmp_path: Path) -> None:
    red = torch.full((3, 3, 8, 8), -1.0)
    red[:, 0] = 1.0
    film_strips(tmp_path / "a.png", [("", (0.0, 0.5, 1.0), [Strip("truth", red), Strip("other", -red)])], known=[()])
    with Image.open(tmp_path / "a.png") as image:
        colours = {colour: count for count, colour in image.convert("RGB").getcolors(1 << 20) or []}
    cell = colours[255, 0, 0]
    assert cell > 1000
    assert colours[0, 255, 255] == pytest.approx(cell, rel=0.05)
    assert colours[0, 0, 0] == pytest.approx(cell, rel=0.05)
