"""Logs, the list of runs, and ways to carry training out: parts, bfloat16, activations computed twice, compiled."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from flowvid.cli.runs import add
from flowvid.networks.trunk import Trunk
from flowvid.noise import Noise
from flowvid.train.log import Log, peak_memory, read_log
from flowvid.train.loop import Execution, Optimisation, fit
from flowvid.train.module import Objective, adapted
from flowvid.train.runs import find_runs, runs_table
from flowvid.train.store import Store

OPTIONS = Optimisation(steps=50, batch=4, warmup=5)


def build() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Sequential(nn.Linear(4, 16), nn.SiLU()), nn.Linear(16, 3))


def objective_of(network: nn.Module) -> Callable[[Noise], Tensor]:
    return lambda noise: loss_of(network, noise.normal("input", 4))


def loss_of(network: nn.Module, seen: Tensor) -> Tensor:
    return (network(seen) - seen[:, :3].sin()).square().mean()


def train(options: Optimisation = OPTIONS, **how: object) -> tuple[nn.Sequential, list[float]]:
    network, told = build(), []
    objective = how.pop("objective", objective_of)(network)
    fit(network, objective, options, progress=lambda step, steps, loss: told.append(loss), **how)
    return network, told


# Logs


def test_a_log_tells_each_report_once_and_when_it_began_and_ended(tmp_path: Path) -> None:
    _, told = train(folder=tmp_path)
    entries = read_log(tmp_path)
    assert [entry.get("event") for entry in entries] == ["started", None, None, None, "finished"]
    reports = entries[1:-1]
    assert [entry["step"] for entry in reports] == [20, 40, 50]
    assert [entry["loss"] for entry in reports] == told
    assert [entry["rate"] for entry in reports] == [OPTIONS.rate(step - 1) for step in (20, 40, 50)]
    assert all(entry["norm"] > 0 and entry["waiting"] == 0 for entry in reports)
    assert all(1e8 < entry["peak_memory"] < 1e11 for entry in reports)
    seconds = [entry["seconds"] for entry in reports]
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    # The first report includes what starting took.
    assert [entry["steps_per_second"] for entry in reports[1:]] == [
        pytest.approx(20 / (seconds[1] - seconds[0]), rel=0.5),
        pytest.approx(10 / (seconds[2] - seconds[1]), rel=0.5),
    ]
    assert entries[0]["options"]["batch"] == 4
    assert entries[0]["execution"]["processes"] == 1


def test_the_norm_is_that_before_clipping(tmp_path: Path) -> None:
    weight = nn.Linear(1, 1, bias=False)
    options = Optimisation(steps=1, batch=1, clip=0.5)
    fit(weight, lambda noise: weight.weight.sum() * 7, options, folder=tmp_path)
    assert read_log(tmp_path)[1]["norm"] == 7


def test_a_log_is_cut_at_the_step_that_a_run_continues_from(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.cut(0)
    for step in (0, 20, 40, 40, 60):
        log.write({"step": step})
    log.close()
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(b'{"step": 80, "lo')
    assert [entry["step"] for entry in read_log(tmp_path)] == [0, 20, 40, 40, 60]
    for at, left in ((80, [0, 20, 40, 40, 60]), (40, [0, 20, 40, 40]), (39, [0, 20]), (0, [0])):
        log = Log(tmp_path)
        log.cut(at)
        log.close()
        assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == left


def test_peak_memory_is_the_most_so_far() -> None:
    before = peak_memory(torch.device("cpu"))
    block = torch.ones(before // 4 + 50_000_000)
    assert peak_memory(torch.device("cpu")) > before
    del block
    assert peak_memory(torch.device("cpu")) > before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_is_told_the_same(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(folder=tmp_path, execution=Execution(tensorboard=True))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    reports = [entry for entry in read_log(tmp_path) if "loss" in entry]
    for name in ("loss", "rate", "norm", "steps_per_second", "waiting"):
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(entry["step"], pytest.approx(entry[name], rel=1e-5)) for entry in reports]


def test_without_tensorboard_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'flowvid\[tensorboard\]'"):
        train(folder=tmp_path, execution=Execution(tensorboard=True))


# The list


def test_the_list_of_runs(tmp_path: Path) -> None:
    train(folder=tmp_path / "b" / "finished")
    network = build()
    objective, calls = objective_of(network), iter(range(10**9))

    def stop(noise: Noise) -> Tensor:
        if next(calls) == 30:
            raise KeyboardInterrupt
        return objective(noise)

    execution = Execution(command="flowvid train --out x")
    with pytest.raises(KeyboardInterrupt):
        fit(network, stop, OPTIONS, folder=tmp_path / "a", execution=execution)
    killed = tmp_path / "c"
    killed.mkdir()
    lines = (tmp_path / "b" / "finished" / "log.jsonl").read_text().splitlines(keepends=True)
    (killed / "log.jsonl").write_text("".join(lines[:2]))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "log.jsonl").write_text('{"st')
    found = {run.folder.relative_to(tmp_path).as_posix(): run for run in find_runs(tmp_path)}
    assert {name: (run.state, run.step, run.steps) for name, run in found.items()} == {
        "a": ("interrupted", 30, 50),
        "b/finished": ("finished", 50, 50),
        "c": ("killed", 20, 50),
        "d": ("damaged", 0, 0),
    }
    assert found["b/finished"].loss == read_log(tmp_path / "b" / "finished")[-2]["loss"]
    assert found["a"].note == "flowvid train --out x"
    assert "log" in found["d"].note
    assert all(abs(run.changed - time.time()) < 600 for run in found.values())
    assert found["a"].changed == max(path.stat().st_mtime for path in (tmp_path / "a").iterdir())
    header, *rows = runs_table(list(found.values()), tmp_path).splitlines()
    assert header.split() == ["run", "state", "step", "loss", "changed"]
    assert rows[0].split()[:3] == ["a", "interrupted", "30/50"]
    assert rows[0].endswith("flowvid train --out x")
    assert rows[3].split()[:3] == ["d", "damaged", "0/?"]
    assert runs_table(find_runs(tmp_path / "a"), tmp_path / "a").splitlines()[1].split()[0] == "."


def test_no_folder_is_an_error_and_an_empty_one_holds_no_runs(tmp_path: Path) -> None:
    assert find_runs(tmp_path) == []
    with pytest.raises(ValueError, match=r"Expected a folder with runs at .*none"):
        find_runs(tmp_path / "none")


def test_the_command_lists_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(folder=tmp_path / "runs" / "one")
    (tmp_path / "empty").mkdir()
    parser = argparse.ArgumentParser()
    add(parser.add_subparsers())
    for folder in ("runs", "empty"):
        options = parser.parse_args(["runs", str(tmp_path / folder)])
        options.command(options)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:3] == ["one", "finished", "50/50"]
    assert lines[2] == f"No runs in {tmp_path / 'empty'}."


# Ways to carry it out


@pytest.mark.parametrize("wrong", [{"precision": "fp16"}, {"accumulate": 0}, {"keep": 0}, {"save_seconds": -1.0}])
def test_an_execution_out_of_range_is_refused(wrong: dict) -> None:
    ((_, value),) = wrong.items()
    with pytest.raises(ValueError, match=str(value)):
        Execution(**wrong)


def test_parts_of_a_batch_are_the_batch() -> None:
    whole, told = train()
    for accumulate in (2, 4):
        parts, told_too = train(execution=Execution(accumulate=accumulate))
        assert told_too == pytest.approx(told, rel=1e-5)
        for one, two in zip(whole.parameters(), parts.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="4 samples does not divide into 1 processes times 3"):
        train(execution=Execution(accumulate=3))


def test_bfloat16_products_keep_weights_and_their_average_in_float32() -> None:
    seen = set()

    def watched(network: nn.Sequential) -> Callable[[Noise], Tensor]:
        network[1].register_forward_hook(lambda module, given, made: seen.add(made.dtype))
        return objective_of(network)

    _, told = train()
    network, rounded = train(objective=watched, execution=Execution(precision="bf16"))
    assert seen == {torch.bfloat16}
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert rounded != told
    assert rounded == pytest.approx(told, rel=0.02)
    plain = Objective(network, lambda noise: network(noise.normal("input", 4)).mean(), "bf16")
    assert plain(Noise.batch(0, 2)).dtype == torch.float32


def grid_loss(trunk: Trunk, noise: Noise) -> Tensor:
    grid = noise.normal("grid", 2, 4, 4)
    return (trunk(grid, noise.uniform("scalar", 1)) - grid.roll(1, dims=2)).square().mean()


def trunk() -> Trunk:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Trunk(2, 2, scalars=1, width=8, depth=1)


def test_activations_computed_twice_give_the_same_weights_and_keep_less() -> None:
    networks = [trunk(), trunk()]
    for network, again in zip(networks, (False, True), strict=True):
        fit(
            network,
            lambda noise, network=network: grid_loss(network, noise),
            Optimisation(steps=5, batch=4),
            execution=Execution(checkpoint_activations=again),
        )
        assert all("forward" not in module.__dict__ for module in network.modules())
    for one, two in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(one, two)

    def kept(execution: Execution) -> int:
        network, total = trunk(), []

        def pack(tensor: Tensor) -> Tensor:
            total.append(tensor.numel())
            return tensor

        with adapted(network, execution), saved_tensors_hooks(pack, lambda tensor: tensor):
            grid_loss(network, Noise.batch(0, 64))
        return sum(total)

    assert kept(Execution(checkpoint_activations=True)) < 0.6 * kept(Execution())


def test_a_network_is_as_it_was_even_after_an_error() -> None:
    network = trunk()

    def fail() -> None:
        with adapted(network, Execution(checkpoint_activations=True)):
            assert "forward" in network.fine_in.__dict__
            assert "forward" not in network.__dict__
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert all("forward" not in module.__dict__ for module in network.modules())


@pytest.mark.slow
def test_a_compiled_network_learns_the_same() -> None:
    options = Optimisation(steps=20, batch=4, warmup=5)
    compiled = []

    def watched(network: nn.Module) -> Callable[[Noise], Tensor]:
        objective = objective_of(network)

        def loss(noise: Noise) -> Tensor:
            compiled.append(all(child._compiled_call_impl is not None for child in network.children()))
            return objective(noise)

        return loss

    _, told = train(options)
    network, told_too = train(options, objective=watched, execution=Execution(compile=True))
    assert told_too == pytest.approx(told, rel=1e-4)
    assert all(compiled)
    assert all(child._compiled_call_impl is None for child in network.children())


# Loading ahead


def test_what_is_loaded_ahead_is_what_the_noise_says(tmp_path: Path) -> None:
    asked = []

    def load(noise: Noise) -> Tensor:
        asked.append(noise.seeds)
        return noise.normal("input", 4)

    def batched(network: nn.Module) -> Callable[[Tensor, Noise], Tensor]:
        return lambda seen, noise: loss_of(network, seen)

    whole, _ = train()
    loaded, _ = train(objective=batched, load=load, folder=tmp_path / "a")
    for one, two in zip(whole.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(one, two)
    assert asked == [Noise.batch(0, 4).fold(step).seeds for step in range(50)]
    (checkpoint,) = Store(tmp_path / "a").paths
    assert checkpoint.name == "step-000000050.safetensors"


def test_the_share_of_waiting_is_logged_and_errors_of_loading_arrive(tmp_path: Path) -> None:
    def slow(noise: Noise) -> int:
        time.sleep(0.05)
        return 1

    def batched(network: nn.Module) -> Callable[[int, Noise], Tensor]:
        objective = objective_of(network)
        return lambda one, noise: objective(noise) * one

    train(Optimisation(steps=20, batch=2), objective=batched, load=slow, folder=tmp_path)
    assert 0.3 < read_log(tmp_path)[1]["waiting"] <= 1

    def broken(noise: Noise) -> int:
        if noise.seeds == Noise.batch(0, 2).fold(9).seeds:
            raise OSError("the file is gone")
        return 1

    with pytest.raises(OSError, match="the file is gone"):
        train(Optimisation(steps=20, batch=2), objective=batched, load=broken, folder=tmp_path / "b")
    assert [entry.get("event") for entry in read_log(tmp_path / "b")] == ["started"]
    assert os.listdir(tmp_path / "b") == ["log.jsonl"]
