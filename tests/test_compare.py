"""A whole study, as small as it gets, from training to pictures; and closed forms of the tasks it measures."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from PIL import Image

from flowvid.compare.measure import (
    Bench,
    _identity,
    condition,
    error_by_frame,
    known_times,
    measure,
    measure_cost,
    task_frames,
)
from flowvid.compare.methods import CHOSEN, TASKS, Method, candidates, methods
from flowvid.compare.report import COLUMNS, draw_study, tables
from flowvid.compare.results import run_study, table
from flowvid.compare.study import Study, demo_study, train_study
from flowvid.data.worlds.clips import World, clip_positions, render_clips
from flowvid.encoders.codec import IdentityCodec
from flowvid.models.continuous import MultiScale
from flowvid.models.rivals import RIVALS
from flowvid.train.loop import Optimisation
from flowvid.train.run import Run
from flowvid.video import time_grid

TINY = Study(
    run=Run(
        clips=8,
        validation_clips=16,
        channels=2,
        codec_width=8,
        width=8,
        codec=Optimisation(steps=6, batch=8, warmup=1),
        model=Optimisation(steps=3, batch=8, warmup=1),
    ),
    seeds=(0, 1),
    test_clips=3,
    timing_clips=1,
    timing_repeats=1,
    ddim_steps=(1, 2),
)
COMPETING = tuple(method for method in TINY.candidates if method.name in ("two-sided", "two-sided-4", "jump"))
ROWS = tuple(
    method
    for method in TINY.methods
    if method in COMPETING or method.model != "multiscale" or method.name == "calibrated + rk4"
)
"""The study measures a few of many rows that differ only in their solver or weights, which would take minutes."""

SPLITS = ("test", "slower", "faster")
QUALITY = ("position_error", "mse", "psnr", "ssim", "second_difference_ratio", "speed_unevenness")


@dataclass
class Stages:
    """Collects what a study announces."""

    names: list[str]
    reports: list[tuple[int, int, float]]

    def __call__(self, name: str):
        self.names.append(name)
        return lambda done, total, value: self.reports.append((done, total, value))


@dataclass
class Carried:
    """A study that was carried out."""

    folder: Path
    content: dict[str, Any]
    stages: Stages


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Carried]:
    folder, stages = tmp_path_factory.mktemp("study"), Stages([], [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Study, "methods", property(lambda study: ROWS))
        patch.setattr(Study, "candidates", property(lambda study: COMPETING))
        yield Carried(folder, run_study(TINY, folder, device="cpu", stage=stages), stages)


def rows(content: dict[str, Any]) -> dict[tuple[int, str, str, str], dict[str, Any]]:
    return {(row["seed"], row["task"], row["split"], row["method"]): row for row in content["rows"]}


def numbers(value: object) -> Iterator[float]:
    if isinstance(value, dict):
        for part in value.values():
            yield from numbers(part)
    elif isinstance(value, list):
        for part in value:
            yield from numbers(part)
    elif isinstance(value, int | float):
        yield value


# Results


def test_results_are_strict_json_of_finite_numbers(carried: Carried) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    text = (carried.folder / "results.json").read_text()
    found = json.loads(text, parse_constant=refuse)
    assert found == json.loads(json.dumps(carried.content))
    assert all(math.isfinite(number) for number in numbers(found))
    assert found["study"]["run"]["reach"] == TINY.run.reach


def test_there_is_one_row_for_each_seed_task_split_and_method(carried: Carried) -> None:
    """On the other splits only what stands in the main table is measured."""
    count = Counter(tuple(row[key] for key in ("seed", "task", "split", "method")) for row in carried.content["rows"])
    assert set(count.values()) == {1}
    expected = set()
    for task in TASKS:
        for method in ROWS:
            shown = SPLITS if method.group in ("main", "baseline") else ("test",)
            if task in method.tasks:
                expected |= {(seed, task, split, method.name) for seed in TINY.seeds for split in shown}
        for name in (CHOSEN, "codec"):
            expected |= {(seed, task, split, name) for seed in TINY.seeds for split in SPLITS}
    assert set(count) == expected


def test_rows_hold_errors_of_every_frame_and_costs_of_the_test_split(carried: Carried) -> None:
    for row in carried.content["rows"]:
        by_frame = row["position_error_by_frame"]
        assert len(by_frame) == len(task_frames(TINY.run, row["task"]))
        assert row["position_error"] == pytest.approx(sum(by_frame) / len(by_frame))
        assert ("position_error_off_grid" in row) == (row["task"] != "extrapolate")
        has_cost = row["split"] == "test" and row["task"] != "extrapolate" and row["method"] != "codec"
        assert ("seconds" in row) == has_cost
    found = rows(carried.content)
    halved = found[0, "fill", "test", "bisection"]
    assert (halved["evaluations"], halved["depth"]) == (15, 4)
    assert found[0, "predict", "test", "jump"]["evaluations"] == 8
    assert found[0, "predict", "test", "direct"]["depth"] == 1
    assert found[0, "predict", "test", "ddim, 2 steps"]["evaluations"] == 2
    copied = found[0, "predict", "test", "copy-last"]
    assert (copied["evaluations"], copied["multiply_adds_per_frame"]) == (0, 0)


def test_the_ceiling_belongs_to_the_codec_and_not_to_a_seed(carried: Carried) -> None:
    found = rows(carried.content)
    for task in TASKS:
        assert found[0, task, "test", "codec"] | {"seed": 1} == found[1, task, "test", "codec"]


def test_rivals_have_equally_many_parameters(carried: Carried) -> None:
    counts = carried.content["parameters"]
    assert set(counts) == set(TINY.models)
    assert all(abs(count / counts["multiscale"] - 1) < 0.05 for count in counts.values())


def test_the_chosen_row_is_that_of_a_candidate(carried: Carried) -> None:
    chosen, found = carried.content["chosen_on_validation"], rows(carried.content)
    assert set(chosen) == {str(seed) for seed in TINY.seeds}
    for seed in TINY.seeds:
        assert set(chosen[str(seed)]) == set(TASKS)
        for task, name in chosen[str(seed)].items():
            assert name in {method.name for method in COMPETING}
            mine, theirs = found[seed, task, "test", CHOSEN], found[seed, task, "test", name]
            assert mine["group"] == "main"
            assert [mine[key] for key in QUALITY] == [theirs[key] for key in QUALITY]
            assert mine.get("evaluations") == theirs.get("evaluations")


def test_the_choice_is_the_best_on_validation_clips(carried: Carried) -> None:
    codec, saved = train_study(TINY, carried.folder / "models", device="cpu", stage=Stages([], []))
    models = {name: found.network for (name, seed), found in saved.items() if seed == 1}
    bench = Bench.of(TINY.run, codec.network, "validation", clips=TINY.run.validation_clips, device="cpu")
    for task in ("predict", "fill"):
        errors = {m.name: float(error_by_frame(bench, m, models, task).mean()) for m in COMPETING}
        assert carried.content["chosen_on_validation"]["1"][task] == min(errors, key=errors.__getitem__)


def test_carried_out_again_nothing_is_trained_and_the_numbers_are_the_same(carried: Carried) -> None:
    study = replace(TINY, seeds=(0,))
    files = sorted((carried.folder / "models").glob("*.safetensors"))
    assert [path.name for path in files] == sorted(
        ["codec.safetensors", *(f"{name}-seed{seed}.safetensors" for name in TINY.models for seed in TINY.seeds)]
    )
    before = {path: path.stat().st_mtime_ns for path in files}
    stages = Stages([], [])
    again = rows(run_study(study, carried.folder, device="cpu", stage=stages))
    (carried.folder / "results.json").write_text(json.dumps(carried.content))
    assert {path: path.stat().st_mtime_ns for path in (carried.folder / "models").glob("*.safetensors")} == before
    assert all(total != TINY.run.model.steps for _, total, _ in stages.reports)
    first = {key: row for key, row in rows(carried.content).items() if key[0] == 0}
    assert set(first) == set(again)
    for key, row in again.items():
        assert [row[name] for name in QUALITY] == [first[key][name] for name in QUALITY]


def test_a_study_announces_its_stages_and_reports_to_the_end(carried: Carried) -> None:
    assert carried.stages.names[0] == "codec"
    assert sum(name.startswith("measuring") for name in carried.stages.names) == len(TINY.seeds)
    assert sum(name.startswith(TINY.models) for name in carried.stages.names) == len(TINY.models) * len(TINY.seeds)
    assert all(done <= total and math.isfinite(value) for done, total, value in carried.stages.reports)
    assert carried.stages.reports[-1][0] == carried.stages.reports[-1][1]


# Tables and pictures


def test_tables_name_every_method_and_show_means_with_spreads(carried: Carried) -> None:
    text = tables(carried.content)
    for name in [CHOSEN, "codec", *(method.name for method in ROWS)]:
        assert any(line.startswith(name + " ") for line in text.splitlines())
    for title, _ in COLUMNS:
        assert title in text
    content = {
        "rows": [
            {"task": "fill", "split": "test", "method": "one", "seed": seed, "mse": value, "only": value}
            for seed, value in enumerate([1.0, 3.0])
        ]
        + [{"task": "fill", "split": "test", "method": "another", "seed": 0, "mse": 0.012345, "only": None}]
        + [{"task": "fill", "split": "slower", "method": "hidden", "seed": 0, "mse": 4000.4}]
    }
    lines = table(content, "fill", columns=(("MSE", "mse"), ("bounce", "only"))).splitlines()
    assert lines[0].split() == ["method", "MSE", "bounce"]
    assert lines[2].split() == ["one", "2.00", "±1.4", "2.00", "±1.4"]
    assert lines[3].split() == ["another", "0.0123", "-"]
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert "4000" in table(content, "fill", columns=(("MSE", "mse"),), split="slower")


def test_models_that_jump_have_a_semigroup_gap_and_others_none(carried: Carried) -> None:
    for (_, task, _, method), row in rows(carried.content).items():
        jumps = method in {CHOSEN, "multi-scale, fill only", *(m.name for m in ROWS if m.model == "multiscale")}
        assert (row["semigroup_gap"] is not None) == jumps
        assert (row["heartbeat"] is not None) == (task == "fill")
        if jumps:
            assert row["semigroup_gap"] == pytest.approx(sum(row["semigroup_gap_by_level"]) / (TINY.run.scales - 1))


def test_results_of_earlier_versions_are_still_shown(carried: Carried) -> None:
    new = ("speed_uniformity", "identity_kept", "heartbeat", "semigroup_gap", "semigroup_gap_by_level")
    old = [{key: value for key, value in row.items() if key not in new} for row in carried.content["rows"]]
    text = tables({**carried.content, "rows": old})
    for title, _ in COLUMNS:
        assert title in text


def test_pictures_are_drawn_and_open(carried: Carried) -> None:
    stages = Stages([], [])
    paths = draw_study(TINY, carried.content, carried.folder, device="cpu", stage=stages)
    assert [path.name for path in paths] == ["comparison.png", "curves.png", "samples.mp4"]
    assert stages.reports == []
    for path in paths[:2]:
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
            assert min(image.size) > 300
    with av.open(str(paths[2])) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert float(container.streams.video[0].average_rate) == pytest.approx(1 / TINY.run.frame)
    assert len(frames) == 2 + 2 * TINY.run.reach
    assert frames[0].std() > 10


# Tasks


@pytest.mark.parametrize("reach", [4, 8, 16])
@pytest.mark.parametrize("frame", [0.125, 0.1])
def test_tasks_in_closed_form(reach: int, frame: float) -> None:
    run = replace(TINY.run, reach=reach, frame=frame, scales=3, clip_frames=2 * reach + 2)
    horizon = reach * frame
    assert known_times(run, "predict") == known_times(run, "extrapolate") == [-frame, 0.0]
    assert known_times(run, "fill") == [-frame, 0.0, horizon]
    assert task_frames(run, "predict") == [n * frame for n in range(1, reach + 1)]
    assert task_frames(run, "extrapolate") == [n * frame for n in range(reach + 1, 2 * reach + 1)]
    assert task_frames(run, "fill") == [n * frame for n in range(1, reach)]


class Asked(IdentityCodec):
    """A codec that keeps the times it decodes."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def decode(self, trajectory):
        self.times += trajectory.times.tolist()
        return super().decode(trajectory)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench.of(TINY.run, Asked(), "test", clips=6, device="cpu")


@pytest.mark.parametrize("task", TASKS)
def test_off_grid_times_lie_a_third_after_frames_and_never_on_a_dyadic_grid(bench: Bench, task: str) -> None:
    bench.codec.times.clear()
    measure(bench, Method(name="copy-last", model="copy-last"), {}, task)
    run, asked = TINY.run, set(bench.codec.times)
    between = sorted(asked - set(task_frames(run, task)) - set(known_times(run, task)))
    assert asked >= set(task_frames(run, task))
    if task == "extrapolate":
        assert between == []
        return
    assert [time / run.frame - n for n, time in enumerate(between)] == pytest.approx([1 / 3] * run.reach)
    for depth in range(20):
        ticks = [time / run.horizon * 2**depth for time in between]
        assert all(abs(tick - round(tick)) > 0.99 / (3 * run.reach) for tick in ticks)


def test_a_bench_holds_the_encoded_clips_and_their_truth(bench: Bench) -> None:
    run = TINY.run
    grid = time_grid(-run.frame, run.horizon, run.frame)
    assert torch.equal(bench.latents.states, render_clips(bench.clips, grid).frames)
    assert torch.equal(bench.positions([0.3]), clip_positions(bench.clips, [0.3])[:, :, 0])
    assert torch.equal(bench.truth([0.3]).frames, render_clips(bench.clips, [0.3]).frames)
    assert condition(bench, "fill").require().times.tolist() == known_times(run, "fill")
    assert bench.bounces.tolist() == [len(clip.events(0.0, run.horizon)) > 0 for clip in bench.clips]
    assert len({bench.noise.seeds[n] for n in range(6)}) == 6


def test_clips_with_and_without_a_bounce_are_told_apart() -> None:
    """Of the same answer the errors of both kinds average to the error of all."""
    fast = Bench.of(TINY.run, IdentityCodec(), "test", clips=20, device="cpu", world=World(speed=(6.0, 9.0)))
    bounces = int(fast.bounces.sum())
    assert 0 < bounces < 20
    found = measure(fast, Method(name="copy-last", model="copy-last"), {}, "predict")
    parts = bounces * found["position_error_bounce"] + (20 - bounces) * found["position_error_no_bounce"]
    assert parts / 20 == pytest.approx(found["position_error"])
    still = Bench.of(TINY.run, IdentityCodec(), "test", clips=3, device="cpu", world=World(motion="orbit"))
    found = measure(still, Method(name="copy-last", model="copy-last"), {}, "predict")
    assert found["position_error_bounce"] is None
    assert found["position_error_no_bounce"] == pytest.approx(found["position_error"])


def test_the_ceiling_of_a_codec_that_loses_nothing_is_the_truth(bench: Bench) -> None:
    found = measure(bench, None, {}, "predict")
    assert found["mse"] == 0
    assert found["ssim"] == pytest.approx(1)
    assert found["second_difference_ratio"] == pytest.approx(1)
    assert found["position_error"] < 0.15
    assert found["identity_kept"] > 0.9
    assert found["speed_uniformity"] > 0.98
    assert found["heartbeat"] is None
    assert found["semigroup_gap"] is None
    assert measure(bench, None, {}, "fill")["heartbeat"] == pytest.approx(1, abs=0.1)


def test_a_blend_is_blurred_between_the_given_frames_and_forgets_the_digit(bench: Bench) -> None:
    found = measure(bench, Method(name="linear blend", model="linear-blend"), {}, "fill")
    truth = measure(bench, None, {}, "fill")
    assert found["heartbeat"] < 0.8 * truth["heartbeat"]
    assert found["identity_kept"] < truth["identity_kept"]
    still = measure(bench, Method(name="copy-last", model="copy-last"), {}, "fill")
    assert still["speed_uniformity"] == pytest.approx(0, abs=1e-9)
    assert still["identity_kept"] > 0.9


def test_identity_is_that_of_single_upright_digits() -> None:
    for world in (World(motion="spin"), World(digits=2, canvas=48)):
        other = Bench.of(TINY.run, IdentityCodec(), "test", clips=2, device="cpu", world=world)
        assert _identity(other, other.truth([0.1, 0.2])) is None


def test_copies_are_as_wrong_as_things_have_moved(bench: Bench) -> None:
    """To within the floor of the centroid, twice."""
    times = task_frames(TINY.run, "predict")
    moved = (bench.positions(times) - bench.positions([0.0])).norm(dim=2)
    found = error_by_frame(bench, Method(name="copy-last", model="copy-last"), {}, "predict")
    assert float((found - moved).abs().max()) < 0.3
    assert float(found[:, -1].mean()) > 1


def test_costs_are_those_of_a_whole_clip_for_a_batch_of_any_size(bench: Bench) -> None:
    found = measure_cost(bench, Method(name="copy-last", model="copy-last"), {}, "predict", clips=9, repeats=1)
    frames = TINY.run.reach + 1
    assert (found["clips"], found["frames"]) == (9, frames)
    assert found["multiply_adds_per_frame"] == 0
    assert found["peak_megabytes"] >= 9 * frames * 32 * 32 * 4 / 2**20
    assert found["seconds"] > 0


# Studies


def test_rows_have_unique_names_and_one_reference_of_denoising() -> None:
    found = methods((1, 4, 16), RIVALS, 16)
    assert len({method.name for method in found}) == len(found)
    assert {method.model for method in found} == {*RIVALS, "copy-last", "linear-blend"}
    assert [m.name for m in found if m.model == "ddim" and m.group == "main"] == ["ddim, 16 steps"]
    assert set(candidates(16)) <= set(found)
    assert {method.model for method in methods((1,), ("direct",), 16)} == {"direct", "copy-last", "linear-blend"}


@pytest.mark.parametrize("longest", [1, 2, 4, 8, 16])
def test_candidates_use_gaps_that_the_model_has(longest: int) -> None:
    solvers = MultiScale(2, frame=0.125, scales=longest.bit_length(), reach=16, width=8).solvers
    assert all(method.solver in solvers for method in candidates(longest))


def test_the_chosen_row_is_no_row_of_its_own() -> None:
    found = methods((1, 4, 16), RIVALS, 16)
    assert CHOSEN not in {method.name for method in found}


@pytest.mark.parametrize("scale", ["demo", "quick"])
def test_the_demo_is_a_study(scale: str) -> None:
    study = demo_study(scale)
    assert study.seeded(7).model.seed == 7
    assert study.seeded(7).codec == study.run.codec
    with pytest.raises(ValueError, match="demo and quick; got 'huge'"):
        demo_study("huge")


@pytest.mark.parametrize(
    "wrong", [{"seeds": ()}, {"test_clips": 0}, {"timing_clips": 0}, {"timing_repeats": 0}, {"ddim_steps": (1, 0)}]
)
def test_studies_of_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least one seed and positive numbers"):
        replace(TINY, **wrong)
