"""The TensorFlow ops: one call updates a list of variables."""

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_adadelta import _library

DTYPES = (tf.float16, tf.bfloat16, tf.float32, tf.float64)
"""The dtypes of the variables that the ops serve."""

INDEX_DTYPES = (tf.int32, tf.int64)
"""The dtypes of the indices of sparse gradients."""

# What the op takes for an infinite clipvalue, which tf.debugging.enable_check_numerics() refuses.
_NO_CLIPVALUE = sys.float_info.max


def fused_adadelta_apply(
    variables: Any,
    accums: Any,
    accum_updates: Any,
    grads: Any,
    *,
    averages: Any = None,
    grad_accums: Any = None,
    learning_rate: Any,
    rho: Any = 0.95,
    epsilon: Any = 1e-7,
    grad_scale: Any = 1.0,
    update: Any = True,
    clip_factors: Any = None,
    clipvalue: Any = math.inf,
    weight_decay: Any = 0.0,
    ema_momentum: Any = 0.0,
    random_seeds: Any = None,
    step: Any = 0,
    use_locking: bool = False,
) -> tf.Operation | None:
    """Updates a list of variables by the Adadelta rule, in one pass over memory.

    The rule is Algorithm 1 of Zeiler (2012), arXiv:1212.5701, with a learning rate, as
    `tf.raw_ops.ResourceApplyAdadelta` has it:

        accum = rho * accum + (1 - rho) * grad ** 2
        delta = grad * sqrt(accum_update + epsilon) / sqrt(accum + epsilon)
        accum_update = rho * accum_update + (1 - rho) * delta ** 2
        variable = variable - learning_rate * delta

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

    The arithmetic is done in float32 (float64 for float64 variables) and stored back once. Nothing
    is written unless every variable of the call can be.

    Args:
        variables: A variable (`tf.Variable` or `keras.Variable`) or a sequence of them, of one
            dtype (float16, bfloat16, float32 or float64), on one device, each of any shape.
        accums: The decayed averages of the squared gradients: variables like `variables`.
        accum_updates: The decayed averages of the squared updates: variables like `variables`.
        grads: The gradients: dense tensors of the shapes and the dtype of `variables`.
        averages: Exponential moving averages of the variables: variables like `variables`, or None.
        grad_accums: The sums of the gradients since the last update, likewise.
        learning_rate: Scalar: a number, tensor or variable. 1.0 in the paper.
        rho: Scalar, the decay rate of both averages.
        epsilon: Scalar, added inside both square roots.
        grad_scale: Scalar, by which the gradients are multiplied as they come.
        update: Scalar, with `grad_accums`: False or 0 for a step that only adds the gradients.
        clip_factors: A vector with an element for each variable, by which its gradient, or the sum
            of its gradients, is multiplied; None for ones. `fused_squared_norms` returns what the
            factors for a norm are made of.
        clipvalue: Scalar, the largest magnitude of the elements of a gradient then.
        weight_decay: Scalar, the part of itself, times the learning rate, that a variable loses.
        ema_momentum: Scalar, the decay rate of `averages`.
        random_seeds: None: what is stored is rounded to the nearest. With bfloat16 variables also
            an int for each of them (or an int64 tensor): it is then rounded stochastically, by bits
            that are a hash of the seed, of `step` and of the place of the element, the same on
            every device and for any number of threads. With float32 variables likewise, whose
            `accums` and `accum_updates` are then bfloat16, and alone are rounded so; or uint8, the
            codes of floats in 8 bits with a scale for every 256 of them (csrc/block_codes.h), of
            the shape `(rows, n + ceil(n / 256))` for a variable of `rows` with `n` elements each.
        step: Scalar, an int or an integer tensor: the count of steps before this one.
        use_locking: For symmetry with `ResourceApplyAdadelta`; the locks of all variables are held
            during the update either way.

    Returns:
        The operation in a graph; None in eager execution or for an empty list.

    Raises:
        TypeError: An argument is not a variable or not a dense tensor, or has another dtype.
        ValueError: The lists differ in length, or (in a graph) shapes do not fit.
        tf.errors.InvalidArgumentError: Shapes or dtypes do not fit, a hyperparameter is not a
            scalar, or a variable is passed twice.
        tf.errors.FailedPreconditionError: A variable is not initialized.
    """
    *resources, grads, average_list, grad_accum_list = _as_lists(
        variables, accums, accum_updates, grads, averages, grad_accums
    )
    lists = _as_resources(*resources)
    if averages is not None:
        lists["averages"] = _as_variables(average_list, "averages")
    if grad_accums is not None:
        lists["grad_accums"] = _as_variables(grad_accum_list, "grad_accums")
    elif update is False:
        raise ValueError("update is False, expected True where there are no grad_accums")
    _check_lengths({**lists, "grads": grads})
    if not grads:
        return None
    dtype = _check_dtypes(lists, random_seeds is not None)
    options = Options(grad_scale, update, clip_factors, clipvalue, weight_decay, ema_momentum)
    return apply_handles(
        **_handles(lists),
        grads=[_as_tensor(grad, dtype, f"grads[{i}]") for i, grad in enumerate(grads)],
        **_as_hyperparameters(learning_rate, rho, epsilon),
        options=options,
        random=_as_random(random_seeds, step, dtype, len(grads)),
        state=state_of(dtype, lists["accums"][0].dtype),
        use_locking=use_locking,
    )


def fused_squared_norms(
    grads: Any, *, grad_accums: Any = None, grad_scale: Any = 1.0, update: Any = True
) -> tf.Tensor:
    """Returns the squared norms of a list of gradients, by one pass over memory.

    They stay on the device of the gradients, and are the same to the bit on every run.

    Args:
        grads: A dense tensor or a sequence of them, of one dtype of `DTYPES`, each of any shape.
        grad_accums: Variables like `grads`, to which they will be added, or None.
        grad_scale: Scalar, by which the gradients are multiplied first.
        update: Scalar; False or 0 where nobody asks for the norms, which are then 0.

    Returns:
        float64, shape `(len(grads),)`: the squared norms of `grad_accum + grad_scale * grad`.

    Raises:
        TypeError: An argument is not a variable or not a dense tensor, or has another dtype.
        ValueError: The lists differ in length, or (in a graph) shapes do not fit.
        tf.errors.InvalidArgumentError: Shapes do not fit, or a variable is passed twice.
        tf.errors.FailedPreconditionError: A variable is not initialized.
    """
    grads, grad_accum_list = _as_lists(grads, grad_accums)
    if not grads:
        return tf.zeros([0], tf.float64)
    tensors = [tf.convert_to_tensor(grads[0])]
    dtype = tensors[0].dtype
    if dtype not in DTYPES:
        raise TypeError(
            f"grads[0] has dtype {dtype.name}, expected float16, bfloat16, float32 or float64"
        )
    tensors += [_as_tensor(grad, dtype, f"grads[{i}]") for i, grad in enumerate(grads[1:], 1)]
    accums = []
    if grad_accums is not None:
        accums = _as_variables(grad_accum_list, "grad_accums")
        _check_lengths({"grads": grads, "grad_accums": accums})
        _check_dtypes({"grad_accums": accums})
    return squared_norms_of_handles(
        [variable.handle for variable in accums], tensors, grad_scale, update
    )


def fused_adadelta_sparse_apply(
    variables: Any,
    accums: Any,
    accum_updates: Any,
    grads: Any,
    indices: Any,
    *,
    clocks: Any = None,
    learning_rate: Any,
    rho: Any = 0.95,
    epsilon: Any = 1e-7,
    random_seeds: Any = None,
    step: Any = 0,
    use_locking: bool = False,
) -> tf.Operation | None:
    """Updates the rows of a list of variables that have a gradient.

    Rows of a gradient with the same index are summed first, in their order, in the type of the
    arithmetic. Nothing is written unless every variable of the call can be and every index is that
    of a row. On a GPU the host would have to wait to know the latter: there, rows of a gradient
    whose index is out of range are skipped unless the environment has TF_ADADELTA_CHECK_INDICES=1.

    Without `clocks` only the rows with a gradient change, as
    `tf.raw_ops.ResourceSparseApplyAdadelta` has it. With them the result is that of
    `fused_adadelta_apply` with zeros for the other rows, whose averages decay too: the decay of a
    row is put off until it has a gradient again, and its clock tells how far it has fallen behind.
    Until then `accums` and `accum_updates` hold old values for it; `up_to_date` computes the true
    ones. `rho` must be the same in every call.

    Args:
        variables: A variable (`tf.Variable` or `keras.Variable`) of one or more dimensions, or a
            sequence of them, of one dtype (float16, bfloat16, float32 or float64), on one device.
        accums: The decayed averages of the squared gradients: variables like `variables`.
        accum_updates: The decayed averages of the squared updates: variables like `variables`.
        grads: The rows of the gradients: tensors of the shape `indices.shape + variable.shape[1:]`
            and the dtype of `variables`.
        indices: Tensors of one dimension, all int32 or all int64: the row of the variable that each
            row of the gradient belongs to.
        clocks: int64 variables of the shape `(rows + 1,)`, zero at first: the count of updates that
            each row has caught up with, and last the count of updates of the variable.
        learning_rate: Scalar: a number, tensor or variable. 1.0 in the paper.
        rho: Scalar, the decay rate of both averages.
        epsilon: Scalar, added inside both square roots.
        random_seeds: As in `fused_adadelta_apply`.
        step: As in `fused_adadelta_apply`.
        use_locking: As in `fused_adadelta_apply`.

    Returns:
        The operation in a graph; None in eager execution or for an empty list.

    Raises:
        TypeError: An argument is not a variable or not a dense tensor, or has another dtype.
        ValueError: The lists differ in length, or (in a graph) shapes do not fit.
        tf.errors.InvalidArgumentError: An index is not that of a row, shapes or dtypes do not fit,
            a hyperparameter is not a scalar, or a variable is passed twice.
        tf.errors.FailedPreconditionError: A variable is not initialized.
    """
    *resources, grads, indices, clock_list = _as_lists(
        variables, accums, accum_updates, grads, indices, clocks
    )
    lists = _as_resources(*resources)
    if clocks is not None:
        lists["clocks"] = _as_variables(clock_list, "clocks")
    _check_lengths({**lists, "grads": grads, "indices": indices})
    if not grads:
        return None
    dtype = _check_dtypes(lists, random_seeds is not None)
    indices = [tf.convert_to_tensor(values) for values in indices]
    if indices[0].dtype not in INDEX_DTYPES:
        raise TypeError(f"indices[0] has dtype {indices[0].dtype.name}, expected int32 or int64")
    for i, values in enumerate(indices):
        if values.dtype != indices[0].dtype:
            raise TypeError(
                f"indices[{i}] has dtype {values.dtype.name}, expected {indices[0].dtype.name}, "
                "the dtype of indices[0]"
            )
    return sparse_apply_handles(
        **_handles({**lists, "clocks": lists.get("clocks", [])}),
        grads=[_as_tensor(grad, dtype, f"grads[{i}]") for i, grad in enumerate(grads)],
        indices=indices,
        **_as_hyperparameters(learning_rate, rho, epsilon),
        random=_as_random(random_seeds, step, dtype, len(grads)),
        state=state_of(dtype, lists["accums"][0].dtype),
        use_locking=use_locking,
    )


def up_to_date(average: Any, clock: Any, rho: Any) -> tf.Tensor:
    """Returns an average with the decay that `fused_adadelta_sparse_apply` has put off.

    Args:
        average: A variable or tensor: one of `accums` or of `accum_updates`, any dtype of `DTYPES`.
        clock: The clock of its variable, int64, shape `(rows + 1,)`.
        rho: Scalar, the decay rate that the updates had.

    Returns:
        A tensor of the shape and dtype of `average`. Neither argument is changed.
    """
    clock = tf.convert_to_tensor(clock)
    average = tf.convert_to_tensor(average)
    compute = tf.float64 if average.dtype == tf.float64 else tf.float32
    idle = tf.cast(clock[-1] - clock[:-1], tf.float64)
    # In two factors, like DecayIdle in csrc/adadelta.h.
    half_decay = tf.cast(tf.pow(as_hyperparameter(rho), 0.5 * idle), compute)
    half_decay = tf.maximum(half_decay, np.finfo(compute.as_numpy_dtype).tiny)
    half_decay = tf.reshape(half_decay, [-1] + [1] * (average.shape.rank - 1))
    return tf.cast(tf.cast(average, compute) * half_decay * half_decay, average.dtype)


@dataclasses.dataclass(frozen=True)
class Options:
    """What is done around the update in the same pass: arguments of `fused_adadelta_apply`."""

    grad_scale: Any = 1.0
    update: Any = True
    clip_factors: Any = None
    clipvalue: Any = math.inf
    weight_decay: Any = 0.0
    ema_momentum: Any = 0.0

    def are_plain(self) -> bool:
        """Whether nothing is asked for."""
        return all(
            value is field.default or (isinstance(value, (int, float)) and value == field.default)
            for field in dataclasses.fields(self)
            for value in [getattr(self, field.name)]
        )

    def as_inputs(self, num_variables: int) -> list[tf.Tensor]:
        """Returns the list that the op takes."""
        factors, clipvalue = self.clip_factors, self.clipvalue
        if isinstance(clipvalue, (float, np.floating)) and clipvalue == math.inf:
            clipvalue = _NO_CLIPVALUE
        return [
            as_hyperparameter(self.grad_scale),
            as_hyperparameter(self.update),
            tf.ones([num_variables], tf.float64)
            if factors is None
            else tf.cast(factors, tf.float64),
            as_hyperparameter(clipvalue),
            as_hyperparameter(self.weight_decay),
            as_hyperparameter(self.ema_momentum),
        ]


def apply_handles(
    variables: Sequence[tf.Tensor],
    accums: Sequence[tf.Tensor],
    accum_updates: Sequence[tf.Tensor],
    grads: Sequence[tf.Tensor],
    *,
    averages: Sequence[tf.Tensor] = (),
    grad_accums: Sequence[tf.Tensor] = (),
    learning_rate: tf.Tensor,
    rho: tf.Tensor,
    epsilon: tf.Tensor,
    options: Options = Options(),
    random: Sequence[tf.Tensor] = (),
    state: tf.DType = tf.bfloat16,
    use_locking: bool = False,
) -> tf.Operation | None:
    """Calls the op itself: non-empty lists of resource handles and tensors, float64 scalars.

    `averages` and `grad_accums` may be empty; `random` too, or `random_inputs`. `state` is what the
    averages of float32 variables are stored in then.
    """
    plain = not averages and not grad_accums and options.are_plain()
    return _library.load_ops().fused_adadelta_apply(
        vars=variables,
        accums=accums,
        accum_updates=accum_updates,
        averages=averages,
        grad_accums=grad_accums,
        grads=grads,
        learning_rate=learning_rate,
        rho=rho,
        epsilon=epsilon,
        options=[] if plain else options.as_inputs(len(variables)),
        random=random,
        state=state,
        use_locking=use_locking,
    )


def squared_norms_of_handles(
    grad_accums: Sequence[tf.Tensor],
    grads: Sequence[tf.Tensor],
    grad_scale: Any = 1.0,
    update: Any = True,
) -> tf.Tensor:
    """Calls the op of `fused_squared_norms` itself; `grad_accums` may be empty."""
    return _library.load_ops().fused_squared_norms(
        grad_accums=grad_accums,
        grads=grads,
        grad_scale=as_hyperparameter(grad_scale),
        update=as_hyperparameter(update),
    )


def sparse_apply_handles(
    variables: Sequence[tf.Tensor],
    accums: Sequence[tf.Tensor],
    accum_updates: Sequence[tf.Tensor],
    clocks: Sequence[tf.Tensor],
    grads: Sequence[tf.Tensor],
    indices: Sequence[tf.Tensor],
    *,
    learning_rate: tf.Tensor,
    rho: tf.Tensor,
    epsilon: tf.Tensor,
    random: Sequence[tf.Tensor] = (),
    state: tf.DType = tf.bfloat16,
    use_locking: bool = False,
) -> tf.Operation | None:
    """Calls the sparse op itself, like `apply_handles`; `clocks` may be empty."""
    return _library.load_ops().fused_adadelta_sparse_apply(
        vars=variables,
        accums=accums,
        accum_updates=accum_updates,
        clocks=clocks,
        grads=grads,
        indices=indices,
        learning_rate=learning_rate,
        rho=rho,
        epsilon=epsilon,
        random=random,
        state=state,
        use_locking=use_locking,
    )


def random_inputs(random_seeds: Any, step: Any) -> list[tf.Tensor]:
    """Returns the inputs of an op that rounds stochastically."""
    return [tf.cast(step, tf.int64), tf.cast(random_seeds, tf.int64)]


def state_of(dtype: tf.DType, accum_dtype: tf.DType) -> tf.DType:
    """Returns the attribute `state` of an op that rounds stochastically.

    Args:
        dtype: Of the variables.
        accum_dtype: Of what stores their averages.

    Returns:
        `tf.uint8` for averages in 8 bits, and else `tf.bfloat16`.
    """
    in_blocks = dtype == tf.float32 and accum_dtype == tf.uint8
    return tf.uint8 if in_blocks else tf.bfloat16


def as_hyperparameter(value: Any) -> tf.Tensor:
    """Returns a number, tensor or variable as the float64 tensor that the op takes."""
    if isinstance(value, (bool, int, float)):
        return tf.constant(float(value), tf.float64)
    return tf.cast(value, tf.float64)


def _as_lists(variables: Any, *companions: Any) -> list[list[Any]]:
    """Returns lists; a single variable has single companions, which may be lists of numbers."""
    single = not isinstance(variables, (list, tuple))
    return [
        [value] if single or not isinstance(value, (list, tuple)) else list(value)
        for value in (variables, *companions)
    ]


def _as_variables(values: list[Any], name: str) -> list[Any]:
    variables = []
    for i, value in enumerate(values):
        if not isinstance(value, tf.Variable):
            value = getattr(value, "value", value)  # Of a keras.Variable.
        if not isinstance(value, tf.Variable) or not hasattr(value, "handle"):
            raise TypeError(f"{name}[{i}] is of type {type(value).__name__}, expected a variable")
        variables.append(value)
    return variables


def _as_resources(
    variables: list[Any], accums: list[Any], accum_updates: list[Any]
) -> dict[str, list[Any]]:
    return {
        "variables": _as_variables(variables, "variables"),
        "accums": _as_variables(accums, "accums"),
        "accum_updates": _as_variables(accum_updates, "accum_updates"),
    }


def _handles(lists: dict[str, list[Any]]) -> dict[str, list[tf.Tensor]]:
    return {name: [variable.handle for variable in variables] for name, variables in lists.items()}


def _as_hyperparameters(learning_rate: Any, rho: Any, epsilon: Any) -> dict[str, tf.Tensor]:
    return {
        "learning_rate": as_hyperparameter(learning_rate),
        "rho": as_hyperparameter(rho),
        "epsilon": as_hyperparameter(epsilon),
    }


def _as_random(random_seeds: Any, step: Any, dtype: tf.DType, count: int) -> list[tf.Tensor]:
    """Returns what the op takes for rounding, from the arguments of a call."""
    if random_seeds is None:
        return []
    if dtype not in (tf.bfloat16, tf.float32):
        raise TypeError(
            f"variables[0] has dtype {dtype.name}, expected bfloat16 or float32 with random_seeds"
        )
    seeds = random_seeds if tf.is_tensor(random_seeds) else np.asarray(random_seeds).reshape(-1)
    if seeds.dtype not in (*INDEX_DTYPES, np.int32, np.int64):
        raise TypeError(f"random_seeds has dtype {seeds.dtype}, expected integers")
    if not tf.is_tensor(seeds):
        _check_lengths({"variables": range(count), "random_seeds": seeds})
    return random_inputs(seeds, step)


def _check_lengths(lists: Mapping[str, Sequence[Any]]) -> None:
    expected = len(next(iter(lists.values())))
    for name, values in lists.items():
        if len(values) != expected:
            raise ValueError(
                f"{name} has length {len(values)}, expected {expected}, one for each variable"
            )


def _check_dtypes(lists: dict[str, list[Any]], random: bool = False) -> tf.DType:
    """Returns the dtype that all variables but the clocks have, and averages rounded at random."""
    first_list = next(iter(lists))
    first = lists[first_list][0]
    if first.dtype not in DTYPES:
        raise TypeError(
            f"{first_list}[0] ('{first.name}') has dtype {first.dtype.name}, expected float16, "
            "bfloat16, float32 or float64"
        )
    for name, variables in lists.items():
        expected, why = first.dtype, f", the dtype of {first_list}[0]"
        if name == "clocks":
            expected, why = tf.int64, ""
        elif random and name in ("accums", "accum_updates"):
            expected = state_of(first.dtype, lists["accums"][0].dtype)
            why = ", where there are random_seeds"
        for i, variable in enumerate(variables):
            if variable.dtype != expected:
                raise TypeError(
                    f"{name}[{i}] ('{variable.name}') has dtype {variable.dtype.name}, expected "
                    f"{expected.name}{why}"
                )
    return first.dtype


def _as_tensor(value: Any, dtype: tf.DType, name: str) -> tf.Tensor:
    if isinstance(value, tf.IndexedSlices):
        raise TypeError(f"{name} is tf.IndexedSlices, expected a dense tensor")
    if tf.is_tensor(value) and value.dtype != dtype:
        raise TypeError(f"{name} has dtype {value.dtype.name}, expected {dtype.name}")
    return tf.convert_to_tensor(value, dtype)
