"""What every solver returns: where the state went, and what it cost."""

__all__ = ["SampleReport", "Solution", "SolveError"]

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from flowvid.video import Trajectory

COMPLETE = "complete"


@dataclass(frozen=True)
class SampleReport:
    """What one sample cost, and how it ended, where a solver controls samples separately.

    Arguments:
        evaluations: Evaluations of the drift that this sample took part in.
        accepted: Its accepted steps.
        rejected: Its rejected steps.
        status: "complete", or what stopped it and when.
    """

    evaluations: int
    accepted: int
    rejected: int
    status: str = COMPLETE


@dataclass(frozen=True, eq=False)
class Solution:
    """A sampled trajectory with its cost.

    Arguments:
        trajectory: States at the requested times, in the requested order; NaN at times that were not reached.
        evaluations: Network evaluations (NFE) that one sample needed, averaged over the batch.
        depth: Longest chain of evaluations that depend on each other: what remains when work is parallel.
        accepted: Accepted steps, averaged over the batch; zero for methods without steps.
        rejected: Rejected steps of an adaptive solver, averaged over the batch.
        status: "complete", or what kept the solver from finishing, when, and for which samples.
        samples: One report per sample where a solver controls samples separately; empty otherwise.
        dense: The state at any time between the first and the last, where dense output was asked for.
    """

    trajectory: Trajectory
    evaluations: int | float
    depth: int
    accepted: int | float = 0
    rejected: int | float = 0
    status: str = COMPLETE
    samples: tuple[SampleReport, ...] = ()
    dense: Callable[[float], Tensor] | None = None

    @property
    def complete(self) -> bool:
        """Whether every sample reached the last time."""
        return self.status == COMPLETE

    def require(self) -> "Solution":
        """This solution if it is complete.

        Raises:
            SolveError: It is not; the error holds what was reached.
        """
        if not self.complete:
            raise SolveError(self)
        return self


class SolveError(ValueError):
    """A solver did not finish; `solution` holds what it reached."""

    def __init__(self, solution: Solution) -> None:
        super().__init__(solution.status)
        self.solution = solution
