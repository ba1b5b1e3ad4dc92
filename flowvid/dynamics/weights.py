r"""Scale weights: how K average velocities combine into one, for the step h a solver takes.

The one rule is that the weights depend on the step: w(h) interpolates gap -> u(z, t, gap) at gap = h, so h = gap_k
gives the head itself (a jump, exact for a perfect head) and h -> 0 gives Richardson's instantaneous velocity
(SCIENCE P1). All weights sum to one; otherwise the error is of order one (P2).

- `lagrange` interpolates exactly; between distant gaps it uses only the nearest ones, since full interpolation
  amplifies errors catastrophically there (P3).
- `least_squares` is the best unbiased rule under independent frame noise: the slope of a polynomial fit (P5).
- `calibrated` minimises the mean squared error over all affine combinations on validation data, in closed form:
  w = S^-1 1 / (1' S^-1 1) with S the uncentred second moment of the heads' errors (P6). The default.
- `softmax`, `uniform`, `one_hot` are the ablations. No convex rule is better than first order (P4).

References:
    The Deferred Approach to the Limit (Richardson and Gaunt, 1927), https://doi.org/10.1098/rsta.1927.0008
    Smoothing and Differentiation of Data by Simplified Least Squares Procedures (Savitzky and Golay, 1964), https://doi.org/10.1021/ac60214a047
"""

__all__ = ["Calibration", "ScaleWeights", "calibrated", "lagrange", "least_squares", "one_hot", "softmax", "uniform"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy.linalg import LinAlgError

Weights = Float64[np.ndarray, "gap"]
ScaleWeights = Callable[[float], Weights]
"""A rule: step in seconds -> one weight per gap, summing to one."""


def lagrange(gaps: Sequence[float], h: float, *, local: int | None = None) -> Weights:
    """Interpolation weights at h (P1): exact when the trajectory is a polynomial of degree <= the gaps in use.

    Nearest is meant in ratio for gaps and steps beyond the shortest gap and in difference below it, as asinh measures
    it. With ``local=3`` no error is then amplified more than 5/3 times between dyadic gaps (P3); the three nearest in
    difference alone would extrapolate just above a gap, and amplify up to 2.75 times.

    Arguments:
        gaps: Signed gaps, all different.
        h: The step, any real number; 0 gives Richardson's weights.
        local: How many of the nearest gaps to use; all by default.

    Raises:
        ValueError: Two gaps are equal, or ``local`` is not between 1 and their number.
    """
    nodes = np.asarray(gaps, dtype=np.float64)
    local = len(nodes) if local is None else local
    if len(np.unique(nodes)) != len(nodes):
        raise ValueError(f"Interpolation needs different gaps; got {tuple(gaps)}.")
    if not 1 <= local <= len(nodes):
        raise ValueError(f"Expected to use between 1 and {len(nodes)} of the gaps; got local={local}.")
    unit = 2 * np.abs(nodes).min()
    chosen = np.argsort(np.abs(np.arcsinh(nodes / unit) - np.arcsinh(h / unit)), kind="stable")[:local]
    weights = np.zeros(len(nodes))
    for k in chosen:
        others = nodes[chosen[chosen != k]]
        weights[k] = np.prod((h - others) / (nodes[k] - others))
    return weights


def least_squares(gaps: Sequence[float], *, degree: int) -> Weights:
    """Best linear unbiased weights for the instantaneous velocity under independent frame noise (P5).

    They are the slope at the start of an ordinary least-squares polynomial through the K + 1 latents;
    ``degree = K`` is Richardson's rule.

    Arguments:
        gaps: Signed gaps.
        degree: Degree of the polynomial, between 1 and the number of gaps.

    Raises:
        ValueError: The degree is out of range.
    """
    nodes = np.asarray(gaps, dtype=np.float64)
    if not 1 <= degree <= len(nodes):
        raise ValueError(f"The degree must lie between 1 and the number of gaps, {len(nodes)}; got {degree}.")
    scaled = nodes / np.abs(nodes).max()
    fit = np.linalg.pinv(np.append(0.0, scaled)[:, None] ** np.arange(degree + 1))
    return scaled * fit[1, 1:]


def calibrated(moment: Float64[np.ndarray, "gap gap"], *, ridge: float = 1e-6) -> Weights:
    """Affine weights of least mean squared error given the heads' error moment S (P6).

    Arguments:
        moment: Uncentred second moment of the errors, symmetric positive semidefinite.
        ridge: Multiple of the mean diagonal added to it.

    Raises:
        ValueError: The moment is not finite or not positive definite even with the ridge.
    """
    weights = np.linalg.solve(_loaded(moment, ridge), np.ones(len(moment)))
    return weights / weights.sum()


def softmax(moment: Float64[np.ndarray, "gap gap"], *, ridge: float = 1e-6) -> Weights:
    """The best a convex gate can do: weights >= 0 summing to one of least error w' S w (P4's ablation).

    The minimum itself, not an approach to it: up to its sum, w solves min w' S w / 2 - 1' w over w >= 0, which an
    active set finds in a few steps (Lawson and Hanson). A softmax only tends to it where a weight is zero.

    Arguments:
        moment: Uncentred second moment of the errors, symmetric positive semidefinite.
        ridge: Multiple of the mean diagonal added to it.

    Raises:
        ValueError: The moment is not finite or not positive definite even with the ridge.
    """
    loaded = _loaded(moment, ridge)
    weights = np.zeros(len(loaded))
    inside = np.zeros(len(loaded), dtype=bool)
    for _ in range(10 * len(loaded)):
        gain = np.where(inside, -np.inf, 1 - loaded @ weights)
        if gain.max() <= 1e-12:
            break
        inside[gain.argmax()] = True
        while True:
            target = np.zeros(len(loaded))
            target[inside] = np.linalg.solve(loaded[np.ix_(inside, inside)], np.ones(inside.sum()))
            outside = inside & (target <= 0)
            if not outside.any():
                break
            share = (weights[outside] / (weights[outside] - target[outside])).min()
            weights += share * (target - weights)
            inside &= weights > 1e-12 * weights.max()
            weights[~inside] = 0.0
        weights = target
    return weights / weights.sum()


def _loaded(moment: Float64[np.ndarray, "gap gap"], ridge: float) -> Float64[np.ndarray, "gap gap"]:
    """The moment in units of its mean diagonal, plus the ridge; equal independent errors where all are zero."""
    unit = np.eye(len(moment))
    if not moment.any():
        return unit
    scale = float(np.trace(moment)) / len(moment)
    try:
        if not (np.isfinite(moment).all() and scale > 0):
            raise LinAlgError
        loaded = moment / scale + ridge * unit
        np.linalg.cholesky(loaded)
    except LinAlgError as error:
        raise ValueError("Weights need a finite, positive semidefinite error moment; got another.") from error
    return loaded


def uniform(gaps: Sequence[float]) -> Weights:
    """Equal weights (an ablation: inconsistent as an instantaneous velocity)."""
    return np.full(len(gaps), 1 / len(gaps))


def one_hot(gaps: Sequence[float], gap: float) -> Weights:
    """One head alone.

    Raises:
        ValueError: There is no head for this gap.
    """
    matches = np.isclose(gaps, gap, rtol=1e-9, atol=0)
    if matches.sum() != 1:
        raise ValueError(f"There is no head for a gap of {gap} s; the gaps are {tuple(gaps)} s.")
    return matches.astype(np.float64)


@dataclass(frozen=True)
class Calibration:
    """Joint second moments of head outputs and of true displacements, from which w(h) follows for any real h.

    The Gram matrix is over the vector (u_1, ..., u_K, d_-R, ..., d_R): the K estimated velocities of a state and the
    true displacements d_j = z(t + j * frame) - z(t) around it. The target velocity at a step h is a fixed linear
    combination of the d_j: interpolation of the average velocities d_j / (j * frame) at the five frames around h,
    which at h = 0 is the five-point central difference. The five change only where h is a multiple of the frame time,
    where interpolation is exact. So the error moment S(h) is a quadratic form of the Gram matrix, continuous in h
    and exact at every multiple of the frame time.

    Arguments:
        gaps: Signed gaps of the K heads, seconds.
        frame: Seconds between the frames the displacements come from.
        gram: The Gram matrix, shape (K + 2R + 1, K + 2R + 1), R >= 2.

    Raises:
        ValueError: The Gram matrix does not fit the gaps or is not finite.
    """

    gaps: tuple[float, ...]
    frame: float
    gram: Float64[np.ndarray, "entry entry"]

    def __post_init__(self) -> None:
        entries, count = len(self.gram), len(self.gaps)
        if entries < count + 5 or (entries - count) % 2 == 0:
            raise ValueError(
                f"A Gram matrix for {count} gaps has {count} + 2R + 1 rows, with displacements of R >= 2 frames to "
                f"either side; got {entries} rows."
            )
        if not np.isfinite(self.gram).all():
            raise ValueError("The Gram matrix holds NaN or infinity; check the heads and the states it came from.")

    def among(self, gaps: Sequence[float]) -> "Calibration":
        """The calibration of some of the heads.

        Arguments:
            gaps: Their gaps, among those of this calibration.
        """
        chosen = [self.gaps.index(gap) for gap in gaps]
        entries = [*chosen, *range(len(self.gaps), len(self.gram))]
        return Calibration(tuple(gaps), self.frame, self.gram[np.ix_(entries, entries)])

    def moment(self, h: float) -> Float64[np.ndarray, "gap gap"]:
        """Error moment S(h) of the heads taken as estimates of the average velocity over h.

        Rounding leaves the difference of nearly equal velocities slightly indefinite; negative eigenvalues are cut.

        Raises:
            ValueError: h lies beyond the frames that were calibrated on.
        """
        count = len(self.gaps)
        errors = np.concatenate((np.eye(count), np.tile(-self._target(h), (count, 1))), axis=1)
        values, vectors = np.linalg.eigh(errors @ self.gram @ errors.T)
        return (vectors * np.maximum(values, 0.0)) @ vectors.T

    def weights(self, h: float) -> Weights:
        """Calibrated weights w(h) (P6)."""
        return calibrated(self.moment(h))

    def error(self, h: float) -> float:
        """Root mean square error of the displacement over h made with the calibrated weights."""
        moment = self.moment(h)
        weights = calibrated(moment)
        return abs(h) * float(np.sqrt(max(weights @ moment @ weights, 0.0)))

    def _target(self, h: float) -> Float64[np.ndarray, "frame"]:
        """Coefficients of the displacements d_j in the average velocity over h."""
        reach = (len(self.gram) - len(self.gaps) - 1) // 2
        position = h / self.frame
        if abs(position) > reach + 1e-9:
            raise ValueError(f"Calibrated for steps up to {reach * self.frame} s; got {h} s.")
        first = min(max(int(position) - 2, -reach), reach - 4)
        nodes = np.arange(first, first + 5, dtype=np.float64)
        coefficients = np.zeros(2 * reach + 1)
        for index, node in enumerate(nodes):
            if node != 0:
                others = nodes[(nodes != node) & (nodes != 0)]
                coefficients[reach + first + index] = np.prod((position - others) / (node - others)) / node
        return coefficients / self.frame
