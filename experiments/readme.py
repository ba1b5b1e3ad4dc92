"""Writes the README's table from the results of the main comparison; nothing in it is typed by hand.

python -m experiments.readme
"""

__all__ = ["main", "rewritten"]

import json
import statistics
from pathlib import Path
from typing import Any

from flowvid.data.files import write_atomically

_ROOT = Path(__file__).parent.parent
_RESULTS = _ROOT / "experiments" / "results" / "compare_models-cpu.json"
_START, _STOP = "<!-- results: start -->", "<!-- results: stop -->"
_ROWS = (
    "multi-scale",
    "two-sided",
    "jump",
    "jump-1",
    "calibrated + rk4",
    "richardson + rk4",
    "softmax + rk4",
    "uniform + rk4",
    "instant + rk4",
    "long + rk4",
    "bisection",
    "multi-scale, fill only",
    "direct",
    "ddim, 50 steps",
    "ddim, 8 steps",
    "linear blend",
    "copy-last",
    "codec",
)
_COLUMNS = (
    ("predict", "predict", "position_error"),
    ("predict, t + 1/3", "predict", "position_error_off_grid"),
    ("beyond horizon", "extrapolate", "position_error"),
    ("fill in", "fill", "position_error"),
    ("fill in, t + 1/3", "fill", "position_error_off_grid"),
    ("NFE", "predict", "evaluations"),
    ("depth", "predict", "depth"),
    ("seconds", "predict", "seconds"),
)


def rewritten(readme: str, content: dict[str, Any]) -> str:
    """The README with the table between its marks made from results.

    Raises:
        ValueError: The marks are missing.
    """
    if _START not in readme or _STOP not in readme:
        raise ValueError(f"Expected the marks {_START} and {_STOP} in the README.")
    head, rest = readme.split(_START)
    return f"{head}{_START}\n{_table(content)}\n{_STOP}{rest.split(_STOP)[1]}"


def main() -> None:
    """Rewrite the README in place."""
    path = _ROOT / "README.md"
    text = rewritten(path.read_text(encoding="utf-8"), json.loads(_RESULTS.read_text(encoding="utf-8")))

    def write(place: Path) -> None:
        place.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def _table(content: dict[str, Any]) -> str:
    lines = ["| method | " + " | ".join(title for title, _, _ in _COLUMNS) + " |", "|---" * (1 + len(_COLUMNS)) + "|"]
    for method in _ROWS:
        cells = [_cell(content, method, task, key) for _, task, key in _COLUMNS]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    study, environment = content["study"], content["environment"]
    run = study["run"]
    lines += [
        "",
        f"Position error in pixels on {study['test_clips']} held-out clips, mean ± standard deviation over "
        f"{len(study['seeds'])} seeds; {run['model']['steps']} steps of batch {run['model']['batch']}, "
        f"{min(content['parameters'].values())} to {max(content['parameters'].values())} parameters. Seconds are for "
        f"{study['timing_clips']} clips of {run['reach'] + 1} frames on {environment['device']} with "
        f"{environment['threads']} threads. The row multi-scale is, for each task and seed, the way of moving along "
        "the one trained field that did best on validation clips.",
    ]
    return "\n".join(lines)


def _cell(content: dict[str, Any], method: str, task: str, key: str) -> str:
    values = [
        row[key]
        for row in content["rows"]
        if (row["method"], row["task"], row["split"]) == (method, task, "test") and row.get(key) is not None
    ]
    if not values:
        return ""
    mean = statistics.fmean(values)
    if key in ("evaluations", "depth"):
        return f"{mean:.3g}"
    return f"{mean:.2f}" if len(values) == 1 or key == "seconds" else f"{mean:.2f} ± {statistics.stdev(values):.2f}"


if __name__ == "__main__":
    main()
