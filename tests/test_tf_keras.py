"""tf_adadelta.tf_keras.Adadelta beside its stock class: same inputs, same everything."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
from classic import (
    FIT_OPTIONS,
    SHAPES,
    as_dense,
    assert_close,
    eagerly,
    make_grads,
    make_step,
    make_variables,
    run,
    run_both,
    sparse_grads,
)
from oracle import Oracle

tf_keras = pytest.importorskip("tf_keras")

from test_tf_keras_legacy import (  # noqa: E402
    _fresh_tf_keras,  # noqa: F401
    fit,
    make_model,
    without_registration,
)

from tf_adadelta import tf_keras as fused_api  # noqa: E402

STOCK = tf_keras.optimizers.Adadelta
FUSED = fused_api.Adadelta
OPTIMIZERS = (STOCK, FUSED)
DIRECTIONS = [(a, b) for a in OPTIMIZERS for b in OPTIMIZERS]
IDS = [f"{a.__module__.split('.')[0]}-to-{b.__module__.split('.')[0]}" for a, b in DIRECTIONS]
directions = pytest.mark.parametrize("writer, reader", DIRECTIONS, ids=IDS)


def test_is_a_drop_in():
    optimizer, stock = FUSED(), STOCK()
    assert isinstance(optimizer, STOCK)
    assert optimizer.get_config() == stock.get_config()
    variables = make_variables()
    for made in (optimizer, stock):
        made.build(variables)
    assert [v.name for v in optimizer.variables] == [v.name for v in stock.variables]


def test_same_arguments():
    arguments = {
        "learning_rate": 0.3,
        "rho": 0.9,
        "epsilon": 1e-6,
        "weight_decay": 0.01,
        "clipnorm": 1.0,
        "use_ema": True,
        "ema_momentum": 0.9,
        "ema_overwrite_frequency": 3,
        "name": "mine",
    }
    configs = [make(**arguments).get_config() for make in OPTIMIZERS]
    assert configs[0] == configs[1]
    positional = [make(0.3, 0.9, 1e-6, 0.01, 1.0).get_config() for make in OPTIMIZERS]
    assert positional[0] == positional[1]
    for error, bad in (
        (ValueError, {"clipnorm": 1.0, "global_clipnorm": 1.0}),
        (ValueError, {"use_ema": True, "ema_momentum": 2}),
        (ValueError, {"decay": 0.1}),
        (TypeError, {"nonsense": 1}),
    ):
        messages = []
        for make in OPTIMIZERS:
            with pytest.raises(error) as caught:
                make(**bad)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_matches_the_oracle(compiled, dtype):
    oracle = Oracle(SHAPES, dtype)
    variables = [tf.Variable(value) for value in oracle.stored("variables")]
    optimizer = FUSED(0.5)
    optimizer.build(variables)
    slots = [optimizer._accumulated_grads, optimizer._accumulated_delta_vars]
    for role, values in zip(("accums", "accum_updates"), slots):
        for slot, value in zip(values, oracle.stored(role)):
            slot.assign(value)
    step = make_step(compiled, optimizer, variables)
    for _ in range(20):
        grads = oracle.new_grads()
        step(*map(tf.constant, grads))
        oracle.step(grads, 0.5)
    oracle.check(*([value.numpy() for value in role] for role in (variables, *slots)))


@pytest.mark.parametrize("dtype, scale", [("float32", 1), ("float64", 1), ("bfloat16", 20)])
def test_matches_stock(compiled, dtype, scale):
    """In 16 bits, with a margin for the arithmetic of the stock class."""
    run_both(OPTIMIZERS, compiled, dtype=dtype, scale=scale)


OPTIONS = {
    "hyperparameters": {"rho": 0.9, "epsilon": 1e-4},
    "weight_decay": {"weight_decay": 0.01},
    "clipnorm": {"clipnorm": 0.5},
    "clipvalue": {"clipvalue": 0.3},
    "global_clipnorm": {"global_clipnorm": 1.5},
    "ema": {"use_ema": True, "ema_momentum": 0.9},
    "ema_overwrite": {"use_ema": True, "ema_overwrite_frequency": 3},
    "many": {
        "weight_decay": 0.01,
        "global_clipnorm": 1.5,
        "use_ema": True,
        "ema_overwrite_frequency": 2,
    },
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options(option):
    for compiled in (eagerly, tf.function):
        run_both(OPTIMIZERS, compiled, steps=7, **OPTIONS[option])


def test_exclude_from_weight_decay():
    results = []
    for make in OPTIMIZERS:
        variables = make_variables()
        optimizer = make(0.5, weight_decay=0.1)
        optimizer.exclude_from_weight_decay(var_names=["v1"])
        for number in range(3):
            optimizer.apply_gradients(zip(make_grads(seed=number), variables))
        results.append([*variables, *optimizer.variables])
    assert_close(results[1], results[0])


def test_schedule(compiled):
    schedule = tf_keras.optimizers.schedules.ExponentialDecay(0.5, 2, 0.7)
    run_both(OPTIMIZERS, compiled, steps=6, learning_rate=schedule)


def test_assignment_in_the_middle_of_training(compiled):
    def before(optimizer, number):
        if number == 2:
            optimizer.learning_rate = 0.1
        if number == 4:
            optimizer.lr = 2.0

    run_both(OPTIMIZERS, compiled, steps=6, before=before)


def test_constraint(compiled):
    results = []
    for make in OPTIMIZERS:
        variables = make_variables(constraint=tf_keras.constraints.NonNeg())
        optimizer = make(5.0)
        step = make_step(compiled, optimizer, variables)
        for number in range(3):
            step(*make_grads(seed=number))
        results.append([*variables, *optimizer.variables])
    assert_close(results[1], results[0])


def test_missing_gradients():
    def grads_of(dtype, seed):
        return [None if i == seed else g for i, g in enumerate(make_grads(dtype, seed=seed))]

    for compiled in (eagerly, tf.function):
        run_both(OPTIMIZERS, compiled, steps=4, grads_of=grads_of)


def test_return_value_and_name():
    variables = make_variables()
    for make in OPTIMIZERS:
        optimizer = make()
        assert optimizer.apply_gradients([]) is optimizer.iterations
        for number in (1, 2):
            result = optimizer.apply_gradients(zip(make_grads(), variables), name="step")
            assert int(result) == int(optimizer.iterations) == number


def test_one_call_for_each_dtype():
    variables = [*make_variables("float32"), *make_variables("float16")]
    grads = [*make_grads("float32"), *make_grads("float16")]
    optimizer = FUSED()
    optimizer.build(variables)
    step = make_step(tf.function, optimizer, variables)
    types = [op.type for op in step.get_concrete_function(*grads).graph.get_operations()]
    assert types.count("FusedAdadeltaApply") == 2
    assert not {"Sqrt", "Rsqrt", "Square"}.intersection(types)


def test_jit_compile_of_the_stock_update(not_strict):
    """Set where there is a GPU: what is served must not run into it, what is not must."""
    results = []
    for make in OPTIMIZERS:
        variables = make_variables()
        optimizer = make(0.5)
        optimizer.jit_compile = True
        grads = make_grads()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer.apply_gradients(zip([*grads, grads[1] * 2], [*variables, variables[1]]))
        results.append([*variables, *optimizer.variables])
    assert_close(results[1], results[0])
    compiled = super(FUSED, optimizer)._update_step_xla
    assert compiled.experimental_get_tracing_count() == 1  # For the one that is left.


def test_unknown_variable_is_an_error_with_nothing_written():
    optimizer, variables = run(FUSED, eagerly, steps=1)
    before = [variable.numpy() for variable in variables]
    stranger = tf.Variable(1.0, name="stranger")
    with pytest.raises(KeyError, match="cannot recognize variable stranger"):
        optimizer.apply_gradients(zip([*make_grads(), tf.constant(1.0)], [*variables, stranger]))
    for variable, value in zip(variables, before):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_bad_gradient_leaves_everything_untouched():
    optimizer, variables = run(FUSED, eagerly, steps=1)
    before = [value.numpy() for value in (*variables, *optimizer.variables)]
    grads = make_grads()
    grads[5] = tf.ones(4096)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"grads\[5\] has shape \[4096\]"):
        optimizer.apply_gradients(zip(grads, variables))
    for value, expected in zip((*variables, *optimizer.variables), before):
        np.testing.assert_array_equal(value.numpy(), expected)


def test_set_weights():
    optimizer, variables = run(FUSED, eagerly, steps=3)
    for make in OPTIMIZERS:
        other = make(0.5)
        other.build(variables)
        other.set_weights(optimizer.variables)
        assert_close(other.variables, optimizer.variables)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sparse(dtype):
    """The numbers of the dense update, duplicates summed first."""

    for compiled in (eagerly, tf.function):
        run_both(OPTIMIZERS, compiled, dtype=dtype, grads_of=sparse_grads)
    dense, _ = run(FUSED, eagerly, dtype=dtype, grads_of=as_dense)
    sparse, _ = run(FUSED, eagerly, dtype=dtype, grads_of=sparse_grads)
    assert_close(sparse.variables, dense.variables, dtype)


@FIT_OPTIONS
def test_fit(options):
    losses = [fit(make_model(make, **options)) for make in OPTIMIZERS]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_fit(policy):
    tf_keras.mixed_precision.set_global_policy(policy)
    try:
        losses = [fit(make_model(make)) for make in OPTIMIZERS]
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


def assert_same_training(one, other):
    for model in (one, other):
        fit(model)
    assert int(one.optimizer.iterations) == int(other.optimizer.iterations) == 16
    assert_close(
        [*one.weights, *one.optimizer.variables], [*other.weights, *other.optimizer.variables]
    )


@directions
def test_checkpoint(tmp_path, writer, reader):
    written = make_model(writer)
    fit(written)
    path = tf.train.Checkpoint(model=written, optimizer=written.optimizer).save(
        str(tmp_path / "checkpoint")
    )
    read = make_model(reader)
    read.optimizer.build(read.trainable_variables)
    status = tf.train.Checkpoint(model=read, optimizer=read.optimizer).restore(path)
    status.assert_consumed()
    assert_same_training(written, read)


@directions
@pytest.mark.parametrize("name", ["model.h5", "model.keras", "model"])
def test_whole_model(tmp_path, writer, reader, name):
    """A file names its optimizer; custom_objects put the other class in its place."""
    written = make_model(writer)
    fit(written)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # H5 is an old format.
        written.save(tmp_path / name)
    custom_objects = {"tf_adadelta>Adadelta": reader} if reader is STOCK else {}
    with without_registration(reader is STOCK):
        read = tf_keras.models.load_model(tmp_path / name, custom_objects=custom_objects)
    if (writer, reader) == OPTIMIZERS:
        # tf_keras gives its own class precedence over custom_objects.
        assert type(read.optimizer) is STOCK
        optimizer = FUSED.from_config(read.optimizer.get_config())
        optimizer.build(read.trainable_variables)
        optimizer.set_weights(read.optimizer.variables)
        read.compile(optimizer, loss="mse")
    assert type(read.optimizer) is reader
    assert read.optimizer.get_config() == written.optimizer.get_config()
    if name != "model":  # tf_keras does not restore the state of an optimizer from a SavedModel.
        assert_same_training(written, read)


def test_serialization():
    for legacy_format in (False, True):
        optimizer = FUSED(tf_keras.optimizers.schedules.CosineDecay(0.5, 100), rho=0.9)
        config = tf_keras.optimizers.serialize(optimizer, use_legacy_format=legacy_format)
        copied = tf_keras.optimizers.deserialize(config, use_legacy_format=legacy_format)
        assert type(copied) is FUSED
        assert copied.get_config() == optimizer.get_config()


def test_built_anew():
    """An optimizer that is built once more starts from zero, as the stock class does."""
    results = []
    for make in OPTIMIZERS:
        variables = make_variables()
        optimizer = make(0.5)
        for number in range(6):
            if number == 3:
                optimizer._built = False
                optimizer.build(variables)
            optimizer.apply_gradients(zip(make_grads(seed=number), variables))
        results.append([*variables, *optimizer._accumulated_grads])
    assert_close(*results[::-1])
