"""Training: the loop is AdamW with warm-up, cosine, clipping and averaging, and can be interrupted anywhere."""

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from flowvid.noise import Noise
from flowvid.train.checkpoint import load_tensors
from flowvid.train.loop import Execution, Optimisation, fit
from flowvid.train.store import Store

OFTEN = Execution(save_seconds=0.0)
TARGET = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


class Point(nn.Module):
    """Three weights, one of them frozen, and a buffer."""

    def __init__(self, start: float = 0.0, *, size: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), start, dtype=torch.float64))
        self.fixed = nn.Parameter(torch.ones(1), requires_grad=False)
        self.register_buffer("unit", torch.ones(1))


def noisy_square(point: Point, size: float = 1.0) -> Callable[[Noise], Tensor]:
    """Squared distance to a target that is seen through noise."""

    def objective(noise: Noise) -> Tensor:
        seen = TARGET + size * noise.normal("target", 3, dtype=torch.float64)
        return (point.weight - seen).square().mean()

    return objective


def interrupted(objective: Callable[[Noise], Tensor], at: int) -> Callable[[Noise], Tensor]:
    """The objective, with the user's interruption at one of its calls."""
    calls = iter(range(10**9))

    def wrapped(noise: Noise) -> Tensor:
        if next(calls) == at:
            raise KeyboardInterrupt
        return objective(noise)

    return wrapped


def newest(folder: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the description of a folder's latest checkpoint."""
    return load_tensors(Store(folder).paths[-1])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


# The schedule


@given(st.integers(1, 500), st.integers(0, 200), st.floats(1e-5, 1.0))
def test_rate_in_closed_form(steps: int, warmup: int, peak: float) -> None:
    options = Optimisation(steps=steps, warmup=warmup, learning_rate=peak)
    rates = [options.rate(step) for step in range(steps + 1)]
    cosine = [math.cos(math.pi * step / (2 * steps)) ** 2 for step in range(steps + 1)]
    assert rates[warmup:] == pytest.approx([peak * part for part in cosine[warmup:]], abs=1e-12)
    assert rates[:warmup] == pytest.approx(
        [peak * cosine[step] * (step + 1) / (warmup + 1) for step in range(min(warmup, steps + 1))], abs=1e-12
    )
    assert rates[0] == pytest.approx(peak / (warmup + 1))
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert max(rates) <= peak


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch": 0},
        {"warmup": -1},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"clip": 0.0},
        {"weight_decay": -0.1},
        {"average": 1.0},
        {"seed": 2**64},
    ],
)
def test_options_out_of_range_are_refused(wrong: dict) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"Expected.*{name}.*{name}={value}"):
        Optimisation(**({"steps": 1} | wrong))


# The loop


@settings(max_examples=25, deadline=None)
@given(
    st.builds(
        Optimisation,
        steps=st.integers(1, 40),
        batch=st.just(1),
        learning_rate=st.floats(1e-3, 0.3),
        warmup=st.integers(0, 10),
        weight_decay=st.floats(0, 1),
        clip=st.floats(0.01, 10),
        average=st.floats(0, 0.99),
    ),
    st.floats(-2, 2),
)
def test_fit_is_adamw_with_clipping_and_a_running_average(options: Optimisation, start: float) -> None:
    """Against the published update (algorithm 2 of the reference), written out for three numbers."""
    point = Point(start)
    fit(point, noisy_square(point), options)

    weight = average = np.full(3, start)
    first = second = np.zeros(3)
    for step in range(options.steps):
        seen = Noise.batch(options.seed, 1).fold(step).normal("target", 3, dtype=torch.float64)[0].numpy()
        slope = 2 / 3 * (weight - TARGET.numpy() - seen)
        slope = slope * min(1, options.clip / (np.linalg.norm(slope) + 1e-6))
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        rate = options.rate(step)
        move = first / (1 - 0.9 ** (step + 1)) / (np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8)
        weight = weight * (1 - rate * options.weight_decay) - rate * move
        keep = min(options.average, (step + 1) / (step + 10))
        average = keep * average + (1 - keep) * weight
    assert point.weight.detach().numpy() == pytest.approx(average, rel=1e-6, abs=1e-8)


def test_fit_minimises_a_convex_function() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    values = torch.randn(8, generator=generator, dtype=torch.float64)
    point = Point()
    options = Optimisation(steps=600, batch=1, learning_rate=0.05, warmup=5, weight_decay=0.0, average=0.9)
    fit(point, lambda noise: (matrix @ point.weight - values).square().mean(), options)
    best = torch.linalg.lstsq(matrix, values[:, None]).solution[:, 0]
    torch.testing.assert_close(point.weight.detach(), best, atol=1e-3, rtol=0)


def test_every_step_has_its_own_noise_and_every_run_the_same() -> None:
    def asked(seed: int) -> list[tuple[int, ...]]:
        seen, point = [], Point()

        def objective(noise: Noise) -> Tensor:
            seen.append(noise.seeds)
            return point.weight.square().sum()

        fit(point, objective, Optimisation(steps=7, batch=5, seed=seed))
        return seen

    first, second, other = asked(0), asked(0), asked(1)
    assert first == second
    assert len({seed for seeds in first + other for seed in seeds}) == 2 * 7 * 5


def test_what_is_frozen_stays() -> None:
    point = Point()
    fit(point, noisy_square(point), Optimisation(steps=5, weight_decay=0.5))
    assert point.fixed.item() == point.unit.item() == 1
    assert point.weight.abs().min() > 0


def test_progress_is_told_at_regular_steps_and_at_the_end() -> None:
    point, told = Point(), []
    fit(point, noisy_square(point), Optimisation(steps=47, batch=2), progress=lambda *report: told.append(report))
    assert [report[:2] for report in told] == [(20, 47), (40, 47), (47, 47)]
    assert all(0 < loss < 20 for _, _, loss in told)


def test_the_reported_loss_is_a_running_mean() -> None:
    point, told = Point(), []
    losses = iter([1.0] + [3.0] * 99)
    fit(
        point,
        lambda noise: point.weight.sum() * 0 + next(losses),
        Optimisation(steps=100, batch=1),
        progress=lambda step, steps, loss: told.append((step, loss)),
    )
    assert told == [(step, pytest.approx(3 - 2 * 0.98 ** (step - 1))) for step in (20, 40, 60, 80, 100)]


# Divergence


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("reported", [True, False])
def test_a_diverging_loss_is_an_error_within_a_few_steps(value: float, reported: bool) -> None:
    point, calls = Point(), []

    def objective(noise: Noise) -> Tensor:
        calls.append(1)
        return point.weight.square().sum() * (value if len(calls) > 5 else 1.0)

    with pytest.raises(ValueError, match=r"training diverged. Lower the learning rate \(0.002\)"):
        fit(point, objective, Optimisation(steps=1000), progress=(lambda *report: None) if reported else None)
    assert len(calls) <= 25


def test_a_diverged_state_does_not_replace_a_good_checkpoint(tmp_path: Path) -> None:
    path, point, calls = tmp_path / "point", Point(), []

    def objective(noise: Noise) -> Tensor:
        calls.append(1)
        return point.weight.square().sum() * (math.nan if len(calls) > 5 else 1.0)

    with pytest.raises(ValueError, match="diverged"):
        fit(point, objective, Optimisation(steps=1000), folder=path, execution=OFTEN)
    tensors, description = newest(path)
    assert description["step"] == 5
    assert all(tensor.isfinite().all() for tensor in tensors.values())


# Interruption


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.lists(st.integers(0, 12), max_size=4), st.sampled_from([0.0, 1e9]), st.integers(0, 2**31))
def test_an_interrupted_run_is_the_same_run(
    place: Path, steps: int, lengths: list[int], save_seconds: float, seed: int
) -> None:
    """Interrupted after each of the given numbers of steps, and continued by an object that knows only the file."""
    path, options = place / "point", Optimisation(steps=steps, batch=2, warmup=3, average=0.9, seed=seed)
    shutil.rmtree(path, ignore_errors=True)
    whole = Point(0.3)
    fit(whole, noisy_square(whole), options)
    done = 0
    for length in lengths:
        if done + length >= steps:
            break
        part = Point(-7.0 if done else 0.3)
        stop = interrupted(noisy_square(part), length)
        with pytest.raises(KeyboardInterrupt):
            fit(part, stop, options, folder=path, execution=Execution(save_seconds=save_seconds))
        done += length
        assert newest(path)[1]["step"] == done
    last = Point(-7.0 if done else 0.3)
    fit(last, noisy_square(last), options, folder=path, execution=Execution(save_seconds=save_seconds))
    assert torch.equal(last.weight, whole.weight)


@pytest.mark.parametrize("at", [20, 40])
def test_an_interruption_while_progress_is_told(tmp_path: Path, at: int) -> None:
    path, options = tmp_path / "point", Optimisation(steps=45, batch=2)
    whole, part, last = Point(), Point(), Point(9.0)
    fit(whole, noisy_square(whole), options)

    def progress(step: int, steps: int, loss: float) -> None:
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(part, noisy_square(part), options, folder=path, progress=progress)
    assert newest(path)[1]["step"] == at
    fit(last, noisy_square(last), options, folder=path)
    assert torch.equal(last.weight, whole.weight)


def test_an_interruption_inside_a_step_of_the_optimiser_never_repeats_the_step(tmp_path: Path) -> None:
    path, options = tmp_path / "point", Optimisation(steps=20, batch=2)
    whole, part, last = Point(), Point(), Point()
    fit(whole, noisy_square(whole), options)
    calls = []

    def stop(*_: object) -> None:
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt

    hook = register_optimizer_step_post_hook(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(part, noisy_square(part), options, folder=path, execution=OFTEN)
    finally:
        hook.remove()
    assert newest(path)[1]["step"] == 7
    fit(last, noisy_square(last), options, folder=path)
    assert torch.equal(last.weight, whole.weight)


def test_a_second_interruption_while_saving_keeps_the_first_checkpoint(tmp_path: Path) -> None:
    path, options, point = tmp_path / "point", Optimisation(steps=20, batch=2), Point()
    with pytest.raises(KeyboardInterrupt):
        fit(point, interrupted(noisy_square(point), 5), options, folder=path)
    (saved,) = Store(path).paths
    before = saved.stat().st_size
    again = Point()
    with pytest.raises(KeyboardInterrupt):
        fit(again, interrupted(noisy_square(again), 0), options, folder=path)
    tensors, description = newest(path)
    assert description["step"] == 5
    assert before == saved.stat().st_size
    assert {file.name for file in path.iterdir()} == {"log.jsonl", saved.name}
    assert torch.equal(tensors["network.weight"], again.weight)


def test_seconds_add_up_over_interruptions(tmp_path: Path) -> None:
    path, options, point = tmp_path / "point", Optimisation(steps=10, batch=2), Point()
    with pytest.raises(KeyboardInterrupt):
        fit(point, interrupted(noisy_square(point), 5), options, folder=path)
    spent = newest(path)[1]["seconds"]
    assert spent > 0
    assert fit(point, noisy_square(point), options, folder=path) > spent


# Refusals


def checkpoint(folder: Path, **run: object) -> Path:
    """The folder of a run of ten steps, interrupted after three."""
    path, point = folder / "point", Point()
    stop = interrupted(noisy_square(point), 3)
    with pytest.raises(KeyboardInterrupt):
        fit(point, stop, Optimisation(steps=10, batch=2), folder=path, run=run or None)
    return path


@pytest.mark.parametrize("other", [{"seed": 1}, {"learning_rate": 0.5}, {"steps": 11}, {"batch": 3}])
def test_a_checkpoint_with_other_options_is_refused(tmp_path: Path, other: dict) -> None:
    path, point = checkpoint(tmp_path), Point()
    ((name, value),) = other.items()
    options = dataclasses.replace(Optimisation(steps=10, batch=2), **other)
    with pytest.raises(ValueError, match=rf"another run \({name}: .* there, {value} here\).*or delete"):
        fit(point, noisy_square(point), options, folder=path)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path, point, options = checkpoint(tmp_path, speed=(1, 2), size=3), Point(), Optimisation(steps=10, batch=2)
    with pytest.raises(ValueError, match=r"another run \(speed: \[1, 2\] there, \[1, 4\] here\)"):
        fit(point, noisy_square(point), options, folder=path, run={"speed": (1, 4), "size": 3})
    fit(point, noisy_square(point), options, folder=path, run={"speed": (1, 2), "size": 3})
    assert point.weight.abs().min() > 0


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    path, point = checkpoint(tmp_path), Point(size=4)
    with pytest.raises(ValueError, match="not a checkpoint of this network"):
        fit(point, lambda noise: point.weight.sum(), Optimisation(steps=10, batch=2), folder=path)
