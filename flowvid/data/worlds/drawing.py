"""Anti-aliased discs and rods at real positions, whose measured centroids are exact.

An image is the shape's indicator smoothed by the hat function, one pixel to either side, and sampled at the pixel
centres: pixel (i, j) holds the integral of shape(x, y) hat(x_i - x) hat(y_j - y). Hats sampled at the integers
reproduce constants and linear functions, so as long as the shape stays a pixel inside the canvas

    sum of the pixels = area,     intensity centroid = centroid of the shape,

for every sub-pixel position, to rounding. Smoothing is linear, hence disjoint shapes add up to at most 1 even where
they touch, and their measured centroids do not disturb each other.

A disc is cut into strips an eighth of a pixel high, each replaced by the chord on its middle whose length is the
strip's mean length; a chord smoothed in both directions is the product of a hat and an integral of a hat, and the
image is one product of two thin matrices. Strips of a whole fraction of a pixel leave the inside of a disc at exactly
1, and their symmetry about the centre keeps the centroid; no pixel is further than 0.02 from the exact integral. Rods

Colours are those of PhyWorld: a white ground, the first object red, the second blue; what belongs to no object is
grey. Then red - green and blue - green are the two objects' own images, to the last bit of linearity.

References:
    A Fourier Analysis of the Finite Element Variational Method (Strang and Fix, 1973)
    How Far is Video Generation from World Model: A Physical Law Perspective (Kang et al., 2024), arXiv:2411.02385
"""

__all__ = ["colour_layers", "colour_mix", "draw_discs", "draw_rods", "object_centres"]

from collections.abc import Iterator

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from flowvid.video import Video

_STRIPS = 8
_CHUNK = 1 << 22
_LEAST_INK = 0.15


def draw_discs(
    centres: Float64[Tensor, "n 2"], radii: Float64[Tensor, "n"], *, canvas: int
) -> Float32[Tensor, "n {canvas} {canvas}"]:
    """Smoothed indicators in [0, 1] of discs; what leaves the canvas is cut off.

    Arguments:
        centres: Pixels (x right, y down); the canvas spans [0, canvas]^2.
        radii: Pixels, positive.
        canvas: Side of the images in pixels.

    Raises:
        ValueError: A radius is not positive, or the canvas is below 1.
    """
    _check_canvas(canvas)
    if not bool((radii > 0).all()):
        raise ValueError(f"Discs need positive radii; got {radii.min().item()}.")
    images = torch.empty(len(centres), canvas, canvas)
    for half, rows in _alike((radii * _STRIPS).ceil(), 2 * canvas):
        edges = torch.arange(-half, half + 1, dtype=torch.float64) / _STRIPS
        middles = (edges[1:] + edges[:-1]) / 2
        x, y = centres[rows, :, None].unbind(1)
        reach = _half_lengths(edges, radii[rows, None])
        down = _hat(_to_pixels(y + middles, canvas)) / _STRIPS
        across = _hat_integral(_to_pixels(x - reach, canvas)) - _hat_integral(_to_pixels(x + reach, canvas))
        images[rows] = down @ across.mT
    return images.clamp_(0, 1)


def draw_rods(
    starts: Float64[Tensor, "n 2"], ends: Float64[Tensor, "n 2"], *, canvas: int
) -> Float32[Tensor, "n {canvas} {canvas}"]:
    """Smoothed straight lines with an ink of one per pixel of length; what leaves the canvas is cut off.

    Raises:
        ValueError: The canvas is below 1.
    """
    _check_canvas(canvas)
    length = (ends - starts).norm(dim=1)
    images = torch.empty(len(starts), canvas, canvas)
    for count, rows in _alike((length * _STRIPS).ceil().clamp(min=1), canvas):
        along = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        x, y = (starts[rows, :, None] + (ends - starts)[rows, :, None] * along).unbind(1)
        down = _hat(_to_pixels(y, canvas)) * (length[rows, None, None] / count).to(torch.float32)
        images[rows] = down @ _hat(_to_pixels(x, canvas)).mT
    return images


def colour_mix(
    layers: Float32[Tensor, "*batch object height width"], shade: Float32[Tensor, "*batch height width"] | None = None
) -> Float32[Tensor, "*batch 3 height width"]:
    """One or two objects in red and blue, and a grey shade, on white; all values in [0, 1].

    Raises:
        ValueError: There are more than two objects.
    """
    if not 1 <= layers.shape[-3] <= 2:
        raise ValueError(f"Colours tell one or two objects apart; got {layers.shape[-3]}. Draw more without colour.")
    red = layers[..., 0, :, :]
    blue = layers[..., 1, :, :] if layers.shape[-3] == 2 else torch.zeros_like(red)
    ground = 1 - shade if shade is not None else torch.ones_like(red)
    return torch.stack((ground - blue, ground - red - blue, ground - red), dim=-3).clamp_(0, 1)


def colour_layers(frames: Float[Tensor, "*batch 3 height width"]) -> Float[Tensor, "*batch 2 height width"]:
    """The red and the blue object of frames in [-1, 1], each in [0, 1]: what `colour_mix` was made of."""
    red, green, blue = frames.unbind(-3)
    return (torch.stack((red, blue), dim=-3) - green[..., None, :, :]).clamp(min=0) / 2


def object_centres(video: Video) -> Float64[Tensor, "batch time object 2"]:
    """Measured centres (x right, y down) in pixels; NaN where next to nothing of an object is seen.

    With one channel there is one object: all ink. With three there are two, told apart by colour: red, then blue.
    No threshold is set, so on true frames of objects inside the canvas this is the true centre, to rounding.

    Raises:
        ValueError: The video has neither one channel nor three.
    """
    channels = video.frames.shape[2]
    if channels not in (1, 3):
        raise ValueError(f"Objects are measured in frames of 1 or 3 channels; got {channels}.")
    frames = video.frames.detach().double().cpu()
    ink = (frames + 1) / 2 if channels == 1 else colour_layers(frames)
    rows, columns = (torch.arange(size, dtype=torch.float64) + 0.5 for size in ink.shape[-2:])
    total = ink.sum((-2, -1))
    centres = torch.stack((ink.sum(-2) @ columns, ink.sum(-1) @ rows), dim=-1) / total[..., None]
    return torch.where(total[..., None] > _LEAST_INK, centres, torch.nan)


def _half_lengths(edges: Float64[Tensor, "edge"], radii: Float64[Tensor, "n 1"]) -> Float64[Tensor, "n strip"]:
    """Half the mean length of a disc's strips between neighbouring edges: their exact areas over their heights."""
    sine = (edges / radii).clamp(-1, 1)
    area = radii.square() * (sine * (1 - sine.square()).sqrt() + torch.asin(sine)) / 2
    return area.diff(dim=1) * _STRIPS


def _alike(counts: Float64[Tensor, "n"], row: int) -> Iterator[tuple[int, Int64[Tensor, "m"]]]:
    """Rows that are cut into equally many pieces, in handy numbers: no shape is drawn otherwise for another's sake."""
    for count in counts.unique().tolist():
        members = (counts == count).nonzero()[:, 0]
        for rows in members.split(max(1, _CHUNK // (row * int(count)))):
            yield int(count), rows


def _to_pixels(places: Float64[Tensor, "n k"], canvas: int) -> Float32[Tensor, "n {canvas} k"]:
    pixels = torch.arange(canvas, dtype=torch.float64) + 0.5
    return (pixels[:, None] - places[:, None]).to(torch.float32)


def _hat(offsets: Float32[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    return (1 - offsets.abs()).clamp_(min=0)


def _hat_integral(offsets: Float32[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """The integral of the hat function up to the offsets."""
    inside = offsets.clamp(-1, 1)
    return 0.5 + inside - inside * inside.abs() / 2


def _check_canvas(canvas: int) -> None:
    if canvas < 1:
        raise ValueError(f"A canvas has a positive whole number of pixels; got {canvas}.")
