"""The op against the oracle: every dtype, eager, in a graph, and compiled."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import needs_xla
from oracle import DTYPES, ROLES, Oracle

from tf_adadelta import ops

SHAPES = [(4097,), (), (0,), (1,), (3,), (33, 1021), (0, 7), (2, 3, 5)]
SMALL = [(3,), (), (0,), (5, 2)]
LARGER_THAN_ONE_BLOCK = [(3, 100_003)]


def variables_of(oracle):
    return [[tf.Variable(value) for value in oracle.stored(role)] for role in ROLES]


def values(variables):
    return [[variable.numpy() for variable in role] for role in variables]


def run_against_oracle(compiled, dtype, shapes, steps=20):
    oracle = Oracle(shapes, dtype)
    variables = variables_of(oracle)

    @compiled
    def step(grads, learning_rate):
        ops.fused_adadelta_apply(*variables, grads, learning_rate=learning_rate)

    for number in range(steps):
        grads = oracle.new_grads()
        learning_rate = np.float32(0.5 / (1 + number))
        step([tf.constant(grad) for grad in grads], tf.constant(learning_rate))
        oracle.step(grads, learning_rate)
    oracle.check(*values(variables))


@pytest.mark.parametrize(
    "shapes", [SHAPES, SMALL, LARGER_THAN_ONE_BLOCK], ids=["mixed", "small", "large"]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_oracle(compiled, dtype, shapes):
    run_against_oracle(compiled, dtype, shapes)


@needs_xla
@pytest.mark.parametrize("dtype", DTYPES)
def test_hlo_matches_oracle(monkeypatch, dtype):
    """What XLA compiles for a platform other than the CPU, run on the CPU."""
    monkeypatch.setenv("TF_ADADELTA_XLA_HLO", "1")
    run_against_oracle(tf.function(jit_compile=True), dtype, SHAPES)


def test_many_small_variables_and_a_large_one(compiled):
    run_against_oracle(compiled, "float32", [(5,)] * 300 + [(200_000,)] + [(17,)] * 50, steps=3)


def test_single_variables_and_number_types():
    oracle = Oracle([(10,)], "float32")
    variables = variables_of(oracle)
    grads = oracle.new_grads()
    for learning_rate in (1, 0.5, np.float32(0.25), tf.constant(2.0), tf.Variable(0.125)):
        ops.fused_adadelta_apply(
            *(role[0] for role in variables), tf.constant(grads[0]), learning_rate=learning_rate
        )
        oracle.step(grads, float(learning_rate))
    oracle.check(*values(variables))


def test_hyperparameters(compiled):
    oracle = Oracle([(100,)], "float32")
    variables = variables_of(oracle)

    @compiled
    def step(grads, rho, epsilon):
        ops.fused_adadelta_apply(*variables, grads, learning_rate=1.0, rho=rho, epsilon=epsilon)

    for rho in (0.0, 0.5, 0.9, 0.999):
        for epsilon in (1e-8, 1e-4, 1e-1):
            grads = oracle.new_grads()
            step(grads, tf.constant(rho, tf.float64), tf.constant(epsilon, tf.float64))
            oracle.step(grads, 1.0, rho, epsilon)
    oracle.check(*values(variables))


def test_empty_list():
    assert ops.fused_adadelta_apply([], [], [], [], learning_rate=1.0) is None


def test_keras_variables():
    import keras

    variables = [keras.Variable(np.ones(3, np.float32)) for _ in range(3)]
    ops.fused_adadelta_apply(*variables, tf.ones(3), learning_rate=1.0)
    assert variables[0].numpy()[0] < 1


def test_earlier_reads_keep_their_values():
    """A tensor that was read from a variable must not change with it."""
    variables = [tf.Variable(tf.ones(5000)) for _ in range(3)]
    read = variables[0].read_value()
    alias = variables[1].value()
    ops.fused_adadelta_apply(*variables, tf.ones(5000), learning_rate=1.0)
    np.testing.assert_array_equal(read, np.ones(5000))
    np.testing.assert_array_equal(alias, np.ones(5000))
    assert np.all(variables[0].numpy() < 1)


def test_gradient_that_is_the_variable_itself(compiled):
    """The gradient of x²/2 is x, perhaps in the very buffer of x."""
    oracle = Oracle([(5000,)], "float32")
    variables = variables_of(oracle)

    @compiled
    def step():
        ops.fused_adadelta_apply(*variables, [variables[0][0].read_value()], learning_rate=1.0)

    for _ in range(5):
        step()
        oracle.step([oracle.stored("variables")[0]], 1.0)
    oracle.check(*values(variables))


def test_variable_that_had_a_sparse_update():
    """A sparse update leaves a variable in copy-on-read mode for good."""
    oracle = Oracle([(1000, 4)], "float32")
    variables = variables_of(oracle)
    variables[0][0].scatter_nd_add([[0]], tf.zeros((1, 4)))
    grads = oracle.new_grads()
    ops.fused_adadelta_apply(*variables, grads, learning_rate=1.0)
    oracle.step(grads, 1.0)
    oracle.check(*values(variables))


def test_same_bits_through_every_door(compiled):
    from tf_adadelta import kernels

    oracle = Oracle([(70_001,), (3,)], "float32")
    variables = variables_of(oracle)
    state = [oracle.stored(role) for role in ROLES]
    grads = oracle.new_grads()

    @compiled
    def step():
        ops.fused_adadelta_apply(*variables, grads, learning_rate=1.0)

    for _ in range(3):
        step()
        kernels.fused_adadelta_apply(*state, grads, learning_rate=1.0)
    for actual, expected in zip(values(variables), state):
        for a, b in zip(actual, expected):
            np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


def test_v1_graph_and_session():
    with tf.Graph().as_default():
        variables = [tf.compat.v1.get_variable(n, [5], use_resource=True) for n in "xau"]
        update = ops.fused_adadelta_apply(*variables, tf.ones(5), learning_rate=1.0)
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            for variable in variables[1:]:
                session.run(variable.assign(tf.ones(5)))
            before = session.run(variables[0])
            session.run(update)
            after = session.run(variables[0])
    expected = before - np.sqrt(1 + 1e-7) / np.sqrt(1 + 1e-7)
    np.testing.assert_allclose(after, expected, rtol=1e-5)
