"""Slots whose rows may lag behind: their idle decay is put off until somebody needs it."""

from typing import Any

import tensorflow as tf

from tf_adadelta import ops


class RowClock:
    """Tells how far each row of a variable's two slots has caught up with its sparse updates.

    Args:
        variable: The variable, whose rows are counted.
        slots: Its accum and accum_update.
        rho: The decay rate of its updates.

    Attributes:
        counts: int64, shape `(rows + 1,)`: what `ops.fused_adadelta_sparse_apply` calls a clock.
    """

    def __init__(
        self, variable: tf.Variable, slots: tuple[tf.Variable, tf.Variable], rho: float
    ) -> None:
        self._slots = slots
        self._rho = rho
        with tf.init_scope(), tf.device(variable.device):
            self.counts = tf.Variable(
                tf.zeros([variable.shape[0] + 1], tf.int64), trainable=False, name="row_clock"
            )

    def set_rho(self, rho: float) -> None:
        """Catches up at the old rate if `rho` is a new one."""
        if rho != self._rho:
            self.catch_up()
            self._rho = rho

    def up_to_date(self, slot: tf.Variable) -> tf.Tensor:
        """Returns the true values of one of the slots and changes nothing."""
        return ops.up_to_date(slot, self.counts, self._rho)

    def catch_up(self) -> None:
        """Brings both slots up to date."""
        for slot in self._slots:
            slot.assign(self.up_to_date(slot))
        self.counts.assign(tf.fill(self.counts.shape, self.counts[-1]))


def sum_duplicates(grad: tf.IndexedSlices) -> tf.IndexedSlices:
    """Returns the same gradient with the rows of equal indices summed.

    It has as many rows as before, so that XLA can compile it: the last ones are zeros for an index
    that has a gradient anyway. Rows are summed in their order, in float32 or float64.
    """
    order = tf.argsort(grad.indices, stable=True)
    indices = tf.gather(grad.indices, order)
    first = tf.concat([tf.ones([1], tf.bool), indices[1:] != indices[:-1]], axis=0)
    first = first[: tf.size(indices)]
    group = tf.cumsum(tf.cast(first, tf.int32)) - 1
    compute = tf.float64 if grad.values.dtype == tf.float64 else tf.float32
    values = tf.gather(tf.cast(grad.values, compute), order)
    summed = tf.math.unsorted_segment_sum(values, group, tf.size(indices))
    rows = tf.math.unsorted_segment_max(indices, group, tf.size(indices))
    rows = tf.where(tf.range(tf.size(rows)) <= group[-1:], rows, indices[-1:])
    return tf.IndexedSlices(tf.cast(summed, grad.values.dtype), rows, grad.dense_shape)


def convert(grad: Any) -> Any:
    """Returns a gradient whose indices, if it has any, are a tensor."""
    if not isinstance(grad, tf.IndexedSlices) or tf.is_tensor(grad.indices):
        return grad
    return tf.IndexedSlices(grad.values, tf.convert_to_tensor(grad.indices), grad.dense_shape)


def as_slices(grad: Any, rows: int) -> tf.IndexedSlices:
    """Returns a gradient as one with indices: a dense one has all rows."""
    if isinstance(grad, tf.IndexedSlices):
        return grad
    return tf.IndexedSlices(grad, tf.range(rows, dtype=tf.int64))


def as_tensor(grad: Any, rows: int) -> Any:
    """Returns a gradient as a dense one: a sparse one has zeros for the other rows."""
    if not isinstance(grad, tf.IndexedSlices):
        return grad
    grad = sum_duplicates(grad)  # In the type of the arithmetic.
    return tf.math.unsorted_segment_sum(grad.values, grad.indices, rows)
