"""Checks, before anything is timed, that all contestants compute the same update."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.contestants import EPSILON, LEARNING_RATE, RHO, Contestant
from benchmarks.names import EAGER, FIT_FUNCTION, KERAS

_CASE = Case("verification", "small", "Odd shapes", ((), (3, 5), (256,), (4097,)))
_FEW_SHAPES = ((3, 5), (4097,))  # For what is compiled once more for each option.
_STEPS = 5


def verify(
    contestants: Sequence[Contestant],
    make_work: Callable[[Case], Any],
    on_start: Callable[[str], None],
) -> dict[str, str]:
    """Compares every contestant with a float64 NumPy oracle over a few steps on small shapes.

    Args:
        contestants: What to check.
        make_work: Makes what the contestants are prepared from; its `grads` are NumPy arrays.
        on_start: Called with what is about to be done.

    Returns:
        The contestants of other frameworks that do not run on this machine, and why.

    Raises:
        RuntimeError: A contestant computes something else.
    """
    broken = {}
    for contestant in contestants:
        on_start(f"verifying {contestant.name}")
        if contestant.mode is None or not contestant.bare:
            continue  # It computes nothing, or more than an update: see verify_like_keras.
        work = make_work(_CASE)
        expected = [_oracle(grad.astype(np.float64)) for grad in work.grads]
        try:
            values = _values_after_steps(contestant, work)
        except Exception as error:
            if not contestant.foreign:
                raise
            broken[contestant.name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            continue
        _compare(contestant.name, "the Adadelta update", values, expected)
    return broken


def verify_like_keras(
    cases: Sequence[Case],
    contestants: Sequence[Contestant],
    make_work: Callable[[Case], Any],
    on_start: Callable[[str], None],
) -> None:
    """Compares the contestants of cases that do more than the update with Keras itself.

    Args:
        cases: Those with options, in which Keras in eager execution is right, and those in which a
            model is trained, where Keras's own `fit` is.
        contestants: Among which are those that take part.
        make_work: Makes what the contestants are prepared from.
        on_start: Called with what is about to be done.

    Raises:
        RuntimeError: A contestant computes something else.
    """
    by_name = {contestant.name: contestant for contestant in contestants}
    for case in cases:
        on_start(f"verifying {case.path}")
        small = dataclasses.replace(
            case, shapes=case.shapes if case.model else _FEW_SHAPES, images=300
        )
        right = by_name[KERAS[FIT_FUNCTION if case.model else EAGER]]
        expected = _values_after_steps(right, make_work(small))
        for name in case.contestants:
            contestant = by_name.get(name)
            if contestant is None or contestant.mode is None or contestant is right:
                continue
            if contestant.bare == bool(case.model):
                continue
            values = _values_after_steps(contestant, make_work(small))
            _compare(f"{name} ({case.path})", "what Keras does", values, expected)


def _values_after_steps(contestant: Contestant, work: Any) -> list[np.ndarray]:
    prepared = contestant.prepare(work)
    for _ in range(_STEPS if contestant.bare else 1):
        prepared.step()
    return prepared.values()


def _compare(
    name: str, what: str, values: Sequence[np.ndarray], expected: Sequence[np.ndarray]
) -> None:
    for value, reference in zip(values, expected):
        # Training amplifies the last place of a float.
        if not np.allclose(value, reference, rtol=1e-5, atol=1e-6 if "fit" not in name else 1e-3):
            raise RuntimeError(
                f"{name} does not compute {what}: after {_STEPS} steps it is off by up to "
                f"{np.max(np.abs(value - reference)):.3g} from a variable whose largest element is "
                f"{np.max(np.abs(reference)):.3g}."
            )


def _oracle(grad: np.ndarray) -> np.ndarray:
    variable, accum, accum_update = (np.zeros_like(grad) for _ in range(3))
    for _ in range(_STEPS):
        accum = RHO * accum + (1 - RHO) * grad**2
        delta = grad * np.sqrt(accum_update + EPSILON) / np.sqrt(accum + EPSILON)
        accum_update = RHO * accum_update + (1 - RHO) * delta**2
        variable = variable - LEARNING_RATE * delta
    return variable
