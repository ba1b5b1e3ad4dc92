"""Many processes: the same global batch and seed give the same run as one process, plain, in parts, or in shards.

Two gloo processes are started by torchrun on this very file. Losses then agree with those of one process to 1e-5
relative, and weights to 1e-3: additions have another order, and Adam divides small gradients by themselves. Models
whose loss is not a mean over samples agree through `whole_batch_mean`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowvid.models.rivals import RIVALS, build_rival
from flowvid.networks.whole_batch import whole_batch_mean
from flowvid.noise import Noise
from flowvid.train.checkpoint import load_tensors
from flowvid.train.loop import Execution, Optimisation, fit
from flowvid.train.processes import Processes, local_device, whole
from flowvid.train.store import Store
from flowvid.video import Trajectory, time_grid

# 50 samples divide into 2 such that both parts have the situations of multi-scale training in the whole's shares.
OPTIONS = Optimisation(steps=22, batch=50, warmup=2, learning_rate=0.01)


class Layers(nn.Module):
    """Three layers, one frozen, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 3))
            self.fixed = nn.Linear(3, 3).requires_grad_(False)
        self.register_buffer("unit", torch.ones(3))

    def loss(self, noise: Noise) -> Tensor:
        seen = noise.normal("input", 4)
        error = (self.fixed(self.layers(seen)) - seen[:, :3].sin() * self.unit).square()
        return error.mean() + 0.1 * whole_batch_mean(error.mean()).log()


def rival(name: str) -> tuple[nn.Module, Any]:
    """One of the models, tiny, and its objective."""
    generator = torch.Generator().manual_seed(0)
    data = Trajectory(torch.randn(8, 12, 4, 4, 4, generator=generator).cumsum(1), time_grid(-0.125, 10 * 0.125, 0.125))
    model = build_rival(name, channels=4, frame=0.125, scales=2, reach=4, width=8, seed=0)
    model.prepare(data)

    def objective(noise: Noise) -> Tensor:
        return model.loss(Trajectory(data.states[noise.integers("clip", 0, 8)], data.times), noise)

    return model, objective


def train(name: str, folder: Path, *, accumulate: int = 1, stop: int = 0, save: float = 0.0) -> dict[str, Any]:
    """Train one network; what became of it."""
    model, objective = (layers := Layers(), layers.loss) if name == "layers" else rival(name)
    losses: list[float] = []

    def watched(noise: Noise) -> Tensor:
        watched.calls += 1
        if watched.calls == stop:
            os.kill(os.getpid(), 15)
        return objective(noise)

    watched.calls = 0
    execution = Execution(accumulate=accumulate, save_seconds=save)
    try:
        fit(model, watched, OPTIONS, folder=folder, execution=execution, progress=lambda *told: losses.append(told[2]))
    except KeyboardInterrupt as error:
        return {"interrupted": str(error)}
    assert not any(type(tensor) is not torch.Tensor for tensor in model.state_dict().values())
    return {"losses": losses, "weights": [float(x.double().abs().sum()) for x in model.state_dict().values()]}


def sharded() -> None:
    """Let training shard its weights as FSDP does, which accelerate itself does on GPUs only."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def prepare(self: Processes, module: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[Any, Any]:
        mesh = init_device_mesh("cpu", (self.count,))
        fully_shard(module.network.layers, mesh=mesh)
        fully_shard(module, mesh=mesh)
        (group,) = optimiser.param_groups
        known = {name: group[name] for name in ("lr", "weight_decay", "fused")}
        return module, torch.optim.AdamW([x for x in module.parameters() if x.requires_grad], **known)

    Processes.sharded = property(lambda self: True)
    Processes.prepare = prepare


def main() -> None:
    """Carry out the jobs of a file of JSON; the first process writes the answers."""
    torch.set_num_threads(1)
    source = Path(sys.argv[1])
    jobs = json.loads(source.read_text())
    answers = []
    for job in jobs:
        if job.pop("sharded", False):
            sharded()
        answers.append(train(job.pop("name"), Path(job.pop("folder")), **job))
    if os.environ.get("RANK", "0") == "0":
        source.with_suffix(".answers").write_text(json.dumps(answers))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def carried_out(place: Path, jobs: list[dict[str, Any]], *, processes: int) -> list[dict[str, Any]]:
    """The answers of one process or several."""
    source = place / f"{processes}.json"
    source.write_text(json.dumps(jobs, default=str))
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launch, __file__]
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*command, str(source)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(source.with_suffix(".answers").read_text())


def close(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["losses"] == pytest.approx(other["losses"], rel=1e-5)
    assert one["weights"] == pytest.approx(other["weights"], rel=1e-3)


# One process


@pytest.mark.parametrize(("rank", "count", "accumulate"), [(0, 1, 1), (1, 2, 1), (0, 2, 3), (2, 3, 2)])
def test_the_parts_of_all_processes_are_the_batch(rank: int, count: int, accumulate: int) -> None:
    noise = Noise.batch(7, 12)
    processes = Processes(torch.device("cpu"))
    taken = []
    for processes.rank in range(count):
        processes.count = count
        parts = processes.parts(noise, accumulate)
        assert {len(part) for part in parts} == {12 // count // accumulate}
        taken += [seed for part in parts for seed in part.seeds]
    assert sorted(taken) == sorted(noise.seeds)
    assert processes.rank == count - 1


@pytest.mark.parametrize(("count", "accumulate"), [(5, 1), (1, 5), (2, 4), (24, 1)])
def test_a_batch_that_does_not_divide_is_refused(count: int, accumulate: int) -> None:
    processes = Processes(torch.device("cpu"))
    processes.count = count
    with pytest.raises(ValueError, match=rf"12 samples does not divide into {count} processes times {accumulate} acc"):
        processes.parts(Noise.batch(0, 12), accumulate)


def test_a_lone_process_agrees_with_itself() -> None:
    processes = Processes(torch.device("cpu"))
    assert (processes.rank, processes.count, processes.main, processes.sharded) == (0, 1, True, False)
    assert processes.any(True, False) == [True, False]
    assert processes.first(lambda: 3) == 3
    assert local_device("cpu") == "cpu"
    part = torch.ones(2, requires_grad=True)
    assert whole_batch_mean(part) is part
    assert torch.equal(whole(part), part)


def test_parts_of_a_batch_give_the_run_of_the_whole(tmp_path: Path) -> None:
    close(train("direct", tmp_path / "whole", save=1e9), train("direct", tmp_path / "parts", accumulate=2, save=1e9))


# Two processes


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    """Every model; and a run that goes on from two processes to one, and from shards to whole weights and back."""
    names = ("layers", *RIVALS)
    for name in ("layers", "to-shards"):
        answer = train("layers", tmp_path / name / "stopped", stop=9, save=1e9)
        assert "Interrupted at step 9 of 22" in answer["interrupted"]
    jobs: list[dict[str, Any]] = [{"name": name, "folder": tmp_path / name / "two", "save": 1e9} for name in names]
    jobs += [
        {"name": "layers", "folder": tmp_path / "layers" / "stopped"},
        {"name": "layers", "folder": tmp_path / "half", "stop": 15, "save": 1e9},
        {"name": "layers", "folder": tmp_path / "parts", "accumulate": 5, "save": 1e9},
        {"name": "layers", "folder": tmp_path / "shards", "sharded": True, "save": 1e9},
        {"name": "layers", "folder": tmp_path / "to-shards" / "stopped"},
        {"name": "layers", "folder": tmp_path / "from-shards", "stop": 5, "save": 1e9},
    ]
    answers = carried_out(tmp_path, jobs, processes=2)
    alone = [{"name": name, "folder": tmp_path / name / "one", "save": 1e9} for name in names]
    whole = dict(zip(names, carried_out(tmp_path, alone, processes=1), strict=True))
    for name, answer in zip(names, answers, strict=False):
        close(answer, whole[name])
        (two,), (one,) = (Store(tmp_path / name / kind).paths for kind in ("two", "one"))
        tensors, description = load_tensors(two)
        assert description["execution"]["processes"] == 2
        for key, tensor in load_tensors(one)[0].items():
            if key.startswith(("network.", "average.")):
                assert (tensors[key] - tensor).norm() <= 1e-3 * tensor.norm() + 1e-4, key
    continued, half, parts, shards, to_shards, from_shards = answers[len(names) :]
    for answer in (continued, shards, to_shards):
        close(answer, whole["layers"])
    assert parts["losses"] == pytest.approx(whole["layers"]["losses"], rel=0.05)
    assert "Interrupted at step 15 of 22" in half["interrupted"]
    assert "Interrupted at step 5 of 22" in from_shards["interrupted"]
    for folder in ("half", "from-shards"):
        close(train("layers", tmp_path / folder), whole["layers"])


if __name__ == "__main__":
    main()
