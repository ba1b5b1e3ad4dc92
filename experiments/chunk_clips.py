"""What principal components of chunks lose on real clips, at the clips' own speed and at 2, 4 and 8 times.

Grey frames are cut into patches of 4 x 4 pixels, without the mean of all. Speed v shows every v-th frame. The
components are found on all clips but one and tried on that one; losses are relative to what the patches of a clip vary.
"""

__all__ = ["measure_clips", "patches"]

from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from experiments.chunk_loss import SPEEDS
from experiments.claims import claim, interval
from experiments.local_data import real_footage
from experiments.tokenisers import principal
from flowvid.data.footage.reader import Footage

_SIZE, _PATCH, _FRAMES, _LEAST = (48, 64), 4, 128, 5.2
_CHUNKS = (1, 2, 4, 8)
_RATE, _WIDTH = 4, 16


def patches(frames: Float64[np.ndarray, "frame row column"]) -> Float64[np.ndarray, "patch frame pixel"]:
    """Frames cut into patches."""
    count, rows, columns = frames.shape
    cut = frames.reshape(count, rows // _PATCH, _PATCH, columns // _PATCH, _PATCH)
    return cut.transpose(1, 3, 0, 2, 4).reshape(-1, count, _PATCH**2)


def measure_clips(data: Path) -> dict[str, Any]:
    """Losses by clip, speed, length and budget; and claims over clips.

    Arguments:
        data: The folder of clips.
    """
    names: list[str] = []
    clips: list[Float64[np.ndarray, "patch frame pixel"]] = []
    for path, _ in real_footage(data, least=_LEAST):
        with Footage(path) as footage:
            if footage.info.frames < _FRAMES:
                continue
            pixels = footage.at(footage.times[:_FRAMES], size=_SIZE)
        grey = pixels.double().mean(dim=1).numpy() / 127.5 - 1
        names.append(path.name)
        clips.append(patches(grey - grey.mean()))
    losses = {budget: {str(speed): _losses(clips, speed, budget) for speed in SPEEDS} for budget in ("rate", "width")}
    claims = []
    for speed in SPEEDS:
        rate, width = (np.array(losses[budget][str(speed)]) for budget in ("rate", "width"))
        falls = np.max([b / a for a, b in pairwise(rate)], axis=0)
        rises = np.min([b - a for a, b in pairwise(width)], axis=0)
        claims.append(claim("C1", f"real clips, speed {speed}: e(2p) / e(p) at a fixed rate, largest", falls, most=1.0))
        claims.append(claim("C2", f"real clips, speed {speed}: rise with p at a fixed width, least", rises, least=0.0))
    numbers = {
        budget: {speed: [asdict(interval(row)) for row in rows] for speed, rows in found.items()}
        for budget, found in losses.items()
    }
    return {"names": names, "by_clip": losses, **numbers, "claims": claims}


def _losses(clips: list[Float64[np.ndarray, "patch frame pixel"]], speed: int, budget: str) -> list[list[float]]:
    """Loss of every clip under the components of the others, for every length of a chunk."""
    found = []
    for p in _CHUNKS:
        floats = _RATE * p if budget == "rate" else _WIDTH
        chunks = [clip[:, ::speed].reshape(-1, p * _PATCH**2) for clip in clips]
        moments = [chunk.T @ chunk / len(chunk) for chunk in chunks]
        total = np.sum(moments, axis=0)
        row = []
        for chunk, moment in zip(chunks, moments, strict=True):
            kept = principal(total - moment, floats)
            row.append(float(1 - np.trace(kept @ moment @ kept.T) / (chunk**2).sum(axis=1).mean()))
        found.append(row)
    return found
