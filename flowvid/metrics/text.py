r"""Does a video show what its text says? By CLIP, where its weights are at hand.

CLIP maps images and texts to unit vectors whose cosine c is large where they belong together. The score of a frame is

    100 max(c, 0),

that of a clip is the mean over its frames, that of a set the mean over its clips. (Hessel et al. write 2.5 instead of
100; torchmetrics cuts off below zero after the mean, which is the same as long as no cosine is negative.) Values are
comparable only for one set of weights: name it with every number. Frames are resized and cropped as the weights ask
for; texts beyond their longest length are cut, with a warning.

The mean cosine of consecutive frames, `clip_consistency`, tells whether the content stays; a frozen video has 1.
For the digit worlds `flowvid.metrics.reader` says more: CLIP knows little of directions, speeds and bounces.

References:
    CLIPScore: A Reference-free Evaluation Metric for Image Captioning (Hessel et al., 2021),
        https://arxiv.org/abs/2104.08718
    Learning Transferable Visual Models From Natural Language Supervision (Radford et al., 2021),
        https://arxiv.org/abs/2103.00020
    VBench: Comprehensive Benchmark Suite for Video Generative Models (Huang et al., 2023),
        https://arxiv.org/abs/2311.17982
"""

__all__ = ["CLIP", "ClipNetwork", "ClipScore", "clip_consistency", "clip_scores", "load_clip"]

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from flowvid.metrics.squeezenet import as_rgb
from flowvid.metrics.weights import Source
from flowvid.video import Video, to_bytes

CLIP = Source(
    "a folder of CLIP (config.json, model.safetensors or pytorch_model.bin, preprocessor_config.json, vocab.json, "
    "merges.txt), such as openai/clip-vit-base-patch32",
    "https://huggingface.co/openai/clip-vit-base-patch32 (hf download openai/clip-vit-base-patch32 --local-dir FOLDER)",
)

_FILES = ("config.json", "preprocessor_config.json")


@dataclass(frozen=True, eq=False)
class ClipNetwork:
    """CLIP with all that prepares its inputs; see `load_clip`.

    Arguments:
        model: transformers' CLIPModel.
        tokenizer: Its CLIPTokenizer.
        images: Its CLIPImageProcessor.
        device: Where it computes.
    """

    model: Any
    tokenizer: Any
    images: Any
    device: torch.device | str = "cpu"

    @torch.no_grad()
    def see(self, frames: Float[Tensor, "frame channel height width"]) -> Float64[Tensor, "frame feature"]:
        """Unit vectors of frames in [-1, 1], on the host; grey ones count as colour.

        Raises:
            ValueError: There are neither one nor three channels, or a vector is not finite.
        """
        pixels = to_bytes(as_rgb(frames.detach().float().cpu()))
        images = list(pixels.permute(0, 2, 3, 1).numpy())
        inputs = self.images(images=images, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        pooled = self.model.vision_model(pixel_values=inputs.to(self.device)).pooler_output
        return _unit(self.model.visual_projection(pooled), "frames")

    @torch.no_grad()
    def hear(self, texts: Sequence[str]) -> Float64[Tensor, "text feature"]:
        """Unit vectors of texts, on the host.

        Raises:
            ValueError: There are no texts, or a vector is not finite.
        """
        if not texts:
            raise ValueError("CLIP needs at least one text; got none.")
        most = self.model.config.text_config.max_position_embeddings
        lengths = [len(ids) for ids in self.tokenizer(list(texts), verbose=False)["input_ids"]]
        if (cut := sum(length > most for length in lengths)) > 0:
            warnings.warn(
                f"{cut} of {len(texts)} texts are longer than the {most} tokens CLIP reads (up to {max(lengths)}) and "
                "are cut.",
                stacklevel=2,
            )
        shape = {"padding": "max_length", "truncation": True, "max_length": most}
        inputs = self.tokenizer(list(texts), return_tensors="pt", **shape)
        ids, mask = (inputs[name].to(self.device) for name in ("input_ids", "attention_mask"))
        pooled = self.model.text_model(input_ids=ids, attention_mask=mask).pooler_output
        return _unit(self.model.text_projection(pooled), "texts")


@dataclass(frozen=True)
class ClipScore:
    """A mean over clips that grows batch by batch, and whose parts can be merged.

    Arguments:
        clips: How many there are so far.
        total: Sum of their means over frames.
    """

    clips: int = 0
    total: float = 0.0

    def add(self, scores: Float[Tensor, "batch time"]) -> "ClipScore":
        """With some more clips, as `clip_scores` or `clip_consistency` gives them.

        Raises:
            ValueError: A score is not finite.
        """
        if not bool(scores.isfinite().all()):
            raise ValueError("Scores must be finite; some are NaN or infinite.")
        return self.merge(ClipScore(len(scores), math.fsum(scores.double().mean(dim=1).tolist())))

    def merge(self, other: "ClipScore") -> "ClipScore":
        """The score of the clips of both."""
        return ClipScore(self.clips + other.clips, self.total + other.total)

    @property
    def mean(self) -> float:
        """The mean over clips.

        Raises:
            ValueError: There are no clips yet.
        """
        if not self.clips:
            raise ValueError("A mean needs at least one clip; add scores first.")
        return self.total / self.clips


def load_clip(folder: Path | str, *, device: torch.device | str = "cpu") -> ClipNetwork:
    """CLIP from a folder on the disk, as published for transformers; nothing is downloaded.

    Arguments:
        folder: Weights, configuration, image processor and tokenizer, as ``save_pretrained`` writes them.
        device: Where to compute.

    Raises:
        ImportError: transformers is not installed.
        FileNotFoundError: The folder or one of its files is missing; says where to get them.
        ValueError: A file is damaged or another model's.
    """
    folder = Path(folder)
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "The CLIP score needs transformers; install it with the extra: pip install 'flowvid[pretrained]'."
        ) from error
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        missing.append("vocab.json and merges.txt, or tokenizer.json")
    if missing:
        raise FileNotFoundError(f"No CLIP in {folder}: it lacks {', '.join(missing)}. Get {CLIP}, and pass the folder.")
    # Since version 5 transformers' default image processor needs torchvision; the one on pillow is that of the paper.
    images = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
    try:
        config = transformers.CLIPConfig.from_pretrained(folder, local_files_only=True)
        if config.model_type != "clip":
            raise ValueError(f"its config.json describes the model type {config.model_type!r}")
        model: Any = transformers.CLIPModel.from_pretrained(folder, local_files_only=True)
        return ClipNetwork(
            model.to(device).eval(),
            transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True),
            images.from_pretrained(folder, local_files_only=True),
            device,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder} holds no CLIP, or its files are damaged: {error}. Get {CLIP}.") from error


def clip_scores(
    network: ClipNetwork, video: Video, texts: Sequence[str], *, batch: int = 16
) -> Float64[Tensor, "batch time"]:
    """100 max(cosine, 0) of each frame with the text of its clip; `ClipScore` adds them up.

    Arguments:
        network: See `load_clip`.
        video: The clips.
        texts: One for each clip.
        batch: Frames at a time, which bounds the memory.

    Raises:
        ValueError: There is not one text for each clip, frames have neither 1 nor 3 channels, or the batch is not
            positive.
    """
    if len(texts) != len(video) or isinstance(texts, str):
        raise ValueError(f"Expected one text for each of the {len(video)} clips, as a list; got {texts!r}.")
    said = network.hear(texts)
    return 100 * torch.einsum("btf,bf->bt", _seen(network, video, batch), said).clamp(min=0)


def clip_consistency(network: ClipNetwork, video: Video, *, batch: int = 16) -> Float64[Tensor, "batch pair"]:
    """Cosine of each frame with the next one.

    Arguments:
        network: See `load_clip`.
        video: Clips of at least two frames.
        batch: Frames at a time, which bounds the memory.

    Raises:
        ValueError: There is only one frame, frames have neither 1 nor 3 channels, or the batch is not positive.
    """
    if video.frames.shape[1] < 2:
        raise ValueError("Consistency needs at least two frames; got 1.")
    seen = _seen(network, video, batch)
    return (seen[:, :-1] * seen[:, 1:]).sum(dim=2)


def _seen(network: ClipNetwork, video: Video, batch: int) -> Float64[Tensor, "batch time feature"]:
    if batch < 1:
        raise ValueError(f"CLIP takes at least one frame at a time; got batch={batch}.")
    vectors = [network.see(frames) for frames in video.frames.flatten(0, 1).split(batch)]
    return torch.cat(vectors).unflatten(0, video.frames.shape[:2])


def _unit(vectors: Tensor, name: str) -> Float64[Tensor, "row feature"]:
    found = F.normalize(vectors.double().cpu(), dim=1)
    if not bool(found.isfinite().all()):
        raise ValueError(f"CLIP gave vectors of {name} that are NaN or infinite. Look at its weights.")
    return found
