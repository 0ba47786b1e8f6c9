"""Calls the fused op for a group of variables."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_adadelta import ops
from tf_adadelta._plan import Group
from tf_adadelta._rounding import StochasticRounding
from tf_adadelta._slices import as_slices, as_tensor, sum_duplicates
from tf_adadelta._step_options import StepOptions


def grads_of(group: Group, grads: Sequence[Any], options: StepOptions) -> list[Any]:
    """Returns the gradients of a group as its op takes them."""
    if group.index_dtype is None:
        return [_as_dtype(as_tensor(g, s), group.dtype) for g, s in zip(grads, group.shapes)]
    slices = [as_slices(grad, shape) for grad, shape in zip(grads, group.shapes)]
    if options.clips():
        slices = list(map(sum_duplicates, slices))
    return [tf.IndexedSlices(_as_dtype(g.values, group.dtype), g.indices) for g in slices]


def squared_norms(
    group: Group, grads: Sequence[Any], taken: Sequence[Any], options: StepOptions
) -> tf.Tensor:
    """Returns the squared norms of the gradients of a group, as they were given and are taken."""
    if options.known_norms is not None and not group.grad_accums:
        known = options.known_norms.squared_norms(grads)
        if known is not None:
            return known * options.grad_scale**2
    tensors = [grad.values if isinstance(grad, tf.IndexedSlices) else grad for grad in taken]
    return ops.squared_norms_of_handles(
        group.handles().grad_accums, tensors, options.grad_scale, options.update
    )


def apply_group(
    group: Group,
    grads: Sequence[Any],
    clip_factors: tf.Tensor | None,
    hyperparameters: Mapping[str, Any],
    options: StepOptions,
    rounding: StochasticRounding | None,
) -> tf.Operation | None:
    """Updates a group of variables by gradients as `grads_of` returns them."""
    handles = group.handles()
    random = rounding.inputs(group.variables) if rounding is not None else []
    state = ops.state_of(group.dtype, group.slot_dtype)
    scalars = {name: ops.as_hyperparameter(value) for name, value in hyperparameters.items()}
    if group.index_dtype is None:
        return ops.apply_handles(
            handles.variables,
            handles.accums,
            handles.accum_updates,
            grads,
            averages=handles.averages,
            grad_accums=handles.grad_accums,
            **scalars,
            options=ops.Options(
                grad_scale=options.grad_scale,
                update=options.update,
                clip_factors=clip_factors,
                clipvalue=options.clipvalue or math.inf,
                weight_decay=options.weight_decay if group.decayed else 0.0,
                ema_momentum=options.ema_momentum,
            ),
            random=random,
            state=state,
        )
    # Of these rows there are few: they are changed before the op, not in it.
    values = [options.changed(grad.values, clip_factors, i) for i, grad in enumerate(grads)]
    return ops.sparse_apply_handles(
        handles.variables,
        handles.accums,
        handles.accum_updates,
        handles.clocks,
        values,
        [grad.indices for grad in grads],
        **scalars,
        random=random,
        state=state,
    )


def _as_dtype(grad: Any, dtype: tf.DType) -> tf.Tensor:
    return grad if isinstance(grad, tf.Tensor) and grad.dtype == dtype else tf.cast(grad, dtype)
