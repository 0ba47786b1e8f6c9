"""Logistic regression in NumPy alone: the kernel on arrays, without TensorFlow.

    pip install ".[demo]" && python examples/numpy_kernel.py

Tells the paragraphs of Python's help topics that are about types from the others, by their words.
`kernels.fused_adadelta_apply` updates the weights in place; beside it the same update in NumPy's
own operations, for the numbers and for the time. The curves go to numpy_kernel.png.
"""

import argparse
import pydoc_data.topics
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from tqdm import tqdm

from tf_adadelta import kernels

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SIZE = 1 << 12  # Of the vectors that paragraphs become: words are numbered by a hash.
RHO, EPSILON = 0.95, 1e-6


def make_paragraphs() -> tuple[np.ndarray, np.ndarray]:
    """Returns a vector of words for each paragraph, and whether its topic is about types."""
    vectors, labels = [], []
    for topic, text in pydoc_data.topics.topics.items():
        for paragraph in text.split("\n\n"):
            words = re.findall(r"[a-z_]{3,}", paragraph.lower())
            if len(words) < 8:
                continue
            vector = np.zeros(SIZE, np.float32)
            for word in words:
                vector[int.from_bytes(word.encode(), "little") % 4093] = 1
            vectors.append(vector / np.sqrt(vector.sum()))
            labels.append(topic.startswith("types") or "mapping" in topic or "sequence" in topic)
    return np.stack(vectors), np.array(labels, np.float32)


def numpy_update(
    x: np.ndarray, accum: np.ndarray, accum_update: np.ndarray, grad: np.ndarray
) -> None:
    """The update as one writes it down, each operation a pass over memory."""
    accum[:] = RHO * accum + (1 - RHO) * grad**2
    delta = grad * np.sqrt(accum_update + EPSILON) / np.sqrt(accum + EPSILON)
    accum_update[:] = RHO * accum_update + (1 - RHO) * delta**2
    x -= delta


def fused_update(
    x: np.ndarray, accum: np.ndarray, accum_update: np.ndarray, grad: np.ndarray
) -> None:
    """The same in one pass."""
    kernels.fused_adadelta_apply(
        x, accum, accum_update, grad, learning_rate=1.0, rho=RHO, epsilon=EPSILON
    )


UPDATES: dict[str, Callable[..., None]] = {"NumPy": numpy_update, "fused": fused_update}


def train(update: Callable[..., None], name: str, steps: int) -> tuple[np.ndarray, list[float]]:
    """Returns the weights after so many steps, and the losses."""
    vectors, labels = make_paragraphs()
    x, accum, accum_update = (np.zeros(SIZE, np.float32) for _ in range(3))
    losses = []
    for step in tqdm(range(steps), desc=name, unit=" steps"):
        rows = np.random.default_rng(step).integers(0, len(labels), 64)
        products = vectors[rows] @ x
        losses.append(float(np.mean(np.logaddexp(0, products) - labels[rows] * products)))
        error = (1 / (1 + np.exp(-products)) - labels[rows]).astype(np.float32)
        update(x, accum, accum_update, vectors[rows].T @ error)
    return x, losses


def milliseconds(update: Callable[..., None], size: int, rounds: int = 9) -> float:
    """Returns the time of an update of so many elements."""
    arrays = [np.full(size, 0.5, np.float32) for _ in range(4)]
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        update(*arrays)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def main() -> None:
    """Trains with both, compares, and times."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--elements", type=int, default=4_000_000, help="of the update timed")
    parser.add_argument("--output", type=Path, default=Path("numpy_kernel.png"))
    arguments = parser.parse_args()
    vectors, labels = make_paragraphs()
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    results = {}
    title = f"{arguments.elements:,} elements"
    rows = [f"{'':<8}{'last loss':>11}{'accuracy':>10}{'largest diff.':>15}{title:>22}"]
    for (name, update), style in zip(UPDATES.items(), ({"lw": 4, "alpha": 0.4}, {"ls": "--"})):
        x, losses = results[name] = train(update, name, arguments.steps)
        accuracy = np.mean((vectors @ x > 0) == labels)
        difference = float(np.max(np.abs(x - results["NumPy"][0])))
        time_of_update = milliseconds(update, arguments.elements)
        rows.append(
            f"{name:<8}{np.mean(losses[-20:]):>11.4f}{accuracy:>10.2%}{difference:>15.1e}"
            f"{time_of_update:>19.2f} ms"
        )
        axis.plot(losses, label=name, **style)
    print(f"\n{len(labels):,} paragraphs, {labels.mean():.0%} of them about types")
    print("\n".join(rows))
    axis.set(xlabel="step", ylabel="loss")
    axis.legend()
    figure.savefig(arguments.output, dpi=120)
    print(f"\nThe curves are in {arguments.output}.")


if __name__ == "__main__":
    main()
