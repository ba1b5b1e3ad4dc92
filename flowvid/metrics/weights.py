"""Weights of published networks: where they come from, and that a file is the one it should be.

Nothing is downloaded. Who wants a metric that needs a network fetches its file once, from the official source named in
the error, and passes the path.
"""

__all__ = ["Source", "file_digest", "load_arrays", "verified_digest"]

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Source:
    """Where a network's weights are published.

    Arguments:
        title: What it is.
        address: Where to get it.
        sha256: Checksum of the published file in hexadecimal; None where none is known.
    """

    title: str
    address: str
    sha256: str | None = None

    def __str__(self) -> str:
        checksum = f", sha256 {self.sha256}" if self.sha256 else ""
        return f"{self.title}, from {self.address}{checksum}"


def file_digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def verified_digest(path: Path, source: Source, *, sha256: str | None = None) -> str:
    """sha256 of a file of weights that is there and, if ``sha256`` is given, has that checksum.

    Raises:
        FileNotFoundError: There is no such file; says where to get it.
        ValueError: The checksum differs.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No weights at {path}. Get {source}, and pass the path of the file.")
    found = file_digest(path)
    if sha256 is not None and found != sha256.lower():
        raise ValueError(
            f"{path.name} has sha256 {found}, not the expected {sha256}. Fetch {source}; or pass sha256=None to use "
            "this file all the same."
        )
    return found


def load_arrays(path: Path) -> dict[str, Tensor]:
    """Arrays by name of an ``.npz`` file or a ``.pth`` state dictionary, as float32 on the host.

    Raises:
        ValueError: The ending is another one.
    """
    arrays: Mapping[str, np.ndarray | Tensor]
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    elif path.suffix in (".pth", ".pt"):
        arrays = torch.load(path, map_location="cpu", weights_only=True)
    else:
        raise ValueError(f"Weights are read from .npz or .pth files; got {path.name}.")
    return {name: torch.as_tensor(array).float() for name, array in arrays.items()}
