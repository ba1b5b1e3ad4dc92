"""What the training loop costs beyond the bare step, and whether its memory grows.

    python -m benchmarks.training

The multi-scale model is trained on random walks by `fit`, with its log, its averaged weights, clipped gradients and
checks; and a twin of it by bare steps: loss, backward, a fused AdamW. A bare step follows every step of the loop, so
that both meet the same machine, and is timed apart. Checkpoints, whose cost is a matter of how many are wanted, are
timed by themselves. The memory of the process is read at 2000 and at 10000 steps of a tiny network. Prints JSON.
"""

__all__ = ["main"]

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timing import seconds
from flowvid.data.files import write_json
from flowvid.models.continuous import MultiScale
from flowvid.noise import Noise
from flowvid.train.checkpoint import load_tensors, save_tensors
from flowvid.train.loop import Execution, Optimisation, fit
from flowvid.train.store import Store
from flowvid.video import Trajectory, time_grid

_FRAME, _CHANNELS, _SIDE, _FRAMES = 0.125, 4, 8, 50
_RATE = 1e-4
_WARM = 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=200, help="timed steps; default: %(default)s")
    parser.add_argument("--batch", type=int, default=64, help="clips per step; default: %(default)s")
    parser.add_argument("--width", type=int, default=48, help="channels of the trunk; default: %(default)s")
    parser.add_argument("--long", type=int, default=10_000, help="steps of the run for memory; default: %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {
        "threads": options.threads,
        "device": options.device,
        "batch": options.batch,
        "width": options.width,
        "loop": overhead(options),
        "memory": memory(options.long),
    }
    print(json.dumps(results, indent=2))
    if options.out is not None:
        write_json(options.out, results)


def overhead(options: argparse.Namespace) -> dict[str, Any]:
    """Time of a step of the loop over that of a bare step right after it."""
    torch.manual_seed(0)
    clips = torch.randn(options.batch, _FRAMES, _CHANNELS, _SIDE, _SIDE, device=options.device).cumsum(dim=1) * 0.1
    data = Trajectory(clips, time_grid(-_FRAME, (_FRAMES - 2) * _FRAME, _FRAME))
    first = MultiScale(_CHANNELS, frame=_FRAME, width=options.width).to(options.device)
    first.prepare(data)
    second = copy.deepcopy(first)
    optimiser = torch.optim.AdamW(second.parameters(), lr=_RATE, fused=True)
    looped: list[float] = []
    bare: list[float] = []
    marks: list[float] = []

    def bare_step(noise: Noise) -> None:
        optimiser.zero_grad(set_to_none=True)
        second.loss(data, noise).backward()
        optimiser.step()

    def objective(noise: Noise) -> Tensor:
        if marks:
            looped.append(_now(options.device) - marks[-1])
            bare.append(seconds(lambda: bare_step(noise), options.device))
        marks.append(_now(options.device))
        return first.loss(data, noise)

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        execution = Execution(save_seconds=1e9)
        fit(first, objective, _optimisation(options.steps + _WARM, options.batch), folder=folder, execution=execution)
        (path,) = Store(folder).paths
        tensors, description = load_tensors(path)
        saving = seconds(lambda: save_tensors(path, tensors, description))
    looped, bare = looped[_WARM - 1 :], bare[_WARM - 1 :]
    ratios = [one / other for one, other in zip(looped, bare, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return {
        "steps": len(bare),
        "milliseconds_per_bare_step": 1e3 * statistics.median(bare),
        "ratio_median": statistics.median(ratios),
        "ratio_quartiles": [low, high],
        "ratio_of_sums": sum(looped) / sum(bare),
        "checkpoint_milliseconds": 1e3 * saving,
    }


def memory(steps: int) -> dict[str, float]:
    """Megabytes of the process at a fifth of a long run of a tiny network, and at its end."""
    network = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 8))
    found: dict[int, float] = {}

    def objective(noise: Noise) -> Tensor:
        return (network(noise.normal("input", 8)) - 1).square().mean()

    def progress(step: int, steps: int, loss: float) -> None:
        found[step] = _resident()

    with tempfile.TemporaryDirectory() as place:
        execution = Execution(save_seconds=0.5)
        options = _optimisation(steps, 4)
        fit(network, objective, options, folder=Path(place), execution=execution, progress=progress)
    early = min(found, key=lambda step: abs(step - steps // 5))
    return {"steps": steps, "early_step": early, "early_megabytes": found[early], "late_megabytes": found[steps]}


def _now(device: str) -> float:
    """The clock that `benchmarks.timing.seconds` reads, when the device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.process_time() if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


def _optimisation(steps: int, batch: int) -> Optimisation:
    return Optimisation(steps=steps, batch=batch, learning_rate=_RATE)


def _resident() -> float:
    """Megabytes of main memory the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
