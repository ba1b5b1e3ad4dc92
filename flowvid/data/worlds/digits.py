"""Real handwritten digits, and how they are drawn at any place and angle.

The digits are the 1797 of scikit-learn, 8 x 8 pixels each, written by people. A glyph is drawn with its *intensity
centroid* at a given real position. Pixel i of the glyph sits at x_i = x + scale (i - centroid) and is spread by the
hat function, which is bilinear enlargement by ``scale`` with zeros outside:

    frame = K_y glyph K_x^T,    K_x[j, i] = hat((j + 1/2 - x_i) / scale),    hat(s) = max(0, 1 - |s|).

Hat functions of an integer width sampled at the integers reproduce linear functions, so the centroid of the drawn
frame *is* the position, to rounding, for every sub-pixel position, as long as the ink lies inside the canvas. A
measured centroid can therefore be compared with the true motion. A turned glyph is sampled bilinearly at the turned
pixel centres; there the centroid holds to a few hundredths of a pixel.

The canvas spans [0, canvas]^2, with pixel centres at integers + 1/2.

References:
    Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998), https://doi.org/10.24432/C50P49
    Spatial Transformer Networks (Jaderberg et al., 2015), arXiv:1506.02025
"""

__all__ = ["SPLITS", "Glyphs", "centroid", "ink_box", "ink_radius", "load_glyphs", "render"]

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from flowvid.noise import Noise

SPLITS = ("train", "validation", "test")

_SHARES = (0.7, 0.8, 1.0)
_CHUNK = 1 << 21


@dataclass(frozen=True, slots=True, eq=False)
class Glyphs:
    """Images of digits and what they show.

    Arguments:
        images: Ink in [0, 1], shape (n, row, column), 8 x 8 for scikit-learn's; row 0 is the top.
        labels: The digits 0..9, shape (n,).
    """

    images: Float32[Tensor, "n row column"]
    labels: Int64[Tensor, "n"]

    def __len__(self) -> int:
        return len(self.images)


@functools.cache
def load_glyphs(split: str) -> Glyphs:
    """The digits of a split: about 70 % "train", 10 % "validation", 20 % "test", in these shares for every digit.

    The splits are disjoint and fixed. The digits carry no writer, so one writer's hand may appear in several splits.

    Raises:
        ValueError: The split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"The splits are {', '.join(SPLITS)}; got {split!r}.")
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(images).to(torch.float32).reshape(-1, 8, 8) / 16
    labels = torch.from_numpy(labels).to(torch.int64)
    rank = Noise.of([0]).uniform("glyphs", len(labels), dtype=torch.float64)[0]
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for digit in range(10):
        members = (labels == digit).nonzero()[:, 0]
        members = members[rank[members].argsort()]
        edges = [0, *(round(share * len(members)) for share in _SHARES)]
        place = SPLITS.index(split)
        chosen[members[edges[place] : edges[place + 1]]] = True
    return Glyphs(images[chosen], labels[chosen])


def centroid(glyphs: Float[Tensor, "*batch row column"]) -> Float64[Tensor, "*batch 2"]:
    """The intensity centroids (x, y) in glyph pixels, with pixel centres at integers + 1/2.

    Raises:
        ValueError: A glyph has no ink.
    """
    glyphs = glyphs.to(torch.float64)
    ink = glyphs.sum((-2, -1))
    if not bool((ink > 0).all()):
        raise ValueError("A glyph without ink has no centroid; got an image whose values do not sum to more than 0.")
    rows, columns = (torch.arange(size, dtype=torch.float64) + 0.5 for size in glyphs.shape[-2:])
    return torch.stack(((glyphs.sum(-2) @ columns) / ink, (glyphs.sum(-1) @ rows) / ink), dim=-1)


def ink_box(glyph: Float[Tensor, "row column"]) -> tuple[float, float, float, float]:
    """How far the drawn ink of an upright glyph reaches (left, right, up, down) of its centroid, in glyph pixels.

    The reach includes the support of the hat functions, one glyph pixel around the centre of an inked pixel.

    Raises:
        ValueError: The glyph has no ink.
    """
    x, y = centroid(glyph).tolist()
    columns = (glyph > 0).any(0).nonzero()[:, 0] + 0.5
    rows = (glyph > 0).any(1).nonzero()[:, 0] + 0.5
    left, right = x - columns[0].item() + 1, columns[-1].item() - x + 1
    return left, right, y - rows[0].item() + 1, rows[-1].item() - y + 1


def ink_radius(glyph: Float[Tensor, "row column"]) -> float:
    """How far the drawn ink reaches from the centroid at any angle, in glyph pixels.

    Raises:
        ValueError: The glyph has no ink.
    """
    x, y = centroid(glyph).tolist()
    rows, columns = (glyph > 0).nonzero().to(torch.float64).add(0.5).unbind(1)
    return torch.hypot((columns - x).abs() + 1, (rows - y).abs() + 1).max().item()


def render(
    glyphs: Float[Tensor, "n row column"],
    positions: Float64[Tensor, "n time 2"],
    angles: Float64[Tensor, "n time"],
    *,
    canvas: int,
    scale: int,
) -> Float[Tensor, "n time {canvas} {canvas}"]:
    """Glyphs drawn at given centroid positions and angles.

    Arguments:
        glyphs: Ink in [0, 1].
        positions: Pixels (x right, y down) on the canvas; ink outside it is cut off.
        angles: Radians, positive from the x axis to the y axis. Rows of zeros are drawn by the exact, faster rule.
        canvas: Side of the frames in pixels.
        scale: Canvas pixels per glyph pixel, at least 1.

    Returns:
        Ink in [0, 1], in the type of ``glyphs``.

    Raises:
        ValueError: Canvas or scale is below 1, or a glyph has no ink.
    """
    if canvas < 1 or scale < 1:
        raise ValueError(f"Canvas and scale must be positive whole pixels; got canvas={canvas}, scale={scale}.")
    middles = centroid(glyphs)
    frames = glyphs.new_empty(*angles.shape, canvas, canvas)
    flat = frames.flatten(0, 1)
    turned = (angles != 0).any(1, keepdim=True).expand_as(angles).flatten()
    owner = torch.arange(len(glyphs))[:, None].expand_as(angles).flatten()
    for draw, members in ((_draw_upright, ~turned), (_draw_turned, turned)):
        for index in members.nonzero()[:, 0].split(max(1, _CHUNK // canvas**2)):
            who = owner[index]
            place = positions.flatten(0, 1)[index]
            drawn = draw(glyphs[who], middles[who], place, angles.flatten()[index], canvas, scale)
            flat[index] = drawn.clamp_(0, 1)
    return frames


def _draw_upright(
    glyphs: Float[Tensor, "m row column"],
    middles: Float64[Tensor, "m 2"],
    places: Float64[Tensor, "m 2"],
    angles: Float64[Tensor, "m"],
    canvas: int,
    scale: int,
) -> Float[Tensor, "m {canvas} {canvas}"]:
    pixels = torch.arange(canvas, dtype=torch.float64) + 0.5
    kernels = []
    for axis, size in ((0, glyphs.shape[2]), (1, glyphs.shape[1])):
        offset = (pixels - places[:, axis, None]) / scale + middles[:, axis, None]
        distance = offset[:, :, None] - (torch.arange(size, dtype=torch.float64) + 0.5)
        kernels.append(distance.to(glyphs.dtype).abs_().neg_().add_(1).clamp_(min=0))
    across, down = kernels
    return down @ glyphs @ across.mT


def _draw_turned(
    glyphs: Float[Tensor, "m row column"],
    middles: Float64[Tensor, "m 2"],
    places: Float64[Tensor, "m 2"],
    angles: Float64[Tensor, "m"],
    canvas: int,
    scale: int,
) -> Float[Tensor, "m {canvas} {canvas}"]:
    pixels = torch.arange(canvas, dtype=torch.float64) + 0.5
    x, y = (((pixels - places[:, axis, None]) / scale).to(glyphs.dtype) for axis in (0, 1))
    cos, sin = (wave(angles).to(glyphs.dtype)[:, None, None] for wave in (torch.cos, torch.sin))
    turned = (cos * x[:, None, :] + sin * y[:, :, None], cos * y[:, :, None] - sin * x[:, None, :])
    grid = torch.stack(turned, dim=-1) + middles.to(glyphs.dtype)[:, None, None]
    size = torch.tensor(glyphs.shape[:0:-1], dtype=glyphs.dtype)
    return torch.nn.functional.grid_sample(
        glyphs[:, None], grid * (2 / size) - 1, mode="bilinear", padding_mode="zeros", align_corners=False
    )[:, 0]
