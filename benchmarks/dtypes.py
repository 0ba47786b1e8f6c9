"""What fewer bytes gain: dtypes by instruction set. `python -m benchmarks.dtypes`.

Dense updates, sparse ones and norms through the NumPy door, for each instruction set that this
processor has, each dtype side by side with float32 and with a copy of the bytes that it moves.
"""

import dataclasses
import functools
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from benchmarks.command import make_parser, show_progress, write_results
from benchmarks.contestants import EPSILON, LEARNING_RATE, RHO, Prepared
from benchmarks.environment import describe_environment
from benchmarks.report import environment_table, markdown_table
from benchmarks.timing import burst_on_cpu, measure
from tf_adadelta import kernels

_DTYPES = {name: tf.as_dtype(name).as_numpy_dtype for name in ("float16", "bfloat16", "float32")}
_STOCHASTIC = "bfloat16, stochastic"  # Rounded so, beside bfloat16 rounded to the nearest.
_DTYPES[_STOCHASTIC] = _DTYPES["bfloat16"]
_NARROW_STATE = "float32, averages in bfloat16"
_DTYPES[_NARROW_STATE] = _DTYPES["float32"]
_HYPERPARAMETERS = {"learning_rate": LEARNING_RATE, "rho": RHO, "epsilon": EPSILON}
_WIDTH = 64


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
        self.grad = np.resize(numbers, elements)
        of_state = _DTYPES["bfloat16" if dtype == _NARROW_STATE else dtype]
        self.state = [
            np.zeros(elements, array_dtype) for array_dtype in (_DTYPES[dtype], of_state, of_state)
        ]
        self.tables = [array.reshape(-1, _WIDTH) for array in self.state]
        self.indices = np.sort(rng.permutation(elements // _WIDTH)[:rows])
        self.values = np.resize(numbers, (rows, _WIDTH))
        self.clock = np.zeros(elements // _WIDTH + 1, np.int64)
        random = dtype in (_STOCHASTIC, _NARROW_STATE)
        self.rounding = {"random_seeds": [1]} if random else {}

    def calls(self, instruction_set: str) -> dict[str, Callable[[], object]]:
        """Returns a call of each kernel, by name."""
        chosen = {"instruction_set": instruction_set}
        update = functools.partial(
            kernels.fused_adadelta_apply, *self.state, self.grad, **self.rounding
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
                kernels.fused_adadelta_sparse_apply,
                *self.tables,
                self.values,
                self.indices,
                clocks=self.clock,
                **self.rounding,
                **_HYPERPARAMETERS,
                **chosen,
            ),
            "norms": functools.partial(kernels.squared_norms, self.grad, **chosen),
            "copy": functools.partial(kernels.copy_streams, *self.state, self.grad, **chosen),
        }
        if self.rounding:
            del calls["norms"]  # Which are those of the other forms.
        return calls


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
        "float32, 20 with averages in bfloat16): medians of the ratios of all rounds.\n\n"
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
    text = _report(rows, elements, environment)
    print(text)
    content = {
        "quick": arguments.quick,
        "environment": environment,
        "elements": elements,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    write_results(arguments.output, "dtypes", content, text)


if __name__ == "__main__":
    main()
