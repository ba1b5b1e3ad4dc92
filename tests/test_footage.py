"""Footage read by time: every container, any order of times, and what is broken."""

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowvid.data.footage.reader import BrokenFootage, Footage, as_video, catalogue, find_footage
from tests.footage_files import KINDS, Kind, codes, picture, write_broken, write_footage, write_pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("footage")


@pytest.fixture(scope="module")
def written(folder: Path) -> dict[str, tuple[Path, list[float]]]:
    """One file of every kind with its true times."""
    places = {name: folder / f"{number}{kind.suffix}" for number, (name, kind) in enumerate(KINDS.items())}
    return {name: (place, write_footage(place, KINDS[name])) for name, place in places.items()}


@pytest.fixture(scope="module")
def opened(written: dict[str, tuple[Path, list[float]]]) -> Iterator[dict[str, Footage]]:
    footage = {name: Footage(path) for name, (path, _) in written.items()}
    yield footage
    for one in footage.values():
        one.close()


kinds = pytest.mark.parametrize("name", KINDS)


@kinds
def test_times_are_those_that_were_written(
    name: str, written: dict[str, tuple[Path, list[float]]], opened: dict[str, Footage]
) -> None:
    times = written[name][1]
    assert opened[name].times.dtype == torch.float64
    assert opened[name].times.tolist() == pytest.approx(times, abs=6e-3 if "gif" in name else 6e-4)
    assert opened[name].info.frames == len(times)
    assert opened[name].info.variable == (KINDS[name].stamps is not None)


@kinds
def test_times_are_those_of_decoded_frames(name: str, opened: dict[str, Footage]) -> None:
    with av.open(str(opened[name].path)) as container:
        base = container.streams.video[0].time_base
        stamps = sorted(frame.pts * base for frame in container.decode(video=0))
    assert opened[name].times.tolist() == [float(stamp - stamps[0]) for stamp in stamps]
    assert opened[name].info.start == float(stamps[0])


@kinds
def test_every_frame_is_the_one_shown_then(name: str, opened: dict[str, Footage]) -> None:
    footage = opened[name]
    count = footage.info.frames
    assert codes(footage.at(footage.times)) == list(range(count))
    assert codes(footage.at(footage.times.flip(0))) == list(range(count))[::-1]


@kinds
def test_streaming_gives_the_same_pixels(name: str, opened: dict[str, Footage]) -> None:
    footage = opened[name]
    pieces = list(footage.stream(batch=7))
    assert [len(pixels) for _, pixels in pieces[:-1]] == [7] * (len(pieces) - 1)
    assert torch.equal(torch.cat([times for times, _ in pieces]), footage.times)
    assert torch.equal(torch.cat([pixels for _, pixels in pieces]), footage.at(footage.times))


@given(data=st.data())
def test_any_times_in_any_order(opened: dict[str, Footage], data: st.DataObject) -> None:
    footage = opened[data.draw(st.sampled_from(sorted(KINDS)))]
    inside = st.floats(0, footage.info.duration) | st.sampled_from(footage.times.tolist())
    wanted = data.draw(st.lists(inside, max_size=8))
    slack = min(5e-4, float(footage._source.index.tick) / 2)
    shown = [int((footage.times <= time + slack).sum()) - 1 for time in wanted]
    assert footage.frame_at(wanted).tolist() == shown
    assert codes(footage.at(wanted)) == shown


class Counting:
    """A container that counts the frames it decodes."""

    def __init__(self, inner: object) -> None:
        self.inner = inner
        self.count = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def decode(self, stream: object) -> Iterator[object]:
        for frame in self.inner.decode(stream):
            self.count += 1
            yield frame


def decoded(path: Path, *readings: list[float]) -> list[int]:
    """How many frames each of some readings decodes."""
    counts = []
    with Footage(path) as footage:
        source = footage._source
        source._input = Counting(source._input)
        source._next = -1
        for times in readings:
            before = source._input.count
            footage.at(times)
            counts.append(source._input.count - before)
    return counts


def test_decodes_no_more_than_from_the_key_frame_and_nothing_twice(
    written: dict[str, tuple[Path, list[float]]],
) -> None:
    path, times = written["mp4, B-frames"]
    with Footage(path) as footage:
        stamps = footage._source.index.stamps
        assert footage._source.index.keys.tolist() == [stamps[n - n % 8] for n in range(24)]
    assert decoded(path, times[::-1], times) == [24, 24]
    assert decoded(path, [times[21]], [times[22]], [times[23]]) == [6, 1, 1]
    assert decoded(path, [times[23], times[22]], [times[0]], [times[3], times[3], times[1]]) == [8, 1, 3]
    assert decoded(path, [times[9]], [times[17], times[13], times[2]], [times[2]]) == [2, 3 + 6 + 4, 3]
    assert decoded(path, [times[2], times[8]], [times[11], times[20]]) == [3 + 1, 3 + 9]


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.seekable])
def test_enters_at_key_frames_where_it_can(name: str, opened: dict[str, Footage]) -> None:
    assert opened[name]._source.index.seekable


def test_a_first_frame_is_at_zero_and_the_file_keeps_its_clock(opened: dict[str, Footage]) -> None:
    assert opened["mkv, uneven"].info.start == 0.1
    assert opened["mkv, uneven"].times[0] == 0
    assert opened["mp4"].info.start == 0


def test_rates_are_means(opened: dict[str, Footage]) -> None:
    assert opened["mp4"].info.fps == pytest.approx(25)
    assert opened["mp4, B-frames"].info.fps == pytest.approx(30000 / 1001)
    assert opened["mp4"].info.duration == pytest.approx(24 / 25)
    assert opened["mp4, uneven"].info.fps == pytest.approx(19 / 1.9)
    assert opened["mp4, one frame"].info.fps == pytest.approx(25)
    assert opened["mp4, one frame"].info.duration == pytest.approx(0.04)


def test_a_time_on_the_grid_of_the_rate_is_its_frame_though_the_stamp_is_rounded(opened: dict[str, Footage]) -> None:
    footage = opened["mkv"]
    assert footage.times[2] == 0.067
    assert footage.frame_at([n / 30 for n in range(24)]).tolist() == list(range(24))
    assert footage.frame_at([2 / 30 - 6e-4]).tolist() == [1]


def test_descriptions(opened: dict[str, Footage]) -> None:
    info = opened["mp4, ten bits"].info
    assert (info.container, info.codec, info.bits, info.alpha, info.rotation) == ("mov", "h264", 10, False, 0)
    assert (opened["mov, alpha"].info.codec, opened["mov, alpha"].info.alpha) == ("qtrle", True)
    assert opened["mp4, turned"].info.rotation == 90
    assert (opened["mp4, turned"].info.height, opened["mp4, turned"].info.width) == (64, 32)
    assert (opened["mp4, wide pixels"].info.height, opened["mp4, wide pixels"].info.width) == (32, 96)
    assert (opened["webm"].info.height, opened["webm"].info.width) == (33, 65)


@pytest.mark.parametrize("time", [-0.01, 0.98, float("nan"), float("inf")])
def test_refuses_times_outside(time: float, opened: dict[str, Footage]) -> None:
    with pytest.raises(ValueError, match=r"lasts from 0 to 0\.96 s; nothing is on screen at"):
        opened["mp4"].at([0.1, time])


@pytest.mark.parametrize(
    "options", [{"fit": "fill"}, {"size": (0, 4)}, {"size": (4, -1)}], ids=["fit", "height", "width"]
)
def test_refuses_other_fits_and_sizes(options: dict, opened: dict[str, Footage]) -> None:
    with pytest.raises(ValueError, match='Expected fit "crop" or "stretch" and a positive size'):
        opened["mp4"].at([0.0], **options)
    with pytest.raises(ValueError, match="at least one frame; got 0"):
        next(opened["mp4"].stream(batch=0))


def test_no_times_give_no_frames(opened: dict[str, Footage]) -> None:
    assert opened["mp4"].at([]).shape == (0, 3, 32, 64)


# What pictures look like.


def quarters() -> np.ndarray:
    """Red, green / blue, white."""
    pixels = np.zeros((32, 48, 3), dtype=np.uint8)
    pixels[:16, :24, 0] = pixels[:16, 24:, 1] = pixels[16:, :24, 2] = 255
    pixels[16:, 24:] = 255
    return pixels


def write_still(path: Path, pixels: np.ndarray, kind: Kind, **context: object) -> None:
    """One picture as a video of two frames, given as it is to the encoder where it has the encoder's format."""
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream(kind.codec, rate=5, options=dict(kind.options))
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = kind.pixels
        if kind.turn is not None:
            stream.set_display_rotation(*kind.turn)
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        form = {2: "gray", 4: "rgba"}.get(pixels.shape[-1] if pixels.ndim == 3 else 2, "rgb24")
        frame = av.VideoFrame.from_ndarray(pixels, format=form)
        if "color_range" in context:
            frame = frame.reformat(
                format=kind.pixels, dst_colorspace=context["colorspace"], dst_color_range=context["color_range"]
            )
        for number in range(2):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def still(path: Path, **options: object) -> np.ndarray:
    with Footage(path) as footage:
        return footage.at([0.0], **options)[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_pictures_are_upright(tmp_path: Path, suffix: str, mirror: bool, turns: int) -> None:
    write_still(tmp_path / f"a{suffix}", quarters(), Kind(suffix, "libx264", turn=(90 * turns, mirror, False)))
    expected = np.rot90(quarters(), turns)
    expected = expected[:, ::-1] if mirror else expected
    found = still(tmp_path / f"a{suffix}")
    assert found.shape == expected.shape
    high, wide = found.shape[0] // 4, found.shape[1] // 4
    for row in (high, 3 * high):
        for column in (wide, 3 * wide):
            assert np.abs(found[row, column].astype(int) - expected[row, column]).max() < 12


@pytest.mark.parametrize("limited", [True, False])
@pytest.mark.parametrize("matrix", [1, 5])
def test_colours_are_read_as_they_are_marked(tmp_path: Path, limited: bool, matrix: int) -> None:
    kind = Kind(".mkv", "libx264", "yuv444p", options={"crf": "4"})
    marks = {"colorspace": matrix, "color_range": 1 if limited else 2}
    write_still(tmp_path / "a.mkv", quarters(), kind, **marks)
    found = still(tmp_path / "a.mkv").astype(int)
    assert np.abs(found[8, 8] - (255, 0, 0)).max() <= 3
    assert np.abs(found[8, 40] - (0, 255, 0)).max() <= 3
    assert np.abs(found[24, 40] - 255).max() <= 2


def test_grey_and_ten_bits_keep_their_brightness(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 255, 48).round().astype(np.uint8)[None], 32, axis=0)
    colour = np.repeat(ramp[..., None], 3, axis=2)
    for number, (kind, pixels, most) in enumerate(
        [
            (Kind(".mkv", "ffv1", "gray"), ramp, 0),
            (Kind(".mkv", "ffv1", "yuv444p10le"), colour, 2),
            (Kind(".mov", "prores_ks", "yuv422p10le"), colour, 4),
            (Kind(".mkv", "ffv1", "bgr0"), colour, 0),
        ]
    ):
        path = tmp_path / f"{number}{kind.suffix}"
        write_still(path, pixels, kind)
        assert np.abs(still(path).astype(int) - colour).max() <= most


@pytest.mark.parametrize(("suffix", "codec", "pixels"), [(".mov", "qtrle", "argb"), (".mkv", "ffv1", "bgra")])
def test_alpha_is_over_black_and_does_not_bleed(tmp_path: Path, suffix: str, codec: str, pixels: str) -> None:
    picture = np.zeros((32, 48, 4), dtype=np.uint8)
    picture[:, :24] = (200, 100, 40, 255)
    picture[:, 24:36] = (200, 100, 40, 128)
    picture[:, 36:] = (255, 255, 255, 0)
    write_still(tmp_path / f"a{suffix}", picture, Kind(suffix, codec, pixels))
    found = still(tmp_path / f"a{suffix}")
    assert found[5, 5].tolist() == [200, 100, 40]
    assert found[5, 30].tolist() == [100, 50, 20]
    assert found[:, 36:].max() == 0
    assert still(tmp_path / f"a{suffix}", size=(8, 12))[:, 9:].max() == 0


def test_sizes_crop_the_middle_or_stretch(tmp_path: Path) -> None:
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[:, 20:60, 0] = 255
    write_still(tmp_path / "a.mkv", pixels, Kind(".mkv", "ffv1", "bgr0"))
    cropped = still(tmp_path / "a.mkv", size=(20, 20))
    assert cropped.shape == (20, 20, 3)
    assert (cropped[:, :, 0] > 250).all()
    stretched = still(tmp_path / "a.mkv", size=(20, 20), fit="stretch")
    assert (stretched[:, 6:14, 0] > 250).all()
    assert (stretched[:, [0, 1, 2, 17, 18, 19]] < 5).all()
    assert np.array_equal(still(tmp_path / "a.mkv", size=(40, 80)), pixels)
    assert still(tmp_path / "a.mkv", size=(61, 33)).shape == (61, 33, 3)


def test_shrinking_averages_areas(tmp_path: Path) -> None:
    stripes = np.zeros((32, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 200
    write_still(tmp_path / "a.mkv", stripes, Kind(".mkv", "ffv1", "bgr0"))
    assert np.abs(still(tmp_path / "a.mkv", size=(8, 16)).astype(int) - 100).max() <= 1


def test_turned_pictures_are_scaled_to_the_upright_size(opened: dict[str, Footage]) -> None:
    footage = opened["mp4, turned"]
    whole = footage.at([0.0])
    small = footage.at([0.0], size=(32, 16))
    assert small.shape == (1, 3, 32, 16)
    means = torch.nn.functional.avg_pool2d(whole.float(), 2)
    assert (small.float() - means).abs().mean() < 3


# Folders of pictures.


@pytest.mark.parametrize("name", ["shot{}.png", "{:04d}.png", "a b-{}.PNG"])
def test_numbered_pictures_are_footage_in_the_order_of_their_numbers(tmp_path: Path, name: str) -> None:
    write_pictures(tmp_path / "shots", [1, 2, 9, 10, 11, 100], name=name)
    (tmp_path / "shots" / "notes.txt").write_text("not a picture")
    with Footage(tmp_path / "shots") as footage:
        assert footage.times.tolist() == [n / 25 for n in range(6)]
        assert codes(footage.at(footage.times)) == list(range(6))
        assert codes(footage.at([0.2, 0.0, 0.19, 0.2])) == [5, 0, 4, 5]
        assert (footage.info.container, footage.info.codec, footage.info.frames) == ("pictures", "png", 6)
    with Footage(tmp_path / "shots", fps=10.0) as footage:
        assert footage.times.tolist() == [n / 10 for n in range(6)]
        assert footage.info.fps == pytest.approx(10)
        assert footage.info.duration == pytest.approx(0.6)


def test_pictures_may_be_jpg_turned_grey_or_of_another_size(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "shots"
    write_pictures(folder, [1], name="{}.jpg")
    upright = Image.fromarray(picture(1))
    orientation = Image.Exif()
    orientation[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "2.jpg", exif=orientation, quality=95)
    upright.convert("L").save(folder / "3.jpeg")
    Image.fromarray(picture(3, (64, 128))).save(folder / "4.png")
    with Footage(folder) as footage:
        pixels = footage.at(footage.times)
        assert pixels.shape == (4, 3, 32, 64)
        assert codes(pixels[[0, 2, 3]]) == [0, 1, 3]


def test_a_picture_that_is_gone_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path / "shots", [1, 2, 3])
    with Footage(tmp_path / "shots") as footage:
        (tmp_path / "shots" / "shot2.png").unlink()
        assert codes(footage.at([0.08, 0.0])) == [2, 0]
        with pytest.raises(BrokenFootage, match=r"shot2\.png: it is not there"):
            footage.at(footage.times)


def test_a_folder_holds_one_sequence(tmp_path: Path) -> None:
    write_pictures(tmp_path / "shots", [1, 2])
    write_pictures(tmp_path / "more", [1, 2], name="other{}.png")
    for path in (tmp_path / "more").iterdir():
        path.rename(tmp_path / "shots" / path.name)
    with pytest.raises(BrokenFootage, match="several sequences: 'other', 'shot'"):
        Footage(tmp_path / "shots")
    with pytest.raises(BrokenFootage, match="no numbered"):
        Footage(tmp_path / "more")


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_refuses_rates_of_files_and_rates_that_are_none(
    tmp_path: Path, fps: float, written: dict[str, tuple[Path, list[float]]]
) -> None:
    write_pictures(tmp_path / "shots", [1])
    with pytest.raises(ValueError, match="expected a positive rate"):
        Footage(tmp_path / "shots", fps=fps)
    with pytest.raises(ValueError, match="for a folder of pictures"):
        Footage(written["mp4"][0], fps=25.0)


# What is broken.


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    place = tmp_path_factory.mktemp("broken")
    return place, write_broken(place)


def test_broken_files_are_listed_with_reasons_and_the_rest_is_there(
    broken: tuple[Path, dict[str, str]], written: dict[str, tuple[Path, list[float]]], folder: Path
) -> None:
    place, reasons = broken
    gone = place / "gone.mp4"
    told: list[tuple[int, int]] = []
    found = catalogue([place, gone, folder], progress=lambda done, all_: told.append((done, all_)))
    assert {path for path, _ in found.entries} == {path for path, _ in written.values()}
    skipped = {one.path.name: one.reason for one in found.skipped}
    assert skipped.keys() == {*reasons, "gone.mp4"}
    for name, reason in reasons.items():
        assert re.search(reason, skipped[name]), (name, skipped[name])
        assert str(place) not in skipped[name]
    assert skipped["gone.mp4"] == "it is not there"
    assert told == [(n + 1, len(KINDS) + len(skipped)) for n in range(len(KINDS) + len(skipped))]
    assert f"Skipped {len(skipped)} of {len(told)}" in found.report()
    assert all(f"{one.path}: {one.reason}" in found.report() for one in found.skipped)


def test_all_broken_is_an_error_that_lists_reasons(broken: tuple[Path, dict[str, str]]) -> None:
    with pytest.raises(ValueError, match="No footage can be read") as caught:
        catalogue(broken[0])
    assert all(name in str(caught.value) for name in broken[1])
    assert not isinstance(caught.value, BrokenFootage)


def test_nothing_is_written_to_the_terminal(
    broken: tuple[Path, dict[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="No footage can be read"):
        catalogue([broken[0]], deep=True)
    assert capfd.readouterr() == ("", "")


def damaged(path: Path, source: Path) -> None:
    """Overwrite the coded pictures in the middle of a file."""
    content = bytearray(source.read_bytes())
    start = content.index(b"mdat") + len(content) // 3
    content[start : start + 400] = bytes(400)
    path.write_bytes(content)


def test_damage_in_the_middle_is_found_by_a_deep_look(tmp_path: Path) -> None:
    write_footage(tmp_path / "whole.mov", Kind(".mov", "prores_ks", "yuv422p10le"))
    damaged(tmp_path / "damaged.mov", tmp_path / "whole.mov")
    assert len(catalogue(tmp_path).entries) == 2
    found = catalogue(tmp_path, deep=True)
    assert [path.name for path, _ in found.entries] == ["whole.mov"]
    assert "of 24" in found.skipped[0].reason


def test_a_file_that_vanishes_is_broken_footage(tmp_path: Path) -> None:
    write_footage(tmp_path / "a.gif", KINDS["gif"])
    with Footage(tmp_path / "a.gif") as footage:
        footage.at([0.5])
        (tmp_path / "a.gif").unlink()
        with pytest.raises(BrokenFootage, match="it is not there"):
            footage.at([0.0])


def test_a_healthy_report_is_empty(written: dict[str, tuple[Path, list[float]]]) -> None:
    assert catalogue(written["mp4"][0]).report() == ""


# Where footage is.


def test_finds_folders_patterns_lists_and_files(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    for name in ("clip10.mp4", "clip2.MKV", "deep/er/clip.webm", "notes.txt", ".half.mp4", ".hidden/a.mp4", "1.png"):
        (tmp_path / name).touch()
    write_pictures(tmp_path / "shots", [1, 2])
    write_pictures(tmp_path / "single", [1])
    names = ["clip2.MKV", "clip10.mp4", "deep/er/clip.webm", "shots"]
    assert find_footage(tmp_path) == [tmp_path / name for name in names]
    assert find_footage(str(tmp_path)) == find_footage(tmp_path)
    assert find_footage(tmp_path / "shots") == [tmp_path / "shots"]
    assert find_footage(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    assert find_footage(str(tmp_path / "clip*")) == [tmp_path / "clip2.MKV", tmp_path / "clip10.mp4"]
    assert find_footage(str(tmp_path / "**" / "*.webm")) == [tmp_path / "deep/er/clip.webm"]
    listed = [tmp_path / "clip10.mp4", tmp_path / "gone.mp4", str(tmp_path / "clip*")]
    assert find_footage(listed) == [tmp_path / name for name in ("clip10.mp4", "gone.mp4", "clip2.MKV")]
    for nothing in (tmp_path / "gone.mp4", str(tmp_path / "*.gif"), tmp_path / ".hidden" / "none", tmp_path / "single"):
        with pytest.raises(ValueError, match="No footage at"):
            find_footage(nothing)


def test_pixels_become_a_video() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(2, 3, 4, 5, 3).permute(0, 1, 4, 2, 3)
    video = as_video(pixels, [0.0, 0.5, 0.6])
    assert video.frames.dtype == torch.float32
    assert video.times.tolist() == [0.0, 0.5, 0.6]
    assert video.frames[0, 0, :, 0, 0].tolist() == pytest.approx([-1, -0.6, 1], abs=1e-6)


def test_wide_pixels_become_square(tmp_path: Path) -> None:
    write_footage(tmp_path / "a.mkv", Kind(".mkv", "ffv1", "bgr0", aspect=Fraction(3, 2)))
    with Footage(tmp_path / "a.mkv") as footage:
        assert footage.at([0.0, 0.4], size=(32, 64)).shape == (2, 3, 32, 64)
        assert codes(footage.at([0.0, 0.4])) == [0, 10]
        assert codes(footage.at([0.4], size=(32, 64), fit="stretch")) == [10]


def test_real_clips_are_read_as_they_are_decoded(data: Path) -> None:
    path = data / "clips" / "gestures" / "bird.mkv"
    with Footage(path) as footage, av.open(str(path)) as container:
        bare = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        assert np.array_equal(footage.at(footage.times).permute(0, 2, 3, 1).numpy(), bare)
