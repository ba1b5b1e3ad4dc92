"""A study: rivals trained alike, at several seeds, on one codec, and measured alike.

A study is described completely by a value; carrying it out twice in one folder does nothing the second time, and an
interrupted one goes on where it stopped.
"""

__all__ = ["Stage", "Study", "demo_study", "train_study"]

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flowvid.compare.methods import Method, candidates, methods
from flowvid.encoders.codec import Codec
from flowvid.models.rivals import RIVALS
from flowvid.models.video_model import LearnedModel
from flowvid.train.loop import PLAIN, Execution, Optimisation, Progress
from flowvid.train.run import Run, Saved, latents, train_codec, train_model
from flowvid.video import Trajectory

Stage = Callable[[str], Progress]
"""Called with the name of a stage that begins; returns what to tell its progress to."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Runs that differ only in the seed of the models, and how they are measured.

    Arguments:
        run: The run; the seed of its models is replaced by each of ``seeds``.
        seeds: Seeds of the models.
        models: Names of the models to train.
        test_clips: Held-out clips that every number is measured on.
        timing_clips: Clips per batch when wall time is measured.
        timing_repeats: Repetitions of each timing, of which the median counts.
        ddim_steps: Numbers of DDIM steps on the error-against-cost curve, the last one the reference.

    Raises:
        ValueError: There are no seeds, or a number is not positive.
    """

    run: Run
    seeds: tuple[int, ...] = (0,)
    models: tuple[str, ...] = RIVALS[:4]
    test_clips: int = 128
    timing_clips: int = 64
    timing_repeats: int = 3
    ddim_steps: tuple[int, ...] = (1, 2, 4, 8, 16, 50)

    def __post_init__(self) -> None:
        if not self.seeds or min(self.test_clips, self.timing_clips, self.timing_repeats, *self.ddim_steps) < 1:
            raise ValueError(f"A study needs at least one seed and positive numbers of clips and steps; got {self}.")

    @property
    def methods(self) -> tuple[Method, ...]:
        """All rows of the table, without the chosen one."""
        return methods(self.ddim_steps, self.models, self._longest)

    @property
    def candidates(self) -> tuple[Method, ...]:
        """Ways to sample the multi-scale model that compete on validation clips."""
        return candidates(self._longest)

    @property
    def _longest(self) -> int:
        return 2 ** (self.run.scales - 1)

    def seeded(self, seed: int) -> Run:
        """The run with one of the seeds."""
        return dataclasses.replace(self.run, model=dataclasses.replace(self.run.model, seed=seed))


def train_study(
    study: Study, folder: Path, *, device: str, stage: Stage, execution: Execution = PLAIN
) -> tuple[Saved[Codec], dict[tuple[str, int], Saved[LearnedModel]]]:
    """The codec, and every model by (name, seed): loaded, continued or trained, as need be.

    Arguments:
        study: The study.
        folder: Where the weights live.
        device: Where to train.
        stage: Announces what begins.
        execution: How training is carried out.
    """
    codec = train_codec(study.run, folder, device=device, progress=stage("codec"), execution=execution)

    @cache
    def bank(split: str) -> Trajectory:
        clips = study.run.clips if split == "train" else study.run.validation_clips
        return latents(study.run, codec.network, split, study.run.times, clips=clips, device=device)

    models = {}
    for seed in study.seeds:
        for name in study.models:
            label = name if len(study.seeds) == 1 else f"{name}, seed {seed}"
            seeded, progress = study.seeded(seed), stage(label)
            models[name, seed] = train_model(
                name, seeded, bank, folder, device=device, progress=progress, execution=execution
            )
    return codec, models


def demo_study(scale: str) -> Study:
    """The study behind ``flowvid demo``: minutes on two cores, or seconds for "quick".

    Raises:
        ValueError: The scale is neither "demo" nor "quick".
    """
    if scale not in ("demo", "quick"):
        raise ValueError(f"The demo's scales are demo and quick; got {scale!r}.")
    if scale == "quick":
        run = Run(
            clips=32,
            validation_clips=16,
            codec_width=16,
            width=16,
            codec=Optimisation(steps=40, learning_rate=2e-3, warmup=10),
            model=Optimisation(steps=12, batch=16, warmup=5),
        )
        return Study(run=run, test_clips=8, timing_clips=4, timing_repeats=1, ddim_steps=(1, 4))
    run = Run(clips=1024, codec=Optimisation(steps=700, learning_rate=2e-3), model=Optimisation(steps=800))
    return Study(run=run, test_clips=48, timing_repeats=1, ddim_steps=(1, 4, 16, 50))
