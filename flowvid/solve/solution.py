"""What every solver returns: where the state went, and what it cost."""

__all__ = ["Solution"]

from dataclasses import dataclass

from flowvid.video import Trajectory


@dataclass(frozen=True)
class Solution:
    """A sampled trajectory with its cost.

    Arguments:
        trajectory: States at the requested times.
        evaluations: Network evaluations (NFE) that one sample needed, averaged over the batch.
        depth: Longest chain of evaluations that depend on each other: what remains when work is parallel.
        accepted: Accepted steps; zero for methods without steps.
        rejected: Rejected steps of an adaptive solver.
        status: "complete", or what kept the solver from finishing.
    """

    trajectory: Trajectory
    evaluations: int | float
    depth: int
    accepted: int = 0
    rejected: int = 0
    status: str = "complete"
