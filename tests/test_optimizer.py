"""tf_adadelta.Adadelta beside keras.optimizers.Adadelta: same inputs, same everything."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import needs_xla
from oracle import TOLERANCES, update

import tf_adadelta

OPTIMIZERS = (keras.optimizers.Adadelta, tf_adadelta.Adadelta)
SHAPES = [(17, 5), (5,), (), (4097,), (0,)]


def make_variables(dtype="float32", seed=0, shapes=SHAPES, **kwargs):
    rng = np.random.default_rng(seed)
    return [
        keras.Variable(rng.standard_normal(shape), dtype=dtype, name=f"v{i}", **kwargs)
        for i, shape in enumerate(shapes)
    ]


def make_grads(dtype="float32", seed=1, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return [tf.cast(rng.standard_normal(shape), dtype) for shape in shapes]


def assert_close(actual, expected, dtype="float32"):
    absolute, relative = TOLERANCES[dtype]
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected):
        np.testing.assert_allclose(
            np.asarray(a.numpy(), np.float64),
            np.asarray(e.numpy(), np.float64),
            atol=absolute,
            rtol=relative,
            err_msg=e.name,
        )


def run_both(compiled, steps=20, prepare=None, apply=None, dtype="float32", **options):
    """Takes both optimizers through the same steps and compares all that they changed."""
    results = []
    for make in OPTIMIZERS:
        keras.backend.clear_session()
        variables = make_variables(dtype)
        optimizer = make(**{"learning_rate": 0.5, **options})
        if prepare is not None:
            optimizer = prepare(optimizer, variables) or optimizer
        optimizer.build(variables)
        step = make_step(compiled, optimizer, variables, apply or default)
        for number in range(steps):
            step(*make_grads(dtype, seed=number))
        results.append((optimizer, variables))
    (stock, stock_variables), (fused, fused_variables) = results
    assert_close(fused_variables, stock_variables, dtype)
    assert_close(fused.variables, stock.variables, dtype)
    return stock, fused


def default(optimizer, grads, variables):
    optimizer.apply(list(grads), variables)


def make_step(compiled, optimizer, variables, apply=default):
    return compiled(lambda *grads: apply(optimizer, grads, variables))


def test_is_a_drop_in():
    optimizer = tf_adadelta.Adadelta()
    stock = keras.optimizers.Adadelta(name=optimizer.name)
    assert isinstance(optimizer, keras.optimizers.Adadelta)
    assert optimizer.get_config() == stock.get_config()
    for made in (optimizer, stock):
        made.build(make_variables())
    assert [v.path for v in optimizer.variables] == [v.path for v in stock.variables]
    assert [v.dtype for v in optimizer.variables] == [v.dtype for v in stock.variables]


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
        "loss_scale_factor": 8.0,
        "gradient_accumulation_steps": 2,
        "name": "mine",
    }
    configs = [make(**arguments).get_config() for make in OPTIMIZERS]
    assert configs[0] == configs[1]
    for bad in (
        {"clipnorm": 1.0, "clipvalue": 1.0},
        {"learning_rate": "high"},
        {"gradient_accumulation_steps": 1},
        {"nonsense": 1},
    ):
        messages = []
        for make in OPTIMIZERS:
            with pytest.raises(ValueError) as caught:
                make(**bad)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


def test_positional_arguments():
    positional = (0.3, 0.9, 1e-6, 0.01, 1.0)
    configs = [make(*positional, name="same").get_config() for make in OPTIMIZERS]
    assert configs[0] == configs[1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_plain_update(compiled, dtype):
    run_both(compiled, dtype=dtype)


@pytest.mark.parametrize("rho, epsilon", [(0.9, 1e-6), (0.0, 1e-2), (0.999, 1e-8)])
def test_hyperparameters(compiled, rho, epsilon):
    run_both(compiled, steps=5, rho=rho, epsilon=epsilon)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bit_is_closer_to_the_truth_than_keras(compiled, dtype):
    errors = []
    for make in OPTIMIZERS:
        variables = make_variables(dtype)
        optimizer = make(learning_rate=0.5)
        optimizer.build(variables)
        truth = [(np.asarray(v.numpy(), np.float64), 0.0, 0.0) for v in variables]
        step = make_step(compiled, optimizer, variables)
        for number in range(20):
            grads = make_grads(dtype, seed=number)
            step(*grads)
            truth = [
                update(*state, np.asarray(grad.numpy(), np.float64), 0.5)
                for state, grad in zip(truth, grads)
            ]
        states = zip(*truth)
        # After iteration and learning_rate come the accumulators, in pairs.
        actual = (variables, optimizer.variables[2::2], optimizer.variables[3::2])
        errors.append(
            [
                np.mean(
                    [
                        np.mean(np.abs(a.numpy().astype(np.float64) - t))
                        for a, t in zip(role, values)
                        if a.numpy().size
                    ]
                )
                for role, values in zip(actual, states)
            ]
        )
    for stock, fused in zip(*errors):
        assert fused <= 1.05 * stock


def test_many_options(compiled):
    """Each by itself, and every combination: test_options_matrix.py."""
    run_both(
        compiled,
        steps=7,
        weight_decay=0.01,
        global_clipnorm=1.5,
        use_ema=True,
        ema_overwrite_frequency=2,
        gradient_accumulation_steps=2,
        loss_scale_factor=4.0,
    )


def test_exclude_from_weight_decay(compiled):
    def prepare(optimizer, variables):
        optimizer.exclude_from_weight_decay(var_list=variables[:1], var_names=["v1"])

    run_both(compiled, steps=3, prepare=prepare, weight_decay=0.1)


def test_constraint(compiled):
    def prepare(optimizer, variables):
        variables[0].constraint = keras.constraints.NonNeg()

    run_both(compiled, steps=3, prepare=prepare)


def test_overwrite_with_gradient(compiled):
    def prepare(optimizer, variables):
        variables[1].overwrite_with_gradient = True

    run_both(compiled, steps=3, prepare=prepare)


def test_loss_scale_optimizer(compiled):
    def prepare(optimizer, variables):
        return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8.0)

    run_both(compiled, steps=4, prepare=prepare)


def test_missing_gradients(compiled):
    def apply(optimizer, grads, variables):
        optimizer.apply([None, *grads[1:3], None, grads[4]], variables)

    with pytest.warns(UserWarning, match="Gradients do not exist"):
        run_both(compiled, steps=3, apply=apply)


def test_gradients_of_another_dtype(compiled):
    def apply(optimizer, grads, variables):
        optimizer.apply([tf.cast(grad, tf.float64) for grad in grads], variables)

    run_both(compiled, steps=3, apply=apply)


def test_plain_tensorflow_variables(compiled):
    def prepare(optimizer, variables):
        variables[:] = [tf.Variable(variable.numpy()) for variable in variables]

    run_both(compiled, steps=3, prepare=prepare)


def test_built_while_tracing(compiled):
    """As in a custom training loop whose first call creates the slots."""
    results = []
    for make in OPTIMIZERS:
        keras.backend.clear_session()
        variables = make_variables()
        optimizer = make(0.5)
        step = make_step(compiled, optimizer, variables)
        for number in range(3):
            step(*make_grads(seed=number))
        results.append([*variables, *optimizer.variables])
    assert_close(results[1], results[0])


def test_apply_gradients_returns_the_iterations():
    variables = make_variables()
    optimizer = tf_adadelta.Adadelta()
    for number in (1, 2):
        result = optimizer.apply_gradients(zip(make_grads(), variables))
        assert int(result) == number == int(optimizer.iterations)


def test_changing_lists_of_variables():
    """Any subset of the variables, in any order, step by step."""
    results = []
    for make in OPTIMIZERS:
        variables = make_variables()
        optimizer = make(0.5)
        optimizer.build(variables)
        for number, order in enumerate([[0, 1, 2, 3, 4], [4, 3], [1], [2, 0, 1], [1], [0, 1, 2]]):
            grads = make_grads(seed=number)
            optimizer.apply([grads[i] for i in order], [variables[i] for i in order])
        results.append([*variables, *optimizer.variables])
    assert_close(results[1], results[0])


def test_one_call_for_each_dtype():
    variables = [*make_variables("float32"), *make_variables("float16")]
    grads = [*make_grads("float32"), *make_grads("float16")]
    optimizer = tf_adadelta.Adadelta()
    optimizer.build(variables)
    step = tf.function(lambda: optimizer.apply(grads, variables))
    names = [op.type for op in step.get_concrete_function().graph.get_operations()]
    assert names.count("FusedAdadeltaApply") == 2
    assert not any(name in names for name in ("Sqrt", "Rsqrt", "Square"))


def test_bad_gradient_leaves_everything_untouched():
    variables = make_variables()
    optimizer = tf_adadelta.Adadelta(1.0)
    optimizer.build(variables)
    before = [variable.numpy() for variable in (*variables, *optimizer.variables)]
    grads = make_grads()
    grads[3] = tf.ones(4096)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"grads\[3\] has shape \[4096\]"):
        optimizer.apply(grads, variables)
    for variable, value in zip((*variables, *optimizer.variables), before):
        np.testing.assert_array_equal(variable.numpy(), value)


class TestLearningRate:
    def test_assignment_does_not_retrace(self):
        results = []
        for make in OPTIMIZERS:
            variables = make_variables()
            optimizer = make(0.5)
            optimizer.build(variables)
            step = make_step(tf.function, optimizer, variables)
            for number, learning_rate in enumerate((0.5, 0.1, 2.0)):
                optimizer.learning_rate = learning_rate
                step(*make_grads(seed=number))
            assert step.experimental_get_tracing_count() == 1
            results.append([*variables, *optimizer.variables])
        assert_close(results[1], results[0])

    def test_schedule(self, compiled):
        schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 2, 0.7)
        run_both(compiled, steps=6, learning_rate=schedule)

    def test_callable(self, compiled):
        rate = tf.Variable(0.5)

        def apply(optimizer, grads, variables):
            optimizer.apply(list(grads), variables)
            rate.assign(rate * 0.9)

        for make in OPTIMIZERS:
            rate.assign(0.5)
            optimizer = make(learning_rate=lambda: rate)
            variables = make_variables()
            optimizer.build(variables)
            step = make_step(compiled, optimizer, variables, apply)
            for number in range(4):
                step(*make_grads(seed=number))
            if make is OPTIMIZERS[0]:
                expected = [v.numpy() for v in variables]
        for variable, value in zip(variables, expected):
            np.testing.assert_allclose(variable.numpy(), value, atol=1e-6, rtol=1e-5)

    def test_callback_in_fit(self):
        def halve(epoch, learning_rate):
            return learning_rate * 0.5

        histories = [
            fit(make, callbacks=[keras.callbacks.LearningRateScheduler(halve)])[1]
            for make in OPTIMIZERS
        ]
        np.testing.assert_allclose(*histories, rtol=1e-5)


def make_model(make, **compile_options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.Dense(33, activation="tanh"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3),
        ]
    )
    model.compile(optimizer=make(learning_rate=1.0), loss="mse", **compile_options)
    return model


def fit(make, epochs=3, callbacks=(), **compile_options):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((96, 12)).astype(np.float32)
    y = rng.standard_normal((96, 3)).astype(np.float32)
    model = make_model(make, **compile_options)
    history = model.fit(
        x, y, epochs=epochs, batch_size=8, shuffle=False, verbose=0, callbacks=list(callbacks)
    )
    return model, history.history["loss"]


FIT = {
    "default": {},
    "jit_compile=False": {"jit_compile": False},
    "run_eagerly": {"run_eagerly": True},
    "steps_per_execution": {"steps_per_execution": 8, "jit_compile": False},
}
FIT_XLA = {
    "jit_compile=True": {"jit_compile": True},
    "steps_per_execution, jit_compile": {"steps_per_execution": 8, "jit_compile": True},
}


@pytest.mark.parametrize(
    "options", [*FIT, *(pytest.param(name, marks=needs_xla) for name in FIT_XLA)]
)
def test_fit(options):
    (stock, stock_losses), (fused, fused_losses) = (
        fit(make, **{**FIT, **FIT_XLA}[options]) for make in OPTIMIZERS
    )
    np.testing.assert_allclose(fused_losses, stock_losses, rtol=1e-4)
    for actual, expected in zip(fused.weights, stock.weights):
        np.testing.assert_allclose(actual.numpy(), expected.numpy(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=needs_xla)])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_fit(policy, jit_compile):
    keras.config.set_dtype_policy(policy)
    try:
        losses = [fit(make, jit_compile=jit_compile)[1] for make in OPTIMIZERS]
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)
    assert losses[1][-1] < losses[1][0]
