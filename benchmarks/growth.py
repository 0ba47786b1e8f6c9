"""What an update costs besides its bytes: by the call, by the variable and by the element."""

from collections.abc import Sequence

import numpy as np

from benchmarks.results import CaseResult, Overhead

_SECTIONS = ("size", "variables")
_MOST_ELEMENTS = 256_000  # Four megabytes of them: it is all in the caches.
_LEAST_CASES = 4  # One more than what is fitted.


def fit_overheads(cases: Sequence[CaseResult]) -> list[Overhead]:
    """Fits calls, variables and elements to the times of the small cases.

    The squares of the relative errors are minimised, or the largest case alone would count. A
    coefficient that comes out negative is left out of the fit: it is too small to be seen.
    """
    small = [
        case for case in cases if case.section in _SECTIONS and case.elements <= _MOST_ELEMENTS
    ]
    overheads = []
    for name in dict.fromkeys(row.name for case in small for row in case.rows):
        points = [
            (1.0, case.variables, case.elements, row.median_ms)
            for case in small
            if (row := case.row(name)) is not None
        ]
        # Without lists of several lengths and variables of several sizes there is nothing to fit.
        if len(points) >= _LEAST_CASES and all(
            len(set(column)) > 1 for column in zip(*(point[1:3] for point in points))
        ):
            overheads.append(_fit(name, np.array(points)))
    return overheads


def _fit(name: str, points: np.ndarray) -> Overhead:
    factors, milliseconds = points[:, :3], points[:, 3]
    scaled = factors / milliseconds[:, None]
    kept = np.arange(3)
    while True:
        solution = np.linalg.lstsq(scaled[:, kept], np.ones(len(points)), rcond=None)[0]
        if (solution >= 0).all():
            break
        kept = np.delete(kept, solution.argmin())
    coefficients = np.zeros(3)
    coefficients[kept] = solution
    error = np.abs(scaled @ coefficients - 1).max()
    call, variable, element = (float(1e3 * value) for value in coefficients)
    return Overhead(name, call, variable, 1e3 * element, float(error))
