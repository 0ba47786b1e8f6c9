"""`from_keras` and `to_keras`: an optimizer that has trained goes on as another class."""

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf
from states import assert_close, assert_equal

import tf_adadelta

tf_keras = pytest.importorskip("tf_keras")

OPTIONS = {
    "plain": {},
    "clipped": {"clipnorm": 0.3},
    "all": {
        "global_clipnorm": 0.3,
        "weight_decay": 0.05,
        "use_ema": True,
        "ema_momentum": 0.8,
        "ema_overwrite_frequency": 2,
        "gradient_accumulation_steps": 3,
        "loss_scale_factor": 4.0,
    },
}
SHAPES = [(5, 3), (7,), ()]
STEPS = 5  # So that the accumulators hold two gradients of three.


def make_variables(keras_variables=True):
    rng = np.random.default_rng(0)
    make = keras.Variable if keras_variables else tf.Variable
    values = [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    return [make(value, name=f"v{i}") for i, value in enumerate(values)]


def grads_of(step):
    rng = np.random.default_rng(step + 1)
    return [tf.constant(rng.standard_normal(shape), tf.float32) for shape in SHAPES]


def apply(optimizer, variables, steps, run=lambda step: step):
    """Applies one gradient after the other; a new function each time, as a new `fit` has."""

    def update(*grads):
        optimizer.apply_gradients(list(zip(grads, variables)))

    step = run(update)
    for i in steps:
        step(*grads_of(i))


def trained(make, steps=STEPS, **options):
    variables = make_variables()
    optimizer = make(learning_rate=0.5, name="mine", **options)
    optimizer.build(variables)
    optimizer.exclude_from_weight_decay(var_names=[variables[1].path])
    apply(optimizer, variables, range(steps))
    return optimizer, variables


def state(optimizer, variables):
    slots = optimizer.variables
    return [np.array(v) for v in (*variables, *(slots() if callable(slots) else slots))]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_from_keras_goes_on(options, compiled):
    """As Keras does, and to the bit as one of ours that was given the state does."""
    stock, variables = trained(keras.optimizers.Adadelta, **options)
    whole, whole_variables = trained(keras.optimizers.Adadelta, **options)
    given, given_variables = trained(tf_adadelta.Adadelta, steps=0, **options)
    before, shared = state(stock, variables), stock.variables
    for variable, value in zip((*given_variables, *given.variables), before):
        variable.assign(value)

    ours = tf_adadelta.from_keras(stock)
    assert type(ours) is tf_adadelta.Adadelta
    assert all(a is b for a, b in zip(ours.variables, shared))  # Not copies.
    assert_equal(state(ours, variables), before)
    assert ours.get_config() == stock.get_config() and ours.name == "mine"

    steps = range(STEPS, 2 * STEPS)
    for optimizer, its in ((ours, variables), (whole, whole_variables), (given, given_variables)):
        apply(optimizer, its, steps, compiled)
    assert_close(state(ours, variables), state(whole, whole_variables))
    assert_equal(state(ours, variables), state(given, given_variables))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_there_and_back_to_the_bit(options, compiled):
    """A conversion at every step changes nothing: Keras's training is Keras's."""
    stock, variables = trained(keras.optimizers.Adadelta, **options)
    whole, whole_variables = trained(keras.optimizers.Adadelta, **options)
    for i in range(STEPS, STEPS + 4):
        stock = tf_adadelta.to_keras(tf_adadelta.from_keras(stock))
        assert type(stock) is keras.optimizers.Adadelta
        apply(stock, variables, [i], compiled)
    apply(whole, whole_variables, range(STEPS, STEPS + 4), compiled)
    assert_equal(state(stock, variables), state(whole, whole_variables))
    assert list(map(type, stock.variables)) == list(map(type, whole.variables))


def test_rows_that_lag_are_up_to_date_in_keras():
    """After sparse gradients; and back again, with a clock that starts anew."""
    tables = [keras.Variable(np.ones((9, 2), np.float32)) for _ in range(2)]
    ours, reference = tf_adadelta.Adadelta(1.0), tf_adadelta.Adadelta(1.0)

    def step(optimizer, table, rows):
        grad = tf.IndexedSlices(tf.ones((len(rows), 2)), tf.constant(rows), (9, 2))
        optimizer.apply([grad], [table])

    def both(rows):
        step(ours, tables[0], rows)
        step(reference, tables[1], rows)

    for optimizer, table in zip((ours, reference), tables):
        optimizer.build([table])
    both([0, 1])
    both([3])
    both([5, 5])
    ours = tf_adadelta.to_keras(ours)
    assert_close(state(ours, tables[:1]), state(reference, tables[1:]))
    ours.apply([tf.ones((9, 2))], tables[:1])  # By Keras, dense.
    reference.apply([tf.ones((9, 2))], tables[1:])
    ours = tf_adadelta.from_keras(ours)
    both([1])
    both([7])
    assert_close(state(ours, tables[:1]), state(reference, tables[1:]))


def test_before_it_is_built():
    ours = tf_adadelta.from_keras(keras.optimizers.Adadelta(0.5, clipvalue=0.1))
    variables = make_variables()
    apply(ours, variables, range(3))
    other, other_variables = tf_adadelta.Adadelta(0.5, clipvalue=0.1), make_variables()
    apply(other, other_variables, range(3))
    assert_equal(state(ours, variables), state(other, other_variables))


@pytest.mark.parametrize(
    "learning_rate",
    [keras.optimizers.schedules.ExponentialDecay(1.0, 2, 0.5), lambda: 0.25],
    ids=["schedule", "callable"],
)
def test_learning_rate_is_the_same_object(learning_rate):
    stock = keras.optimizers.Adadelta(learning_rate)
    variables = make_variables()
    apply(stock, variables, range(3))
    ours = tf_adadelta.from_keras(stock)
    assert ours._learning_rate is learning_rate
    assert float(ours.learning_rate) == float(stock.learning_rate)
    assert tf_adadelta.to_keras(ours)._learning_rate is learning_rate


def test_loss_scale_optimizer():
    results = []
    for convert in (lambda optimizer: optimizer, tf_adadelta.from_keras):
        variables = make_variables()
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.Adadelta(0.5, clipnorm=0.5), initial_scale=8.0, dynamic_growth_steps=3
        )
        optimizer.build(variables)
        apply(optimizer, variables, range(4))
        optimizer = convert(optimizer)
        apply(optimizer, variables, range(4, 8))
        results.append(state(optimizer, variables))
    assert type(optimizer) is tf_adadelta.LossScaleOptimizer
    assert type(optimizer.inner_optimizer) is tf_adadelta.Adadelta
    assert_close(*results[::-1])
    back = tf_adadelta.to_keras(optimizer)
    assert type(back) is keras.optimizers.LossScaleOptimizer
    assert type(back.inner_optimizer) is keras.optimizers.Adadelta
    assert_equal(state(back, variables), results[1])
    apply(back, variables, [8])


def test_in_a_model(tmp_path):
    """Compiled with the converted optimizer it goes on; its files and checkpoints are as before."""

    def make():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adadelta(0.5, use_ema=True), "mse")
        return model

    x, y = np.random.default_rng(0).standard_normal((32, 4)), np.ones(32)
    fit = {"epochs": 2, "batch_size": 8, "shuffle": False, "verbose": 0}
    whole, model = make(), make()
    for each in (whole, model):
        each.fit(x, y, **fit)
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(tmp_path / "stock")
    model.compile(tf_adadelta.from_keras(model.optimizer), "mse")
    for each in (whole, model):
        each.fit(x, y, **fit)
    assert_close(state(model.optimizer, model.variables), state(whole.optimizer, whole.variables))
    model.save(tmp_path / "model.keras")
    read = keras.models.load_model(tmp_path / "model.keras")
    assert type(read.optimizer) is tf_adadelta.Adadelta
    assert_equal(state(read.optimizer, read.variables), state(model.optimizer, model.variables))
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    ours = checkpoint.save(tmp_path / "ours")
    checkpoint.restore(path).assert_consumed()
    stock = make()
    stock.optimizer.build(stock.trainable_variables)
    restored = tf.train.Checkpoint(model=stock, optimizer=stock.optimizer)
    restored.restore(ours).assert_consumed()


@pytest.mark.parametrize("options", [{}, {"use_ema": True, "weight_decay": 0.1}], ids=str)
def test_tf_keras(options):
    results = []
    for convert in (lambda optimizer: optimizer, tf_adadelta.from_keras):
        variables = make_variables(keras_variables=False)
        optimizer = tf_keras.optimizers.Adadelta(0.5, clipnorm=0.5, **options)
        apply(optimizer, variables, range(4))
        optimizer = convert(optimizer)
        apply(optimizer, variables, range(4, 8))
        results.append(state(optimizer, variables))
    assert type(optimizer) is tf_adadelta.tf_keras.Adadelta
    assert_close(*results[::-1])
    back = tf_adadelta.to_keras(optimizer)
    assert type(back) is tf_keras.optimizers.Adadelta
    apply(back, variables, [8])


@pytest.mark.parametrize(
    "stock, ours",
    [
        (tf_keras.optimizers.legacy.Adadelta, tf_adadelta.tf_keras.legacy.Adadelta),
        (tf.compat.v1.train.AdadeltaOptimizer, tf_adadelta.compat.v1.AdadeltaOptimizer),
    ],
    ids=["legacy", "v1"],
)
def test_classic(stock, ours):
    results = []
    for convert in (lambda optimizer: optimizer, tf_adadelta.from_keras):
        variables = make_variables(keras_variables=False)
        optimizer = stock(0.5)
        apply(optimizer, variables, range(4))
        optimizer = convert(optimizer)
        apply(optimizer, variables, range(4, 8))
        results.append(state(optimizer, variables))
    assert type(optimizer) is ours
    assert_close(*results[::-1])
    back = tf_adadelta.to_keras(optimizer)
    assert type(back) is stock
    apply(back, variables, [8])


def test_sparse_update():
    stock = keras.optimizers.Adadelta()
    assert tf_adadelta.from_keras(copy.deepcopy(stock)).sparse_update == "exact"
    assert tf_adadelta.from_keras(stock, sparse_update="lazy").sparse_update == "lazy"
    stock = keras.optimizers.Adadelta()
    with pytest.raises(ValueError, match="sparse_update is 'other', expected 'exact' or 'lazy'"):
        tf_adadelta.from_keras(stock, sparse_update="other")
    variables = make_variables()
    apply(stock, variables, range(1))  # It has not been handed over.


def test_what_is_right_already():
    stock = keras.optimizers.Adadelta()
    assert tf_adadelta.to_keras(stock) is stock
    ours = tf_adadelta.Adadelta()
    assert tf_adadelta.from_keras(ours) is ours
    with tf_adadelta.patch_keras():
        patched = keras.optimizers.Adadelta()
        assert tf_adadelta.from_keras(patched) is patched
        assert type(tf_adadelta.to_keras(patched)) is keras.optimizers.Adadelta


def test_handed_over_once():
    """Two optimizers on the same slots would undo each other's work."""
    stock, variables = trained(keras.optimizers.Adadelta)
    ours = tf_adadelta.from_keras(stock)
    for use in (
        lambda: stock.apply(grads_of(0), variables),
        lambda: stock.apply_gradients(list(zip(grads_of(0), variables))),
        lambda: tf_adadelta.from_keras(stock),
    ):
        with pytest.raises(RuntimeError, match=r"handed over by tf_adadelta\.from_keras"):
            use()
    back = tf_adadelta.to_keras(ours)
    with pytest.raises(RuntimeError, match=r"handed over by tf_adadelta\.to_keras"):
        ours.apply(grads_of(0), variables)
    with pytest.raises(RuntimeError, match=r"handed over by tf_adadelta\.to_keras"):
        tf_adadelta.to_keras(ours)
    apply(back, variables, [0])


def test_what_cannot_be_converted():
    class Mine(keras.optimizers.Adadelta):
        pass

    class Ours(tf_adadelta.Adadelta):
        pass

    for wrong in (keras.optimizers.SGD(), Mine(), None, keras.optimizers.Adadelta):
        with pytest.raises(
            TypeError, match=r"optimizer is a .*, expected one of keras\.optimizers"
        ):
            tf_adadelta.from_keras(wrong)
    for wrong in (keras.optimizers.SGD(), Ours(), None):
        with pytest.raises(TypeError, match=r"optimizer is a .*, expected one of tf_adadelta"):
            tf_adadelta.to_keras(wrong)
    around = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    with pytest.raises(TypeError, match=r"optimizer is a .*SGD"):
        tf_adadelta.from_keras(around)
    around.build([keras.Variable([1.0])])  # It has not been handed over.
