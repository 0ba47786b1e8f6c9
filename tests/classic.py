"""What the tests of the classic optimizers share."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import needs_xla
from oracle import TOLERANCES

FIT_OPTIONS = pytest.mark.parametrize(
    "options",
    [
        {},
        {"run_eagerly": True},
        pytest.param({"jit_compile": True}, marks=needs_xla),
        {"steps_per_execution": 4},
    ],
    ids=lambda options: next(iter(options), "default"),
)

SHAPES = [(17, 5), (5,), (), (1,), (3,), (4097,), (0,)]


def make_variables(dtype="float32", shapes=SHAPES, seed=0, **options):
    rng = np.random.default_rng(seed)
    return [
        tf.Variable(tf.cast(rng.standard_normal(shape), dtype), name=f"v{i}", **options)
        for i, shape in enumerate(shapes)
    ]


def make_grads(dtype="float32", shapes=SHAPES, seed=1):
    rng = np.random.default_rng(seed)
    return [tf.cast(rng.standard_normal(shape), dtype) for shape in shapes]


def make_slices(dtype="float32", shape=(17, 5), rows=6, seed=1):
    """A sparse gradient in which rows occur twice and more often."""
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, shape[0] // 2, rows)
    indices[-2:] = indices[0]
    values = tf.cast(rng.standard_normal((rows, *shape[1:])), dtype)
    return tf.IndexedSlices(values, tf.constant(indices), tf.constant(shape))


def sparse_grads(dtype, seed):
    return [make_slices(dtype, seed=seed), *make_grads(dtype, seed=seed)[1:]]


def as_dense(dtype, seed):
    return list(map(tf.convert_to_tensor, sparse_grads(dtype, seed)))


def make_step(compiled, optimizer, variables):
    """A step that takes the gradients; the values of a sparse one may come from a tf.function."""

    def step(*grads):
        optimizer.apply_gradients(zip(grads, variables))

    return compiled(step)


def eagerly(step):
    return step


def variables_of(optimizer):
    variables = optimizer.variables
    return variables() if callable(variables) else variables


def assert_close(actual, expected, dtype="float32", scale=1):
    absolute, relative = TOLERANCES[dtype]
    assert len(actual) == len(expected)
    for position, (a, e) in enumerate(zip(actual, expected)):
        a, e = (np.asarray(x.numpy() if hasattr(x, "numpy") else x) for x in (a, e))
        assert a.dtype == e.dtype
        np.testing.assert_allclose(
            a.astype(np.float64),
            e.astype(np.float64),
            atol=scale * absolute,
            rtol=scale * relative,
            err_msg=f"number {position}",
        )


def run(make, compiled, steps=20, dtype="float32", grads_of=make_grads, before=None, **options):
    """Takes an optimizer through some steps; returns it and the variables."""
    variables = make_variables(dtype)
    optimizer = make(**{"learning_rate": 0.5, **options})
    step = make_step(compiled, optimizer, variables)
    for number in range(steps):
        if before is not None:
            before(optimizer, number)
        step(*grads_of(dtype, seed=number))
    return optimizer, variables


def run_both(makes, compiled, dtype="float32", scale=1, **options):
    """Takes two optimizers through the same steps and compares all that they changed."""
    (stock, stock_variables), (fused, fused_variables) = (
        run(make, compiled, dtype=dtype, **options) for make in makes
    )
    assert_close(fused_variables, stock_variables, dtype, scale)
    assert_close(variables_of(fused), variables_of(stock), dtype, scale)
    return stock, fused


def check_sparse_update(makes, compiled, sparse_update):
    """Compares "exact" with the dense gradients and "lazy" with the stock class, run eagerly."""
    stock, fused = makes
    optimizer, variables = run(fused, compiled, grads_of=sparse_grads, sparse_update=sparse_update)
    expected, expected_variables = (
        run(fused, eagerly, grads_of=as_dense)
        if sparse_update == "exact"
        else run(stock, eagerly, grads_of=sparse_grads)
    )
    assert_close(variables, expected_variables)
    assert_close(variables_of(optimizer), variables_of(expected))
