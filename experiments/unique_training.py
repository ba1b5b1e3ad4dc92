"""The same regressor trained on all frames of footage, and on its unique part.

Footage is a loop, shown many times, and then a flight that never comes back. A regressor predicts the frame after two
others. Three ways to draw its windows: from *all* frames; from the *unique* part in proportion to the weights, which is
the same law at a fraction of the frames; and from the unique part *evenly*, as if nothing came back. Errors are
measured on footage of the same motions half a frame later, under the footage's own law and under the even one.
"""

__all__ = ["WAYS", "Learning", "learn", "steps_to"]

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from experiments.repeated_worlds import Footing
from flowvid.data.footage.windows import FixedRate, Span, frames_shown
from flowvid.data.repetition.find import Repetition
from flowvid.data.repetition.unique_windows import UniqueWindows
from flowvid.noise import Noise

WAYS = ("all", "unique", "evenly")


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How the regressor is trained.

    Arguments:
        steps: Optimiser steps.
        batch: Windows in each.
        windows: How many are drawn, from which batches are picked.
        width: Hidden units.
        rate: Learning rate.
        every: Steps between measurements.
    """

    steps: int
    batch: int = 32
    windows: int = 4096
    width: int = 192
    rate: float = 2e-3
    every: int = 20


def learn(
    learning: Learning,
    footing: Footing,
    later: Footing,
    repetition: Repetition,
    *,
    fps: float,
    way: str,
    seed: int,
) -> dict[str, list[float]]:
    """Errors while training: ``own`` under the footage's law, ``even`` with all unique windows alike.

    Arguments:
        learning: How to train.
        footing: The footage.
        later: The same half a frame later, frame for frame.
        repetition: What repeats in it.
        fps: Its frames per second.
        way: One of `WAYS`.
        seed: Of weights and windows.
    """
    frames, unseen = (
        torch.nn.functional.avg_pool2d(one.pixels[:, :1].float() / 127.5 - 1, 2).flatten(1) for one in (footing, later)
    )
    law = FixedRate(fps, 3)
    tests = {
        name: _windows(UniqueWindows(repetition, law, weighted=name == "own"), footing, Noise.batch(999, 256))
        for name in ("own", "even")
    }
    noise = Noise.batch(seed, learning.windows)
    if way == "all":
        windows = _all(law, footing, noise, fps)
    else:
        windows = _windows(UniqueWindows(repetition, law, weighted=way == "unique"), footing, noise)
    network = _network(frames.shape[1], learning.width, seed)
    optimiser = torch.optim.Adam(network.parameters(), learning.rate)
    errors: dict[str, list[float]] = {name: [] for name in tests}
    picked = Noise.of([seed]).integers("batches", 0, len(windows), learning.steps, learning.batch)[0]
    for step, chosen in enumerate(windows[picked]):
        if step % learning.every == 0:
            _measure(network, unseen, tests, errors)
        loss = _error(network, frames[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    _measure(network, unseen, tests, errors)
    return errors


def _windows(windows: UniqueWindows, footing: Footing, noise: Noise) -> Int64[Tensor, "window 3"]:
    return torch.stack([frames_shown(footing.times, one.read) for one in windows.draw(noise)])


def _all(law: FixedRate, footing: Footing, noise: Noise, fps: float) -> Int64[Tensor, "window 3"]:
    span = Span(0.0, float(footing.times[-1]), fps)
    drawn = [law.draw(span, noise[n : n + 1]) for n in range(len(noise))]
    return torch.stack([frames_shown(footing.times, one.times) for one in drawn if one is not None])


def _network(pixels: int, width: int, seed: int) -> torch.nn.Module:
    """Two frames to what the next one adds, with one hidden layer; the seed draws the weights."""
    network = torch.nn.Sequential(torch.nn.Linear(2 * pixels, width), torch.nn.GELU(), torch.nn.Linear(width, pixels))
    noise = Noise.of([seed])
    with torch.no_grad():
        for name, value in network.named_parameters():
            draws = noise.normal(name, *value.shape)[0]
            value.copy_(draws * value.shape[-1] ** -0.5 if value.ndim > 1 else torch.zeros_like(value))
    return network


def _error(network: torch.nn.Module, windows: Float[Tensor, "window 3 pixel"]) -> Float32[Tensor, ""]:
    return (network(windows[:, :2].flatten(1)) + windows[:, 1] - windows[:, 2]).square().mean()


def _measure(
    network: torch.nn.Module, frames: Tensor, tests: dict[str, Tensor], errors: dict[str, list[float]]
) -> None:
    with torch.no_grad():
        for name, windows in tests.items():
            errors[name].append(float(_error(network, frames[windows])))


def steps_to(errors: list[float], target: float, every: int) -> float:
    """Steps until an error falls to a target, read off between measurements; infinite if it does not."""
    below = np.flatnonzero(np.asarray(errors) <= target)
    if not len(below):
        return float("inf")
    first = int(below[0])
    if first == 0:
        return 0.0
    above, under = np.log(errors[first - 1]), np.log(errors[first])
    return every * (first - 1 + float((above - np.log(target)) / (above - under)))
