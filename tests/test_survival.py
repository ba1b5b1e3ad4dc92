"""Runs survive kill -9, damaged checkpoints, full disks, divergence and signals, and lose little or nothing."""

import errno
import json
import math
import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from flowvid.noise import Noise
from flowvid.train.checkpoint import load_tensors
from flowvid.train.log import read_log
from flowvid.train.loop import Execution, Interrupted, Optimisation, fit
from flowvid.train.runs import find_runs
from flowvid.train.store import Store, step_of

LONG = Optimisation(steps=300, batch=4, warmup=5, seed=3)
SHORT = Optimisation(steps=50, batch=4, warmup=5)
EACH = Execution(save_seconds=0.0)
SELDOM = Execution(save_seconds=1e9)


def build() -> nn.Sequential:
    """A small network, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 32), nn.SiLU(), nn.Linear(32, 3))


def objective_of(network: nn.Module) -> Callable[[Noise], Tensor]:
    def objective(noise: Noise) -> Tensor:
        seen = noise.normal("input", 4)
        return (network(seen) - seen[:, :3].sin()).square().mean()

    return objective


def trained(folder: Path, options: Optimisation = SHORT, execution: Execution = EACH) -> nn.Sequential:
    network = build()
    fit(network, objective_of(network), options, folder=folder, execution=execution)
    return network


def same(one: nn.Module, other: nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def interrupted(folder: Path, after: int, *, execution: Execution = EACH, options: Optimisation = SHORT) -> str:
    """Train until a signal to terminate arrives in a step; what was said then."""
    network = build()
    objective, calls = objective_of(network), iter(range(10**9))

    def watched(noise: Noise) -> Tensor:
        if next(calls) == after - 1:
            signal.raise_signal(signal.SIGTERM)
        return objective(noise)

    with pytest.raises(Interrupted) as caught:
        fit(network, watched, options, folder=folder, execution=execution)
    return str(caught.value)


def waited_for(happened: Callable[[], bool]) -> bool:
    """Whether something happens within a minute."""
    end = time.monotonic() + 60
    while not happened() and time.monotonic() < end:
        time.sleep(0.01)
    return happened()


# kill -9


@pytest.fixture(scope="module")
def server() -> ForkServerContext:
    """Makes processes that have imported already what takes long."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["accelerate", "pytest", "flowvid.train.loop", "flowvid.train.runs"])
    return context


def endure(folder: Path) -> None:
    """What the processes do that are killed."""
    torch.set_num_threads(1)
    network = build()
    objective = objective_of(network)

    def slowly(noise: Noise) -> Tensor:
        (folder.parent / "trains").touch()
        time.sleep(0.02)
        return objective(noise)

    fit(network, slowly, LONG, folder=folder, execution=Execution(save_seconds=0.05))


@pytest.mark.slow
def test_a_run_killed_at_twenty_random_moments_is_the_same_run(tmp_path: Path, server: ForkServerContext) -> None:
    """Each time the log and the last checkpoint can be read, and no step that was saved is lost."""
    folder, chance, reached = tmp_path / "run", random.Random(5), 0
    for number in range(20):
        (tmp_path / "trains").unlink(missing_ok=True)
        process = server.Process(target=endure, args=(folder,))
        process.start()
        # Every fifth is killed while it starts or continues, the others while they train.
        assert waited_for(lambda: (tmp_path / "trains" if number % 5 else folder).exists())  # noqa: B023
        process.join(chance.uniform(0.0, 0.4))
        assert process.is_alive()
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        (state,) = find_runs(folder)
        assert state.state == "killed" or (state.state == "damaged" and not read_log(folder))
        paths = Store(folder).paths
        assert len(paths) <= 4
        for path in paths:
            assert load_tensors(path)[1]["step"] == step_of(path)
        assert state.step >= step_of(paths[-1]) >= reached if paths else not reached
        reached = step_of(paths[-1]) if paths else 0
    assert reached > 5
    assert same(trained(folder, LONG, SELDOM), trained(tmp_path / "whole", LONG, SELDOM))
    assert not list(folder.glob(".*"))
    steps = [entry["step"] for entry in read_log(folder) if "loss" in entry]
    assert steps == list(range(20, LONG.steps + 1, 20))


# Checkpoints


def test_the_latest_and_the_best_stay(tmp_path: Path) -> None:
    store = Store(tmp_path / "run", keep=2)
    for step, value in enumerate([5.0, 1.0, 3.0, 2.0, 4.0, 4.0], start=1):
        store.save(step, {"x": torch.full((2,), step)}, {"step": step, "value": value})
        assert store.best == store.folder / f"step-{1 if step == 1 else 2:09d}.safetensors"
    assert [step_of(path) for path in store.paths] == [2, 5, 6]
    again = Store(tmp_path / "run", keep=1)
    assert step_of(again.best) == 2
    again.save(7, {"x": torch.zeros(2)}, {"step": 7, "value": 1.0})
    assert [step_of(path) for path in again.paths] == [7]
    leftover = again.folder / ".1.2.step-000000008.safetensors"
    leftover.touch()
    assert again.newest().description["step"] == 7
    assert not leftover.exists()
    again.clear()
    assert not list(again.folder.iterdir())
    assert again.best is None
    assert again.newest() is None


def test_a_value_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    store = Store(tmp_path, keep=1)
    for step, value in enumerate([0.1, math.nan, 0.5, math.nan], start=1):
        store.save(step, {"x": torch.zeros(2)}, {"step": step, "value": value})
    assert [step_of(path) for path in store.paths] == [1, 4]
    assert step_of(Store(tmp_path, keep=1).best) == 1


def test_best_is_by_the_validation_of_averaged_weights(tmp_path: Path) -> None:
    network, found = build(), []
    values = iter([3.0, 1.0, 2.0, 5.0])

    def validate() -> float:
        found.append([parameter.detach().clone() for parameter in network.parameters()])
        assert not torch.is_grad_enabled()
        return next(values)

    fit(
        network,
        objective_of(network),
        Optimisation(steps=4, batch=2),
        folder=tmp_path,
        execution=EACH,
        validate=validate,
    )
    store = Store(tmp_path)
    assert store.best.name == "step-000000002.safetensors"
    tensors, description = load_tensors(store.best)
    assert description["value"] == 1.0
    for index, parameter in enumerate(found[1]):
        assert torch.equal(parameter, tensors[f"average.{index}"])
    other = build()
    fit(other, objective_of(other), Optimisation(steps=4, batch=2))
    assert same(network, other)


def test_everything_is_saved_that_continuing_needs_and_how(tmp_path: Path) -> None:
    interrupted(tmp_path, 7)
    tensors, description = load_tensors(Store(tmp_path).paths[-1])
    assert {name.split(".")[0] for name in tensors} == {"network", "average", "optimiser"}
    assert {name.split(".", 2)[2] for name in tensors if name.startswith("optimiser")} == {
        "step",
        "exp_avg",
        "exp_avg_sq",
    }
    assert description["step"] == 7
    assert description["execution"]["processes"] == 1
    assert description["options"]["steps"] == 50
    assert math.isfinite(description["loss"])


DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "short": lambda content: content[:-1],
    "empty": lambda content: b"",
    "flipped": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "zeros": lambda content: bytes(len(content)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "run"
    interrupted(folder, 30)
    before, last = Store(folder).paths[-2:]
    assert (step_of(before), step_of(last)) == (29, 30)
    last.write_bytes(DAMAGES[damage](last.read_bytes()))
    if damage != "flipped":
        assert [state.state for state in find_runs(folder)] == ["damaged"]
    with pytest.warns(UserWarning, match=rf"{last.name} \(.+\)\. Continuing from {before.name}"):
        network = trained(folder)
    assert (folder / f"{last.name}.damaged").is_file()
    assert same(network, trained(tmp_path / "whole"))
    logged, expected = (
        [(entry["step"], entry["loss"]) for entry in read_log(place) if "loss" in entry]
        for place in (folder, tmp_path / "whole")
    )
    assert logged == expected
    assert [step for step, _ in logged] == [20, 40, 50]


def test_only_damaged_checkpoints_are_an_error_and_then_a_new_start(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    interrupted(folder, 30)
    for path in Store(folder).paths:
        path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"All checkpoints in .*run are damaged: step-000000030.*from the start"):
        trained(folder)
    assert same(trained(folder), trained(tmp_path / "whole"))


def test_another_execution_continues_a_run_and_other_options_do_not(tmp_path: Path) -> None:
    interrupted(tmp_path / "run", 30)
    other = Execution(save_seconds=1.0, keep=5, accumulate=2)
    network = trained(tmp_path / "run", execution=other)
    for one, two in zip(network.parameters(), trained(tmp_path / "whole").parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="another run"):
        trained(tmp_path / "run", Optimisation(steps=51, batch=4, warmup=5))


# A full disk


def test_a_full_disk_stops_with_the_last_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, written = tmp_path / "run", iter(range(10**9))

    def write(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        if next(written) < 12:
            save_file(tensors, path, metadata=metadata)
            return
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("flowvid.train.checkpoint.save_file", write)
        with pytest.raises(
            ValueError, match=r"Could not save step 13 .*No space left on device.*last good checkpoint is .*step 12\)"
        ):
            trained(folder)
    assert load_tensors(Store(folder).paths[-1])[1]["step"] == 12
    assert not list(folder.glob(".*"))
    assert same(trained(folder), trained(tmp_path / "whole"))


def test_a_write_that_the_system_refuses_halfway_stops_alike(tmp_path: Path) -> None:
    """With a real limit on the size of files, which the writer of safetensors meets in the middle."""
    interrupted(tmp_path, 5)
    size = Store(tmp_path).paths[-1].stat().st_size
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
        with pytest.raises(ValueError, match=r"Could not save step 6 .*last good checkpoint is .*step 5\)"):
            trained(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert load_tensors(Store(tmp_path).paths[-1])[1]["step"] == 5
    assert not list(tmp_path.glob(".*"))


def test_no_room_for_the_log_stops_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: object, entry: dict) -> None:
        if entry["step"] > 30:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("flowvid.train.log.Log.write", write)
    with pytest.raises(ValueError, match=r"Could not write the log .*No space left.*step 39\)"):
        trained(tmp_path)


# Divergence


@pytest.mark.parametrize("bad", [27, 20, 1, 49])
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_divergence_names_step_samples_and_checkpoint(tmp_path: Path, bad: int, kind: str) -> None:
    """The step is exact though losses are read seldom; no saved state lies behind it."""
    network = build()
    objective, calls = objective_of(network), iter(range(1, 10**9))

    def broken(noise: Noise) -> Tensor:
        loss = objective(noise)
        if next(calls) != bad:
            return loss
        # The root of zero is finite and its slope is not.
        return loss * math.nan if kind == "loss" else loss + (loss - loss.detach()).sqrt()

    def names(noise: Noise) -> list[str]:
        return [f"clip {index}" for index in noise.integers("clip", 0, 1000).tolist()]

    clips = ", ".join(names(Noise.batch(SHORT.seed, SHORT.batch).fold(bad - 1)))
    execution = Execution(save_seconds=0.0 if bad % 2 else 1e9)
    with pytest.raises(ValueError, match=rf"in step {bad} \(samples {clips}\): training diverged\. Lower") as caught:
        fit(network, broken, SHORT, folder=tmp_path, execution=execution, names=names)
    saved = Store(tmp_path).paths
    if bad % 2 and bad > 1:
        assert f"The last good checkpoint is {saved[-1]} (step {bad - 1})" in str(caught.value)
        assert load_tensors(saved[-1])[1]["step"] == bad - 1
    else:
        assert "no checkpoint before" in str(caught.value)
        assert not saved
    (state,) = find_runs(tmp_path)
    assert state.state == "diverged"
    assert read_log(tmp_path)[-1]["at"] == bad


def test_without_names_the_seeds_are_told(tmp_path: Path) -> None:
    network = build()
    with pytest.raises(ValueError, match="in step 1 ") as caught:
        fit(network, lambda noise: network[0].weight.sum() * math.inf, Optimisation(steps=9, batch=20))
    seeds = Noise.batch(0, 20).fold(0).seeds
    assert f"(seeds {', '.join(map(str, seeds[:16]))} and 4 more)" in str(caught.value)


# Signals


def obey(folder: Path) -> None:
    """What the process does that is asked to end."""
    torch.set_num_threads(1)
    network = build()
    objective, calls = objective_of(network), iter(range(10**9))

    def announced(noise: Noise) -> Tensor:
        (folder.parent / f"call-{next(calls)}").touch()
        time.sleep(0.02)
        return objective(noise)

    try:
        fit(network, announced, SHORT, folder=folder, execution=Execution(save_seconds=1e9, command="flowvid train x"))
    except KeyboardInterrupt as error:
        (folder.parent / "said").write_text(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_saves_and_tells_the_command(
    tmp_path: Path, server: ForkServerContext, number: int
) -> None:
    folder = tmp_path / "run"
    process = server.Process(target=obey, args=(folder,))
    process.start()
    assert waited_for(lambda: (tmp_path / "call-2").exists())
    os.kill(process.pid or 0, number)
    process.join()
    assert process.exitcode == 0
    (path,) = Store(folder).paths
    step = load_tensors(path)[1]["step"]
    assert step == len(list(tmp_path.glob("call-*"))) >= 3
    said = f"Interrupted at step {step} of 50, saved in {path}; continue with: flowvid train x"
    assert (tmp_path / "said").read_text() == said
    (state,) = find_runs(folder)
    assert (state.state, state.step, state.note) == ("interrupted", step, "flowvid train x")
    assert same(trained(folder), trained(tmp_path / "whole"))


def test_a_second_ctrl_c_does_not_wait_for_the_step(tmp_path: Path) -> None:
    network, handler, asked = build(), signal.getsignal(signal.SIGINT), []

    def stuck(noise: Noise) -> Tensor:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        asked.append(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not interrupted")

    with pytest.raises(Interrupted, match="Interrupted at step 0 of 50, saved in"):
        fit(network, stuck, SHORT, folder=tmp_path)
    assert asked == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGINT) is handler
    assert same(trained(tmp_path), trained(tmp_path / "whole"))


def test_without_a_folder_nothing_is_kept() -> None:
    network = build()

    def stop(noise: Noise) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="at step 0 of 50; without a folder, nothing is saved"):
        fit(network, stop, SHORT)


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    network = build()
    objective, seen = objective_of(network), []

    def second(noise: Noise) -> Tensor:
        if not seen:
            seen.extend(state.state for state in find_runs(tmp_path))
            with pytest.raises(ValueError, match="Another process trains in"):
                trained(tmp_path)
        return objective(noise)

    fit(network, second, SHORT, folder=tmp_path)
    assert seen == ["running"]
    assert [state.state for state in find_runs(tmp_path)] == ["finished"]
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["event"] == "finished"
