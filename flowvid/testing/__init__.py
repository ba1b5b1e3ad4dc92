"""What our own suite proves, for somebody else's solver, drift or heads.

    from flowvid.solve.grid import Grid
    from flowvid.testing import check_solver

    check_solver(lambda n: Grid(method="rk4", substeps=n), order=4, per_step=4)

Checks raise an AssertionError that says what was expected and what was measured, under any test runner; they need
neither pytest nor hypothesis. `flowvid.testing.strategies` draws fields, states, times, seeds and gaps for hypothesis.
"""

__all__ = [
    "ExactHeads",
    "KnownField",
    "KnownSde",
    "arcsinh",
    "check_accuracy",
    "check_batch_invariance",
    "check_consistent_heads",
    "check_drift",
    "check_dtype",
    "check_errors",
    "check_evaluations",
    "check_noise_invariance",
    "check_order",
    "check_pure",
    "check_reversible",
    "check_semigroup",
    "check_single_time",
    "check_solver",
    "check_strong_order",
    "check_times",
    "decay",
    "forced",
    "gaussian",
    "geometric",
    "harmonic",
    "hyperbola",
    "linear",
    "logistic",
    "settling",
    "swing",
]

from flowvid.testing.accuracy import (
    check_accuracy,
    check_consistent_heads,
    check_order,
    check_reversible,
    check_semigroup,
    check_strong_order,
)
from flowvid.testing.contract import (
    check_dtype,
    check_errors,
    check_evaluations,
    check_pure,
    check_single_time,
    check_times,
)
from flowvid.testing.fields import (
    ExactHeads,
    KnownField,
    decay,
    forced,
    gaussian,
    harmonic,
    hyperbola,
    linear,
    logistic,
    swing,
)
from flowvid.testing.independence import check_batch_invariance, check_drift, check_noise_invariance
from flowvid.testing.stochastic import KnownSde, arcsinh, geometric, settling
from flowvid.testing.suite import check_solver
