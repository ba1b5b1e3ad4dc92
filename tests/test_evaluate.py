"""`flowvid evaluate`: two folders of videos, and one model against held-out clips."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flowvid.cli import evaluate as command
from flowvid.compare.consistency import _flow_map, seam_levels, semigroup_levels
from flowvid.compare.held_out import evaluate_model
from flowvid.compare.held_out_table import model_table
from flowvid.compare.measure import Bench
from flowvid.data.cache import TensorCache
from flowvid.data.footage.reader import FootageInfo
from flowvid.data.footage.writers import write_video
from flowvid.encoders.codec import IdentityCodec
from flowvid.metrics.clip_measures import paired_measures
from flowvid.metrics.clip_set import ClipProtocol, Sampling, common_sets, read_clip
from flowvid.metrics.evaluate import Evaluation, evaluate
from flowvid.metrics.evaluation_table import evaluation_table
from flowvid.metrics.features import FeatureNetwork
from flowvid.metrics.found_weights import Networks, find_networks
from flowvid.metrics.measured import Measure, measure_files
from flowvid.metrics.motion import second_difference_ratio
from flowvid.metrics.rhythm import flicker_line, sharpness
from flowvid.models.continuous import MultiScale
from flowvid.train.loop import Optimisation
from flowvid.train.run import Run, latents, train_codec, train_model
from flowvid.video import Condition, Trajectory, Video

SIDE, FRAMES = 16, 8


def frames(seed: int, *, count: int = FRAMES + 1, side: int = SIDE, jump: int = 0) -> Tensor:
    """A coarse random picture that drifts a pixel a frame and, every ``jump`` frames, two."""
    picture = torch.rand(3, side // 4, side // 4, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8
    picture = picture.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    shifts = [number + (number // jump if jump else 0) for number in range(count)]
    return torch.stack([picture.roll(shift, 2) for shift in shifts])


def folder(place: Path, seeds: range, *, fps: float = 25.0, **drawing: int) -> Path:
    for seed in seeds:
        write_video(place / f"clip{seed}.mp4", frames(seed, **drawing), fps=fps)
    return place


def network(calls: list[int] | None = None) -> FeatureNetwork:
    """Five random features of every frame."""
    weight = torch.randn(5, 3 * SIDE * SIDE, generator=torch.Generator().manual_seed(9)) / 20

    def apply(clips: Tensor) -> Tensor:
        if calls is not None:
            calls.append(len(clips))
        return F.linear(clips.flatten(2), weight).relu()

    return FeatureNetwork("random", "digest", apply)


def asked(**changes: Any) -> Evaluation:
    return replace(Evaluation(sampling=Sampling(frames=FRAMES), resamples=4), **changes)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("one"), range(4))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("other"), range(10, 15))


# Two folders


def test_equal_folders_are_at_no_distance(one: Path) -> None:
    found = evaluate(one, one, Networks((network(),)), asked=asked())
    assert found["sets"]["random"]["value"] == pytest.approx(0, abs=1e-9)
    assert found["sets"]["random"]["samples"] == [4 * FRAMES, 4 * FRAMES]
    assert found["paired"]["pairs"] == 4
    for name in ("mean_squared_error", "mean_absolute_error", "summed_squared_error", "summed_absolute_error"):
        assert found["paired"][name]["mean"] == 0
    assert found["paired"]["psnr"] == {"mean": pytest.approx(100), "deviation": 0}
    assert found["paired"]["psnr_of_mean"]["mean"] == pytest.approx(100)
    assert found["paired"]["ssim"]["mean"] == pytest.approx(1)
    assert found["alone"]["generated"] == found["alone"]["reference"]
    assert found["skipped"] == found["cut"] == [] or "longer" in found["cut"][0]


def test_names_and_their_order_do_not_matter_to_sets(one: Path, other: Path, tmp_path: Path) -> None:
    for number, path in zip((3, 0, 2, 1), sorted(one.iterdir()), strict=True):
        shutil.copy(path, tmp_path / f"renamed{number}.mp4")
    networks = Networks((network(),))
    first, second = (evaluate(place, other, networks, asked=asked()) for place in (one, tmp_path))
    assert first["sets"] == second["sets"]
    assert first["sets"]["random"]["value"] > 0.01
    assert first["alone"] == second["alone"]
    assert "names do not match" in second["not_computed"]["paired metrics"]
    assert "paired" not in second


def test_numbers_are_those_of_the_metrics_by_themselves(one: Path, other: Path) -> None:
    """Counts, the unbiased order of magnitude, and what clips show, from the frames that the protocol reads."""
    found = evaluate(one, other, Networks((network(),)), asked=asked())
    protocol = ClipProtocol(FRAMES, 25.0, (SIDE, SIDE))
    videos = [read_clip(path, protocol) for path in sorted(one.iterdir())]
    whole = Video(torch.cat([video.frames for video in videos]), videos[0].times)
    alone = found["alone"]["generated"]
    assert alone["sharpness"]["mean"] == pytest.approx(float(sharpness(whole).mean()))
    curved = ((whole.frames.double() + 1) / 2).diff(n=2, dim=1).square().mean()
    assert alone["second_difference_energy"]["mean"] == pytest.approx(float(curved))
    assert second_difference_ratio(whole, whole) == 1
    features = network().apply(whole.frames).double()
    rows = features.flatten(0, 1)
    assert found["sets"]["random"]["mean_term"] > 0
    assert found["sets"]["random"]["videos"] == [4, 5]
    assert found["sets"]["random"]["features"] == rows.shape[1] == 5
    assert found["clips"] == {"generated": 4, "reference": 5}


def test_pairs_are_matched_by_name_and_scored(one: Path, tmp_path: Path) -> None:
    """A clip that is brighter by a constant has that error, whichever the order of the files."""
    for seed in range(4):
        write_video(tmp_path / f"clip{seed}.mkv", frames(seed) + 0.2, fps=25.0)
    found = evaluate(tmp_path, one, Networks(), asked=asked(paired=True))["paired"]
    assert found["pairs"] == 4
    assert found["mean_absolute_error"]["mean"] == pytest.approx(0.1, abs=0.03)
    assert found["summed_absolute_error"]["mean"] == pytest.approx(
        3 * SIDE * SIDE * found["mean_absolute_error"]["mean"]
    )
    assert found["summed_squared_error"]["mean"] == pytest.approx(3 * SIDE**2 * found["mean_squared_error"]["mean"])
    assert found["psnr"]["mean"] == pytest.approx(19, abs=2)
    assert found["psnr_of_mean"]["mean"] <= found["psnr"]["mean"] + 1e-9
    assert found["psnr_of_mean"]["mean"] == pytest.approx(-10 * math.log10(found["mean_squared_error"]["mean"]))


def test_missing_partners_are_named(one: Path, other: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"clip0: none in the reference.*clip14: none generated"):
        evaluate(one, other, Networks(), asked=asked(paired=True))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(one / "clip0.mp4", tmp_path / name / "clip0.mp4")
    with pytest.raises(ValueError, match="clip0: 2 files on the generated side"):
        evaluate([tmp_path / "a", tmp_path / "b"], one / "clip0.mp4", Networks(), asked=asked(paired=True))


def test_a_broken_file_is_skipped_and_listed(one: Path, tmp_path: Path) -> None:
    place = tmp_path / "generated"
    shutil.copytree(one, place)
    (place / "clip1.mp4").write_bytes(b"no video")
    found = evaluate(place, one, Networks((network(),)), asked=asked(paired=True))
    assert [Path(skipped["file"]).name for skipped in found["skipped"]] == ["clip1.mp4"]
    assert "no video" in found["skipped"][0]["reason"]
    assert found["clips"] == {"generated": 3, "reference": 4}
    assert found["paired"]["pairs"] == 3
    assert "clip1.mp4" in evaluation_table(found)
    for path in place.iterdir():
        path.write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"Nothing on the generated side can be read. Skipped 4 of 4"):
        evaluate(place, one, Networks())


def test_a_file_that_goes_while_it_is_measured_is_skipped(one: Path, tmp_path: Path) -> None:
    files = [(one / "clip0.mp4",), (tmp_path / "gone.mp4",)]
    done = measure_files(files, [], ClipProtocol(2, 25.0, (SIDE, SIDE)))
    assert done.items == files[:1]
    assert [one.path.name for one in done.skipped] == ["gone.mp4"]


# The cache


def test_a_second_run_decodes_nothing_and_calls_no_network(
    one: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    cache = TensorCache(tmp_path / "cache")
    networks = Networks((network(calls),))
    first = evaluate(one, other, networks, asked=asked(), cache=cache)
    assert sum(calls) == 9
    calls.clear()

    def refuse(*_: object) -> Video:
        raise AssertionError("decoded")

    monkeypatch.setattr("flowvid.metrics.measured.read_clip", refuse)
    monkeypatch.setattr("flowvid.metrics.clip_set.Footage", refuse)
    monkeypatch.setattr("flowvid.metrics.evaluate.bootstrap_frechet", refuse)
    assert evaluate(one, other, networks, asked=asked(), cache=cache) == first
    assert calls == []


def test_other_protocols_and_other_weights_are_other_entries(one: Path, tmp_path: Path) -> None:
    calls: list[int] = []
    cache = TensorCache(tmp_path / "cache")
    for frames_, digest in ((FRAMES, "digest"), (FRAMES - 1, "digest"), (FRAMES, "another")):
        networks = Networks((replace(network(calls), digest=digest),))
        evaluate(one, one, networks, asked=asked(sampling=Sampling(frames=frames_)), cache=cache)
    assert sum(calls) == 3 * 4


def test_an_interrupted_run_goes_on_where_it_stopped(one: Path, tmp_path: Path) -> None:
    calls: list[int] = []
    cache = TensorCache(tmp_path / "cache")

    def stage(name: str) -> Callable[[int, int], None]:
        def report(done: int, total: int) -> None:
            assert 0 <= done <= total == 4 or name.endswith("distances")
            if name == "measuring, generated" and done == 2:
                raise KeyboardInterrupt

        return report

    networks = Networks((network(calls),))
    with pytest.raises(KeyboardInterrupt):
        evaluate(one, one, networks, asked=asked(batch=1), cache=cache, stage=stage)
    assert sum(calls) == 2
    evaluate(one, one, networks, asked=asked(batch=1), cache=cache)
    assert sum(calls) == 4


def test_batches_are_bounded_and_do_not_change_numbers(one: Path, other: Path) -> None:
    calls: list[int] = []
    found = [evaluate(one, other, Networks((network(calls),)), asked=asked(batch=batch)) for batch in (1, 3)]
    assert max(calls) == 3
    for key in ("value", "kernel", "low", "high"):
        assert found[0]["sets"]["random"][key] == pytest.approx(found[1]["sets"]["random"][key], rel=1e-4)
    assert found[0]["alone"] == found[1]["alone"]
    with pytest.raises(ValueError, match="batch=0"):
        measure_files([], [], ClipProtocol(2, 25.0, (SIDE, SIDE)), batch=0)


# What is cut, warned of and left out


def test_the_protocol_follows_the_files_and_says_what_it_cuts(tmp_path: Path) -> None:
    fast = folder(tmp_path / "fast", range(3), fps=50.0, count=40)
    slow = folder(tmp_path / "slow", range(3), fps=10.0, count=9, side=32)
    folder(tmp_path / "slow", range(7, 8), fps=10.0, count=3, side=32)
    sets = common_sets(fast, slow, Sampling(frames=5))
    assert sets.protocol == ClipProtocol(5, 10.0, (SIDE, SIDE))
    assert [path.name for path in sets.reference.clips] == ["clip0.mp4", "clip1.mp4", "clip2.mp4"]
    assert "too short: it lasts 0.3 s, and frame 5 is at 0.4 s" in sets.reference.skipped[0].reason
    said = "\n".join(sets.statements())
    assert "generated: 3 of 3 clips are longer; 0.9 of 2.4 s are cut off" in said
    assert "generated: 3 of 3 clips are resampled in time, from 50 frames per second" in said
    assert "reference: 3 of 3 clips are scaled and cut, from 32 x 32 pixels" in said
    assert "repeat" not in said
    assert "generated: 3 of 3 clips are scaled" not in said
    said = "\n".join(common_sets(fast, slow, Sampling(frames=5, fps=20.0)).statements())
    assert "reference: 4 of 4 clips are resampled in time, from 10 frames per second; 4 are slower" in said
    with pytest.raises(ValueError, match=r"No clip on the generated side lasts 2\.9 s \(30 frames at 10"):
        common_sets(fast, slow, Sampling(frames=30, fps=10.0))


def test_a_frame_that_would_count_twice_is_told(tmp_path: Path) -> None:
    """The last frame stays on screen, and frames at nearly the asked rate slip behind: neither goes unsaid."""
    short, enough = (folder(tmp_path / str(count), range(1), count=count) for count in (15, 16))
    with pytest.raises(ValueError, match=r"No clip on the reference side lasts 0\.6 s"):
        common_sets(enough, short, Sampling(frames=16, fps=25.0))
    assert common_sets(enough, enough, Sampling(frames=16, fps=25.0)).statements() == []
    slow = folder(tmp_path / "slow", range(1), fps=29.97, count=40)
    said = "\n".join(common_sets(slow, slow, Sampling(frames=30, fps=30.0)).statements())
    assert "1 of 1 clips are resampled in time, from 29.97 frames per second; 1 are slower, so frames repeat" in said


def test_frames_are_read_at_the_common_rate(tmp_path: Path) -> None:
    """At half the rate every other frame is read."""
    place = folder(tmp_path, range(1), fps=20.0, count=12)
    path = place / "clip0.mp4"
    whole, halved = (read_clip(path, ClipProtocol(n, fps, (SIDE, SIDE))) for n, fps in ((9, 20.0), (5, 10.0)))
    assert torch.equal(halved.frames, whole.frames[:, ::2])
    assert halved.times.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_large_footage_is_read_at_no_more_than_256_pixels() -> None:
    from flowvid.metrics.clip_set import _common_size

    info = FootageInfo(1280, 720, 9, 1.0, 25.0, False, 0.0, "mp4", "h264", 8, False, 0)
    assert _common_size([[info], [info]]) == (256, 455)
    assert _common_size([[info, info], [info, replace(info, width=640), replace(info, width=640)]]) == (288, 256)
    small = replace(info, width=80, height=60)
    assert _common_size([[info, info], [small]]) == (60, 80)


def test_few_samples_are_warned_of_with_numbers(one: Path, other: Path) -> None:
    found = evaluate(one, other, Networks((network(),)), asked=asked(sampling=Sampling(frames=1)))
    assert "random: 4 and 5 samples of 5 features" in found["warnings"][0]
    assert "differences of frames" in next(name for name in found["not_computed"] if "sharpness" in name)
    single = evaluate(one / "clip0.mp4", other, Networks((network(),)), asked=asked())
    assert any("no interval" in line for line in single["warnings"])
    assert "low" not in single["sets"]["random"]
    assert single["sets"]["random"]["value"] > 0
    alone = evaluate(one / "clip0.mp4", other, Networks((network(),)), asked=asked(sampling=Sampling(frames=1)))
    assert "at least two samples" in alone["not_computed"]["random"]
    assert "random" in evaluation_table(alone)


def test_an_interval_holds_the_distance_and_can_be_left_out(one: Path, other: Path) -> None:
    found = evaluate(one, other, Networks((network(),)), asked=asked(resamples=8))["sets"]["random"]
    assert found["low"] <= found["high"]
    assert found["resamples"] == 8
    bare = evaluate(one, other, Networks((network(),)), asked=asked(resamples=0))["sets"]["random"]
    assert bare["value"] == pytest.approx(found["value"])
    assert "low" not in bare
    for wrong in ({"resamples": 1}, {"resamples": -1}, {"periods": (1,)}):
        with pytest.raises(ValueError, match="resamples"):
            asked(**wrong)


def test_networks_that_need_longer_clips_are_left_out(one: Path) -> None:
    long = replace(network(), least_frames=FRAMES + 1)
    found = evaluate(one, one, Networks((long,)), asked=asked())
    assert found["sets"] == {}
    assert f"at least {FRAMES + 1} frames; these have {FRAMES}" in found["not_computed"]["random"]


def test_missing_weights_are_listed_with_their_source(one: Path, tmp_path: Path) -> None:
    networks = find_networks(tmp_path)
    assert networks.features == ()
    assert {name for name, _ in networks.missing} == {"fvd", "fid", "fd_i3d_mixed4d", "fd_squeezenet", "lpips"}
    found = evaluate(one, one, networks, asked=asked())
    for name in ("fvd", "fid", "fd_i3d_mixed4d", "fd_squeezenet", "lpips"):
        assert "https://" in found["not_computed"][name]
        assert name in evaluation_table(found)
    (tmp_path / "i3d_torchscript.pt").write_bytes(b"another file")
    assert "sha256" in dict(find_networks(tmp_path).missing)["fvd"]
    assert "cannot be used" in dict(find_networks(tmp_path).missing)["fvd"]
    with pytest.raises(ValueError, match="there is none"):
        find_networks(tmp_path / "nowhere")


def test_published_weights_are_found(data: Path) -> None:
    found = find_networks(data / "weights")
    assert {network.name for network in found.features} >= {"fd_i3d_mixed4d", "fd_squeezenet"}
    assert found.lpips is not None


def test_flicker_is_found_at_its_period(tmp_path: Path) -> None:
    """Clips that jump every fourth frame have a line there; with too few frames the number needed is named."""
    jumping = folder(tmp_path / "jumping", range(2), count=35, jump=4)
    steady = folder(tmp_path / "steady", range(2), count=35)
    found = evaluate(jumping, steady, Networks(), asked=asked(sampling=Sampling(frames=34), periods=(4, 8)))
    alone = found["alone"]
    assert alone["generated"]["flicker_line_4"]["mean"] > 20
    assert alone["reference"]["flicker_line_4"]["mean"] < 5
    assert found["not_computed"]["flicker line at period 8"] == "it needs 65 frames: --frames 65"
    protocol = ClipProtocol(34, 25.0, (SIDE, SIDE))
    videos = [read_clip(path, protocol) for path in sorted(jumping.iterdir())]
    whole = Video(torch.cat([video.frames for video in videos]), videos[0].times)
    assert alone["generated"]["flicker_line_4"]["mean"] == pytest.approx(flicker_line(whole, 4))
    assert "flicker line 4" in evaluation_table(found)


def test_small_frames_leave_similarities_out() -> None:
    measures, reasons = paired_measures(Networks(), ClipProtocol(2, 25.0, (10, 200)))
    assert [measure.name for measure in measures] == ["errors"]
    assert set(reasons) == {"ssim", "ms_ssim"}
    measures, reasons = paired_measures(Networks(), ClipProtocol(2, 25.0, (176, 200)))
    assert [measure.name for measure in measures] == ["errors", "ssim", "ms_ssim"]
    assert reasons == {}


def test_pairs_with_one_measure_known_are_completed(one: Path, tmp_path: Path) -> None:
    cache, protocol = TensorCache(tmp_path), ClipProtocol(2, 25.0, (SIDE, SIDE))
    calls: list[str] = []

    def measure(name: str) -> Measure:
        def apply(first: Video, second: Video) -> Tensor:
            calls.append(name)
            return (first.frames - second.frames).abs().mean(dim=(1, 2, 3, 4))

        return Measure(name, name, apply)

    pairs = [(one / "clip0.mp4", one / "clip1.mp4"), (one / "clip1.mp4", one / "clip0.mp4")]
    measure_files(pairs[:1], [measure("a")], protocol, cache=cache)
    done = measure_files(pairs, [measure("a"), measure("b")], protocol, cache=cache)
    assert calls == ["a", "a", "b"]
    assert done.rows["a"][0] == done.rows["a"][1] == done.rows["b"][0]
    assert len(set(done.contents)) == 2


# The command


def run_command(*arguments: object) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    options = parser.parse_args(["evaluate", *map(str, arguments)])
    options.command(options)


def test_one_command_scores_two_folders(
    one: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLOWVID_DATA", raising=False)
    out = tmp_path / "scores.json"
    run_command(
        *(one, "--against", other / "*.mp4", "--frames", 4, "--size", f"{SIDE}x{SIDE}", "--fps", 10),
        *("--periods", "2", "--out", out, "--cache", tmp_path / "cache"),
    )
    content = json.loads(out.read_text())
    assert content["protocol"] == {"frames": 4, "fps": 10.0, "size": [SIDE, SIDE]}
    assert content["clips"] == {"generated": 4, "reference": 5}
    said = capsys.readouterr().out
    assert "4 generated, 5 reference clips" in said
    assert "sharpness" in said
    assert "the first 4 frames at 10 per second" in said


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "Expected videos"),
        (["a"], "Expected videos"),
        (["--against", "b"], "Expected videos"),
        (["a", "--model", "m"], "Expected videos"),
        (["--model", "m", "--against", "b"], "Expected videos"),
        (["--model", "m", "--fps", "5"], "--fps is for folders of videos"),
        (["a", "--against", "b", "--task", "fill"], "--task is for a --model"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments: list[str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        run_command(*arguments)


@pytest.mark.parametrize("size", ["0", "12x", "1x2x3", "axb", "-4"])
def test_sizes_are_checked(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command("a", "--against", "b", f"--size={size}")
    assert "HEIGHTxWIDTH" in capsys.readouterr().err


# A model against held-out clips

TINY = Run(
    clips=8,
    validation_clips=16,
    channels=2,
    codec_width=8,
    width=8,
    codec=Optimisation(steps=4, batch=8, warmup=1),
    model=Optimisation(steps=2, batch=8, warmup=1),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    codec = train_codec(TINY, place).network

    def bank(split: str) -> Trajectory:
        count = TINY.clips if split == "train" else TINY.validation_clips
        return latents(TINY, codec, split, TINY.times, clips=count, device="cpu")

    for name in ("multiscale", "ddim"):
        train_model(name, TINY, bank, place)
    return place


def numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [number for part in value.values() for number in numbers(part)]
    if isinstance(value, list):
        return [number for part in value for number in numbers(part)]
    return [value] if isinstance(value, int | float) else []


@pytest.mark.parametrize("task", ["predict", "fill", "extrapolate"])
def test_a_model_gets_every_number_beside_floor_and_ceiling(trained: Path, task: str) -> None:
    weights = Networks((replace(network(), apply=lambda clips: clips.flatten(2)[:, :, :5].float()),))
    found = evaluate_model(
        trained / "multiscale-seed0.safetensors", trained / "codec.safetensors", weights, task=task, clips=2
    )
    json.dumps(found, allow_nan=False)
    assert set(found["rows"]) == {"multiscale-seed0", "codec", "copy-last"} | (
        {"linear blend"} if task == "fill" else set()
    )
    mine = found["rows"]["multiscale-seed0"]
    assert 0 <= mine["identity_kept"] <= 1
    assert 0 <= mine["speed_uniformity"] <= 1
    assert (mine["heartbeat"] is not None) == (task == "fill")
    assert mine["semigroup_gap"] == pytest.approx(sum(mine["semigroup_gap_by_level"]) / 4)
    assert found["rows"]["codec"]["semigroup_gap"] is None
    assert found["samples"] is None
    assert len(found["seams_by_level"]) == (6 if task == "extrapolate" else 5)
    assert found["captions"]["digit"]["truth"] == 1
    assert set(found["flicker"]) == {"every 1 frame(s)", "every 2 frame(s)"}
    assert found["features"]["random"]["samples"] == 2 * (15 if task == "fill" else 16)
    assert all(math.isfinite(number) for number in numbers(found))
    said = model_table(found)
    assert "Deterministic" in said
    assert "identity kept" in said


def test_a_stochastic_model_is_scored_by_three_protocols(trained: Path) -> None:
    found = evaluate_model(
        *(trained / "ddim-seed0.safetensors", trained / "codec.safetensors", Networks()),
        **{"solver": "ddim-1", "clips": 2, "samples": 3},
    )
    samples = found["samples"]
    assert samples["count"] == 3
    assert samples["psnr"]["best"] >= samples["psnr"]["single"]
    assert samples["mean_squared_error"]["best"] <= samples["mean_squared_error"]["single"]
    assert samples["mean_squared_error"]["of_mean"] <= samples["mean_squared_error"]["single"]
    assert samples["position_error"]["best"] <= samples["position_error"]["single"]
    assert samples["pairwise_distance"]["frame_rms"] > 0
    assert found["seams_by_level"] is None
    assert "3 samples of each clip" in model_table(found)


def test_wrong_models_and_tasks_are_refused(trained: Path) -> None:
    files = trained / "multiscale-seed0.safetensors", trained / "codec.safetensors"
    with pytest.raises(ValueError, match="predict, extrapolate, fill"):
        evaluate_model(*files, Networks(), task="guess")
    with pytest.raises(ValueError, match="two samples"):
        evaluate_model(*files, Networks(), samples=1)
    with pytest.raises(ValueError, match="there is none"):
        evaluate_model(trained / "nothing.safetensors", files[1], Networks())


def test_gaps_and_seams_of_heads_that_say_nothing_are_how_far_things_move() -> None:
    """Zero velocities jump nowhere: no semigroup gap, and seams are root mean square steps of (z, p x frame)."""
    model = MultiScale(1, frame=0.125, scales=3, reach=8, width=8)
    model.heads.scale.zero_()
    states = torch.randn(2, 10, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    whole = Trajectory(states, torch.arange(-1, 9, dtype=torch.float64) * 0.125)
    known = Condition(whole.at(-0.125, 0.0))
    assert semigroup_levels(model, whole, known) == [0, 0]
    pairs = torch.cat((states[:, 1:], states.diff(dim=1)), dim=2).double()
    steps = pairs.diff(dim=1).flatten(2).square().mean(dim=2).sqrt().mean(dim=0)
    found = seam_levels(model, whole, known)
    assert found[0] == pytest.approx(float(steps[::2].mean()), rel=1e-5)
    assert found[3] == pytest.approx(float(steps[7]), rel=1e-5)
    assert semigroup_levels(MultiScale(1, frame=0.125, scales=1, reach=8, width=8), whole, known) == []


def test_velocities_count_as_displacements_over_a_frame() -> None:
    """The flow map on (z, p x frame) is the field's on (z, p)."""
    model = MultiScale(1, frame=0.125, scales=2, reach=8, width=8)
    for seed, weights in enumerate(model.heads.parameters()):
        torch.nn.init.normal_(weights, std=0.3, generator=torch.Generator().manual_seed(seed))
    states = torch.randn(2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    known = Condition(Trajectory(states[:, :2], torch.tensor([-0.125, 0.0], dtype=torch.float64)))
    state = torch.randn(2, 1, 2, 8, 8, generator=torch.Generator().manual_seed(5))
    size = torch.tensor([1.0, 0.125])[:, None, None]
    found = _flow_map(model, known)
    expected = found.field.rates([0.25], state, [True]) * size
    torch.testing.assert_close(found.rates([0.25], state * size, [True]), expected)
    unscaled = found.field.rates([0.25], state * size, [True]) * size
    assert not torch.allclose(unscaled, expected)


def test_jumps_that_leave_the_horizon_do_not_count() -> None:
    """With a horizon of four frames the gap of eight frames has no level, and each level the states it fits."""
    model = MultiScale(1, frame=0.125, scales=4, reach=8, width=8)
    states = torch.zeros(1, 6, 1, 8, 8)
    whole = Trajectory(states, torch.arange(-1, 5, dtype=torch.float64) * 0.125)
    assert len(semigroup_levels(model, whole, Condition(whole.at(-0.125, 0.0)))) == 2


def test_what_depends_on_no_method_is_computed_once() -> None:
    bench = Bench.of(TINY, IdentityCodec(), "test", clips=2, device="cpu")
    assert bench.truth([0.1, 0.2]) is bench.truth(torch.tensor([0.1, 0.2], dtype=torch.float64))
    assert bench.truth([0.1]) is not bench.truth([0.2])
    assert bench.positions([0.1]) is bench.positions([0.1])
