"""Windows of footage: the frames of their times, by seed alone, whatever the cache, the threads and broken files."""

import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flowvid.data.cache import TensorCache
from flowvid.data.footage.clips import FootageClips, FootagePool
from flowvid.data.footage.irregular import Irregular, PoissonTimes, UniformTimes
from flowvid.data.footage.pieces import Piece, Shares, pieces_of, split_by_file, split_by_span
from flowvid.data.footage.reader import BrokenFootage, Footage, FootageInfo, catalogue
from flowvid.data.footage.windows import FixedRate, RandomRate, Span
from flowvid.data.footage.writers import write_video
from flowvid.data.prefetch import Prefetch
from flowvid.noise import Noise

FRAMES, FPS = 24, 8


def write_film(path: Path, level: int, *, frames: int = FRAMES, fps: int = FPS) -> Path:
    """Frames of one grey each, lossless: the file's level and two per frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(fps))
        stream.height = stream.width = 16
        stream.pix_fmt = "gray"
        for number in range(frames):
            image = np.full((16, 16), level + 2 * number, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for number in range(4):
        write_film(folder / f"film{number}.mkv", 50 * number)
    return folder


def greys(pixels: Tensor) -> Tensor:
    """The level of every frame, which is one throughout."""
    levels = pixels.flatten(2)
    assert torch.equal(levels.amin(2), levels.amax(2))
    return levels[:, :, 0].long()


# What a batch is


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("law", [FixedRate(4.0, 5), UniformTimes(5, 2.0, ends=True), RandomRate(5), Irregular(8.0)])
def test_pixels_are_the_frames_on_screen_at_the_times(
    films: Path, tmp_path: Path, law: FixedRate, cached: bool
) -> None:
    cache = TensorCache(tmp_path) if cached else None
    with FootageClips(films, law, (8, 8), cache=cache) as clips:
        assert len(clips) == 4
        for seed in range(2):
            pixels, times, indices, known = clips.batch(Noise.batch(seed, 6))
            assert pixels.dtype == torch.uint8
            assert pixels.shape == (6, times.shape[1], 3, 8, 8)
            assert known.shape == times.shape
            expected = 50 * indices[:, None] + 2 * (times * FPS + 0.004).floor().long()
            assert torch.equal(greys(pixels), expected)
        assert clips.skipped == ()


def test_a_sample_is_a_function_of_its_seed(films: Path, tmp_path: Path) -> None:
    noise = Noise.batch(3, 8)
    with FootageClips(films, FixedRate(4.0, 5), (8, 8)) as clips:
        whole = clips.batch(noise)
        part = clips.batch(noise[5:7])
    assert len(set(whole.indices.tolist())) > 1
    assert len(set(whole.times[:, 0].tolist())) == 8
    cache = TensorCache(tmp_path)
    for threads, open_files in ((1, 1), (4, 8)):
        options = {"threads": threads, "open_files": open_files}
        with FootageClips(films, FixedRate(4.0, 5), (8, 8), cache=cache, **options) as clips:
            again = clips.batch(noise)
        assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    assert all(torch.equal(a[5:7], b) for a, b in zip(whole, part, strict=True))


def test_pieces_are_drawn_equally_often_or_as_asked(films: Path) -> None:
    with FootageClips(films, FixedRate(4.0, 1), (1, 1)) as clips:
        counts = clips.batch(Noise.batch(0, 100)).indices.bincount(minlength=4)
        # Four standard deviations of a count: 4 sqrt(100 / 4 * 3 / 4).
        assert (counts - 25).abs().max() <= 17
        assert clips.batch(Noise.batch(0, 3), pieces=[2, 0, 2]).indices.tolist() == [2, 0, 2]
        with pytest.raises(ValueError, match="one piece for each of 3 samples; got 2"):
            clips.batch(Noise.batch(0, 3), pieces=[2, 0])


def test_marks_of_the_law_come_along(films: Path) -> None:
    with FootageClips(films, Irregular(8.0, 3, 6), (4, 4)) as clips:
        known = clips.batch(Noise.batch(0, 5)).known
    assert known.sum(1).tolist() == [3] * 5
    assert known[:, [0, -1]].all()


@pytest.mark.parametrize("cached", [False, True])
def test_snapped_times_are_those_of_the_frames(films: Path, tmp_path: Path, cached: bool) -> None:
    cache = TensorCache(tmp_path) if cached else None
    with FootageClips(films, FixedRate(4.0, 5), (4, 4), snap=True, cache=cache) as clips:
        pixels, times, indices, _ = clips.batch(Noise.batch(0, 6))
    assert torch.equal(greys(pixels) - 50 * indices[:, None], 2 * (times * FPS).round().long())
    torch.testing.assert_close(times * FPS, (times * FPS).round(), rtol=0, atol=0.005)
    fast = FootageClips(films, FixedRate(20.0, 5), (4, 4), snap=True, cache=cache)
    with fast, pytest.raises(ValueError, match="show one frame: the window is faster than its source"):
        fast.batch(Noise.batch(0, 1))


def test_windows_of_a_batch_hold_equally_many_times(films: Path) -> None:
    clips = FootageClips(films, PoissonTimes(4.0, 2.0), (4, 4))
    with clips, pytest.raises(ValueError, match=r"equally many times; these hold \d+ to \d+"):
        clips.batch(Noise.batch(0, 8))


# The cache


def test_what_was_decoded_once_is_not_opened_again(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = TensorCache(tmp_path)
    with FootageClips(films, FixedRate(8.0, 16), (8, 8), cache=cache) as clips:
        clips.batch(Noise.batch(0, 12))
        monkeypatch.setattr(Footage, "__init__", lambda *_, **__: pytest.fail("opened"))
        clips.batch(Noise.batch(1, 12))
    # Four indices of times, and four files of 24 frames in blocks of 16.
    assert len(list(tmp_path.iterdir())) == 4 + 8


def test_cached_frames_are_those_of_this_size_and_file(films: Path, tmp_path: Path) -> None:
    cache, noise = TensorCache(tmp_path / "cache"), Noise.batch(0, 4)
    path = write_film(tmp_path / "film.mkv", 10)
    sizes = []
    for size in ((4, 4), (2, 6)):
        with FootageClips(path, FixedRate(8.0, 4), size, cache=cache) as clips:
            sizes.append(clips.batch(noise).pixels.shape[-2:])
    assert sizes == [(4, 4), (2, 6)]
    write_film(path, 100)
    with FootageClips(path, FixedRate(8.0, 4), (4, 4), cache=cache) as clips:
        assert int(clips.batch(noise).pixels.min()) >= 100


# Broken files


@pytest.mark.parametrize("cached", [False, True])
def test_files_that_vanish_are_replaced_and_listed(films: Path, tmp_path: Path, cached: bool) -> None:
    folder = Path(shutil.copytree(films, tmp_path / "films"))
    cache = TensorCache(tmp_path / "cache") if cached else None
    law, noise = FixedRate(4.0, 5), Noise.batch(0, 10)
    with FootageClips(folder, law, (4, 4)) as clips:
        whole = clips.batch(noise)
    with FootageClips(folder, law, (4, 4), cache=cache) as clips:
        (folder / "film1.mkv").unlink()
        (folder / "film2.mkv").write_bytes(b"not a film")
        found = clips.batch(noise)
        later = clips.batch(noise)
        assert [one.path.name for one in clips.skipped] == ["film1.mkv", "film2.mkv"]
        assert all(one.reason for one in clips.skipped)
    good = (whole.indices == 0) | (whole.indices == 3)
    assert 0 < int(good.sum()) < 10
    assert torch.equal(found.pixels[good], whole.pixels[good])
    assert set(found.indices[~good].tolist()) == {0, 3}
    assert torch.equal(greys(found.pixels) // 50, found.indices[:, None].expand(-1, 5))
    assert all(torch.equal(a, b) for a, b in zip(found, later, strict=True))
    with FootageClips(folder, law, (4, 4)) as clips:
        assert len(clips) == 2
        assert {one.path.name for one in clips.skipped} == {"film2.mkv"}


def test_nothing_left_to_read_is_an_error(films: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(films, tmp_path / "films"))
    with FootageClips(folder, FixedRate(4.0, 5), (4, 4)) as clips:
        shutil.rmtree(folder)
        with pytest.raises(ValueError, match=r"No footage can be read any more(.|\n)*film0.mkv(.|\n)*film3.mkv"):
            clips.batch(Noise.batch(0, 2))


def test_a_file_damaged_at_its_end_still_serves_windows_before(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of the cache may hold frames that cannot be decoded though the window does not."""
    plain = Footage.at

    def damaged(self: Footage, times: Tensor, **options: tuple[int, int]) -> Tensor:
        if max(times) > 1:
            raise BrokenFootage("frame 9 of 24 cannot be decoded")
        return plain(self, times, **options)

    monkeypatch.setattr(Footage, "at", damaged)
    early = [replace(one, span=Span(0.0, 0.9, 8.0)) for one in pieces_of(catalogue(films))]
    found = []
    for cache in (None, TensorCache(tmp_path)):
        with FootageClips(early, FixedRate(8.0, 4), (4, 4), cache=cache) as clips:
            found.append(clips.batch(Noise.batch(0, 3)))
            assert clips.skipped == ()
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_short_footage_is_listed_and_all_short_is_an_error(films: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(films, tmp_path / "films"))
    write_film(folder / "short.mkv", 0, frames=3)
    with FootageClips(folder, FixedRate(4.0, 5), (4, 4)) as clips:
        assert len(clips) == 4
        (one,) = clips.skipped
        assert one.path.name == "short.mkv"
        assert one.reason == "it lasts 0.375 s, and a window needs 1 s"
    with pytest.raises(ValueError, match=r"No footage can be used(.|\n)*it lasts 3 s, and a window needs 4 s"):
        FootageClips(films, FixedRate(1.0, 5), (4, 4))


@pytest.mark.parametrize("wrong", [{"size": (0, 4)}, {"threads": 0}, {"open_files": 0}])
def test_refuses_what_is_not_positive(films: Path, wrong: dict) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        FootageClips(films, FixedRate(4.0, 5), **{"size": (4, 4), **wrong})


# Open files


def test_few_files_stay_open_and_the_oldest_closes(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    closed: list[str] = []
    begin, end = Footage.__init__, Footage.close
    monkeypatch.setattr(
        Footage, "__init__", lambda self, path, **k: (opened.append(Path(path).name), begin(self, path, **k))[1]
    )
    monkeypatch.setattr(Footage, "close", lambda self: (closed.append(self.path.name), end(self))[1])
    pool = FootagePool(2)
    for name in ("film0", "film1", "film0", "film2", "film0", "film1"):
        with pool.opened(films / f"{name}.mkv") as footage:
            assert footage.path.stem == name
    assert opened == ["film0.mkv", "film1.mkv", "film2.mkv", "film1.mkv"]
    assert closed == ["film1.mkv", "film2.mkv"]
    with pool.opened(films / "film0.mkv") as one, pool.opened(films / "film0.mkv") as other:
        assert one is not other
    with pytest.raises(RuntimeError), pool.opened(films / "film0.mkv"):
        raise RuntimeError
    pool.close()
    assert sorted(closed) == sorted(opened)


def test_batches_close_their_files(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = [0]
    begin, end = Footage._begin, Footage.close
    lock = threading.Lock()

    def opening(self: Footage) -> None:
        with lock:
            count[0] += 1
        begin(self)

    def closing(self: Footage) -> None:
        with lock:
            count[0] -= 1
        end(self)

    monkeypatch.setattr(Footage, "_begin", opening)
    monkeypatch.setattr(Footage, "close", closing)
    with FootageClips(films, FixedRate(4.0, 3), (4, 4), threads=3, open_files=2) as clips:
        for seed in range(4):
            clips.batch(Noise.batch(seed, 6))
            assert 0 < count[0] <= 2
    assert count[0] == 0


# Splits

INFO = FootageInfo(16, 16, 80, 10.0, 8.0, False, 0.0, "matroska", "ffv1", 8, False, 0)


def piece(name: str) -> Piece:
    return Piece(Path(name), INFO, Span(0.0, 10.0, 8.0), name)


@given(st.sets(st.text(max_size=4), max_size=20), st.sets(st.text(max_size=4), max_size=20))
def test_a_split_stays_when_files_are_added(names: set[str], more: set[str]) -> None:
    before, after = [piece(name) for name in sorted(names)], [piece(name) for name in sorted(names | more)]
    parts = [{one.name for one in split_by_file(after, split)} for split in ("train", "validation", "test")]
    assert sum(len(part) for part in parts) == len(after)
    assert set().union(*parts) == names | more
    for split, part in zip(("train", "validation", "test"), parts, strict=True):
        assert {one.name for one in split_by_file(before, split)} == part & names


def test_shares_hold_on_average() -> None:
    found = [piece(f"clip{number}.mp4") for number in range(4000)]
    for shares in (Shares(), Shares(0.5, 0.2, 0.3)):
        for split, share in zip(("train", "validation", "test"), shares, strict=True):
            count = len(split_by_file(found, split, shares))
            assert abs(count - 4000 * share) < 3.5 * (4000 * share * (1 - share)) ** 0.5
    assert split_by_file(found, "train", Shares(1.0, 0.0, 0.0)) == found


def test_spans_of_one_file_are_apart() -> None:
    start = Piece(Path("a"), INFO, Span(2.0, 12.0, 8.0), "a")
    spans = [split_by_span([start], split, gap=0.5)[0].span for split in ("train", "validation", "test")]
    assert [span.start for span in spans] == pytest.approx([2.0, 10.25, 11.25])
    assert [span.stop for span in spans] == pytest.approx([9.75, 10.75, 12.0])
    touching = [split_by_span([start], split)[0].span for split in ("train", "validation", "test")]
    assert touching[0].stop == pytest.approx(touching[1].start)
    assert split_by_span([start], "validation", gap=1.5) == []
    assert split_by_span([start], "test", Shares(0.5, 0.5, 0.0)) == []
    (whole,) = split_by_span([start], "train", Shares(1.0, 0.0, 0.0), gap=3.0)
    assert whole.span == start.span


def test_splits_refuse_other_names_and_shares() -> None:
    with pytest.raises(ValueError, match="train, validation, test; got 'valid'"):
        split_by_file([], "valid")
    with pytest.raises(ValueError, match=r"sum to 1; got \(0\.5, 0\.1, 0\.1\)"):
        split_by_file([], "train", Shares(0.5))
    with pytest.raises(ValueError, match="at least 0"):
        split_by_span([], "train", Shares(1.2, -0.1, -0.1))
    with pytest.raises(ValueError, match="at least 0; got -1"):
        split_by_span([], "train", gap=-1.0)


def test_names_are_paths_within_the_source(tmp_path: Path) -> None:
    """Else all files of one name, in folders of their own, were one split."""
    for number in range(2):
        write_film(tmp_path / f"take{number}" / "film.mkv", 0)
    found = catalogue(tmp_path)
    assert [one.name for one in pieces_of(found)] == ["film.mkv"] * 2
    assert [one.name for one in pieces_of(found, root=tmp_path)] == ["take0/film.mkv", "take1/film.mkv"]
    with FootageClips(tmp_path, FixedRate(8.0, 4), (4, 4)) as clips:
        assert [one.name for one in clips.pieces] == ["take0/film.mkv", "take1/film.mkv"]
    paths = [path for path, _ in found.entries]
    for source in (found, paths, pieces_of(found)):
        with FootageClips(source, FixedRate(8.0, 4), (4, 4)) as clips:
            assert [one.path for one in clips.pieces] == paths


def test_windows_stay_within_their_spans(films: Path) -> None:
    found = pieces_of(catalogue(films))
    for split, low, high in (("train", 0.0, 1.5), ("test", 1.5, 3.0)):
        pieces = split_by_span(found, split, Shares(0.5, 0.0, 0.5))
        with FootageClips(pieces, FixedRate(8.0, 8), (4, 4)) as clips:
            times = clips.batch(Noise.batch(0, 12)).times
        assert low <= float(times.min())
        assert float(times.max()) <= high


# Loading ahead


def noises(count: int) -> Iterator[Noise]:
    return (Noise.of([number]) for number in range(count))


def seed_of(noise: Noise) -> int:
    return noise.seeds[0]


@given(st.integers(0, 9), st.integers(1, 4), st.integers(1, 3))
def test_items_arrive_in_order(count: int, depth: int, threads: int) -> None:
    def load(noise: Noise) -> int:
        time.sleep(1e-4 * (seed_of(noise) * 7 % 3))
        return seed_of(noise)

    assert list(Prefetch(load, noises(count), depth, threads=threads)) == list(range(count))


def test_depth_items_are_loaded_ahead_and_no_more() -> None:
    taken: list[int] = []
    loaded = threading.Semaphore(0)

    def counted() -> Iterator[Noise]:
        for noise in noises(99):
            taken.append(seed_of(noise))
            yield noise

    def load(noise: Noise) -> int:
        loaded.release()
        return seed_of(noise)

    with Prefetch(load, counted(), depth=3) as ahead:
        assert taken == []
        assert next(ahead) == 0
        assert all(loaded.acquire(timeout=5) for _ in range(4))
        assert taken == [0, 1, 2, 3]
        assert next(ahead) == 1
        assert taken == [0, 1, 2, 3, 4]


def test_an_error_arrives_where_its_item_would_have() -> None:
    def load(noise: Noise) -> int:
        return 6 // (2 - seed_of(noise))

    ahead = Prefetch(load, noises(9), depth=4, threads=2)
    assert [next(ahead), next(ahead)] == [3, 6]
    with pytest.raises(ZeroDivisionError):
        next(ahead)
    assert list(ahead) == []


def test_an_error_of_the_noises_arrives_after_what_came_before() -> None:
    def broken() -> Iterator[Noise]:
        yield from noises(2)
        raise RuntimeError("no more seeds")

    ahead = Prefetch(seed_of, broken(), depth=4)
    assert [next(ahead), next(ahead)] == [0, 1]
    with pytest.raises(RuntimeError, match="no more seeds"):
        next(ahead)


def test_closing_ends_the_threads() -> None:
    def load(noise: Noise) -> int:
        time.sleep(0.005)
        return seed_of(noise)

    before = threading.active_count()
    ahead = Prefetch(load, noises(10**6), depth=5, threads=2)
    assert next(ahead) == 0
    assert threading.active_count() > before
    ahead.close()
    assert threading.active_count() == before
    assert list(ahead) == []
    finished = Prefetch(load, noises(2))
    assert list(finished) == [0, 1]
    assert threading.active_count() == before


def test_the_share_of_waiting_is_measured() -> None:
    def load(noise: Noise) -> int:
        time.sleep(0.02)
        return seed_of(noise)

    hungry = Prefetch(load, noises(6))
    assert hungry.waited == 0
    list(hungry)
    assert hungry.waited > 0.8
    fed = Prefetch(load, noises(6), threads=2)
    for _ in fed:
        time.sleep(0.06)
    # Only the first item is waited for: 20 of 320 ms, more on a machine that is busy.
    assert fed.waited < 0.4


@pytest.mark.parametrize("wrong", [{"depth": 0}, {"threads": 0}])
def test_loading_ahead_needs_depth_and_threads(wrong: dict) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Prefetch(seed_of, noises(1), **wrong)


def test_footage_is_loaded_ahead(films: Path) -> None:
    with FootageClips(films, FixedRate(4.0, 5), (4, 4)) as clips:
        direct = [clips.batch(Noise.batch(step, 3)).pixels for step in range(4)]
        with Prefetch(clips.batch, (Noise.batch(step, 3) for step in range(4))) as ahead:
            for expected, found in zip(direct, ahead, strict=True):
                assert torch.equal(found.pixels, expected)


def test_a_file_replaced_meanwhile_is_read_anew(tmp_path: Path) -> None:
    """Neither a handle that is still open nor the cache passes old frames off as new ones."""
    film, cache = tmp_path / "film.mkv", TensorCache(tmp_path / "cache")
    with FootageClips(_grey(film, 40), FixedRate(8.0, 2), (16, 16), cache=cache) as clips:
        assert clips.batch(Noise.of([0])).pixels.float().mean().item() == pytest.approx(40, abs=2)
        _grey(film, 200)
        assert clips.batch(Noise.of([1])).pixels.float().mean().item() == pytest.approx(200, abs=2)
    with FootageClips(film, FixedRate(8.0, 2), (16, 16), cache=cache) as clips:
        assert clips.batch(Noise.of([0])).pixels.float().mean().item() == pytest.approx(200, abs=2)


def _grey(path: Path, level: int) -> Path:
    frames = torch.full((12, 3, 16, 16), level, dtype=torch.uint8)
    write_video(path, frames, fps=8.0)
    return path
