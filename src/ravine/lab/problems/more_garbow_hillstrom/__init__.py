"""The unconstrained problems of Moré, Garbow and Hillstrom, all 35.

J. J. Moré, B. S. Garbow and K. E. Hillstrom, "Testing unconstrained optimization software", ACM Transactions
on Mathematical Software 7 (1981), pages 17-41. Each function makes a problem, with the size it takes there as
default; `collection` makes them all.
"""

from ..problem import LeastSquares
from .equations import (
    broyden_banded,
    broyden_tridiagonal,
    chebyquad,
    discrete_boundary_value,
    discrete_integral_equation,
)
from .fits import (
    bard,
    biggs_exp6,
    box,
    brown_dennis,
    gaussian,
    gulf,
    jennrich_sampson,
    kowalik_osborne,
    meyer,
    osborne_1,
    osborne_2,
    watson,
)
from .sums import (
    brown_almost_linear,
    linear_full_rank,
    linear_rank_1,
    linear_rank_1_with_zeros,
    penalty_1,
    penalty_2,
    trigonometric,
    variably_dimensioned,
)
from .valleys import (
    beale,
    brown_badly_scaled,
    extended_powell_singular,
    extended_rosenbrock,
    freudenstein_roth,
    helical_valley,
    powell_badly_scaled,
    powell_singular,
    rosenbrock,
    wood,
)

FUNCTIONS = (
    *(rosenbrock, freudenstein_roth, powell_badly_scaled, brown_badly_scaled, beale, jennrich_sampson),
    *(helical_valley, bard, gaussian, meyer, gulf, box, powell_singular, wood, kowalik_osborne),
    *(brown_dennis, osborne_1, biggs_exp6, osborne_2, watson, extended_rosenbrock),
    *(extended_powell_singular, penalty_1, penalty_2, variably_dimensioned, trigonometric),
    *(brown_almost_linear, discrete_boundary_value, discrete_integral_equation, broyden_tridiagonal),
    *(broyden_banded, linear_full_rank, linear_rank_1, linear_rank_1_with_zeros, chebyquad),
)

_OF_ANY_SIZE = (
    *(extended_rosenbrock, extended_powell_singular, discrete_boundary_value),
    *(discrete_integral_equation, broyden_tridiagonal, broyden_banded),
)


def collection() -> tuple[LeastSquares, ...]:
    """Every problem in the paper's order, once for each size of which the paper states a minimum.

    Sizes that the paper leaves open are 10, or 12 where it must be a multiple of 4.
    """
    problems = [function() for function in FUNCTIONS]
    problems += [watson(9), watson(12), penalty_1(4), penalty_2(4), chebyquad(9), chebyquad(10)]
    return tuple(sorted(problems, key=lambda problem: (problem.number, problem.n)))


def large(n: int = 100) -> tuple[LeastSquares, ...]:
    """The problems whose minimum, zero, is known at any size, at this one: a multiple of 4."""
    return tuple(function(n) for function in _OF_ANY_SIZE)
