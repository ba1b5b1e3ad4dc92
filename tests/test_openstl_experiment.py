"""The direct network of whole clips, OpenSTL's scores, and the experiment on synthetic digits."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import experiments.openstl as openstl
from experiments.openstl import draw, measure, openstl_scores, recipe, uniform_ssim
from flowvid.metrics.distortion import psnr, summed_absolute_error, summed_squared_error
from flowvid.models.clip_regression import ClipRegression
from flowvid.models.hub import load_pretrained
from flowvid.networks.trunk import count_parameters
from flowvid.noise import Noise
from flowvid.train.loop import Optimisation, fit
from flowvid.video import Condition, Trajectory, Video, time_grid

FRAME, GIVEN, AHEAD, CHANNELS = 0.1, 3, 2, 2


def direct(seed: int = 0, *, stirred: bool = True, **options: int) -> ClipRegression:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings_ = {"given": GIVEN, "ahead": AHEAD, "fold": 2, "width": 8, "depth": 1} | options
        model = ClipRegression(CHANNELS, frame=FRAME, **settings_).double()
        for parameter in model.parameters() if stirred else ():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def clips(count: int = 3, frames: int = GIVEN + AHEAD, *, seed: int = 0) -> Trajectory:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(count, frames, CHANNELS, 8, 8, generator=generator, dtype=torch.float64)
    return Trajectory(states, time_grid(0.0, (frames - 1) * FRAME, FRAME))


def known(count: int = 3, frames: int = GIVEN) -> Trajectory:
    return clips(count, frames)


# ----------------------------------------------------------------------------------------------------------------------
# The direct network
# ----------------------------------------------------------------------------------------------------------------------


def test_an_untrained_one_says_zero() -> None:
    assert bool((direct(stirred=False).predicted(known().states, AHEAD) == 0).all())


@pytest.mark.parametrize(("count", "windows"), [(1, 1), (2, 1), (3, 2), (5, 3)])
def test_beyond_its_reach_it_goes_on_from_its_own_frames(count: int, windows: int) -> None:
    model, prefix = direct(), known()
    times = [prefix.times[-1].item() + FRAME * n for n in range(1, count + 1)]
    found = model.sample(Condition(prefix), times, Noise.batch(0, 3))
    states = prefix.states
    for _ in range(windows):
        states = torch.cat((states, model(states[:, -GIVEN:])), dim=1)
    torch.testing.assert_close(found.trajectory.states, states[:, GIVEN : GIVEN + count])
    assert (found.evaluations, found.depth) == (windows, windows)


def test_known_frames_come_back_and_between_frames_it_is_linear() -> None:
    model, prefix = direct(), known(1, GIVEN + 1)
    last = prefix.times[-1].item()
    times = [0.0, 0.25 * FRAME, last, last + 0.5 * FRAME, last + 1.25 * FRAME]
    found = model.sample(Condition(prefix), times, Noise.batch(0, 1)).trajectory.states[0]
    ahead, given_ = model(prefix.states[:, -GIVEN:])[0], prefix.states[0]
    assert torch.equal(found[0], given_[0])
    assert torch.equal(found[2], given_[-1])
    torch.testing.assert_close(found[1], torch.lerp(given_[0], given_[1], 0.25))
    torch.testing.assert_close(found[3], torch.lerp(given_[-1], ahead[0], 0.5))
    torch.testing.assert_close(found[4], torch.lerp(ahead[0], ahead[1], 0.25))
    assert model.sample(Condition(prefix), prefix.times.tolist(), Noise.batch(0, 1)).evaluations == 0


def test_folds_become_channels_and_come_back() -> None:
    """A trunk that repeats the last frame's channels gives that frame, whatever the fold."""

    class Last(torch.nn.Module):
        def forward(self, grid: Tensor, scalars: Tensor) -> Tensor:
            return grid.unflatten(1, (GIVEN, -1))[:, -1:].expand(-1, AHEAD, -1, -1, -1).flatten(1, 2)

    for fold in (1, 2, 4):
        model = direct(fold=fold)
        model.trunk = Last()  # pyrefly: ignore
        states = known().states
        assert torch.equal(model(states), states[:, -1:].expand(-1, AHEAD, -1, -1, -1))


def test_the_loss_is_the_error_of_what_follows() -> None:
    model, data, noise = direct(), clips(16, GIVEN + AHEAD + 2), Noise.batch(1, 16)
    first = noise.integers("first", 0, 3).tolist()
    assert set(first) == {0, 1, 2}
    errors = []
    for row, start in enumerate(first):
        window = data.states[row : row + 1, start : start + GIVEN + AHEAD]
        errors.append((model(window[:, :GIVEN]) - window[:, GIVEN:]).square().mean())
    assert model.loss(data, noise).item() == pytest.approx(torch.stack(errors).mean().item())


def test_it_learns_a_linear_motion() -> None:
    torch.set_num_threads(1)
    model = direct(stirred=False, fold=1).float()
    start, velocity = torch.randn(2, 256, 1, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    number = torch.arange(GIVEN + AHEAD, dtype=torch.float32)[:, None, None, None] - GIVEN
    data = Trajectory(start + 0.3 * velocity * number, clips().times)
    model.prepare(data)

    def objective(noise: Noise) -> Tensor:
        return model.loss(Trajectory(data.states[noise.integers("clip", 0, 256)], data.times), noise)

    before = model.loss(data, Noise.batch(0, 256)).item()
    fit(model, objective, Optimisation(steps=60, batch=16, learning_rate=1e-2, warmup=5, average=0.8))
    assert model.loss(data, Noise.batch(0, 256)).item() < 0.3 * before


def test_a_sample_does_not_depend_on_its_batch() -> None:
    model, prefix = direct(), known()
    times = [prefix.times[-1].item() + FRAME]
    together = model.sample(Condition(prefix), times, Noise.batch(0, 3)).trajectory.states
    for row in range(3):
        alone = Condition(Trajectory(prefix.states[row : row + 1], prefix.times))
        torch.testing.assert_close(model.sample(alone, times, Noise.of([9])).trajectory.states[0], together[row])


def test_it_comes_back_from_a_folder(tmp_path: Path) -> None:
    model = direct().float()
    model.save_pretrained(tmp_path / "model")
    found = load_pretrained(tmp_path / "model")
    assert isinstance(found, ClipRegression)
    states = known().states.float()
    assert torch.equal(found.predicted(states, 3), model.predicted(states, 3))


def test_what_it_cannot_answer_is_refused() -> None:
    model, data, noise = direct(), clips(1, 8), Noise.batch(0, 1)
    for chosen in ([0, 1], [0, 1, 2, 6], [0, 2, 4]):
        with pytest.raises(ValueError, match="prefix of at least 3 frames"):
            model.sample(Condition(Trajectory(data.states[:, chosen], data.times[chosen])), [1.0], noise)
    with pytest.raises(ValueError, match="does not read text"):
        model.sample(Condition(data, ["a digit"]), [1.0], noise)
    with pytest.raises(ValueError, match=r"answers times from 0\.0 s on"):
        model.sample(Condition(data), [-0.05, 1.0], noise)
    with pytest.raises(ValueError, match="knows the solvers direct"):
        model.sample(Condition(data), [1.0], noise, solver="euler")
    with pytest.raises(ValueError, match="at least 5 frames"):
        model.loss(clips(1, 4), noise)
    with pytest.raises(ValueError, match="squares of 2 x 2"):
        model.prepare(Trajectory(data.states[..., :7], data.times))
    with pytest.raises(ValueError, match="reads 2 channels"):
        model.loss(Trajectory(data.states[:, :, :1], data.times), noise)
    for wrong in ({"given": 0}, {"ahead": 0}, {"fold": 0}, {"depth": 0}):
        with pytest.raises(ValueError, match="Expected frame > 0"):
            direct(**wrong)


# ----------------------------------------------------------------------------------------------------------------------
# OpenSTL's scores
# ----------------------------------------------------------------------------------------------------------------------


def frames(seed: int, *, side: int = 12) -> Tensor:
    return 2 * torch.rand(2, 3, 1, side, side, generator=torch.Generator().manual_seed(seed)) - 1


def test_scores_within_range_are_those_of_the_metrics() -> None:
    one, other = frames(0), frames(1)
    found, videos = openstl_scores(one, other), [Video(part, time_grid(0.0, 0.2, 0.1)) for part in (one, other)]
    for key, score in (("mse", summed_squared_error), ("mae", summed_absolute_error), ("psnr", psnr)):
        torch.testing.assert_close(found[key].double(), score(*videos).double())


def test_errors_are_taken_before_clipping_and_the_rest_after() -> None:
    truth, beyond = torch.ones(1, 1, 1, 8, 8), torch.full((1, 1, 1, 8, 8), 1.5)
    found = openstl_scores(beyond, truth)
    assert found["mse"].item() == pytest.approx(64 * 0.25**2)
    assert found["mae"].item() == pytest.approx(64 * 0.25)
    assert found["ssim"].item() == pytest.approx(1.0)
    assert found["psnr"].item() == pytest.approx(100.0)


def test_ssim_is_that_of_every_window() -> None:
    """The definition, window by window."""
    one, other = ((frames(seed, side=9)[:1, :1].double() + 1) / 2 for seed in (2, 3))
    a, b, scores = one[0, 0, 0].numpy(), other[0, 0, 0].numpy(), []
    for row in range(3):
        for column in range(3):
            x, y = (part[row : row + 7, column : column + 7].ravel() for part in (a, b))
            (xx, xy), (_, yy) = np.cov(x, y, ddof=1)
            light = (2 * x.mean() * y.mean() + 0.0004) / (x.mean() ** 2 + y.mean() ** 2 + 0.0004)
            scores.append(light * (2 * xy + 0.0036) / (xx + yy + 0.0036))
    assert uniform_ssim(one, other).item() == pytest.approx(float(np.mean(scores)))


@settings(max_examples=10)
@given(st.integers(0, 99), st.integers(100, 199))
def test_ssim_is_symmetric_and_at_most_one(seed: int, other: int) -> None:
    one, two = ((frames(n).double() + 1) / 2 for n in (seed, other))
    torch.testing.assert_close(uniform_ssim(one, two), uniform_ssim(two, one))
    torch.testing.assert_close(uniform_ssim(one, one), torch.ones(2, 3, dtype=torch.float64))
    assert bool((uniform_ssim(one, two) < 1).all())


# ----------------------------------------------------------------------------------------------------------------------
# The experiment
# ----------------------------------------------------------------------------------------------------------------------


def test_the_experiment_measures_draws_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = dataclasses.replace(recipe("quick"), most_steps=2, test_clips=3, width=8, memory=4)
    monkeypatch.setattr(openstl, "_TIMED", 1)
    content = measure(run, None, work=tmp_path / "work")
    rows = content["methods"]
    assert set(rows) == {"copy-last", "LSTM composite", "direct"}
    assert content["source"] == "scikit-learn's digits, not MNIST"
    for row in rows.values():
        assert len(row["mse_by_frame"]) == 10
        assert np.mean(row["mse_by_frame"]) == pytest.approx(row["mse"])
        assert 0 < row["mae"] < 4096
        assert -1 < row["ssim"] < 1
    assert [rows[name]["steps"] for name in ("LSTM composite", "direct")] == [2, 2]
    assert [found["key"] for found in content["claims"]] == ["O1", "O2", "O3"]
    described = content | {"recipe": dataclasses.asdict(run)}
    draw(json.loads(json.dumps(described)), tmp_path)
    assert (tmp_path / "openstl.png").stat().st_size > 0
    assert json.loads((tmp_path / "work" / "direct" / "steps.json").read_text())["steps"] == 2
    again = measure(run, None, work=tmp_path / "work")
    for name, row in rows.items():
        assert again["methods"][name]["mse"] == row["mse"]


def test_copy_last_repeats_the_tenth_frame(tmp_path: Path) -> None:
    run = recipe("quick")
    protocol, _ = openstl._protocol(run, None)
    clip = protocol.testing(range(run.test_clips))
    copied = clip.known.frames[:, -1:].expand_as(clip.target.frames)
    expected = ((copied - clip.target.frames) / 2).square().sum(dim=(2, 3, 4)).mean().item()
    assert openstl._tested(run, openstl.CopyLast(), protocol)["mse"] == pytest.approx(expected, rel=1e-6)


def test_the_direct_network_keeps_to_its_size() -> None:
    for scale in ("cpu", "gpu"):
        with torch.device("meta"):
            network = openstl._direct(recipe(scale))
        assert 1_000_000 < count_parameters(network) <= 10_000_000
    with pytest.raises(ValueError, match="got 'huge'"):
        recipe("huge")
