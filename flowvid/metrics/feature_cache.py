"""Features on the disk, found by content: the same frames and the same network never run twice.

A file's name is the sha256 of the frames' bytes, their type and shape, and of the network's identity. It starts with a
checksum of the name and of the rest, which every read verifies: a damaged or misplaced file is reported, ignored and
written anew. Files appear complete or not at all, and writers of the same key write the same content, so any number of
processes may share a folder.
"""

__all__ = ["FeatureCache"]

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from flowvid.data.files import write_atomically

_DIGEST = 32


@dataclass(frozen=True)
class FeatureCache:
    """Features by the content of a clip.

    Arguments:
        folder: Where the files lie; made when first written to.
    """

    folder: Path

    @staticmethod
    def key(identity: str, clip: Float[Tensor, "time channel height width"]) -> str:
        """What a clip's features are filed under.

        Arguments:
            identity: Of the network, see `FeatureNetwork.identity`.
            clip: The frames.
        """
        described = hashlib.sha256(f"{identity} {clip.dtype} {tuple(clip.shape)} ".encode())
        described.update(clip.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return described.hexdigest()

    def read(self, key: str) -> Float32[Tensor, "vector feature"] | None:
        """The features filed under a key, or None.

        Warns:
            UserWarning: The file is damaged, and was ignored.
        """
        try:
            content = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        if _checksum(key, content[_DIGEST:]) != content[:_DIGEST]:
            warnings.warn(
                f"The cached features {self._path(key).name} are damaged; they are computed again.", stacklevel=2
            )
            return None
        return torch.from_numpy(np.load(io.BytesIO(content[_DIGEST:]), allow_pickle=False))

    def write(self, key: str, features: Float32[Tensor, "vector feature"]) -> None:
        """File features under a key."""
        buffer = io.BytesIO()
        np.save(buffer, features.detach().cpu().numpy(), allow_pickle=False)
        content = _checksum(key, buffer.getvalue()) + buffer.getvalue()

        def write(place: Path) -> None:
            place.write_bytes(content)

        write_atomically(self._path(key), write)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.features"


def _checksum(key: str, content: bytes) -> bytes:
    return hashlib.sha256(key.encode() + content).digest()
