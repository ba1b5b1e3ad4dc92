"""Counter-based noise: one seed per sample, named streams, no generator state.

Every random number is a pure function ``hash(seed, stream, index)``: the SplitMix64 sequence started at a
position mixed from the sample's seed and the stream's name. So a sample never depends on its batch, on the order
in which streams are read, on the device, or on how often a run was interrupted; and a whole batch is one
vectorised expression rather than one generator per sample.

Normals come in pairs from the Box-Muller transform of the two halves of one 64-bit word. `Noise.normal_at` draws for
many numbered nodes of a stream at once, each node a sequence of its own: what a tree of random numbers is made of.

References:
    Fast Splittable Pseudorandom Number Generators (Steele et al., 2014), https://doi.org/10.1145/2660193.2660195
    Parallel Random Numbers: As Easy as 1, 2, 3 (Salmon et al., 2011), https://doi.org/10.1145/2063384.2063405
"""

__all__ = ["Noise"]

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int64
from torch import Tensor

_WORD = 1 << 64


def _signed(value: int) -> int:
    """The 64-bit two's complement reading of ``value``."""
    value %= _WORD
    return value - _WORD if value >= _WORD // 2 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MULTIPLIERS = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))


def _shift(words: Tensor, bits: int) -> Tensor:
    """Logical right shift (torch shifts int64 arithmetically)."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _mix(words: Tensor) -> Tensor:
    """SplitMix64's finaliser, a bijection of 64-bit words."""
    words = (words ^ _shift(words, 30)) * _MULTIPLIERS[0]
    words = (words ^ _shift(words, 27)) * _MULTIPLIERS[1]
    return words ^ _shift(words, 31)


def _mix_(words: Tensor) -> Tensor:
    """`_mix` in place."""
    shifted = torch.empty_like(words)
    for bits, multiplier in ((30, _MULTIPLIERS[0]), (27, _MULTIPLIERS[1]), (31, None)):
        torch.bitwise_right_shift(words, bits, out=shifted)
        words.bitwise_xor_(shifted.bitwise_and_((1 << (64 - bits)) - 1))
        if multiplier is not None:
            words.mul_(multiplier)
    return words


def _label(name: str | int) -> int:
    """A 64-bit label of a stream's name or of an integer."""
    digest = hashlib.blake2b(repr(name).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


@lru_cache(maxsize=32, typed=True)
def _stream_keys(seeds: tuple[int, ...], stream: str | int) -> Int64[Tensor, "batch"]:
    """Where the sequence of a stream starts, for each sample; kept, since a path asks for it at every step."""
    words = torch.tensor([_signed(seed) for seed in seeds], dtype=torch.int64)
    return _mix(_mix(words + _GAMMA) ^ _label(stream))


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"Noise is drawn as float32 or float64; got {dtype}. Draw float32 and convert the result.")


@dataclass(frozen=True)
class Noise:
    """One seed per sample; every draw names its stream.

    Arguments:
        seeds: One integer per sample, any 64-bit value.

    Raises:
        ValueError: There are no seeds, or one is not an integer.
    """

    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.seeds or not all(isinstance(seed, int) for seed in self.seeds):
            raise ValueError(f"Noise needs a non-empty tuple of integer seeds, one per sample; got {self.seeds!r}.")

    @staticmethod
    def of(seeds: Iterable[int]) -> "Noise":
        """Noise with the given seeds, one per sample."""
        return Noise(tuple(int(seed) for seed in seeds))

    @staticmethod
    def batch(seed: int, size: int) -> "Noise":
        """Noise for ``size`` samples numbered 0, 1, ... under one ``seed``; sample i does not depend on ``size``."""
        return Noise.of(range(size)).fold(seed)

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, index: slice | Sequence[int]) -> "Noise":
        """The noise of some of the samples."""
        return Noise(self.seeds[index] if isinstance(index, slice) else tuple(self.seeds[i] for i in index))

    def fold(self, name: str | int) -> "Noise":
        """Independent noise for the same samples, derived from a name or a number (a training step, say)."""
        return Noise(tuple(self._keys(name).tolist()))

    def uniform(
        self, stream: str, *shape: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "batch ..."]:
        """Uniform numbers in the open interval (0, 1), with shape (batch, *shape).

        Raises:
            ValueError: The type is neither float32 nor float64.
        """
        _check_dtype(dtype)
        words = self._words(stream, math.prod(shape), device)
        bits = 23 if dtype == torch.float32 else 52
        return ((_shift(words, 64 - bits).to(dtype) + 0.5) * 2.0**-bits).reshape(len(self), *shape)

    def normal(
        self, stream: str, *shape: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "batch ..."]:
        """Standard normal numbers with shape (batch, *shape).

        Raises:
            ValueError: The type is neither float32 nor float64.
        """
        _check_dtype(dtype)
        count = math.prod(shape)
        words = self._words(stream, (count + 1) // 2, device)
        radius = ((_shift(words, 32).to(torch.float64) + 0.5) * 2.0**-32).to(dtype).log_().mul_(-2).sqrt_()
        angle = ((words & 0xFFFFFFFF).to(dtype)).mul_(2 * math.pi * 2.0**-32)
        pairs = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)
        return pairs.flatten(1)[:, :count].reshape(len(self), *shape)

    def normal_at(
        self,
        stream: str,
        nodes: Sequence[int],
        *shape: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "batch node ..."]:
        """Standard normal numbers for numbered nodes of a stream, with shape (batch, node, *shape).

        What a node holds depends on the sample's seed, the stream, its number and the shape; not on which other nodes
        are asked for, nor in which order. The numbers differ from those that `normal` draws from the same stream. In
        memory nodes come first. float32 and float64 hold the same numbers up to rounding.

        Arguments:
            stream: Name of the stream.
            nodes: Numbers of the nodes, any 64-bit values.
            shape: Shape of what one node holds for one sample.
            device: Where to draw.
            dtype: float32 or float64.

        Raises:
            ValueError: The type is neither float32 nor float64.
        """
        _check_dtype(dtype)
        count = math.prod(shape)
        half = (count + 1) // 2
        numbers = torch.tensor([_signed(node) for node in nodes], dtype=torch.int64)
        keys = _mix_(_stream_keys(self.seeds, stream) + numbers[:, None] * _GAMMA).to(device, non_blocking=True)
        index = torch.arange(1, half + 1, dtype=torch.int64, device=device) * _GAMMA
        words = torch.empty(*keys.shape, half, dtype=torch.int64, device=device)
        integers = _mix_(torch.add(keys[..., None], index, out=words)).view(torch.int32)
        # |integer| + 1/2 keeps the resolution near zero, where the logarithm needs it; the result is never above one.
        radius = integers[..., :half].to(dtype).abs_().add_(0.5).mul_(1 / (2.0**31 + 1)).log_().mul_(-2).sqrt_()
        angle = integers[..., half:].to(dtype).mul_(math.pi * 2.0**-31)
        pairs = torch.empty(*keys.shape, 2 * half, dtype=dtype, device=device)
        torch.mul(radius, angle.cos(), out=pairs[..., :half])
        torch.mul(radius, angle.sin_(), out=pairs[..., half:])
        return pairs[..., :count].reshape(len(nodes), len(self), *shape).transpose(0, 1)

    def integers(
        self, stream: str, low: int, high: int, *shape: int, device: torch.device | str = "cpu"
    ) -> Int64[Tensor, "batch ..."]:
        """Integers from ``low`` to ``high`` - 1 with shape (batch, *shape).

        Raises:
            ValueError: The range is empty.
        """
        if not low < high:
            raise ValueError(f"Integers need low < high; got low={low}, high={high}.")
        uniform = self.uniform(stream, *shape, device=device, dtype=torch.float64)
        return low + (uniform * (high - low)).long()

    def _keys(self, stream: str | int) -> Int64[Tensor, "batch"]:
        return _stream_keys(self.seeds, stream)

    def _words(self, stream: str, count: int, device: torch.device | str) -> Int64[Tensor, "batch count"]:
        index = torch.arange(1, count + 1, dtype=torch.int64, device=device)
        return _mix(self._keys(stream).to(device)[:, None] + index * _GAMMA)
