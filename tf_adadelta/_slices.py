"""Gradients with indices (`tf.IndexedSlices`) in other forms."""

from typing import Any

import tensorflow as tf


def with_tensor_indices(grad: Any) -> Any:
    """Returns a gradient whose indices, if it has any, are a tensor."""
    if not isinstance(grad, tf.IndexedSlices) or tf.is_tensor(grad.indices):
        return grad
    return tf.IndexedSlices(grad.values, tf.convert_to_tensor(grad.indices), grad.dense_shape)


def as_slices(grad: Any, shape: tf.TensorShape) -> tf.IndexedSlices:
    """Returns the gradient of a variable with indices: a dense one has all rows."""
    if isinstance(grad, tf.IndexedSlices):
        return grad
    return tf.IndexedSlices(grad, tf.range(shape[0], dtype=tf.int64))


def as_tensor(grad: Any, shape: tf.TensorShape) -> Any:
    """Returns the gradient of a variable as a dense one: other rows are zeros.

    Rows of equal indices are summed in their order, in float32 or float64.
    """
    if not isinstance(grad, tf.IndexedSlices):
        return grad
    values = tf.cast(grad.values, _compute_dtype(grad))
    return tf.cast(tf.math.unsorted_segment_sum(values, grad.indices, shape[0]), grad.values.dtype)


def sum_duplicates(grad: tf.IndexedSlices) -> tf.IndexedSlices:
    """Returns the same gradient with the rows of equal indices summed.

    It has as many rows as before, so that XLA can compile it: the last ones are zeros for an index
    that has a gradient anyway. Rows are summed in their order, in float32 or float64.
    """
    grad = with_tensor_indices(grad)
    order = tf.argsort(grad.indices, stable=True)
    indices = tf.gather(grad.indices, order)
    count = tf.size(indices)
    first = tf.concat([tf.ones([1], tf.bool), indices[1:] != indices[:-1]], axis=0)[:count]
    group = tf.cumsum(tf.cast(first, tf.int32)) - 1
    values = tf.gather(tf.cast(grad.values, _compute_dtype(grad)), order)
    summed = tf.math.unsorted_segment_sum(values, group, count)
    rows = tf.math.unsorted_segment_max(indices, group, count)
    rows = tf.where(tf.range(count) <= group[-1:], rows, indices[-1:])
    return tf.IndexedSlices(tf.cast(summed, grad.values.dtype), rows, grad.dense_shape)


def _compute_dtype(grad: tf.IndexedSlices) -> tf.DType:
    return tf.float64 if grad.values.dtype == tf.float64 else tf.float32
