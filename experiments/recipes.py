"""Complete typed descriptions of the experiments, one function each; a scale is quick, cpu or gpu."""

__all__ = ["SCALES", "compare_models"]

from flowvid.compare.study import Study, demo_study
from flowvid.models.rivals import RIVALS
from flowvid.train.loop import Optimisation
from flowvid.train.run import Run

SCALES = ("quick", "cpu", "gpu")


def compare_models(scale: str) -> Study:
    """All rivals on one digit in straight flight with reflections.

    Arguments:
        scale: quick takes seconds, cpu about three quarters of an hour on two cores, gpu about as long on one GPU.

    Raises:
        ValueError: The scale is unknown.
    """
    match scale:
        case "quick":
            return demo_study("quick")
        case "cpu":
            run = Run(
                clips=2048,
                validation_clips=192,
                codec=Optimisation(steps=2000, learning_rate=2e-3),
                model=Optimisation(steps=2500),
            )
            return Study(run=run, seeds=(0, 1, 2), models=RIVALS, test_clips=128, timing_repeats=1)
        case "gpu":
            run = Run(
                clips=16384,
                validation_clips=1024,
                codec_width=96,
                codec=Optimisation(steps=20000, batch=256, learning_rate=2e-3),
                width=96,
                model=Optimisation(steps=20000, batch=256),
            )
            return Study(
                run=run, seeds=(0, 1, 2, 3, 4), models=RIVALS, test_clips=1024, ddim_steps=(1, 2, 4, 8, 16, 32, 50)
            )
        case _:
            raise ValueError(f"The scales are {', '.join(SCALES)}; got {scale!r}.")
