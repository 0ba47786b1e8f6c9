"""The wrapper of the Keras 3 optimizer that scales the loss."""

from typing import Any

import keras
import tensorflow as tf

from tf_adadelta import ops
from tf_adadelta._step_options import KnownNorms
from tf_adadelta._support import device_is_served, why_none_is_served
from tf_adadelta.optimizer import Adadelta


@keras.saving.register_keras_serializable(package="tf_adadelta")
class LossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """`keras.optimizers.LossScaleOptimizer` without passes of its own over the gradients.

    Arguments, variables, configuration and numerics are those of
    `keras.optimizers.LossScaleOptimizer`
    (https://keras.io/api/optimizers/loss_scale_optimizer/), which also works around
    `tf_adadelta.Adadelta`, but reads every gradient to see whether it is finite, and once more to
    divide it. Here one fused reduction tells the former, and if the inner optimizer clips norms
    they are taken from it; the division is part of the update.

    Around another optimizer than `tf_adadelta.Adadelta`, under a `tf.distribute` strategy and for
    what the fused ops do not serve it does what Keras does.

    Args:
        inner_optimizer: The `tf_adadelta.Adadelta` to wrap.
        initial_scale: A float, by which the loss is multiplied at first.
        dynamic_growth_steps: After so many steps with finite gradients the scale is doubled.
        name: A string or None.
        **kwargs: As `keras.optimizers.LossScaleOptimizer` has them.

    Raises:
        ValueError: An argument is not supported.

    Example:
        >>> keras.mixed_precision.set_dtype_policy("mixed_float16")
        >>> optimizer = tf_adadelta.LossScaleOptimizer(tf_adadelta.Adadelta(learning_rate=1.0))
        >>> model.compile(optimizer=optimizer, loss="mse")
    """

    _norms: KnownNorms | None = None  # Of the gradients of the step that is being done.

    def _common_apply(self, grads: list[Any], trainable_variables: list[Any] | None = None) -> None:
        if _is_served(grads) and isinstance(self.inner_optimizer, Adadelta):
            self._norms = _norms_of(grads)
        try:
            super()._common_apply(grads, trainable_variables)
        finally:
            self._norms = None

    def check_finite(self, grads: list[Any]) -> tf.Tensor:
        """Returns whether all gradients are finite. As in the class of Keras."""
        if self._norms is None:
            return super().check_finite(grads)
        return tf.math.is_finite(tf.reduce_sum(self._norms.squared))

    def _stateful_handle_finite_grads(
        self, grads: list[Any], trainable_variables: list[Any] | None
    ) -> None:
        if self._norms is None:
            super()._stateful_handle_finite_grads(grads, trainable_variables)
            return
        scale = tf.convert_to_tensor(self.dynamic_scale)
        factor = self.inner_optimizer.loss_scale_factor  # To which Keras sets none since 3.10.
        divisor = scale if factor is None else scale * factor
        self.inner_optimizer.apply_scaled(grads, trainable_variables, divisor, self._norms)
        grows = tf.equal(self.step_counter, self.dynamic_growth_steps - 1)
        counter = self.step_counter + 1
        self.step_counter.assign(tf.where(grows, tf.zeros_like(counter), counter))
        self.dynamic_scale.assign(tf.where(grows, 2.0 * scale, scale))


def _is_served(grads: list[Any]) -> bool:
    if tf.distribute.has_strategy():  # Keras asks on each replica and agrees afterwards.
        return False
    # The square of a float64 may be infinite where that is not.
    dtypes = {grad.dtype for grad in grads if grad is not None}
    served = dtypes.issubset(set(ops.DTYPES) - {tf.float64})
    return bool(dtypes) and served and why_none_is_served() is None and device_is_served()


def _norms_of(grads: list[Any]) -> KnownNorms:
    by_dtype: dict[tf.DType, list[Any]] = {}
    for grad in grads:
        if grad is not None:
            by_dtype.setdefault(grad.dtype, []).append(grad)
    squared = [
        ops.squared_norms_of_handles(
            [], [grad.values if isinstance(grad, tf.IndexedSlices) else grad for grad in same]
        )
        for same in by_dtype.values()
    ]
    ordered = [grad for same in by_dtype.values() for grad in same]
    # Not of a sparse one: the rows of equal indices are not summed yet.
    places = {id(g): i for i, g in enumerate(ordered) if not isinstance(g, tf.IndexedSlices)}
    return KnownNorms(tf.concat(squared, axis=0), places)
