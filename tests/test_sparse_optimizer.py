"""tf_adadelta.Adadelta with sparse gradients: exactly the dense result, seen by whoever looks."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import needs_xla
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Oracle, densify
from test_optimizer import OPTIMIZERS, assert_close

import tf_adadelta

ROWS, WIDTH = 11, 3
START = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float32)


def make(sparse_update="exact", dtype="float32", shape=(ROWS, WIDTH), **options):
    """An optimizer built for one variable, and the variable."""
    variable = keras.Variable(
        np.random.default_rng(0).standard_normal(shape), dtype=dtype, name="table"
    )
    optimizer = tf_adadelta.Adadelta(
        **{"learning_rate": 0.5, "sparse_update": sparse_update, **options}
    )
    optimizer.build([variable])
    return optimizer, variable


def make_stock(variable, **options):
    """Keras's optimizer for a copy of the variable, and the copy."""
    copy = keras.Variable(variable.numpy(), dtype=variable.dtype, name="table")
    stock = keras.optimizers.Adadelta(**{"learning_rate": 0.5, **options})
    stock.build([copy])
    return stock, copy


def make_step(compiled, optimizer, table):
    """A step that takes the values and the indices of the gradient."""
    return compiled(
        lambda values, indices: optimizer.apply(
            [tf.IndexedSlices(values, indices, tuple(table.shape))], [table]
        )
    )


def slices(indices, seed, shape=(ROWS, WIDTH), dtype="float32"):
    values = np.random.default_rng(seed).standard_normal((len(indices), *shape[1:]))
    return tf.IndexedSlices(tf.cast(values, dtype), tf.constant(indices, tf.int32), shape)


def dense(grad, shape=(ROWS, WIDTH)):
    return tf.constant(densify(grad.values.numpy(), grad.indices.numpy(), shape), grad.values.dtype)


def random_slices(number, count=6):
    return slices(np.random.default_rng(1000 + number).integers(0, ROWS, count), number)


def everything(optimizer, variable):
    return [variable, *optimizer.variables]


def bits(optimizer, variable):
    return [np.array(v).tobytes() for v in everything(optimizer, variable)]


kinds = st.one_of(
    st.lists(st.integers(0, ROWS - 1), max_size=12),  # The indices of a sparse gradient.
    st.sampled_from(["dense", "none", "read", "learning_rate"]),
)


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(kinds, min_size=1, max_size=12), graph=st.booleans())
def test_any_sequence_is_that_of_dense_keras(steps, graph):
    table, copy = (keras.Variable(START, name="table") for _ in range(2))
    other, other_copy = (keras.Variable(START[0], name="other") for _ in range(2))
    optimizer, stock = (made(0.5) for made in OPTIMIZERS[::-1])
    optimizer.build([table, other])
    stock.build([copy, other_copy])
    by_values = tf.function(
        lambda values, indices, rest: optimizer.apply(
            [tf.IndexedSlices(values, indices, (ROWS, WIDTH)), rest], [table, other]
        )
    )
    rest = tf.constant([0.1, -2.0, 3.0])
    for number, kind in enumerate(steps):
        if kind == "read":
            for variable in optimizer.variables:
                variable.numpy()
        elif kind == "learning_rate":
            optimizer.learning_rate = stock.learning_rate = 1.0 / (1 + number)
        elif kind == "none":
            optimizer.apply([rest], [other])
            stock.apply([rest], [other_copy])
        elif kind == "dense":
            grad = tf.constant(
                np.random.default_rng(number).standard_normal((ROWS, WIDTH)), tf.float32
            )
            optimizer.apply([grad, rest], [table, other])
            stock.apply([grad, rest], [copy, other_copy])
        else:
            grad = slices(kind, number)
            if graph:
                by_values(grad.values, grad.indices, rest)
            else:
                optimizer.apply([grad, rest], [table, other])
            stock.apply([dense(grad), rest], [copy, other_copy])
    assert_close([table, other, *optimizer.variables], [copy, other_copy, *stock.variables])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("sparse_update", ["exact", "lazy"])
def test_matches_oracle(compiled, dtype, sparse_update):
    shape = (50, 7)
    oracle = Oracle([shape], dtype)
    for role in ("accums", "accum_updates"):
        oracle.values[role] = [np.zeros(shape)]
    optimizer, table = make(sparse_update, dtype, shape)
    table.assign(oracle.stored("variables")[0])

    step = make_step(compiled, optimizer, table)
    for number in range(25):
        # Some rows in each step, some in a third of them, some never.
        indices = [oracle.rng.integers(0, 40 if number % 3 == 0 else 5, 6)]
        grads = oracle.new_slices(indices)
        step(tf.constant(grads[0]), tf.constant(indices[0]))
        oracle.sparse_step(grads, indices, 0.5, lazy=sparse_update == "lazy")
    oracle.check(*([variable.numpy()] for variable in (table, *optimizer.variables[2:])))


def test_bits_are_the_same_on_every_run(compiled):
    results = []
    for _ in range(3):
        optimizer, table = make(shape=(100, 33))
        step = make_step(compiled, optimizer, table)
        rng = np.random.default_rng(0)
        for number in range(5):
            grad = slices(rng.zipf(1.3, 500) % 100, number, (100, 33))
            step(grad.values, grad.indices)
        results.append(bits(optimizer, table))
    assert results[0] == results[1] == results[2]


def test_keras_does_not_sum_duplicates():
    """Keras 3 takes the sum of the squares of duplicates for the square of their sum."""
    grad = slices([4, 4], 0)
    optimizer, table = make()
    stock, copy = make_stock(table)
    optimizer.apply([grad], [table])
    stock.apply([grad], [copy])
    first, second = grad.values.numpy()
    accum, stock_accum = optimizer.variables[2].numpy()[4], stock.variables[2].numpy()[4]
    np.testing.assert_allclose(accum, 0.05 * (first + second) ** 2, rtol=1e-5)
    np.testing.assert_allclose(stock_accum, 0.05 * (first**2 + second**2), rtol=1e-5)


# Whoever looks.


def test_reading_changes_no_bit():
    def train(look):
        optimizer, table = make()
        held = optimizer.variables[2:]
        for number in range(20):
            optimizer.apply([random_slices(number, 2)], [table])
            if look and number % 4 == 1:
                for variable in held:
                    variable.numpy(), np.asarray(variable), variable + 1, variable.value
                tf.function(lambda: [variable + 0.0 for variable in held])()
        return bits(optimizer, table)

    assert train(look=True) == train(look=False)


def checkpoint_of(optimizer, table):
    return tf.train.Checkpoint(optimizer=optimizer, table=table)


def by_checkpoint(optimizer, table, path):
    return checkpoint_of(optimizer, table).save(path)


def by_asynchronous_checkpoint(optimizer, table, path):
    checkpoint = checkpoint_of(optimizer, table)
    options = tf.train.CheckpointOptions(enable_async=True)
    path = checkpoint.save(path, options=options)
    checkpoint.sync()
    return path


def by_graph(optimizer, table, path):
    checkpoint = checkpoint_of(optimizer, table)
    return tf.function(lambda: checkpoint.write(path))().numpy().decode()


@pytest.mark.parametrize("save", [by_checkpoint, by_asynchronous_checkpoint, by_graph])
def test_who_saves_goes_on_from_the_bits_of_who_loads(tmp_path, save):
    optimizer, table = make()
    for number in range(20):
        optimizer.apply([random_slices(number, 2)], [table])
        if number % 4 == 1:
            before = [variable.numpy() for variable in optimizer.variables]
            path = save(optimizer, table, str(tmp_path / f"checkpoint{number}"))
            for variable, value in zip(optimizer.variables, before):
                np.testing.assert_allclose(variable.numpy(), value, rtol=1e-6)
            loaded, loaded_table = make()
            checkpoint_of(loaded, loaded_table).restore(path)
            for each, variable in ((optimizer, table), (loaded, loaded_table)):
                for later in range(100, 103):
                    each.apply([random_slices(later, 2)], [variable])
            assert bits(loaded, loaded_table) == bits(optimizer, table)


def test_saving_writes_nothing_on_a_server(tmp_path):
    """Where a worker may be in the middle of a step, whose rows it would undo."""
    optimizer, table = make()
    for number in range(5):
        optimizer.apply([random_slices(number, 2)], [table])
    slot = optimizer.variables[2]
    slot.clock.shared = True  # As if it were on a parameter server.
    stored, values = slot.stored.numpy(), slot.numpy()
    path = checkpoint_of(optimizer, table).save(tmp_path / "checkpoint")
    store = {}
    optimizer.save_own_variables(store)
    np.testing.assert_array_equal(slot.stored.numpy(), stored)
    np.testing.assert_array_equal(store["2"], values)
    loaded, loaded_table = make()
    checkpoint_of(loaded, loaded_table).restore(path)
    np.testing.assert_array_equal(loaded.variables[2].numpy(), values)
    assert np.any(stored != values)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_who_saves_a_model_goes_on_from_the_bits_of_who_loads(tmp_path, suffix):
    x, y = embedding_data()
    model = embedding_model(tf_adadelta.Adadelta(1.0))
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    path = tmp_path / f"model{suffix}"
    (model.save if suffix == ".keras" else model.save_weights)(path)
    loaded = embedding_model(tf_adadelta.Adadelta(1.0))
    loaded.optimizer.build(loaded.trainable_variables)
    loaded.load_weights(path)
    for each in (model, loaded):
        each.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    for one, other in zip(model.variables, loaded.variables):
        assert one.numpy().tobytes() == other.numpy().tobytes()
    for one, other in zip(model.optimizer.variables, loaded.optimizer.variables):
        assert one.numpy().tobytes() == other.numpy().tobytes()


def test_held_slots_are_up_to_date(compiled):
    optimizer, table = make()
    stock, copy = make_stock(table)
    held, stock_held = optimizer.variables[2:], stock.variables[2:]
    read = compiled(lambda: [variable * 1.0 for variable in held])
    for number in range(8):
        grad = random_slices(number, 2)
        optimizer.apply([grad], [table])
        stock.apply([dense(grad)], [copy])
        if number == 0:
            continue
        for value, expected in zip(read(), stock_held):
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)


def test_what_is_printed_is_up_to_date():
    optimizer, table = make()
    stock, copy = make_stock(table)
    for number in range(5):
        optimizer.apply([slices([number], 0)], [table])
        stock.apply([dense(slices([number], 0))], [copy])
    with np.printoptions(precision=4):
        ours, theirs = (repr(made.variables[2]).split("shape=")[1] for made in (optimizer, stock))
    if "value=" not in theirs:
        pytest.skip("this Keras prints no values")
    assert ours == theirs


def test_exported_slots_are_up_to_date(tmp_path):
    optimizer, table = make()
    for number in range(5):
        optimizer.apply([slices([number], 0)], [table])
    expected = optimizer.variables[2].numpy()
    module = tf.Module()
    module.slot = optimizer.variables[2]
    tf.saved_model.save(module, tmp_path / "module")
    np.testing.assert_array_equal(tf.saved_model.load(tmp_path / "module").slot.numpy(), expected)


def test_slots_read_in_a_graph_before_the_first_sparse_gradient():
    """That graph goes on to be right: their rows then never lag."""
    optimizer, table = make()
    stock, copy = make_stock(table)
    read = tf.function(lambda: [variable * 1.0 for variable in optimizer.variables[2:]])
    read()
    for number in range(5):
        grad = random_slices(number, 2)
        optimizer.apply([grad], [table])
        stock.apply([dense(grad)], [copy])
        for value, expected in zip(read(), stock.variables[2:]):
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)


def test_dense_graph_traced_before_the_first_sparse_gradient():
    optimizer, table = make()
    stock, copy = make_stock(table)
    dense_step = tf.function(lambda grad: optimizer.apply([grad], [table]))
    for number in range(6):
        grad = random_slices(number, 2)
        if number % 2 == 0:
            dense_step(dense(grad))
        else:
            optimizer.apply([grad], [table])
        stock.apply([dense(grad)], [copy])
    assert_close(everything(optimizer, table), everything(stock, copy))


def test_built_anew():
    """An optimizer that is built once more starts from zero, as Keras's does."""
    (optimizer, table), steps = make(), range(6)
    stock, copy = make_stock(table)
    for made, variable, densely in ((optimizer, table, False), (stock, copy, True)):
        for number in steps:
            if number == 3:
                made.built = False
                made.build([variable])
            grad = random_slices(number, 2)
            made.apply([dense(grad) if densely else grad], [variable])
    assert_close([table, *optimizer.variables[-2:]], [copy, *stock.variables[-2:]])


def test_checkpoints_go_both_ways(tmp_path):
    """From the middle of sparse training into Keras and on, and back and on."""
    optimizer, table = make()
    stock, copy = make_stock(table)
    for number in range(5):
        grad = random_slices(number, 2)
        optimizer.apply([grad], [table])
        stock.apply([dense(grad)], [copy])
    path = tf.train.Checkpoint(optimizer=optimizer, table=table).save(tmp_path / "ours")
    into, into_table = make_stock(keras.Variable(np.zeros((ROWS, WIDTH), np.float32)))
    status = tf.train.Checkpoint(optimizer=into, table=into_table).restore(path)
    status.assert_existing_objects_matched()
    assert_close(everything(into, into_table), everything(stock, copy))

    for number in range(5, 8):
        grad = random_slices(number, 2)
        into.apply([dense(grad)], [into_table])
        stock.apply([dense(grad)], [copy])
    path = tf.train.Checkpoint(optimizer=into, table=into_table).save(tmp_path / "keras")
    # Into one whose rows lag behind, which what is loaded replaces.
    status = tf.train.Checkpoint(optimizer=optimizer, table=table).restore(path)
    status.assert_existing_objects_matched()
    assert_close(everything(optimizer, table), everything(stock, copy))
    for number in range(8, 11):
        grad = random_slices(number, 2)
        optimizer.apply([grad], [table])
        stock.apply([dense(grad)], [copy])
    assert_close(everything(optimizer, table), everything(stock, copy))


def embedding_model(optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            keras.layers.Embedding(50, 8),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(optimizer=optimizer, loss="mse")
    return model


def one_hot_model(optimizer):
    """The same network with a dense gradient."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            keras.layers.Lambda(lambda x: keras.ops.one_hot(x, 50)),
            keras.layers.Dense(8, use_bias=False),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(optimizer=optimizer, loss="mse")
    model.set_weights(embedding_model("sgd").get_weights())
    return model


def embedding_data():
    rng = np.random.default_rng(0)
    return rng.integers(0, 50, (64, 4)), rng.standard_normal((64, 1))


def test_saved_models_go_both_ways(tmp_path):
    x, y = embedding_data()
    model, stock = (
        embedding_model(tf_adadelta.Adadelta(1.0)),
        one_hot_model(keras.optimizers.Adadelta(1.0)),
    )
    for each in (model, stock):
        each.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    model.save(tmp_path / "ours.keras")
    loaded = embedding_model(keras.optimizers.Adadelta(1.0))
    loaded.optimizer.build(loaded.trainable_variables)
    loaded.load_weights(tmp_path / "ours.keras")
    assert_close(loaded.optimizer.variables, stock.optimizer.variables)
    again = keras.models.load_model(tmp_path / "ours.keras")
    for each in (model, again, stock):
        each.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    for each in (model, again):
        assert_close(each.trainable_variables, stock.trainable_variables)
        assert_close(each.optimizer.variables, stock.optimizer.variables)


def test_assigning_to_a_slot():
    optimizer, table = make()
    stock, copy = make_stock(table)
    for number in range(6):
        grad = random_slices(number, 2)
        optimizer.apply([grad], [table])
        stock.apply([dense(grad)], [copy])
        if number == 3:
            for made in (optimizer, stock):
                made.variables[2].assign(np.full((ROWS, WIDTH), 0.25, np.float32))
    assert_close(everything(optimizer, table), everything(stock, copy))


def test_new_rho():
    optimizer, table = make()
    stock, copy = make_stock(table)
    for number in range(9):
        optimizer.rho = stock.rho = 0.95 if number % 4 < 2 else 0.8
        grad = random_slices(number, 2)
        optimizer.apply([grad], [table])
        stock.apply([dense(grad)], [copy])
    assert_close(everything(optimizer, table), everything(stock, copy))


def test_new_rho_in_a_graph(compiled):
    """What is owed at the old rate is paid once, when the graph is traced, not in every run."""
    optimizer, table = make()
    stock, copy = make_stock(table)
    for rho in (0.95, 0.7):
        optimizer.rho = stock.rho = rho
        step = make_step(compiled, optimizer, table)
        for number in range(6):
            grad = random_slices(number, 2)
            step(grad.values, grad.indices)
            stock.apply([dense(grad)], [copy])
    assert_close(everything(optimizer, table), everything(stock, copy))


# What Keras does around the update.


@pytest.mark.parametrize(
    "options",
    [
        {"clipvalue": 0.3},
        {"clipnorm": 0.5},
        {"global_clipnorm": 0.5},
        {"weight_decay": 0.1},
        {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 3},
        {"gradient_accumulation_steps": 3},
        {"weight_decay": 0.1, "global_clipnorm": 0.5, "use_ema": True},
    ],
    ids=str,
)
def test_options_mean_what_they_mean_for_a_dense_gradient(compiled, options):
    optimizer, table = make(**options)
    stock, copy = make_stock(table, **options)
    step = make_step(compiled, optimizer, table)
    for number in range(12):
        grad = random_slices(number)
        step(grad.values, grad.indices)
        stock.apply([dense(grad)], [copy])
    assert_close(everything(optimizer, table), everything(stock, copy))


def test_constraint():
    results = []
    for make_optimizer, as_grad in (
        (tf_adadelta.Adadelta, lambda grad: grad),
        (keras.optimizers.Adadelta, dense),
    ):
        table = keras.Variable(np.ones((ROWS, WIDTH), np.float32), name="table")
        table.constraint = keras.constraints.MaxNorm(0.9)
        optimizer = make_optimizer(0.5)
        optimizer.build([table])
        for number in range(6):
            optimizer.apply([as_grad(random_slices(number))], [table])
        results.append(everything(optimizer, table))
    assert_close(*results)


def test_loss_scale(compiled):
    optimizer, table = make()
    stock, copy = make_stock(table)
    scaled, scaled_stock = (
        keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
        for inner in (optimizer, stock)
    )
    scaled.build([table])
    scaled_stock.build([copy])
    step = make_step(compiled, scaled, table)
    for number in range(6):
        grad = random_slices(number)
        step(grad.values, grad.indices)
        scaled_stock.apply([dense(grad)], [copy])
    assert_close(everything(optimizer, table), everything(stock, copy))


# Models.


@pytest.mark.parametrize("steps_per_execution", [1, 4])
@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=needs_xla)])
def test_embedding_in_fit(jit_compile, steps_per_execution):
    x, y = embedding_data()
    losses = []
    for model in (
        embedding_model(tf_adadelta.Adadelta(1.0)),
        one_hot_model(keras.optimizers.Adadelta(1.0)),
    ):
        model.compile(
            optimizer=model.optimizer,
            loss="mse",
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
        )
        history = model.fit(x, y, epochs=3, batch_size=16, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_table_looked_up_twice(compiled):
    optimizer, table = make()
    stock, copy = make_stock(table)

    def step(variable, made, densely):
        with tf.GradientTape() as tape:
            one = tf.gather(variable.value, [1, 2, 2])
            two = tf.gather(variable.value, [2, 5, 7])
            loss = tf.reduce_sum(one * two * two)
        grad = tape.gradient(loss, variable.value)
        made.apply([tf.convert_to_tensor(grad) if densely else grad], [variable])

    ours = compiled(lambda: step(table, optimizer, densely=False))
    for _ in range(5):
        ours()
        step(copy, stock, densely=True)
    assert_close(everything(optimizer, table), everything(stock, copy))


def test_ragged_batch():
    optimizer, table = make()
    stock, copy = make_stock(table)
    words = tf.ragged.constant([[1, 2, 2], [], [5], [0, 10, 5, 1]])
    for made, variable, densely in ((optimizer, table, False), (stock, copy, True)):
        for _ in range(5):
            with tf.GradientTape() as tape:
                rows = tf.ragged.map_flat_values(lambda i: tf.gather(variable.value, i), words)  # noqa: B023
                loss = tf.reduce_sum(tf.reduce_sum(rows, axis=1) ** 2)
            grad = tape.gradient(loss, variable.value)
            assert isinstance(grad, tf.IndexedSlices)
            made.apply([tf.convert_to_tensor(grad) if densely else grad], [variable])
    assert_close(everything(optimizer, table), everything(stock, copy))


# Mistakes.


def test_index_out_of_range(compiled, monkeypatch):
    monkeypatch.setenv("TF_ADADELTA_CHECK_INDICES", "1")  # On a GPU it is no error otherwise.
    optimizer, table = make()
    optimizer.apply([slices([1, 2], 0)], [table])
    before = bits(optimizer, table)[:1] + bits(optimizer, table)[3:]
    step = compiled(lambda: optimizer.apply([slices([1, ROWS], 0)], [table]))
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"indices\[0\]\[1\] is 11, expected 0 to 10"
    ):
        step()
    assert bits(optimizer, table)[:1] + bits(optimizer, table)[3:] == before


def test_unknown_sparse_update():
    with pytest.raises(ValueError, match="sparse_update is 'fast', expected 'exact' or 'lazy'"):
        tf_adadelta.Adadelta(sparse_update="fast")


def test_configuration():
    assert "sparse_update" not in tf_adadelta.Adadelta().get_config()
    lazy = tf_adadelta.Adadelta.from_config(tf_adadelta.Adadelta(sparse_update="lazy").get_config())
    assert lazy.sparse_update == "lazy"
