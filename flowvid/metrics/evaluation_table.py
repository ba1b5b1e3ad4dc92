"""The numbers of an evaluation as text for a terminal."""

__all__ = ["aligned", "evaluation_table", "listed", "number"]

from collections.abc import Mapping, Sequence
from typing import Any


def evaluation_table(content: Mapping[str, Any]) -> str:
    """What `flowvid.metrics.evaluate.evaluate` returned, for people."""
    counts = ", ".join(f"{number} {name}" for name, number in content["clips"].items())
    parts = [f"{counts} clips; read as {content['protocol_in_words']}."]
    parts += listed("What this cuts off:", content["cut"])
    parts += [_sets(content["sets"])] if content["sets"] else []
    if content.get("paired", {}).get("pairs"):
        parts.append(_paired(content["paired"]))
    parts.append(_alone(content["alone"]))
    parts += listed("Not computed:", [f"{name}: {reason}" for name, reason in content["not_computed"].items()])
    skipped = [f"{one['file']}: {one['reason']}" for one in content["skipped"]]
    parts += listed(f"Skipped {len(skipped)}:", skipped)
    parts += listed("Warnings:", content["warnings"])
    return "\n\n".join(parts)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as columns, the first to the left and the others to the right, a rule below the first row."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    text = [
        "  ".join(cell.ljust(width) if not n else cell.rjust(width) for n, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])


def listed(title: str, lines: Sequence[str]) -> list[str]:
    """One part: a title and lines below it; nothing where there are no lines."""
    return ["\n".join([title, *(f"  {line}" for line in lines)])] if lines else []


def number(value: float | None) -> str:
    """Four digits, or a dash."""
    return "-" if value is None else f"{value:.4g}"


def _sets(sets: Mapping[str, Any]) -> str:
    rows = [["sets", "distance", "95 % interval", "bias about", "kernel x 1000", "videos", "samples", "features"]]
    for name, found in sets.items():
        interval = f"[{found['low']:.4g}, {found['high']:.4g}]" if "low" in found else "-"
        kernel = f"{1000 * found['kernel']:.4g}" if "kernel" in found else "-"
        counts = ["/".join(map(str, found[key])) for key in ("videos", "samples")]
        cells = [number(found.get("value")), interval, number(found.get("excess")), kernel]
        rows.append([name, *cells, *counts, str(found["features"])])
    return aligned(rows)


def _paired(paired: Mapping[str, Any]) -> str:
    rows = [[f"{paired['pairs']} pairs", "mean", "deviation over clips"]]
    rows += [
        [name.replace("_", " "), number(found["mean"]), number(found.get("deviation"))]
        for name, found in paired.items()
        if name != "pairs"
    ]
    return aligned(rows)


def _alone(alone: Mapping[str, Mapping[str, Any]]) -> str:
    sides = list(alone)
    rows = [["clips by themselves", *sides]]
    for name in alone[sides[0]]:
        rows.append([name.replace("_", " "), *(_spread(alone[side].get(name)) for side in sides)])
    return aligned(rows)


def _spread(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "-"
    spread = f" ± {found['deviation']:.2g}" if "deviation" in found else ""
    return f"{number(found['mean'])}{spread}"
