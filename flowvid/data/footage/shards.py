"""Shards: footage in tar files, for what outgrows one disk, read from front to back by many processes.

The layout is that of webdataset: the files of a sample follow each other and share their name up to the first dot.
Here they are ``KEY.mp4`` (or another ending), the footage as it is, or ``KEY.npy``, decoded frames in uint8; and
``KEY.json``: name, times or facts of the footage, and the sha256 of the other file. Beside every ``shard-000000.tar``
lies ``shard-000000.json``, which lists what it holds and what could not be put there. They are made by
`flowvid.data.footage.shard_writer`.

Reading takes every world-th shard of a process's own, in order or in one that noise decides. Its place, shard and
sample, can be saved and returned to: samples before it are passed over, not decoded. A sample whose checksum differs,
of which a file is missing, or that lies behind damage is left out and listed: a tar file that is damaged ends there
without a word, but the list beside it tells what should have followed.

References:
    webdataset, https://github.com/webdataset/webdataset
"""

__all__ = ["Shard", "ShardReader", "ShardSample"]

import hashlib
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from flowvid.data.footage.reader import Footage, Skipped
from flowvid.noise import Noise


@dataclass(frozen=True)
class Shard:
    """A tar file and what it should hold.

    Arguments:
        path: The tar file.
        keys: Names of its samples, in order.
        sources: Where they came from: name, size and time of the last change of every file, those left out included.
        skipped: What could not be put there: name and reason.
        made: How they were made.
    """

    path: Path
    keys: tuple[str, ...]
    sources: tuple[tuple[str, int, int], ...]
    skipped: tuple[tuple[str, str], ...]
    made: dict[str, Any]

    @staticmethod
    def read(path: Path) -> "Shard":
        """The description beside a tar file.

        Raises:
            ValueError: There is none, or it is damaged.
        """
        try:
            content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            return Shard(
                path,
                tuple(content["keys"]),
                tuple((name, size, changed) for name, size, changed in content["sources"]),
                tuple((name, reason) for name, reason in content["skipped"]),
                dict(content["made"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path.name} has no readable description beside it ({error}); write it anew.") from error


@dataclass(frozen=True, eq=False)
class ShardSample:
    """One piece of footage from a shard.

    Arguments:
        key: Its name in the shard.
        suffix: "npy", or the ending of the footage's file.
        content: The file's bytes.
        about: What is written beside it.
    """

    key: str
    suffix: str
    content: bytes
    about: dict[str, Any]

    def frames(self) -> tuple[UInt8[Tensor, "time 3 height width"], Float64[Tensor, "time"]]:
        """Decoded frames and their times in seconds.

        Raises:
            ValueError: The sample is a file of footage; open it with `footage`.
        """
        if self.suffix != "npy":
            raise ValueError(f"Sample {self.key} is footage (.{self.suffix}), not frames; read it with footage().")
        frames = torch.from_numpy(np.load(io.BytesIO(self.content), allow_pickle=False))
        return frames, torch.tensor(self.about["times"], dtype=torch.float64)

    @contextmanager
    def footage(self) -> Iterator[Footage]:
        """The footage, open for reading, from a temporary file.

        Raises:
            BrokenFootage: It cannot be read.
            ValueError: The sample holds frames; take them with `frames`.
        """
        if self.suffix == "npy":
            raise ValueError(f"Sample {self.key} holds decoded frames; take them with frames().")
        with tempfile.NamedTemporaryFile(suffix=f".{self.suffix}") as handle:
            handle.write(self.content)
            handle.flush()
            with Footage(handle.name) as footage:
                yield footage


class ShardReader:
    """The samples of one process's shards, from a place that can be saved.

    Arguments:
        folder: Where the shards lie.
        rank: The process, from 0.
        world: How many there are.
        noise: That of one sample, which decides the order of the shards; default: by name.

    Raises:
        ImportError: webdataset is not installed.
        ValueError: There are no shards, or fewer than processes; there is no such process; or the noise is not that of
            one sample.
    """

    def __init__(self, folder: Path, *, rank: int = 0, world: int = 1, noise: Noise | None = None) -> None:
        _webdataset()
        if not 0 <= rank < world or (noise is not None and len(noise) != 1):
            raise ValueError(f"Expected 0 <= rank < world and noise of one sample; got rank={rank}, world={world}.")
        shards = [Shard.read(path) for path in sorted(folder.glob("shard-*.tar"))]
        if len(shards) < world:
            raise ValueError(
                f"{folder} holds {len(shards)} shards for {world} processes; write smaller ones (max_bytes)."
            )
        if noise is not None:
            order = noise.uniform("shards", len(shards), dtype=torch.float64)[0].argsort().tolist()
            shards = [shards[n] for n in order]
        self.shards = shards[rank::world]
        self._place = 0, 0
        self._skipped: dict[Path, str] = {}

    def __len__(self) -> int:
        """How many samples the shards should hold."""
        return sum(len(shard.keys) for shard in self.shards)

    def __iter__(self) -> Iterator[ShardSample]:
        """The samples from the present place on; a sample that has been handed out lies before it."""
        while self._place[0] < len(self.shards):
            number, done = self._place
            shard = self.shards[number]
            for place, key, found in self._samples(shard, done):
                self._place = number, place + 1
                if isinstance(found, str):
                    self._skipped[shard.path / key] = found
                else:
                    yield found
            self._place = number + 1, 0

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Samples that could not be read so far, as shard/key, with reasons."""
        return tuple(Skipped(path, reason) for path, reason in sorted(self._skipped.items()))

    def state_dict(self) -> dict[str, Any]:
        """Where reading stands."""
        return {
            "shards": [shard.path.name for shard in self.shards],
            "shard": self._place[0],
            "sample": self._place[1],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where reading stood; iterate anew from there.

        Raises:
            ValueError: The state is that of other shards, or of another order.
        """
        if state["shards"] != [shard.path.name for shard in self.shards]:
            raise ValueError("The saved place belongs to other shards, another order or another number of processes.")
        self._place = int(state["shard"]), int(state["sample"])

    def _samples(self, shard: Shard, done: int) -> Iterator[tuple[int, str, ShardSample | str]]:
        """What should follow in a shard after some samples: place, key, and the sample or why it cannot be read."""
        reading = _grouped(shard.path)
        expected = {key: place for place, key in enumerate(shard.keys)}
        following = done
        for raw in reading:
            place = expected.get(raw["__key__"], -1)
            if place < following:
                continue
            for missing in range(following, place):
                yield missing, shard.keys[missing], "it is not where it should be"
            yield place, shard.keys[place], _checked(raw)
            following = place + 1
        for missing in range(following, len(shard.keys)):
            yield missing, shard.keys[missing], "the shard is damaged before it"


def _checked(raw: dict[str, Any]) -> ShardSample | str:
    contents = {suffix: content for suffix, content in raw.items() if not suffix.startswith("__")}
    try:
        about = json.loads(contents.pop("json"))
        (suffix, content) = contents.popitem()
        if hashlib.sha256(content).hexdigest() != about["sha256"]:
            return "its content is damaged: the checksum differs"
    except (KeyError, ValueError, TypeError) as error:
        return f"a part of it is missing or damaged ({error!r})"
    return ShardSample(raw["__key__"], suffix, content, about)


def _grouped(path: Path) -> Iterator[dict[str, Any]]:
    """Samples of one tar file as webdataset groups them, up to where it is damaged."""
    iterators = _webdataset()
    with path.open("rb") as handle:
        members = iterators.tar_file_expander([{"url": str(path), "stream": handle}], handler=_stop)
        yield from iterators.group_by_keys(members, handler=_go_on)


def _stop(error: Exception) -> bool:
    return False


def _go_on(error: Exception) -> bool:
    return True


def _webdataset() -> Any:
    try:
        from webdataset import tariterators
    except ImportError as error:
        raise ImportError("Shards are read through webdataset: pip install 'flowvid[shards]'.") from error
    return tariterators
