"""Tensors on the disk, found by what they were made from: nothing is decoded, encoded or described twice.

An entry's name, its key, is the sha256 of everything that decides its content: the file it was read from, how it was
read, the checksum of a network's weights. `cache_key` makes one from any such parts, `file_identity` and `content_of`
say which file or which tensor. An entry starts with a checksum (CRC-32) of its key and its content, which every read
verifies: a damaged or misplaced one is reported, deleted and made anew.

Entries appear complete or not at all, and writers of one key write the same content, so any number of threads and
processes may share a folder. A folder may be bounded: then entries that nobody has read for the longest are removed.
A reader has an entry's bytes or finds none; it never meets part of one. Each process looks at the size of the folder
when it has written a 64th of the bound since it last looked, so the bound may be exceeded by that, and by one entry,
for every process that writes.

Types are kept: pixels stay uint8, and latents may be bfloat16.
"""

__all__ = ["TensorCache", "cache_key", "content_of", "file_identity"]

import contextlib
import hashlib
import json
import os
import threading
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from flowvid.data.files import write_atomically

_DIGEST = 4
_SUFFIX = ".tensor"
_LOOKS = 64
_ABANDONED = 3600.0


def cache_key(**parts: Any) -> str:
    """What an entry is filed under: parts in any order, each of them something that JSON can hold.

    Raises:
        TypeError: A part is not such a thing.
        ValueError: A number is not finite.
    """
    text = json.dumps(parts, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def content_of(tensor: Tensor) -> str:
    """A tensor's type, shape and a checksum of its values, whatever its device and its layout in memory."""
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(plain.flatten().view(torch.uint8).numpy().data).hexdigest()
    return f"{plain.dtype} {tuple(plain.shape)} {digest}"


def file_identity(path: Path, *, content: bool = False) -> str:
    """Which file it is: by name, size and time of its last change, or by its content.

    A file that is replaced, keeping size and time of change to the nanosecond, passes for the same unless content is
    read. A folder (of images) is all files in it.

    Arguments:
        path: The file or folder.
        content: Whether to read it: then equal files are one, wherever they lie, and reading costs its size.

    Raises:
        FileNotFoundError: There is none.
    """
    if path.is_dir():
        members = sorted(member for member in path.iterdir() if member.is_file())
        return cache_key(folder=[file_identity(member, content=content) for member in members])
    if content:
        with path.open("rb") as handle:
            return f"sha256:{hashlib.file_digest(handle, 'sha256').hexdigest()}"
    found = path.stat()
    return f"stat:{os.path.abspath(path)}:{found.st_size}:{found.st_mtime_ns}"


@dataclass(eq=False)
class TensorCache:
    """Tensors by key, in one folder.

    Arguments:
        folder: Where the entries lie; made when first written to.
        most_bytes: How much they may take; None leaves it open.

    Raises:
        ValueError: The bound is not positive.
    """

    folder: Path
    most_bytes: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _unseen: int | None = field(default=None, init=False, repr=False)
    _reported: set[str] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.most_bytes is not None and self.most_bytes < 1:
            raise ValueError(f"A bounded cache needs room for at least one byte; got most_bytes={self.most_bytes}.")

    def __reduce__(self) -> tuple[Any, ...]:
        return TensorCache, (self.folder, self.most_bytes)

    def read(self, key: str) -> Tensor | None:
        """The tensor filed under a key, or None.

        Warns:
            UserWarning: The entry is damaged, and was deleted.
        """
        path = self._path(key)
        try:
            with path.open("rb", buffering=0) as handle:
                checksum, content = handle.read(_DIGEST), handle.read()
        except FileNotFoundError:
            return None
        if _checksum(key, content) != checksum:
            self._remove(path)
            self._say_once(key, f"The cached entry {path.name} is damaged; it is deleted and made again.")
            return None
        if self.most_bytes is not None:
            with contextlib.suppress(OSError):
                os.utime(path)
        return load(content)["tensor"]

    def write(self, key: str, tensor: Tensor) -> None:
        """File a tensor under a key; one that is larger than the cache is not kept.

        Raises:
            OSError: It could not be written.
        """
        saved = save({"tensor": tensor.detach().cpu().contiguous()})
        size = _DIGEST + len(saved)
        if self.most_bytes is not None and size > self.most_bytes:
            self._say_once("size", f"An entry of {size} bytes is not kept: the cache holds {self.most_bytes}.")
            return

        def write(place: Path) -> None:
            with place.open("wb") as handle:
                handle.write(_checksum(key, saved))
                handle.write(saved)

        write_atomically(self._path(key), write)
        if self.most_bytes is not None:
            self._bound(size, self.most_bytes)

    def get(self, key: str, make: Callable[[], Tensor]) -> Tensor:
        """The tensor filed under a key; made and filed where there is none.

        Warns:
            UserWarning: It could not be written, which is said once and costs nothing but the time to make it again.
        """
        found = self.read(key)
        if found is not None:
            return found
        made = make()
        try:
            self.write(key, made)
        except OSError as error:
            self._say_once("write", f"The cache {self.folder} cannot be written ({error}); going on without it.")
        return made

    def size(self) -> int:
        """Bytes that the entries take."""
        return sum(size for _, size, _ in self._entries())

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _say_once(self, about: str, message: str) -> None:
        with self._lock:
            known = about in self._reported
            self._reported.add(about)
        if not known:
            warnings.warn(message, stacklevel=3)

    def _bound(self, written: int, most: int) -> None:
        with self._lock:
            self._unseen = most if self._unseen is None else self._unseen + written
            if self._unseen * _LOOKS < most:
                return
            self._unseen = 0
            entries = sorted(self._entries())
            total = sum(size for _, size, _ in entries)
            for _, size, path in entries:
                if total <= most:
                    break
                self._remove(path)
                total -= size

    def _entries(self) -> list[tuple[int, int, str]]:
        """Time of the last use, bytes and path of every entry; what writers left that were killed is removed."""
        found: list[tuple[int, int, str]] = []
        if not self.folder.is_dir():
            return found
        with os.scandir(self.folder) as listing:
            for entry in listing:
                if not entry.name.endswith(_SUFFIX):
                    continue
                try:
                    facts = entry.stat()
                except FileNotFoundError:
                    continue
                if not entry.name.startswith("."):
                    found.append((facts.st_mtime_ns, facts.st_size, entry.path))
                elif facts.st_mtime < time.time() - _ABANDONED:
                    self._remove(entry.path)
        return found

    @staticmethod
    def _remove(path: str | Path) -> None:
        # Another process may have removed it, and some systems keep a file that is open.
        with contextlib.suppress(OSError):
            os.unlink(path)


def _checksum(key: str, content: bytes) -> bytes:
    return zlib.crc32(content, zlib.crc32(key.encode())).to_bytes(_DIGEST, "big")
