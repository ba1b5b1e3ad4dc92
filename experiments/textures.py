r"""Drifting textures whose spectrum is known, as a patch of pixels sees them.

A texture is a Gaussian field on a long circle of pixels, in several rows, with power

    S(k) = (1 - e) c (1 + (2 pi k l)^2)^-a + e,        k in cycles per pixel,

of unit total: a length l, a decay a and a share e of noise that does not move with the texture. At v pixels per frame
a patch of ``width`` columns sees x_t(row, y) = g_row(y - v t) + noise, whose covariance is

    Cov(x_t(i, y), x_u(j, y')) = C_ij R(y - y' - v (t - u)) + e [t = u, i = j, y = y'].

Rows are independent of each other, or correlated as neighbouring columns are. One row of one pixel is a scalar process
of spectrum S(f / v) / v, folded. On a circle of N pixels everything repeats after N / v frames, so its spectra are
finite sums and nothing is truncated.

References:
    Statistics of natural time-varying images (Dong and Atick, 1995), https://doi.org/10.1088/0954-898X_6_3_003
"""

__all__ = ["Texture"]

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64

from flowvid.noise import Noise


@dataclass(frozen=True, kw_only=True)
class Texture:
    """A drifting texture seen by a patch.

    Arguments:
        rows: Rows of the patch.
        width: Columns of the patch.
        speed: Pixels per frame; it divides ``circle``.
        correlated: Whether rows are correlated as columns are; otherwise they are independent.
        length: l, in pixels.
        decay: a.
        noise: e, in [0, 1].
        circle: Pixels of the circle.
    """

    rows: int = 1
    width: int = 1
    speed: int = 1
    correlated: bool = False
    length: float = 3.08
    decay: float = 1.88
    noise: float = 0.0416
    circle: int = 1024

    @property
    def pixels(self) -> int:
        """Pixels of the patch."""
        return self.rows * self.width

    @property
    def frames(self) -> int:
        """Frames until everything repeats."""
        return self.circle // self.speed

    def power(self) -> Float64[np.ndarray, "wave"]:
        """Spectrum of the moving part at 0, 1 / N, ... cycles per pixel, of mean one."""
        waves = np.fft.fftfreq(self.circle)
        power = (1 + (2 * np.pi * waves * self.length) ** 2) ** -self.decay
        return power / power.mean()

    def correlation(self) -> Float64[np.ndarray, "pixel"]:
        """R of the moving part at lags of 0, 1, ... pixels on the circle."""
        return np.fft.ifft(self.power()).real

    def row_covariance(self) -> Float64[np.ndarray, "row row"]:
        """C."""
        apart = np.abs(np.subtract.outer(np.arange(self.rows), np.arange(self.rows)))
        return self.correlation()[apart] if self.correlated else np.eye(self.rows)

    def lags(self) -> Float64[np.ndarray, "frame pixel pixel"]:
        """Cov(x_t, x_0) for every t until everything repeats."""
        columns, times = np.arange(self.width), np.arange(self.frames)
        apart = columns[:, None] - columns - self.speed * times[:, None, None]
        moving = self.correlation()[apart % self.circle]
        lags = np.einsum("ij,tyz->tiyjz", self.row_covariance(), moving).reshape(-1, self.pixels, self.pixels)
        lags *= 1 - self.noise
        lags[0] += self.noise * np.eye(self.pixels)
        return lags

    def draw(self, seed: int, part: str, clips: int) -> Float64[np.ndarray, "clip frame pixel"]:
        """Whole turns of the patch around the circle.

        Arguments:
            seed: The seed; clip i does not depend on how many there are.
            part: What they are for; parts are independent.
            clips: How many.
        """
        noise = Noise.batch(seed, clips).fold(part)
        white = noise.normal("texture", self.rows, self.circle, dtype=torch.float64).numpy()
        moving = np.fft.ifft(np.fft.fft(white) * np.sqrt(self.power())).real
        factor = np.linalg.cholesky(self.row_covariance())
        seen = np.arange(self.width) - self.speed * np.arange(self.frames)[:, None]
        patches = np.einsum("ij,cjty->ctiy", factor, moving[:, :, seen % self.circle]).reshape(clips, self.frames, -1)
        still = noise.normal("noise", self.frames, self.pixels, dtype=torch.float64).numpy()
        return np.sqrt(1 - self.noise) * patches + np.sqrt(self.noise) * still
