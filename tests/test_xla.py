"""What is particular to XLA: one custom call, in place, whenever the library was loaded."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import XLA
from subprocesses import check_program

import tf_adadelta
from tf_adadelta import ops

pytestmark = pytest.mark.skipif(not XLA, reason="jit_compile needs TensorFlow 2.20 or newer")


def optimized_hlo(step):
    return step.experimental_get_compiler_ir()(stage="optimized_hlo")


def test_one_custom_call_in_place():
    variables = [keras.Variable(np.ones((50, i + 1), np.float32)) for i in range(30)]
    optimizer = tf_adadelta.Adadelta(1.0)
    optimizer.build(variables)
    state = [v.value for v in (*variables, *optimizer.variables[2:])]

    @tf.function(jit_compile=True)
    def step():
        optimizer.apply([v * 0.5 for v in variables], variables)

    step()
    hlo = optimized_hlo(step)
    assert hlo.count('custom_call_target="tf_adadelta_fused_adadelta_apply"') == 1
    # Every variable comes back in the buffer it came in, and nothing of its size is copied.
    aliased = re.search(r"input_output_alias=\{ (.*?) \}, ", hlo).group(1)
    assert aliased.count("-alias") >= len(state)
    copies = re.findall(r"f32\[50,\d+\]\S* copy\(", hlo)
    assert not copies, copies


def test_hlo_has_no_custom_call(monkeypatch):
    monkeypatch.setenv("TF_ADADELTA_XLA_HLO", "1")
    variables = [tf.Variable(tf.ones(10)) for _ in range(3)]

    @tf.function(jit_compile=True)
    def step():
        ops.fused_adadelta_apply(*variables, tf.ones(10), learning_rate=1.0)

    step()
    assert "custom-call" not in optimized_hlo(step)


def test_column_major_gradient():
    """A matrix product may prefer to leave its result transposed: the call asks for row-major."""
    rng = np.random.default_rng(0)
    x, y = (tf.constant(rng.standard_normal((7, n)), tf.float32) for n in (33, 19))
    results = []
    for jit_compile in (False, True):
        state = [tf.Variable(tf.ones((33, 19))) for _ in range(3)]

        @tf.function(jit_compile=jit_compile)
        def step():
            grad = tf.transpose(tf.linalg.matmul(y, x, transpose_a=True))
            ops.fused_adadelta_apply(*state, grad, learning_rate=1.0)  # noqa: B023

        for _ in range(3):
            step()
        results.append([v.numpy() for v in state])
    for actual, expected in zip(*results):
        np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_inside_a_compiled_loop():
    expected, state = ([tf.Variable(tf.ones((9, 5))) for _ in range(3)] for _ in range(2))

    @tf.function(jit_compile=True)
    def steps(number):
        for _ in tf.range(number):
            ops.fused_adadelta_apply(*state, state[0] * 0.5, learning_rate=1.0)

    steps(8)
    for _ in range(8):
        ops.fused_adadelta_apply(*expected, expected[0] * 0.5, learning_rate=1.0)
    for actual, value in zip(state, expected):
        np.testing.assert_allclose(actual.numpy(), value.numpy(), rtol=1e-5)


def test_loaded_after_the_first_compilation():
    program = """
        import keras, numpy as np, tensorflow as tf
        x, y = np.random.rand(32, 8), np.random.rand(32, 1)
        def fit(optimizer):
            keras.utils.set_random_seed(0)
            model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
            model.compile(optimizer=optimizer, loss="mse", jit_compile=True)
            return model.fit(x, y, epochs=2, shuffle=False, verbose=0).history["loss"]
        expected = fit(keras.optimizers.Adadelta(1.0))
        import tf_adadelta
        np.testing.assert_allclose(fit(tf_adadelta.Adadelta(1.0)), expected, rtol=1e-5)
        """
    check_program(program)
