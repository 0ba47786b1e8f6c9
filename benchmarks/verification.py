"""Checks, before anything is timed, that all contestants compute the same update."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.cases import Shape
from benchmarks.contestants import EPSILON, LEARNING_RATE, RHO, Contestant

_SHAPES = ((), (3, 5), (256,), (4097,))
_STEPS = 5


def verify(
    contestants: Sequence[Contestant],
    make_work: Callable[[Sequence[Shape]], Any],
    on_start: Callable[[str], None],
) -> None:
    """Compares every contestant with a float64 NumPy oracle over a few steps on small shapes.

    Args:
        contestants: What to check.
        make_work: Makes what the contestants are prepared from; its `grads` are NumPy arrays.
        on_start: Called with what is about to be done.

    Raises:
        RuntimeError: A contestant computes something else.
    """
    for contestant in contestants:
        on_start(f"verifying {contestant.name}")
        if contestant.mode is None:
            continue  # It computes nothing.
        work = make_work(_SHAPES)
        expected = [_oracle(grad.astype(np.float64)) for grad in work.grads]
        prepared = contestant.prepare(work)
        for _ in range(_STEPS):
            prepared.step()
        for value, reference in zip(prepared.values(), expected):
            if not np.allclose(value, reference, rtol=1e-5, atol=1e-6):
                raise RuntimeError(
                    f"{contestant.name} does not compute the Adadelta update: after {_STEPS} steps "
                    f"it is off by up to {np.max(np.abs(value - reference)):.3g} from a variable "
                    f"whose largest element is {np.max(np.abs(reference)):.3g}."
                )


def _oracle(grad: np.ndarray) -> np.ndarray:
    variable, accum, accum_update = (np.zeros_like(grad) for _ in range(3))
    for _ in range(_STEPS):
        accum = RHO * accum + (1 - RHO) * grad**2
        delta = grad * np.sqrt(accum_update + EPSILON) / np.sqrt(accum + EPSILON)
        accum_update = RHO * accum_update + (1 - RHO) * delta**2
        variable = variable - LEARNING_RATE * delta
    return variable
