"""MNIST: idx files are read as published, damage and absence are named, and scikit-learn's digits fit its layout."""

import gzip
import hashlib
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import flowvid.data.worlds.mnist as mnist
from flowvid.data.worlds.digits import SPLITS, centroid, load_glyphs
from flowvid.data.worlds.mnist import (
    CHECKSUMS,
    Checksums,
    load_mnist,
    mnist_folder,
    mnist_like_glyphs,
    read_idx,
    resized,
)

shapes = st.lists(st.integers(0, 5), min_size=1, max_size=4)


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


IMAGES = {"train": numbers(7, 28, 28), "t10k": numbers(3, 28, 28, seed=1)}
LABELS = {"train": np.arange(7), "t10k": np.array([9, 0, 255])}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of four small files in MNIST's format, with the checksums set to theirs; labels are plain."""
    for prefix in ("train", "t10k"):
        for kind, content in (("images-idx3", idx(IMAGES[prefix])), ("labels-idx1", idx(LABELS[prefix]))):
            name = f"{prefix}-{kind}-ubyte"
            packed = kind == "images-idx3"
            (tmp_path / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
            digest = hashlib.sha256(content).hexdigest()
            monkeypatch.setitem(CHECKSUMS, name, Checksums(digest, "", f"packed-{name}"))
    return tmp_path


@given(shapes, st.booleans(), st.integers(0, 1000))
def test_an_idx_file_gives_back_its_array(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], packed: bool, seed: int
) -> None:
    array = numbers(*shape, seed=seed)
    path = tmp_path_factory.mktemp("idx") / ("a-ubyte.gz" if packed else "a-ubyte")
    path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    found = read_idx(path)
    assert found.dtype == torch.uint8
    assert tuple(found.shape) == tuple(shape)
    assert (found.numpy() == array).all()


def test_lengths_are_big_endian_and_the_last_axis_is_fastest(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6]))
    assert read_idx(path).tolist() == [[1, 2, 3], [4, 5, 6]]
    path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 1, 0]) + bytes(range(256)))
    assert read_idx(path).tolist() == list(range(256))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an idx file of bytes.* starts with .$"),
        (b"\x89PNG\r\n", "not an idx file of bytes.*137, 80, 78, 71"),
        (b"\0\1\x08\1\0\0\0\0", "not an idx file"),
        (b"\0\0\x0d\1\0\0\0\1\0\0\0\0", "not an idx file of bytes.*0, 0, 13, 1"),
        (b"\0\0\x08\0", "not an idx file"),
        (b"\0\0\x08\2\0\0\0\1\0\0", "ends within the lengths of its 2 axes"),
        (b"\0\0\x08\1\0\0\0\3\1\2", r"should hold 3 values of shape \(3,\); it holds 2"),
        (b"\0\0\x08\1\0\0\0\1\1\2", r"should hold 1 values of shape \(1,\); it holds 2"),
        (b"\0\0\x08\2\xff\xff\xff\xff\xff\xff\xff\xff\1", "it holds 1"),
    ],
)
def test_what_is_not_idx_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(tmp_path / "a")


@pytest.mark.parametrize(
    "content", [b"not gzip", gzip.compress(idx(numbers(9, 9)))[:-12], gzip.compress(b"a", mtime=0)[:5]]
)
def test_what_cannot_be_unpacked_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"Cannot unpack .*a\.gz"):
        read_idx(tmp_path / "a.gz")


def test_a_flipped_byte_in_a_packed_file_is_refused(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(idx(numbers(9, 9))))
    content[40] ^= 255
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(ValueError, match="Cannot unpack"):
        read_idx(tmp_path / "a.gz")


@pytest.mark.parametrize(("split", "prefix"), [("train", "train"), ("test", "t10k")])
def test_a_split_is_read_from_its_files(folder: Path, split: str, prefix: str) -> None:
    glyphs = load_mnist(folder, split)
    assert glyphs.images.dtype == torch.float32
    assert (glyphs.images.numpy() == IMAGES[prefix] / np.float32(255)).all()
    assert glyphs.labels.tolist() == LABELS[prefix].tolist()


def test_the_folder_can_come_from_the_environment(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path_factory.mktemp("root")
    (root / "mnist").symlink_to(folder)
    monkeypatch.setenv("FLOWVID_DATA", str(root))
    assert torch.equal(load_mnist(None, "test").images, load_mnist(folder, "test").images)
    assert mnist_folder(None) == root / "mnist"
    assert mnist_folder(folder) == folder
    monkeypatch.delenv("FLOWVID_DATA")
    with pytest.raises(FileNotFoundError, match=f"set FLOWVID_DATA .*{mnist.ADDRESS} and {mnist.MIRROR}"):
        load_mnist(None, "test")


def test_an_unknown_split_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="train, test; got 'validation'"):
        load_mnist(folder, "validation")


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_a_missing_file_is_named_with_its_address(folder: Path, name: str) -> None:
    for path in folder.glob(f"{name}*"):
        path.unlink()
    expected = f"Neither {name} nor {name}.gz is in {folder}. Fetch {name}.gz from {mnist.ADDRESS} or {mnist.MIRROR}"
    with pytest.raises(FileNotFoundError, match=re.escape(expected) + f".*md5 packed-{name}"):
        load_mnist(folder, "train")


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_a_damaged_file_is_named_with_both_digests(folder: Path, name: str) -> None:
    for path in folder.glob(f"{name}*"):
        path.unlink()
    other = idx(numbers(2, 2))
    (folder / name).write_bytes(other)
    found, expected = hashlib.sha256(other).hexdigest(), CHECKSUMS[name].sha256
    with pytest.raises(ValueError, match=f"{name} .* sha256 {found}, expected {expected}.*{name}.gz from http.*again"):
        load_mnist(folder, "train")


def test_a_torn_download_is_named_with_what_was_expected(folder: Path) -> None:
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    expected = CHECKSUMS["t10k-images-idx3-ubyte"].sha256
    with pytest.raises(ValueError, match=f"Cannot unpack .*{path.name}.*sha256 {expected}.*{mnist.ADDRESS}.*again"):
        load_mnist(folder, "test")


def test_a_file_packed_otherwise_is_good(folder: Path) -> None:
    before = load_mnist(folder, "test")
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1))
    assert torch.equal(load_mnist(folder, "test").images, before.images)


def test_checksums_have_the_length_of_their_kind() -> None:
    assert len(CHECKSUMS) == 4
    for sums in CHECKSUMS.values():
        assert re.fullmatch("[0-9a-f]{64}", sums.sha256)
        assert re.fullmatch("[0-9a-f]{32}", sums.md5)
        assert re.fullmatch("[0-9a-f]{32}", sums.packed_md5)


@pytest.mark.parametrize(
    ("split", "prefix", "zeros", "first"),
    [("train", "train", 5923, [5, 0, 4, 1, 9]), ("test", "t10k", 980, [7, 2, 1, 0, 4])],
)
def test_the_real_digits_are_the_published_ones(
    data: Path, split: str, prefix: str, zeros: int, first: list[int]
) -> None:
    glyphs = load_mnist(data / "mnist", split)
    assert tuple(glyphs.images.shape) == ({"train": 60_000, "test": 10_000}[split], 28, 28)
    assert glyphs.labels[:5].tolist() == first
    assert int((glyphs.labels == 0).sum()) == zeros
    pixels = (glyphs.images * 255).round().to(torch.uint8).numpy()
    sums = CHECKSUMS[f"{prefix}-images-idx3-ubyte"]
    assert hashlib.md5(idx(pixels)).hexdigest() == sums.md5
    labels = CHECKSUMS[f"{prefix}-labels-idx1-ubyte"]
    assert hashlib.md5(idx(glyphs.labels.numpy())).hexdigest() == labels.md5
    assert (centroid(glyphs.images) - 14).abs().max() < 1.5


@pytest.mark.parametrize("split", SPLITS)
def test_embedded_digits_fit_the_layout(split: str) -> None:
    small, large = load_glyphs(split), mnist_like_glyphs(split)
    assert mnist_like_glyphs(split) is large
    assert large.images.shape[1:] == (28, 28)
    assert torch.equal(large.labels, small.labels)
    assert large.images.min() == 0
    assert large.images.max() <= 1
    assert torch.equal(large.images, (large.images * 255).round() / 255)
    inked = large.images.any(0)
    assert inked[2:26, 2:26].sum() == inked.sum()
    assert inked[3].any()
    ratio = large.images.sum((1, 2)) / small.images.sum((1, 2))
    assert (ratio - 2.4**2).abs().max() < 0.1
    assert (centroid(large.images) - (14 + 2.4 * (centroid(small.images) - 4))).abs().max() < 0.1


def test_resizing_agrees_with_pillow() -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = numbers(28, 28)
    expected = np.asarray(image.fromarray(pixels).resize((32, 32), image.Resampling.BILINEAR)).astype(float)
    found = resized(torch.from_numpy(pixels)[None].float() / 255, 32)[0].numpy() * 255
    assert np.abs(found - expected).max() <= 1 + 1e-4
    assert np.abs(found - found.round()).max() < 1e-4


def test_resizing_keeps_linear_functions() -> None:
    ramp = torch.linspace(0, 1, 11).expand(1, 11, 11)
    large = resized(ramp, 33)[0]
    inner = large[:, 3:-3]
    steps = inner.diff(dim=1)
    assert (steps - 1 / 30).abs().max() <= 1 / 255 + 1e-6
    assert math.isclose(large[0, 16].item(), 0.5, abs_tol=1 / 255)
    torch.testing.assert_close(resized(ramp.mT, 33)[0], large.T, atol=1.01 / 255, rtol=0)
