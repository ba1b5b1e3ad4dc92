"""Protocols of published tables: the Moving MNIST test file, and OpenSTL's 10 -> 10 prediction.

OpenSTL trains on sequences that `LegacyMovingMnist` draws on the fly from MNIST's 60 000 training digits, 10 000 a
pass, and tests on the 10 000 fixed ones of mnist_test_seq.npy: 10 frames are given, the next 10 are asked for. Pixels
lie in [0, 1] there. Here frames lie in [-1, 1] like all of flowvid's, and the metrics of `flowvid.metrics.distortion`
rescale them. `OPENSTL_SCORES` says which of those agree with OpenSTL's definitions, averaged over frames and clips.
Two caveats: OpenSTL takes squared and absolute errors before it clips predictions to [0, 1], and PSNR after; and its
SSIM (scikit-image's defaults: uniform 7 x 7 windows and a range that depends on the version) is not the Gaussian one of
`flowvid.metrics.distortion.ssim`, so it is not in the table.

The file was made by Srivastava et al.; nobody published its seeds or its positions. Without it, the same number of
clips is drawn by the same law from MNIST's test digits with seeds 0, 1, ..., 9999: numbers on those compare with
published ones in distribution only, and `OpenStlMovingMnist.source` says which is in use.

References:
    OpenSTL: A Comprehensive Benchmark of Spatio-Temporal Predictive Learning (Tan et al., 2023), arXiv:2306.11249
    Unsupervised Learning of Video Representations using LSTMs (Srivastava et al., 2015), arXiv:1502.04681
"""

__all__ = [
    "OPENSTL_SCORES",
    "TEST_ADDRESS",
    "TEST_CLIPS",
    "TEST_FILE",
    "TEST_MD5",
    "MovingMnistFile",
    "OpenStlMovingMnist",
    "Prediction",
]

import hashlib
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from flowvid.data.worlds.digits import Glyphs
from flowvid.data.worlds.mnist import load_mnist, mnist_folder
from flowvid.data.worlds.moving_mnist import LegacyMovingMnist, as_video
from flowvid.video import Video

TEST_FILE = "mnist_test_seq.npy"
TEST_ADDRESS = f"http://www.cs.toronto.edu/~nitish/unsupervised_video/{TEST_FILE}"
TEST_MD5 = "be083ec986bfe91a449d63653c411eb2"
TEST_CLIPS = 10_000

OPENSTL_SCORES = {"MSE": "summed_squared_error", "MAE": "summed_absolute_error", "PSNR": "psnr"}

_SHAPE = (20, TEST_CLIPS, 64, 64)
_SOURCE = f"Fetch it from {TEST_ADDRESS} (819 MB, md5 {TEST_MD5})"


@dataclass(frozen=True, slots=True)
class MovingMnistFile:
    """The test clips of Srivastava et al., read from the disk when they are asked for.

    Arguments:
        path: The file, bytes of shape (20 frames, 10 000 clips, 64, 64).

    Raises:
        FileNotFoundError: There is no such file; says where to get it.
        ValueError: The file is cut off, or holds something else.
    """

    path: Path

    def __post_init__(self) -> None:
        self._open()

    def __len__(self) -> int:
        return TEST_CLIPS

    def clips(self, indices: Iterable[int]) -> UInt8[Tensor, "batch 20 64 64"]:
        """Ink 0..255 of some clips, in the order asked for.

        Raises:
            ValueError: There are no indices, or one is not in 0..9999.
        """
        chosen = _checked_indices(indices)
        return torch.from_numpy(np.ascontiguousarray(self._open()[:, chosen].swapaxes(0, 1)))

    def verify(self) -> None:
        """Read the whole file and compare its md5 with the published one's.

        Raises:
            ValueError: It differs.
        """
        with self.path.open("rb") as handle:
            found = hashlib.file_digest(handle, "md5").hexdigest()
        if found != TEST_MD5:
            raise ValueError(f"{self.path} has md5 {found}, expected {TEST_MD5}. {_SOURCE} again.")

    def _open(self) -> np.ndarray:
        if not self.path.is_file():
            raise FileNotFoundError(f"There is no {self.path}. {_SOURCE}.")
        try:
            clips = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{self.path} is damaged or not a .npy file: {error}. {_SOURCE} again.") from error
        if clips.shape != _SHAPE or clips.dtype != np.uint8:
            raise ValueError(
                f"{self.path} should hold uint8 of shape {_SHAPE}; it holds {clips.dtype} of shape {clips.shape}. "
                f"{_SOURCE}."
            )
        return clips


@dataclass(frozen=True, eq=False)
class Prediction:
    """A prediction task.

    Arguments:
        known: The frames given.
        target: The frames asked for, at the times that follow.
    """

    known: Video
    target: Video


@dataclass(frozen=True, eq=False)
class OpenStlMovingMnist:
    """OpenSTL's Moving MNIST: 10 frames given, 10 asked for.

    Arguments:
        train_glyphs: MNIST's training digits.
        test: The published clips, or MNIST's test digits to draw clips from.
    """

    train_glyphs: Glyphs
    test: MovingMnistFile | Glyphs

    @staticmethod
    def load(folder: Path | None = None) -> "OpenStlMovingMnist":
        """The protocol on the files of a folder: MNIST's four and, where it is there, mnist_test_seq.npy.

        Arguments:
            folder: Where the files are; None for ``mnist`` in the folder that FLOWVID_DATA names.

        Raises:
            FileNotFoundError: A file of MNIST is missing, or no folder is named.
            ValueError: A file is damaged.
        """
        folder = mnist_folder(folder)
        train, path = load_mnist(folder, "train"), folder / TEST_FILE
        return OpenStlMovingMnist(train, MovingMnistFile(path) if path.exists() else load_mnist(folder, "test"))

    @property
    def source(self) -> str:
        """Where the test clips come from, for a table's caption."""
        if isinstance(self.test, MovingMnistFile):
            return f"{TEST_FILE} of Srivastava et al."
        return f"generated by the legacy law from test digits, seeds 0 to {TEST_CLIPS - 1}; not the published file"

    def training(self, seeds: Iterable[int]) -> Prediction:
        """Training clips drawn from seeds, any 64-bit integers; a new pass takes new ones.

        Raises:
            ValueError: There are no seeds.
        """
        return _split(LegacyMovingMnist().sample(seeds, "train", glyphs=self.train_glyphs).pixels)

    def testing(self, indices: Iterable[int]) -> Prediction:
        """Some of the 10 000 test clips, in the order asked for.

        Raises:
            ValueError: There are no indices, or one is not in 0..9999.
        """
        chosen = _checked_indices(indices)
        if isinstance(self.test, MovingMnistFile):
            return _split(self.test.clips(chosen))
        return _split(LegacyMovingMnist().sample(chosen, "test", glyphs=self.test).pixels)


def _checked_indices(indices: Iterable[int]) -> list[int]:
    chosen = [operator.index(index) for index in indices]
    if not chosen or not all(0 <= index < TEST_CLIPS for index in chosen):
        wrong = [index for index in chosen if not 0 <= index < TEST_CLIPS]
        raise ValueError(f"The test clips are numbered 0 to {TEST_CLIPS - 1}; got {wrong or 'no index'}.")
    return chosen


def _split(pixels: UInt8[Tensor, "batch 20 64 64"]) -> Prediction:
    video = as_video(pixels)
    return Prediction(
        Video(video.frames[:, :10], video.times[:10]),
        Video(video.frames[:, 10:], video.times[10:]),
    )
