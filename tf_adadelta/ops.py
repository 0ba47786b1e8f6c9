"""The TensorFlow ops: one call updates a list of variables."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_adadelta import _library

DTYPES = (tf.float16, tf.bfloat16, tf.float32, tf.float64)
"""The dtypes of the variables that the ops serve."""


def fused_adadelta_apply(
    variables: Any,
    accums: Any,
    accum_updates: Any,
    grads: Any,
    *,
    learning_rate: Any,
    rho: Any = 0.95,
    epsilon: Any = 1e-7,
    use_locking: bool = False,
) -> tf.Operation | None:
    """Updates a list of variables by the Adadelta rule, in one pass over memory.

    The rule is Algorithm 1 of Zeiler (2012), arXiv:1212.5701, with a learning rate, as
    `tf.raw_ops.ResourceApplyAdadelta` has it:

        accum = rho * accum + (1 - rho) * grad ** 2
        delta = grad * sqrt(accum_update + epsilon) / sqrt(accum + epsilon)
        accum_update = rho * accum_update + (1 - rho) * delta ** 2
        variable = variable - learning_rate * delta

    The arithmetic is done in float32 (float64 for float64 variables) and stored back once. Nothing
    is written unless every variable of the call can be.

    Args:
        variables: A variable (`tf.Variable` or `keras.Variable`) or a sequence of them, of one
            dtype (float16, bfloat16, float32 or float64), on one device, each of any shape.
        accums: The decayed averages of the squared gradients: variables like `variables`.
        accum_updates: The decayed averages of the squared updates: variables like `variables`.
        grads: The gradients: dense tensors of the shapes and the dtype of `variables`.
        learning_rate: Scalar: a number, tensor or variable. 1.0 in the paper.
        rho: Scalar, the decay rate of both averages.
        epsilon: Scalar, added inside both square roots.
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
    resources = {
        name: [_as_variable(value, f"{name}[{i}]") for i, value in enumerate(_as_list(values))]
        for name, values in (
            ("variables", variables),
            ("accums", accums),
            ("accum_updates", accum_updates),
        )
    }
    grads = _as_list(grads)
    for name, values in {**resources, "grads": grads}.items():
        if len(values) != len(resources["variables"]):
            raise ValueError(
                f"{name} has length {len(values)}, expected {len(resources['variables'])}, one for "
                "each variable"
            )
    if not grads:
        return None
    dtype = resources["variables"][0].dtype
    if dtype not in DTYPES:
        raise TypeError(
            f"variables[0] ('{resources['variables'][0].name}') has dtype {dtype.name}, expected "
            "float16, bfloat16, float32 or float64"
        )
    for name, values in resources.items():
        for i, value in enumerate(values):
            if value.dtype != dtype:
                raise TypeError(
                    f"{name}[{i}] ('{value.name}') has dtype {value.dtype.name}, expected "
                    f"{dtype.name}, the dtype of variables[0]"
                )
    return apply_handles(
        *([value.handle for value in values] for values in resources.values()),
        [_as_tensor(grad, dtype, f"grads[{i}]") for i, grad in enumerate(grads)],
        learning_rate=as_hyperparameter(learning_rate),
        rho=as_hyperparameter(rho),
        epsilon=as_hyperparameter(epsilon),
        use_locking=use_locking,
    )


def apply_handles(
    variables: Sequence[tf.Tensor],
    accums: Sequence[tf.Tensor],
    accum_updates: Sequence[tf.Tensor],
    grads: Sequence[tf.Tensor],
    *,
    learning_rate: tf.Tensor,
    rho: tf.Tensor,
    epsilon: tf.Tensor,
    use_locking: bool = False,
) -> tf.Operation | None:
    """Calls the op itself: non-empty lists of resource handles and tensors, float64 scalars."""
    return _library.load().fused_adadelta_apply(
        vars=variables,
        accums=accums,
        accum_updates=accum_updates,
        grads=grads,
        learning_rate=learning_rate,
        rho=rho,
        epsilon=epsilon,
        use_locking=use_locking,
    )


def as_hyperparameter(value: Any) -> tf.Tensor:
    """Returns a number, tensor or variable as the float64 tensor that the op takes."""
    if isinstance(value, (int, float)):
        return tf.constant(value, tf.float64)
    return tf.cast(value, tf.float64)


def _as_list(values: Any) -> list[Any]:
    return list(values) if isinstance(values, (list, tuple)) else [values]


def _as_variable(value: Any, name: str) -> Any:
    if not isinstance(value, tf.Variable):
        value = getattr(value, "value", value)  # Of a keras.Variable.
    if not isinstance(value, tf.Variable) or not hasattr(value, "handle"):
        raise TypeError(f"{name} is of type {type(value).__name__}, expected a variable")
    return value


def _as_tensor(value: Any, dtype: tf.DType, name: str) -> tf.Tensor:
    if isinstance(value, tf.IndexedSlices):
        raise TypeError(f"{name} is tf.IndexedSlices, expected a dense tensor")
    if tf.is_tensor(value) and value.dtype != dtype:
        raise TypeError(f"{name} has dtype {value.dtype.name}, expected {dtype.name}")
    return tf.convert_to_tensor(value, dtype)
