"""The whole step of `fit` on two small models, to see how much of it is the optimizer."""

import dataclasses
import functools
import math
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

import tf_adadelta
from benchmarks.cases import Case, Shape
from benchmarks.contestants import Contestant, Prepared, Work, make_optimizer
from benchmarks.names import FIT_FUNCTION, FIT_JIT, FUSED, KERAS

_BATCH = 100


@dataclasses.dataclass(frozen=True)
class Model:
    """A model that is trained.

    Attributes:
        description: What it is, for the reader of the report.
        make: Returns it with new weights.
    """

    description: str
    make: Callable[[], keras.Model]

    @functools.cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes of its variables."""
        return tuple(tuple(variable.shape) for variable in self.make().trainable_variables)


def _make_mlp() -> keras.Model:
    """The network of the paper."""
    units = [keras.layers.Dense(count, activation="tanh") for count in (500, 300)]
    layers = [keras.Input((28, 28, 1)), keras.layers.Flatten(), *units, keras.layers.Dense(10)]
    return keras.Sequential(layers)


def _make_cnn() -> keras.Model:
    convolutions = [
        layer
        for filters in (8, 16)
        for layer in (
            keras.layers.Conv2D(filters, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
        )
    ]
    dense = [keras.layers.Dense(64, activation="relu"), keras.layers.Dense(10)]
    return keras.Sequential(
        [keras.Input((28, 28, 1)), *convolutions, keras.layers.Flatten(), *dense]
    )


MODELS = {
    "mlp": Model(
        f"784-500-300-10, tanh (the network of the paper), {_BATCH} images a step", _make_mlp
    ),
    "cnn": Model(f"Two convolutions and two dense layers, {_BATCH} images a step", _make_cnn),
}


class TrainingWork(Work):
    """A model and images to train it on, besides the gradients of its variables."""

    @functools.cached_property
    def images(self) -> tf.data.Dataset:
        """Images and labels, both random, in batches and in memory."""
        rng = np.random.default_rng(0)
        images = rng.random((self.case.images, 28, 28, 1), np.float32)
        labels = rng.integers(0, 10, self.case.images)
        with tf.init_scope():
            return tf.data.Dataset.from_tensor_slices((images, labels)).batch(_BATCH).cache()

    def make_model(self) -> keras.Model:
        """Returns the model, with the same weights at every call."""
        keras.utils.set_random_seed(0)
        return MODELS[self.case.model].make()


def _prepare_fit(
    work: TrainingWork, optimizer_class: type[keras.optimizers.Optimizer], jit_compile: bool
) -> Prepared:
    model = work.make_model()
    model.compile(
        optimizer=make_optimizer(optimizer_class),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    return Prepared(
        lambda: model.fit(work.images, shuffle=False, verbose=0),
        lambda: [value.numpy() for value in model.weights],
        math.ceil(work.case.images / _BATCH),
    )


CONTESTANTS = tuple(
    Contestant(
        names[mode],
        mode,
        functools.partial(
            _prepare_fit, optimizer_class=optimizer_class, jit_compile=mode == FIT_JIT
        ),
        bare=False,
    )
    for names, optimizer_class in (
        (FUSED, tf_adadelta.Adadelta),
        (KERAS, keras.optimizers.Adadelta),
    )
    for mode in (FIT_FUNCTION, FIT_JIT)
)


def make_work(case: Case, num_threads: int) -> Work:
    """Makes what the contestants of a case on the CPU are prepared from."""
    return (TrainingWork if case.model else Work)(case, num_threads)
