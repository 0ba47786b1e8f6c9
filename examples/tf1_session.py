"""A program of TensorFlow 1, with placeholders and a session: one line changes.

    pip install ".[demo]" && python examples/tf1_session.py

Fits a curve with a small network, in a graph that a `tf.compat.v1.Session` runs: with
`tf.compat.v1.train.AdadeltaOptimizer`, with `tf_adadelta.compat.v1.AdadeltaOptimizer`, and with the
first, saved half-way by a `tf.compat.v1.train.Saver`, restored into the second. All three find the
same curve, and almost the same weights. The curves go to tf1_session.png.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import tensorflow.compat.v1 as tf
from tqdm import tqdm

import tf_adadelta

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STOCK = tf.train.AdadeltaOptimizer
FUSED = tf_adadelta.compat.v1.AdadeltaOptimizer


class Result(NamedTuple):
    """What a run has come to."""

    losses: list[float]
    weights: list[np.ndarray]
    curve: np.ndarray
    milliseconds: float


def make_points(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns places between -3 and 3, shape (count, 1), and what is to be found there."""
    places = np.linspace(-3, 3, count, dtype=np.float32)[:, None]
    return places, np.sin(2 * places) * np.exp(-(places**2) / 4)


def dense(inputs: tf.Tensor, width: int, name: str, seed: int) -> tf.Tensor:
    """Returns a layer, as one wrote it then."""
    size = int(inputs.shape[1])
    initial = np.random.default_rng(seed).normal(scale=size**-0.5, size=(size, width))
    with tf.variable_scope(name):
        kernel = tf.get_variable("kernel", initializer=initial.astype(np.float32))
        bias = tf.get_variable("bias", initializer=np.linspace(-1, 1, width, dtype=np.float32))
    return inputs @ kernel + bias


def run(optimizer_class: type, steps: range, name: str, path: str, restore: bool = False) -> Result:
    """Trains in a graph and a session of its own; starts from and ends with a file of the Saver."""
    places, values = make_points(400)
    with tf.Graph().as_default(), tf.Session() as session:
        inputs = tf.placeholder(tf.float32, [None, 1])
        expected = tf.placeholder(tf.float32, [None, 1])
        hidden = tf.nn.tanh(dense(inputs, 256, "first", seed=0))
        hidden = tf.nn.tanh(dense(hidden, 256, "second", seed=1))
        outputs = dense(hidden, 1, "third", seed=2)
        loss = tf.reduce_mean((outputs - expected) ** 2)
        optimizer = optimizer_class(learning_rate=0.1, epsilon=1e-4)
        train_op = optimizer.minimize(loss)
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver()
        if restore:
            saver.restore(session, path)
        losses, times = [], []
        for step in tqdm(steps, desc=f"{name:<13}", unit=" steps"):
            rows = np.random.default_rng(step).integers(0, len(places), 64)
            start = time.perf_counter()
            feed = {inputs: places[rows], expected: values[rows]}
            losses.append(session.run([loss, train_op], feed)[0])
            times.append(time.perf_counter() - start)
        saver.save(session, path)
        return Result(
            losses,
            session.run(tf.trainable_variables()),
            session.run(outputs, {inputs: places}),
            1e3 * statistics.median(times),
        )


def plot(results: dict[str, Result], path: Path) -> None:
    """Writes the losses and the curves that were found as a PNG."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    places, values = make_points(400)
    axes[1].plot(places, values, color="black", lw=1, label="to be found")
    for (name, result), style in zip(results.items(), ("-", "--", ":")):
        axes[0].plot(result.losses, style, lw=1, label=name)
        axes[1].plot(places, result.curve, style, lw=2, label=name)
    axes[0].set(xlabel="step", ylabel="loss", yscale="log")
    axes[1].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Trains three times, and compares."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=Path("tf1_session.png"))
    arguments = parser.parse_args()
    tf.disable_control_flow_v2()
    whole = range(arguments.steps)
    first, second = range(arguments.steps // 2), range(arguments.steps // 2, arguments.steps)
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "TensorFlow's": run(STOCK, whole, "TensorFlow's", f"{folder}/stock"),
            "fused": run(FUSED, whole, "fused", f"{folder}/fused"),
        }
        before = run(STOCK, first, "first half", f"{folder}/half")
        after = run(FUSED, second, "restored", f"{folder}/half", restore=True)
    results["restored"] = after._replace(losses=before.losses + after.losses)
    print(f"\n{'':<14}{'first loss':>12}{'last loss':>12}{'largest diff.':>15}{'a step':>12}")
    stock = results["TensorFlow's"]
    for name, result in results.items():
        pairs = zip(result.weights, stock.weights)
        difference = max(float(np.max(np.abs(one - other))) for one, other in pairs)
        last = float(np.mean(result.losses[-20:]))
        print(
            f"{name:<14}{result.losses[0]:>12.5f}{last:>12.5f}{difference:>15.1e}"
            f"{result.milliseconds:>9.2f} ms"
        )
    print("(Sums are rounded in another order, and training amplifies the last bit step by step.)")
    plot(results, arguments.output)
    print(f"\nThe curves are in {arguments.output}.")


if __name__ == "__main__":
    main()
