"""The cache: what was filed comes back, whole or not at all, whoever writes, within its bound."""

import multiprocessing
import os
import pickle
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flowvid.data.cache import TensorCache, cache_key, content_of, file_identity

KEY = cache_key(number=0)
TYPES = (torch.uint8, torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)
PARTS = st.dictionaries(st.text(max_size=3), st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers()))


def tensor(number: int, count: int = 100) -> Tensor:
    return torch.full((count,), number, dtype=torch.uint8)


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
def test_a_tensor_returns_with_its_type_and_shape(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    cache, values = TensorCache(tmp_path / "a" / "b"), (torch.rand(shape) * 9).to(dtype)
    assert cache.read(KEY) is None
    cache.write(KEY, values)
    found = cache.read(KEY)
    assert found is not None
    assert found.dtype == dtype
    assert found.shape == shape
    assert torch.equal(found, values)


def test_layout_in_memory_does_not_matter(tmp_path: Path) -> None:
    cache, values = TensorCache(tmp_path), torch.arange(6).reshape(2, 3)
    cache.write(KEY, values.mT)
    found = cache.read(KEY)
    assert found is not None
    assert torch.equal(found, values.mT)
    assert content_of(values.mT) == content_of(values.mT.contiguous())


@given(PARTS, PARTS)
def test_keys_are_equal_exactly_for_equal_parts(one: dict, other: dict) -> None:
    wrapped = cache_key(one=one), cache_key(one=other)
    assert (wrapped[0] == wrapped[1]) == (one == other)
    assert cache_key(a=1, b=2) == cache_key(b=2, a=1) != cache_key(a=2, b=1)
    assert cache_key(a=0.1) != cache_key(a=0.1 + 2e-17 + 1e-16)


def test_keys_refuse_what_has_no_text() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        cache_key(path=Path("a"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        cache_key(time=float("nan"))


def test_content_is_type_shape_and_values() -> None:
    values = torch.arange(6, dtype=torch.int32)
    others = [values + 1, values.float(), values.reshape(2, 3), values.view(torch.float32)]
    assert len({content_of(one) for one in (values, *others)}) == 5
    assert content_of(values) == content_of(values.clone())


def test_a_file_is_its_place_size_and_time_or_its_content(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"abc")
    other.write_bytes(b"abc")
    assert file_identity(one) != file_identity(other)
    assert file_identity(one, content=True) == file_identity(other, content=True)
    before, known = file_identity(one), file_identity(one, content=True)
    os.utime(one, ns=(1, 1))
    assert file_identity(one) != before
    assert file_identity(one, content=True) == known
    one.write_bytes(b"abcd")
    os.utime(one, ns=(1, 1))
    longer = file_identity(one)
    one.write_bytes(b"abc")
    os.utime(one, ns=(1, 1))
    assert file_identity(one) != longer
    other.write_bytes(b"abd")
    assert file_identity(other, content=True) != known
    with pytest.raises(FileNotFoundError):
        file_identity(tmp_path / "absent")


def test_a_folder_is_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"a")
    seen = [(file_identity(tmp_path), file_identity(tmp_path, content=True))]
    (tmp_path / "2.png").write_bytes(b"b")
    seen.append((file_identity(tmp_path), file_identity(tmp_path, content=True)))
    (tmp_path / "2.png").write_bytes(b"cc")
    seen.append((file_identity(tmp_path), file_identity(tmp_path, content=True)))
    assert all(len(set(kind)) == 3 for kind in zip(*seen, strict=True))


def test_get_makes_once(tmp_path: Path) -> None:
    cache, made = TensorCache(tmp_path), []

    def make() -> Tensor:
        made.append(1)
        return tensor(7)

    assert torch.equal(cache.get(KEY, make), tensor(7))
    assert torch.equal(cache.get(KEY, make), tensor(7))
    assert torch.equal(TensorCache(tmp_path).get(KEY, make), tensor(7))
    assert len(made) == 1


# Damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[:10],
        lambda content: b"",
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: bytes([content[0] ^ 1]) + content[1:],
        lambda content: content + b"x",
    ],
)
def test_a_damaged_entry_is_said_once_deleted_and_made_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    cache = TensorCache(tmp_path)
    cache.write(KEY, tensor(7))
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.write_bytes(damage(content))
    with pytest.warns(UserWarning, match=f"{path.name} is damaged; it is deleted and made again"):
        assert cache.read(KEY) is None
    assert not path.exists()
    assert torch.equal(cache.get(KEY, lambda: tensor(7)), tensor(7))
    assert path.read_bytes() == content
    path.write_bytes(damage(content))
    assert cache.read(KEY) is None


def test_an_entry_under_another_key_is_not_believed(tmp_path: Path) -> None:
    cache, other = TensorCache(tmp_path), cache_key(number=1)
    cache.write(KEY, tensor(7))
    (tmp_path / f"{KEY}.tensor").rename(tmp_path / f"{other}.tensor")
    with pytest.warns(UserWarning, match="is damaged"):
        assert cache.read(other) is None


def test_writing_says_why_it_failed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = TensorCache(tmp_path / "file" / "cache")
    with pytest.raises(OSError, match="Not a directory"):
        cache.write(KEY, tensor(7))


def test_a_full_disk_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, write: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flowvid.data.cache.write_atomically", full)
    cache = TensorCache(tmp_path)
    with pytest.warns(UserWarning, match="cannot be written .*No space left"):
        assert torch.equal(cache.get(KEY, lambda: tensor(7)), tensor(7))
    assert torch.equal(cache.get(KEY, lambda: tensor(7)), tensor(7))


# The bound


def room(count: int, folder: Path) -> int:
    """Bytes that so many entries of `tensor` take."""
    probe = TensorCache(folder / "probe")
    probe.write(KEY, tensor(0))
    return probe.size() * count


def test_the_entries_unread_for_the_longest_make_room(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "cache", room(3, tmp_path))
    keys = [cache_key(number=number) for number in range(5)]
    for number in range(3):
        cache.write(keys[number], tensor(number))
        os.utime(tmp_path / "cache" / f"{keys[number]}.tensor", ns=(number, number))
    assert cache.read(keys[0]) is not None
    cache.write(keys[3], tensor(3))
    cache.write(keys[4], tensor(4))
    kept = [cache.read(key) is not None for key in keys]
    assert kept == [True, False, False, True, True]
    assert cache.size() == room(3, tmp_path)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.integers(1, 4))
def test_a_bounded_cache_stays_within_its_bound(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], count: int
) -> None:
    folder = tmp_path_factory.mktemp("bounded")
    cache = TensorCache(folder / "cache", room(count, folder))
    for number in numbers:
        assert torch.equal(cache.get(cache_key(number=number), lambda number=number: tensor(number)), tensor(number))
        assert cache.size() <= room(count, folder)
    assert len(entries(folder / "cache")) == min(count, len(set(numbers)))
    assert cache.read(cache_key(number=numbers[-1])) is not None


def test_what_was_there_before_counts(tmp_path: Path) -> None:
    TensorCache(tmp_path / "cache").write(cache_key(number=1), tensor(1))
    TensorCache(tmp_path / "cache").write(cache_key(number=2), tensor(2))
    cache = TensorCache(tmp_path / "cache", room(2, tmp_path))
    cache.write(KEY, tensor(0))
    assert cache.size() == room(2, tmp_path)


def test_the_folder_is_not_listed_at_every_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, listed = TensorCache(tmp_path / "cache", room(6400, tmp_path)), []
    plain = os.scandir
    monkeypatch.setattr(os, "scandir", lambda *arguments: listed.append(1) or plain(*arguments))
    for number in range(151):
        cache.write(cache_key(number=number), tensor(0))
    assert 2 <= len(listed) <= 4


def test_an_entry_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "cache", room(2, tmp_path))
    cache.write(KEY, tensor(0))
    with pytest.warns(UserWarning, match="is not kept: the cache holds"):
        large = cache.get(cache_key(number=1), lambda: tensor(1, 1000))
    assert torch.equal(large, tensor(1, 1000))
    assert cache.read(KEY) is not None
    assert cache.read(cache_key(number=1)) is None
    with pytest.raises(ValueError, match="at least one byte; got most_bytes=0"):
        TensorCache(tmp_path, 0)


def test_what_a_killed_writer_left_is_removed_after_an_hour(tmp_path: Path) -> None:
    old, new = (tmp_path / f".1.{number}.{KEY}.tensor" for number in range(2))
    other = tmp_path / "notes.txt"
    for path in (old, new, other):
        path.write_bytes(b"x" * 10_000)
    os.utime(old, (time.time() - 7200,) * 2)
    os.utime(other, (0, 0))
    TensorCache(tmp_path, 1000).write(KEY, tensor(0))
    assert entries(tmp_path) == sorted((new.name, other.name, f"{KEY}.tensor"))


# Many at once


def _work(cache: TensorCache, seed: int, rounds: int) -> int:
    """Reads and writes; how often something else came back than was filed."""
    wrong = 0
    for turn in range(rounds):
        number = (seed * 7 + turn * (seed + 1)) % 9
        found = cache.get(cache_key(number=number), lambda number=number: tensor(number, 5000))
        wrong += not torch.equal(found, tensor(number, 5000))
    return wrong


def test_threads_share_a_bounded_folder(tmp_path: Path) -> None:
    """A torn entry would warn, which is an error here."""
    cache = TensorCache(tmp_path / "cache", 4 * 5200)
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda seed: _work(cache, seed, 30), range(6))) == [0] * 6
    assert cache.size() <= 4 * 5200
    assert all(name.endswith(".tensor") and not name.startswith(".") for name in entries(tmp_path / "cache"))


def test_processes_share_a_bounded_folder(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "cache", 4 * 5200)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.starmap(_work, [(cache, seed, 40) for seed in range(3)]) == [0] * 3
    cache.write(KEY, tensor(0))
    assert cache.size() <= 4 * 5200
    assert all(name.endswith(".tensor") and not name.startswith(".") for name in entries(tmp_path / "cache"))


def test_a_cache_is_sent_to_other_processes(tmp_path: Path) -> None:
    sent = pickle.loads(pickle.dumps(TensorCache(tmp_path, 1000)))
    assert (sent.folder, sent.most_bytes) == (tmp_path, 1000)
    sent.write(KEY, tensor(0))


def test_an_entry_that_is_removed_while_it_is_read_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was opened stays readable; what was not is absent."""
    cache = TensorCache(tmp_path)
    cache.write(KEY, tensor(7))
    plain = Path.open

    def opened(path: Path, *arguments: object, **options: object) -> object:
        handle = plain(path, *arguments, **options)
        path.unlink()
        return handle

    monkeypatch.setattr(Path, "open", opened)
    found = cache.read(KEY)
    assert found is not None
    assert torch.equal(found, tensor(7))
    monkeypatch.undo()
    assert cache.read(KEY) is None
