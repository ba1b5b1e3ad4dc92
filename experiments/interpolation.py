"""Seven frames between two given ones: our models, bisection, optical flow and blending, on digits and real clips.

python -m experiments.interpolation --scale cpu [--data FOLDER]

The digits are those of the comparison of models: their motion is known, so positions can be judged at any real time, a
third of a frame off the grid too, and an oracle that is told the motion shows what moving pixels can reach. The real
clips are those of `experiments.real_clips`, with the models trained there.
"""

__all__ = ["draw", "main", "measure"]

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from experiments.claims import claim, interval
from experiments.digit_gaps import digit_claims, measure_digits
from experiments.fill_in import EVERY, found_perceptual
from experiments.films import draw_films, save_films
from experiments.real_clips import PARTS, filled_films, measure_part, per_clip
from experiments.real_spans import RealRun, read_spans
from experiments.real_training import train_real
from experiments.recipes import Interpolation, interpolation
from experiments.run import run_experiment
from flowvid.metrics.perceptual import Lpips
from flowvid.plot.lines import Line, draw_lines, draw_panels

_REAL_FILMED = ("linear blend", "flow, DIS", "bisection, detail kept", "multi-scale, detail kept")
_DRAWN = {
    "linear blend": "grey",
    "flow, DIS": "blue",
    "flow, Farneback": "sky",
    "direct": "orange",
    "bisection": "green",
    "multi-scale, jump": "purple",
    "multi-scale": "vermilion",
}


def measure(run: Interpolation, data: Path | None, *, work: Path | None = None) -> dict[str, Any]:
    """Every method's numbers on digits and, where there are some, on real clips.

    Arguments:
        run: What to train and measure.
        data: The folder of real clips and weights, if there is one.
        work: Where all weights and films are kept; default: a folder in ``out`` for each part, by its name.
    """
    perceptual = None if data is None else found_perceptual(data)
    folder = work or Path("out") / run.digits.name
    found: dict[str, Any] = {"digits": measure_digits(run.digits, folder, perceptual)}
    claims = digit_claims(found["digits"]["methods"])
    if data is not None:
        place = work / "real" if work else Path("out") / run.real.name
        found["real"] = _real(run.real, data, place, folder, perceptual)
        claims += _real_claims(found["real"]["held_out"], perceptual=perceptual is not None)
    return {**found, "claims": claims}


def draw(content: dict[str, Any], folder: Path, *, work: Path | None = None) -> None:
    """Draw interpolation.png with a PDF of each panel and, of each part, a film strip and a film.

    Arguments:
        content: Results, as read from their file.
        folder: Where the figures go.
        work: Where films are kept; without them only lines are drawn.
    """
    panels = {"position": partial(_position_by_frame, content), "psnr": partial(_psnr_by_method, content)}
    draw_panels(folder, "interpolation", panels)
    recipe = content["recipe"]
    kept = work or Path("out") / recipe["digits"]["name"]
    for part, fps in (("digits", 1 / recipe["digits"]["run"]["frame"]), ("real", recipe["real"]["fps"])):
        films = kept / f"{part}.safetensors"
        if films.exists() and part in content:
            draw_films(films, folder, f"interpolation_{part}", fps=fps)


def main() -> None:
    """Run the experiment at a scale."""
    about = (__doc__ or "").splitlines()[0]
    run_experiment("interpolation", about, recipe=interpolation, measure=measure, draw=draw, real=True)


def _real(run: RealRun, data: Path, work: Path, folder: Path, perceptual: Lpips | None) -> dict[str, Any]:
    """The numbers of `experiments.real_clips`, on the same windows."""
    spans = read_spans(run, data, work)
    trained = train_real(run, spans, work, perceptual=perceptual)
    found: dict[str, Any] = {"footage": spans.names}
    for part in PARTS:
        found[part] = measure_part(run, spans, trained, part, perceptual=perceptual)
    films = filled_films(run, spans, trained, "held_out", _REAL_FILMED)
    save_films(folder / "real.safetensors", films, names=spans.names)
    return found


def _real_claims(part: dict[str, Any], *, perceptual: bool) -> list[dict[str, Any]]:
    """What was expected before the run, over clips."""
    ours, rows = "multi-scale, detail kept", part["methods"]

    def less(key: str, other: str) -> list[float]:
        return [one - two for one, two in zip(per_clip(rows, ours, key), per_clip(rows, other, key), strict=True)]

    truly = part["truth"]["heartbeat"]
    pulses = (per_clip(rows, name, "heartbeat") for name in (ours, "linear blend"))
    off = [abs(one - true) - abs(two - true) for one, two, true in zip(*pulses, truly, strict=True)]
    claims = [
        claim("I9", "real: multi-scale less linear blend, PSNR in dB", less("psnr", "linear blend"), least=0.0),
        claim("I10", "real: multi-scale less DIS flow, PSNR in dB", less("psnr", "flow, DIS"), least=0.0),
        claim("I11", "real: heartbeat off the truth's, multi-scale less linear blend", off, most=0.0),
    ]
    if perceptual:
        says = "real: multi-scale less linear blend, LPIPS (less is closer)"
        claims.append(claim("I12", says, less("lpips", "linear blend"), most=0.0))
    return claims


def _position_by_frame(content: dict[str, Any], axis: Axes) -> list[Line]:
    rows = content["digits"]["methods"]
    lines = []
    for name, colour in _DRAWN.items():
        seeds = rows[name]["position_error_by_frame"]
        mean = [sum(values) / len(values) for values in zip(*seeds, strict=True)]
        lines.append(Line(x=list(range(1, EVERY)), y=mean, colour=colour, name=name))
    draw_lines(axis, lines, title="Digits", xlabel="frame between given ones", ylabel="position error in pixels")
    return lines


def _psnr_by_method(content: dict[str, Any], axis: Axes) -> list[Line]:
    """PSNR less that of linear blend: digits, and every real clip on its held-out span."""
    places = ["digits", *content.get("real", {}).get("footage", [])]
    lines = []
    for name, colour in _DRAWN.items():
        if name not in ("flow, DIS", "bisection", "multi-scale"):
            continue
        digits = content["digits"]["methods"]
        gains = [_mean(digits[name]["psnr"]) - _mean(digits["linear blend"]["psnr"])]
        if "real" in content:
            rows = content["real"]["held_out"]["methods"]
            kept = f"{name}, detail kept" if f"{name}, detail kept" in rows else name
            base = per_clip(rows, "linear blend", "psnr")
            gains += [one - two for one, two in zip(per_clip(rows, kept, "psnr"), base, strict=True)]
        lines.append(Line(x=list(range(len(places))), y=gains, colour=colour, name=name, style="", marker="o"))
    axis.axhline(0.0, color="#444444", linewidth=0.7, linestyle="--")
    draw_lines(axis, lines, title="PSNR over linear blend", xlabel="", ylabel="dB")
    axis.set_xticks(range(len(places)), [place.rsplit(".", 1)[0] for place in places], rotation=30, ha="right")
    return lines


def _mean(values: Sequence[float]) -> float:
    return interval(values).mean if len(values) > 1 else values[0]


if __name__ == "__main__":
    main()
