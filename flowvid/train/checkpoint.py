"""Checkpoints: one safetensors file with a JSON description inside; complete or absent, and nothing is pickled."""

__all__ = ["load_tensors", "save_tensors"]

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flowvid.data.files import write_atomically


def save_tensors(path: Path, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Write tensors with a description, atomically.

    Arguments:
        path: The file.
        tensors: Tensors by name.
        description: Anything JSON can hold.
    """
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda place: save_file(flat, place, metadata={"description": json.dumps(description)}))


def load_tensors(path: Path, *, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file and its description.

    Raises:
        ValueError: The file is missing, or is not a checkpoint of flowvid, or there is no such device.
    """
    if not path.is_file():
        raise ValueError(f"Expected a checkpoint at {path}; there is none. Train it first, or check the path.")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"Expected a device that is there, such as cpu or cuda; got {device!r} ({error}).") from error
    try:
        with safe_open(path, framework="pt") as handle:
            description = json.loads((handle.metadata() or {})["description"])
            if not isinstance(description, dict):
                raise KeyError("description")
            names = handle.keys()
            return {name: handle.get_tensor(name).to(device) for name in names}, description
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is not a complete checkpoint of flowvid ({error}); delete it, train again."
        ) from error
