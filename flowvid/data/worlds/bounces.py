"""Digits between walls, frame by frame: the laws of motion of the three published Moving MNIST generators.

The corner of a glyph moves in a square room; velocities are per frame, x points right and y down.

* `legacy_path`: after each step the position is clamped to the room, [0, 1] here, and the velocity reversed. What a
  step overshoots a wall by is thrown away, so the motion cannot be run backwards, and it depends on the step's length.
* `svg_path`: positions are whole pixels, clamped at walls. There both components of the velocity are drawn anew, the
  one towards the wall from 1..speed inwards, the other from -speed..speed. Left and right walls come after top and
  bottom and override them in a corner.
* `srvp_path`: a step is cut at the point of collision, and its rest is flown with the velocity after it: the mirrored
  one, which makes the motion that of a triangle wave at whole frames; or a random one from -speed..speed for both
  components, with the one towards the wall turned inwards, where 0 stays possible.

References:
    Unsupervised Learning of Video Representations using LSTMs (Srivastava et al., 2015), arXiv:1502.04681
    Stochastic Video Generation with a Learned Prior (Denton and Fergus, 2018), arXiv:1802.07687
    Stochastic Latent Residual Video Prediction (Franceschi et al., 2020), arXiv:2002.09219
"""

__all__ = ["Path", "Points", "legacy_path", "srvp_path", "svg_path"]

import itertools
import math

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from flowvid.noise import Noise

Points = Float64[Tensor, "batch digit 2"]
Path = tuple[Float64[Tensor, "batch time digit 2"], Float64[Tensor, "batch time digit 2"]]
Record = list[tuple[Tensor, Tensor]]

_TOUCH = 1e-8


def legacy_path(start: Points, velocity: Points, *, frames: int) -> Path:
    """Positions in the unit square and velocities per step, after each of ``frames`` steps that clamp and reverse."""
    record: Record = []
    for _ in range(frames):
        start = start + velocity
        velocity = torch.where((start <= 0) | (start >= 1), -velocity, velocity)
        start = start.clamp(0, 1)
        record.append((start, velocity))
    return _stacked(record)


def svg_path(start: Points, velocity: Points, noise: Noise | None, *, frames: int, last: int, speed: int) -> Path:
    """Whole-pixel positions, and velocities after the walls, at frames 0, 1, ...

    Arguments:
        start: Whole pixels in 0..last.
        velocity: Whole pixels per frame.
        noise: Where the velocities at walls come from; None reverses the component towards the wall.
        frames: How many.
        last: Greatest position.
        speed: Greatest new speed per axis.
    """
    record: Record = []
    for frame in range(frames):
        for axis in (1, 0):
            below, above = start[..., axis] < 0, start[..., axis] > last
            if noise is None:
                fresh = velocity.clone()
                fresh[..., axis] *= -1
            else:
                fresh = _redrawn(noise, f"walls/{frame}/{axis}", below, axis, speed)
            velocity = torch.where((below | above)[..., None], fresh, velocity)
            start = start.index_copy(-1, torch.tensor([axis]), start[..., axis : axis + 1].clamp(0, last))
        record.append((start, velocity))
        start = start + velocity
    return _stacked(record)


def srvp_path(start: Points, velocity: Points, noise: Noise | None, *, frames: int, room: int, speed: int) -> Path:
    """Positions in [0, room] and velocities at frames 0, 1, ..., with every step cut at its collisions.

    Arguments:
        start: Pixels in [0, room].
        velocity: Pixels per frame.
        noise: Where the velocities at walls come from; None mirrors the velocity.
        frames: How many.
        room: Greatest position.
        speed: Greatest new speed per axis.
    """
    record: Record = []
    for frame in range(frames):
        record.append((start, velocity))
        left = torch.ones(start.shape[:2], dtype=torch.float64)
        for bounce in itertools.count():
            wall = torch.where(velocity > 0, float(room), 0.0)
            until = torch.where(velocity == 0, math.inf, (wall - start) / velocity)
            soonest = until.amin(-1)
            hit = soonest < left
            if not bool(hit.any()):
                break
            flown = torch.where(hit, soonest, 0.0)
            struck = hit[..., None] & (until <= soonest[..., None] + _TOUCH)
            start = torch.where(struck, wall, start + velocity * flown[..., None])
            left = left - flown
            if noise is not None:
                fresh = noise.integers(f"walls/{frame}/{bounce}", -speed, speed + 1, *start.shape[1:]).double()
                velocity = torch.where(hit[..., None], fresh, velocity)
            velocity = torch.where(struck, velocity.abs() * torch.where(wall > 0, -1.0, 1.0), velocity)
        start = (start + velocity * left[..., None]).clamp(0, room)
    return _stacked(record)


def _redrawn(noise: Noise, stream: str, below: Bool[Tensor, "batch digit"], axis: int, speed: int) -> Points:
    """New velocities at a wall across ``axis``: inwards along it, any along the other one."""
    digits = below.shape[1]
    fresh = noise.integers(f"{stream}/along", -speed, speed + 1, digits, 2).double()
    inwards = noise.integers(f"{stream}/inwards", 1, speed + 1, digits).double()
    fresh[..., axis] = torch.where(below, inwards, -inwards)
    return fresh


def _stacked(record: Record) -> Path:
    positions, velocities = zip(*record, strict=True)
    return torch.stack(positions, dim=1), torch.stack(velocities, dim=1)
