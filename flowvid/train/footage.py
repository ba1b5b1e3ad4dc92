"""From a folder of footage to a codec and a model of it.

Windows are drawn by noise from the training part of the footage, decoded once into a cache, and loaded ahead by threads
while the last batch is in use; nothing is held in memory but the batches, however large the folder. Models see the
codec's latents, encoded as they are drawn. With ten files or more, whole files are left for validation, fewer than ten
lose the end of each; windows of validation only calibrate a model, and where none is long enough, training windows do.

A folder holds one run: `run.json`, checkpoints and logs under `training/`, and what is finished as model folders,
`codec/` and one for each model, which `flowvid.models.hub.load_pretrained` loads. What is finished is loaded, what is
half done is continued, and a folder of another run is refused.
"""

__all__ = ["FootageModel", "FootageRun", "train_footage"]

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowvid.data.cache import TensorCache, file_identity
from flowvid.data.files import write_json
from flowvid.data.footage.clips import FootageBatch, FootageClips
from flowvid.data.footage.pieces import Piece, Shares, pieces_of, split_by_file, split_by_span
from flowvid.data.footage.reader import Catalogue, Skipped
from flowvid.data.footage.windows import FixedRate
from flowvid.encoders.codec import Codec
from flowvid.encoders.vae import ConvVae, PerceptualDistance
from flowvid.models.hub import load_pretrained
from flowvid.models.rivals import build_rival
from flowvid.models.video_model import LearnedModel
from flowvid.noise import Noise
from flowvid.train.loop import PLAIN, Execution, Optimisation, Progress, fit
from flowvid.train.processes import Processes, local_device
from flowvid.train.store import Store
from flowvid.video import Trajectory, from_bytes, time_grid

_MANY = 10
_CALIBRATION = 64
_SHARES = Shares(train=0.85, validation=0.15, test=0.0)


@dataclass(frozen=True, kw_only=True)
class FootageRun:
    """Frames, codec, network and optimisation.

    Arguments:
        side: Pixels of a training frame, a multiple of the factor.
        fps: Frames per second of the training windows.
        scales: Gaps of one sign of the multi-scale model; the longest is 2^(scales - 1) frames.
        reach: Frames that a model is trained to look ahead; a window holds two reaches and two frames.
        factor: Sides of a frame over sides of its latent.
        channels: Channels of a latent.
        codec_width: Width of the codec.
        width: Width of the model's trunk.
        codec: Optimisation of the codec, whose batch counts frames.
        model: Optimisation of the model, whose batch counts windows.

    Raises:
        ValueError: The reach is shorter than the longest gap, or the side is no multiple of the factor.
    """

    side: int = 64
    fps: float = 15.0
    scales: int = 4
    reach: int = 8
    factor: int = 4
    channels: int = 8
    codec_width: int = 16
    width: int = 48
    codec: Optimisation
    model: Optimisation

    def __post_init__(self) -> None:
        if self.reach < 2 ** (self.scales - 1):
            raise ValueError(f"The reach must be at least the longest gap, {2 ** (self.scales - 1)}; got {self.reach}.")
        if self.side < self.factor or self.side % self.factor:
            raise ValueError(f"The side must be a multiple of {self.factor}; got {self.side}.")

    @property
    def frames(self) -> int:
        """Frames of a window."""
        return 2 * self.reach + 2


@dataclass(frozen=True, eq=False)
class FootageModel:
    """What training made.

    Arguments:
        codec: The codec.
        model: The model.
        seconds: Seconds of training of both; zero for what was loaded.
        skipped: Footage that could not be used, with reasons.
    """

    codec: Codec
    model: LearnedModel
    seconds: dict[str, float]
    skipped: tuple[Skipped, ...]


def train_footage(
    footage: Catalogue,
    run: FootageRun,
    folder: Path,
    *,
    kind: str = "multiscale",
    device: str = "cpu",
    perceptual: PerceptualDistance | None = None,
    most_bytes: int = 16 * 2**30,
    execution: Execution = PLAIN,
    stage: Callable[[str], Progress] | None = None,
) -> FootageModel:
    """The codec and a model of footage: loaded, continued or trained, as need be.

    Arguments:
        footage: What there is, from `flowvid.data.footage.reader.catalogue`.
        run: What to train.
        folder: Where everything lives.
        kind: One of `flowvid.models.rivals.MODELS`.
        device: Where to train; with many processes on GPUs each takes its own.
        perceptual: Added to the codec's loss, LPIPS say, already weighted.
        most_bytes: What decoded frames may take on the disk; those unread for the longest go first.
        execution: How training is carried out.
        stage: Announces what is trained and returns what is told how far it is.

    Raises:
        ValueError: No footage is long enough for a window, or the folder belongs to another run; or see `fit`.
    """
    device = local_device(device)
    names = [f"{path.name} {file_identity(path, content=True)}" for path, _ in footage.entries]
    description = {"run": asdict(run), "footage": names, "perceptual": perceptual is not None}
    _claim(folder, description)
    cache = TensorCache(folder / "frames", most_bytes=most_bytes)
    training, held_out = _parts(footage, run)
    size = (run.side, run.side)
    window = FixedRate(run.fps, run.frames)
    seconds = dict.fromkeys(("codec", kind), 0.0)

    def learn(name: str, network: nn.Module, loss: Callable[[Tensor, Noise], Tensor], clips: FootageClips) -> None:
        def objective(batch: FootageBatch, noise: Noise) -> Tensor:
            return loss(_unpacked(batch, device), noise)

        seconds[name] = fit(
            network,
            objective,
            run.codec if name == "codec" else run.model,
            folder=folder / "training" / name,
            run=description,
            execution=execution,
            load=clips.batch,
            names=lambda noise: [clips.pieces[n].name for n in noise.integers("piece", 0, len(clips)).tolist()],
            progress=stage(name) if stage else None,
        )

    with (
        FootageClips(training, FixedRate(run.fps, 1), size, cache=cache) as frames,
        FootageClips(training, window, size, cache=cache) as windows,
        FootageClips(held_out, window, size, cache=cache) as judged,
    ):
        codec = _codec(run, folder / "codec", frames, device, learn, perceptual)
        model = _model(kind, run, folder / kind, (windows, judged), codec, device, learn)
        skipped = {one.path: one for clips in (frames, windows, judged) for one in clips.skipped}
    return FootageModel(codec, model, seconds, (*footage.skipped, *skipped.values()))


Learn = Callable[[str, nn.Module, Callable[[Tensor, Noise], Tensor], FootageClips], None]


def _codec(
    run: FootageRun,
    place: Path,
    frames: FootageClips,
    device: str,
    learn: Learn,
    perceptual: PerceptualDistance | None,
) -> Codec:
    if place.exists():
        return _loaded(place, Codec, device)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(run.codec.seed)
        codec = ConvVae(3, factor=run.factor, channels=run.channels, width=run.codec_width).to(device)
    learn("codec", codec, lambda pixels, noise: codec.loss(pixels[:, 0], noise, perceptual=perceptual), frames)
    sample = frames.batch(Noise.batch(run.codec.seed, 8 * _CALIBRATION).fold("normalise"))
    codec.normalise(_unpacked(sample, device)[:, 0])
    _keep(codec, place, run.codec)
    return codec.requires_grad_(False).eval()


def _model(
    kind: str,
    run: FootageRun,
    place: Path,
    clips: tuple[FootageClips, FootageClips],
    codec: Codec,
    device: str,
    learn: Learn,
) -> LearnedModel:
    if place.exists():
        return _loaded(place, LearnedModel, device)
    model = build_rival(
        kind,
        channels=run.channels,
        frame=1 / run.fps,
        scales=run.scales,
        reach=run.reach,
        width=run.width,
        seed=run.model.seed,
    ).to(device)
    times = time_grid(0.0, (run.frames - 1) / run.fps, 1 / run.fps)

    @torch.no_grad()
    def latents(pixels: Tensor) -> Trajectory:
        return Trajectory(codec.latents(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2]), times)

    def some(source: FootageClips, name: str) -> Trajectory:
        return latents(_unpacked(source.batch(Noise.batch(run.model.seed, _CALIBRATION).fold(name)), device))

    training, held_out = clips
    model.prepare(some(training, "prepare"))
    learn(kind, model, lambda pixels, noise: model.loss(latents(pixels), noise), training)
    model.requires_grad_(False)
    model.finish(some(held_out, "finish"))
    _keep(model, place, run.model)
    return model.eval()


def _keep(network: Codec | LearnedModel, place: Path, how: Optimisation) -> None:
    """Write the finished network, after which its checkpoints are no longer needed."""
    processes = Processes(next(network.parameters()).device)
    if processes.main:
        card: dict[str, Any] = {"summary": "Trained on footage by flowvid.", "steps": how.steps}
        network.save_pretrained(place, model_card_kwargs=card)
        Store(place.parent / "training" / place.name).clear()
    processes.wait()


def _loaded(place: Path, kind: type[Any], device: str) -> Any:
    network = load_pretrained(place, device=device)
    if not isinstance(network, kind):
        raise ValueError(f"{place} holds {type(network).__name__}, not a {kind.__name__}. Use another folder.")
    return network.requires_grad_(False)


def _claim(folder: Path, description: dict[str, Any]) -> None:
    """Say whose folder it is, or refuse another's."""
    path, wanted = folder / "run.json", json.loads(json.dumps(description))
    if not path.exists():
        write_json(path, description)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    differing = sorted(name for name in wanted if found.get(name) != wanted[name])
    if differing:
        raise ValueError(
            f"{folder} belongs to another run: {', '.join(differing)} differ from its run.json. Use another folder, or "
            "delete it to train anew."
        )


def _parts(footage: Catalogue, run: FootageRun) -> tuple[Sequence[Piece], Sequence[Piece]]:
    """What is for training, and what is for calibration."""
    pieces = pieces_of(footage)
    least = (run.frames - 1) / run.fps
    if len(pieces) >= _MANY:
        training, held_out = (split_by_file(pieces, split, _SHARES) for split in ("train", "validation"))
    else:
        training, held_out = (split_by_span(pieces, split, _SHARES) for split in ("train", "validation"))
    long = [piece for piece in held_out if piece.span.seconds >= least]
    return training or pieces, long or training or pieces


def _unpacked(batch: FootageBatch, device: str) -> Float[Tensor, "batch time 3 height width"]:
    return from_bytes(batch.pixels.to(device))
