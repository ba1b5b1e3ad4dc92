"""The worlds by name, and a world from its description."""

__all__ = ["WORLDS", "AnyWorld", "world_channels", "world_of"]

import dataclasses
from collections.abc import Mapping
from typing import Any

from flowvid.data.worlds.balls import BallWorld
from flowvid.data.worlds.branching import BranchingWorld
from flowvid.data.worlds.clips import World
from flowvid.data.worlds.pendulums import PendulumWorld

AnyWorld = World | BranchingWorld | BallWorld | PendulumWorld

WORLDS: dict[str, type[AnyWorld]] = {
    "digits": World,
    "branching": BranchingWorld,
    "balls": BallWorld,
    "pendulums": PendulumWorld,
}


def world_of(description: Mapping[str, Any]) -> AnyWorld:
    """The world that `dataclasses.asdict` described; its kind is the one with these fields.

    Raises:
        ValueError: No world has these fields, or a value is outside its range.
    """
    for kind in WORLDS.values():
        if {part.name for part in dataclasses.fields(kind)} == set(description):
            parts: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in description.items()
            }
            return kind(**parts)
    raise ValueError(
        f"No world has exactly the fields {', '.join(sorted(description))}; the worlds are {', '.join(WORLDS)}."
    )


def world_channels(world: AnyWorld) -> int:
    """Channels of its frames: 3 in colour, else 1."""
    return 3 if getattr(world, "colour", False) else 1
