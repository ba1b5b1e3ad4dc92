"""MNIST's handwritten digits, read from the four published idx files and checked against their checksums.

Nothing is downloaded. The files (train-images-idx3-ubyte and so on, plain or .gz) come from `ADDRESS`, or from
`MIRROR` when the first refuses, as it often does, and lie in a folder the user names, or in ``mnist`` under the folder
that the variable FLOWVID_DATA names. 60 000 digits are for training and 10 000, by other writers, for testing; each
is 28 x 28 with the centre of mass of its ink in the middle.

An idx file is 0, 0, a type (8 for bytes), the number of axes, their lengths as big-endian 32-bit integers, and the
values, last axis fastest. A .gz of the same content depends on the program that packed it, so what is checked is the
content: its sha256, of which `CHECKSUMS` also has the md5, beside the md5 of the .gz files as they were published.

References:
    Gradient-Based Learning Applied to Document Recognition (LeCun et al., 1998), https://doi.org/10.1109/5.726791
"""

__all__ = [
    "ADDRESS",
    "CHECKSUMS",
    "MIRROR",
    "Checksums",
    "load_mnist",
    "mnist_folder",
    "mnist_like_glyphs",
    "read_idx",
    "resized",
]

import functools
import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from flowvid.data.worlds.digits import Glyphs, load_glyphs

ADDRESS = "http://yann.lecun.com/exdb/mnist/"
MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"

_PREFIXES = {"train": "train", "test": "t10k"}
_BYTES = 8
_SIDE, _FRAMED = 28, 24


@dataclass(frozen=True, slots=True)
class Checksums:
    """Checksums of a file, in hexadecimal.

    Arguments:
        sha256: Of the content.
        md5: Of the content.
        packed_md5: Of the .gz file as it was published.
    """

    sha256: str
    md5: str
    packed_md5: str


CHECKSUMS = {
    "train-images-idx3-ubyte": Checksums(
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "6bbc9ace898e44ae57da46a324031adb",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    ),
    "train-labels-idx1-ubyte": Checksums(
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "a25bea736e30d166cdddb491f175f624",
        "d53e105ee54ea40749a09fcbcd1e9432",
    ),
    "t10k-images-idx3-ubyte": Checksums(
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "2646ac647ad5339dbf082846283269ea",
        "9fb629c4189551a2d022fa330f9573f3",
    ),
    "t10k-labels-idx1-ubyte": Checksums(
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        "27ae3e4e09519cfbb04c329615203637",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
}


def load_mnist(folder: Path | None, split: str) -> Glyphs:
    """The digits of a split, in the order of the files: 60 000 for "train", 10 000 for "test".

    Arguments:
        folder: Where the files are; None for ``mnist`` in the folder that FLOWVID_DATA names.
        split: "train" or "test".

    Returns:
        Images of 28 x 28 pixels with ink k / 255, and their labels.

    Raises:
        FileNotFoundError: A file is missing, or no folder is named; says where to get the files.
        ValueError: The split is unknown, or a file is damaged; says what was expected and found.
    """
    if split not in _PREFIXES:
        raise ValueError(f"The splits of MNIST are {', '.join(_PREFIXES)}; got {split!r}.")
    folder, prefix = mnist_folder(folder), _PREFIXES[split]
    images = _read_checked(folder, f"{prefix}-images-idx3-ubyte")
    labels = _read_checked(folder, f"{prefix}-labels-idx1-ubyte")
    return Glyphs(images.to(torch.float32).div_(255), labels.to(torch.int64))


def mnist_folder(folder: Path | None) -> Path:
    """The folder given, or ``mnist`` in the folder that the variable FLOWVID_DATA names.

    Raises:
        FileNotFoundError: None is given and the variable is not set.
    """
    if folder is not None:
        return folder
    root = os.environ.get("FLOWVID_DATA")
    if not root:
        raise FileNotFoundError(
            "No folder of MNIST is named: pass one, or set FLOWVID_DATA to the folder that holds mnist/. Its files "
            f"are published at {ADDRESS} and {MIRROR}."
        )
    return Path(root) / "mnist"


@functools.cache
def mnist_like_glyphs(split: str) -> Glyphs:
    """scikit-learn's digits of a split as large as MNIST's: 28 x 28 pixels, ink k / 255, strokes of about 20 x 20.

    The 8 x 8 pixels are framed by zeros and enlarged bilinearly by 2.4, so that strokes end softly on every side.

    Raises:
        ValueError: The split is unknown.
    """
    digits = load_glyphs(split)
    framed = torch.nn.functional.pad(digits.images, (1,) * 4)
    return Glyphs(torch.nn.functional.pad(resized(framed, _FRAMED), ((_SIDE - _FRAMED) // 2,) * 4), digits.labels)


def resized(images: Float32[Tensor, "n row column"], side: int) -> Float32[Tensor, "n {side} {side}"]:
    """Images of ink in [0, 1] enlarged bilinearly to a square, with ink rounded to k / 255 as image files have it."""
    large = torch.nn.functional.interpolate(images[:, None], size=(side, side), mode="bilinear", align_corners=False)
    return large[:, 0].mul(255).round_().div_(255)


def read_idx(path: Path) -> UInt8[Tensor, "..."]:
    """The array of bytes in an idx file; one whose name ends in .gz is unpacked.

    Raises:
        ValueError: The file is not of this kind, cannot be unpacked, or holds more or fewer values than it says.
    """
    return _parse(_content(path), path)


def _read_checked(folder: Path, name: str) -> UInt8[Tensor, "..."]:
    path = next((place for place in (folder / name, folder / f"{name}.gz") if place.is_file()), None)
    source = f"Fetch {name}.gz from {ADDRESS} or {MIRROR} (md5 {CHECKSUMS[name].packed_md5} as published)"
    if path is None:
        raise FileNotFoundError(f"Neither {name} nor {name}.gz is in {folder}. {source} into that folder.")
    try:
        content = _content(path)
    except ValueError as error:
        raise ValueError(f"{error} Its content should have sha256 {CHECKSUMS[name].sha256}. {source} again.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != CHECKSUMS[name].sha256:
        raise ValueError(
            f"{path} is not MNIST's file or is damaged: its content has sha256 {found}, expected "
            f"{CHECKSUMS[name].sha256}. {source} again."
        )
    return _parse(content, path)


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path, "rb") as file:
            return file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"Cannot unpack {path}: {error}.") from error


def _parse(content: bytes, path: Path) -> UInt8[Tensor, "..."]:
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _BYTES or content[3] == 0:
        raise ValueError(
            f"{path} is not an idx file of bytes, which starts with 0, 0, {_BYTES} and the number of axes; it starts "
            f"with {', '.join(str(byte) for byte in content[:4])}."
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path} ends within the lengths of its {content[3]} axes.")
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4"))
    if len(content) - start != prod(shape):
        raise ValueError(f"{path} should hold {prod(shape)} values of shape {shape}; it holds {len(content) - start}.")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())
