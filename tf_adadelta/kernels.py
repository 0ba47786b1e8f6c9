"""The kernels on arrays: the same code that the TensorFlow ops call, without TensorFlow.

On the CPU these are NumPy arrays; on the GPU arrays of any library that speaks DLPack, such as
PyTorch and CuPy. Arrays are float16, bfloat16 (in NumPy the dtype of the package `ml_dtypes`),
float32 or float64, C-contiguous and aligned, and are updated in place. Nothing is written unless
the whole call is valid.
"""

import math
import operator
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tf_adadelta import _device_arrays
from tf_adadelta._library import load_kernels

_kernels = load_kernels()

# Asked for once, since the answer takes as long as the update of ten thousand elements.
_NUM_CORES = len(os.sched_getaffinity(0))

Arrays = npt.NDArray[Any] | Sequence[npt.NDArray[Any]]
DeviceArrays = Any | Sequence[Any]
"""An array on a CUDA device that has `__dlpack__`, or a sequence of such."""


def instruction_sets() -> list[str]:
    """Returns the instruction sets that are compiled in and supported here, the widest first."""
    return _kernels.instruction_sets()


def fused_adadelta_apply(
    variables: Arrays | DeviceArrays,
    accums: Arrays | DeviceArrays,
    accum_updates: Arrays | DeviceArrays,
    grads: Arrays | DeviceArrays,
    *,
    averages: Arrays | DeviceArrays | None = None,
    grad_accums: Arrays | DeviceArrays | None = None,
    learning_rate: Any,
    rho: Any = 0.95,
    epsilon: Any = 1e-7,
    grad_scale: Any = 1.0,
    update: Any = True,
    clip_factors: Sequence[float] | Any | None = None,
    clipvalue: Any = math.inf,
    weight_decay: Any = 0.0,
    ema_momentum: Any = 0.0,
    random_seeds: Sequence[int] | None = None,
    step: Any = 0,
    num_threads: int | None = None,
    instruction_set: str | None = None,
    stream: int | None = None,
) -> None:
    """Updates a list of arrays by the Adadelta rule, in one pass over memory.

    The rule is Algorithm 1 of Zeiler (2012), arXiv:1212.5701, with a learning rate, as
    `tf.raw_ops.ResourceApplyAdadelta` has it. The arithmetic is done in float32 (float64 for
    float64) and stored back once. The result does not depend on `num_threads`.

    What Keras does around the update is done in the same pass, in this order:

        grad = grad_accum + grad_scale * grad    # grad_accum is 0 where there is none.
        if update:
            grad_accum = 0
            grad = clip(clip_factor * grad, -clipvalue, clipvalue)
            variable = variable - learning_rate * weight_decay * variable
            ...                                  # The update.
        else:
            grad_accum = grad
        average = ema_momentum * average + (1 - ema_momentum) * variable

    On a GPU the call only queues its work, one kernel launch for the whole list (a few for more
    than 742 variables, or than 479 with all options), and can be captured into a CUDA graph. As
    with every kernel, memory that is handed to another stream afterwards must wait for it.

    Args:
        variables: An array, or a sequence of arrays of one dtype and any shapes. Updated in place.
            Either all arrays of the call are NumPy arrays, or all are on one CUDA device and speak
            DLPack.
        accums: The decayed averages of the squared gradients, like `variables`. Updated in place.
        accum_updates: The decayed averages of the squared updates, like `variables`. Updated in
            place.
        grads: The gradients, like `variables`.
        averages: Exponential moving averages of the variables, or None. Updated in place.
        grad_accums: The sums of the gradients since the last update, or None. Updated in place.
        learning_rate: The factor of the update; 1.0 in the paper. A number, or with arrays on a
            GPU a float64 array without dimensions on it, which is read when the kernel runs.
        rho: The decay rate of both averages, likewise.
        epsilon: Added inside both square roots, likewise.
        grad_scale: By which the gradients are multiplied as they come, likewise.
        update: With `grad_accums`: False for a step that only adds the gradients to them. With
            arrays on a GPU also an array like `learning_rate`, 0 or 1.
        clip_factors: By which the gradient, or the sum, of each variable is multiplied, or None.
            Numbers; with arrays on a GPU a float64 array on it, of shape `(len(variables),)`.
        clipvalue: The largest magnitude of its elements then, like `learning_rate`.
        weight_decay: The part of itself, times the learning rate, that a variable loses first,
            likewise.
        ema_momentum: The decay rate of `averages`, likewise.
        random_seeds: An int for each variable, with bfloat16 arrays: all that is stored is rounded
            stochastically, by bits that are a hash of the seed, of `step` and of the place of the
            element; no other variable or step has the same. None: to the nearest, ties to even.
        step: An int, the count of steps before this one; with arrays on a GPU also an int64 array
            without dimensions on it.
        num_threads: How many threads may work at once. Defaults to one for each core that
            the process may run on. For the CPU.
        instruction_set: One of `instruction_sets()`. Defaults to the widest. For the CPU.
        stream: The handle of the CUDA stream to queue the work on. Defaults to the current stream
            of PyTorch or CuPy for arrays of theirs, for others to the legacy default stream.

    Raises:
        TypeError: An array has another dtype than expected, or is neither a NumPy array nor on a
            CUDA device; a number is none.
        ValueError: The lists differ in length; an array has another shape than its variable, is
            read-only, not contiguous or not aligned, is on another device, or shares memory with
            another one; `num_threads`, `instruction_set` or `stream` is out of range, or does not
            go with the arrays.
        RuntimeError: Arrays are on a GPU and it cannot be used: tf_adadelta was built without CUDA
            or for other GPUs, or the driver is missing or too old.
    """
    lists, all_numpy = _as_lists(
        variables=variables,
        accums=accums,
        accum_updates=accum_updates,
        grads=grads,
        averages=averages,
        grad_accums=grad_accums,
    )
    if grad_accums is None and (_device_arrays.is_device_array(update) or not update):
        given = "an array" if _device_arrays.is_device_array(update) else repr(update)
        raise ValueError(f"update is {given}, expected True where there are no grad_accums")
    if not all_numpy:
        _check_for_gpu(num_threads, instruction_set)
        scalars = {
            "learning_rate": learning_rate,
            "rho": rho,
            "epsilon": epsilon,
            "grad_scale": grad_scale,
            "update": update,
            "clipvalue": clipvalue,
            "weight_decay": weight_decay,
            "ema_momentum": ema_momentum,
        }
        kernel = _kernels.fused_adadelta_apply_on_device
        factors = ("clip_factors", clip_factors)
        rounding = (step, random_seeds)
        _device_arrays.apply(kernel, lists, scalars, stream, array=factors, rounding=rounding)
        return
    _check_for_cpu(stream)
    try:
        _kernels.fused_adadelta_apply(
            *lists.values(),
            learning_rate,
            rho,
            epsilon,
            grad_scale,
            update,
            clip_factors,
            clipvalue,
            weight_decay,
            ema_momentum,
            random_seeds,
            step,
            num_threads or _NUM_CORES,
            instruction_set or "",
        )
    except TypeError:
        _check_scalars(locals())
        raise


def fused_adadelta_sparse_apply(
    variables: Arrays | DeviceArrays,
    accums: Arrays | DeviceArrays,
    accum_updates: Arrays | DeviceArrays,
    grads: Arrays | DeviceArrays,
    indices: Arrays | DeviceArrays,
    *,
    clocks: Arrays | DeviceArrays | None = None,
    learning_rate: Any,
    rho: Any = 0.95,
    epsilon: Any = 1e-7,
    random_seeds: Sequence[int] | None = None,
    step: Any = 0,
    num_threads: int | None = None,
    instruction_set: str | None = None,
    stream: int | None = None,
) -> None:
    """Updates the rows of a list of arrays that have a gradient.

    Rows of a gradient with the same index are summed first, in their order, in the type of the
    arithmetic. Nothing is sorted or copied in memory but the indices.

    Without `clocks` only the rows with a gradient change, as `ResourceSparseApplyAdadelta` has it.
    With them the result is that of the dense update, in which both averages of the other rows decay
    too: the decay of a row is put off until it has a gradient again, and its clock tells how far it
    has fallen behind. `rho` must then be the same in every call.

    On a GPU the call only queues its work, like `fused_adadelta_apply`, and rows whose index is out
    of range are skipped: to know of them, the host would have to wait. With
    TF_ADADELTA_CHECK_INDICES=1 in the environment it does, and such an index is an error there too.
    The sort takes its memory from the pool of the CUDA driver: 32 bytes for each index, and some.

    Args:
        variables: An array of one or more dimensions, or a sequence of them. Updated in place. On
            the CPU or on a GPU, as in `fused_adadelta_apply`.
        accums: The decayed averages of the squared gradients, like `variables`. Updated in place.
        accum_updates: The decayed averages of the squared updates, like `variables`. Updated in
            place.
        grads: The rows of the gradients: shape `indices.shape + variable.shape[1:]`.
        indices: int32 or int64, one dimension: the row of the variable that each row of the
            gradient belongs to.
        clocks: int64, shape `(rows + 1,)`, zero at first: the count of updates that each row has
            caught up with, and last the count of updates of the variable. Updated in place.
        learning_rate: The factor of the update; 1.0 in the paper. A number or, for a GPU, an array,
            as in `fused_adadelta_apply`.
        rho: The decay rate of both averages, likewise.
        epsilon: Added inside both square roots, likewise.
        random_seeds: As in `fused_adadelta_apply`.
        step: As in `fused_adadelta_apply`.
        num_threads: How many threads may work at once. Defaults to one for each core that
            the process may run on. For the CPU.
        instruction_set: One of `instruction_sets()`. Defaults to the widest. For the CPU.
        stream: The CUDA stream, as in `fused_adadelta_apply`.

    Raises:
        IndexError: An index is not that of a row. Nothing is written.
        TypeError: As `fused_adadelta_apply`.
        ValueError: As `fused_adadelta_apply`; a variable is a scalar.
        RuntimeError: As `fused_adadelta_apply`; the memory of the GPU does not suffice.
    """
    lists, all_numpy = _as_lists(
        variables=variables,
        accums=accums,
        accum_updates=accum_updates,
        grads=grads,
        indices=indices,
        clocks=clocks,
    )
    if not all_numpy:
        _check_for_gpu(num_threads, instruction_set)
        hyperparameters = {"learning_rate": learning_rate, "rho": rho, "epsilon": epsilon}
        kernel = _kernels.fused_adadelta_sparse_apply_on_device
        rounding = (step, random_seeds)
        _device_arrays.apply(kernel, lists, hyperparameters, stream, rounding=rounding)
        return
    _check_for_cpu(stream)
    try:
        _kernels.fused_adadelta_sparse_apply(
            *lists.values(),
            learning_rate,
            rho,
            epsilon,
            random_seeds,
            step,
            num_threads or _NUM_CORES,
            instruction_set or "",
        )
    except TypeError:
        _check_scalars(locals())
        raise


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
    lists, all_numpy = _as_lists(
        variables=variables, accums=accums, accum_updates=accum_updates, grads=grads
    )
    if not all_numpy:
        raise TypeError("copy_streams takes numpy.ndarray only")
    _kernels.copy_streams(*lists.values(), num_threads or _NUM_CORES, instruction_set or "")


def squared_norms(
    grads: Arrays | DeviceArrays,
    *,
    grad_accums: Arrays | DeviceArrays | None = None,
    grad_scale: Any = 1.0,
    update: Any = True,
    out: Any = None,
    num_threads: int | None = None,
    instruction_set: str | None = None,
    stream: int | None = None,
) -> list[float] | None:
    """Returns the squared norm of `grad_accum + grad_scale * grad` for each gradient of a list.

    One pass over memory. The sums are in float64, are the same to the bit on every run, and do not
    depend on `num_threads`.

    On a GPU the call only queues its work, like `fused_adadelta_apply`, and the norms are written
    to `out`. The pieces of the sums take their memory from the pool of the CUDA driver: 8 bytes for
    each 16 KB of the gradients.

    Args:
        grads: An array, or a sequence of arrays of one dtype and any shapes. On the CPU or on a
            GPU, as in `fused_adadelta_apply`.
        grad_accums: Arrays like `grads`, or None for zeros.
        grad_scale: A number or, for a GPU, an array, as in `fused_adadelta_apply`.
        update: False (or 0) where nobody asks for the norms, likewise. No gradient is read then,
            and the norms are 0.
        out: For a GPU, where it is required: a float64 array on it, of shape `(len(grads),)`.
        num_threads: As in `fused_adadelta_apply`.
        instruction_set: As in `fused_adadelta_apply`.
        stream: As in `fused_adadelta_apply`.

    Returns:
        The norms; None for arrays on a GPU.

    Raises:
        TypeError: An array is neither a NumPy array nor on a CUDA device, has another dtype than
            expected, or `out` is missing or none on the GPU.
        ValueError: The lists differ in length; an array has another shape than its gradient, is
            not contiguous or not aligned, or is on another device; `out` has another shape, is
            read-only, or shares memory with another array; a setting does not go with the arrays.
        RuntimeError: As `fused_adadelta_apply`; the memory of the GPU does not suffice.
    """
    lists, all_numpy = _as_lists(grads=grads, grad_accums=grad_accums)
    if not all_numpy or _device_arrays.is_device_array(out):
        _check_for_gpu(num_threads, instruction_set)
        if out is None:
            raise TypeError("out is None, expected a float64 array on the GPU for the norms")
        scalars = {"grad_scale": grad_scale, "update": update}
        kernel = _kernels.squared_norms_on_device
        _device_arrays.apply(kernel, lists, scalars, stream, array=("out", out))
        return None
    _check_for_cpu(stream)
    if out is not None:
        raise ValueError(
            f"out is of type {type(out).__name__}, expected None for arrays on the CPU"
        )
    update = bool(update)
    try:
        return _kernels.squared_norms(
            *lists.values(),
            grad_scale,
            update,
            num_threads or _NUM_CORES,
            instruction_set or "",
        )
    except TypeError:
        _check_scalars(locals())
        raise


def _check_for_gpu(num_threads: int | None, instruction_set: str | None) -> None:
    for name, value in (("num_threads", num_threads), ("instruction_set", instruction_set)):
        if value is not None:
            raise ValueError(f"{name} is {value!r}, expected None for arrays on a GPU")


def _check_for_cpu(stream: int | None) -> None:
    if stream is not None:
        raise ValueError(f"stream is {stream!r}, expected None for arrays on the CPU")


def _is_number(value: Any) -> bool:
    return hasattr(value, "__float__") or hasattr(value, "__index__")


def _is_integer(value: Any) -> bool:
    return hasattr(value, "__index__") and -(2**63) <= operator.index(value) < 2**63


_NUMBER = (_is_number, "a number")
_INTEGER = (_is_integer, "an integer of 64 bits")
_SCALARS = {
    "learning_rate": _NUMBER,
    "rho": _NUMBER,
    "epsilon": _NUMBER,
    "grad_scale": _NUMBER,
    "update": (lambda value: hasattr(value, "__bool__"), "a bool"),
    "clip_factors": _NUMBER,
    "clipvalue": _NUMBER,
    "weight_decay": _NUMBER,
    "ema_momentum": _NUMBER,
    "random_seeds": _INTEGER,
    "step": _INTEGER,
    "num_threads": (lambda value: value is None or _is_integer(value), _INTEGER[1]),
    "instruction_set": (lambda value: value is None or isinstance(value, str), "a str"),
}


def _check_scalars(arguments: dict[str, Any]) -> None:
    """Tells which scalar of a call pybind11 has refused.

    Its own message names no argument and prints all arrays. `arguments` may have others too.
    """
    for name, (is_expected, expected) in _SCALARS.items():
        if name not in arguments:
            continue
        value = arguments[name]
        named = {name: value}
        if name in ("clip_factors", "random_seeds"):
            if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray | None):
                raise TypeError(
                    f"{name} is {value!r}, expected {expected} for each variable"
                ) from None
            elements = () if value is None else value
            named = {f"{name}[{i}]": element for i, element in enumerate(elements)}
        for each, element in named.items():
            if not is_expected(element):
                raise TypeError(f"{each} is {element!r}, expected {expected}") from None


def _as_lists(**arguments: Any) -> tuple[dict[str, list[Any] | None], bool]:
    """Wraps single arrays in lists, and refuses what pybind11 would silently convert to a copy.

    Returns:
        The lists by name (None where there is none), and whether all arrays are NumPy's.
    """
    lists: dict[str, list[Any] | None] = {}
    all_numpy = True
    for name, argument in arguments.items():
        if argument is None:
            lists[name] = None
            continue
        is_array = isinstance(argument, np.ndarray) or _device_arrays.is_device_array(argument)
        arrays = [argument] if is_array else list(argument)
        for i, array in enumerate(arrays):
            if isinstance(array, np.ndarray):
                continue
            all_numpy = False
            if not _device_arrays.is_device_array(array):
                raise TypeError(
                    f"{name}[{i}] is of type {type(array).__name__}, expected numpy.ndarray or an "
                    "array on a GPU that has __dlpack__"
                )
        lists[name] = arrays
    return lists, all_numpy
