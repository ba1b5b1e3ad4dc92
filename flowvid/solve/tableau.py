r"""Explicit Runge-Kutta tableaus.

A step of size h from (t, z) evaluates the stages k_i = f(t + c_i h, z + h sum_j a_ij k_j) and moves to
z + h sum_i b_i k_i. An embedded method also has weights e with h sum_i e_i k_i an estimate of the error of the step,
and a continuous one polynomials b_i(theta) with z(t + theta h) ~ z + h sum_i b_i(theta) k_i.

torchdiffeq's "rk4" is Kutta's 3/8 rule, here ``rk4-38``; ``rk4`` here is the classical one.

References:
    A 3(2) pair of Runge-Kutta formulas (Bogacki and Shampine, 1989), https://doi.org/10.1016/0893-9659(89)90079-7
    A family of embedded Runge-Kutta formulae (Dormand and Prince, 1980), https://doi.org/10.1016/0771-050X(80)90013-3
    Some practical Runge-Kutta formulas (Shampine, 1986), https://doi.org/10.1090/S0025-5718-1986-0815836-3
    Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying assumption (Tsitouras, 2011),
    https://doi.org/10.1016/j.camwa.2011.06.002
"""

__all__ = ["ADAPTIVE_TABLEAUS", "GRID_TABLEAUS", "Tableau"]

from dataclasses import dataclass

Row = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Tableau:
    """An explicit Runge-Kutta method.

    Arguments:
        name: What it is called.
        order: Order of the solution.
        c: Stage times as fractions of the step.
        a: Stage weights; row i has i entries.
        b: Solution weights.
        error: Weights of the error estimate; empty without one.
        dense: For each stage the coefficients of theta, theta^2, ... in its weight b_i(theta); empty without one.
        source: Whose method it is.

    Raises:
        ValueError: The rows do not fit together, or their sums are off.
    """

    name: str
    order: int
    c: Row
    a: tuple[Row, ...]
    b: Row
    error: Row = ()
    dense: tuple[Row, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        stages = len(self.c)
        fits = len(self.a) == len(self.b) == stages and all(len(row) == i for i, row in enumerate(self.a))
        if not fits or len(self.error) not in (0, stages) or len(self.dense) not in (0, stages):
            raise ValueError(f"The rows of {self.name} do not fit its {stages} stages; row i of a has i entries.")
        sums = [sum(row) - node for row, node in zip(self.a, self.c, strict=True)]
        sums += [sum(self.b) - 1, sum(self.error)]
        sums += [sum(row) - weight for row, weight in zip(self.dense, self.b, strict=False)]
        if not all(abs(left_over) <= 1e-12 for left_over in sums):
            raise ValueError(
                f"In {self.name} each row of a must sum to its c, b to one, the error weights to zero, and each row of "
                "dense to its b; to twelve digits."
            )

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.c)

    @property
    def first_same_as_last(self) -> bool:
        """Whether the last stage of a step is the first of the next, so that it need not be evaluated twice."""
        return (*self.a[-1], 0.0) == self.b


_EULER = Tableau(name="euler", order=1, c=(0.0,), a=((),), b=(1.0,), source="Euler, 1768")
_MIDPOINT = Tableau(name="midpoint", order=2, c=(0.0, 1 / 2), a=((), (1 / 2,)), b=(0.0, 1.0), source="Runge, 1895")
_HEUN2 = Tableau(name="heun2", order=2, c=(0.0, 1.0), a=((), (1.0,)), b=(1 / 2, 1 / 2), source="Heun, 1900")
_RALSTON = Tableau(name="ralston", order=2, c=(0.0, 2 / 3), a=((), (2 / 3,)), b=(1 / 4, 3 / 4), source="Ralston, 1962")
_HEUN3 = Tableau(
    name="heun3",
    order=3,
    c=(0.0, 1 / 3, 2 / 3),
    a=((), (1 / 3,), (0.0, 2 / 3)),
    b=(1 / 4, 0.0, 3 / 4),
    source="Heun, 1900",
)
_RK4 = Tableau(
    name="rk4",
    order=4,
    c=(0.0, 1 / 2, 1 / 2, 1.0),
    a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    source="Kutta, 1901",
)
_RK4_38 = Tableau(
    name="rk4-38",
    order=4,
    c=(0.0, 1 / 3, 2 / 3, 1.0),
    a=((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
    b=(1 / 8, 3 / 8, 3 / 8, 1 / 8),
    source="Kutta, 1901 (the 3/8 rule)",
)
_BOSH3 = Tableau(
    name="bosh3",
    order=3,
    c=(0.0, 1 / 2, 3 / 4, 1.0),
    a=((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    b=(2 / 9, 1 / 3, 4 / 9, 0.0),
    error=(5 / 72, -1 / 12, -1 / 9, 1 / 8),
    dense=((1.0, -4 / 3, 5 / 9), (0.0, 1.0, -2 / 3), (0.0, 4 / 3, -8 / 9), (0.0, -1.0, 1.0)),
    source="Bogacki and Shampine, 1989",
)
_DOPRI5 = Tableau(
    name="dopri5",
    order=5,
    c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    b=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    error=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    dense=(
        (1.0, -8048581381 / 2820520608, 8663915743 / 2820520608, -12715105075 / 11282082432),
        (0.0, 0.0, 0.0, 0.0),
        (0.0, 131558114200 / 32700410799, -68118460800 / 10900136933, 87487479700 / 32700410799),
        (0.0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072),
        (0.0, 127303824393 / 49829197408, -318862633887 / 49829197408, 701980252875 / 199316789632),
        (0.0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
        (0.0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
    ),
    source="Dormand and Prince, 1980; dense output Shampine, 1986",
)


def _expanded(scale: float, *factors: Row) -> Row:
    """Coefficients of theta, theta^2, ... of scale * theta * (product of polynomials given from the constant on)."""
    product = [scale]
    for factor in factors:
        product = [
            sum(product[i - j] * factor[j] for j in range(len(factor)) if 0 <= i - j < len(product))
            for i in range(len(product) + len(factor) - 1)
        ]
    return tuple(product)


_TSIT5_B = (
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.379008574103742,
    -3.290069515436081,
    2.324710524099774,
)
_TSIT5 = Tableau(
    name="tsit5",
    order=5,
    c=(0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    a=(
        (),
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.02826905039406838),
        _TSIT5_B,
    ),
    b=(*_TSIT5_B, 0.0),
    error=(
        0.00178001105222577714,
        0.0008164344596567469,
        -0.007880878010261995,
        0.1447110071732629,
        -0.5823571654525552,
        0.45808210592918697,
        -1 / 66,
    ),
    dense=(
        _expanded(-1.0530884977290216, (-1.3299890189751412, 1.0), (0.7139816917074209, -1.4364028541716351, 1.0)),
        _expanded(0.1017, (0.0, 1.0), (1.2949852507374631, -2.1966568338249754, 1.0)),
        _expanded(2.490627285651252793, (0.0, 1.0), (1.57803468208092486, -2.38535645472061657, 1.0)),
        _expanded(-16.54810288924490272, (0.0, 1.0), (-1.21712927295533244, 1.0), (-0.61620406037800089, 1.0)),
        _expanded(47.37952196281928122, (0.0, 1.0), (-1.203071208372362603, 1.0), (-0.658047292653547382, 1.0)),
        _expanded(-34.87065786149660974, (0.0, 1.0), (-1.2, 1.0), (-0.666666666666666667, 1.0)),
        _expanded(2.5, (0.0, 1.0), (-1.0, 1.0), (-0.6, 1.0)),
    ),
    source="Tsitouras, 2011",
)

GRID_TABLEAUS = {tableau.name: tableau for tableau in (_EULER, _MIDPOINT, _HEUN2, _RALSTON, _HEUN3, _RK4, _RK4_38)}
ADAPTIVE_TABLEAUS = {tableau.name: tableau for tableau in (_BOSH3, _DOPRI5, _TSIT5)}
