"""A training loop of one's own: GradientTape, XLA, accumulation, clipping, a checkpoint.

    pip install ".[demo]" && python examples/custom_loop.py

Learns which of three spiral arms a point belongs to. A step of training is compiled by XLA
(`jit_compile=True`), optimizer included; gradients of four batches are summed before an update and
clipped by their norm, all in the one pass of `tf_adadelta.Adadelta`. Half-way, between two updates,
everything is written to a checkpoint. A second program, as it were, restores it and goes on: to the
same numbers, to the bit. The curve goes to custom_loop.png.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from tqdm import tqdm

import tf_adadelta

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ARMS = 3
BATCH = 128


def make_points(count: int, seed: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns points of spiral arms, shape (count, 2), and the number of the arm of each."""
    rng = np.random.default_rng(seed)
    arm = rng.integers(0, ARMS, count)
    radius = rng.random(count)
    angle = 2 * np.pi * arm / ARMS + 4 * radius + rng.normal(scale=0.15, size=count)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return tf.constant(points, tf.float32), tf.constant(arm)


class Training:
    """A model, its optimizer, and the loop."""

    def __init__(self) -> None:
        keras.utils.set_random_seed(0)
        self.model = keras.Sequential(
            [
                keras.Input((2,)),
                keras.layers.Dense(128, activation="relu"),
                keras.layers.Dense(128, activation="relu"),
                keras.layers.Dense(ARMS),
            ]
        )
        self.optimizer = tf_adadelta.Adadelta(
            learning_rate=1.0, epsilon=1e-6, gradient_accumulation_steps=4, global_clipnorm=1.0
        )
        self.optimizer.build(self.model.trainable_variables)
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.checkpoint = tf.train.Checkpoint(model=self.model, optimizer=self.optimizer)

    @tf.function(jit_compile=True)
    def step(self, points: tf.Tensor, arms: tf.Tensor) -> tf.Tensor:
        """Takes one step: every fourth one updates."""
        with tf.GradientTape() as tape:
            loss = self.loss(arms, self.model(points, training=True))
        variables = self.model.trainable_variables
        self.optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        return loss

    def run(self, steps: range, points: tf.Tensor, arms: tf.Tensor, name: str) -> list[float]:
        """Takes the steps of a range, each with a batch of its own, and returns the losses."""
        losses = []
        for step in tqdm(steps, desc=name, unit=" steps"):
            rows = np.random.default_rng(step).integers(0, len(arms), BATCH)
            losses.append(self.step(tf.gather(points, rows), tf.gather(arms, rows)))
        return [float(loss) for loss in losses]

    def accuracy(self, points: tf.Tensor, arms: tf.Tensor) -> float:
        """Returns the part of the points whose arm is found."""
        found = tf.argmax(self.model(points), axis=1)
        return float(tf.reduce_mean(tf.cast(found == arms, tf.float32)))


def largest_difference(one: Training, other: Training) -> float:
    """Returns the largest difference between what the two have learned and what they remember."""

    def values(training: Training) -> list[np.ndarray]:
        variables = (*training.model.variables, *training.optimizer.variables)
        return [keras.ops.convert_to_numpy(variable) for variable in variables]

    return max(float(np.max(np.abs(a - b))) for a, b in zip(values(one), values(other)))


def plot(losses: list[float], restored: list[float], predict: Callable, path: Path) -> None:
    """Writes the losses of both runs, and what the model says of the plane, as a PNG."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    axes[0].plot(losses, lw=3, alpha=0.4, label="in one go")
    start = len(losses) - len(restored)
    axes[0].plot(range(start, len(losses)), restored, lw=1, label="from the checkpoint")
    axes[0].set(xlabel="step", ylabel="loss")
    axes[0].legend()
    line = np.linspace(-1, 1, 200)
    plane = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2).astype(np.float32)
    arms = np.argmax(predict(plane), axis=1).reshape(200, 200)
    axes[1].imshow(arms, extent=(-1, 1, -1, 1), origin="lower", cmap="Set2")
    axes[1].set(title="the arm of each point")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Trains in one go, and again from the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--output", type=Path, default=Path("custom_loop.png"))
    arguments = parser.parse_args()
    half = arguments.steps // 2 + 1  # Not a multiple of four: gradients wait to be added.
    points, arms = make_points(6000, seed=0)
    test_points, test_arms = make_points(3000, seed=1)

    with tempfile.TemporaryDirectory() as folder:
        training = Training()
        rows = [("before", training.accuracy(test_points, test_arms), "")]
        losses = training.run(range(half), points, arms, "first half ")
        path = training.checkpoint.save(f"{folder}/half")
        rows.append(("at the checkpoint", training.accuracy(test_points, test_arms), ""))
        losses += training.run(range(half, arguments.steps), points, arms, "second half")

        again = Training()
        again.checkpoint.restore(path).assert_consumed()
        restored = again.run(range(half, arguments.steps), points, arms, "restored   ")
    rows.append(("in one go", training.accuracy(test_points, test_arms), "-"))
    difference = f"{largest_difference(again, training):.1e}"
    rows.append(("from the checkpoint", again.accuracy(test_points, test_arms), difference))

    print(f"\n{'':<22}{'accuracy':>10}{'largest difference':>21}")
    for name, accuracy, difference in rows:
        print(f"{name:<22}{accuracy:>10.2%}{difference:>21}")
    print(f"updates: {int(again.optimizer.iterations)}, of {arguments.steps} steps")
    plot(losses, restored, training.model.predict_on_batch, arguments.output)
    print(f"\nThe curves are in {arguments.output}.")


if __name__ == "__main__":
    main()
