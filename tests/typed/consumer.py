"""What a program that uses tf_adadelta looks like to a type checker: read, never run."""

from typing import Any

import numpy as np
from typing_extensions import assert_type

import tf_adadelta
from tf_adadelta import compat, kernels, ops
from tf_adadelta import tf_keras as fused


def build_info() -> str:
    info = tf_adadelta.build_info()
    assert_type(info, dict[str, Any])
    assert_type(tf_adadelta.__version__, str)
    return tf_adadelta.__version__


def optimizers() -> list[object]:
    optimizer = tf_adadelta.Adadelta(learning_rate=1.0, clipnorm=1.0, sparse_update="lazy")
    assert_type(optimizer, tf_adadelta.Adadelta)
    config = optimizer.get_config()
    assert_type(config, dict[str, Any])
    scaled = tf_adadelta.LossScaleOptimizer(optimizer, initial_scale=8.0)
    assert_type(optimizer.apply([], []), None)
    return [
        optimizer,
        scaled,
        fused.Adadelta(weight_decay=0.1),
        fused.legacy.Adadelta(1.0),
        compat.v1.AdadeltaOptimizer(1.0, sparse_update="exact"),
        tf_adadelta.from_keras(optimizer, sparse_update="lazy"),
        tf_adadelta.to_keras(optimizer),
    ]


def patched() -> None:
    with tf_adadelta.patch_keras() as patch:
        print(patch)
    tf_adadelta.unpatch_keras()


def arrays() -> list[float] | None:
    x, a, u, g = (np.ones(5, np.float32) for _ in range(4))
    kernels.fused_adadelta_apply(x, a, u, g, learning_rate=1.0, num_threads=1)
    kernels.fused_adadelta_apply([x], [a], [u], [g], learning_rate=1.0, clip_factors=[0.5])
    kernels.fused_adadelta_sparse_apply(x, a, u, g, np.arange(5), learning_rate=1.0)
    kernels.copy_streams(x, a, u, g)
    assert_type(kernels.instruction_sets(), list[str])
    return kernels.squared_norms([x, g])


def tensors(variable: Any, grad: Any) -> object:
    ops.fused_adadelta_apply(variable, variable, variable, grad, learning_rate=1.0)
    ops.fused_adadelta_sparse_apply(
        variable, variable, variable, grad, grad, clocks=variable, learning_rate=1.0
    )
    return ops.fused_squared_norms([grad])
