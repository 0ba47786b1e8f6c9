"""Sparse gradients: what a step costs, and what it grows with. `python -m benchmarks.sparse`."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

import tf_adadelta
from benchmarks.command import make_parser, publish, show_progress
from benchmarks.contestants import EPSILON, LEARNING_RATE, RHO, Prepared, prepare_copy
from benchmarks.environment import describe_environment
from benchmarks.names import EAGER, FUNCTION, JIT
from benchmarks.plot import ACCENT, BACKGROUND, MUTED, TEXT
from benchmarks.report import environment_table, markdown_table
from benchmarks.timing import burst_on_cpu, measure
from tf_adadelta._library import serves_xla

_INDEX_SETS = 64  # A step takes the next of these: a row is touched again after many others.
_MODES = (EAGER, FUNCTION, *((JIT,) if serves_xla() else ()))
_EXACT = {mode: f"fused exact, {mode}" for mode in _MODES}
_LAZY = "fused lazy, tf.function"
_KERAS = "Keras tf.function"
_STOCK_LAZY = "TensorFlow's lazy op, duplicates summed in front"


@dataclasses.dataclass(frozen=True)
class Case:
    """A table and the way in which its rows are touched.

    Attributes:
        name: A short name.
        rows: The rows of the table.
        width: The elements of a row.
        count: The indices of a gradient.
        zipf: Whether they are Zipf-distributed (exponent 1.2) rather than uniform.
        rounds: How many samples each contestant gets.
        contestants: Who takes part.
    """

    name: str
    rows: int
    width: int
    count: int
    zipf: bool
    rounds: int
    contestants: tuple[str, ...]

    def indices(self) -> np.ndarray:
        """Draws the index sets, shape `(_INDEX_SETS, count)`."""
        rng = np.random.default_rng(0)
        size = (_INDEX_SETS, self.count)
        if self.zipf:
            return (rng.zipf(1.2, size) - 1) % self.rows
        return rng.integers(0, self.rows, size)


@dataclasses.dataclass(frozen=True)
class Row:
    """What one contestant took in one case, in milliseconds."""

    contestant: str
    median_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float
    ratio_to_exact: float


class Work:
    """One case ready to run: a gradient, and index sets to take in turn."""

    def __init__(self, case: Case) -> None:
        rng = np.random.default_rng(1)
        self.case = case
        self.shape = (case.rows, case.width)
        self.values = tf.constant(rng.standard_normal((case.count, case.width)), tf.float32)
        self.index_sets = case.indices()
        self.state = [tf.Variable(tf.zeros(self.shape)) for _ in range(3)]

    def prepared(
        self, step: Callable[[tf.Tensor], None], mode: str, variable: tf.Variable
    ) -> Prepared:
        """Returns a step that takes the next index set at every call."""
        indices = [tf.constant(rows) for rows in self.index_sets]
        if mode != EAGER:
            function = tf.function(step, autograph=False, jit_compile=mode == JIT)
            step = function.get_concrete_function(indices[0])
        turn = itertools.cycle(indices)
        return Prepared(lambda: step(next(turn)), lambda: [variable.numpy()])


def _prepare_optimizer(work: Work, make: Callable[..., keras.Optimizer], mode: str) -> Prepared:
    fused = make is not keras.optimizers.Adadelta
    table_variable = keras.Variable(work.state[0] if fused else tf.zeros(work.shape))
    optimizer = make(learning_rate=LEARNING_RATE, rho=RHO, epsilon=EPSILON)
    optimizer.build([table_variable])

    def step(indices: tf.Tensor) -> None:
        grad = tf.IndexedSlices(work.values, indices, tf.constant(work.shape))
        optimizer.apply([grad], [table_variable])

    return work.prepared(step, mode, table_variable.value)


def _prepare_stock_lazy(work: Work) -> Prepared:
    def step(indices: tf.Tensor) -> None:
        rows, group = tf.unique(indices)
        grad = tf.math.unsorted_segment_sum(work.values, group, tf.size(rows))
        tf.raw_ops.ResourceSparseApplyAdadelta(
            var=work.state[0].handle,
            accum=work.state[1].handle,
            accum_update=work.state[2].handle,
            lr=LEARNING_RATE,
            rho=RHO,
            epsilon=EPSILON,
            grad=grad,
            indices=rows,
        )

    return work.prepared(step, FUNCTION, work.state[0])


def _contestants() -> dict[str, Callable[[Work], Prepared]]:
    exact = tf_adadelta.Adadelta
    lazy = functools.partial(tf_adadelta.Adadelta, sparse_update="lazy")
    optimizer = functools.partial
    return {
        **{
            name: optimizer(_prepare_optimizer, make=exact, mode=mode)
            for mode, name in _EXACT.items()
        },
        _LAZY: optimizer(_prepare_optimizer, make=lazy, mode=FUNCTION),
        _KERAS: optimizer(_prepare_optimizer, make=keras.optimizers.Adadelta, mode=FUNCTION),
        _STOCK_LAZY: _prepare_stock_lazy,
    }


def _verify() -> None:
    """Compares every contestant with a float64 oracle over steps without duplicates."""
    case = Case("check", 50, 8, 20, False, 0, ())
    for name, prepare in _contestants().items():
        work = Work(case)
        work.index_sets = np.array(
            [np.random.default_rng(i).permutation(case.rows)[: case.count] for i in range(5)]
        )
        prepared = prepare(work)
        x, a, u = (np.zeros(work.shape) for _ in range(3))
        for rows in work.index_sets:
            prepared.step()
            touched = rows if name in (_LAZY, _STOCK_LAZY) else np.arange(case.rows)
            grad = np.zeros(work.shape)
            grad[rows] = work.values
            new_a = RHO * a + (1 - RHO) * grad**2
            delta = grad * np.sqrt(u + EPSILON) / np.sqrt(new_a + EPSILON)
            u[touched] = (RHO * u + (1 - RHO) * delta**2)[touched]
            a[touched] = new_a[touched]
            x -= LEARNING_RATE * delta
        if not np.allclose(prepared.values()[0], x, rtol=1e-5, atol=1e-6):
            raise RuntimeError(f"{name} does not compute the Adadelta update")


def _run(case: Case, advance: Callable[[str], None]) -> list[Row]:
    work = Work(case)
    contestants = _contestants()
    prepared = {name: contestants[name](work) for name in case.contestants}
    samples = measure(
        prepared, case.rounds, lambda name: advance(f"{case.name}: {name}"), burst_on_cpu
    )
    rows = []
    for name in case.contestants:
        lower, median, upper = np.percentile(samples[name], (25, 50, 75)) * 1e3
        ratio = np.median(np.divide(samples[name], samples[_EXACT[FUNCTION]]))
        rows.append(Row(name, median, lower, upper, float(ratio)))
    return rows


def _streaming_limit() -> float:
    """Returns the GB/s of the seven streams of a dense update with no arithmetic."""
    elements = 2**24
    contestants = {"limit": prepare_copy(elements)}
    seconds = np.median(measure(contestants, 9, lambda name: None, burst_on_cpu)["limit"])
    return 28 * elements / seconds / 1e9


def _cases(quick: bool) -> list[Case]:
    everybody = (*_EXACT.values(), _LAZY, _KERAS, _STOCK_LAZY)
    rows, count, rounds = (10_000, 256, 2) if quick else (1_000_000, 4096, 15)
    growing = (_EXACT[FUNCTION], _LAZY, _KERAS)
    return [
        Case("uniform", rows, 64, count, False, rounds, everybody),
        Case("zipf", rows, 64, count, True, rounds, everybody),
        *(
            Case(f"{size:,} rows", size, 16, count, False, rounds, growing)
            for size in ((1000, 10_000) if quick else (10**5, 10**6, 10**7))
        ),
        *(
            Case(f"{touched:,} indices", rows, 16, touched, False, rounds, growing[:2])
            for touched in ((64, 256) if quick else (64, 1024, 16_384, 262_144))
        ),
    ]


def _touched(case: Case) -> float:
    return float(np.mean([len(np.unique(rows)) for rows in case.indices()]))


def _report(results: Sequence[tuple[Case, list[Row]]], environment: dict, limit: float) -> str:
    parts = [
        "# Sparse gradients",
        "![Milliseconds a step against the rows of the table](sparse.png)",
        "A step is the whole `optimizer.apply` for one table with one sparse gradient (int64 "
        "indices, float32), each step with other indices; the stock lazy op is timed bare, with "
        "`tf.unique` and `unsorted_segment_sum` in front. × exact is the median of the ratios of "
        "all rounds to the fused exact update in `tf.function`. A touched row moves 28 bytes an "
        "element and 16 of its clock; a duplicate, 4 an element. Rows lie anywhere in memory, so "
        f"they move slower than streams: seven of those reach {limit:.0f} GB/s in the same run.",
    ]
    for case, rows in results:
        touched = _touched(case)
        moved = touched * (28 * case.width + 16) + (case.count - touched) * 4 * case.width
        body = [
            (
                row.contestant,
                f"{row.median_ms:.3f}",
                f"{row.lower_quartile_ms:.3f} – {row.upper_quartile_ms:.3f}",
                f"{moved / row.median_ms / 1e6:.2f}",
                f"{row.ratio_to_exact:.2f}",
            )
            for row in rows
        ]
        header = ("contestant", "median ms", "quartiles ms", "GB/s", "× exact")
        parts.append(
            f"## {case.name}\n\n{case.rows:,} × {case.width}, {case.count:,} "
            f"{'Zipf-distributed' if case.zipf else 'uniform'} indices, {touched:,.0f} rows "
            f"touched, {moved / touched:.0f} bytes moved for each; {case.rounds} rounds.\n\n"
            + markdown_table(header, body, "<>>>>")
        )
    parts.append(environment_table(environment))
    return "\n\n".join(parts) + "\n"


def _plot(results: Sequence[tuple[Case, list[Row]]], path: Path) -> None:
    colors = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), TEXT)
    with matplotlib.rc_context({"font.size": 9, **colors}):
        figure = Figure(figsize=(7, 3.4), facecolor=BACKGROUND, layout="constrained")
        panel = figure.subplots()
        growth = [(case, rows) for case, rows in results if case.name.endswith(" rows")]
        for name, color in ((_EXACT[FUNCTION], ACCENT), (_KERAS, MUTED)):
            times = [next(r.median_ms for r in rows if r.contestant == name) for _, rows in growth]
            panel.loglog([case.rows for case, _ in growth], times, "o-", color=color, label=name)
        panel.set_xlabel(f"rows of the table ({growth[0][0].count:,} of them touched in a step)")
        panel.set_ylabel("milliseconds a step")
        panel.legend(frameon=False)
        panel.set_facecolor(BACKGROUND)
        panel.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=110)


def main() -> None:
    """Verifies, measures, prints and writes."""
    arguments = make_parser("sparse", __doc__).parse_args()
    load = os.getloadavg()[0]
    threads = len(os.sched_getaffinity(0))
    os.environ["TF_ADADELTA_STRICT"] = "1"
    _verify()
    limit = _streaming_limit()
    cases = _cases(arguments.quick)
    with show_progress(sum(c.rounds * len(c.contestants) for c in cases)) as advance:
        results = [(case, _run(case, advance)) for case in cases]
    environment = describe_environment(threads, load)
    publish(
        arguments,
        "sparse",
        _report(results, environment, limit),
        environment,
        streaming_limit_gb_s=limit,
        cases=[
            {**dataclasses.asdict(case), "touched": _touched(case), "rows_measured": rows}
            for case, rows in (
                (case, [dataclasses.asdict(row) for row in rows]) for case, rows in results
            )
        ],
    )
    _plot(results, arguments.output / "sparse.png")


if __name__ == "__main__":
    main()
