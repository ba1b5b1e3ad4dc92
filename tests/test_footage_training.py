"""From a folder of footage to a model: trained, kept, continued, and refused where it is another run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flowvid.cli import main
from flowvid.data.footage.reader import catalogue
from flowvid.data.footage.writers import read_metadata, write_video
from flowvid.data.worlds.clips import World
from flowvid.models.hub import load_pretrained
from flowvid.train.footage import FootageModel, FootageRun, train_footage
from flowvid.train.loop import Interrupted, Optimisation
from flowvid.video import time_grid

FPS = 8.0


def tiny(**changes: object) -> FootageRun:
    how = Optimisation(steps=4, batch=4, warmup=1)
    run = FootageRun(side=16, fps=FPS, scales=2, reach=2, channels=2, codec_width=8, width=8, codec=how, model=how)
    return replace(run, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two little films, one that is too short, and one that is broken."""
    place = tmp_path_factory.mktemp("films")
    for number, count in enumerate((40, 30, 4)):
        clip = World().clip(number, "train")
        write_video(place / f"{number}.mkv", clip.frames(time_grid(0.0, (count - 1) / FPS, 1 / FPS)), fps=FPS)
    (place / "broken.mp4").write_bytes(b"no film")
    return place


def train(folder: Path, out: Path, run: FootageRun | None = None, **options: object) -> FootageModel:
    return train_footage(catalogue(folder), run or tiny(), out, **options)


def weights(found: FootageModel) -> list[torch.Tensor]:
    return [*found.codec.state_dict().values(), *found.model.state_dict().values()]


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FootageModel]:
    out = tmp_path_factory.mktemp("trained")
    return out, train(folder, out)


def test_what_is_trained_is_kept_and_loaded(folder: Path, trained: tuple[Path, FootageModel]) -> None:
    out, found = trained
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    again = train(folder, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before
    assert again.seconds == {"codec": 0.0, "multiscale": 0.0}
    assert all(map(torch.equal, weights(found), weights(again)))
    loaded = load_pretrained(out / "multiscale")
    assert all(map(torch.equal, loaded.state_dict().values(), found.model.state_dict().values()))


def test_what_cannot_be_used_is_told(trained: tuple[Path, FootageModel]) -> None:
    reasons = {one.path.name: one.reason for one in trained[1].skipped}
    assert "2.mkv" in reasons
    assert "broken.mp4" in reasons
    assert "a window needs" in reasons["2.mkv"]


def test_an_interrupted_training_ends_with_the_same_weights(
    folder: Path, tmp_path: Path, trained: tuple[Path, FootageModel]
) -> None:
    for name in ("codec", "multiscale"):

        def stage(stage_name: str, stop: str = name):
            def progress(step: int, steps: int, loss: float) -> None:
                if stage_name == stop:
                    raise KeyboardInterrupt

            return progress

        with pytest.raises(Interrupted):
            train(folder, tmp_path, stage=stage)
        assert not (tmp_path / name).exists()
    assert all(map(torch.equal, weights(train(folder, tmp_path)), weights(trained[1])))


def test_a_folder_of_another_run_is_refused(folder: Path, trained: tuple[Path, FootageModel]) -> None:
    out, _ = trained
    with pytest.raises(ValueError, match="belongs to another run: run differ"):
        train(folder, out, tiny(width=16))
    with pytest.raises(ValueError, match="belongs to another run: footage differ"):
        train_footage(catalogue(folder / "0.mkv"), tiny(), out)


def test_other_footage_of_the_same_name_is_refused(tmp_path: Path) -> None:
    for number in (0, 1):
        clip = World().clip(number, "train")
        write_video(tmp_path / "in" / "a.mkv", clip.frames(time_grid(0.0, 39 / FPS, 1 / FPS)), fps=FPS)
        if number == 0:
            train(tmp_path / "in", tmp_path / "out")
    with pytest.raises(ValueError, match="belongs to another run: footage differ"):
        train(tmp_path / "in", tmp_path / "out")


def test_footage_that_is_too_short_is_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No footage can be used"):
        train(folder, tmp_path, tiny(reach=60))


@pytest.mark.parametrize(
    ("changes", "match"), [({"scales": 4}, "longest gap, 8; got 2"), ({"side": 18}, "multiple of 4")]
)
def test_impossible_runs_are_refused(changes: dict[str, int], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        tiny(**changes)


def test_two_commands_from_a_folder_to_a_filled_film(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, film = tmp_path / "run", tmp_path / "film.mkv"
    sizes = ["--steps=2", "--codec-steps=2", "--batch=2", "--side=16", "--fps=4", "--width=8", "--threads=1"]
    short = str(folder / "0.mkv")
    assert main(["train-footage", short, f"--out={out}", *sizes]) == 0
    assert main(["fill", short, f"--model={out / 'multiscale'}", f"--out={film}", "--side=16", "--threads=1"]) == 0
    assert f"Wrote {film}: 79 frames at 16 per second from 40 known ones." in capsys.readouterr().out
    assert read_metadata(film)["from"] == "0.mkv"
    ((_, info),) = catalogue(film).entries
    assert (info.frames, info.width, info.height, info.fps) == (79, 16, 16, pytest.approx(16))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--gap=0"], "gap must be positive"),
        (["--gap=60"], "less than one gap"),
        (["--solver=magic"], "knows the solvers"),
    ],
)
def test_what_filling_needs_is_told(
    folder: Path,
    tmp_path: Path,
    trained: tuple[Path, FootageModel],
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    match: str,
) -> None:
    model, film = trained[0] / "multiscale", tmp_path / "film.mp4"
    assert main(["fill", str(folder / "0.mkv"), f"--model={model}", f"--out={film}", "--side=16", *options]) == 2
    assert match in capsys.readouterr().err
    assert not film.exists()
