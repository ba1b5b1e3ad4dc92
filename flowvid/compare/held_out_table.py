"""The numbers of a model on held-out clips as text for a terminal."""

__all__ = ["model_table"]

from collections.abc import Mapping
from typing import Any

from flowvid.compare.held_out import PROTOCOLS
from flowvid.metrics.evaluation_table import aligned, listed, number


def model_table(content: Mapping[str, Any]) -> str:
    """What `evaluate_model` returned, for people."""
    rows = content["rows"]
    keys = [key for key, value in rows[next(iter(rows))].items() if not isinstance(value, list) and value is not None]
    lines = [[f"{content['task']}, {content['clips']} clips", *rows]]
    lines += [[key.replace("_", " "), *(number(row.get(key)) for row in rows.values())] for key in keys]
    known = ", ".join(f"{time:g}" for time in content["known_seconds"])
    parts = [f"{content['model']} by {content['solver']}; known at {known} s.", aligned(lines)]
    for title, name in (("captions", "captions"), ("flicker lines", "flicker"), ("features", "features")):
        if content[name]:
            columns = list(next(iter(content[name].values())))
            body = [[key, *(number(found.get(c)) for c in columns)] for key, found in content[name].items()]
            parts.append(aligned([[title, *columns], *body]))
    if content["seams_by_level"]:
        seams = ", ".join(number(value) for value in content["seams_by_level"])
        parts.append(f"Seams at frames with 0, 1, 2, ... trailing zeros: {seams}")
    parts += _samples(content["samples"])
    parts += listed("Not computed:", [f"{name}: {reason}" for name, reason in content["not_computed"].items()])
    parts += listed("Warnings:", content["warnings"])
    return "\n\n".join(parts)


def _samples(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return ["Deterministic: every sample of a clip is the same."]
    rows = [[f"{found['count']} samples of each clip", "single", "of their mean", "best"]]
    for key in ("psnr", "ssim", "mean_squared_error", "position_error"):
        rows.append([key.replace("_", " "), *(number(found[key].get(protocol)) for protocol in PROTOCOLS)])
    apart = found["pairwise_distance"]
    return [
        aligned(rows),
        f"Two samples of a clip end {apart['end_pixels']:.3g} pixels apart and differ by {apart['frame_rms']:.3g} per "
        "pixel (root mean square over the last frame, pixels in [0, 1]).",
    ]
