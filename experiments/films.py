"""Films of methods side by side, kept as bytes beside the weights, so that figures can be drawn without any model."""

__all__ = ["draw_films", "save_films"]

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.fill_in import EVERY
from flowvid.data.footage.writers import write_video
from flowvid.plot.film import Strip, film_strips, side_by_side
from flowvid.train.checkpoint import load_tensors, save_tensors
from flowvid.video import Video, from_bytes, to_bytes

_ROWS = 3
_ZOOM = 3


def save_films(path: Path, films: Mapping[str, Mapping[str, Video]], *, names: Sequence[str]) -> None:
    """Keep films, as bytes, for the figures.

    Arguments:
        path: The file.
        films: By clip and method.
        names: The clips, in order.
    """
    tensors = {
        f"{names.index(clip)} {method}": to_bytes(video.frames[0])
        for clip, answers in films.items()
        for method, video in answers.items()
    }
    methods = list(next(iter(films.values())))
    times = next(iter(films[names[0]].values())).times.tolist()
    save_tensors(path, tensors, {"clips": list(names), "methods": methods, "times": times})


def draw_films(path: Path, folder: Path, name: str, *, fps: float) -> None:
    """Draw NAME_film.png of the first gap of a few clips, and NAME.mp4 of all of them side by side.

    Arguments:
        path: What `save_films` kept.
        folder: Where the figures go.
        name: How their names begin.
        fps: Frames per second of the film.
    """
    tensors, about = load_tensors(path)
    clips, methods, times = about["clips"], about["methods"], about["times"]
    strips = [
        [Strip(method, from_bytes(tensors[f"{number} {method}"])) for method in methods] for number in range(len(clips))
    ]
    shown = range(EVERY + 1)
    panels = [
        (clip, times[: EVERY + 1], [Strip(strip.name, strip.frames[: EVERY + 1]) for strip in row])
        for clip, row in zip(clips, strips, strict=True)
    ]
    given = [times[number] for number in shown if number % EVERY == 0]
    film_strips(folder / f"{name}_film.png", panels[:_ROWS], known=[given] * min(_ROWS, len(panels)))
    captions = [f"{time:.2f} s, {'given' if number % EVERY == 0 else 'filled in'}" for number, time in enumerate(times)]
    film = side_by_side(strips[:_ROWS], zoom=_ZOOM, captions=captions)
    slow = max(fps / 4, 1.0)
    write_video(folder / f"{name}.mp4", film, fps=slow, metadata={"experiment": name, "methods": methods})
