"""Diagnostics: planted noise, exponents, curvature and lines are found; files, command and figure do what they say."""

import json
import math
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from flowvid.cli import main
from flowvid.data.footage.writers import write_video
from flowvid.data.trajectories import read_trajectory
from flowvid.data.worlds.clips import World
from flowvid.metrics.diagnostics import diagnose, power_spectrum
from flowvid.metrics.structure import StructureFunction, even_step, fit_power_law, structure_function
from flowvid.plot.diagnostics import draw_diagnosis
from flowvid.video import Trajectory, time_grid


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trajectory(states: Tensor, fps: float = 1.0) -> Trajectory:
    return Trajectory(states, torch.arange(states.shape[1], dtype=torch.float64) / fps)


def brownian(hurst: float, seed: int, *, clips: int = 24, moments: int = 128, entries: int = 4) -> Tensor:
    """Fractional Brownian motion with D(gap) = entries * (gap / moments)^(2 hurst), by the factor of its covariance."""
    times = np.arange(1, moments + 1) / moments
    power = 2 * hurst
    covariance = (times[:, None] ** power + times**power - np.abs(times[:, None] - times) ** power) / 2
    factor = torch.from_numpy(np.linalg.cholesky(covariance + 1e-13 * np.eye(moments)))
    return torch.einsum("ij,bjd->bid", factor, normal(seed, clips, moments, entries))


def waves(seed: int, *, noise: float, clips: int = 24, moments: int = 128, rate: float = 0.06) -> Tensor:
    """Slow sines of amplitude one, 0.06 to 0.12 radians per moment, with noise."""
    generator = torch.Generator().manual_seed(seed)
    phase, speed = (torch.rand(clips, 1, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    clean = torch.sin(2 * math.pi * phase + rate * (1 + speed) * torch.arange(moments)[:, None])
    return clean + noise * normal(seed + 1, clips, moments, 6)


# Structure functions


@given(st.integers(0, 1000), st.integers(8, 14), st.integers(1, 3))
def test_the_structure_function_is_its_definition(seed: int, moments: int, entries: int) -> None:
    states = normal(seed, 2, moments, entries)
    found = structure_function(trajectory(states, fps=4.0))
    assert found.gaps.tolist() == [(n + 1) / 4 for n in range(moments // 2)]
    assert found.entries == entries
    for index in range(moments // 2):
        lag = index + 1
        apart = (states[:, lag:] - states[:, :-lag]).square().sum(dim=2).mean(dim=1)
        assert torch.allclose(found.first[:, index], apart)
        if 2 * lag < moments:
            bend = states[:, 2 * lag :] - 2 * states[:, lag:-lag] + states[:, : -2 * lag]
            assert torch.allclose(found.second[:, index], bend.square().sum(dim=2).mean(dim=1))
        else:
            assert bool(found.second[:, index].isnan().all())
    assert torch.allclose(found.plateau, 2 * states.var(dim=1).sum(dim=1))


@given(st.floats(0.1, 3), st.floats(-1e4, 1e4), st.integers(1, 4))
def test_steady_motion_goes_with_the_square_of_the_gap_wherever_it_is(speed: float, start: float, entries: int) -> None:
    moving = start + speed * torch.arange(20, dtype=torch.float64)[None, :, None].expand(3, -1, entries)
    found = structure_function(trajectory(moving))
    assert torch.allclose(found.first[0], entries * speed**2 * found.gaps**2, rtol=1e-6)
    assert found.second[:, :9].max() < 1e-6
    law = fit_power_law(found)
    assert (law.hurst, law.noise) == (1.0, pytest.approx(0, abs=1e-4 * speed))
    assert law.scale == pytest.approx(entries * speed**2, rel=1e-6)


@pytest.mark.parametrize("hurst", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_planted_exponents_are_recovered(hurst: float, noise: float) -> None:
    states = brownian(hurst, 7) + noise * normal(8, 24, 128, 4)
    law = fit_power_law(structure_function(trajectory(states, fps=128.0)))
    assert law.hurst == pytest.approx(hurst, abs=0.05)
    assert law.hurst_error is not None
    assert 0.001 < law.hurst_error < 0.05
    if hurst >= 0.7:
        assert law.scale == pytest.approx(4, rel=0.25)
        assert law.noise == pytest.approx(noise, rel=0.1, abs=0.005)


@pytest.mark.parametrize("noise", [0.02, 0.05, 0.2, 0.5])
def test_planted_noise_is_recovered_below_smooth_motion(noise: float) -> None:
    law = fit_power_law(structure_function(trajectory(waves(3, noise=noise))))
    assert law.noise == pytest.approx(noise, rel=0.1)
    assert law.noise_error is not None
    assert 0 < law.noise_error < 0.1 * noise


def test_growth_faster_than_any_exponent_is_fitted_without_negative_noise() -> None:
    """D = gap^2.5 takes H = 1 and no noise; the factor is that of least squares with weights 1 / (D^2 gap)."""
    gaps = torch.arange(1, 9, dtype=torch.float64)
    values = gaps**2.5
    law = fit_power_law(
        StructureFunction(gaps, values[None], values[None], torch.full((1,), 1e6, dtype=torch.float64), 3)
    )
    assert (law.hurst, law.noise, law.fitted) == (1.0, 0.0, 8)
    weight = 1 / (values**2 * gaps)
    assert law.scale == pytest.approx(float((weight * gaps**2 * values).sum() / (weight * gaps**4).sum()))


def test_noise_alone_is_all_noise() -> None:
    law = fit_power_law(structure_function(trajectory(0.3 * normal(0, 30, 64, 5))))
    assert law.noise == pytest.approx(0.3, rel=0.05)


def test_the_jackknife_knows_how_far_the_estimates_scatter() -> None:
    laws = [
        fit_power_law(structure_function(trajectory(brownian(0.7, seed, clips=20, entries=1)))) for seed in range(24)
    ]
    scatter = float(np.std([law.hurst for law in laws], ddof=1))
    stated = float(np.mean([law.hurst_error for law in laws if law.hurst_error is not None]))
    assert 0.5 < stated / scatter < 2
    alone = fit_power_law(structure_function(trajectory(brownian(0.7, 0, clips=1))))
    assert alone.hurst_error is alone.noise_error is None


def test_units_of_time_and_space_go_through() -> None:
    states = waves(0, noise=0.1)
    one = fit_power_law(structure_function(trajectory(states)))
    other = fit_power_law(structure_function(trajectory(10 * states, fps=25.0)))
    assert other.hurst == one.hurst
    assert other.noise == pytest.approx(10 * one.noise)
    assert other.scale == pytest.approx(100 * one.scale * 25 ** (2 * one.hurst))


def test_backward_and_float32_trajectories_have_the_same_structure() -> None:
    states = waves(0, noise=0.1)
    forward = fit_power_law(structure_function(trajectory(states)))
    backward = Trajectory(states.flip(1).float(), -torch.arange(128, dtype=torch.float64))
    found = fit_power_law(structure_function(backward))
    assert found.hurst == pytest.approx(forward.hurst, abs=0.003)
    assert found.noise == pytest.approx(forward.noise, rel=1e-3)


def test_a_clip_is_measured_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    states = waves(0, noise=0.1, clips=5, moments=16)
    together = structure_function(trajectory(states))
    monkeypatch.setattr("flowvid.metrics.structure._BLOCK", 2 * 16 * 16)
    for found in (structure_function(trajectory(states)), structure_function(trajectory(states.float()))):
        assert torch.allclose(found.first, together.first, rtol=1e-5)
        assert torch.allclose(found.plateau, together.plateau, rtol=1e-5)
    alone = structure_function(trajectory(states[3:4]))
    assert torch.allclose(alone.first[0], together.first[3])


def test_nothing_that_moves_has_no_exponent() -> None:
    with pytest.raises(ValueError, match="Nothing moves"):
        fit_power_law(structure_function(trajectory(torch.ones(2, 9, 3))))


def test_even_steps() -> None:
    assert even_step(torch.tensor([1.0, 1.25, 1.5], dtype=torch.float64)) == 0.25
    assert even_step(torch.tensor([2.0, 1.0], dtype=torch.float64)) == -1
    with pytest.raises(ValueError, match="At least 2 moments are needed; got 1"):
        even_step(torch.zeros(1, dtype=torch.float64), least=0)
    with pytest.raises(ValueError, match="from 1 s to 2 s"):
        even_step(torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64))


# Spectra


def test_the_spectrum_of_noise_is_flat_and_integrates_to_its_variance() -> None:
    frequencies, power = power_spectrum(trajectory(0.5 * normal(0, 40, 128, 3), fps=10.0))
    assert frequencies[[0, -1]].tolist() == [0.0, 5.0]
    assert power[2:-1].tolist() == pytest.approx([2 * 3 * 0.25 / 10] * (len(power) - 3), rel=0.6)
    assert float(torch.trapezoid(power, frequencies)) == pytest.approx(3 * 0.25, rel=0.05)


def test_a_sine_has_its_line_and_its_energy() -> None:
    times = torch.arange(256, dtype=torch.float64) / 32
    states = torch.stack([3 * torch.sin(2 * math.pi * 4 * times), 5 + 0 * times], dim=1)[None].expand(2, -1, -1)
    frequencies, power = power_spectrum(Trajectory(states, times))
    assert float(frequencies[power.argmax()]) == pytest.approx(4)
    assert float(torch.trapezoid(power, frequencies)) == pytest.approx(9 / 2, rel=0.01)
    long = trajectory(states.repeat(1, 4, 1), fps=32.0)
    assert len(power_spectrum(long)[0]) == len(frequencies)


# Diagnoses


def test_curvature_of_sines_is_found_below_noise() -> None:
    """The second derivative of sin(w t) has the mean square w^4 / 2."""
    rate = 0.1 * 25
    times = torch.arange(200, dtype=torch.float64) / 25
    clean = torch.sin(rate * times[:, None] + normal(0, 40, 1, 4) * 10)
    for noise, tolerance in ((0.0, 0.01), (0.003, 0.02), (0.03, 0.1), (0.3, 0.2)):
        found = diagnose(Trajectory(clean + noise * normal(1, 40, 200, 4), times))
        assert found.curvature == pytest.approx(rate**2 / math.sqrt(2), rel=tolerance)
        assert found.deviation == pytest.approx(math.sqrt(0.5 + noise**2), rel=0.05)
        if noise < 0.1:
            assert found.law.hurst > 0.95
            assert found.horizon == pytest.approx(math.acos(0.1) / rate, rel=0.1)


def test_the_proposal_follows_from_noise_and_curvature() -> None:
    """gap_1 is the nearest moment to (8 sigma^2 / M2^2)^(1/4), K ends at the horizon, a chord stays in the noise."""
    found = diagnose(trajectory(waves(3, noise=0.1), fps=25.0))
    best = (8 * found.law.noise**2 / found.curvature**2) ** 0.25
    assert found.proposal.gap == pytest.approx(round(best * 25) / 25)
    assert found.proposal.gap > 2 / 25
    assert found.proposal.gap * 2 ** (found.proposal.scales - 1) <= found.horizon
    assert found.proposal.gap * 2**found.proposal.scales > found.horizon
    assert found.proposal.step == pytest.approx(math.sqrt(8 * found.law.noise / found.curvature))
    assert "noise makes one head beat Richardson weights" in found.table()


def test_clean_motion_is_given_the_shortest_gap_and_richardson_weights() -> None:
    found = diagnose(trajectory(waves(3, noise=0.0), fps=25.0))
    assert found.proposal.gap == pytest.approx(1 / 25)
    assert found.proposal.step == pytest.approx(math.sqrt(8 * 0.01 * found.deviation / found.curvature))
    assert "Richardson weights of two heads beat one head" in found.table()
    assert "velocities exist" in found.table()


def test_rough_paths_are_given_gaps_above_the_noise_and_samples() -> None:
    noise = 0.1
    found = diagnose(trajectory(brownian(0.5, 0) + noise * normal(1, 24, 128, 4), fps=128.0))
    quiet = (4 * 2 * 4 * found.law.noise**2 / found.law.scale) ** (1 / (2 * found.law.hurst))
    assert found.proposal.gap == pytest.approx(round(quiet * 128) / 128)
    assert found.proposal.gap > 2 / 128
    assert found.proposal.step == found.proposal.gap
    assert "paths are rough" in found.table()
    share = 1 - 2 ** (2 * found.law.hurst - 2)
    assert f"leaves {share:.0%} of the variance midway" in found.table()


def test_the_horizon_of_steady_motion() -> None:
    """Steady motion: D = v^2 gap^2 reaches 90 % of v^2 T (T + 1) / 6, the mean over pairs of T moments."""
    steady = torch.arange(60, dtype=torch.float64)[None, :, None]
    found = diagnose(trajectory(steady))
    assert found.horizon == math.ceil(math.sqrt(0.9 * 60 * 61 / 6))
    assert found.curvature == pytest.approx(0, abs=1e-5)
    assert found.proposal.step == found.proposal.gap * 2 ** (found.proposal.scales - 1)


class Maps:
    """Displacements over gaps of either sign."""

    gaps = (-0.5, 0.5, 1.0, 2.0)

    def rates(self, times: Sequence[float], states: Tensor, moving: Sequence[bool]) -> Tensor:
        return torch.stack([torch.full_like(states, 1 + (gap == 2)) for gap in self.gaps], dim=2)


def test_a_flow_map_adds_its_semigroup_gaps() -> None:
    """Steady motion at speed one, but over the gap of 2 s at speed two: two from two jumps of 1 s."""
    found = diagnose(trajectory(waves(0, noise=0.1)), flow_map=Maps())
    assert found.defects == pytest.approx((0, 2))
    assert "semigroup gap, level 2" in found.table()
    assert diagnose(trajectory(waves(0, noise=0.1))).defects is None


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (torch.zeros(0, 9, 2), "need a clip"),
        (torch.zeros(2, 9, 0), "need a clip"),
        (torch.zeros(2, 7, 2), "At least 8 moments are needed; got 7"),
        (torch.full((2, 9, 2), math.nan), "NaN or infinite"),
        (torch.full((2, 9, 2), 1.0), "Nothing moves"),
    ],
)
def test_what_cannot_be_diagnosed_is_told(states: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        diagnose(trajectory(states))
    if "moments" in message or "NaN" in message:
        with pytest.raises(ValueError, match=message):
            power_spectrum(trajectory(states))


def test_uneven_times_are_refused() -> None:
    times = torch.tensor([*range(9), 9.5], dtype=torch.float64)
    with pytest.raises(ValueError, match="evenly spaced"):
        diagnose(Trajectory(normal(0, 1, 10, 2), times))
    with pytest.raises(ValueError, match="evenly spaced"):
        power_spectrum(Trajectory(normal(0, 1, 10, 2), times))


def test_states_are_left_alone_and_their_layout_does_not_matter() -> None:
    states = waves(0, noise=0.1, clips=3, moments=20)
    before = states.clone()
    flat = diagnose(trajectory(states))
    assert diagnose(trajectory(states.unflatten(2, (1, 2, 3)))) == flat
    assert torch.equal(states, before)


# Files


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Threads and signals as they were."""
    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    yield
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, handler)


def layout(states: Tensor) -> Tensor:
    return states.unflatten(2, (1, 2, -1)).contiguous()


@pytest.mark.parametrize("name", ["a.npy", "a.safetensors", "b.safetensors"])
def test_a_file_of_states_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    states = layout(waves(0, noise=0.1, clips=2, moments=9))
    if name == "a.npy":
        np.save(tmp_path / name, states.numpy())
    else:
        more = {"mean": torch.zeros(3)} if name == "b.safetensors" else {}
        save_file({"states" if more else "latents": states, **more}, tmp_path / name)
    found = read_trajectory(tmp_path / name, fps=8.0)
    assert torch.equal(found.states, states)
    assert found.times.tolist() == [n / 8 for n in range(9)]


def test_files_that_hold_no_states_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "flat.npy", np.zeros((2, 9, 3)))
    np.save(tmp_path / "whole.npy", np.zeros((2, 9, 1, 3, 3), dtype=np.uint8))
    np.save(tmp_path / "text.npy", np.array(["a"]))
    (tmp_path / "a.npy").write_bytes(b"")
    (tmp_path / "a.safetensors").write_bytes(b"no tensors")
    (tmp_path / "a.csv").write_text("1,2")
    save_file({"a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "two.safetensors")
    for name, message in {
        "object.npy": "Cannot read .*object.npy",
        "flat.npy": r"shape \[batch, time, channel, height, width\]; got torch.float64 with shape \(2, 9, 3\)",
        "whole.npy": "got torch.uint8",
        "text.npy": "Cannot read",
        "a.npy": "Cannot read",
        "a.safetensors": "Cannot read .* as safetensors",
        "a.csv": r"read from \.npy or \.safetensors; got a\.csv",
        "two.safetensors": r"one named \"states\"; it holds \['a', 'b'\]",
        "none.npy": "there is none",
    }.items():
        with pytest.raises(ValueError, match=message):
            read_trajectory(tmp_path / name, fps=8.0)
    for fps in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="positive and finite"):
            read_trajectory(tmp_path / "flat.npy", fps=fps)


# Figure and command


def drawn(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("L"))
        assert pixels.std() > 10
        return image.size


def test_the_figure_has_a_panel_for_semigroup_gaps_where_there_are_any(tmp_path: Path) -> None:
    for name, flow_map, noise in (("a", None, 0.0), ("b", Maps(), 0.1)):
        found = diagnose(trajectory(waves(0, noise=noise)), flow_map=flow_map)
        draw_diagnosis(tmp_path / "new" / f"{name}.png", json.loads(json.dumps(found.content())))
    assert drawn(tmp_path / "new" / "a.png") == (1200, 480)
    assert drawn(tmp_path / "new" / "b.png") == (1800, 480)


def run(*arguments: str) -> int:
    try:
        return main(["diagnose", "--threads=1", "--device=cpu", *arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


def test_the_command_diagnoses_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", layout(waves(3, noise=0.1)).numpy())
    assert run(str(tmp_path / "a.npy"), "--fps=25", f"--out={tmp_path / 'out'}") == 0
    text = capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    expected = diagnose(trajectory(waves(3, noise=0.1), fps=25.0))
    assert content["law"]["noise"] == pytest.approx(expected.law.noise)
    assert content["gaps"] == pytest.approx(list(expected.gaps))
    assert content["proposal"]["reasons"] == list(expected.proposal.reasons)
    assert expected.table() in text
    assert str(tmp_path / "out" / "diagnosis.png") in text
    drawn(tmp_path / "out" / "diagnosis.png")


def test_the_command_diagnoses_moving_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--motion=orbit", "--digits=2", "--clips=3", "--seconds=2", "--fps=8"]
    assert run("digits", *options, f"--out={tmp_path}") == 0
    assert "3 of 17 moments, 0.125 s apart, 1024 entries each" in capsys.readouterr().out
    assert json.loads((tmp_path / "diagnosis.json").read_text())["law"]["hurst"] > 0.6


def test_the_command_diagnoses_footage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two clips of 17 frames from a file of 40, and none from one that is too short."""
    clips = World().clips(range(2), "test")
    for name, count, clip in (("long.mkv", 40, clips[0]), ("short.mkv", 5, clips[1])):
        write_video(tmp_path / "in" / name, clip.frames(time_grid(0.0, (count - 1) / 8, 1 / 8)), fps=8.0)
    assert run(str(tmp_path / "in"), "--seconds=2", "--side=16", f"--out={tmp_path}") == 0
    assert "2 of 17 moments, 0.125 s apart, 768 entries each" in capsys.readouterr().out
    assert run(str(tmp_path / "in"), "--seconds=9", f"--out={tmp_path}") == 2
    assert "No file of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: DATA"),
        (["none.npy"], "Expected --fps"),
        (["none.npy", "--fps=8"], "there is none"),
        (["a.npy", "--fps=8", "--clips=3"], "--clips is for what is drawn"),
        (["a.npy", "--fps=8", "--motion=spin"], "--motion is for what is drawn"),
        (["digits", "--side=8"], "--side is for footage"),
        (["a.mp4", "--digits=2"], "--digits is for digits"),
        (["digits", "--motion=walk"], "choose from .*flight"),
        (["digits", "--fps=0"], "must be positive; got fps=0"),
        (["digits", "--seconds=-1"], "seconds=-1"),
        (["digits", "--seconds=nan"], "seconds=nan"),
        (["digits", "--seconds=0.1", "--clips=2"], "At least 8 moments are needed"),
    ],
)
def test_the_command_tells_what_it_needs(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())
