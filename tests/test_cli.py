"""The command line: what its help says, what a wrong argument is told, and that a trained model becomes a film."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
import torch

from flowvid.cli import main
from flowvid.train.run import load_model

OPTIONS = {
    "demo": {"out": "out/run", "device": "cuda where there is one", "threads": "\\d+", "scale": "demo"},
    "train": {
        "out": "out/run",
        "device": "cuda where there is one",
        "threads": "\\d+",
        "model": "multiscale",
        "steps": "2000",
        "codec-steps": "1000",
        "clips": "1024",
        "batch": "64",
        "width": "48",
        "seed": "0",
        "world": "digits",
        "motion": "flight",
        "digits": "1",
        "precision": "no",
        "accumulate": "1",
        "save-seconds": "30.0",
    },
    "sample": {
        "out": "clip.mp4",
        "device": "cuda where there is one",
        "threads": "\\d+",
        "codec": "codec.safetensors beside the model",
        "solver": ".+",
        "times": "0:2:0.125",
        "known": "two context frames",
        "split": "test",
        "clip": "0",
        "seed": "0",
        "fps": "real time",
    },
    "generate": {
        "out": "generated.mp4",
        "device": "cuda where there is one",
        "threads": "\\d+",
        "codec": "codec beside the model",
        "every": "one, at the end",
        "seconds": "2.0",
        "fps": "the model's own",
        "count": "1",
        "guidance": "1.0",
        "solver": "the model's first",
        "seed": "0",
        "zoom": "1",
    },
    "probe": {"rows": "40", "frames": "6", "fps": "25"},
    "dedupe": {"tolerance": "from noise", "shortest": "0.25", "fps": "25", "threads": "\\d+"},
    "train-footage": {
        "out": "out/footage",
        "device": "cuda where there is one",
        "threads": "\\d+",
        "model": "multiscale",
        "steps": "2000",
        "codec-steps": "2000",
        "batch": "16",
        "side": "64",
        "fps": "15.0",
        "width": "48",
        "seed": "0",
        "precision": "no",
        "accumulate": "1",
        "save-seconds": "30.0",
    },
    "fill": {
        "out": "filled.mp4",
        "device": "cuda where there is one",
        "threads": "\\d+",
        "codec": "codec beside the model",
        "gap": "one frame",
        "fps": "twice the video's",
        "side": "the video's",
        "solver": "the model's first",
        "seed": "0",
    },
    "evaluate": {
        "out": "out/evaluation.json",
        "device": "cuda where there is one",
        "threads": "\\d+",
        "weights": "weights/ in FLOWVID_DATA",
        "frames": "16",
        "fps": "what most files have",
        "size": "what most files have",
        "resamples": "100",
        "cache": "out/cache",
        "codec": "codec.safetensors beside the model",
        "task": "predict",
        "solver": "the model's first",
        "clips": "64",
        "samples": "8",
    },
    "compare": {
        "out": "out/run",
        "device": "cuda where there is one",
        "threads": "\\d+",
        "seeds": "0",
        "clips": "128",
    },
    "diagnose": {
        "out": "out/diagnosis",
        "device": "cuda where there is one",
        "threads": "\\d+",
        "fps": "16 for digits",
        "motion": "flight",
        "digits": "1",
        "clips": "64",
        "seconds": "4",
        "side": "64",
    },
}
REQUIRED = {
    "sample": {"model"},
    "evaluate": {"against", "model", "paired", "periods"},
    "train": {"recompute", "compile", "tensorboard"},
    "train-footage": {"recompute", "compile", "tensorboard"},
    "fill": {"model"},
    "generate": {"model", "text", "say", "frame", "loop", "extend", "fill"},
    "probe": {"sheet", "deep"},
    "dedupe": {"report", "sheet"},
}
"""Options without a default."""


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads and signals as they were, and lines of help that do not break."""
    monkeypatch.setenv("COLUMNS", "300")
    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    yield
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of tiny models, trained through the command line."""
    out = tmp_path_factory.mktemp("cli")
    for model in ("multiscale", "bisection", "ddim"):
        assert run("train", out=out, model=model, **TINY) == 0
    return out / "models"


TINY = {"steps": 3, "codec-steps": 3, "clips": 8, "batch": 4, "width": 8}


def run(command: str, **options: object) -> int:
    """The exit status, also where argparse ends the process."""
    try:
        return main([command, "--threads=1", *(f"--{name}={value}" for name, value in options.items())])
    except SystemExit as stop:
        return int(stop.code or 0)


def film(path: Path) -> tuple[int, float]:
    """Number of frames and rate of a video."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return len(list(container.decode(stream))), float(stream.average_rate)


# Help


def helped(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_help_names_every_command_and_how_to_start(capsys: pytest.CaptureFixture[str]) -> None:
    text = helped(capsys)
    assert all(re.search(rf"^ +{command}\s+\w", text, re.MULTILINE) for command in OPTIONS)
    assert "flowvid demo --out" in text


@pytest.mark.parametrize("command", OPTIONS)
def test_help_of_a_command_names_every_option(capsys: pytest.CaptureFixture[str], command: str) -> None:
    named = set(re.findall(r"^ +--([a-z-]+)", helped(capsys, command), re.MULTILINE))
    assert named == OPTIONS[command].keys() | REQUIRED.get(command, set())


@pytest.mark.parametrize(
    ("command", "option"),
    [(command, option) for command, options in OPTIONS.items() for option in options],
)
def test_help_says_the_default(capsys: pytest.CaptureFixture[str], command: str, option: str) -> None:
    (line,) = re.findall(rf"^ +--{option} .*(?:\n {{10,}}.*)?", helped(capsys, command), re.MULTILINE)
    assert re.search(rf"default: {OPTIONS[command][option]}", line)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert re.fullmatch(r"flowvid \d\S*\n", capsys.readouterr().out)


def test_no_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "required: COMMAND" in capsys.readouterr().err


# Wrong arguments


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("train", {"colour": "red"}, "unrecognized arguments: --colour=red"),
        ("train", {"model": "flow"}, "choose from .*multiscale"),
        ("train", {"motion": "walk"}, "choose from .*flight"),
        ("train", {"width": 0}, "expected a positive whole number, got 0"),
        ("train", {"width": "ten"}, "expected a positive whole number, got '?ten"),
        ("train", {"width": 10}, "width must be a multiple of 8.*width=10"),
        ("train", {"seed": 10**30}, "seed of 64 bits; got seed=10"),
        ("sample", {}, "required: --model"),
        ("sample", {"model": "x", "times": "0:2"}, "expected start:stop:step in seconds, such as 0:2:0.1, got '0:2'"),
        ("sample", {"model": "x", "times": "2:0:0.1"}, "expected start:stop:step"),
        ("sample", {"model": "x", "times": "0:2:0"}, "expected start:stop:step"),
        ("sample", {"model": "x", "times": "0:nan:1"}, "expected start:stop:step"),
        ("sample", {"model": "x", "known": "0;1"}, "expected seconds separated by commas, got '0;1'"),
        ("sample", {"model": "none.safetensors"}, r"Expected a checkpoint at none.safetensors; there is none"),
        ("generate", {"model": "x", "say": "now:it rests"}, "expected SECONDS:WORDS.*got 'now:it rests'"),
        ("generate", {"model": "x", "say": "1.5:"}, "expected SECONDS:WORDS"),
        ("generate", {"model": "x", "frame": "a.png@noon"}, "expected FILE or FILE@SECONDS, got 'a.png@noon'"),
        ("generate", {"model": "x", "fps": 0}, "Expected --fps above 0; got 0.0"),
        ("generate", {"model": "x", "seconds": "nan"}, "Expected --seconds above 0; got nan"),
        ("generate", {"model": "x", "every": 1}, "it needs --fill MODEL"),
        ("generate", {"model": "x", "extend": "a.mp4", "frame": "b.png"}, "goes with neither --frame nor --loop"),
        ("compare", {"seeds": "0,x"}, "expected whole numbers separated by commas, got '0,x'"),
        ("compare", {"out": "no-such-folder"}, "Expected a checkpoint at no-such-folder.*there is none"),
    ],
)
def test_a_wrong_argument_is_told_what_was_expected(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    command: str,
    options: dict,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(command, **options) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "magic"}, "two-sided, jump, .*dopri5.*rk4.*got 'magic'"),
        ({"times": "-5:0:1"}, r"0\.0 s; got -5\.0 s"),
        ({"known": "0,-1"}, "Times must increase strictly; got 0.0 followed by -1.0"),
        ({"known": "0,0.125", "solver": "rk4", "times": "-1:1:1"}, r"-1\.0"),
        ({"out": "clip.avi"}, r"written as \.mp4, .*got clip\.avi"),
        ({"fps": -1}, "fps=-1"),
        ({"fps": 0}, "fps=0"),
        ({"codec": "none.safetensors"}, "Expected a checkpoint at none.safetensors"),
        ({"device": "nonsense"}, "device that is there.*'nonsense'"),
    ],
)
def test_what_a_model_cannot_do_is_told(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    trained: Path,
    options: dict,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("sample", model=trained / "multiscale-seed0.safetensors", **options) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_training_on_a_device_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("train", device="nonsense", out=tmp_path, **TINY) == 2
    assert "nonsense" in capsys.readouterr().err


def test_a_codec_is_no_model(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    assert run("sample", model=trained / "codec.safetensors") == 2
    assert "holds codec, not a finished model" in capsys.readouterr().err


# Training and sampling


def test_training_leaves_a_model_with_the_stated_run(trained: Path) -> None:
    names = {path.name for path in trained.iterdir() if path.is_file()}
    assert names == {f"{name}.safetensors" for name in ("codec", "multiscale-seed0", "bisection-seed0", "ddim-seed0")}
    run_of = load_model(trained / "multiscale-seed0.safetensors").run
    assert (run_of.model.steps, run_of.codec.steps, run_of.clips, run_of.model.batch, run_of.width) == (3, 3, 8, 4, 8)


def test_the_same_command_again_trains_nothing(trained: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in trained.iterdir()}
    assert run("train", out=trained.parent, **TINY) == 0
    assert {path.name: path.stat().st_mtime_ns for path in trained.iterdir()} == before


def test_another_run_in_the_same_folder_is_refused(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    assert run("train", out=trained.parent, **(TINY | {"motion": "spin"})) == 2
    assert re.search(r"another run \(world: .*spin.*Use another folder", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("solver", "times", "count", "rate"),
    [
        ("two-sided", "0:0.5:0.1", 6, 10),
        ("jump", "0:0.5:0.1", 6, 10),
        ("rk4", "0:0.5:0.1", 6, 10),
        (None, "0:2:0.1", 21, 10),
        ("jump-2", "0.3:0.3:1", 1, 1),
        ("dopri5", "0:1:0.125", 9, 8),
        ("two-sided", "0:3:0.0371", 81, 1 / 0.0371),
    ],
)
def test_a_model_becomes_a_film(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    trained: Path,
    solver: str | None,
    times: str,
    count: int,
    rate: float,
) -> None:
    chosen = {} if solver is None else {"solver": solver}
    out = tmp_path / "films" / "clip.mp4"
    assert run("sample", model=trained / "multiscale-seed0.safetensors", times=times, out=out, **chosen) == 0
    assert film(out) == (count, pytest.approx(rate, rel=1e-3))
    assert f"{count} frames" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "solver"), [("multiscale", "two-sided"), ("bisection", "bisection"), ("ddim", "ddim-2")]
)
def test_every_model_fills_in_between_known_frames(tmp_path: Path, trained: Path, model: str, solver: str) -> None:
    out = tmp_path / "clip.mp4"
    path = trained / f"{model}-seed0.safetensors"
    assert run("sample", model=path, known="-0.125,0,1", times="0:1:0.1", solver=solver, out=out, fps=4.5) == 0
    assert film(out) == (11, pytest.approx(4.5))


def test_a_seed_and_a_clip_decide_the_film(tmp_path: Path, trained: Path) -> None:
    def sampled(name: str, **options: object) -> bytes:
        path = trained / "ddim-seed0.safetensors"
        assert run("sample", model=path, times="0:0.5:0.125", solver="ddim-2", out=tmp_path / name, **options) == 0
        return (tmp_path / name).read_bytes()

    first = sampled("a.mp4")
    assert sampled("b.mp4", seed=0, clip=0, split="test") == first
    assert sampled("c.mp4", seed=1) != first
    assert sampled("d.mp4", clip=1) != first
    assert sampled("e.mp4", split="train") != first


def test_an_interruption_is_told_how_to_continue(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A termination signal during training ends it like the user's interruption, and nothing half done stays."""
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, _: signal.raise_signal(signal.SIGTERM) if isinstance(module, torch.nn.PixelShuffle) else None
    )
    try:
        assert run("train", out=tmp_path, **TINY) == 130
    finally:
        hook.remove()
    told = capsys.readouterr().err
    assert re.search(r"Interrupted at step 1 of 3.*continue with: flowvid train --threads=1", told)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["codec"]
    assert run("train", out=tmp_path, **TINY) == 0
    assert (tmp_path / "models" / "multiscale-seed0.safetensors").is_file()
