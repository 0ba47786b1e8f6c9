"""What fewer bytes gain: dtypes by instruction set. `python -m benchmarks.dtypes`.

Dense updates, sparse ones and norms through the NumPy door, for each instruction set that this
processor has, each dtype side by side with float32 and with a copy of the bytes that it moves.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from benchmarks.command import make_parser, publish, show_progress
from benchmarks.contestants import EPSILON, LEARNING_RATE, RHO, Prepared
from benchmarks.environment import describe_environment
from benchmarks.report import environment_table, markdown_table
from benchmarks.timing import burst_on_cpu, measure
from tf_adadelta import _block_codes, kernels

_DTYPES = {name: tf.as_dtype(name).as_numpy_dtype for name in ("float16", "bfloat16", "float32")}
_STOCHASTIC = "bfloat16, stochastic"  # Rounded so, beside bfloat16 rounded to the nearest.
_DTYPES[_STOCHASTIC] = _DTYPES["bfloat16"]
_NARROW_STATE = "float32, averages in bfloat16"
_DTYPES[_NARROW_STATE] = _DTYPES["float32"]
_BLOCKS = "float32, averages in 8 bits"
_DTYPES[_BLOCKS] = _DTYPES["float32"]
_HYPERPARAMETERS = {"learning_rate": LEARNING_RATE, "rho": RHO, "epsilon": EPSILON}
_WIDTH = 64
_DENSE_WIDTH = 1024


@dataclasses.dataclass(frozen=True)
class Row:
    """What one dtype took: the medians of milliseconds and of ratios within a round.

    `of_copy` is None where nothing with the same streams is there to compare it with.
    """

    instruction_set: str
    kernel: str
    dtype: str
    median_ms: float
    times_float32: float
    of_copy: float | None


class Work:
    """The arrays of one dtype, some of which each kernel takes."""

    def __init__(self, dtype: str, elements: int, rows: int) -> None:
        rng = np.random.default_rng(0)
        numbers = rng.standard_normal(2**20, np.float32).astype(_DTYPES[dtype])
        self.grad = np.resize(numbers, (elements // _DENSE_WIDTH, _DENSE_WIDTH))
        variable = np.zeros(elements, _DTYPES[dtype])
        self.state, self.tables = (
            [variable.reshape(-1, width), *(_average(dtype, elements, width) for _ in range(2))]
            for width in (_DENSE_WIDTH, _WIDTH)
        )
        self.indices = np.sort(rng.permutation(elements // _WIDTH)[:rows])
        self.values = np.resize(numbers, (rows, _WIDTH))
        self.clock = np.zeros(elements // _WIDTH + 1, np.int64)
        self.is_random = dtype in (_STOCHASTIC, _NARROW_STATE, _BLOCKS)

    def calls(self, instruction_set: str) -> dict[str, Callable[[], object]]:
        """Returns a call of each kernel, by name."""
        chosen = {"instruction_set": instruction_set}
        update = functools.partial(
            self._rounded(kernels.fused_adadelta_apply), *self.state, self.grad
        )
        calls = {
            "dense": functools.partial(update, **_HYPERPARAMETERS, **chosen),
            "dense, all options": functools.partial(
                update,
                averages=self.state[0].copy(),
                grad_accums=self.state[0].copy(),
                clipvalue=1.0,
                weight_decay=1e-3,
                ema_momentum=0.99,
                **_HYPERPARAMETERS,
                **chosen,
            ),
            "sparse": functools.partial(
                self._rounded(kernels.fused_adadelta_sparse_apply),
                *self.tables,
                self.values,
                self.indices,
                clocks=self.clock,
                **_HYPERPARAMETERS,
                **chosen,
            ),
            "norms": functools.partial(kernels.squared_norms, self.grad, **chosen),
            # Of arrays of its own, which it fills with what are no averages.
            "copy": functools.partial(
                kernels.copy_streams,
                *(array.copy() for array in self.state),
                self.grad,
                **chosen,
            ),
        }
        if self.is_random:
            del calls["norms"]  # Which are those of the other forms.
        return calls

    def _rounded(self, update: Callable[..., object]) -> Callable[..., object]:
        """Gives each call the random bits of a step of its own, with which averages stay put."""
        if not self.is_random:
            return update
        steps = itertools.count()
        return lambda *args, **kwargs: update(*args, random_seeds=[1], step=next(steps), **kwargs)


def _average(dtype: str, elements: int, width: int) -> np.ndarray:
    """Returns an average of a variable with rows of that width, all zeros."""
    shape = (elements // width, width)
    if dtype == _BLOCKS:
        return np.zeros(_block_codes.stored_shape(shape), np.uint8)
    return np.zeros(shape, _DTYPES["bfloat16" if dtype == _NARROW_STATE else dtype])


def _run(
    instruction_set: str, elements: int, rounds: int, advance: Callable[[str], None]
) -> list[Row]:
    calls = {
        dtype: Work(dtype, elements, elements // _WIDTH // 8).calls(instruction_set)
        for dtype in _DTYPES
    }
    rows = []
    for kernel in calls["float32"]:
        if kernel == "copy":
            continue
        taken = (kernel, "copy") if kernel == "dense" else (kernel,)
        contestants = {
            f"{what} {dtype}": Prepared(calls[dtype][what], list)
            for dtype in _DTYPES
            for what in taken
            if what in calls[dtype]
        }
        samples = measure(
            contestants,
            rounds,
            lambda name: advance(f"{instruction_set}: {name}"),
            burst_on_cpu,
        )

        def ratio(over: str, under: str, samples: dict[str, list[float]] = samples) -> float:
            return float(np.median(np.divide(samples[over], samples[under])))

        for dtype in _DTYPES:
            if kernel not in calls[dtype]:
                continue
            own = f"{kernel} {dtype}"
            rows.append(
                Row(
                    instruction_set,
                    kernel,
                    dtype,
                    float(np.median(samples[own])) * 1e3,
                    ratio(f"{kernel} float32", own),
                    ratio(f"copy {dtype}", own) if "copy" in taken else None,
                )
            )
    return rows


def _report(rows: list[Row], elements: int, environment: dict) -> str:
    body = [
        (
            row.instruction_set,
            row.kernel,
            row.dtype,
            f"{row.median_ms:.2f}",
            f"{row.times_float32:.2f}",
            "" if row.of_copy is None else f"{row.of_copy:.2f}",
        )
        for row in rows
    ]
    header = ("instruction set", "kernel", "dtype", "median ms", "× float32", "of its copy limit")
    return (
        "# Dtypes by instruction set\n\n"
        f"{elements:,} elements; *sparse* touches one in eight of the rows of {_WIDTH} that they "
        "make, each once. *× float32* is how many times as fast as float32, *of its copy limit* "
        "the part of the speed of a copy of the same bytes (14 an element in 16 bits, 28 in "
        "float32, 20 with averages in bfloat16, 16 in 8 bits): medians of the ratios of all "
        "rounds.\n\n"
        + markdown_table(header, body, "<<<>>>")
        + "\n\n"
        + environment_table(environment)
        + "\n"
    )


def main() -> None:
    """Measures, prints and writes."""
    arguments = make_parser("dtypes", __doc__).parse_args()
    load = os.getloadavg()[0]
    elements, rounds = (2**16, 2) if arguments.quick else (2**24, 15)
    instruction_sets = kernels.instruction_sets()
    # Four kernels, and the copy once; but no norms of what is rounded stochastically.
    total = len(instruction_sets) * (len(_DTYPES) * 5 - 2) * rounds
    with show_progress(total) as advance:
        rows = [row for name in instruction_sets for row in _run(name, elements, rounds, advance)]
    environment = describe_environment(len(os.sched_getaffinity(0)), load)
    publish(
        arguments,
        "dtypes",
        _report(rows, elements, environment),
        environment,
        elements=elements,
        rows=[dataclasses.asdict(row) for row in rows],
    )


if __name__ == "__main__":
    main()
