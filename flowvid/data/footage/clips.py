"""Footage as a data set: windows of many files at one size, drawn by noise, read by a few threads.

A sample is a function of its seed and of the files alone: its seed draws a piece and a window in it. Where that cannot
be read, the seed draws the next piece, from an order of its own of all others, until one can; what could not be read is
listed. Pixels stay uint8 until they are on the device (`flowvid.data.footage.reader.as_video` makes frames of them).

With a cache, footage is kept decoded, at the size asked for, in blocks of 16 neighbouring frames, so that every window
over the same frames finds them, whatever its start and rate; and the times of its frames, so that it is not opened.

Files are opened when they are first read, and a few of them stay open; those read longest ago are closed.
"""

__all__ = ["FootageBatch", "FootageClips", "FootagePool"]

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor

from flowvid.data.cache import TensorCache, cache_key, file_identity
from flowvid.data.footage.pieces import Piece, pieces_of
from flowvid.data.footage.reader import BrokenFootage, Catalogue, Footage, Skipped, catalogue
from flowvid.data.footage.windows import Window, WindowLaw, frames_shown
from flowvid.noise import Noise

_BLOCK = 16
_INDICES = 1024
_VERSION = 1


class FootageBatch(NamedTuple):
    """Windows of footage.

    Arguments:
        pixels: RGB of 0..255.
        times: Seconds in the footage, for every sample its own.
        indices: Which piece each sample shows.
        known: Which frames are given, where the law of the windows says so.
    """

    pixels: UInt8[Tensor, "batch time 3 height width"]
    times: Float64[Tensor, "batch time"]
    indices: Int64[Tensor, "batch"]
    known: Bool[Tensor, "batch time"]


class FootagePool:
    """Open footage, each used by one thread at a time.

    Arguments:
        most: How many stay open while nobody uses them.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._idle: OrderedDict[Footage, str] = OrderedDict()

    @contextmanager
    def opened(self, path: Path, fps: float | None = None) -> Iterator[Footage]:
        """Footage for the caller alone; left open for the next who asks, unless reading it failed.

        Raises:
            BrokenFootage: It cannot be opened.
        """
        file = _file(path)
        footage = self._taken(file) or Footage(path, fps=fps)
        try:
            yield footage
        except BaseException:
            footage.close()
            raise
        self._give_back(file, footage)

    def close(self) -> None:
        """Close everything that nobody uses."""
        with self._lock:
            idle, self._idle = list(self._idle), OrderedDict()
        for footage in idle:
            footage.close()

    def _taken(self, file: str) -> Footage | None:
        with self._lock:
            found = next((footage for footage, its in reversed(self._idle.items()) if its == file), None)
            if found is not None:
                del self._idle[found]
            return found

    def _give_back(self, file: str, footage: Footage) -> None:
        with self._lock:
            self._idle[footage] = file
            closing = [self._idle.popitem(last=False)[0] for _ in range(len(self._idle) - self._most)]
        for one in closing:
            one.close()


class FootageClips:
    """Windows of footage by noise; a context manager.

    Arguments:
        source: What `flowvid.data.footage.reader.catalogue` takes, what it returns, or pieces.
        window: Which times of a piece to read.
        size: Height and width of the frames, which are scaled to cover it and cut at the middle.
        cache: Where decoded frames are kept; they need not be decoded again.
        snap: Whether times are those at which the frames shown were presented, rather than those asked for.
        threads: How many threads read.
        open_files: How many files stay open between batches.

    Raises:
        ValueError: There is nothing to read, no piece is long enough for a window, or an argument is not positive.
    """

    def __init__(
        self,
        source: str | Path | Catalogue | Sequence[str | Path] | Sequence[Piece],
        window: WindowLaw,
        size: tuple[int, int],
        *,
        cache: TensorCache | None = None,
        snap: bool = False,
        threads: int = 2,
        open_files: int = 8,
    ) -> None:
        if min(*size, threads, open_files) < 1:
            raise ValueError(
                "Size, threads and open files are at least 1; "
                f"got size={size}, threads={threads}, open_files={open_files}."
            )
        found, skipped = _pieces(source)
        self.pieces = [piece for piece in found if piece.span.seconds >= window.needs(piece.span.fps)]
        self._skipped = {one.path: one.reason for one in skipped}
        for piece in found:
            if piece.span.seconds < (needed := window.needs(piece.span.fps)):
                self._skip(piece, f"it lasts {piece.span.seconds:.6g} s, and a window needs {needed:.6g} s")
        if not self.pieces:
            raise ValueError(f"No footage can be used. {self._report()}")
        self.window, self.size, self.cache, self.snap = window, size, cache, snap
        self._lock = threading.Lock()
        self._indices: dict[str, tuple[float, Tensor]] = {}
        self._files = FootagePool(open_files)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="footage")

    def __len__(self) -> int:
        return len(self.pieces)

    def __enter__(self) -> "FootageClips":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What could not be read so far, or was too short, with reasons; by path."""
        return tuple(Skipped(path, reason) for path, reason in sorted(self._skipped.items()))

    def close(self) -> None:
        """Close all files and end the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._files.close()

    def batch(self, noise: Noise, pieces: Sequence[int] | None = None) -> FootageBatch:
        """A window for every sample of the noise.

        Arguments:
            noise: Decides which piece and which window.
            pieces: Which piece for every sample; default: drawn. One that cannot be read is replaced all the same.

        Raises:
            ValueError: There is not one piece for every sample, no piece at all can be read, or windows hold unequally
                many times.
        """
        first = noise.integers("piece", 0, len(self)).tolist() if pieces is None else list(pieces)
        if len(first) != len(noise):
            raise ValueError(f"Expected one piece for each of {len(noise)} samples; got {len(first)}.")
        drawn = list(self._threads.map(self._sample, [noise[n : n + 1] for n in range(len(noise))], first))
        counts = {len(window) for _, window, _ in drawn}
        if len(counts) > 1:
            raise ValueError(
                f"Windows of a batch must hold equally many times; these hold {min(counts)} to {max(counts)}. "
                "Use a law with a fixed number, such as UniformTimes instead of PoissonTimes."
            )
        return FootageBatch(
            pixels=torch.stack([pixels for _, _, pixels in drawn]),
            times=torch.stack([window.times for _, window, _ in drawn]),
            indices=torch.tensor([number for number, _, _ in drawn]),
            known=torch.stack([window.known for _, window, _ in drawn]),
        )

    def _sample(self, noise: Noise, first: int) -> tuple[int, Window, Tensor]:
        for attempt, number in enumerate(self._order(noise, first)):
            piece = self.pieces[number]
            window = self.window.draw(piece.span, noise.fold(f"again/{attempt}") if attempt else noise)
            assert window is not None, f"{self.window} refuses a span that is as long as it needs"
            try:
                return number, *self._read(piece, window)
            except (ValueError, OSError) as error:
                self._skip(piece, str(error))
        raise ValueError(f"No footage can be read any more. {self._report()}")

    def _order(self, noise: Noise, first: int) -> Iterator[int]:
        """A piece, and, where that is no use, all others in random order."""
        yield first
        for number in noise.uniform("order", len(self), dtype=torch.float64)[0].argsort().tolist():
            if number != first:
                yield number

    def _read(self, piece: Piece, window: Window) -> tuple[Window, Tensor]:
        if self.cache is not None:
            return self._cached(self.cache, piece, window)
        with self._opened(piece) as footage:
            seen = window.on(footage.times, slack=footage.slack) if self.snap else window
            return seen, footage.at(window.times, size=self.size)

    def _cached(self, cache: TensorCache, piece: Piece, window: Window) -> tuple[Window, Tensor]:
        file = f"{_VERSION} {_rate_of_pictures(piece)} {file_identity(piece.path)}"
        slack, presented = self._index(cache, piece, file)
        seen = window.on(presented, slack=slack) if self.snap else window
        rows: dict[int, list[int]] = {}
        for number in frames_shown(presented, window.times, slack=slack).tolist():
            rows.setdefault(number // _BLOCK, []).append(number % _BLOCK)

        def make(block: int) -> Tensor:
            with self._opened(piece) as footage:
                return footage.at(footage.times[block * _BLOCK : (block + 1) * _BLOCK], size=self.size)

        try:
            return seen, torch.cat(
                [
                    _rows(cache.get(cache_key(file=file, size=self.size, block=block), partial(make, block)), wanted)
                    for block, wanted in rows.items()
                ]
            )
        except BrokenFootage:
            # The frames that are damaged may not be among those of the window.
            with self._opened(piece) as footage:
                return seen, footage.at(window.times, size=self.size)

    def _index(self, cache: TensorCache, piece: Piece, file: str) -> tuple[float, Tensor]:
        """How early a frame counts as shown, and when each is presented; of the last files also kept in memory."""
        known = self._indices.get(file)
        if known is not None:
            return known

        def make() -> Tensor:
            with self._opened(piece) as footage:
                return torch.cat((torch.tensor([footage.slack], dtype=torch.float64), footage.times))

        found = cache.get(cache_key(index=file), make)
        known = float(found[0]), found[1:]
        with self._lock:
            self._indices[file] = known
            if len(self._indices) > _INDICES:
                del self._indices[next(iter(self._indices))]
        return known

    def _opened(self, piece: Piece) -> AbstractContextManager[Footage]:
        return self._files.opened(piece.path, _rate_of_pictures(piece))

    def _skip(self, piece: Piece, reason: str) -> None:
        self._skipped.setdefault(piece.path, reason)

    def _report(self) -> str:
        return Catalogue((), self.skipped).report()


def _file(path: Path) -> str:
    """Which file it is now: one that was replaced is another, though open handles still read the old one."""
    try:
        return f"{path} {file_identity(path)}"
    except OSError:
        return str(path)


def _rows(block: Tensor, wanted: list[int]) -> Tensor:
    first, last = wanted[0], wanted[-1]
    return block[first : last + 1] if last - first + 1 == len(wanted) else block[wanted]


def _rate_of_pictures(piece: Piece) -> float | None:
    return piece.info.fps if piece.info.container == "pictures" else None


def _pieces(
    source: str | Path | Catalogue | Sequence[str | Path] | Sequence[Piece],
) -> tuple[list[Piece], tuple[Skipped, ...]]:
    if isinstance(source, str | Path):
        root = Path(source) if Path(source).is_dir() else None
        found = catalogue(source)
        whole = root is not None and all(path.is_relative_to(root) for path, _ in found.entries)
        return pieces_of(found, root=root if whole else None), found.skipped
    if isinstance(source, Catalogue):
        return pieces_of(source), source.skipped
    given = [one for one in source if isinstance(one, Piece)]
    if len(given) == len(source):
        return given, ()
    found = catalogue([one for one in source if not isinstance(one, Piece)])
    return pieces_of(found), found.skipped
