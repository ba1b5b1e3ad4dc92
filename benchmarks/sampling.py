"""What sampling costs beyond the network: a jump sampler against the same trunk evaluations called bare.

    python -m benchmarks.sampling

For 64 clips of 17 frames the sampler's states are recorded once; then the sampler and the bare trunk on inputs of
the same batch sizes are timed in turn. The trunk is asked exactly what the sampler asked, so the ratio is the cost of
planning, packing, combining and bookkeeping. Prints JSON.
"""

__all__ = ["main"]

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timing import paired
from flowvid.data.files import write_json
from flowvid.models.continuous import MultiScale
from flowvid.noise import Noise
from flowvid.video import Condition, Trajectory, time_grid

_CLIPS, _FRAME, _CHANNELS, _SIDE = 64, 0.125, 4, 8


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=15, help="timed pairs; default: %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {
        "threads": options.threads,
        "device": options.device,
        "clips": _CLIPS,
        "frames": 17,
        "solvers": {name: ratio(name, options.repeats, options.device) for name in ("jump", "two-sided", "rk4")},
    }
    print(json.dumps(results, indent=2))
    if options.out is not None:
        write_json(options.out, results)


@torch.no_grad()
def ratio(solver: str, repeats: int, device: str) -> dict[str, Any]:
    """Time of one solver over the time of its bare trunk evaluations, pair by pair."""
    torch.manual_seed(0)
    model = MultiScale(_CHANNELS, frame=_FRAME).to(device)
    clips = torch.randn(_CLIPS, 50, _CHANNELS, _SIDE, _SIDE, device=device).cumsum(dim=1) * 0.1
    times = time_grid(-_FRAME, 48 * _FRAME, _FRAME)
    model.prepare(Trajectory(clips, times))
    model.finish(Trajectory(clips, times))
    condition = Condition(Trajectory(clips, times).at(-_FRAME, 0.0))
    wanted = time_grid(0.0, 16 * _FRAME, _FRAME).tolist()
    noise = Noise.batch(0, _CLIPS)
    asked: list[tuple[Tensor, Tensor]] = []

    def record(_: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        asked.append(inputs)

    hook = model.heads.trunk.register_forward_pre_hook(record)

    def sampler() -> None:
        model.sample(condition, wanted, noise, solver=solver)

    sampler()
    hook.remove()

    def bare() -> None:
        for grid, spans in asked:
            model.heads.trunk(grid, spans)

    found = paired(sampler, bare, repeats, device=device)
    return {
        "evaluations": sum(len(grid) for grid, _ in asked) / _CLIPS,
        "calls": len(asked),
        "seconds": found.first,
        "bare_seconds": found.second,
        "ratio": found.median,
        "ratio_low": found.low,
        "ratio_high": found.high,
    }


if __name__ == "__main__":
    main()
