"""Models trained with Keras's options: saved half-way and loaded, and with mixed precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import needs_xla
from test_optimizer import OPTIMIZERS

import tf_adadelta

OPTIONS = {
    "learning_rate": 1.0,
    "epsilon": 1e-3,
    "weight_decay": 0.02,
    "global_clipnorm": 0.3,
    "use_ema": True,
    "ema_momentum": 0.8,
    "ema_overwrite_frequency": 3,
    "gradient_accumulation_steps": 3,
}
BATCHES = 7  # So that the accumulators hold one gradient of three.


def make_model(make, scaled=False, jit_compile=False, **options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(9, activation="tanh", kernel_constraint="non_neg"),
            keras.layers.Dense(1, dtype="float32"),
        ]
    )
    optimizer = make(**{**OPTIONS, **options})
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(
            optimizer, initial_scale=8.0, dynamic_growth_steps=4
        )
    model.compile(optimizer=optimizer, loss="mse", jit_compile=jit_compile)
    return model


def data(batches):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batches * 8, 6)).astype(np.float32)
    return x, x[:, :1] ** 2 + 0.1 * rng.standard_normal((batches * 8, 1)).astype(np.float32)


def train(model, batches):
    """Unlike `fit`, leaves the variables as they are, not overwritten with their averages."""
    x, y = data(batches)
    for start in range(0, len(x), 8):
        model.train_on_batch(x[start : start + 8], y[start : start + 8])


def state(model):
    return [*model.weights, *model.optimizer.variables]


def assert_same(one, other):
    assert len(state(one)) == len(state(other))
    for a, b in zip(state(one), state(other)):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6, rtol=1e-5, err_msg=b.path)


def half_way(make, scaled):
    model = make_model(make, scaled)
    train(model, BATCHES)
    for kind in ("gradient_accumulator", "average", "accumulated_delta_var"):
        values = [v.numpy() for v in model.optimizer.variables if v.name.endswith(kind)]
        assert len(values) == 4 and all(np.any(value) for value in values)
    return model


@pytest.mark.parametrize(
    "writer, reader", [OPTIMIZERS, OPTIMIZERS[::-1]], ids=["keras-to-ours", "ours-to-keras"]
)
@pytest.mark.parametrize("form", ["keras", "checkpoint"])
@pytest.mark.parametrize("scaled", [False, True], ids=["alone", "LossScaleOptimizer"])
def test_saved_half_way(tmp_path, writer, reader, form, scaled):
    written = half_way(writer, scaled)
    read = make_model(reader, scaled)
    read.optimizer.build(read.trainable_variables)
    if form == "keras":
        written.save(tmp_path / "model.keras")
        read.load_weights(tmp_path / "model.keras")
    else:
        path = tf.train.Checkpoint(model=written, optimizer=written.optimizer).save(
            tmp_path / "checkpoint"
        )
        status = tf.train.Checkpoint(model=read, optimizer=read.optimizer).restore(path)
        status.assert_consumed()
    assert_same(read, written)
    for model in (read, written):
        train(model, BATCHES)
    assert_same(read, written)


def test_whole_model_half_way(tmp_path):
    """Options and state come back from the file alone.

    The exclusion from the decay does not, in Keras neither: it has to be said again.
    """
    stock, model = (half_way(make, scaled=True) for make in OPTIMIZERS)
    model.save(tmp_path / "model.keras")
    read = keras.models.load_model(tmp_path / "model.keras")
    assert type(read.optimizer.inner_optimizer) is tf_adadelta.Adadelta
    assert read.optimizer.get_config() == model.optimizer.get_config()
    read.optimizer.inner_optimizer.exclude_from_weight_decay(var_names=["bias"])
    for each in (stock, model, read):
        train(each, BATCHES)
    assert_same(model, stock)
    assert_same(read, stock)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=needs_xla)])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_fit_with_all_options(policy, jit_compile):
    """Where nothing but the optimizer differs, so do no losses: the forward pass is the same."""
    keras.config.set_dtype_policy(policy)
    try:
        models = [make_model(make, jit_compile=jit_compile) for make in OPTIMIZERS]
        x, y = data(8)
        losses = [
            model.fit(x, y, epochs=3, batch_size=8, shuffle=False, verbose=0).history["loss"]
            for model in models
        ]
    finally:
        keras.config.set_dtype_policy("float32")
    for model in models:
        is_scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        assert is_scaled == (policy == "mixed_float16")
        assert losses[0][-1] < losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    for actual, expected in zip(*map(state, models)):
        np.testing.assert_allclose(
            actual.numpy(), expected.numpy(), atol=1e-3, rtol=1e-2, err_msg=expected.path
        )
