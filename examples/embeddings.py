"""Trains word vectors on text that every machine has, with Keras's Adadelta and with the fused one.

    pip install ".[demo]" && python examples/embeddings.py

The text is Python's own documentation: the help topics and the docstrings of the standard library,
NumPy, Keras and TensorFlow. The model is skip-gram with negative sampling: two tables with a
vector for each word, of which a step touches a few thousand rows. Keras passes over both tables in
every step; `tf_adadelta.Adadelta` touches the rows that have a gradient, with the same result
("exact") or without the decay of the others ("lazy"). All three take the same steps; then the exact
one goes on for some seconds, and prints the nearest neighbours of a few words. The curves go to
embeddings.png.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import collections
import itertools
import pydoc_data.topics
import re
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from tqdm import tqdm

import tf_adadelta

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "Keras": lambda: keras.optimizers.Adadelta(1.0, epsilon=1e-6),
    "fused, exact": lambda: tf_adadelta.Adadelta(1.0, epsilon=1e-6),
    "fused, lazy": lambda: tf_adadelta.Adadelta(1.0, epsilon=1e-6, sparse_update="lazy"),
}
WINDOW = 5
NEGATIVES = 5
ASKED = ("list", "float", "matrix", "gradient", "optimizer", "thread", "file", "import", "returns")


def read_words(limit: int) -> list[str]:
    """Returns the words of the documentation, at most `limit` of them."""
    folders = [
        Path(sysconfig.get_path("stdlib")),
        *(Path(module.__file__).parent for module in (np, keras, tf)),
    ]
    words: list[str] = []
    with tqdm(total=limit, desc="reading", unit=" words", unit_scale=True) as bar:
        for text in itertools.chain(pydoc_data.topics.topics.values(), docstrings(folders)):
            new = re.findall(r"[a-z][a-z_]+", text.lower())
            words += new
            bar.update(len(new))
            if len(words) >= limit:
                break
    return words[:limit]


def docstrings(folders: list[Path]) -> Iterator[str]:
    """Yields what stands between triple quotes in the files of folders, in turn from each."""
    files = [sorted(folder.rglob("*.py")) for folder in folders]
    for path in filter(None, itertools.chain.from_iterable(itertools.zip_longest(*files))):
        if "test" not in path.name:
            source = path.read_text(encoding="utf-8", errors="ignore")
            yield from re.findall(r'"""(.*?)"""', source, re.DOTALL)


class Text(NamedTuple):
    """The words, and the text as their numbers, the most frequent first."""

    vocabulary: list[str]
    numbers: np.ndarray
    noise: np.ndarray


def prepare(words: list[str], size: int) -> Text:
    """Numbers the words, drops some of the frequent ones, and makes what negatives come from."""
    counts = collections.Counter(words).most_common(size)
    number_of = {word: number for number, (word, _) in enumerate(counts)}
    numbers = np.array([number_of[word] for word in words if word in number_of], np.int32)
    frequency = np.array([count for _, count in counts], np.float64) / len(words)
    rng = np.random.default_rng(0)
    kept = rng.random(len(numbers)) < np.sqrt(1e-4 / frequency)[numbers]
    weights = frequency**0.75
    noise = rng.choice(len(counts), size=1_000_000, p=weights / weights.sum())
    return Text(list(number_of), numbers[kept], noise.astype(np.int32))


def batches(text: Text, size: int) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Yields words, and for each a word near it followed by words from anywhere."""
    rng = np.random.default_rng(1)
    while True:
        at = rng.integers(WINDOW, len(text.numbers) - WINDOW, size)
        offset = rng.integers(1, WINDOW + 1, size) * rng.choice([-1, 1], size)
        others = rng.choice(text.noise, (size, NEGATIVES))
        near = np.concatenate([text.numbers[at + offset][:, None], others], axis=1)
        yield tf.constant(text.numbers[at]), tf.constant(near)


class Training:
    """Two tables, an optimizer, and what it has done."""

    def __init__(self, optimizer: keras.optimizers.Optimizer, words: int, width: int) -> None:
        rng = np.random.default_rng(2)
        vectors = (rng.random((words, width), np.float32) - 0.5) / width
        self.tables = [keras.Variable(vectors), keras.Variable(np.zeros_like(vectors))]
        self.optimizer = optimizer
        self.optimizer.build(self.tables)
        self.losses: list[float] = []
        self.seconds: list[float] = []

    @tf.function
    def _step(self, words: tf.Tensor, near: tf.Tensor) -> tf.Tensor:
        tables = [table.value for table in self.tables]
        with tf.GradientTape() as tape:
            products = tf.einsum("bw,bnw->bn", *map(tf.gather, tables, (words, near)))
            labels = tf.concat([tf.ones_like(near[:, :1]), tf.zeros_like(near[:, 1:])], axis=1)
            losses = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(labels, tf.float32), products)
            loss = tf.reduce_sum(losses)  # Not the mean: a row has a gradient for each of its uses.
        self.optimizer.apply(tape.gradient(loss, tables), self.tables)
        return loss / tf.cast(len(words), tf.float32)

    def step(self, words: tf.Tensor, near: tf.Tensor) -> None:
        """Takes a step and notes its loss and its time."""
        start = time.perf_counter()
        self.losses.append(float(self._step(words, near)))
        self.seconds.append(time.perf_counter() - start)

    @property
    def milliseconds(self) -> float:
        """The median time of a step, the first ones, which trace, left out."""
        return 1e3 * float(np.median(self.seconds[2:]))


def train(text: Text, arguments: argparse.Namespace) -> dict[str, Training]:
    """Takes the same steps with each optimizer, one after the other, as training has it."""
    trainings = {}
    for name, make in OPTIMIZERS.items():
        training = Training(make(), len(text.vocabulary), arguments.width)
        source = itertools.islice(batches(text, arguments.batch_size), arguments.steps)
        for batch in tqdm(source, total=arguments.steps, desc=f"{name:<12}", unit=" steps"):
            training.step(*batch)
        trainings[name] = training
    return trainings


def go_on(training: Training, text: Text, arguments: argparse.Namespace) -> None:
    """Trains for some more seconds."""
    end = time.perf_counter() + arguments.seconds
    source = itertools.islice(batches(text, arguments.batch_size), len(training.losses), None)
    with tqdm(desc="exact, on   ", unit=" steps") as bar:
        for batch in source:
            training.step(*batch)
            bar.update()
            if time.perf_counter() > end:
                break


def print_table(trainings: dict[str, Training], steps: int) -> None:
    """Prints time and loss of each, over the steps that all have taken."""
    keras_time = trainings["Keras"].milliseconds
    print(f"\n{'':<14}{'a step':>12}{'Keras takes':>13}{'first loss':>12}{'last loss':>11}")
    for name, training in trainings.items():
        ratio = f"{keras_time / training.milliseconds:.1f} x"
        losses = training.losses[:steps]
        tail = float(np.mean(losses[-max(1, steps // 10) :]))
        print(
            f"{name:<14}{training.milliseconds:>9.2f} ms{ratio:>13}{losses[0]:>12.3f}{tail:>11.3f}"
        )


def neighbours(training: Training, vocabulary: list[str], word: str, count: int = 6) -> list[str]:
    """Returns the words whose vectors have the smallest angle to that of a word."""
    vectors = training.tables[0].numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.argsort(-(vectors @ vectors[vocabulary.index(word)]))
    return [vocabulary[number] for number in order[1 : count + 1]]


def plot(trainings: dict[str, Training], steps: int, path: Path) -> None:
    """Writes the loss over the steps, and over the seconds that they took, as a PNG."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    for name, training in trainings.items():
        width = max(1, min(25, steps // 4))
        smooth = np.convolve(training.losses, np.ones(width) / width, mode="valid")
        passed = np.cumsum(training.seconds)[width - 1 :]
        axes[0].plot(smooth[: steps - width + 1], label=f"{name}, {training.milliseconds:.1f} ms")
        axes[1].plot(passed, smooth, label=name)
    axes[0].set(xlabel="step", ylabel="loss")
    axes[1].set(xlabel="seconds in steps")
    axes[0].legend()
    figure.suptitle("Skip-gram on Python's documentation: what the optimizer makes of it")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Reads, trains, compares."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--words", type=int, default=2_000_000, help="of the text")
    parser.add_argument("--vocabulary", type=int, default=30_000)
    parser.add_argument("--width", type=int, default=128, help="of a vector")
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=200, help="of each optimizer")
    parser.add_argument("--seconds", type=float, default=30, help="that the exact one goes on")
    parser.add_argument("--output", type=Path, default=Path("embeddings.png"))
    arguments = parser.parse_args()
    text = prepare(read_words(arguments.words), arguments.vocabulary)
    print(f"{len(text.vocabulary):,} words, of which the text has {len(text.numbers):,} in a row")
    trainings = train(text, arguments)
    go_on(trainings["fused, exact"], text, arguments)
    print_table(trainings, arguments.steps)
    print("(Keras counts rows that come twice in a batch differently, hence the other losses.)\n")
    for word in ASKED:
        if word in text.vocabulary:
            nearest = neighbours(trainings["fused, exact"], text.vocabulary, word)
            print(f"{word:<10} {', '.join(nearest)}")
    plot(trainings, arguments.steps, arguments.output)
    print(f"\nThe curves are in {arguments.output}.")


if __name__ == "__main__":
    main()
