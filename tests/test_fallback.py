"""What the fused op does not serve takes Keras's own update, and says so once."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from subprocesses import check_program
from test_optimizer import OPTIMIZERS, assert_close, make_grads, make_step, make_variables

import tf_adadelta
from tf_adadelta import _support, ops


def run_both(grads_of, steps=3):
    results = []
    for make in OPTIMIZERS:
        variables = make_variables()
        optimizer = make(0.5)
        optimizer.build(variables)
        for number in range(steps):
            optimizer.apply(grads_of(make_grads(seed=number)), variables)
        results.append([*variables, *optimizer.variables])
    assert_close(results[1], results[0])


def test_strict_is_an_error(monkeypatch):
    monkeypatch.setattr(_support, "_DEVICE_TYPES", ("TPU",))
    variables = make_variables()
    optimizer = tf_adadelta.Adadelta()
    optimizer.build(variables)
    before = [variable.numpy() for variable in (*variables, *optimizer.variables)]
    with pytest.raises(RuntimeError, match=r"'v0' .*of type CPU.*TF_ADADELTA_STRICT=1"):
        optimizer.apply(make_grads(), variables)
    for variable, value in zip((*variables, *optimizer.variables), before):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.parametrize(
    "module, name, value, reason",
    [
        (_support, "_DEVICE_TYPES", ("TPU",), r"'v0' \(and 4 more\) is on a device of type CPU"),
        (ops, "DTYPES", (tf.float64,), r"'v0' \(and 4 more\) has dtype float32"),
    ],
)
def test_what_has_no_kernel(not_strict, monkeypatch, module, name, value, reason):
    monkeypatch.setattr(module, name, value)
    with pytest.warns(UserWarning, match=reason) as caught:
        run_both(lambda grads: grads)
    assert len(caught) == 1


def test_one_dtype_served_and_one_not(not_strict, monkeypatch):
    """The served variables of a step go to the op, the others to Keras."""
    monkeypatch.setattr(ops, "DTYPES", (tf.float32,))
    variables = [*make_variables("float32"), *make_variables("float64")]
    grads = [*make_grads("float32"), *make_grads("float64")]
    optimizer = tf_adadelta.Adadelta(0.5)
    optimizer.build(variables)
    step = tf.function(lambda: optimizer.apply(grads, variables))
    with pytest.warns(UserWarning, match="has dtype float64"):
        operations = step.get_concrete_function().graph.get_operations()
    assert sum(operation.type == "FusedAdadeltaApply" for operation in operations) == 1
    step()
    stock_variables = [*make_variables("float32"), *make_variables("float64")]
    stock = keras.optimizers.Adadelta(0.5)
    stock.apply(grads, stock_variables)
    assert_close([*variables, *optimizer.variables], [*stock_variables, *stock.variables])


def test_variable_twice_in_one_step(not_strict):
    results = []
    for make in OPTIMIZERS:
        variables = make_variables()
        optimizer = make(0.5)
        optimizer.build(variables)
        grads = make_grads()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            optimizer.apply([*grads, grads[1] * 2], [*variables, variables[1]])
        results.append([*variables, *optimizer.variables])
    assert ["'v1' appears twice" in str(w.message) for w in caught] == [True]
    assert_close(results[1], results[0])


def test_mirrored_strategy(not_strict):
    """Keras's own update under a strategy: gradients of the replicas are summed first."""
    program = """
        import numpy as np, tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        import keras, tf_adadelta
        x, y = np.random.rand(64, 8).astype("f"), np.random.rand(64, 1).astype("f")
        losses = []
        for make in (keras.optimizers.Adadelta, tf_adadelta.Adadelta):
            keras.utils.set_random_seed(0)
            with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
                model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4),
                                          keras.layers.Dense(1)])
                model.compile(optimizer=make(1.0), loss="mse", jit_compile=False)
            history = model.fit(x, y, epochs=2, batch_size=16, shuffle=False, verbose=0)
            losses.append(history.history["loss"])
        np.testing.assert_allclose(*losses, rtol=1e-5)
        """
    result = check_program(program, TF_ADADELTA_STRICT="0")
    assert result.stderr.count("runs under the distribution strategy MirroredStrategy") == 1


@pytest.mark.skipif(tf_adadelta.build_info()["xla"], reason="TensorFlow 2.18 and 2.19 only")
def test_xla_before_2_20(not_strict):
    results = []
    for make in OPTIMIZERS:
        variables = make_variables()
        optimizer = make(0.5)
        optimizer.build(variables)
        grads = make_grads()
        step = make_step(tf.function(jit_compile=True), optimizer, variables)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                step(*grads)
        results.append([*variables, *optimizer.variables])
    assert sum("jit_compile=True needs TensorFlow 2.20" in str(w.message) for w in caught) == 1
    assert_close(results[1], results[0])
