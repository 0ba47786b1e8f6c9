"""Trains in float16 with loss scaling, where Keras's wrapper and ours do the same in other passes.

    pip install ".[demo]" && python examples/mixed_precision.py

Under the policy `mixed_float16` layers compute in float16 and small gradients would vanish, so the
loss is multiplied by a scale, and the gradients are divided by it before the update; where one of
them overflows, the step is left out and the scale halved. `keras.optimizers.LossScaleOptimizer`
does that in two passes over all gradients; `tf_adadelta.LossScaleOptimizer` has the division in the
update, and learns from the norms, which clipping needs anyway, whether all gradients are finite.
Shown: the losses, the scale, the time of the optimizer's step. (A CPU computes in float16 slowly:
it is the optimizer that is compared here.) The curves go to mixed_precision.png.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import statistics
import time
from pathlib import Path

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from tqdm import tqdm

import tf_adadelta

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SCALING = {"initial_scale": 2.0**17, "dynamic_growth_steps": 100}
CHOICES = {"learning_rate": 1.0, "epsilon": 1e-6, "global_clipnorm": 1.0}


def make_optimizers() -> dict[str, keras.optimizers.Optimizer]:
    """Returns the two to compare."""
    return {
        "Keras": keras.optimizers.LossScaleOptimizer(
            keras.optimizers.Adadelta(**CHOICES), **SCALING
        ),
        "fused": tf_adadelta.LossScaleOptimizer(tf_adadelta.Adadelta(**CHOICES), **SCALING),
    }


def make_data(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns points, shape (count, 64), and the class of each, which is not linear in them."""
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((count, 64)).astype(np.float32)
    classes = (points[:, 0] * points[:, 1] > 0) + 2 * (points[:, 2] + points[:, 3] ** 2 > 1)
    return points, classes


def make_model(optimizer: keras.optimizers.Optimizer, width: int) -> keras.Model:
    """Returns the network, always with the same initial weights."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(width, activation="relu"),
            keras.layers.Dense(width, activation="relu"),
            keras.layers.Dense(4, dtype="float32"),  # The loss is one of float32.
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
    return model


def train(model: keras.Model, name: str, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Trains, and returns the loss and the scale after each step."""
    points, classes = make_data(8000, seed=0)
    curves: dict[str, list[float]] = {"loss": [], "scale": []}
    for step in tqdm(range(arguments.steps), desc=name, unit=" steps"):
        rows = np.random.default_rng(step).integers(0, len(points), arguments.batch_size)
        model.reset_metrics()
        curves["loss"].append(float(model.train_on_batch(points[rows], classes[rows])))
        curves["scale"].append(float(model.optimizer.dynamic_scale))
    return curves


def milliseconds_of_a_step(model: keras.Model, rounds: int = 30) -> float:
    """Returns the time of the optimizer's step alone, in `tf.function`."""
    variables = model.trainable_variables
    grads = [tf.random.normal(variable.shape) for variable in variables]
    step = tf.function(lambda: model.optimizer.apply(grads, variables))
    step()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def plot(curves: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Writes the losses and the scales as a PNG."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, style in zip(curves, ({"lw": 4, "alpha": 0.4}, {"lw": 1.5, "ls": "--"})):
        for axis, what in zip(axes, ("loss", "scale")):
            axis.plot(curves[name][what], label=name, **style)
            axis.set(xlabel="step", ylabel=what)
    axes[1].set_yscale("log", base=2)
    axes[0].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Trains with both, compares, and times."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--width", type=int, default=1024, help="of the hidden layers")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--output", type=Path, default=Path("mixed_precision.png"))
    arguments = parser.parse_args()
    keras.config.set_dtype_policy("mixed_float16")
    test = make_data(2000, seed=1)
    curves, rows = {}, []
    for name, optimizer in make_optimizers().items():
        model = make_model(optimizer, arguments.width)
        curves[name] = train(model, name, arguments)
        accuracy = float(np.mean(np.argmax(model.predict(test[0], verbose=0), axis=1) == test[1]))
        losses = curves[name]["loss"]
        scale = curves[name]["scale"][-1]
        skipped = arguments.steps - int(optimizer.inner_optimizer.iterations)
        time_of_step = milliseconds_of_a_step(model)
        rows.append(
            f"{name:<8}{losses[0]:>11.4f}{np.mean(losses[-20:]):>11.4f}{accuracy:>10.2%}"
            f"{scale:>9.0f}{skipped:>10}{time_of_step:>12.2f} ms"
        )
    head = f"{'first loss':>11}{'last loss':>11}{'accuracy':>10}{'scale':>9}{'left out':>10}"
    print(f"\n{'':<8}{head}{'optimizer':>15}")
    print("\n".join(rows))
    plot(curves, arguments.output)
    print(f"\nThe curves are in {arguments.output}.")


if __name__ == "__main__":
    main()
