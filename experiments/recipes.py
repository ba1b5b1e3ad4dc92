"""Complete typed descriptions of the experiments, one function each; a scale is quick, cpu or gpu."""

__all__ = ["SCALES", "SolverCost", "Weights", "compare_models", "ddim_limit", "solver_cost", "weights"]

from dataclasses import dataclass

from experiments.crossover import Crossover
from experiments.floors import Exact, Trained
from experiments.mismatch import Mismatch
from experiments.order import Order
from experiments.precision import Oracles, Paths
from experiments.shrinkage import Shrinkage
from experiments.stiffness import Stiffness
from flowvid.compare.study import Study, demo_study
from flowvid.models.rivals import RIVALS
from flowvid.train.loop import Optimisation
from flowvid.train.run import Run

SCALES = ("quick", "cpu", "gpu")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What is measured about scale weights.

    Arguments:
        order: F1, the order of each rule.
        crossover: F2, which rule is best under noise.
        mismatch: F3, what an ODE solver makes of each rule.
    """

    order: Order
    crossover: Crossover
    mismatch: Mismatch


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


def weights(scale: str) -> Weights:
    """Scale weights on latents with a closed form.

    Arguments:
        scale: quick takes seconds, cpu about a minute on one core, gpu some ten minutes on as many cores as there are.

    Raises:
        ValueError: The scale is unknown.
    """
    counts = {"quick": (5, 500, 5000), "cpu": (10, 4000, 20_000), "gpu": (30, 20_000, 100_000)}
    if scale not in counts:
        raise ValueError(f"The scales are {', '.join(SCALES)}; got {scale!r}.")
    many, paths, noisy = counts[scale]
    seeds = tuple(range(many))
    return Weights(
        order=Order(seeds=seeds, draws=paths),
        crossover=Crossover(seeds=seeds, draws=noisy),
        mismatch=Mismatch(seeds=seeds[:3] if scale == "quick" else seeds),
    )


def ddim_limit(scale: str) -> Shrinkage:
    """How much few-step DDIM shrinks Gaussian data and a mixture.

    Arguments:
        scale: quick takes seconds, cpu about a minute on one core, gpu some ten minutes on as many cores as there are.

    Raises:
        ValueError: The scale is unknown.
    """
    few = (1, 2, 4, 8, 16, 32, 64, 128)
    match scale:
        case "quick":
            return Shrinkage(seeds=(0, 1, 2), draws=256, steps=few, deviations=(0.3, 1.0, 3.0), reference_steps=256)
        case "cpu":
            return Shrinkage(seeds=(0, 1, 2, 3, 4), draws=2000, steps=(*few, 256, 512, 1024), reference_steps=2048)
        case "gpu":
            return Shrinkage(
                seeds=tuple(range(20)), draws=20_000, steps=(*few, 256, 512, 1024, 2048), reference_steps=4096
            )
        case _:
            raise ValueError(f"The scales are {', '.join(SCALES)}; got {scale!r}.")


@dataclass(frozen=True, kw_only=True)
class SolverCost:
    """What is measured about the cost of solvers.

    Arguments:
        oracles: Every ODE method on fields with known flows.
        stiffness: Control per sample and joint control on unequal samples.
        exact: Jumps and Runge-Kutta methods with perfect heads.
        trained: The same with trained heads.
        paths: Every SDE method on geometric Brownian motion.
    """

    oracles: Oracles
    stiffness: Stiffness
    exact: Exact
    trained: Trained
    paths: Paths


def solver_cost(scale: str) -> SolverCost:
    """Error against cost of every solver.

    Arguments:
        scale: quick takes seconds, cpu some four minutes on one core, gpu about an hour on one core.

    Raises:
        ValueError: The scale is unknown.
    """
    following = ("euler", "midpoint", "rk4", "tsit5", "torchdiffeq:dopri5")
    quick = {"codec": Optimisation(steps=40, warmup=10), "model": Optimisation(steps=12, batch=16, warmup=5)}
    match scale:
        case "quick":
            seeds, many, clips, tight = (0, 1), 3, 8, 1
            run = Run(clips=32, validation_clips=16, codec_width=16, width=16, **quick)
        case "cpu":
            seeds, many, clips, tight = (0, 1, 2), 5, 64, 4
            run = Run(
                clips=256,
                codec_width=24,
                width=24,
                codec=Optimisation(steps=400, batch=32),
                model=Optimisation(steps=500, batch=32),
            )
        case "gpu":
            seeds, many, clips, tight = (0, 1, 2, 3, 4), 7, 512, 4
            run = Run(clips=4096, codec=Optimisation(steps=4000), model=Optimisation(steps=6000))
        case _:
            raise ValueError(f"The scales are {', '.join(SCALES)}; got {scale!r}.")
    loose = tuple(10.0**-n for n in range(1, tight + 1))
    fine = tuple(10.0**-n for n in range(2, tight + 4))
    return SolverCost(
        oracles=Oracles(steps=tuple(8 * 2**n for n in range(many)), tolerances=fine, repeats=1 if many == 3 else 2),
        stiffness=Stiffness(seeds=seeds, tolerances=fine),
        exact=Exact(
            seeds=seeds,
            methods=following,
            steps=tuple(4 * 2**n for n in range(many)),
            tolerances=loose,
            jump_tolerances=loose,
        ),
        trained=Trained(
            run=run,
            seeds=seeds,
            methods=following,
            steps=tuple(2**n for n in range(many)),
            tolerances=loose[:3],
            jump_tolerances=(1.0, *loose[:2]),
            clips=clips,
            reference_steps={"quick": 32, "cpu": 64, "gpu": 256}[scale],
        ),
        paths=Paths(seeds=seeds, steps=tuple(4 * 2**n for n in range(many)), batch=64 // 2 ** (5 - min(many, 5))),
    )
