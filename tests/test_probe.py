"""flowvid probe: the table, the sheet and the list of what is skipped."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

from flowvid.cli import probe
from flowvid.data.footage.reader import Footage
from flowvid.plot.contact import Reel, contact_sheet, reel
from tests.footage_files import KINDS, codes, write_footage, write_pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A constant, a turned and a variable file, pictures, and an empty file."""
    place = tmp_path_factory.mktemp("probe")
    for name in ("mp4", "mp4, turned", "mkv, uneven"):
        write_footage(place / f"{name}{KINDS[name].suffix}", KINDS[name])
    write_pictures(place / "shots", [1, 2, 3])
    (place / "empty.mp4").touch()
    return place


def run(*arguments: object) -> None:
    parser = argparse.ArgumentParser()
    probe.add(parser.add_subparsers())
    options = parser.parse_args(["probe", *map(str, arguments)])
    options.command(options)


def image(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as opened:
        return np.array(opened.convert("RGB"))


def test_prints_a_table_and_what_is_skipped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, "--fps", 10)
    printed, errors = capsys.readouterr()
    lines = printed.splitlines()
    assert errors == ""
    assert lines[0].split() == ["file", "size", "fps", "frames", "seconds", "container", "codec", "bits", "notes"]
    rows = {line.split("  ")[0]: line.split() for line in lines[1:5]}
    assert rows.keys() == {"mp4.mp4", "mp4, turned.mp4", "mkv, uneven.mkv", "shots"}
    assert rows["mp4.mp4"][1:] == ["64", "x", "32", "25", "24", "0.96", "mov", "h264", "8"]
    assert " ".join(rows["mp4, turned.mp4"][2:]) == "32 x 64 25 24 0.96 mov h264 8 turned 90 degrees"
    assert " ".join(rows["mkv, uneven.mkv"][-6:]) == "variable rate, starts at 0.100 s"
    assert rows["shots"][4:7] == ["10", "3", "0.30"]
    assert "4 readable, 71 frames, 4.2 s in all." in printed
    assert lines[-2:] == ["Skipped 1 of 5:", f"  {folder / 'empty.mp4'}: it is empty"]


def test_draws_a_sheet(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, "--sheet", tmp_path / "sheet.png", "--frames", 4)
    assert str(tmp_path / "sheet.png") in capsys.readouterr().out
    sheet = image(tmp_path / "sheet.png")
    assert sheet.shape[1] == 20 + 4 * 164 - 4
    run(folder, "--sheet", tmp_path / "less.png", "--frames", 4, "--rows", 2)
    assert "first 2 of 4" in capsys.readouterr().out
    assert image(tmp_path / "less.png").shape[0] < sheet.shape[0]


def test_refuses_other_sheets_and_a_folder_without_footage(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a \.png; got .*sheet\.jpg"):
        run(folder, "--sheet", tmp_path / "sheet.jpg")
    with pytest.raises(ValueError, match="No footage at"):
        run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_damaged_in_the_middle_is_named_and_the_rest_drawn(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_footage(tmp_path / "a.mov", KINDS["mov, prores"])
    content = bytearray((tmp_path / "a.mov").read_bytes())
    start = content.index(b"mdat") + len(content) // 3
    content[start : start + 600] = bytes(600)
    (tmp_path / "a.mov").write_bytes(content)
    run(folder / "mp4.mp4", tmp_path / "a.mov", "--sheet", tmp_path / "sheet.png", "--frames", 24)
    assert "Not on the sheet:" in capsys.readouterr().out
    run(folder / "mp4.mp4", tmp_path / "a.mov", "--deep")
    assert "Skipped 1 of 2" in capsys.readouterr().out


def test_a_reel_shows_the_middles_of_equal_parts_in_its_box(folder: Path) -> None:
    with Footage(folder / "mp4.mp4") as footage:
        found = reel(footage, "name", count=3, box=(90, 160))
        assert found.frames.shape == (3, 3, 80, 160)
        assert found.times == pytest.approx([0.16, 0.48, 0.8])
        assert codes(found.frames) == [4, 12, 20]
    with Footage(folder / "mp4, turned.mp4") as footage:
        assert reel(footage, "name", count=1, box=(90, 160)).frames.shape == (1, 3, 90, 45)


def test_frames_stand_in_their_cells(tmp_path: Path) -> None:
    colours = torch.tensor([[200, 0, 0], [0, 200, 0], [0, 0, 200]], dtype=torch.uint8)
    frames = colours[:, :, None, None].expand(-1, -1, 20, 40)
    rows = [
        Reel("one", "two", [0.0, 1.0, 2.0], frames),
        Reel("three", "four", [0.0, 1.0, 2.0], frames.flip(0)[..., :10, :]),
    ]
    contact_sheet(tmp_path / "sheet.png", rows)
    sheet = image(tmp_path / "sheet.png")
    assert sheet.shape == (20 + 2 * 66, 20 + 3 * 44 - 4, 3)
    assert [sheet[50, 30 + 44 * column].tolist() for column in range(3)] == colours.tolist()
    assert [sheet[116, 30 + 44 * column].tolist() for column in range(3)] == colours.flip(0).tolist()
    assert (sheet[40:60] == np.array([200, 0, 0])).all(-1).sum() == 20 * 40
    assert (sheet[110:122] == np.array([0, 0, 200])).all(-1).sum() == 10 * 40


def test_refuses_reels_of_different_lengths(tmp_path: Path) -> None:
    frames = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    for rows in (
        [],
        [Reel("a", "", [0.0], frames)],
        [Reel("a", "", [0.0, 1.0], frames), Reel("b", "", [0.0], frames[:1])],
    ):
        with pytest.raises(ValueError, match="as many frames and times"):
            contact_sheet(tmp_path / "sheet.png", rows)
