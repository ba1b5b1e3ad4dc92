"""What comes back in a sequence: runs that repeat an earlier run, and periods that fall between frames.

**Repeated runs.** Frames that show the same carry the same label. A run repeats an earlier one at a *lag* where
label[i] = label[i - lag] throughout it. The lags worth trying are those at which changes of label come back: each
change votes for its distance from the eight before it with the same label. Lags are tried from the most votes to the
fewest, and each takes the frames that no lag before it has explained. A run longer than its lag is a *loop* of that
period.

**Periods between frames.** A period of 12.5 frames shows no frame twice until the 25th. Let D(l) be the
root-mean-square distance of states l frames apart. Close to a period D is the distance a state moves in the time that
is left, D(l) ~ |l - period| D(1): at the two lags beside a period it adds up to D(1), and its ratio tells where the
period lies between them. The dips at multiples of the period sharpen it. All D(l) come from one Fourier transform.

References:
    Finding Maximal Repetitions in a Word in Linear Time (Kolpakov and Kucherov, 1999),
        https://doi.org/10.1109/SFFCS.1999.814634
    YIN, a Fundamental Frequency Estimator for Speech and Music (de Cheveigne and Kawahara, 2002),
        https://doi.org/10.1121/1.1458024
"""

__all__ = ["Run", "fractional_period", "lag_distances", "repeated_runs"]

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

_OCCURRENCES = 8
_LAGS = 256
_EXPLAINED = 0.75
_SLACK = 1.3
_DISTINCT = 1.5


@dataclass(frozen=True)
class Run:
    """Frames [start, stop) that repeat those ``lag`` before them.

    Arguments:
        start: First frame of the copy.
        stop: One past its last frame.
        lag: How many frames earlier the original is; less than the length for a loop.
    """

    start: int
    stop: int
    lag: int

    @property
    def loop(self) -> bool:
        """Whether the run goes on repeating itself: two whole periods at least, with the original."""
        return self.lag <= self.stop - self.start


def repeated_runs(
    labels: Int64[np.ndarray, "frame"], files: Int64[np.ndarray, "frame"], *, least: int = 2, gap: int = 2
) -> list[Run]:
    """Runs of frames that repeat an earlier run, in order; no frame belongs to two of them.

    A run must hold changes of label and explain three of four of them: stretches in which nothing changes, or little
    and slowly, fit many lags.

    Arguments:
        labels: Equal where frames show the same.
        files: Number of the file of each frame; neither a run nor its original crosses from one into the next.
        least: Fewest frames of a run.
        gap: Most frames in a row that may differ inside a run.
    """
    changed = np.ones(len(labels), dtype=bool)
    changed[1:] = (labels[1:] != labels[:-1]) | (files[1:] != files[:-1])
    free = np.ones(len(labels), dtype=bool)
    runs: list[Run] = []
    for lag in _voted(labels, np.flatnonzero(changed)):
        same = (labels[lag:] == labels[:-lag]) & free[lag:]
        copies, originals = files[lag:], files[:-lag]
        edges = (copies[1:] != copies[:-1]) | (originals[1:] != originals[:-1])
        for start, stop in _stretches(same, edges, gap):
            first, last = start + lag, stop + lag
            explained = same[start + 1 : stop][changed[first + 1 : last]]
            if last - first >= least and len(explained) and explained.mean() >= _EXPLAINED:
                runs.append(Run(first, last, lag))
                free[first:last] = False
    return sorted(runs, key=lambda run: run.start)


def lag_distances(states: Float[np.ndarray, "frame entry"], most: int) -> Float64[np.ndarray, "lag"]:
    """Root-mean-square distance of states 0, 1, ..., ``most`` frames apart.

    Arguments:
        states: One row for each frame.
        most: Greatest lag, less than the number of frames.
    """
    centred = states - states.mean(axis=0)
    frames = len(states)
    total = np.zeros(most + 1)
    for entries in np.array_split(centred, max(1, centred.shape[1] // 16), axis=1):
        waves = np.fft.rfft(entries, 2 * frames, axis=0)
        total += np.fft.irfft((waves.real**2 + waves.imag**2).sum(axis=1))[: most + 1]
    power = np.concatenate(([0.0], np.cumsum((centred**2).sum(axis=1))))
    lags = np.arange(most + 1)
    later, earlier = power[-1] - power[lags], power[frames - lags]
    return np.sqrt(np.maximum(later + earlier - 2 * total, 0) / (frames - lags))


def fractional_period(states: Float[np.ndarray, "frame entry"], *, noise: float = 0.0) -> float | None:
    """The least period of the states in frames, whole or not; None where there is none that occurs twice.

    Arguments:
        states: One row for each frame.
        noise: Distance of two states that show the same, which every distance holds.
    """
    most = len(states) // 2
    if most < 3:
        return None
    distance = np.sqrt(np.maximum(lag_distances(states, most) ** 2 - noise**2, 0))
    step = distance[1]
    # Squares of distances are differences of sums, so what is left of a zero is the root of rounding.
    if step <= 1e-5 * distance.max():
        return None
    pairs = distance[:-1] + distance[1:]
    far = np.maximum.accumulate(distance)[:-1] >= _DISTINCT * step
    close = np.flatnonzero(far & (pairs <= _SLACK * step))
    if not len(close):
        return None
    first = int(close[0])
    dip = first + int(np.argmin(pairs[first : first + 2]))
    return _sharpened(distance, _between(distance, dip))


def _voted(labels: Int64[np.ndarray, "frame"], changes: Int64[np.ndarray, "change"]) -> list[int]:
    """Lags at which changes of label come back, from the most votes to the fewest."""
    order = changes[np.argsort(labels[changes], kind="stable")]
    lags = [np.zeros(0, dtype=np.int64)]
    for back in range(1, min(_OCCURRENCES + 1, len(order))):
        later, earlier = order[back:], order[:-back]
        lags.append((later - earlier)[labels[later] == labels[earlier]])
    found, votes = np.unique(np.concatenate(lags), return_counts=True)
    return [int(lag) for lag in found[np.argsort(-votes, kind="stable")][:_LAGS]]


def _stretches(same: np.ndarray, edges: np.ndarray, gap: int) -> list[tuple[int, int]]:
    """Intervals [start, stop) in which ``same`` holds, but for at most ``gap`` places in a row.

    Where edges[i], an interval ends between i and i + 1.
    """
    places = np.flatnonzero(same)
    if not len(places):
        return []
    crossed = np.concatenate(([0], np.cumsum(edges)))[places]
    parted = (np.diff(places) > gap + 1) | (np.diff(crossed) > 0)
    firsts = np.concatenate(([0], np.flatnonzero(parted) + 1))
    lasts = np.concatenate((firsts[1:] - 1, [len(places) - 1]))
    return [(int(a), int(b) + 1) for a, b in zip(places[firsts], places[lasts], strict=True)]


def _between(distance: Float64[np.ndarray, "lag"], lag: int) -> float:
    """Where between two neighbouring lags a dip in the shape of a V has its tip."""
    left, right = distance[lag], distance[lag + 1]
    return lag + float(left / (left + right)) if left + right > 0 else float(lag)


def _sharpened(distance: Float64[np.ndarray, "lag"], period: float) -> float:
    """A period made sharper by the dips at its multiples, twice as many each time, while they lie where they should."""
    times = 2
    while times * period < len(distance) - 1:
        at = int(times * period + 0.5)
        around = np.arange(max(1, at - 2), min(len(distance) - 1, at + 2))
        pairs = distance[around] + distance[around + 1]
        if pairs.min() > _SLACK * distance[1]:
            break
        period = _between(distance, int(around[np.argmin(pairs)])) / times
        times *= 2
    return period
