"""Training under `tf.debugging.enable_check_numerics()`: no operation may give an infinity or NaN.

Not with `jit_compile=True`: XLA has no kernel for the checks, whatever the optimizer.
"""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_adadelta
from tf_adadelta import ops

EMA = {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 2}
OPTIONS = {
    "none": {},
    "clipnorm": {"clipnorm": 0.1},
    "global_clipnorm": {"global_clipnorm": 0.1},
    "clipvalue": {"clipvalue": 0.01},
    "weight_decay": {"weight_decay": 0.1},
    "ema": EMA,
    "accumulation": {"gradient_accumulation_steps": 3},
    "loss_scale_factor": {"loss_scale_factor": 8.0},
    "all": {
        "global_clipnorm": 0.1,
        "weight_decay": 0.1,
        "gradient_accumulation_steps": 3,
        "loss_scale_factor": 8.0,
        **EMA,
    },
}


@contextlib.contextmanager
def checks():
    tf.debugging.enable_check_numerics()
    try:
        yield
    finally:
        tf.debugging.disable_check_numerics()


@pytest.fixture
def checked():
    with checks():
        yield


def fit(optimizer, run_eagerly, sparse):
    """Returns the variables of a model and its optimizer after a few steps."""
    keras.utils.set_random_seed(0)
    first = keras.layers.Embedding(50, 4) if sparse else keras.layers.Dense(4)
    model = keras.Sequential([keras.Input((3,)), first, keras.layers.Flatten()])
    model.add(keras.layers.Dense(1, kernel_constraint="non_neg"))
    model.compile(optimizer, loss="mse", run_eagerly=run_eagerly, jit_compile=False)
    x = np.random.default_rng(0).integers(0, 20, size=(4, 3))
    model.fit(x, np.ones(4), epochs=7, batch_size=4, verbose=0)
    return [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]


def same_with_checks(make, run_eagerly, sparse=False):
    expected = fit(make(), run_eagerly, sparse)
    with checks():
        actual = fit(make(), run_eagerly, sparse)
    for one, other in zip(actual, expected):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_fit(options):
    same_with_checks(lambda: tf_adadelta.Adadelta(learning_rate=1.0, **options), run_eagerly=False)


@pytest.mark.parametrize(
    "run_eagerly, sparse", [(False, True), (True, False)], ids=["sparse", "eager"]
)
@pytest.mark.parametrize("options", ["clipnorm", "all"])
def test_fit_in_other_ways(options, run_eagerly, sparse):
    same_with_checks(
        lambda: tf_adadelta.Adadelta(learning_rate=1.0, **OPTIONS[options]), run_eagerly, sparse
    )


@pytest.mark.parametrize("run_eagerly", [False, True], ids=["graph", "eager"])
@pytest.mark.parametrize("options", [{}, {"clipnorm": 0.1}], ids=["none", "clipnorm"])
def test_fit_with_a_loss_scale(options, run_eagerly):
    same_with_checks(
        lambda: tf_adadelta.LossScaleOptimizer(
            tf_adadelta.Adadelta(learning_rate=1.0, **options), initial_scale=8.0
        ),
        run_eagerly,
    )


@pytest.mark.parametrize("run_eagerly", [False, True], ids=["graph", "eager"])
@pytest.mark.parametrize("options", [{}, {"global_clipnorm": 0.1}], ids=["none", "clipped"])
def test_step_without_a_gradient_to_speak_of(checked, options, run_eagerly):
    """Zeros have a norm of zero, by which nothing may be divided."""
    variable = keras.Variable(np.ones(3, np.float32))
    optimizer = tf_adadelta.Adadelta(learning_rate=1.0, **options)
    optimizer.build([variable])

    def step(grad):
        optimizer.apply([grad], [variable])

    (step if run_eagerly else tf.function(step))(tf.zeros(3))
    np.testing.assert_array_equal(variable.numpy(), np.ones(3))


@pytest.mark.parametrize("count", [3, 5000], ids=["HLO", "call"])  # Under XLA.
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_is_clipped_without_a_clipvalue(compiled, dtype, count):
    """What stands for no clipvalue leaves an infinite gradient infinite, as Keras does."""
    grad = np.full(count, np.inf, dtype)
    grad[1] = np.finfo(dtype).max
    variable, accum, accum_update = (tf.Variable(tf.zeros(count, dtype)) for _ in range(3))
    average = tf.Variable(tf.zeros(count, dtype))

    def step(grad):
        ops.fused_adadelta_apply(
            variable, accum, accum_update, grad, averages=average, learning_rate=1.0
        )

    compiled(step)(tf.constant(grad))
    expected = np.isnan(np.where(np.isinf(grad), np.nan, 0))
    np.testing.assert_array_equal(np.isnan(variable.numpy()), expected)  # inf / inf
    np.testing.assert_array_equal(np.isinf(accum.numpy()), True)
