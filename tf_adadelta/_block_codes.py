"""Averages in 8 bits, as csrc/block_codes.h has them: what is stored, and the values of it."""

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

# The elements of a row that share a scale.
_BLOCK = 256
_INFINITY_CODE, _NAN_CODE = 0xFE, 0xFF
_SMALLEST_SIZE = 4096
_SMALLEST_ROW = 16


def serves(shape: Sequence[int]) -> bool:
    """Whether averages of a variable of this shape may be in 8 bits.

    Those of small ones save nothing that counts, and of short rows nearly nothing: each has a scale
    of its own.
    """
    return math.prod(shape) >= _SMALLEST_SIZE and math.prod(shape[1:]) >= _SMALLEST_ROW


def stored_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Returns the shape of what is stored for a variable of this shape."""
    rows, row_elements = _rows_of(shape)
    return rows, row_elements + _blocks_of(row_elements)


def from_stored(stored: Any, shape: Sequence[int]) -> Any:
    """Returns the values of what is stored for a variable: decoded, or as they are."""
    return decode(stored, shape) if stored.dtype == tf.uint8 else stored


def to_stored(values: Any, shape: Sequence[int], dtype: tf.DType) -> tf.Tensor:
    """Returns what is stored in that dtype for the values of a variable of this shape."""
    return encode(tf.reshape(values, shape)) if dtype == tf.uint8 else tf.cast(values, dtype)


def encode(values: Any) -> tf.Tensor:
    """Returns what is stored for float32 values, rounded to the nearest.

    What `decode` has returned is stored without a loss.
    """
    values = tf.convert_to_tensor(values, tf.float32)
    rows, row_elements = _rows_of(values.shape)
    blocks = _blocks_of(row_elements)
    padding = [[0, 0], [0, blocks * _BLOCK - row_elements]]
    values = tf.pad(tf.reshape(values, [rows, row_elements]), padding)
    values = tf.reshape(values, [rows, blocks, _BLOCK])
    numbers = tf.where(tf.math.is_finite(values), tf.abs(values), 0.0)
    largest = tf.bitcast(tf.reduce_max(numbers, -1, keepdims=True), tf.int32)
    scale = tf.maximum(tf.bitwise.right_shift(largest + 0x17FFFF, 23) - 19, 0)
    inverse_step = tf.bitcast(tf.bitwise.left_shift(253 - scale, 23), tf.float32)
    steps = tf.maximum(numbers * tf.cast(values > 0, tf.float32) * inverse_step, 0.0)
    bits = tf.bitcast(steps, tf.int32)
    even = tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 19), 1)
    codes = tf.where(
        steps < 16.0,
        tf.cast(tf.round(steps), tf.int32),
        tf.bitwise.right_shift(bits + 0x3FFFF + even, 19) - (130 << 4),
    )
    codes = tf.where(tf.equal(values, math.inf), _INFINITY_CODE, codes)
    codes = tf.where(tf.math.is_nan(values), _NAN_CODE, codes)
    stored = tf.reshape(tf.concat([scale, codes], -1), [rows, blocks * (_BLOCK + 1)])
    return tf.cast(stored[:, : row_elements + blocks], tf.uint8)


def decode(stored: Any, shape: Sequence[int]) -> tf.Tensor:
    """Returns the float32 values of what is stored for a variable of this shape."""
    rows, row_elements = _rows_of(shape)
    blocks = _blocks_of(row_elements)
    padding = [[0, 0], [0, blocks * _BLOCK - row_elements]]
    stored = tf.pad(tf.cast(tf.convert_to_tensor(stored), tf.int32), padding)
    scale, codes = tf.split(tf.reshape(stored, [rows, blocks, _BLOCK + 1]), [1, _BLOCK], axis=-1)
    step = tf.bitcast(tf.bitwise.left_shift(scale + 1, 23), tf.float32)
    normal = tf.bitcast(tf.bitwise.left_shift(codes, 19) + (130 << 23), tf.float32)
    values = (normal + tf.minimum(normal - 16.0, 0.0)) * step
    values = tf.where(tf.equal(codes, _INFINITY_CODE), math.inf, values)
    values = tf.where(tf.equal(codes, _NAN_CODE), math.nan, values)
    return tf.reshape(tf.reshape(values, [rows, blocks * _BLOCK])[:, :row_elements], shape)


def _rows_of(shape: Sequence[int]) -> tuple[int, int]:
    rows = shape[0] if len(shape) else 1
    return rows, math.prod(shape[1:]) if rows else 0


def _blocks_of(row_elements: int) -> int:
    return -(-row_elements // _BLOCK)
