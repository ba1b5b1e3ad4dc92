"""Trained networks as folders that others can load: weights, what built them, and a card that says what they are.

    config.json          class, version of flowvid, and every argument of the constructor
    model.safetensors    parameters and buffers; nothing is pickled
    README.md            a model card: what it is, data, steps, measured numbers, how to load it, licence

The format is that of huggingface_hub's mixin, which remembers the arguments a network was built with, so that such a
folder can be pushed to a hub (`push_to_hub`) and one fetched from there with ``huggingface_hub.snapshot_download`` can
be loaded. Nothing here uses the network: `from_pretrained` reads a folder.

A folder is written beside its place, read back, compared with the network bit for bit, and only then moved there.
Where it replaces an older model, that one is first moved aside, to a name that starts with a dot, and then deleted.

References:
    Model Cards for Model Reporting (Mitchell et al., 2018), https://arxiv.org/abs/1810.03993
"""

__all__ = ["ModelFiles"]

import inspect
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flowvid import __version__

_CONFIG, _WEIGHTS, _CARD = "config.json", "model.safetensors", "README.md"
_CLASS, _VERSION = "_class_name", "_flowvid_version"

Kind = TypeVar("Kind", bound="ModelFiles")


class ModelFiles(ModelHubMixin, library_name="flowvid", tags=["video"]):
    """What a network needs to live in a folder; mixed into classes of `torch.nn.Module`."""

    def save_pretrained(  # pyrefly: ignore[bad-override]
        self,
        save_directory: Path | str,
        *,
        config: None = None,
        model_card_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Write the network to a folder: complete, or not at all.

        Arguments:
            save_directory: The folder; one that is there must be empty or hold a model of flowvid and nothing else.
            config: Not for users; the mixin passes it.
            model_card_kwargs: What the card shall say, by the arguments of `generate_model_card`.

        Raises:
            ValueError: The folder holds something else; or the network cannot be described: it was built with an
                argument that JSON cannot hold, or changed since.
        """
        folder = Path(save_directory)
        with _replacing(folder) as place:
            super().save_pretrained(place, model_card_kwargs=model_card_kwargs)
            back = type(self).from_pretrained(place)
            differing = _differing(_tensors(self), _tensors(back)) + _changed(self, back)
            if differing:
                raise ValueError(
                    f"{type(self).__name__} cannot be saved: {', '.join(differing)} would not come back as now. Save "
                    "the network as it was built and trained, of its original type (network.float())."
                )

    @classmethod
    def from_pretrained(  # pyrefly: ignore[bad-override]
        cls: type[Kind], folder: Path | str, *, device: torch.device | str = "cpu"
    ) -> Kind:
        """The network of a folder, in evaluation mode.

        Called on an abstract class, such as `Codec` or `LearnedModel`, it gives whichever of its kinds the folder
        holds, among those that have been imported; `flowvid.models.hub.load_pretrained` knows all of them.

        Arguments:
            folder: A folder that `save_pretrained` wrote.
            device: Where the network shall live, wherever it was saved from.

        Raises:
            ValueError: There is no such folder, a file is missing or damaged, or it holds another class, an argument
                that the class does not have, or other tensors than the network.
        """
        folder = Path(folder)
        config = _read_config(folder)
        chosen = _class_named(cls, config.pop(_CLASS, None), folder)
        version = config.pop(_VERSION, None)
        try:
            network = chosen._build(config)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{folder / _CONFIG} does not describe a {chosen.__name__} of flowvid {__version__} ({error}); it was "
                f"written by flowvid {version}."
            ) from error
        _fill(network, folder / _WEIGHTS)
        return network.to(device).eval()

    def generate_model_card(  # pyrefly: ignore[bad-override]
        self,
        *,
        summary: str = "",
        data: str = "",
        steps: int | None = None,
        scores: Mapping[str, float] | None = None,
        licence: str = "",
    ) -> ModelCard:
        """The model card.

        Arguments:
            summary: What it is, in a sentence or two; the class's own description by default.
            data: What it was trained on.
            steps: Optimiser steps it was trained for.
            scores: Measured numbers by name.
            licence: Identifier of the licence of the weights, such as apache-2.0.
        """
        name = type(self).__name__
        described = summary or (inspect.getdoc(type(self)) or name).split("\n\n")[0]
        kind = ModelCardData(library_name="flowvid", tags=["flowvid", "video"], license=licence or None)
        arguments = "\n".join(f"- {key}: `{value!r}`" for key, value in _arguments(self).items())
        table = "\n".join(f"| {key} | {value:.6g} |" for key, value in (scores or {}).items())
        parts = {
            "": f"{described}\n\n{name} of flowvid {__version__}, {_count(self)} parameters.",
            "Arguments": arguments or "none",
            "Data": data or "not stated",
            "Training": "not stated" if steps is None else f"{steps} optimiser steps",
            "Measured": f"| measure | value |\n|---|---|\n{table}" if table else "nothing stated",
            "How to load it": "```python\nfrom flowvid.models.hub import load_pretrained\n\n"
            'network = load_pretrained("path/of/this/folder")\n```',
            "Licence": licence or "not stated",
        }
        body = "\n\n".join((f"## {title}\n\n" if title else f"# {name}\n\n") + text for title, text in parts.items())
        return ModelCard(f"---\n{kind.to_yaml()}\n---\n\n{body}\n")

    def _save_pretrained(self, save_directory: Path) -> None:
        """Weights and description, each flushed to the disk; called by the mixin."""
        kept: Any = self._hub_mixin_config or {}
        text = ""
        missing = [name for name in _parameters(type(self)) if name not in kept]
        config = {_CLASS: type(self).__name__, _VERSION: __version__, **kept}
        try:
            text = json.dumps(config, indent=2, allow_nan=False) + "\n"
        except (TypeError, ValueError) as error:
            missing.append(f"something else ({error})")
        if missing:
            raise ValueError(
                f"{type(self).__name__} was built with {', '.join(missing)}, which JSON cannot hold, so a folder "
                "cannot describe it. Save what it was built from instead."
            )
        (save_directory / _CONFIG).write_text(text, encoding="utf-8")
        save_file(_tensors(self), save_directory / _WEIGHTS, metadata={"format": "pt"})
        # safetensors leaves its file readable to its owner alone.
        shutil.copymode(save_directory / _CONFIG, save_directory / _WEIGHTS)

    @classmethod
    def _build(cls, config: Mapping[str, Any]) -> Any:
        """A network of a description; the global random state stays as it is."""
        parameters = _parameters(cls)
        unknown = sorted(config.keys() - parameters.keys())
        if unknown:
            raise ValueError(f"it has no arguments {', '.join(unknown)}; it has {', '.join(parameters) or 'none'}")
        arguments = {name: cls._decode_arg(parameters[name].annotation, value) for name, value in config.items()}
        with torch.random.fork_rng(devices=[]):
            network = cls(**arguments)
        altered = [name for name in config if _arguments(network)[name] != config[name]]
        if altered:
            raise ValueError(f"{', '.join(altered)} has parts that it does not know")
        return network


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    """The named arguments of the constructor."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return {parameter.name: parameter for parameter in found if parameter.kind in named}


def _arguments(network: Any) -> dict[str, Any]:
    """What a network was built with, as JSON will give it back."""
    return json.loads(json.dumps(network._hub_mixin_config or {}))


def _count(network: Any) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _tensors(network: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}


def _differing(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that are not equal bit for bit, NaN included."""

    def equal(name: str) -> bool:
        if name not in ours or name not in theirs:
            return False
        one, other = ours[name], theirs[name]
        same = one.dtype == other.dtype and one.shape == other.shape
        return same and torch.equal(one.flatten().view(torch.uint8), other.flatten().view(torch.uint8))

    return sorted(name for name in ours.keys() | theirs.keys() if not equal(name))


def _changed(one: Any, other: Any) -> list[str]:
    """Names of public plain attributes that differ."""
    plain = {name: value for name, value in vars(one).items() if name[0] != "_" and name != "training"}
    return sorted(
        name
        for name, value in plain.items()
        if isinstance(value, (bool, int, float, str, tuple)) and getattr(other, name, None) != value
    )


def _read_config(folder: Path) -> dict[str, Any]:
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(
                f"Expected a folder that save_pretrained wrote; {folder} has no {name}. Nothing is downloaded: fetch a "
                "model of a hub with huggingface_hub.snapshot_download and pass its folder."
            )
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder / _CONFIG} is damaged ({error}); save the model again.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{folder / _CONFIG} is damaged (it holds no object); save the model again.")
    return config


def _class_named(kind: type, name: Any, folder: Path) -> Any:
    """The final class of that name among a class and those below it."""
    known = {found.__name__: found for found in _below(kind) if not inspect.isabstract(found)}
    if name not in known:
        raise ValueError(f"{folder} holds a {name}; expected {' or '.join(sorted(known)) or 'a known class'}.")
    return known[name]


def _below(kind: type) -> Iterator[type]:
    yield kind
    for lower in kind.__subclasses__():
        yield from _below(lower)


def _fill(network: nn.Module, path: Path) -> None:
    """Give a network the tensors of a file, which must be exactly its own."""
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); save the model again.") from error
    own = network.state_dict()
    wrong = {
        "missing": sorted(own.keys() - tensors.keys()),
        "unknown": sorted(tensors.keys() - own.keys()),
        "of another shape or type": sorted(
            name
            for name in own.keys() & tensors.keys()
            if (own[name].shape, own[name].dtype) != (tensors[name].shape, tensors[name].dtype)
        ),
    }
    found = "; ".join(f"{title}: {', '.join(names)}" for title, names in wrong.items() if names)
    if found:
        raise ValueError(f"{path} does not hold the tensors of {type(network).__name__} ({found}).")
    network.load_state_dict(tensors)


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which then takes the place of ``folder``; on an error nothing changes."""
    if folder.exists() and not _replaceable(folder):
        raise ValueError(
            f"{folder} holds other things than a model of flowvid; they would be lost. Give a folder that is new, "
            "empty, or holds such a model alone."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = f"{os.getpid()}.{threading.get_ident()}.{folder.name}"
    place, aside = folder.with_name(f".{mark}.new"), folder.with_name(f".{mark}.old")
    try:
        place.mkdir()
        yield place
        for file in place.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        if folder.exists():
            folder.rename(aside)
        place.rename(folder)
    except BaseException:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        raise
    finally:
        for left in (place, aside):
            shutil.rmtree(left, ignore_errors=True)


def _replaceable(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    if not names:
        return True
    if not names <= {_CONFIG, _WEIGHTS, _CARD} or _CONFIG not in names:
        return False
    try:
        return _CLASS in _read_config(folder)
    except ValueError:
        return False
