"""tf_adadelta.tf_keras.legacy.Adadelta: every statement of the page of its stock class.

docs/tf_keras_legacy.md has the statements, and for each the test that shows it.
"""

import contextlib
import copy
import re
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from classic import (
    FIT_OPTIONS,
    SHAPES,
    assert_close,
    check_sparse_update,
    eagerly,
    make_grads,
    make_slices,
    make_step,
    make_variables,
    run,
    run_both,
    sparse_grads,
)
from oracle import Oracle, update
from subprocesses import check_program

tf_keras = pytest.importorskip("tf_keras")

from tf_keras.src.saving import object_registration  # noqa: E402

from tf_adadelta import tf_keras as fused_api  # noqa: E402

STOCK = tf_keras.optimizers.legacy.Adadelta
FUSED = fused_api.legacy.Adadelta
OPTIMIZERS = (STOCK, FUSED)
DIRECTIONS = [(a, b) for a in OPTIMIZERS for b in OPTIMIZERS]
IDS = [f"{a.__module__.split('.')[0]}-to-{b.__module__.split('.')[0]}" for a, b in DIRECTIONS]
directions = pytest.mark.parametrize("writer, reader", DIRECTIONS, ids=IDS)


@pytest.fixture(autouse=True)
def _fresh_tf_keras():
    tf_keras.utils.set_random_seed(0)
    yield
    tf_keras.backend.reset_uids()


def test_is_a_drop_in():
    optimizer = FUSED()
    assert isinstance(optimizer, STOCK)
    assert optimizer.get_config() == STOCK().get_config()
    for name in ("learning_rate", "decay", "rho"):
        assert float(getattr(optimizer, name)) == float(getattr(STOCK(), name))
    assert optimizer.epsilon == 1e-7


# The update.


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_matches_the_oracle(compiled, dtype):
    oracle = Oracle(SHAPES, dtype)
    variables = [tf.Variable(value) for value in oracle.stored("variables")]
    optimizer = FUSED(0.5)
    optimizer._create_all_weights(variables)
    slots = [
        [optimizer.get_slot(variable, name) for variable in variables]
        for name in ("accum_grad", "accum_var")
    ]
    for role, values in zip(("accums", "accum_updates"), slots):
        for slot, value in zip(values, oracle.stored(role)):
            slot.assign(value)
    step = make_step(compiled, optimizer, variables)
    for _ in range(20):
        grads = oracle.new_grads()
        step(*map(tf.constant, grads))
        # The hyperparameters are float32 variables, whatever the dtype of the others.
        oracle.step(grads, 0.5, rho=float(np.float32(0.95)))
    oracle.check(*([value.numpy() for value in role] for role in (variables, *slots)))


@pytest.mark.parametrize("sparse_update", ["lazy", "exact"])
def test_sparse_update(compiled, sparse_update):
    """Exact: the result of the dense gradient. Lazy: the same however it is run."""
    check_sparse_update(OPTIMIZERS, compiled, sparse_update)


def test_unknown_sparse_update():
    with pytest.raises(ValueError, match="sparse_update is 'fast', expected 'exact' or 'lazy'"):
        FUSED(sparse_update="fast")


@pytest.mark.parametrize(
    "dtype, scale", [("float16", 30), ("bfloat16", 10), ("float32", 1), ("float64", 1)]
)
def test_matches_stock(compiled, dtype, scale):
    """In 16 bits, with a margin for the arithmetic of the stock class."""
    run_both(OPTIMIZERS, compiled, dtype=dtype, scale=scale)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_are_closer_to_the_truth_than_stock(dtype):
    errors = []
    for make in OPTIMIZERS:
        _, variables = run(make, eagerly, dtype=dtype)
        truth = [
            (np.asarray(v.numpy(), np.float64), *np.zeros((2, *v.shape)))
            for v in make_variables(dtype)
        ]
        for number in range(20):
            truth = [
                update(*state, np.asarray(grad.numpy(), np.float64), 0.5)
                for state, grad in zip(truth, make_grads(dtype, seed=number))
            ]
        errors.append(
            np.concatenate(
                [
                    np.abs(np.float64(v.numpy()) - x).ravel()
                    for v, (x, _, _) in zip(variables, truth)
                ]
            ).mean()
        )
    assert errors[1] <= 1.05 * errors[0]


def test_one_call_for_all_variables():
    variables = [*make_variables("float32"), *make_variables("float16")]
    grads = [*make_grads("float32"), *make_grads("float16")]
    optimizer = FUSED()
    step = make_step(tf.function, optimizer, variables)
    types = [op.type for op in step.get_concrete_function(*grads).graph.get_operations()]
    assert types.count("FusedAdadeltaApply") == 2  # One for each dtype.
    assert "ResourceApplyAdadelta" not in types


def test_keeps_learning_where_adagrad_stops():
    """A moving window of gradients, instead of the sum of all."""
    moved = {}
    for name, optimizer in {
        "Adadelta": FUSED(1.0),
        "Adagrad": tf_keras.optimizers.legacy.Adagrad(1.0),
    }.items():
        variable = tf.Variable(0.0)
        positions = []
        for _ in range(600):
            optimizer.apply_gradients([(tf.constant(1.0), variable)])
            positions.append(variable.numpy())
        steps = -np.diff(positions)
        moved[name] = steps[-1] / steps[20]
    assert moved["Adagrad"] < 0.3
    assert moved["Adadelta"] > 1


def test_effective_step_tends_to_one():
    """Section 4.3: where the gradients are small, epsilon dominates both roots."""
    variable = tf.Variable(1.0)
    optimizer = FUSED(1.0, rho=0.9, epsilon=1e-6)
    for _ in range(50):
        optimizer.apply_gradients([(2 * variable, variable)])

    def effective_step():
        accum, accum_update = (
            float(optimizer.get_slot(variable, name)) for name in ("accum_grad", "accum_var")
        )
        return np.sqrt(accum_update + 1e-6) / np.sqrt(accum + 1e-6)

    assert effective_step() < 0.01
    for _ in range(300):
        optimizer.apply_gradients([(tf.constant(0.0), variable)])
    assert effective_step() == pytest.approx(1, abs=1e-3)


def test_construction_of_the_page(recwarn):
    """`def __init__(self, lr=1.0, rho=0.95, epsilon=1e-6, decay=0., **kwargs)`"""
    optimizer = FUSED(lr=1.0, rho=0.95, epsilon=1e-6, decay=0.0)
    assert optimizer.get_config() == STOCK(1.0, 0.95, 1e-6).get_config()
    run_both(OPTIMIZERS, eagerly, learning_rate=1.0, rho=0.95, epsilon=1e-6)


# The arguments of the constructor.


class TestLearningRate:
    def test_float(self):
        run_both(OPTIMIZERS, eagerly, steps=3, learning_rate=0.3)

    def test_tensor(self):
        run_both(OPTIMIZERS, eagerly, steps=3, learning_rate=tf.constant(0.3))

    def test_callable(self, compiled):
        rate = tf.Variable(0.5)

        def before(optimizer, number):
            rate.assign(0.5 * 0.9**number)

        run_both(OPTIMIZERS, compiled, steps=5, learning_rate=lambda: rate, before=before)

    def test_schedule(self, compiled):
        schedule = tf_keras.optimizers.schedules.ExponentialDecay(0.5, 2, 0.7)
        run_both(OPTIMIZERS, compiled, steps=6, learning_rate=schedule)

    def test_schedule_of_ones_own_sees_the_dtype_it_is_used_to(self):
        class Halving(tf_keras.optimizers.schedules.LearningRateSchedule):
            def __call__(self, step):
                return tf.constant(0.5) / (1 + step)  # Adds up in float32 only.

        run_both(OPTIMIZERS, eagerly, steps=4, learning_rate=Halving())

    def test_callback_in_fit(self):
        def halve(epoch, learning_rate):
            return learning_rate * 0.5

        losses = [
            fit(make_model(make), callbacks=[tf_keras.callbacks.LearningRateScheduler(halve)])
            for make in OPTIMIZERS
        ]
        np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("rho", [0.9, 0.0, tf.constant(0.8)], ids=["float", "zero", "tensor"])
def test_rho(rho):
    run_both(OPTIMIZERS, eagerly, steps=4, rho=rho)


@pytest.mark.parametrize("epsilon", [1e-3, tf.constant(1e-5)], ids=["float", "tensor"])
def test_epsilon(epsilon):
    run_both(OPTIMIZERS, eagerly, steps=4, epsilon=epsilon)


def test_epsilon_of_zero():
    assert FUSED(epsilon=0).epsilon == tf_keras.backend.epsilon()
    run_both(OPTIMIZERS, eagerly, steps=3, epsilon=0)


@pytest.mark.parametrize("name", [None, "mine"])
def test_name(name):
    options = {} if name is None else {"name": name}
    names = []
    for make in OPTIMIZERS:
        tf_keras.backend.clear_session()
        optimizer, _ = run(make, eagerly, steps=1, **options)
        names.append([variable.name for variable in optimizer.weights])
    assert names[0] == names[1]
    assert names[1][0] == f"{name or 'Adadelta'}/iter:0"


def test_malformed_name():
    """An empty name is replaced; one that no operation can have is an error in a graph."""
    assert FUSED(name="").get_config()["name"].startswith("adadelta")
    for make in OPTIMIZERS:
        with pytest.raises(ValueError, match="is not a valid root scope name"):
            run(make, tf.function, steps=1, name="!?")


CLIPPING = {
    "clipnorm": {"clipnorm": 0.5},
    "clipvalue": {"clipvalue": 0.3},
    "global_clipnorm": {"global_clipnorm": 1.5},
    "clipvalue and clipnorm": {"clipnorm": 0.5, "clipvalue": 0.1},
}


@pytest.mark.parametrize("option", CLIPPING)
def test_clipping(option):
    for compiled in (eagerly, tf.function):
        run_both(OPTIMIZERS, compiled, steps=4, **CLIPPING[option])


def test_clipnorm_and_clipvalue_do_what_they_say():
    for options, expected in ({"clipnorm": 1.0}, [0.6, 0.8]), ({"clipvalue": 1.0}, [1.0, 1.0]):
        variable = tf.Variable([0.0, 0.0])
        optimizer = FUSED(1.0, rho=0.0, **options)
        optimizer.apply_gradients([(tf.constant([3.0, 4.0]), variable)])
        squared = optimizer.get_slot(variable, "accum_grad").numpy()
        np.testing.assert_allclose(np.sqrt(squared), expected, rtol=1e-6)


def test_lr_is_learning_rate():
    with pytest.warns(UserWarning, match="`lr` argument is deprecated"):
        optimizer = FUSED(lr=0.25)
    assert float(optimizer.lr) == float(optimizer.learning_rate) == 0.25
    optimizer.lr = 0.5
    assert float(optimizer.learning_rate) == 0.5


def test_time_inverse_decay():
    run_both(OPTIMIZERS, tf.function, steps=6, decay=0.5)
    stock, fused = run_both(OPTIMIZERS, eagerly, steps=6, decay=0.5)
    assert float(fused._decayed_lr(tf.float32)) == pytest.approx(0.5 / (1 + 0.5 * 6))
    assert fused.get_config() == stock.get_config()
    assert fused.get_config()["decay"] == 0.5


@pytest.mark.parametrize(
    "error, options, message",
    [
        (TypeError, {"momentum": 0.9}, "Unexpected keyword argument .* momentum"),
        (ValueError, {"clipnorm": -1.0}, "Expected clipnorm >= 0"),
        (ValueError, {"clipvalue": -1.0}, "Expected clipvalue >= 0"),
        (ValueError, {"decay": -0.1}, "Expected decay >= 0"),
        (ValueError, {"lr": -0.1}, "Expected lr >= 0"),
        (ValueError, {"clipnorm": 1.0, "global_clipnorm": 1.0}, "Cannot accept both"),
    ],
)
def test_bad_arguments(error, options, message):
    for make in OPTIMIZERS:
        with pytest.raises(error, match=message):
            make(**options)


def test_assignment_in_the_middle_of_training(compiled):
    """To the hyperparameters that are variables, without retracing."""

    def before(optimizer, number):
        if number == 2:
            optimizer.learning_rate = 0.1
            optimizer.rho = 0.5
        if number == 4:
            optimizer.lr = 2.0

    run_both(OPTIMIZERS, compiled, steps=6, before=before)


def test_assignment_of_a_schedule_and_of_epsilon():
    def before(optimizer, number):
        if number == 2:
            optimizer.learning_rate = tf_keras.optimizers.schedules.ExponentialDecay(0.9, 2, 0.5)
            optimizer.epsilon = 1e-3

    run_both(OPTIMIZERS, eagerly, steps=5, before=before)


# The attributes.


def test_iterations():
    optimizer, variables = run(FUSED, eagerly, steps=3)
    assert isinstance(optimizer.iterations, tf.Variable)
    assert optimizer.iterations.dtype == tf.int64
    assert int(optimizer.iterations) == 3
    with pytest.raises(RuntimeError, match="Cannot set `iterations`"):
        optimizer.iterations = tf.Variable(0, dtype=tf.int64)
    shared = tf.Variable(7, dtype=tf.int64)
    other = FUSED()
    other.iterations = shared
    other.apply_gradients(zip(make_grads(), variables))
    assert int(shared) == 8


def test_weights_in_the_order_of_creation():
    stock, fused = run_both(OPTIMIZERS, eagerly, steps=1)
    assert fused.weights[0] is fused.iterations
    assert fused.weights == fused.variables()
    assert [w.shape for w in fused.weights] == [w.shape for w in stock.weights]
    slots = [
        fused.get_slot(variable, name)
        for name in ("accum_grad", "accum_var")
        for variable in run_variables(fused)
    ]
    assert [w is s for w, s in zip(fused.weights[1:], slots)] == [True] * 2 * len(SHAPES)


def run_variables(optimizer):
    """The variables whose slots an optimizer has, in their order."""
    ((_, plan),) = optimizer._dispatcher.planner._plans.values()
    return plan.variables


# The methods.


def test_add_slot():
    variable = tf.Variable([1.0, 2.0], name="v")
    for optimizer in (make() for make in OPTIMIZERS):
        zeros = optimizer.add_slot(variable, "zeros")
        ones = optimizer.add_slot(variable, "ones", initializer="ones")
        given = optimizer.add_slot(variable, "given", initializer=tf.constant([3.0, 4.0]))
        shaped = optimizer.add_slot(variable, "shaped", initializer="ones", shape=(3, 1))
        assert [slot.numpy().tolist() for slot in (zeros, ones, given, shaped)] == [
            [0, 0],
            [1, 1],
            [3, 4],
            [[1], [1], [1]],
        ]
        assert optimizer.add_slot(variable, "ones") is ones
        assert optimizer.get_slot_names() == ["zeros", "ones", "given", "shaped"]
        assert shaped.name == "v/shaped:0"
        optimizer.apply_gradients([(tf.constant([1.0, 1.0]), variable)])
        assert len(optimizer.weights) == 4 + 1 + 2


def test_add_slot_that_the_update_uses():
    """Slots with initial values of one's own are those that the fused op updates."""
    results = []
    for make in OPTIMIZERS:
        variable = tf.Variable([1.0, 2.0, 3.0])
        optimizer = make(1.0)
        optimizer.add_slot(variable, "accum_grad", initializer="ones")
        optimizer.add_slot(variable, "accum_var", initializer=tf.constant([0.1, 0.2, 0.3]))
        optimizer.apply_gradients([(tf.constant([1.0, -1.0, 0.5]), variable)])
        results.append([variable, *optimizer.weights])
    assert_close(results[1], results[0])


def test_add_weight():
    for optimizer in (make() for make in OPTIMIZERS):
        weight = optimizer.add_weight("extra", shape=(2, 3), initializer="ones", trainable=False)
        assert weight.shape == (2, 3) and weight.dtype == tf.float32
        assert weight.name == "extra:0" and not weight.trainable
        with pytest.raises(ValueError, match="ON_READ"):
            optimizer.add_weight(
                "bad",
                shape=(),
                trainable=True,
                synchronization=tf.VariableSynchronization.ON_READ,
            )


def test_apply_gradients_increases_the_iterations_by_one():
    variables = make_variables()
    optimizer = FUSED()
    for number in (1, 2):
        result = optimizer.apply_gradients(zip(make_grads(), variables))
        assert int(result) == int(optimizer.iterations) == number


@pytest.mark.parametrize("name", [None, "step"])
def test_apply_gradients_returns_an_operation_of_that_name(name):
    names = []
    for make in OPTIMIZERS:
        with tf.Graph().as_default():
            variables = make_variables()
            operation = make().apply_gradients(zip(make_grads(), variables), name=name)
            assert isinstance(operation, tf.Operation)
            names.append(operation.name)
    assert names[0] == names[1]
    assert (name or "Adadelta") in names[1]


def test_apply_gradients_malformed():
    for make in OPTIMIZERS:
        for malformed in ([1, 2], 5, [None]):
            with pytest.raises(TypeError):
                make().apply_gradients(malformed)


def test_apply_gradients_without_gradients():
    variables = make_variables()
    for make in OPTIMIZERS:
        with pytest.raises(ValueError, match="No gradients provided for any variable"):
            make().apply_gradients([(None, variable) for variable in variables])


def test_some_gradients_missing(compiled):
    def grads_of(dtype, seed):
        missing = {0: (), 1: (0, 3), 2: (5,), 3: ()}[seed]  # A tf.function makes the slots once.
        return [None if i in missing else g for i, g in enumerate(make_grads(dtype, seed=seed))]

    run_both(OPTIMIZERS, compiled, steps=4, grads_of=grads_of)


def test_bad_gradient_leaves_everything_untouched():
    optimizer, variables = run(FUSED, eagerly, steps=1)
    before = [value.numpy() for value in (*variables, *optimizer.weights)]
    grads = make_grads()
    grads[5] = tf.ones(4096)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"grads\[5\] has shape \[4096\]"):
        optimizer.apply_gradients(zip(grads, variables))
    for value, expected in zip((*variables, *optimizer.weights), before):
        np.testing.assert_array_equal(value.numpy(), expected)


def test_the_example_of_apply_gradients():
    """Gradients that one has summed over the replicas oneself."""
    results = []
    for make in OPTIMIZERS:
        variables = make_variables()
        optimizer = make(1.0)
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_sum(variable**2) for variable in variables])
        grads = tape.gradient(loss, variables)
        grads = tf.distribute.get_replica_context().all_reduce("sum", grads)
        optimizer.apply_gradients(zip(grads, variables), experimental_aggregate_gradients=False)
        results.append([*variables, *optimizer.weights])
    assert_close(results[1], results[0])


def test_aggregation_under_a_strategy():
    """Sums over two replicas by default, and not where it is told so, by the fused update.

    For all three of the classic optimizers, since a process takes its time to start.
    """
    program = """
        import warnings
        import numpy as np, tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        import tf_keras
        from tf_adadelta import tf_keras as fused_api
        from tf_adadelta.compat import v1
        warnings.simplefilter("always", UserWarning)

        def train(make, **options):
            strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
            with strategy.scope():
                variable = tf.Variable([1.0, 2.0])
                optimizer = make(1.0)
            @tf.function
            def step():
                def replica():
                    rank = tf.distribute.get_replica_context().replica_id_in_sync_group
                    grad = tf.ones(2) * tf.cast(rank + 1, tf.float32)
                    optimizer.apply_gradients([(grad, variable)], **options)
                strategy.run(replica)
            for _ in range(2):
                step()
            if hasattr(optimizer, "get_slot"):
                accum = optimizer.get_slot(variable, optimizer.get_slot_names()[0])
            else:
                accum = optimizer._accumulated_grads[0]
            return [variable.values[0], accum.values[0], accum.values[1]]

        decayed = 0.05 * (1 + 0.95)
        legacy = tf_keras.optimizers.legacy.Adadelta, fused_api.legacy.Adadelta
        new = tf_keras.optimizers.Adadelta, fused_api.Adadelta
        for (stock, fused), options, squares in (
            (legacy, {}, (9, 9)),
            (legacy, {"experimental_aggregate_gradients": False}, (1, 4)),
            (new, {}, (9, 9)),
            (new, {"experimental_aggregate_gradients": False}, (1, 4)),
            ((tf.compat.v1.train.AdadeltaOptimizer, v1.AdadeltaOptimizer), {}, (9, 9)),
        ):
            expected, actual = train(stock, **options), train(fused, **options)
            for a, e in zip(actual, expected):
                np.testing.assert_allclose(a.numpy(), e.numpy(), rtol=1e-6)
            for accum, square in zip(actual[1:], squares):
                np.testing.assert_allclose(accum.numpy(), square * decayed, rtol=1e-5)
        """
    check_program(program, TF_ADADELTA_STRICT="1")


def test_from_config_and_get_config():
    optimizer = FUSED(0.3, rho=0.9, epsilon=1e-6, name="mine", clipnorm=1.0, decay=0.1)
    config = optimizer.get_config()
    assert config == STOCK.from_config(dict(config)).get_config()
    copied = FUSED.from_config(dict(config))
    assert type(copied) is FUSED and copied.get_config() == config
    assert FUSED.from_config({"lr": 0.7}).get_config()["learning_rate"] == 0.7


def test_from_config_with_custom_objects():
    class Halving(tf_keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.5 / (1 + tf.cast(step, tf.float32))

        def get_config(self):
            return {}

    config = FUSED(Halving()).get_config()
    copied = FUSED.from_config(config, custom_objects={"Halving": Halving})
    assert isinstance(copied.learning_rate, Halving)


def test_serialization():
    for legacy_format in (False, True):
        optimizer = FUSED(0.3, rho=0.9)
        config = tf_keras.optimizers.serialize(optimizer, use_legacy_format=legacy_format)
        copied = tf_keras.optimizers.deserialize(config, use_legacy_format=legacy_format)
        assert type(copied) is FUSED
        assert copied.get_config() == optimizer.get_config()
    assert type(tf_keras.optimizers.get(FUSED())) is FUSED


def test_get_gradients():
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variable, other = tf.Variable([1.0, 2.0]), tf.Variable(3.0)
        loss = tf.reduce_sum(variable**2)
        (grad,) = FUSED().get_gradients(loss, [variable])
        session.run(tf.compat.v1.global_variables_initializer())
        assert session.run(grad).tolist() == [2.0, 4.0]
        with pytest.raises(ValueError, match="has `None` for gradient"):
            FUSED().get_gradients(loss, [variable, other])


def test_get_slot_and_its_names():
    optimizer, variables = run(FUSED, eagerly, steps=1)
    assert optimizer.get_slot_names() == ["accum_grad", "accum_var"]
    for variable, grad in zip(variables, make_grads(seed=0)):
        accum = optimizer.get_slot(variable, "accum_grad")
        assert accum.shape == variable.shape and accum.dtype == variable.dtype
        np.testing.assert_allclose(accum.numpy(), 0.05 * grad.numpy() ** 2, rtol=1e-5, atol=1e-12)
    with pytest.raises(KeyError):
        optimizer.get_slot(variables[0], "momentum")


def test_get_updates_in_a_session():
    """The v1 graph mode: the operations of one step, run a few times."""
    results = []
    for make in OPTIMIZERS:
        with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
            variables = make_variables()
            constrained = tf.Variable([0.1, -0.1], constraint=tf_keras.constraints.NonNeg())
            variables.append(constrained)
            loss = tf.add_n([tf.reduce_sum(tf.sin(variable)) for variable in variables])
            optimizer = make(0.5, decay=0.1)
            updates = optimizer.get_updates(loss, variables)
            assert len(updates) == 1
            types = [op.type for op in graph.get_operations()]
            assert types.count("FusedAdadeltaApply") == (1 if make is FUSED else 0)
            session.run(tf.compat.v1.global_variables_initializer())
            for _ in range(5):
                session.run(updates)
            results.append(session.run([*variables, *optimizer.weights]))
    assert results[1][len(SHAPES) + 1] == 5  # The iterations.
    assert_close(results[1], results[0])


def test_get_weights_and_set_weights():
    optimizer, variables = run(FUSED, eagerly, steps=3)
    weights = optimizer.get_weights()
    assert all(isinstance(weight, (np.ndarray, np.generic)) for weight in weights)
    assert int(weights[0]) == 3
    for make in OPTIMIZERS:
        other = make(0.5)
        other._create_all_weights(variables)
        other.set_weights(weights)
        for actual, expected in zip(other.get_weights(), weights):
            np.testing.assert_array_equal(actual, expected)
        # As the optimizers of Keras 1 had them: without the iteration.
        other.set_weights(weights[1:])
        assert int(other.iterations) == 0
        with pytest.raises(ValueError, match="expecting"):
            other.set_weights(weights[2:])
        with pytest.raises(ValueError, match="not compatible"):
            other.set_weights([weights[0], *weights[:0:-1]])


def test_training_goes_on_from_set_weights():
    optimizer, variables = run(FUSED, eagerly, steps=3)
    copies = [tf.Variable(variable) for variable in variables]
    other = STOCK(0.5)
    other._create_all_weights(copies)
    other.set_weights(optimizer.get_weights())
    for made, trained in ((optimizer, variables), (other, copies)):
        for number in range(3):
            made.apply_gradients(zip(make_grads(seed=100 + number), trained))
    assert_close([*variables, *optimizer.weights], [*copies, *other.weights])


def test_the_example_of_get_weights():
    """The example of the page, with Adadelta: the iteration, and two averages of two variables."""
    results = []
    for make in OPTIMIZERS:
        tf_keras.utils.set_random_seed(0)
        opt = make()
        m = tf_keras.models.Sequential([tf_keras.layers.Dense(10)])
        m.compile(opt, loss="mse")
        data = np.arange(100).reshape(5, 20)
        labels = np.zeros(5)
        m.fit(data, labels, verbose=0)
        assert len(opt.get_weights()) == 1 + 2 * 2
        new_weights = [
            np.array(10),
            np.ones([20, 10]),
            np.zeros([10]),
            np.ones([20, 10]),
            np.ones([10]),
        ]
        opt.set_weights(new_weights)
        assert int(opt.iterations) == 10
        m.fit(data, labels, verbose=0)
        assert int(opt.iterations) == 11
        results.append([*m.weights, *opt.weights])
    assert_close(results[1], results[0])


class TestMinimize:
    def test_list_of_variables(self, compiled):
        results = []
        for make in OPTIMIZERS:
            one, two = tf.Variable(2.0), tf.Variable(5.0)
            optimizer = make(1.0)

            @compiled
            def step():
                optimizer.minimize(  # noqa: B023
                    lambda: 3 * one * one + 2 * two * two,  # noqa: B023
                    var_list=[one, two],  # noqa: B023
                )

            for _ in range(3):
                step()
            results.append([one, two, *optimizer.weights])
        assert_close(results[1], results[0])
        assert int(results[1][2]) == 3

    def test_callable_list_of_variables(self):
        """The variables come into being when the loss is first called."""
        results = []
        for make in OPTIMIZERS:
            tf_keras.utils.set_random_seed(0)
            model = tf_keras.Sequential([tf_keras.layers.Dense(3), tf_keras.layers.Dense(1)])
            x = tf.constant(np.random.default_rng(0).standard_normal((8, 5)), tf.float32)
            optimizer = make(1.0)
            for _ in range(3):
                optimizer.minimize(
                    lambda: tf.reduce_mean(model(x) ** 2),  # noqa: B023
                    var_list=lambda: model.trainable_weights,  # noqa: B023
                )
            results.append([*model.weights, *optimizer.weights])
        assert_close(results[1], results[0])

    def test_grad_loss(self):
        for make in OPTIMIZERS:
            variable = tf.Variable([1.0, 2.0])
            optimizer = make(rho=0.0)
            optimizer.minimize(
                lambda: 3 * variable,  # noqa: B023
                var_list=[variable],
                grad_loss=tf.constant([1.0, 10.0]),
            )
            accum = optimizer.get_slot(variable, "accum_grad")
            np.testing.assert_allclose(accum.numpy(), [9.0, 900.0])

    def test_name(self):
        names = []
        for make in OPTIMIZERS:
            with tf.Graph().as_default():
                variable = tf.Variable([1.0, 2.0])
                operation = make().minimize(
                    lambda: tf.reduce_sum(variable**2),  # noqa: B023
                    var_list=[variable],
                    name="step",
                )
                names.append(operation.name)
        assert names[0] == names[1] and "step" in names[1]

    def test_tape(self):
        variable = tf.Variable([1.0, 2.0])
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(variable**2)
        with pytest.raises(ValueError, match="`tape` is required"):
            FUSED().minimize(loss, [variable])
        FUSED(1.0).minimize(loss, [variable], tape=tape)
        assert variable.numpy()[0] < 1


def test_constraint(compiled):
    results = []
    for make in OPTIMIZERS:
        variables = make_variables(constraint=tf_keras.constraints.NonNeg())
        optimizer = make(5.0)
        step = make_step(compiled, optimizer, variables)
        for number in range(3):
            step(*make_grads(seed=number))
        results.append([*variables, *optimizer.weights])
    assert_close(results[1], results[0])
    assert min(tf.reduce_min(v).numpy() for v in results[1][: len(SHAPES)] if v.shape != (0,)) == 0


def test_constraint_on_a_sparse_variable(not_strict):
    variables = make_variables(constraint=tf_keras.constraints.NonNeg())
    before = [variable.numpy() for variable in variables]
    grads = make_grads()
    grads[0] = make_slices()
    # The sparse one comes last: nothing has been written when it is found.
    with pytest.raises(RuntimeError, match="Cannot use a constraint function on a sparse"):
        FUSED(1.0).apply_gradients(list(zip(grads, variables))[::-1])
    for variable, value in zip(variables, before):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_gradient_transformers():
    """Arguments of the base class."""

    def double(grads_and_vars):
        return [(2 * grad, variable) for grad, variable in grads_and_vars]

    run_both(OPTIMIZERS, eagerly, steps=3, gradient_transformers=[double])
    run_both(OPTIMIZERS, eagerly, steps=3, gradient_aggregator=double)


def test_deepcopy():
    """A copy has slots of its own, and leaves those of the original alone."""
    results = []
    for make in OPTIMIZERS:
        optimizer, variables = run(make, eagerly, steps=2)
        copied = copy.deepcopy(optimizer)
        before = optimizer.get_weights()
        copied.apply_gradients(zip(make_grads(seed=9), variables))
        for actual, expected in zip(optimizer.get_weights(), before):
            np.testing.assert_array_equal(actual, expected)
        results.append([*variables, *copied.weights])
    assert_close(results[1], results[0])


# Sparse gradients.


@pytest.mark.parametrize(
    "dtype, scale", [("float16", 30), ("bfloat16", 10), ("float32", 1), ("float64", 1)]
)
def test_sparse_matches_stock(dtype, scale):
    for compiled in (eagerly, tf.function):
        run_both(OPTIMIZERS, compiled, dtype=dtype, scale=scale, grads_of=sparse_grads)


def test_sparse_now_and_then():
    def grads_of(dtype, seed):
        return (sparse_grads if seed % 2 else make_grads)(dtype, seed=seed)

    run_both(OPTIMIZERS, eagerly, steps=6, grads_of=grads_of)


def test_sparse_is_lazy_and_sums_duplicates():
    """Only the rows that occur are touched; rows that occur twice are added up first."""
    rng = np.random.default_rng(0)
    x, a, u = rng.standard_normal((17, 5)), np.zeros((17, 5)), np.zeros((17, 5))
    variable = tf.Variable(x, dtype=tf.float64)
    optimizer = FUSED(tf.constant(0.5, tf.float64), rho=tf.constant(0.95, tf.float64))
    for number in range(20):
        grad = make_slices("float64", seed=number)
        optimizer.apply_gradients([(grad, variable)])
        dense = tf.convert_to_tensor(grad).numpy()
        rows = np.unique(grad.indices.numpy())
        assert len(rows) < len(grad.indices)
        x[rows], a[rows], u[rows] = update(x[rows], a[rows], u[rows], dense[rows], 0.5)
    slots = [optimizer.get_slot(variable, name) for name in ("accum_grad", "accum_var")]
    assert not np.any(a[17 // 2 :])
    assert_close([variable, *slots], [x, a, u], "float64", scale=10)


def test_embedding_model_in_fit():
    losses = []
    for make in OPTIMIZERS:
        tf_keras.utils.set_random_seed(0)
        model = tf_keras.Sequential(
            [
                tf_keras.layers.Embedding(50, 8, input_length=4),
                tf_keras.layers.Flatten(),
                tf_keras.layers.Dense(1),
            ]
        )
        model.compile(make(1.0), loss="mse")
        rng = np.random.default_rng(0)
        x, y = rng.integers(0, 50, (64, 4)), rng.standard_normal((64, 1))
        history = model.fit(x, y, epochs=2, batch_size=16, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_a_variable_twice_in_one_step(not_strict):
    results = []
    for make in OPTIMIZERS:
        variables = make_variables()
        optimizer = make(0.5)
        grads = make_grads()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            optimizer.apply_gradients(zip([*grads, grads[1] * 2], [*variables, variables[1]]))
        results.append([*variables, *optimizer.weights])
    assert ["'v1' appears twice" in str(w.message) for w in caught] == [True]
    assert_close(results[1], results[0])


# Models, files and checkpoints.


def make_model(make, **options):
    tf_keras.utils.set_random_seed(0)
    model = tf_keras.Sequential(
        [
            tf_keras.layers.Dense(33, activation="tanh", input_shape=(12,)),
            tf_keras.layers.Dense(3),
        ]
    )
    model.compile(make(1.0), loss="mse", **options)
    return model


def fit(model, epochs=2, callbacks=()):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 12)).astype(np.float32)
    y = rng.standard_normal((64, 3)).astype(np.float32)
    return model.fit(
        x, y, epochs=epochs, batch_size=16, shuffle=False, verbose=0, callbacks=list(callbacks)
    ).history["loss"]


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
    assert_close(state_of(one), state_of(other))


def state_of(model):
    """The weights of a model and the slots of its optimizer, in an order of our own.

    The slots that a checkpoint creates come before the iteration in `optimizer.weights`.
    """
    slots = [
        model.optimizer.get_slot(variable, name)
        for variable in model.trainable_weights
        for name in ("accum_grad", "accum_var")
    ]
    return [*model.weights, *slots]


@directions
def test_checkpoint(tmp_path, writer, reader):
    written = make_model(writer)
    fit(written)
    path = tf.train.Checkpoint(model=written, optimizer=written.optimizer).save(
        str(tmp_path / "checkpoint")
    )
    read = make_model(reader)
    # The slots come into being as they are read.
    tf.train.Checkpoint(model=read, optimizer=read.optimizer).restore(path)
    assert_same_training(written, read)


@directions
@pytest.mark.parametrize("name", ["weights.h5", "weights"])
def test_weights_file(tmp_path, writer, reader, name):
    written = make_model(writer)
    fit(written)
    written.save_weights(str(tmp_path / name))
    read = make_model(reader)
    read.load_weights(str(tmp_path / name))
    read.optimizer._create_all_weights(read.trainable_weights)
    if name.endswith(".h5"):  # Holds the weights of the model alone.
        read.optimizer.set_weights(written.optimizer.get_weights())
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
    custom_objects = {
        "tf_adadelta>legacy.Adadelta": reader,
        "Adadelta": reader,
        "adadelta": reader,
    }
    if reader is writer:
        custom_objects = {}
    with without_registration(reader is STOCK):
        read = tf_keras.models.load_model(tmp_path / name, custom_objects=custom_objects)
    if name == "model.keras" and (writer, reader) == OPTIMIZERS:
        # The file says in which module the stock class is: nothing can take its place.
        assert type(read.optimizer) is STOCK
        return
    assert type(read.optimizer) is reader
    assert read.optimizer.get_config() == written.optimizer.get_config()
    if name == "model.h5":  # The other formats have no place for the state of a legacy optimizer.
        assert_same_training(written, read)


def without_registration(wanted):
    """As where tf_adadelta is not installed."""
    if not wanted:
        return contextlib.nullcontext()
    kept = {
        name: value
        for name, value in object_registration._GLOBAL_CUSTOM_OBJECTS.items()
        if not name.startswith("tf_adadelta")
    }
    return mock.patch.dict(object_registration._GLOBAL_CUSTOM_OBJECTS, kept, clear=True)


# The page and the package.


def test_every_test_of_the_page_exists():
    table = (Path(__file__).parents[1] / "docs" / "tf_keras_legacy.md").read_text("utf-8")
    rows = [line for line in table.splitlines() if re.match(r"\| (?!:|the )", line)]
    assert len(rows) > 40
    for row in rows:
        names = re.findall(r"`(\w+\.py)::([\w:]+)`", row)
        assert names, row
        for file, name in names:
            source = (Path(__file__).parent / file).read_text("utf-8")
            for part in name.split("::"):
                assert re.search(rf"^ *(def|class) {part}\b", source, re.M), f"{file}::{name}"


def test_tf_keras_is_optional_and_imported_when_it_is_asked_for():
    program = """
        import sys
        import tf_adadelta
        assert tf_adadelta.compat.v1.AdadeltaOptimizer
        assert "tf_keras" not in sys.modules
        sys.modules["tf_keras"] = None  # As where it is not installed.
        for attempt in ("import tf_adadelta.tf_keras", "from tf_adadelta.tf_keras import legacy",
                        "tf_adadelta.tf_keras"):
            try:
                exec(attempt)
            except ImportError as error:
                print(error)
        del sys.modules["tf_keras"]
        assert tf_adadelta.tf_keras.legacy.Adadelta
        assert "tf_keras" in sys.modules
        """
    lines = check_program(program).stdout.strip().splitlines()
    minor = ".".join(tf.__version__.split(".")[:2])
    assert len(lines) == 3
    for line in lines:
        assert "tf_adadelta.tf_keras needs tf_keras, which is not installed" in line
        assert f"pip install 'tf-keras=={minor}.*'" in line
