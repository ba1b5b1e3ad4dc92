"""Footage into shards: as files, or decoded to one size.

Shards are filled in the order of the footage, each up to a number of bytes, and appear complete or not at all, first
the tar file, then its description. Writing that was interrupted goes on after the last complete shard: what the
descriptions list must be where this footage starts. Equal footage makes equal shards, byte for byte.
"""

__all__ = ["write_clip_shards", "write_shards"]

import hashlib
import io
import json
import math
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from flowvid.data.files import write_atomically, write_json
from flowvid.data.footage.reader import BrokenFootage, Footage, find_footage
from flowvid.data.footage.shards import Shard

_Source = str | Path | Sequence[str | Path]


class _Packed(NamedTuple):
    """A sample's footage as it lies in a shard: ending, bytes, facts."""

    suffix: str
    content: bytes
    about: dict[str, Any]


def write_shards(source: _Source, folder: Path, max_bytes: int = 1 << 30) -> list[Shard]:
    """Put files of footage, as they are, into shards.

    Arguments:
        source: What `flowvid.data.footage.reader.find_footage` takes; folders of pictures are refused, see
            `write_clip_shards`.
        folder: Where the shards lie. Those that are there already are kept, if they hold what they would hold.
        max_bytes: Largest size of a shard; only a file that is larger itself makes a larger one.

    Raises:
        ValueError: Nothing is found, nothing can be read, or the folder holds shards of other footage.
    """

    def pack(path: Path) -> _Packed:
        if path.is_dir():
            raise BrokenFootage("a folder of pictures is no file; write_clip_shards takes it")
        with Footage(path) as footage:
            footage.at([0.0, footage.info.duration], size=(1, 1))
            about = asdict(footage.info)
        return _Packed(path.suffix[1:].lower(), path.read_bytes(), about)

    return _write(_named(source), folder, {"kind": "files", "max_bytes": max_bytes}, pack)


def write_clip_shards(
    source: _Source,
    folder: Path,
    max_bytes: int = 1 << 30,
    *,
    size: tuple[int, int],
    fps: float | None = None,
) -> list[Shard]:
    """Put decoded footage, uint8 at one size, into shards.

    Arguments:
        source: What `flowvid.data.footage.reader.find_footage` takes.
        folder: Where the shards lie. Those that are there already are kept, if they hold what they would hold.
        max_bytes: Largest size of a shard; only a piece of footage that is larger itself makes a larger one.
        size: Height and width of the frames, which are scaled to cover it and cut at the middle.
        fps: Frames per second to keep; default: all.

    Raises:
        ValueError: Nothing is found, nothing can be read, the rate is not positive, or the folder holds shards of other
            footage.
    """
    if fps is not None and not 0 < fps < float("inf"):
        raise ValueError(f"Frames are kept at a positive rate; got fps={fps}.")

    def pack(path: Path) -> _Packed:
        with Footage(path) as footage:
            times = footage.times
            if fps is not None:
                times = torch.arange(math.floor(footage.info.duration * fps + 1e-9) or 1, dtype=torch.float64) / fps
            frames = footage.at(times, size=size)
        buffer = io.BytesIO()
        np.save(buffer, frames.contiguous().numpy(), allow_pickle=False)
        return _Packed("npy", buffer.getvalue(), {"times": times.tolist()})

    return _write(
        _named(source), folder, {"kind": "frames", "max_bytes": max_bytes, "size": list(size), "fps": fps}, pack
    )


@dataclass
class _Filling:
    """What has been put into a shard so far."""

    keys: list[str] = field(default_factory=list)
    sources: list[tuple[str, int, int]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


class _Packing:
    """Footage, packed as it is asked for, one piece at a time in memory."""

    def __init__(self, named: Sequence[tuple[str, Path]], first: int, pack: Callable[[Path], _Packed]) -> None:
        self._named, self._next, self._pack = named, first, pack
        self._ready: _Packed | None = None

    @property
    def name(self) -> str:
        """Of the piece that comes next."""
        return self._named[self._next][0]

    def peek(self, filling: _Filling) -> _Packed | None:
        """The next piece that can be read, those before it noted as left out; None at the end."""
        while self._ready is None and self._next < len(self._named):
            name, path = self._named[self._next]
            try:
                self._ready = self._pack(path)
            except (BrokenFootage, OSError) as error:
                filling.sources.append((name, *_facts(path)))
                filling.skipped.append((name, str(error)))
                self._next += 1
        return self._ready

    def take(self, filling: _Filling) -> str:
        """Note the piece as put into the shard; its key."""
        name, path = self._named[self._next]
        key = f"{self._next:08d}"
        filling.sources.append((name, *_facts(path)))
        filling.keys.append(key)
        self._next += 1
        self._ready = None
        return key


def _write(
    named: Sequence[tuple[str, Path]], folder: Path, made: dict[str, Any], pack: Callable[[Path], _Packed]
) -> list[Shard]:
    most = int(made["max_bytes"])
    if most < 1:
        raise ValueError(f"A shard holds at least one byte; got max_bytes={most}.")
    shards = _complete(named, folder, made)
    packing = _Packing(named, sum(len(shard.sources) for shard in shards), pack)
    filling = _Filling()
    while packing.peek(filling) is not None:
        path = folder / f"shard-{len(shards):06d}.tar"
        current = filling
        write_atomically(path, lambda place, current=current: _fill(place, packing, current, most))
        described = {**asdict(current), "made": made}
        write_json(path.with_suffix(".json"), described)
        shards.append(Shard.read(path))
        filling = _Filling()
    if not shards:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in filling.skipped)
        raise ValueError(f"No footage can be read, and no shard was written.{reasons}")
    return shards


def _fill(place: Path, packing: _Packing, filling: _Filling, most: int) -> None:
    with tarfile.open(place, "w", format=tarfile.USTAR_FORMAT) as tar:
        while (packed := packing.peek(filling)) is not None:
            digest = hashlib.sha256(packed.content).hexdigest()
            about = json.dumps({"name": packing.name, "sha256": digest, **packed.about}).encode()
            used = tar.offset + sum(tarfile.BLOCKSIZE + _padded(len(part)) for part in (packed.content, about))
            if filling.keys and _padded(used + 2 * tarfile.BLOCKSIZE, tarfile.RECORDSIZE) > most:
                return
            key = packing.take(filling)
            for suffix, content in ((packed.suffix, packed.content), ("json", about)):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _padded(size: int, unit: int = tarfile.BLOCKSIZE) -> int:
    return math.ceil(size / unit) * unit


def _complete(named: Sequence[tuple[str, Path]], folder: Path, made: dict[str, Any]) -> list[Shard]:
    """The shards that are there, if they are the first of those to be written."""
    shards: list[Shard] = []
    while (path := folder / f"shard-{len(shards):06d}.tar").exists() and path.with_suffix(".json").exists():
        shards.append(Shard.read(path))
    listed = [source for shard in shards for source in shard.sources]
    expected = [(name, *_facts(path)) for name, path in named[: len(listed)]]
    if listed != expected or any(shard.made != made for shard in shards):
        raise ValueError(
            f"{folder} holds shards of other footage or of other settings, or the footage has changed. "
            "Write to another folder, or delete them."
        )
    return shards


def _named(source: _Source) -> list[tuple[str, Path]]:
    """Footage with its path within the source, where that is a folder."""
    root = Path(source) if isinstance(source, str | Path) and Path(source).is_dir() else None
    return [
        (path.relative_to(root).as_posix() if root and path != root else path.name, path)
        for path in find_footage(source)
    ]


def _facts(path: Path) -> tuple[int, int]:
    """Size and time of the last change, of a folder that of all its files; -1 where there is nothing."""
    try:
        files = [one.stat() for one in path.iterdir()] if path.is_dir() else [path.stat()]
    except OSError:
        return -1, -1
    return sum(one.st_size for one in files), max((one.st_mtime_ns for one in files), default=-1)
