"""Shards: what was put in comes out, once, in parts for processes, from any place on, damage aside."""

import gc
import io
import itertools
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowvid.data.footage.reader import BrokenFootage
from flowvid.data.footage.shard_writer import write_clip_shards, write_shards
from flowvid.data.footage.shards import Shard, ShardReader
from flowvid.noise import Noise

webdataset = pytest.importorskip("webdataset", reason="needs webdataset: pip install 'flowvid[shards]'")

COUNT = 7


def write_film(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(8))
        stream.height = stream.width = 16
        stream.pix_fmt = "gray"
        for number in range(6):
            image = np.full((16, 16), level + number, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for number in range(COUNT):
        write_film(folder / ("inner" if number % 2 else ".") / f"film.{number}.mkv", 30 * number)
    return folder


@pytest.fixture(scope="module")
def shards(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven samples of six frames of 16 x 16, two to a shard, the last alone."""
    folder = tmp_path_factory.mktemp("shards")
    assert [len(one.keys) for one in write_clip_shards(films, folder, 20480, size=(16, 16))] == [2, 2, 2, 1]
    return folder


def level(frames: torch.Tensor) -> int:
    return int(frames[0, 0, 0, 0]) // 30


def levels(reader: ShardReader) -> list[int]:
    return [level(sample.frames()[0]) for sample in reader]


def order_of(folder: Path) -> list[int]:
    """Which film lies where."""
    names = [name for path in sorted(folder.glob("*.json")) for name, _, _ in json.loads(path.read_text())["sources"]]
    return [int(name.split(".")[-2]) for name in names]


# Writing


def test_frames_and_times_return(films: Path, shards: Path) -> None:
    reader = ShardReader(shards)
    assert len(reader) == COUNT
    seen = []
    for sample in reader:
        frames, times = sample.frames()
        assert frames.dtype == torch.uint8
        assert frames.shape == (6, 3, 16, 16)
        assert torch.equal(frames[:, :, 3, 5], (frames[0, 0, 0, 0] + torch.arange(6))[:, None].expand(-1, 3).byte())
        torch.testing.assert_close(times, torch.arange(6).double() / 8, rtol=0, atol=1e-3)
        seen.append(level(frames))
        assert sample.about["name"].endswith(f"film.{seen[-1]}.mkv")
        assert (films / sample.about["name"]).exists()
    assert seen == order_of(shards)
    assert sorted(seen) == list(range(COUNT))
    assert reader.skipped == ()


def test_files_return_as_they_are(films: Path, tmp_path: Path) -> None:
    for shard in write_shards(films, tmp_path):
        assert shard.path.exists()
    for sample in ShardReader(tmp_path):
        assert sample.suffix == "mkv"
        assert sample.content == (films / sample.about["name"]).read_bytes()
        assert sample.about["frames"] == 6
        with sample.footage() as footage:
            assert footage.info.frames == 6
        with pytest.raises(ValueError, match="read it with footage"):
            sample.frames()


def test_frames_are_kept_at_the_rate_and_size_asked_for(films: Path, tmp_path: Path) -> None:
    write_clip_shards(films, tmp_path, size=(4, 6), fps=4.0)
    for sample in ShardReader(tmp_path):
        frames, times = sample.frames()
        assert times.tolist() == [0.0, 0.25, 0.5]
        assert frames.shape == (3, 3, 4, 6)
        assert (frames[:, 0, 0, 0].long() % 30).tolist() == [0, 2, 4]
        with pytest.raises(ValueError, match="take them with frames"), sample.footage():
            pass


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_shards_are_read_by_webdataset_itself(shards: Path) -> None:
    """It leaves its files to the garbage collector, which is what the filters are about."""
    urls = [str(path) for path in sorted(shards.glob("*.tar"))]
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in found] == [f"{number:08d}" for number in range(COUNT)]
    assert all(sample["npy"].shape == (6, 3, 16, 16) and "times" in sample["json"] for sample in found)
    gc.collect()


@pytest.mark.parametrize("most", [1, 10240, 20480, 30720, 51200])
def test_shards_are_as_large_as_allowed(films: Path, tmp_path: Path, most: int) -> None:
    """A sample of 4608 bytes in a file of 4736 and one of a few hundred: 6.5 KiB in all; tar pads to 10 KiB."""
    found = write_clip_shards(films, tmp_path, most, size=(16, 16))
    for shard in found:
        assert len(shard.keys) == 1 or shard.path.stat().st_size <= most
    expected = {1: [1] * 7, 10240: [1] * 7, 20480: [2, 2, 2, 1], 30720: [4, 3], 51200: [7]}
    assert [len(shard.keys) for shard in found] == expected[most]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@given(st.integers(0, 8))
def test_writing_goes_on_where_it_was_interrupted(
    films: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory, number: int
) -> None:
    """Whatever file was the last to be completed; half a file under another name does no harm."""
    folder = tmp_path_factory.mktemp("again")
    done = [path for one in sorted(shards.glob("*.tar")) for path in (one, one.with_suffix(".json"))][:number]
    for path in done:
        shutil.copy2(path, folder / path.name)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    write_clip_shards(films, folder, 20480, size=(16, 16))
    assert contents(folder) == contents(shards)
    for path in done[: len(done) // 2 * 2]:
        assert (folder / path.name).stat().st_mtime_ns == before[path.name]


def test_an_error_while_writing_leaves_whole_shards(
    films: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, packed = np.save, []

    def save(*arguments: object, **options: object) -> None:
        packed.append(1)
        if len(packed) == 4:
            raise KeyboardInterrupt
        plain(*arguments, **options)

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(KeyboardInterrupt):
        write_clip_shards(films, tmp_path, 20480, size=(16, 16))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard-000000.json", "shard-000000.tar"]
    write_clip_shards(films, tmp_path, 20480, size=(16, 16))
    assert contents(tmp_path) == contents(shards)


def test_shards_of_other_footage_or_settings_are_not_mixed(films: Path, shards: Path, tmp_path: Path) -> None:
    message = "shards of other footage or of other settings"
    folder = Path(shutil.copytree(shards, tmp_path / "shards"))
    with pytest.raises(ValueError, match=message):
        write_clip_shards(films, folder, 20480, size=(16, 8))
    with pytest.raises(ValueError, match=message):
        write_clip_shards(films, folder, 10240, size=(16, 16))
    changed = Path(shutil.copytree(films, tmp_path / "films"))
    assert len(write_clip_shards(changed, folder, 20480, size=(16, 16))) == 4
    os.utime(next(changed.glob("*.mkv")), (1, 1))
    with pytest.raises(ValueError, match=message):
        write_clip_shards(changed, folder, 20480, size=(16, 16))
    assert contents(folder) == contents(shards)


def test_broken_footage_is_left_out_and_listed(films: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(films, tmp_path / "films"))
    for name in ("film.00.mkv", "inner/film.3.mkv", "inner/z.mkv"):
        (folder / name).write_bytes(b"no film")
    for kind, write in enumerate((write_shards, lambda *given: write_clip_shards(*given, size=(16, 16)))):
        found = write(folder, tmp_path / f"shards{kind}", 20480)
        assert {name for shard in found for name, _ in shard.skipped} == {
            "film.00.mkv",
            "inner/film.3.mkv",
            "inner/z.mkv",
        }
        assert all(reason for shard in found for _, reason in shard.skipped)
        assert sum(len(shard.keys) for shard in found) == COUNT - 1
        assert sum(len(shard.sources) for shard in found) == COUNT + 2
        assert write(folder, tmp_path / f"shards{kind}", 20480) == found
    for path in folder.rglob("*.mkv"):
        path.write_bytes(b"no film")
    with pytest.raises(ValueError, match=r"No footage can be read(.|\n)*film\.00\.mkv: "):
        write_shards(folder, tmp_path / "none")


def test_refuses_sizes_and_rates_that_are_none(films: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one byte; got max_bytes=0"):
        write_shards(films, tmp_path, 0)
    with pytest.raises(ValueError, match=r"positive rate; got fps=0\.0"):
        write_clip_shards(films, tmp_path, size=(4, 4), fps=0.0)


# Reading


@given(st.integers(1, 4), st.integers(0, 99))
def test_processes_share_the_samples(shards: Path, world: int, seed: int) -> None:
    noise = Noise.of([seed])
    parts = [levels(ShardReader(shards, rank=rank, world=world, noise=noise)) for rank in range(world)]
    assert sorted(itertools.chain(*parts)) == list(range(COUNT))
    assert all(parts)
    assert parts == [levels(ShardReader(shards, rank=rank, world=world, noise=noise)) for rank in range(world)]


def test_noise_orders_the_shards(shards: Path) -> None:
    orders = {tuple(levels(ShardReader(shards, noise=Noise.of([seed])))) for seed in range(12)}
    assert len(orders) > 6
    plain = order_of(shards)
    assert levels(ShardReader(shards)) == plain
    assert {order[:2] for order in orders if len(order) == COUNT} & {tuple(plain[2:4]), tuple(plain[4:6])}


@given(st.integers(0, COUNT), st.integers(1, 2), st.integers(0, 9))
def test_reading_goes_on_exactly_where_it_stood(shards: Path, done: int, world: int, seed: int) -> None:
    options = {"rank": 0, "world": world, "noise": Noise.of([seed])}
    whole = [sample.key for sample in ShardReader(shards, **options)]
    reader = ShardReader(shards, **options)
    first = [sample.key for sample, _ in zip(reader, range(done), strict=False)]
    # zip asks for one sample more than it gives, except at the end.
    first = first if done < len(whole) else whole
    state = json.loads(json.dumps(reader.state_dict()))
    again = ShardReader(shards, **options)
    again.load_state_dict(state)
    rest = [sample.key for sample in again]
    taken = min(done + 1, len(whole))
    assert whole[:taken][: len(first)] == first
    assert rest == whole[taken:]


def test_every_place_is_one_to_go_on_from(shards: Path) -> None:
    whole = [sample.key for sample in ShardReader(shards)]
    reader, states = ShardReader(shards), []
    states.append(reader.state_dict())
    for _ in reader:
        states.append(reader.state_dict())
    for done, state in enumerate(states):
        again = ShardReader(shards)
        again.load_state_dict(state)
        assert [sample.key for sample in again] == whole[done:]
    assert list(reader) == []


def test_a_place_belongs_to_its_shards(shards: Path) -> None:
    state = ShardReader(shards, rank=0, world=2).state_dict()
    for options in ({"rank": 1, "world": 2}, {}):
        with pytest.raises(ValueError, match="other shards, another order or another number of processes"):
            ShardReader(shards, **options).load_state_dict(state)


def damaged(shards: Path, tmp_path: Path, change: Callable[[bytearray], object]) -> ShardReader:
    """The shards, the first of them changed."""
    folder = Path(shutil.copytree(shards, tmp_path / "damaged"))
    content = bytearray((folder / "shard-000000.tar").read_bytes())
    changed = change(content)
    (folder / "shard-000000.tar").write_bytes(bytes(changed if isinstance(changed, bytearray) else content))
    return ShardReader(folder)


def flip(content: bytearray, place: int) -> None:
    content[place] ^= 255


def offset(shards: Path, name: str) -> tuple[int, int]:
    """Where a member's header and its content begin."""
    with tarfile.open(shards / "shard-000000.tar") as tar:
        member = tar.getmember(name)
        return member.offset, member.offset_data


@pytest.mark.parametrize(
    ("change", "lost", "reason"),
    [
        (lambda shards, b: flip(b, offset(shards, "00000000.npy")[1] + 4000), [0], "checksum differs"),
        (lambda shards, b: flip(b, offset(shards, "00000001.json")[1]), [1], "missing or damaged"),
        (lambda shards, b: flip(b, offset(shards, "00000000.json")[0]), [0, 1], "missing or damaged"),
        (lambda shards, b: flip(b, offset(shards, "00000001.npy")[0]), [1], "damaged before it"),
        (lambda shards, b: b[: offset(shards, "00000001.npy")[1] + 700], [1], "damaged"),
        (lambda shards, b: b[: offset(shards, "00000001.json")[0]], [1], "missing or damaged"),
        (lambda shards, b: b[:100], [0, 1], "damaged before it"),
        (lambda shards, b: bytearray(), [0, 1], "damaged before it"),
    ],
)
def test_damaged_samples_are_left_out_and_listed(
    shards: Path, tmp_path: Path, change: Callable[[Path, bytearray], object], lost: list[int], reason: str
) -> None:
    reader = damaged(shards, tmp_path, lambda content: change(shards, content))
    keys = [sample.key for sample in reader]
    assert keys == [f"{number:08d}" for number in range(COUNT) if number not in lost]
    assert [one.path.name for one in reader.skipped] == [f"{number:08d}" for number in lost]
    assert {one.path.parent.name for one in reader.skipped} == {"shard-000000.tar"}
    assert any(reason in one.reason for one in reader.skipped)


def test_reading_goes_on_after_damage_as_without_interruption(shards: Path, tmp_path: Path) -> None:
    reader = damaged(shards, tmp_path, lambda content: flip(content, offset(shards, "00000000.npy")[1] + 4000))
    first = next(iter(reader))
    assert first.key == "00000001"
    again = ShardReader(tmp_path / "damaged")
    again.load_state_dict(reader.state_dict())
    assert [sample.key for sample in again][:1] == ["00000002"]
    assert again.skipped == ()


def test_a_sample_too_many_or_in_another_place_is_no_sample(shards: Path, tmp_path: Path) -> None:
    """Only what the description lists is believed."""
    folder = Path(shutil.copytree(shards, tmp_path / "shards"))
    path = folder / "shard-000000.tar"
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("99999999.npy")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    assert len(list(ShardReader(folder))) == COUNT
    with tarfile.open(path, "w") as tar:
        for name in ("00000001.npy", "00000001.json", "00000000.npy", "00000000.json"):
            with tarfile.open(shards / path.name) as plain:
                found = plain.extractfile(name)
                assert found is not None
                tar.addfile(plain.getmember(name), found)
    reader = ShardReader(folder)
    assert [sample.key for sample in reader][:1] == ["00000001"]
    assert [(one.path.name, one.reason) for one in reader.skipped] == [("00000000", "it is not where it should be")]


def test_refuses_processes_and_folders_that_do_not_exist(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds 4 shards for 5 processes; write smaller ones"):
        ShardReader(shards, world=5)
    with pytest.raises(ValueError, match="holds 0 shards for 1 processes"):
        ShardReader(tmp_path)
    for rank, world in ((-1, 2), (2, 2)):
        with pytest.raises(ValueError, match="0 <= rank < world"):
            ShardReader(shards, rank=rank, world=world)
    with pytest.raises(ValueError, match="noise of one sample"):
        ShardReader(shards, noise=Noise.batch(0, 2))
    folder = Path(shutil.copytree(shards, tmp_path / "shards"))
    for text in ("{", "{}", '{"keys": 1}'):
        (folder / "shard-000001.json").write_text(text)
        with pytest.raises(ValueError, match=r"shard-000001\.tar has no readable description"):
            ShardReader(folder)
    (folder / "shard-000001.json").unlink()
    with pytest.raises(ValueError, match="write it anew"):
        ShardReader(folder)
    with pytest.raises(ValueError, match="no readable description"):
        Shard.read(tmp_path / "absent.tar")


def test_without_webdataset_the_extra_is_named(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(ImportError, match=r"pip install 'flowvid\[shards\]'"):
        ShardReader(shards)


def test_footage_that_is_none_says_so(shards: Path) -> None:
    sample = next(iter(ShardReader(shards)))
    broken = type(sample)(sample.key, "mkv", b"no film", sample.about)
    with pytest.raises(BrokenFootage), broken.footage():
        pass
