"""Trajectories from files: one array of states, .npy or .safetensors, and the rate they were taken at."""

__all__ = ["read_trajectory"]

import math
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from flowvid.video import Trajectory


def read_trajectory(path: Path, *, fps: float) -> Trajectory:
    """States of shape (batch, time, channel, height, width), the first at 0 s and 1 / fps seconds apart.

    Arguments:
        path: A .npy file, or a .safetensors file with one tensor or one named "states".
        fps: Moments per second.

    Raises:
        ValueError: The file is not there, is not of these kinds, or cannot be read; the states are not floating point
            numbers of that shape; or the rate is not positive.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"The rate must be positive and finite; got fps={fps}.")
    if not path.is_file():
        raise ValueError(f"Expected a file of trajectories at {path}; there is none.")
    if path.suffix not in (".npy", ".safetensors"):
        raise ValueError(f"Trajectories are read from .npy or .safetensors; got {path.name}.")
    states = _read_npy(path) if path.suffix == ".npy" else _read_safetensors(path)
    if states.ndim != 5 or not states.is_floating_point():
        raise ValueError(
            "States must be floating point with shape [batch, time, channel, height, width]; got "
            f"{states.dtype} with shape {tuple(states.shape)} in {path}."
        )
    return Trajectory(states, torch.arange(states.shape[1], dtype=torch.float64) / fps)


def _read_npy(path: Path) -> Tensor:
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except (ValueError, TypeError, EOFError) as error:
        raise ValueError(f"Cannot read {path} as a .npy file of numbers: {error}") from error


def _read_safetensors(path: Path) -> Tensor:
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"Cannot read {path} as safetensors: {error}") from error
    if len(tensors) == 1:
        return next(iter(tensors.values()))
    if "states" not in tensors:
        raise ValueError(f'Expected one tensor in {path}, or one named "states"; it holds {sorted(tensors)}.')
    return tensors["states"]
