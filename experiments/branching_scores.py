r"""What samples tell of a future of which there are two: whether both are reached, and what is missing if not.

The two futures of a clip are known in closed form, so every sample can be held against both. A sample *follows* a
future if its centroid stays, in root mean square over the frames after the coin, within a radius of it. With z_1, z_2
the latents of the futures, equally likely, the mean of both misses the energy

    E|z|^2 - |E z|^2 = |z_1 - z_2|^2 / 4,

exactly (SCIENCE P14): what samples miss is given in units of that, one for regression to the mean, zero for samples of
the law. In the plane the spread of samples is given in units of the trace of the covariance of `future_moments`.
"""

__all__ = ["Futures", "known_futures", "path_scores", "score"]

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from experiments.branching_methods import Branching, asked
from flowvid.data.worlds.branching import flight_of, future_moments, futures
from flowvid.data.worlds.clips import Clip
from flowvid.data.worlds.scene import render_scenes
from flowvid.encoders.codec import Codec
from flowvid.metrics.diversity import best_of, coverage
from flowvid.metrics.motion import centroid
from flowvid.metrics.rhythm import sharpness
from flowvid.video import Trajectory, Video


@dataclass(frozen=True, eq=False)
class Futures:
    """Both futures of clips that a coin decides.

    Arguments:
        latents: Of both futures, tails before heads, at the sampled times.
        paths: Positions in pixels, likewise.
        heads: What the coin showed.
        after: Which sampled frames lie after the coin.
        counts: Which clips have futures far enough apart to count.
        spread: Trace of the covariance of the position, in squared pixels, mean over the frames after the coin.
        sharpness: Of the frames of both futures, as the codec shows them.
    """

    latents: Float[Tensor, "clip 2 time channel height width"]
    paths: Float64[Tensor, "clip 2 time 2"]
    heads: Bool[Tensor, "clip"]
    after: Bool[Tensor, "time"]
    counts: Bool[Tensor, "clip"]
    spread: Float64[Tensor, "clip"]
    sharpness: Float64[Tensor, "clip 2 time"]


@torch.no_grad()
def known_futures(run: Branching, codec: Codec) -> Futures:
    """Both futures of the held-out clips.

    Raises:
        ValueError: A clip has not two futures after the first frame and before the horizon.
    """
    times = asked(run)
    clips = [clip for clip in run.run.world.clips(range(run.clips), "test") if isinstance(clip, Clip)]
    pairs = [sorted(futures(clip, 0.0, times[-1]), key=lambda pair: flight_of(pair[1]).coins[0]) for clip in clips]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("Each clip needs one coin between the first frame and the horizon; give the world one coin.")
    both = [[future for _, future in pair] for pair in pairs]
    tossed = max(float(flight_of(clip).coin_times()[0]) for clip in clips)
    after = torch.tensor([time > tossed for time in times])
    paths = torch.stack([torch.stack([one.positions(times)[:, 0] for one in pair]) for pair in both])
    frames = render_scenes([one for pair in both for one in pair], times)
    device = next(codec.parameters()).device
    latents = codec.encode(Video(frames.frames.to(device), frames.times))
    spread = torch.stack(
        [future_moments(clip, 0.0, times).covariance.diagonal(dim1=1, dim2=2).sum(dim=1) for clip in clips]
    )
    return Futures(
        latents=latents.states.unflatten(0, (-1, 2)).cpu(),
        paths=paths,
        heads=torch.tensor([bool(flight_of(clip).coins[0]) for clip in clips]),
        after=after,
        counts=_apart(paths[:, 0], paths[:, 1], after) >= run.apart,
        spread=spread[:, after].mean(dim=1),
        sharpness=sharpness(codec.decode(latents)).unflatten(0, (-1, 2)),
    )


def path_scores(paths: Float64[Tensor, "clip sample time 2"], known: Futures, *, radius: float) -> dict[str, float]:
    """What sampled paths tell, over the clips that count.

    Arguments:
        paths: Sampled positions in pixels.
        known: Both futures.
        radius: Pixels within which a sample follows a future.
    """
    paths, truth, heads = paths[known.counts], known.paths[known.counts], known.heads[known.counts]
    far = _apart(paths[:, :, None], truth[:, None], known.after)
    own = far.gather(2, heads.long()[:, None, None].expand(-1, far.shape[1], 1))[:, :, 0]
    best = best_of(own, (1, own.shape[1])).mean(dim=0)
    after = known.after.double().sum().sqrt()
    found = coverage(paths[:, :, known.after] / after, truth[:, :, known.after] / after, radius=radius)
    followed = far.amin(dim=2) <= radius
    spread = paths[:, :, known.after].var(dim=1, correction=int(paths.shape[1] > 1)).sum(dim=2).mean(dim=1)
    return {
        "error_one": float(best[0]),
        "error_best": float(best[1]),
        "both": float((found == 1).double().mean()),
        "covered": float(found.mean()),
        "followed": float(followed.double().mean()),
        "heads": float(far.argmin(dim=2).double().mean()),
        "spread": float(spread.mean() / known.spread[known.counts].mean()),
    }


@torch.no_grad()
def score(
    run: Branching, codec: Codec, sampled: Float[Tensor, "sample time channel height width"], known: Futures
) -> tuple[dict[str, float], Video]:
    """All that samples tell, and the samples as frames.

    Arguments:
        run: What is measured.
        codec: The codec.
        sampled: Latents of the samples, clip by clip.
        known: Both futures.
    """
    device = next(codec.parameters()).device
    video = codec.decode(Trajectory(sampled.to(device), torch.tensor(asked(run), dtype=torch.float64)))
    paths = centroid(video).cpu().unflatten(0, (run.clips, run.samples))
    after, counts = known.after, known.counts
    states = sampled.cpu().unflatten(0, (run.clips, run.samples)).double()[counts]
    truth = known.latents.double()[counts]
    energy = truth[:, :, after].square().mean() - states[:, :, after].square().mean()
    missing = (truth[:, 0] - truth[:, 1])[:, after].square().mean() / 4
    bend = [values.diff(n=2, dim=2).square().mean() for values in (states, truth)]
    sharp = sharpness(video).unflatten(0, (run.clips, run.samples))[counts][:, :, after].mean()
    return path_scores(paths, known, radius=run.radius) | {
        "missing": float(energy / missing),
        "bend": float(bend[0] / bend[1]),
        "sharpness": float(sharp / known.sharpness[counts][:, :, after].mean()),
    }, video


def _apart(one: Tensor, other: Tensor, after: Bool[Tensor, "time"]) -> Tensor:
    """Root mean square distance in pixels over the frames after the coin."""
    return (one - other)[..., after, :].square().sum(dim=-1).mean(dim=-1).sqrt()
