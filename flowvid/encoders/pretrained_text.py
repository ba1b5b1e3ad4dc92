"""Published text encoders, frozen: CLIP's and T5's token by token, a sentence transformer's caption by caption.

Each caption is numbered by the model's own tokenizer and read by itself; what the frozen network answers goes through
a learned projection, plus a mark whether the caption belongs to a moment. A sentence transformer hears a caption as a
whole: its answer stands at the caption's first token, and the others are not said.

The frozen weights are no parameters of the encoder: they neither train nor are they saved with a model, which
remembers their folder by name alone ("clip:FOLDER"; one that is relative is sought from the working directory). A saved
model therefore needs that folder where it was. Nothing is downloaded, and weights must be safetensors.

References:
    Learning Transferable Visual Models From Natural Language Supervision (Radford et al., 2021), CLIP, https://arxiv.org/abs/2103.00020
    Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer (Raffel et al., 2019), T5, https://arxiv.org/abs/1910.10683
    Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks (Reimers and Gurevych, 2019), https://arxiv.org/abs/1908.10084
"""

__all__ = ["PRETRAINED_TEXT", "PretrainedTextEncoder"]

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from flowvid.encoders.text import TextEncoder, TextTokens, as_tokens
from flowvid.video import Text

_UNBOUNDED = 512
"""Most tokens of a caption where a model sets no limit."""


class PretrainedTextEncoder(TextEncoder):
    """A frozen text encoder and a learned projection of what it says.

    Arguments:
        kind: "clip", "t5" or "sentence".
        folder: Weights, configuration and tokenizer, as ``save_pretrained`` writes them.
        width: Features of a token.

    Raises:
        ImportError: transformers, or for "sentence" sentence-transformers, is not installed.
        ValueError: The kind is unknown, or the folder is missing, incomplete or another model's.
    """

    def __init__(self, kind: str, folder: Path | str, *, width: int) -> None:
        super().__init__(width)
        if kind not in _LOADERS:
            raise ValueError(f"Pretrained text encoders are {', '.join(PRETRAINED_TEXT)}; got {kind!r}.")
        self.folder = str(folder)
        if not any((Path(folder) / name).is_file() for name in ("config.json", "modules.json")):
            raise ValueError(
                f"No text encoder in {folder}: it has no config.json. Frozen weights are not saved with a model, "
                f"which knows them as {kind}:{folder}; put their folder there again. Nothing is downloaded."
            )
        try:
            self._frozen = _LOADERS[kind](Path(folder))
        except (OSError, KeyError) as error:
            raise ValueError(f"The files of {folder} are missing or damaged, or no safetensors: {error}") from error
        self.project = nn.Linear(self._frozen.features, width)
        self.moment = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width)

    def tokens(self, text: Text) -> TextTokens:
        """What is said, by the model's own tokenizer, its marks of start and end included; see `TextEncoder.tokens`.

        Raises:
            ValueError: A caption is longer than the model reads.
        """
        found = as_tokens(text, self._frozen.number, padding=-1, longest=self._frozen.longest)
        return replace(found, said=found.places == 0) if self._frozen.whole else found

    def forward(self, tokens: TextTokens) -> Float[Tensor, "batch token width"]:
        """Features of every token; see `TextEncoder.forward`. Each caption that differs is read once."""
        heard = self._heard(tokens).to(self.project.weight.dtype)
        features = self.norm(self.project(heard) + self.moment(tokens.timed.to(torch.int64)))
        return features * tokens.said[..., None].to(features.dtype)

    @torch.no_grad()
    def _heard(self, tokens: TextTokens) -> Float[Tensor, "batch token feature"]:
        frozen = self._frozen
        found = torch.zeros(*tokens.ids.shape, frozen.features, device=tokens.ids.device)
        read = (tokens.places >= 0) & tokens.said.any(dim=1, keepdim=True) if frozen.whole else tokens.said
        sample, column = read.nonzero(as_tuple=True)
        if not len(sample):
            return found
        caption = tokens.captions()[sample, column] + sample * tokens.ids.shape[1]
        row, place = caption.unique(return_inverse=True)[1], tokens.places[sample, column]
        ids = torch.full((int(row.max()) + 1, int(place.max()) + 1), -1, device=tokens.ids.device)
        ids[row, place] = tokens.ids[sample, column]
        different, which = ids.unique(dim=0, return_inverse=True)
        answer = frozen.hear(different.clamp(min=0), different >= 0)
        found[sample, column] = answer[which[row], 0 if frozen.whole else place].to(found.dtype)
        return found


@dataclass(frozen=True, eq=False)
class _Frozen:
    """A frozen network, kept apart from the parameters of the module that asks it.

    Arguments:
        network: The network.
        ask: (network, ids, exists) -> features of the captions' tokens, or of whole captions as their only token.
        number: A caption to the numbers of its tokens.
        features: Features of a token.
        longest: Most tokens of a caption.
        whole: Whether it hears whole captions.
    """

    network: nn.Module
    ask: Callable[[nn.Module, Tensor, Tensor], Tensor]
    number: Callable[[str], Sequence[int]]
    features: int
    longest: int
    whole: bool = False

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Frozen":
        return self

    def hear(
        self, ids: Int64[Tensor, "caption place"], exists: Bool[Tensor, "caption place"]
    ) -> Float[Tensor, "caption token feature"]:
        """Features of captions."""
        return self.ask(self.network.to(ids.device), ids, exists.to(torch.int64))


def _transformer(folder: Path, kinds: dict[str, str]) -> tuple[Any, Any]:
    """The network that a folder holds, in evaluation mode as transformers gives it, and its tokenizer."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "Published text encoders need transformers; install it with the extra: pip install 'flowvid[pretrained]'."
        ) from error
    name = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if name not in kinds:
        raise ValueError(f"{folder} holds a model of type {name!r}; expected {' or '.join(kinds)}.")
    network, info = getattr(transformers, kinds[name]).from_pretrained(
        folder, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    if info["missing_keys"]:
        raise ValueError(f"The weights of {folder} lack {sorted(info['missing_keys'])[0]}.")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return network.requires_grad_(False), tokenizer


def _numbering(tokenizer: Any) -> Callable[[str], Sequence[int]]:
    return lambda caption: tokenizer(caption, verbose=False)["input_ids"]


def _token_features(network: Any, ids: Tensor, exists: Tensor) -> Tensor:
    return network(input_ids=ids, attention_mask=exists).last_hidden_state


def _clip(folder: Path) -> _Frozen:
    network, tokenizer = _transformer(folder, {"clip": "CLIPModel", "clip_text_model": "CLIPTextModel"})
    text = getattr(network, "text_model", network)
    sizes = text.config
    return _Frozen(text, _token_features, _numbering(tokenizer), sizes.hidden_size, sizes.max_position_embeddings)


def _t5(folder: Path) -> _Frozen:
    network, tokenizer = _transformer(folder, {"t5": "T5EncoderModel"})
    longest = tokenizer.model_max_length
    return _Frozen(
        network,
        _token_features,
        _numbering(tokenizer),
        network.config.d_model,
        longest if longest < 10**6 else _UNBOUNDED,
    )


def _sentence(folder: Path) -> _Frozen:
    try:
        import sentence_transformers
    except ImportError as error:
        raise ImportError(
            "Sentence encoders need sentence-transformers; install it with the extra: pip install "
            "'flowvid[pretrained]'."
        ) from error

    def ask(network: Any, ids: Tensor, exists: Tensor) -> Tensor:
        return network({"input_ids": ids, "attention_mask": exists})["sentence_embedding"][:, None]

    network = sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    network = network.eval().requires_grad_(False)
    number = _numbering(network.tokenizer)
    with torch.no_grad():
        features = ask(network, torch.tensor([number("a")]), torch.ones(1, len(number("a")), dtype=torch.int64))
    return _Frozen(network, ask, number, features.shape[2], network.max_seq_length or _UNBOUNDED, whole=True)


_LOADERS: dict[str, Callable[[Path], _Frozen]] = {"clip": _clip, "sentence": _sentence, "t5": _t5}

PRETRAINED_TEXT = tuple(_LOADERS)
"""Kinds of published text encoders."""
