"""One checkpoint: a safetensors file with a JSON description inside; complete or absent, and nothing is pickled.

A truncated file is known by its length, which safetensors checks; a file damaged in place by the CRC-32 of all its
tensors, which stands beside the description.
"""

__all__ = ["load_tensors", "read_description", "save_tensors"]

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flowvid.data.files import write_atomically


def save_tensors(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write tensors with a description, atomically. What is on the CPU is written without a copy.

    Arguments:
        path: The file.
        tensors: Tensors by name.
        description: Anything JSON can hold.
    """
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"description": json.dumps(description), "digest": _digest(flat)}
    write_atomically(path, lambda place: save_file(flat, place, metadata=metadata))


def load_tensors(path: Path, *, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file and its description.

    Raises:
        ValueError: The file is missing, damaged, or not a checkpoint of flowvid, or there is no such device.
    """
    _check_there(path)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"Expected a device that is there, such as cpu or cuda; got {device!r} ({error}).") from error
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            description = _description(metadata)
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        if metadata.get("digest", found := _digest(tensors)) != found:
            raise KeyError("its digest is another")
        return {name: tensor.to(device) for name, tensor in tensors.items()}, description
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise _incomplete(path, error) from error


def read_description(path: Path) -> dict[str, Any]:
    """The description of a file whose length is right; its tensors are not read.

    Raises:
        ValueError: The file is missing, truncated, or not a checkpoint of flowvid.
    """
    _check_there(path)
    try:
        with safe_open(path, framework="pt") as handle:
            return _description(handle.metadata() or {})
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise _incomplete(path, error) from error


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"Expected a checkpoint at {path}; there is none. Train it first, or check the path.")


def _incomplete(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is not a complete checkpoint of flowvid ({error}); delete it, train again.")


def _description(metadata: Mapping[str, str]) -> dict[str, Any]:
    description = json.loads(metadata["description"])
    if not isinstance(description, dict):
        raise KeyError("description")
    return description


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of all bytes, in the order of the names."""
    value = 0
    for name in sorted(tensors):
        if tensors[name].numel():
            content = tensors[name].reshape(-1).view(torch.uint8).numpy().data
            value = zlib.crc32(content, zlib.crc32(name.encode(), value))
    return f"{value:08x}"
