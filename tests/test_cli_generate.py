"""flowvid generate: every mode from files to files, by tiny models."""

import signal
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from flowvid.cli import main
from flowvid.data.footage.reader import Footage
from flowvid.data.footage.writers import read_metadata, write_video

TINY = ("--threads=1", "--steps=2", "--codec-steps=2", "--clips=8", "--batch=4", "--width=24")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Threads and signals as they were."""
    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    yield
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a clip model and of one that fills in."""
    out = tmp_path_factory.mktemp("generate")
    for model in ("clip-flow", "multiscale"):
        assert main(["train", f"--out={out}", f"--model={model}", *TINY]) == 0
    return out / "models"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture in colour, of another size than the model's."""
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)).save(path)
    return path


def generated(model: Path, out: Path, *arguments: str) -> int:
    return main(["generate", "--threads=1", f"--model={model}", f"--out={out}", "--solver=ddim-2", *arguments])


def frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])


def test_words_become_a_film_and_the_seed_and_the_words_matter(trained: Path, tmp_path: Path) -> None:
    model = trained / "clip-flow-seed0.safetensors"
    films = {}
    for name, more in {
        "one": ["--text=the seven rests"],
        "again": ["--text=the seven rests"],
        "seed": ["--text=the seven rests", "--seed=1"],
        "silent": [],
        "later": ["--text=the seven rests", "--say=1:the seven in the middle rests", "--guidance=3"],
    }.items():
        assert generated(model, tmp_path / f"{name}.mkv", "--seconds=1", *more) == 0
        films[name] = frames(tmp_path / f"{name}.mkv")
    assert films["one"].shape == (9, 32, 32)
    assert np.array_equal(films["one"], films["again"])
    assert not np.array_equal(films["one"], films["seed"])
    made = read_metadata(tmp_path / "later.mkv")
    assert (made["text"], made["say"], made["guidance"]) == (
        "the seven rests",
        [[1.0, "the seven in the middle rests"]],
        3,
    )


def test_pictures_stand_where_they_were_placed_and_a_loop_comes_back(
    trained: Path, tmp_path: Path, picture: Path
) -> None:
    out = tmp_path / "loop.mp4"
    model = trained / "clip-flow-seed0.safetensors"
    assert generated(model, out, f"--frame={picture}", f"--frame={picture}@0.5", "--loop", "--seconds=1") == 0
    film = frames(out).astype(float)
    with Footage(picture) as footage:
        shown = footage.at([0.0], size=(32, 32))[0].float()
    grey = (0.299 * shown[0] + 0.587 * shown[1] + 0.114 * shown[2]).numpy()
    away = np.abs(film - grey).mean(axis=(1, 2))
    assert away[[0, 4, 8]].max() < 8 < away[[1, 2, 3, 5, 6, 7]].min()


def test_many_films_are_numbered(trained: Path, tmp_path: Path) -> None:
    assert generated(trained / "clip-flow-seed0.safetensors", tmp_path / "many.gif", "--count=2", "--seconds=0.5") == 0
    assert sorted(path.name for path in tmp_path.glob("*.gif")) == ["many-0.gif", "many-1.gif"]
    assert not np.array_equal(frames(tmp_path / "many-0.gif"), frames(tmp_path / "many-1.gif"))


def test_anchors_are_sampled_and_filled_in_at_any_rate(trained: Path, tmp_path: Path, picture: Path) -> None:
    out = tmp_path / "anchored.mp4"
    arguments = ["generate", "--threads=1", f"--model={trained / 'clip-flow-seed0.safetensors'}", f"--out={out}"]
    arguments += [f"--fill={trained / 'multiscale-seed0.safetensors'}", "--every=0.5", f"--frame={picture}"]
    assert main([*arguments, "--solver=ddim-2/two-sided", "--seconds=1", "--fps=30"]) == 0
    assert len(frames(out)) == 31


def test_a_film_goes_on_from_its_last_frames(trained: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source.mkv", tmp_path / "longer.mkv"
    write_video(source, torch.linspace(-1, 1, 12)[:, None, None, None].expand(-1, 1, 32, 32), fps=8.0)
    assert generated(trained / "clip-flow-seed0.safetensors", out, f"--extend={source}", "--seconds=2.5") == 0
    before, after = frames(source), frames(out)
    assert len(after) == 12 + 20
    assert np.abs(after[:12].astype(int) - before.astype(int)).max() <= 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loop"], "give it by --frame"),
        (["--frame=nowhere.png"], "nowhere.png"),
        (["--text=the moose rests"], "moose"),
        (["--guidance=2"], "without text"),
    ],
)
def test_what_cannot_be_made_is_told(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert generated(trained / "clip-flow-seed0.safetensors", tmp_path / "none.mp4", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_model_that_does_not_read_says_so(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], picture: Path
) -> None:
    arguments = ["generate", "--threads=1", f"--model={trained / 'multiscale-seed0.safetensors'}"]
    arguments += [f"--out={tmp_path / 'none.mp4'}", f"--frame={picture}"]
    assert main([*arguments, "--guidance=2", "--text=it rests"]) == 2
    assert "Guidance needs a model that reads" in capsys.readouterr().err
    assert main([*arguments, "--text=it rests"]) == 2
    assert "does not read" in capsys.readouterr().err


def test_a_video_shorter_than_a_frame_of_the_model_cannot_be_extended(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], picture: Path
) -> None:
    out = tmp_path / "none.mp4"
    assert generated(trained / "clip-flow-seed0.safetensors", out, f"--extend={picture}") == 2
    assert "two frames 0.125 s apart" in capsys.readouterr().err
