"""What the state of the optimizer takes of a process's memory. `python -m benchmarks.memory`.

For each form a process of its own makes a variable, reads how much memory it has in use, builds the
optimizer, takes some steps and reads it again.
"""

import dataclasses
import multiprocessing
import os
import resource
from pathlib import Path

import keras

import tf_adadelta
from benchmarks.command import make_parser, publish, show_progress
from benchmarks.environment import describe_environment
from benchmarks.report import environment_table, markdown_table
from benchmarks.rounding import FORMS

_STOCK = "float32, keras.optimizers.Adadelta"
_FORMS = {_STOCK: FORMS["float32"], **FORMS}
_QUICK_FORMS = ("float32", "float32, averages in 8 bits")
_ROW = 1024
_STEPS = 3


@dataclasses.dataclass(frozen=True)
class Row:
    """What the state of one form took of the process."""

    form: str
    bytes_an_element: float


def _in_use() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _make(form: str, elements: int) -> tuple[keras.optimizers.Optimizer, list[keras.Variable]]:
    dtype, arguments = _FORMS[form]
    cls = keras.optimizers.Adadelta if form == _STOCK else tf_adadelta.Adadelta
    variable = keras.Variable("ones", shape=(elements // _ROW, _ROW), dtype=dtype)
    return cls(1.0, **arguments), [variable]


def _step(optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]) -> None:
    for _ in range(_STEPS):
        optimizer.apply([variable.value for variable in variables], variables)


def _measure(task: tuple[str, int]) -> Row:
    form, elements = task
    _step(*_make(form, 16 * _ROW))  # What the first step loads is not state.
    optimizer, variables = _make(form, elements)
    before = _in_use()
    optimizer.build(variables)
    _step(optimizer, variables)
    return Row(form, (_in_use() - before) / elements)


def _report(rows: list[Row], elements: int, environment: dict) -> str:
    body = [(row.form, f"{row.bytes_an_element:.2f}") for row in rows]
    return (
        "# Memory of the optimizer's state\n\n"
        f"A variable of {elements:,} elements in rows of {_ROW:,}: bytes an element that a process "
        f"has in use more after {_STEPS} steps than before the optimizer was built "
        "(`TF_ENABLE_ONEDNN_OPTS=0`: oneDNN's allocator keeps what is freed).\n\n"
        + markdown_table(("form", "bytes an element"), body, "<>")
        + "\n\n"
        + environment_table(environment)
        + "\n"
    )


def main() -> None:
    """Measures, prints and writes."""
    arguments = make_parser("memory", __doc__).parse_args()
    elements = 2**24 if arguments.quick else 2**26
    forms = _QUICK_FORMS if arguments.quick else _FORMS
    load = os.getloadavg()[0]
    rows = []
    # With oneDNN, TensorFlow allocates from a pool that keeps the temporaries of an update.
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    # Memory that one form has given back another could take again.
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool, show_progress(len(forms)) as advance:
        for row in pool.imap(_measure, [(form, elements) for form in forms], chunksize=1):
            advance(row.form)
            rows.append(row)
    environment = describe_environment(len(os.sched_getaffinity(0)), load)
    publish(
        arguments,
        "memory",
        _report(rows, elements, environment),
        environment,
        elements=elements,
        rows=[dataclasses.asdict(row) for row in rows],
    )


if __name__ == "__main__":
    main()
