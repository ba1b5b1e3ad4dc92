"""Complete typed descriptions of the experiments, one function each; a scale is quick, cpu or gpu."""

__all__ = [
    "SCALES",
    "Chunking",
    "Interpolation",
    "SolverCost",
    "Weights",
    "branching",
    "chunking",
    "compare_models",
    "context",
    "ddim_limit",
    "endpoint",
    "interpolation",
    "real_clips",
    "solver_cost",
    "text",
    "weights",
]

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from experiments.branching_methods import Branching
from experiments.chunk_drift import Drift
from experiments.chunk_loss import Loss
from experiments.chunk_shift import Shift
from experiments.context_methods import Context
from experiments.crossover import Crossover
from experiments.digit_gaps import Digits
from experiments.endpoint_methods import Endpoint, Place
from experiments.floors import Exact, Trained
from experiments.mismatch import Mismatch
from experiments.order import Order
from experiments.precision import Oracles, Paths
from experiments.real_spans import RealRun
from experiments.shrinkage import Shrinkage
from experiments.stiffness import Stiffness
from experiments.text_models import Setting, Texts
from experiments.tubelets import Learned
from flowvid.compare.study import Study, demo_study
from flowvid.data.worlds.branching import BranchingWorld
from flowvid.data.worlds.clips import World
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


_CLIPS = ("world.mp4", "bigbuckbunny.mp4", "flower.mp4", "elf.mp4", "carphone_pristine.mp4")
"""The first three, which films show, may be shown to anybody."""


def real_clips(scale: str) -> RealRun:
    """A codec and models of real clips: of those named here, or where none of these is there of all.

    Arguments:
        scale: quick takes half a minute, cpu some eight minutes on two cores, gpu has all clips at twice the size and
            takes hours on a processor.

    Raises:
        ValueError: The scale is unknown.
    """
    match scale:
        case "quick":
            return RealRun(
                name="real_clips-quick",
                files=(_CLIPS[0], _CLIPS[2]),
                side=32,
                most=120,
                windows=1,
                codec_width=8,
                codec=Optimisation(steps=60, batch=8, warmup=10),
                width=16,
                model=Optimisation(steps=30, batch=8, warmup=5),
            )
        case "cpu":
            return RealRun(
                name="real_clips-cpu",
                files=_CLIPS,
                codec_width=16,
                codec=Optimisation(steps=1200, batch=16),
                model=Optimisation(steps=900, batch=16, warmup=50),
            )
        case "gpu":
            return RealRun(
                name="real_clips-gpu",
                files=(),
                side=128,
                most=1200,
                windows=8,
                codec_width=64,
                perceptual=0.1,
                codec=Optimisation(steps=20_000, batch=32, learning_rate=1e-3),
                width=96,
                model=Optimisation(steps=20_000, batch=32, learning_rate=1e-3),
                seeds=(0, 1, 2),
            )
        case _:
            raise ValueError(f"The scales are {', '.join(SCALES)}; got {scale!r}.")


@dataclass(frozen=True, kw_only=True)
class Interpolation:
    """What is measured about filling in.

    Arguments:
        digits: Moving digits.
        real: Real clips, where the user has some.
    """

    digits: Digits
    real: RealRun


def interpolation(scale: str) -> Interpolation:
    """Every eighth frame given, on digits and on the real clips of `real_clips`.

    Arguments:
        scale: quick takes half a minute, cpu some ten minutes on two cores besides `real_clips`, gpu about two hours
            on a processor besides it.

    Raises:
        ValueError: The scale is unknown.
    """
    shape = {"scales": 4, "reach": 8, "clip_frames": 26}
    match scale:
        case "quick":
            seeds, clips = (0, 1), 6
            codec = Optimisation(steps=60, warmup=10)
            model = Optimisation(steps=30, batch=32, warmup=5)
            run = Run(clips=64, validation_clips=16, codec_width=16, width=16, codec=codec, model=model, **shape)
        case "cpu":
            seeds, clips = (0, 1, 2), 64
            codec, model = Optimisation(steps=1200), Optimisation(steps=1000)
            run = Run(clips=1024, codec=codec, width=32, model=model, **shape)
        case "gpu":
            seeds, clips = (0, 1, 2, 3, 4), 512
            codec, model = Optimisation(steps=8000), Optimisation(steps=10_000, batch=128)
            run = Run(clips=8192, validation_clips=512, codec=codec, model=model, **shape)
        case _:
            raise ValueError(f"The scales are {', '.join(SCALES)}; got {scale!r}.")
    digits = Digits(name=f"interpolation-{scale}", run=run, seeds=seeds, clips=clips)
    return Interpolation(digits=digits, real=real_clips(scale))


@dataclass(frozen=True, kw_only=True)
class Chunking:
    """What is measured about chunks of frames.

    Arguments:
        loss: T1 and T2, what linear tokenisers lose.
        shift: T3 and T4, how tokens follow a shift, and the rhythm of the error.
        drift: One code and a drift against a code of a chunk.
        learned: Convolutional tokenisers.
    """

    loss: Loss
    shift: Shift
    drift: Drift
    learned: Learned


def chunking(scale: str) -> Chunking:
    """Tokenisers of chunks of frames.

    Arguments:
        scale: quick takes seconds, cpu some six minutes on one core, gpu about two hours on one core.

    Raises:
        ValueError: The scale is unknown.
    """
    match scale:
        case "quick":
            seeds, clips, rhythm, pairs = (0, 1, 2), 12, 128, 256
            training = Optimisation(steps=10, batch=8, warmup=2, learning_rate=4e-3, average=0.8)
            learned = Learned(seeds=seeds, training=training, clips=128, test_clips=48, chunks=(1, 4))
        case "cpu":
            seeds, clips, rhythm, pairs = (0, 1, 2, 3, 4), 64, 512, 1024
            training = Optimisation(steps=600, batch=16, warmup=20, learning_rate=4e-3, average=0.98)
            learned = Learned(seeds=(0, 1, 2), training=training)
        case "gpu":
            seeds, clips, rhythm, pairs = tuple(range(10)), 256, 2048, 4096
            training = Optimisation(steps=10_000, batch=32, warmup=100, learning_rate=4e-3)
            learned = Learned(seeds=seeds[:5], training=training, clips=8192, test_clips=384)
        case _:
            raise ValueError(f"The scales are {', '.join(SCALES)}; got {scale!r}.")
    return Chunking(
        loss=Loss(seeds=seeds, clips=clips),
        shift=Shift(seeds=seeds, clips=4 * clips, rhythm_clips=rhythm, tolerance=0.2 if scale == "quick" else 0.1),
        drift=Drift(seeds=seeds, pairs=pairs),
        learned=learned,
    )


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What is measured about terms of the loss.

    Arguments:
        name: Name of the folder, in ``out``, where the codec is kept.
        run: The run; the seed of its models is replaced by each of ``seeds``.
        seeds: Seeds of the models.
        clips: Held-out clips.
    """

    name: str
    run: Run
    seeds: tuple[int, ...] = (0, 1, 2)
    clips: int = 64


def loss_terms(scale: str) -> Terms:
    """Terms of the loss of transition heads, on a digit whose future is determined.

    Arguments:
        scale: quick takes seconds, cpu some twelve minutes on one core, gpu hours on a processor.

    Raises:
        ValueError: The scale is unknown.
    """
    shape = {"scales": 4, "reach": 8, "clip_frames": 20}
    match scale:
        case "quick":
            codec = Optimisation(steps=30, batch=16, warmup=5)
            model = Optimisation(steps=10, batch=16, warmup=2, average=0.8)
            run = Run(clips=32, validation_clips=16, codec_width=8, width=8, codec=codec, model=model, **shape)
            return Terms(name="loss_terms-quick", run=run, seeds=(0, 1), clips=8)
        case "cpu":
            codec, model = Optimisation(steps=600), Optimisation(steps=500, batch=32, average=0.99)
            run = Run(clips=512, codec_width=24, width=24, codec=codec, model=model, **shape)
            return Terms(name="loss_terms-cpu", run=run)
        case "gpu":
            codec, model = Optimisation(steps=8000), Optimisation(steps=10_000, batch=128)
            run = Run(clips=8192, validation_clips=512, codec=codec, model=model, **shape)
            return Terms(name="loss_terms-gpu", run=run, seeds=(0, 1, 2, 3, 4), clips=512)
        case _:
            raise ValueError(f"The scales are {', '.join(SCALES)}; got {scale!r}.")


def branching(scale: str) -> Branching:
    """One coin at a wall, 0.4 s after the two frames that are known.

    Arguments:
        scale: quick takes seconds, cpu some twelve minutes on one core, gpu about an hour on one GPU.

    Raises:
        ValueError: The scale is unknown.
    """
    world = BranchingWorld(coins=1, hit=0.4, angle_of_turn=math.pi / 3, canvas=24, scale=1, speed=(6.0, 12.0))
    shape = {"world": world, "frame": 0.25, "scales": 3, "reach": 4, "clip_frames": 10}
    match scale:
        case "quick":
            codec = Optimisation(steps=30, batch=16, warmup=5, average=0.8)
            model = Optimisation(steps=4, batch=8, warmup=2, average=0.5)
            run = Run(clips=32, validation_clips=16, codec_width=8, width=24, codec=codec, model=model, **shape)
            return Branching(name="branching-quick", run=run, seeds=(0, 1), clips=6, judged=24, samples=4)
        case "cpu":
            codec = Optimisation(steps=600, batch=64, average=0.99)
            model = Optimisation(steps=700, batch=64, learning_rate=4e-3, warmup=30, average=0.98)
            run = Run(clips=2048, codec_width=24, width=24, codec=codec, model=model, **shape)
            sdes = dict.fromkeys(("kinetic-sde", "first-order-sde", "neural-sde"), 400)
            steps = {"frame-flow": 1000, "ddim": 1000, "clip-flow": 350, "lstm": 300, **sdes}
            return Branching(name="branching-cpu", run=run, steps=steps, left_out=("clip diffusion",))
        case "gpu":
            codec, model = Optimisation(steps=8000), Optimisation(steps=20_000, batch=128)
            run = Run(clips=16_384, validation_clips=512, codec=codec, model=model, **shape)
            return Branching(name="branching-gpu", run=run, seeds=(0, 1, 2, 3, 4), clips=256, samples=16)
        case _:
            raise ValueError(f"The scales are {', '.join(SCALES)}; got {scale!r}.")


def text(scale: str) -> Texts:
    """Words of whole clips, and of moments of a branching world.

    Digits are eight pixels high on a canvas of sixteen, so that a frame is four tokens of a small network. Captions of
    moments are longer, so their model takes three quarters of the steps.

    Arguments:
        scale: quick takes seconds, cpu some twelve minutes on one core, gpu (digits of twice the size) hours on a
            processor.

    Raises:
        ValueError: The scale is unknown.
    """
    world = World(canvas=16, scale=1, speed=(2.0, 4.5))
    branching = BranchingWorld(coins=3, hit=0.6, angle_of_turn=math.pi / 3, canvas=16, scale=1, speed=(4.0, 7.0))
    shape: dict[str, Any] = {"frame": 0.25, "clip_frames": 9, "scales": 2, "reach": 3, "channels": 8, "codec_width": 32}
    match scale:
        case "quick":
            codec = Optimisation(steps=15, batch=16, learning_rate=8e-3, warmup=5, average=0.8)
            model = Optimisation(steps=5, batch=8, warmup=1, average=0.5)
            run = Run(world=world, clips=32, validation_clips=1, codec=codec, model=model, **shape)
            sizes: dict[str, Any] = {"run": run, "frames": 9, "width": 32, "depth": 1, "model": model}
            few: dict[str, Any] = {"clips": 6, "branches": 4, "samples": 2, "versions": 1, "steps": 2}
        case "cpu":
            codec = Optimisation(steps=1500, learning_rate=8e-3, average=0.99)
            model = Optimisation(steps=1600, batch=32, learning_rate=3e-3)
            run = Run(world=world, clips=2048, validation_clips=1, codec=codec, model=model, **shape)
            sizes = {"run": run, "frames": 9, "width": 64, "side": 2, "model": model}
            few = {"clips": 64}
        case "gpu":
            world = World()
            branching = BranchingWorld(coins=3, hit=0.6, angle_of_turn=math.pi / 3, speed=(8.0, 14.0))
            codec, model = Optimisation(steps=8000, batch=256), Optimisation(steps=60_000, batch=128)
            run = Run(world=world, clips=32_768, validation_clips=1, codec=codec, model=model, **shape)
            sizes = {"run": run, "frames": 13, "width": 192, "side": 2, "depth": 6, "model": model}
            few = {"seeds": (0, 1, 2), "clips": 512, "branches": 256, "samples": 16, "versions": 16, "steps": 40}
        case _:
            raise ValueError(f"The scales are {', '.join(SCALES)}; got {scale!r}.")
    shorter = dataclasses.replace(model, steps=-(-3 * model.steps // 4))
    return Texts(
        name=f"text-{scale}",
        said=Setting(world=world, **sizes),
        told=Setting(world=branching, **sizes | {"model": shorter}),
        **few,
    )


def context(scale: str) -> Context:
    """One, two or four frames of a flight, or two and the last, are known.

    Arguments:
        scale: quick takes seconds, cpu some ten minutes on one core, gpu about an hour on one GPU.

    Raises:
        ValueError: The scale is unknown.
    """
    world = World(canvas=24, scale=1, speed=(6.0, 12.0))
    shape: dict[str, Any] = {"world": world, "frame": 0.125, "scales": 3, "reach": 4, "clip_frames": 14}
    match scale:
        case "quick":
            codec = Optimisation(steps=30, batch=16, warmup=5, average=0.8)
            model = Optimisation(steps=6, batch=8, warmup=2, average=0.5)
            run = Run(clips=32, validation_clips=16, codec_width=8, width=16, codec=codec, model=model, **shape)
            return Context(name="context-quick", run=run, seeds=(0, 1), clips=6, samples=3, futures=16)
        case "cpu":
            codec = Optimisation(steps=500, batch=64, average=0.99)
            model = Optimisation(steps=500, batch=64, learning_rate=4e-3, warmup=30, average=0.98)
            run = Run(clips=1024, codec_width=24, width=24, codec=codec, model=model, **shape)
            return Context(name="context-cpu", run=run)
        case "gpu":
            codec, model = Optimisation(steps=8000), Optimisation(steps=20_000, batch=128)
            run = Run(clips=16_384, validation_clips=512, codec=codec, model=model, **shape)
            return Context(name="context-gpu", run=run, seeds=(0, 1, 2, 3, 4), clips=512, samples=16, futures=1024)
        case _:
            raise ValueError(f"The scales are {', '.join(SCALES)}; got {scale!r}.")


def endpoint(scale: str) -> Endpoint:
    """The end first, on a flight and in the two-way world.

    Arguments:
        scale: quick takes seconds, cpu some twelve minutes on one core, gpu about two hours on one GPU.

    Raises:
        ValueError: The scale is unknown.
    """
    ways = BranchingWorld(coins=1, hit=0.4, angle_of_turn=math.pi / 3, canvas=24, scale=1, speed=(6.0, 12.0))
    flight = World(canvas=24, scale=1, speed=(6.0, 12.0))
    shapes: dict[str, dict[str, Any]] = {
        "flight": {"world": flight, "frame": 0.125, "scales": 4, "reach": 8, "clip_frames": 18},
        "two-way": {"world": ways, "frame": 0.25, "scales": 3, "reach": 4, "clip_frames": 10},
    }
    few: dict[str, int] = {}
    match scale:
        case "quick":
            codec = Optimisation(steps=20, batch=16, warmup=5, average=0.8)
            model = Optimisation(steps=3, batch=8, warmup=1, average=0.5)
            size: dict[str, Any] = {"clips": 24, "validation_clips": 16, "codec_width": 8, "width": 24}
            seeds, clips, samples = (0, 1), 2, 2
        case "cpu":
            codec = Optimisation(steps=500, batch=64, average=0.99)
            model = Optimisation(steps=500, batch=32, learning_rate=4e-3, warmup=30, average=0.98)
            size = {"clips": 1024, "codec_width": 24, "width": 24}
            few, seeds, clips, samples = {"clip-flow": 250, "clip-diffusion": 250}, (0, 1, 2), 32, 8
        case "gpu":
            codec, model = Optimisation(steps=8000), Optimisation(steps=20_000, batch=128)
            size = {"clips": 16_384, "validation_clips": 512}
            seeds, clips, samples = (0, 1, 2, 3, 4), 256, 16
        case _:
            raise ValueError(f"The scales are {', '.join(SCALES)}; got {scale!r}.")
    places = {
        name: Place(run=Run(codec=codec, model=model, **size, **shape), steps=few) for name, shape in shapes.items()
    }
    return Endpoint(name=f"endpoint-{scale}", places=places, seeds=seeds, clips=clips, samples=samples)
