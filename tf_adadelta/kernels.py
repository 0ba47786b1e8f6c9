"""The CPU kernel on NumPy arrays: the same code that the TensorFlow ops call, without TensorFlow.

Arrays are float16, bfloat16 (the dtype of the package `ml_dtypes`), float32 or float64,
C-contiguous and aligned, and are updated in place. Nothing is written unless the whole call is
valid.
"""

import os
from collections.abc import Sequence

import numpy as np

from tf_adadelta import _kernels

Arrays = np.ndarray | Sequence[np.ndarray]

_NAMES = ("variables", "accums", "accum_updates", "grads", "indices", "clocks")


def instruction_sets() -> list[str]:
    """Returns the instruction sets that are compiled in and supported here, the widest first."""
    return _kernels.instruction_sets()


def fused_adadelta_apply(
    variables: Arrays,
    accums: Arrays,
    accum_updates: Arrays,
    grads: Arrays,
    *,
    learning_rate: float,
    rho: float = 0.95,
    epsilon: float = 1e-7,
    num_threads: int | None = None,
    instruction_set: str | None = None,
) -> None:
    """Updates a list of arrays by the Adadelta rule, in one pass over memory.

    The rule is Algorithm 1 of Zeiler (2012), arXiv:1212.5701, with a learning rate, as
    `tf.raw_ops.ResourceApplyAdadelta` has it. The arithmetic is done in float32 (float64 for
    float64) and stored back once. The result does not depend on `num_threads`.

    Args:
        variables: An array, or a sequence of arrays of one dtype and any shapes. Updated in place.
        accums: The decayed averages of the squared gradients, like `variables`. Updated in place.
        accum_updates: The decayed averages of the squared updates, like `variables`. Updated in
            place.
        grads: The gradients, like `variables`.
        learning_rate: The factor of the update; 1.0 in the paper.
        rho: The decay rate of both averages.
        epsilon: Added inside both square roots.
        num_threads: How many threads may work at once. Defaults to one for each core.
        instruction_set: One of `instruction_sets()`. Defaults to the widest.

    Raises:
        TypeError: An array has another dtype than expected.
        ValueError: The lists differ in length; an array has another shape than its variable, is
            read-only, not contiguous or not aligned, or shares memory with another one;
            `num_threads` or `instruction_set` is out of range.
    """
    _kernels.fused_adadelta_apply(
        *_as_lists(variables, accums, accum_updates, grads),
        learning_rate,
        rho,
        epsilon,
        num_threads or os.cpu_count() or 1,
        instruction_set or "",
    )


def fused_adadelta_sparse_apply(
    variables: Arrays,
    accums: Arrays,
    accum_updates: Arrays,
    grads: Arrays,
    indices: Arrays,
    *,
    clocks: Arrays | None = None,
    learning_rate: float,
    rho: float = 0.95,
    epsilon: float = 1e-7,
    num_threads: int | None = None,
    instruction_set: str | None = None,
) -> None:
    """Updates the rows of a list of arrays that have a gradient.

    Rows of a gradient with the same index are summed first, in their order, in the type of the
    arithmetic. Nothing is sorted or copied in memory but the indices.

    Without `clocks` only the rows with a gradient change, as `ResourceSparseApplyAdadelta` has it.
    With them the result is that of the dense update, in which both averages of the other rows decay
    too: the decay of a row is put off until it has a gradient again, and its clock tells how far it
    has fallen behind. `rho` must then be the same in every call.

    Args:
        variables: An array of one or more dimensions, or a sequence of them. Updated in place.
        accums: The decayed averages of the squared gradients, like `variables`. Updated in place.
        accum_updates: The decayed averages of the squared updates, like `variables`. Updated in
            place.
        grads: The rows of the gradients: shape `indices.shape + variable.shape[1:]`.
        indices: int32 or int64, one dimension: the row of the variable that each row of the
            gradient belongs to.
        clocks: int64, shape `(rows + 1,)`, zero at first: the count of updates that each row has
            caught up with, and last the count of updates of the variable. Updated in place.
        learning_rate: The factor of the update; 1.0 in the paper.
        rho: The decay rate of both averages.
        epsilon: Added inside both square roots.
        num_threads: How many threads may work at once. Defaults to one for each core.
        instruction_set: One of `instruction_sets()`. Defaults to the widest.

    Raises:
        IndexError: An index is not that of a row.
        TypeError: An array has another dtype than expected.
        ValueError: As `fused_adadelta_apply`; a variable is a scalar.
    """
    lists = _as_lists(
        variables, accums, accum_updates, grads, indices, [] if clocks is None else clocks
    )
    _kernels.fused_adadelta_sparse_apply(
        *lists[:5],
        None if clocks is None else lists[5],
        learning_rate,
        rho,
        epsilon,
        num_threads or os.cpu_count() or 1,
        instruction_set or "",
    )


def copy_streams(
    variables: Arrays,
    accums: Arrays,
    accum_updates: Arrays,
    grads: Arrays,
    *,
    num_threads: int | None = None,
    instruction_set: str | None = None,
) -> None:
    """Moves the bytes of `fused_adadelta_apply` without its arithmetic: the limit of the memory.

    Four arrays are read and three written, by the same loop over the same blocks, so this is the
    time below which no update can go. The contents become meaningless. Arguments and errors are
    those of `fused_adadelta_apply`.
    """
    _kernels.copy_streams(
        *_as_lists(variables, accums, accum_updates, grads),
        num_threads or os.cpu_count() or 1,
        instruction_set or "",
    )


def _as_lists(*arguments: Arrays) -> list[list[np.ndarray]]:
    """Wraps single arrays in lists, and refuses what pybind11 would silently convert to a copy."""
    lists = []
    for name, argument in zip(_NAMES, arguments):
        arrays = [argument] if isinstance(argument, np.ndarray) else list(argument)
        for i, array in enumerate(arrays):
            if not isinstance(array, np.ndarray):
                raise TypeError(
                    f"{name}[{i}] is of type {type(array).__name__}, expected numpy.ndarray"
                )
        lists.append(arrays)
    return lists
