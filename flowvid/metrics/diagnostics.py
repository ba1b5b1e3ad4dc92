r"""Diagnostics of trajectories before a model is trained on them: noise, roughness, curvature, spectrum, consistency.

From the structure function come the noise sigma per entry, the exponent H, and the gap after which moments of a clip
are as far apart as unrelated ones. Second differences of energy S(gap) = 6 d sigma^2 + d M2^2 gap^4 give the
curvature M2, the root mean square of the second derivative per entry: M2^2 = (S(2 g) - S(g)) / (15 d g^4), at the
first g where S(2 g) is at least twice S(g). These fix what a multi-scale model needs (SCIENCE sections 1 and 2):

- *gap_1*, the shortest gap: one head has the squared error gap^2 M2^2 / 4 + 2 sigma^2 / gap^2 per entry, least at
  gap = (8 sigma^2 / M2^2)^(1/4). On rough paths (H < 3/4) there is no curvature to weigh, and gap_1 is the first gap
  at which motion moves twice as far as noise does.
- *K*, the number of gaps, doubled each time up to the gap where D reaches 90 % of its plateau: beyond, a displacement
  is no easier to predict than the difference of unrelated moments.
- *step*, what a solver of the velocity field may take between states: the chord of a step h is within h^2 M2 / 8 of a
  curve, which should stay below the noise or one percent of the deviation of the states, whichever is larger.

These are proposals to start from, each printed with the numbers it rests on; validation decides.

References:
    Smoothing and Differentiation of Data by Simplified Least Squares Procedures (Savitzky and Golay, 1964), https://doi.org/10.1021/ac60214a047
    The Use of Fast Fourier Transform for the Estimation of Power Spectra (Welch, 1967), https://doi.org/10.1109/TAU.1967.1161901
"""

__all__ = ["Diagnosis", "Proposal", "diagnose", "power_spectrum"]

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float64
from scipy.signal import welch
from torch import Tensor

from flowvid.metrics.rhythm import semigroup_gaps
from flowvid.metrics.structure import (
    SHORTEST,
    PowerLaw,
    StructureFunction,
    even_step,
    fit_power_law,
    structure_function,
)
from flowvid.solve.jump import FlowMap
from flowvid.video import Trajectory

_ROUGH = 0.75
_PLATEAU = 0.9
_SEGMENT = 256


@dataclass(frozen=True)
class Proposal:
    """Where to start, and why.

    Arguments:
        gap: The shortest gap in seconds, a whole number of the moments' step.
        scales: Number K of gaps gap, 2 gap, 4 gap, ...
        step: Seconds that a solver of the velocity field may step.
        reasons: One sentence each.
    """

    gap: float
    scales: int
    step: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Diagnosis:
    """What was found in a set of trajectories; plain numbers, ready to be written as JSON.

    Arguments:
        clips: Number of trajectories.
        moments: Moments of each.
        entries: Entries of a state.
        step: Seconds between moments.
        law: The fit of the structure function.
        curvature: Root mean square of the second derivative per entry, in units per second squared.
        deviation: Standard deviation per entry within a clip.
        horizon: Gap in seconds where D first reaches 90 % of its plateau, or half of a clip where it does not.
        gaps: Gaps in seconds of the structure function.
        structure: D at these gaps, mean over clips.
        frequencies: Hertz.
        power: Power spectral density, sum over entries, in squared units per hertz.
        defects: Mean semigroup gap of every level of a flow map; None without one.
        proposal: What to start from.
    """

    clips: int
    moments: int
    entries: int
    step: float
    law: PowerLaw
    curvature: float
    deviation: float
    horizon: float
    gaps: tuple[float, ...]
    structure: tuple[float, ...]
    frequencies: tuple[float, ...]
    power: tuple[float, ...]
    defects: tuple[float, ...] | None
    proposal: Proposal

    def content(self) -> dict[str, Any]:
        """Everything as JSON holds it."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """Everything but the curves, one line each, and the reasons of the proposal."""
        law, proposal = self.law, self.proposal
        share = 2 * self.entries * law.noise**2 / self.structure[0] if self.structure[0] else 0.0
        rows = [
            ("clips", f"{self.clips} of {self.moments} moments, {self.step:g} s apart, {self.entries} entries each"),
            ("deviation within clips", f"{self.deviation:.4g} per entry"),
            ("noise sigma", f"{law.noise:.3g}{_error(law.noise_error)} per entry, {share:.0%} of D at the first gap"),
            ("exponent H", f"{law.hurst:.3f}{_error(law.hurst_error)}, fitted on {law.fitted} gaps"),
            ("curvature M2", f"{self.curvature:.4g} per entry and s^2"),
            ("horizon", f"{self.horizon:.4g} s"),
        ]
        for level, defect in enumerate(self.defects or (), start=1):
            rows.append((f"semigroup gap, level {level}", f"{defect:.3g} per entry"))
        rows += [
            ("proposed gap_1", f"{proposal.gap:g} s"),
            ("proposed K", f"{proposal.scales}"),
            ("proposed step", f"{proposal.step:.3g} s"),
        ]
        lines = [f"{name:<24}{value}" for name, value in rows]
        return "\n".join([*lines, "", *(f"- {reason}" for reason in proposal.reasons)])


def power_spectrum(trajectory: Trajectory) -> tuple[Float64[Tensor, "frequency"], Float64[Tensor, "frequency"]]:
    """One-sided power spectral density along time by Welch's method: hertz, and squared units per hertz.

    Segments of at most 256 moments, half overlapping, are freed of their mean and tapered (Hann). Powers are summed
    over entries and averaged over clips, so the integral over frequency is the variance within segments.

    Raises:
        ValueError: There are fewer than 8 moments, they are not evenly spaced, or a state is not finite.
    """
    step = abs(even_step(trajectory.times, least=SHORTEST))
    if not bool(torch.isfinite(trajectory.states).all()):
        raise ValueError("A spectrum needs finite states; some are NaN or infinite.")
    total: Tensor | None = None
    frequencies = torch.zeros(0, dtype=torch.float64)
    for clip in trajectory.states.detach().flatten(2).cpu():
        grid, power = welch(clip.double().numpy(), fs=1 / step, nperseg=min(_SEGMENT, len(clip)), axis=0)
        summed = torch.from_numpy(power.sum(axis=1))
        total = summed if total is None else total + summed
        frequencies = torch.from_numpy(grid)
    assert total is not None, "a trajectory holds a clip"
    return frequencies, total / len(trajectory)


def diagnose(trajectory: Trajectory, *, flow_map: FlowMap | None = None) -> Diagnosis:
    """All diagnostics of a set of trajectories, and what they propose.

    Arguments:
        trajectory: Clips of latent states or frames, evenly spaced in time.
        flow_map: A model whose semigroup gaps are measured along them.

    Raises:
        ValueError: There are no clips, fewer than 8 moments, they are not evenly spaced, a state is not finite, nothing
            moves, or the gaps of the flow map do not double.
    """
    if not len(trajectory) or not trajectory.states[0].numel():
        raise ValueError(f"Diagnostics need a clip with states; got shape {tuple(trajectory.states.shape)}.")
    structure = structure_function(trajectory)
    law = fit_power_law(structure)
    first, plateau = structure.first.mean(dim=0), float(structure.plateau.mean())
    horizon = float(structure.gaps[_first(first >= _PLATEAU * plateau)])
    curvature = _curvature(structure)
    deviation = math.sqrt(plateau / (2 * structure.entries))
    frequencies, power = power_spectrum(trajectory)
    with torch.no_grad():
        defects = None if flow_map is None else tuple(semigroup_gaps(flow_map, trajectory).mean(dim=(0, 1)).tolist())
    return Diagnosis(
        clips=len(trajectory),
        moments=len(trajectory.times),
        entries=structure.entries,
        step=float(structure.gaps[0]),
        law=law,
        curvature=curvature,
        deviation=deviation,
        horizon=horizon,
        gaps=tuple(structure.gaps.tolist()),
        structure=tuple(first.tolist()),
        frequencies=tuple(frequencies.tolist()),
        power=tuple(power.tolist()),
        defects=defects,
        proposal=_propose(structure, law, curvature=curvature, deviation=deviation, longest=horizon),
    )


def _first(found: Bool[Tensor, "place"]) -> int:
    """The first place that is found, or the last of all."""
    return int(found.int().argmax()) if bool(found.any()) else len(found) - 1


def _curvature(structure: StructureFunction) -> float:
    """Root mean square of the second derivative per entry, from gaps at which motion bends more than noise does."""
    energy = structure.second.mean(dim=0)
    energy = energy[~energy.isnan()] / structure.entries
    wide = energy[1::2]
    bend = wide - energy[: len(wide)]
    at = _first(wide >= 2 * energy[: len(wide)])
    return math.sqrt(max(float(bend[at]), 0.0) / 15) / float(structure.gaps[at]) ** 2


def _propose(
    structure: StructureFunction, law: PowerLaw, *, curvature: float, deviation: float, longest: float
) -> Proposal:
    """gap_1, K and step with the numbers they rest on."""
    frame = float(structure.gaps[0])
    rough = law.hurst < _ROUGH
    best = _quiet_gap(structure, law) if rough else _best_gap(law.noise, curvature)
    gap = frame * max(1, min(round(best / frame) if math.isfinite(best) else len(structure.gaps), len(structure.gaps)))
    gap = min(gap, max(frame, frame * math.floor(longest / frame + 1e-9)))
    scales = 1 + max(0, math.floor(math.log2(longest / gap) + 1e-9))
    reasons = [_about_roughness(law, rough)]
    if rough:
        reasons.append(f"gap_1: motion moves twice as far as noise from {best:.3g} s on; used: {gap:g} s.")
        step = gap
        reasons.append("step: rough paths reward no order, so as long as gap_1.")
    else:
        limit = 0.24 * gap**2 * curvature
        better = "Richardson weights of two heads beat" if law.noise <= limit else "noise makes one head beat"
        reasons.append(
            f"gap_1: the best gap of one head, (8 sigma^2 / M2^2)^(1/4), is {best:.3g} s; used: {gap:g} s. There sigma "
            f"= {law.noise:.3g} against 0.24 gap_1^2 M2 = {limit:.3g}: {better} "
            f"{'one head' if law.noise <= limit else 'Richardson weights'}."
        )
        tolerance = max(law.noise, 0.01 * deviation)
        most = gap * 2 ** (scales - 1)
        step = min(math.sqrt(8 * tolerance / curvature) if curvature > 0 else math.inf, most)
        reasons.append(
            f"step: chords stay within step^2 M2 / 8 of the path; the larger of sigma and 1 % of the deviation, "
            f"{tolerance:.3g}, allows {step:.3g} s (at most the longest gap, {most:g} s)."
        )
    reasons.insert(2, f"K: gaps double from {gap:g} s up to {longest:.3g} s, the horizon.")
    return Proposal(gap, scales, step, tuple(reasons))


def _best_gap(noise: float, curvature: float) -> float:
    if noise == 0:
        return 0.0
    return (8 * noise**2 / curvature**2) ** 0.25 if curvature > 0 else math.inf


def _quiet_gap(structure: StructureFunction, law: PowerLaw) -> float:
    """The gap at which motion has four times the energy of noise; infinite where nothing but noise was found."""
    noise = 2 * structure.entries * law.noise**2
    if noise == 0:
        return 0.0
    return (4 * noise / law.scale) ** (1 / (2 * law.hurst)) if law.scale > 0 else math.inf


def _about_roughness(law: PowerLaw, rough: bool) -> str:
    share = 1 - 2 ** (2 * law.hurst - 2)
    if rough:
        return (
            f"H = {law.hurst:.2f} < {_ROUGH}: paths are rough, mean velocities grow like gap^{law.hurst - 1:.2f} as "
            f"gaps shrink, and futures branch: sample them. Knowing the end leaves {share:.0%} of the variance midway."
        )
    return (
        f"H = {law.hurst:.2f}: velocities exist, so short heads mean something. Knowing the end leaves {share:.0%} of "
        "the variance midway."
    )


def _error(value: float | None) -> str:
    return "" if value is None else f" +- {value:.2g}"
