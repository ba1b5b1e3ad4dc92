r"""Linear tokenisers of chunks of frames: what they lose, and how far they are from following a shift (SCIENCE T1-T4).

A tokeniser maps a chunk of p frames of d pixels to D floats, y_n = sum_k E_k x_(np + k). With S(f) the d x d spectrum
of the frames, H(f) = sum_k E_k exp(2 pi i f k) and f_j = (nu + j) / p:

- T1: the best one of a chunk keeps the D principal components of its covariance, and loses the other eigenvalues. No
  linear one of stride p, whatever its overlap, loses less than what is left when the D largest of all the eigenvalues
  of S(f_0), ..., S(f_(p - 1)) are taken away at every nu.
- T2: two chunks of p are one chunk of 2 p, so that at a fixed rate D / p the loss never rises when p doubles.
- T3: the tokens of a shifted video follow from those of the video, for every shift and video, only if the kernel of E
  is R^p x W, which is a tokeniser of single frames.
- T4: the tokens after a shift of s frames are predicted from all tokens with error

      int tr(P - X P^+ X*) dnu,   P = 1/p sum_j (H S H*)(f_j),   X = 1/p sum_j exp(2 pi i s f_j) (H S H*)(f_j),

  which for scalar tokens of a scalar process is SCIENCE's int 4 / (p^2 P) sum_(j < l) S_j S_l sin^2(pi s (j - l) / p).
  Predicting through the reconstruction instead shows that it is never above the loss if E has orthonormal rows.

Losses are squared errors per pixel.

References:
    Theory of optimal orthonormal subband coders (Vaidyanathan, 1998), https://doi.org/10.1109/78.678466
    Principal component filter banks for optimal multiresolution analysis (Tsatsanis and Giannakis, 1995), https://doi.org/10.1109/78.403336
"""

__all__ = [
    "chunk_covariance",
    "is_per_frame",
    "principal",
    "scalar_shift_error",
    "shift_error",
    "shift_residual",
    "spectral_bound",
    "spectrum",
    "tail",
]

import numpy as np
from jaxtyping import Complex128, Float64

_ZERO = 1e-9


def chunk_covariance(lags: Float64[np.ndarray, "frame pixel pixel"], frames: int) -> Float64[np.ndarray, "entry entry"]:
    """Covariance of a chunk, frame by frame.

    Arguments:
        lags: Cov(x_t, x_0) for t = 0, 1, ..., at least as many as frames.
        frames: p.
    """
    rows = [[lags[t - u] if t >= u else lags[u - t].T for u in range(frames)] for t in range(frames)]
    return np.block(rows)


def tail(covariance: Float64[np.ndarray, "entry entry"], floats: int) -> float:
    """What the best linear code of a chunk loses per pixel and frame (T1)."""
    values = np.linalg.eigvalsh(covariance)[::-1]
    return float(np.maximum(values[floats:], 0).sum() / len(values))


def principal(covariance: Float64[np.ndarray, "entry entry"], floats: int) -> Float64[np.ndarray, "float entry"]:
    """The principal components, the largest first: orthonormal rows."""
    return np.linalg.eigh(covariance)[1][:, ::-1][:, :floats].T


def spectrum(lags: Float64[np.ndarray, "frame pixel pixel"]) -> Complex128[np.ndarray, "frame pixel pixel"]:
    """S(f) at 0, 1 / n, ... cycles per frame, of a process that repeats after n frames."""
    return np.fft.fft(lags, axis=0)


def spectral_bound(power: Complex128[np.ndarray, "frame pixel pixel"], frames: int, floats: int) -> float:
    """What every linear tokeniser loses at least, per pixel and frame (T1).

    Arguments:
        power: S(f); their number is a multiple of ``frames``.
        frames: p.
        floats: D.
    """
    values = np.linalg.eigvalsh(power)
    pooled = np.sort(values.reshape(frames, -1, values.shape[1]).swapaxes(0, 1).reshape(-1, frames * values.shape[1]))
    return float(np.maximum(pooled[:, : pooled.shape[1] - floats], 0).sum() / values.size)


def shift_error(
    power: Complex128[np.ndarray, "frame pixel pixel"], tokeniser: Float64[np.ndarray, "float entry"], shift: int
) -> float:
    """Mean squared error of the best linear prediction of a chunk's tokens after a shift, summed over its floats (T4).

    Arguments:
        power: S(f) of frames.
        tokeniser: E, for chunks of whole frames.
        shift: s, in frames.
    """
    tokens, frequencies = _token_power(power, tokeniser)
    phase = np.exp(2j * np.pi * shift * frequencies)[:, :, None, None]
    plain, cross = tokens.mean(axis=0), (phase * tokens).mean(axis=0)
    explained = cross @ np.linalg.pinv(plain, rcond=_ZERO, hermitian=True) @ cross.conj().swapaxes(1, 2)
    return float(max(np.trace(plain - explained, axis1=1, axis2=2).real.mean(), 0.0))


def scalar_shift_error(
    power: Complex128[np.ndarray, "frame 1 1"], tokeniser: Float64[np.ndarray, "1 frames"], shift: int
) -> float:
    """The same for one float of a scalar process, as SCIENCE T4 prints it."""
    tokens, _ = _token_power(power, tokeniser)
    s, frames = tokens[:, :, 0, 0].real, tokens.shape[0]
    first, second = np.triu_indices(frames, 1)
    sines = np.sin(np.pi * shift * (first - second) / frames) ** 2
    pairs = (s[first] * s[second] * sines[:, None]).sum(axis=0)
    return float((4 * pairs / (frames**2 * s.mean(axis=0))).mean())


def _token_power(
    power: Complex128[np.ndarray, "frame pixel pixel"], tokeniser: Float64[np.ndarray, "float entry"]
) -> tuple[Complex128[np.ndarray, "alias nu float float"], Float64[np.ndarray, "alias nu"]]:
    """H S H* by alias and frequency of the tokens, with the frequencies in cycles per frame."""
    count, pixels = power.shape[:2]
    taps = tokeniser.reshape(len(tokeniser), -1, pixels)
    frames = taps.shape[1]
    frequencies = np.arange(count) / count
    waves = np.exp(2j * np.pi * np.outer(frequencies, np.arange(frames)))
    response = np.einsum("fk,akd->fad", waves, taps)
    tokens = response @ power @ response.conj().swapaxes(1, 2)
    return tokens.reshape(frames, -1, len(taps), len(taps)), frequencies.reshape(frames, -1)


def shift_residual(tokeniser: Float64[np.ndarray, "float entry"], frames: int) -> float:
    """How far the shifted tokens are from being a linear function of the tokens, at the worst shift: T3's left side.

    The share of the squared norm of the shifted rows outside of the span of the unshifted ones; zero if and only if
    A_s with E T_s = A_s E exists for every s.

    Arguments:
        tokeniser: E, of full row rank.
        frames: p.
    """
    basis = np.linalg.qr(tokeniser.T)[0].T
    nothing, entries = np.zeros_like(basis), basis.shape[1]
    pair = np.block([[basis, nothing], [nothing, basis]])
    worst = 0.0
    for shift in range(1, frames):
        moved = np.roll(np.hstack((basis, nothing)), shift * entries // frames, axis=1)
        worst = max(worst, float(((moved - moved @ pair.T @ pair) ** 2).sum() / len(basis)))
    return worst


def is_per_frame(tokeniser: Float64[np.ndarray, "float entry"], frames: int) -> bool:
    """Whether the kernel of E is R^p x W: T3's right side.

    W can only be what every frame may hold alone without being seen, so its dimension decides.

    Arguments:
        tokeniser: E.
        frames: p.
    """
    rank = np.linalg.matrix_rank(tokeniser, tol=_ZERO)
    by_frame = tokeniser.reshape(len(tokeniser), frames, -1).swapaxes(0, 1)
    unseen = by_frame.shape[2] - np.linalg.matrix_rank(by_frame.reshape(-1, by_frame.shape[2]), tol=_ZERO)
    return bool(tokeniser.shape[1] - rank == frames * unseen)
