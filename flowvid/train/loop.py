"""One training loop for everything that learns: AdamW, warm-up and cosine, clipped gradients, averaged weights.

The loop owns the optimiser and nothing else: an objective maps the noise of one step to a loss, and draws its batch
from that noise. Since noise is a function of (seed, step, sample), a run that was interrupted and continued is the same
run, on the CPU bit for bit; and a batch that is divided among processes, or taken part by part, is the same batch. So
is the gradient, up to the order of additions, if the loss is a mean over samples. One that is not, such as the
logarithm of a mean, sees the whole batch on many processes through `flowvid.networks.whole_batch`; of a batch taken
part by part in one process it sees a part at a time.

What a crash, a full disk or a damaged file can cost is the work since the last checkpoint; see `flowvid.train.store`.
"""

__all__ = ["PLAIN", "Execution", "Interrupted", "Optimisation", "Progress", "fit"]

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from flowvid.noise import Noise
from flowvid.train.interruption import Interrupted, Interruptions
from flowvid.train.keeper import Keeper
from flowvid.train.module import adapted
from flowvid.train.options import PLAIN, Execution, Optimisation
from flowvid.train.processes import Processes
from flowvid.train.trainer import REPORT_EVERY, DivergedError, Trainer

Progress = Callable[[int, int, float], None]
"""Called with (step, steps, running loss) every few steps."""

_NAMES_SHOWN = 16


def fit(
    network: nn.Module,
    objective: Callable[..., Tensor],
    options: Optimisation,
    *,
    folder: Path | None = None,
    run: dict[str, Any] | None = None,
    execution: Execution = PLAIN,
    load: Callable[[Noise], Any] | None = None,
    names: Callable[[Noise], Sequence[str]] | None = None,
    validate: Callable[[], float] | None = None,
    progress: Progress | None = None,
) -> float:
    """Train a network in place; it ends with its averaged weights. Returns the seconds this and earlier tries took.

    Under `torchrun` or `accelerate launch` every process calls this alike, and the files are written by the first.

    Arguments:
        network: What is trained.
        objective: The noise of a step to a scalar loss; with ``load``, what it returned and the noise.
        options: How long and how.
        folder: Where the run keeps its checkpoints and its log; it continues from what is there.
        run: What else decides the result, anything JSON can hold; a checkpoint that names another one is refused.
        execution: How it is carried out.
        load: Makes the batch of a step from its noise, ahead of time in the background.
        names: What the samples of a step are called, from its noise, told when training diverges.
        validate: How good the averaged network is, the less the better, which decides the best checkpoint; the
            running loss by default. Every process calls it at every save.
        progress: Is told how far training is, by the first process.

    Raises:
        ValueError: The loss is no longer finite, the checkpoint belongs to another run, all checkpoints are damaged,
            the batch does not divide, there is no room to save, or another process trains in the folder.
        Interrupted: Ctrl-C or a signal to terminate; the state is saved.
    """
    processes = Processes(next(network.parameters()).device)
    parts = processes.parts(Noise.batch(options.seed, options.batch), execution.accumulate)
    with adapted(network, execution), Interruptions() as interruptions:
        trainer = Trainer(network, objective, options, execution, processes)
        with Keeper(folder, trainer, execution, run, validate) as keeper:
            keeper.resume()
            noises = (part.fold(step) for step in range(trainer.step, options.steps) for part in parts)
            try:
                with _Feed(load, noises) as feed:
                    _train(trainer, feed, keeper, interruptions, progress if processes.main else None)
            except DivergedError as error:
                keeper.note("diverged", at=error.step + 1)
                raise ValueError(_divergence(error, options, keeper, names)) from error
            trainer.take_average()
            keeper.note("finished")
    return trainer.seconds


def _train(
    trainer: Trainer, feed: "_Feed", keeper: Keeper, interruptions: Interruptions, progress: Progress | None
) -> None:
    """All steps from the trainer's on."""
    before, clock, steps = trainer.seconds, time.monotonic(), trainer.options.steps
    agreed = trainer.processes.count == 1
    try:
        while trainer.step < steps:
            trainer.advance(feed)
            trainer.seconds = before + time.monotonic() - clock
            last = trainer.step == steps
            if last or trainer.step % REPORT_EVERY == 0:
                trainer.check()
                keeper.report(feed.waited)
                if progress is not None:
                    progress(trainer.step, steps, trainer.loss)
            stop, save = trainer.processes.any(interruptions.wanted, keeper.due)
            if stop:
                agreed = True
                raise KeyboardInterrupt
            if save or last:
                keeper.save()
    except KeyboardInterrupt:
        if agreed and trainer.whole:
            keeper.save()
            keeper.note("interrupted")
        raise Interrupted(keeper.farewell()) from None


class _Feed(Iterator[tuple[Any, ...]]):
    """What the objective is given, one part of a batch after the other: the noise, after what was loaded from it."""

    def __init__(self, load: Callable[[Noise], Any] | None, noises: Iterator[Noise]) -> None:
        self._prefetch: Any = None
        self._inputs: Iterator[tuple[Any, ...]]
        if load is None:
            self._inputs = ((noise,) for noise in noises)
            return
        from flowvid.data.prefetch import Prefetch

        self._prefetch = Prefetch(lambda noise: (load(noise), noise), noises, depth=2)
        self._inputs = iter(self._prefetch)

    def __enter__(self) -> "_Feed":
        return self

    def __exit__(self, *_: object) -> None:
        if self._prefetch is not None:
            self._prefetch.close()

    def __next__(self) -> tuple[Any, ...]:
        return next(self._inputs)

    @property
    def waited(self) -> float:
        """The share of time that the loop waited for data."""
        return 0.0 if self._prefetch is None else float(self._prefetch.waited)


def _divergence(
    error: DivergedError, options: Optimisation, keeper: Keeper, names: Callable[[Noise], Sequence[str]] | None
) -> str:
    """What happened, with which samples, what is left, and what to do."""
    noise = Noise.batch(options.seed, options.batch).fold(error.step)
    called = [str(seed) for seed in noise.seeds]
    if names is not None:
        # The data may be what is broken; its names are worth having, and the message even without them.
        with contextlib.suppress(Exception):
            called = list(names(noise))
    more = f" and {len(called) - _NAMES_SHOWN} more" if len(called) > _NAMES_SHOWN else ""
    shown = f"{'samples' if names else 'seeds'} {', '.join(called[:_NAMES_SHOWN])}{more}"
    good = "" if keeper.store is None else f" {keeper.store.last_good()}"
    return (
        f"The loss is {error.loss}, the norm of its gradient {error.norm}, in step {error.step + 1} ({shown}): "
        f"training diverged. Lower the learning rate ({options.learning_rate}) or the clipping norm ({options.clip}), "
        f"or check the data.{good}"
    )
