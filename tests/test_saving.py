"""What either optimizer writes in the middle of training, the other one goes on from."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from subprocesses import check_program
from test_optimizer import OPTIMIZERS, make_model

import tf_adadelta

DIRECTIONS = [(a, b) for a in OPTIMIZERS for b in OPTIMIZERS]
IDS = [f"{a.__module__.split('.')[0]}-to-{b.__module__.split('.')[0]}" for a, b in DIRECTIONS]


def train(model, epochs):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 12)).astype(np.float32)
    y = rng.standard_normal((64, 3)).astype(np.float32)
    model.fit(x, y, epochs=epochs, batch_size=16, shuffle=False, verbose=0)


def assert_same_training(one, other):
    for model in (one, other):
        train(model, 2)
    assert int(one.optimizer.iterations) == int(other.optimizer.iterations) == 16
    for a, b in zip(
        [*one.weights, *one.optimizer.variables], [*other.weights, *other.optimizer.variables]
    ):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("writer, reader", DIRECTIONS, ids=IDS)
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_weights_file(tmp_path, writer, reader, suffix):
    written = make_model(writer)
    train(written, 2)
    path = str(tmp_path / f"model{suffix}")
    (written.save if suffix == ".keras" else written.save_weights)(path)
    read = make_model(reader)
    read.optimizer.build(read.trainable_variables)
    read.load_weights(path)
    assert_same_training(written, read)


@pytest.mark.parametrize("writer, reader", DIRECTIONS, ids=IDS)
@pytest.mark.parametrize("built_first", [True, False])
def test_checkpoint(tmp_path, writer, reader, built_first):
    written = make_model(writer)
    train(written, 2)
    path = tf.train.Checkpoint(model=written, optimizer=written.optimizer).save(
        str(tmp_path / "checkpoint")
    )
    read = make_model(reader)
    if built_first:
        read.optimizer.build(read.trainable_variables)
    status = tf.train.Checkpoint(model=read, optimizer=read.optimizer).restore(path)
    if built_first:
        status.assert_consumed()
    assert_same_training(written, read)


def test_whole_model(tmp_path):
    """A .keras file names its optimizer, which `import tf_adadelta` has registered."""
    written = make_model(tf_adadelta.Adadelta)
    train(written, 2)
    written.save(tmp_path / "model.keras")
    read = keras.models.load_model(tmp_path / "model.keras")
    assert type(read.optimizer) is tf_adadelta.Adadelta
    assert_same_training(written, read)


def test_whole_model_without_tf_adadelta(tmp_path):
    """Where tf_adadelta is not installed, the stock class takes its place by name."""
    written = make_model(tf_adadelta.Adadelta)
    train(written, 2)
    path = tmp_path / "model.keras"
    written.save(path)
    program = f"""
        import sys; sys.modules["tf_adadelta"] = None
        import keras
        stock = keras.optimizers.Adadelta
        model = keras.models.load_model(
            {str(path)!r}, custom_objects={{"tf_adadelta>Adadelta": stock}})
        assert type(model.optimizer) is stock and int(model.optimizer.iterations) == 8
        """
    check_program(program)


def test_config_round_trip():
    schedule = keras.optimizers.schedules.CosineDecay(0.5, 100)
    optimizer = tf_adadelta.Adadelta(schedule, rho=0.9, epsilon=1e-6, weight_decay=0.1)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(copy) is tf_adadelta.Adadelta
    assert copy.get_config() == optimizer.get_config()
    assert isinstance(copy._learning_rate, keras.optimizers.schedules.CosineDecay)


def test_from_config_of_the_stock_optimizer():
    stock = keras.optimizers.Adadelta(0.3, rho=0.9, clipnorm=1.0)
    fused = tf_adadelta.Adadelta.from_config(stock.get_config())
    assert fused.get_config() == stock.get_config()
