"""Small convolutional autoencoders of chunks of frames of a swinging digit, at a fixed rate and at a fixed width.

A digit swings along a line at a known frequency. A chunk of p frames of 16 x 16 pixels becomes c channels on a grid of
4 x 4: c = p at the fixed rate of one channel per frame, c = 4 at the fixed width. Hidden layers are as wide as makes
all networks of nearly one size, and every step shows each of them the same frames. They are then asked what the linear
ones are: what is lost, at which frequency, at which place of the chunk, and whether tokens follow a shift by half a
chunk. Test clips hold whole periods, so that they repeat.
"""

__all__ = ["Autoencoder", "Learned", "fitting_width", "measure_learned", "swings"]

import math
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor, nn

from experiments.chunk_loss import exact
from experiments.chunk_shift import predicted_error, together
from experiments.claims import claim, interval
from flowvid.data.worlds.digits import centroid, load_glyphs, render
from flowvid.metrics.rhythm import line_strength
from flowvid.noise import Noise
from flowvid.train.loop import Optimisation, fit

_SIDE, _SWING, _FRAMES = 16, 3.0, 64
_WIDTH = 4
_BANDS = ((1, 3), (5, 7), (9, 11), (15, 17), (21, 23), (29, 31))
_SILENT = 0.1
_LINE = 3.0


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What is measured of learned tokenisers.

    Arguments:
        seeds: Of weights and batches.
        training: How each is trained; every batch holds clips of 8 frames.
        clips: Training clips.
        test_clips: Test clips, a multiple of 96.
        parameters: Of every network, within 5 %.
        chunks: Frames of a chunk, each twice the one before.
    """

    seeds: tuple[int, ...]
    training: Optimisation
    clips: int = 1024
    test_clips: int = 192
    parameters: int = 20_000
    chunks: tuple[int, ...] = (1, 2, 4, 8)


class Autoencoder(nn.Module):
    """Chunks to channels on a grid a quarter as wide, and back.

    Arguments:
        frames: p.
        channels: c.
        width: Channels of hidden layers.
    """

    def __init__(self, frames: int, channels: int, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(frames, width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, channels, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(width, frames, 4, stride=2, padding=1),
        )

    def forward(self, chunks: Float32[Tensor, "n frame 16 16"]) -> Float32[Tensor, "n frame 16 16"]:
        return self.decoder(self.encoder(chunks))


def fitting_width(frames: int, channels: int, parameters: int) -> int:
    """The width that brings an autoencoder nearest to a number of parameters."""

    def size(width: int) -> int:
        with torch.device("meta"):
            return sum(value.numel() for value in Autoencoder(frames, channels, width).parameters())

    return min(range(2, 2 + math.isqrt(parameters // 16)), key=lambda width: abs(size(width) - parameters))


def swings(
    split: str, frequencies: Float64[Tensor, "clip"], frames: int
) -> tuple[Float32[Tensor, "clip frame 16 16"], Float64[Tensor, "clip frame 2"]]:
    """Digits that swing about the middle, each along a line and from a phase of its own; and where they are.

    Arguments:
        split: Of the digits.
        frequencies: Periods per frame.
        frames: Frames of each clip.
    """
    glyphs = load_glyphs(split)
    noise = Noise.batch(0, len(frequencies)).fold(split)
    which = noise.integers("glyph", 0, len(glyphs))
    line, phase = (2 * math.pi * noise.uniform(name, dtype=torch.float64) for name in ("line", "phase"))
    turned = 2 * math.pi * frequencies[:, None] * torch.arange(frames, dtype=torch.float64) + phase[:, None]
    way = torch.stack((line.cos(), line.sin()), dim=1)
    places = _SIDE / 2 + _SWING * turned.sin()[:, :, None] * way[:, None]
    still = torch.zeros(len(frequencies), frames, dtype=torch.float64)
    return render(glyphs.images[which], places, still, canvas=_SIDE, scale=1), places


def measure_learned(run: Learned) -> dict[str, Any]:
    """All numbers and claims about learned tokenisers."""
    many = Noise.batch(1, run.clips).uniform("frequency", dtype=torch.float64) / 2
    clips, _ = swings("train", many, 16)
    waves = torch.tensor([wave for band in _BANDS for wave in band], dtype=torch.float64)
    tests = swings("test", waves.repeat(run.test_clips // len(waves)) / _FRAMES, _FRAMES)
    settings = {(budget, p): p if budget == "rate" else _WIDTH for budget in ("rate", "width") for p in run.chunks}
    found: dict[tuple[int, int], dict[str, list[Any]]] = {}
    sizes = []
    for p, channels in dict.fromkeys((p, channels) for (_, p), channels in settings.items()):
        rows = []
        for seed in run.seeds:
            network = _train(run, p, channels, seed, clips)
            sizes.append(sum(value.numel() for value in network.parameters()) / run.parameters)
            rows.append(_tried(network, p, *tests))
        found[p, channels] = {key: [row[key] for row in rows] for key in rows[0]}
    raw = {(budget, p): found[p, channels] for (budget, p), channels in settings.items()}
    numbers = {
        budget: {str(p): {key: _intervals(values) for key, values in raw[budget, p].items()} for p in run.chunks}
        for budget in ("rate", "width")
    }
    off = max(abs(size - 1) for size in sizes)
    claims = [claim("L0", "parameters of networks, largest relative difference", exact(off), most=0.05)]
    frequencies = [sum(band) / 2 / _FRAMES for band in _BANDS]
    return {"frequencies": frequencies, **numbers, "claims": [*claims, *_claims(run, raw, frequencies)]}


def _train(run: Learned, p: int, channels: int, seed: int, clips: Float32[Tensor, "clip frame 16 16"]) -> Autoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = Autoencoder(p, channels, fitting_width(p, channels, run.parameters))

    def loss(noise: Noise) -> Tensor:
        which, start = noise.integers("clip", 0, len(clips)), noise.integers("start", 0, clips.shape[1] - 7)
        chunks = clips[which[:, None], start[:, None] + torch.arange(8)].unflatten(1, (-1, p)).flatten(0, 1)
        return (network(chunks) - chunks).square().mean()

    fit(network, loss, replace(run.training, seed=seed))
    return network.eval()


@torch.no_grad()
def _tried(
    network: Autoencoder,
    p: int,
    frames: Float32[Tensor, "clip frame 16 16"],
    places: Float64[Tensor, "clip frame 2"],
) -> dict[str, Any]:
    """Everything that is asked of one network."""
    made = _each(network, frames, p).reshape(frames.shape)
    energy = (made - frames).square().mean(dim=(2, 3)).double() / frames.var()
    by_wave = energy.mean(dim=1).unflatten(0, (-1, len(_BANDS), 2)).mean(dim=(0, 2))
    ink = torch.where(made > _SILENT, made, 0.0)
    ink[..., _SIDE // 2, _SIDE // 2] += 1e-6
    off = (centroid(ink) - places).norm(dim=2).mean(dim=1).unflatten(0, (-1, len(_BANDS), 2)).mean(dim=(0, 2))
    return {
        "loss": float(energy.mean()),
        "by_frequency": by_wave.tolist(),
        "place": off.tolist(),
        "unexplained": _unexplained(network, p, frames) if p > 1 else 0.0,
        "lines": [line_strength(together(energy), period) for period in (2, 4, 8)],
        "profile": energy.unflatten(1, (-1, 8)).mean(dim=(0, 1)).tolist(),
    }


def _unexplained(network: Autoencoder, p: int, frames: Float32[Tensor, "clip frame 16 16"]) -> float:
    """Share of the variance of tokens after half a chunk that those before, at and after it do not explain."""
    tokens, moved = (
        _each(network.encoder, frames.roll(-by, dims=1), p).flatten(2).double().numpy() for by in (0, p // 2)
    )
    half = len(tokens) // 2
    centre = tokens[:half].mean(axis=(0, 1))
    spread = float(((moved[half:] - centre) ** 2).sum(axis=2).mean())
    return predicted_error(tokens - centre, moved - centre, neighbours=1, ridge=1e-3) / spread


def _each(part: nn.Module, frames: Float32[Tensor, "clip frame 16 16"], p: int) -> Float32[Tensor, "clip chunk c h w"]:
    return part(frames.unflatten(1, (-1, p)).flatten(0, 1)).unflatten(0, (len(frames), -1))


def _intervals(values: list[Any]) -> Any:
    if isinstance(values[0], float):
        return asdict(interval(values))
    return [asdict(interval(list(row))) for row in zip(*values, strict=True)]


def _claims(run: Learned, raw: dict[tuple[str, int], dict[str, Any]], frequencies: list[float]) -> list[dict[str, Any]]:
    def growth(budget: str, a: int, b: int) -> list[float]:
        return [after / before for before, after in zip(raw[budget, a]["loss"], raw[budget, b]["loss"], strict=True)]

    def contrast(p: int) -> list[float]:
        """Error above the Nyquist frequency of the tokens over that below a half of it."""
        above = [n for n, f in enumerate(frequencies) if 2 * p * f > 1]
        below = [n for n, f in enumerate(frequencies) if 2 * p * f <= 0.5]
        rows = np.array(raw["width", p]["by_frequency"])
        return (rows[:, above].mean(axis=1) / rows[:, below].mean(axis=1)).tolist()

    def lines(p: int, period: int) -> list[float]:
        return [found[(2, 4, 8).index(period)] for found in raw["width", p]["lines"]]

    long = [p for p in run.chunks if p > 2]
    claims = [
        claim("L1", f"fixed rate: e({b}) / e({a})", growth("rate", a, b), most=1.0, strict=False)
        for a, b in pairwise(run.chunks)
    ]
    claims += [
        claim("L1", f"fixed width: e({b}) / e({a})", growth("width", a, b), least=1.0) for a, b in pairwise(run.chunks)
    ]
    claims += [
        claim("L2", f"chunks of {p}, fixed width: line at 1 / {p} of the error", lines(p, p), least=_LINE) for p in long
    ]
    claims += [
        claim("L2", f"single frames, fixed width: line at 1 / {p} of the error", lines(1, p), most=_LINE) for p in long
    ]
    claims += [
        claim(
            "L3",
            f"chunks of {p}, fixed width: share of tokens after half a chunk not explained",
            raw["width", p]["unexplained"],
            least=0.01,
        )
        for p in run.chunks[1:]
    ]
    says = "fixed width: error above the tokens' Nyquist frequency over that below half of it"
    return claims + [claim("L4", f"chunks of {p}, {says}", contrast(p), least=1.5) for p in long]
