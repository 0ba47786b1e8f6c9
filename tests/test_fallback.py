"""What the fused op does not serve takes Keras's own update, and says so once."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import XLA
from test_optimizer import OPTIMIZERS, assert_close, make_grads, make_step, make_variables

import tf_adadelta
from tf_adadelta import _support, ops

pytest.importorskip("tf_keras")
from tf_adadelta import tf_keras as fused


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
    for _ in range(2):
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


ROWS = tf.IndexedSlices(tf.ones([2, 3]), tf.constant([1, 1]), (4, 3))
DECAY = "rows without a gradient decay in both averages, where sparse_update='lazy' leaves them"
STAY = "rows without a gradient stay as they are, where sparse_update='exact' lets both averages"
SQUARED = "rows of equal indices, as several replicas may have, are squared one by one"


@pytest.mark.parametrize(
    "make, sparse_update, differences",
    [
        (tf_adadelta.Adadelta, "exact", [SQUARED]),
        (tf_adadelta.Adadelta, "lazy", [DECAY, SQUARED]),
        (fused.Adadelta, "exact", []),
        (fused.Adadelta, "lazy", [DECAY]),
        (fused.legacy.Adadelta, "exact", [STAY]),
        (fused.legacy.Adadelta, "lazy", []),
        (tf_adadelta.compat.v1.AdadeltaOptimizer, "exact", [STAY]),
        (tf_adadelta.compat.v1.AdadeltaOptimizer, "lazy", []),
    ],
)
def test_says_what_the_stock_update_makes_of_a_sparse_gradient(
    not_strict, monkeypatch, make, sparse_update, differences
):
    monkeypatch.setattr(_support, "_DEVICE_TYPES", ("TPU",))
    table = (keras.Variable if make is tf_adadelta.Adadelta else tf.Variable)(tf.ones([4, 3]))
    optimizer = make(0.5, sparse_update=sparse_update)
    with pytest.warns(UserWarning, match="is on a device of type CPU") as caught:
        optimizer.apply_gradients([(tf.ones([4, 3]), table)])
        optimizer.apply_gradients([(ROWS, table)])
        optimizer.apply_gradients([(ROWS, table)])
    dense, *sparse = [str(warning.message) for warning in caught]
    assert "which is correct but not fused" in dense
    assert len(sparse) == bool(differences)
    for message in sparse:
        assert "which is not fused" in message and "it gives other results: " in message
        assert [text for text in (DECAY, STAY, SQUARED) if text in message] == differences


@pytest.mark.skipif(XLA, reason="TensorFlow 2.18 and 2.19 only")
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
