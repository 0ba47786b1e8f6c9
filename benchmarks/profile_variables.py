"""Where the time of a variable goes: `python -m benchmarks.profile_variables`.

For 1,000 variables of 256 elements, in which the bytes hardly count. TensorFlow has no clock for
its layers, so each is timed by what it adds: the same variables and gradients are handed to
functions that do more and more, one after the other in every round.
"""

import argparse
import cProfile
import os
import pstats
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.function.capture import capture_container

import tf_adadelta
from benchmarks.contestants import EPSILON, LEARNING_RATE, RHO, Prepared, make_optimizer
from benchmarks.report import markdown_table
from benchmarks.timing import burst_on_cpu, measure

_ROUNDS = 31
_REPEATED = 5  # How often an operation is repeated to see what it adds.
_SCALARS = {"learning_rate": LEARNING_RATE, "rho": RHO, "epsilon": EPSILON}

Step = Callable[[], object]


class _Lists:
    """Variables with their averages, and gradients."""

    def __init__(self, count: int, elements: int) -> None:
        self.state = [[tf.Variable(tf.zeros([elements])) for _ in range(count)] for _ in range(3)]
        self.grads = [tf.ones([elements]) for _ in range(count)]

    @property
    def handles(self) -> list[tf.Tensor]:
        return [variable.handle for variables in self.state for variable in variables]

    def fused(self) -> None:
        tf_adadelta.ops.fused_adadelta_apply(*self.state, self.grads, **_SCALARS)

    def stock(self) -> None:
        for variable, accum, accum_update, grad in zip(*self.state, self.grads):
            tf.raw_ops.ResourceApplyAdadelta(
                var=variable.handle,
                accum=accum.handle,
                accum_update=accum_update.handle,
                lr=LEARNING_RATE,
                rho=RHO,
                epsilon=EPSILON,
                grad=grad,
            )


def _nothing(inputs: Sequence[tf.Tensor], times: int = 1) -> Step:
    """Returns a step with an operation that takes all the inputs and does nothing with them."""
    always = tf.Variable(True)

    def step() -> None:
        condition = always.read_value()
        for _ in range(times):
            tf.raw_ops.Assert(condition=condition, data=[condition, *inputs])

    return step


def _traced(step: Step, grads_as_constants: bool = False) -> Step:
    """Traces a step; gradients are arguments of the function whatever their size, or constants."""
    threshold = capture_container._EAGER_CONST_THRESHOLD
    capture_container._EAGER_CONST_THRESHOLD = 2**30 if grads_as_constants else -1
    try:
        return tf.function(step, autograph=False).get_concrete_function()
    finally:
        capture_container._EAGER_CONST_THRESHOLD = threshold


def _numpy(count: int, elements: int) -> Step:
    arrays = [[np.ones(elements, np.float32) for _ in range(count)] for _ in range(4)]
    return lambda: tf_adadelta.kernels.fused_adadelta_apply(*arrays, **_SCALARS)


def _steps(count: int, elements: int) -> dict[str, Step]:
    lists, empty = _Lists(count, elements), _Lists(count, 0)
    inputs = [*lists.handles, *lists.grads]
    return {
        "call": _traced(_nothing([])),
        "nothing": _traced(_nothing(inputs)),
        "nothing, handles": _traced(_nothing(lists.handles)),
        "nothing, repeated": _traced(_nothing(inputs, 1 + _REPEATED)),
        "fused, empty": _traced(empty.fused),
        "fused": _traced(lists.fused),
        "fused, constants": _traced(lists.fused, grads_as_constants=True),
        "stock": _traced(lists.stock),
        "NumPy, one array": _numpy(1, count * elements),
        "NumPy": _numpy(count, elements),
    }


def _layers(steps: dict[str, Step], count: int, rounds: int) -> list[tuple[str, float]]:
    """Returns the layers and what they take, in microseconds a variable."""
    samples = measure(
        {name: Prepared(step, list) for name, step in steps.items()},
        rounds,
        lambda name: None,
        burst_on_cpu,
    )
    # Differences round by round: what disturbs a round disturbs both sides.
    took = {name: 1e6 * np.array(values) / count for name, values in samples.items()}
    into_op = (took["nothing, repeated"] - took["nothing"]) / _REPEATED
    arguments = took["nothing"] - took["call"] - into_op
    of_handles = took["nothing, handles"] - took["call"] - 0.75 * into_op
    layers = {
        "the call of a tf.function with no arguments": took["call"],
        "arguments: 3 handles, from Python into the executor": of_handles,
        "arguments: 1 gradient, likewise": arguments - of_handles,
        "4 edges from the arguments to the operation": into_op,
        "lookup, lock and validation of 3 variables": took["fused, empty"] - took["nothing"],
        "the update of the elements": took["fused"] - took["fused, empty"],
        "**all of it: the fused update**": took["fused"],
        "the same with the gradients as constants": took["fused, constants"],
        "ResourceApplyAdadelta, one for each variable": took["stock"],
        "the NumPy kernel on as many arrays": took["NumPy"],
        "the NumPy kernel on one array of all elements": took["NumPy, one array"],
    }
    return [(name, float(np.median(values))) for name, values in layers.items()]


def _eager(count: int, elements: int) -> Step:
    """Returns a step of the optimizer in eager execution."""
    variables = [keras.Variable("zeros", shape=(elements,)) for _ in range(count)]
    grads = [tf.ones([elements]) for _ in range(count)]
    optimizer = make_optimizer(tf_adadelta.Adadelta)
    return lambda: optimizer.apply(grads, variables)


def _by_function(step: Step, count: int, calls: int = 20) -> list[tuple[str, float]]:
    """Returns in which functions of Python a step spends its time, likewise."""
    step()
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(calls):
        step()
    profile.disable()
    spent: dict[str, float] = defaultdict(float)
    for (file, _, function), (_, _, own, _, _) in pstats.Stats(profile).stats.items():
        packages = ("tf_adadelta", "keras", "tensorflow")
        package = next((name for name in packages if f"/{name}/" in file), None)
        spent[f"{package}: {function}" if package else function] += 1e6 * own / calls / count
    largest = sorted(spent.items(), key=lambda item: -item[1])[:10]
    return [("**all of it, under the profiler**", sum(spent.values())), *largest]


def profile(count: int, elements: int, rounds: int) -> str:
    """Measures so many variables of so many elements; returns tables, in Markdown."""
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    steps = _steps(count, elements)
    parts = [
        "# Where the time of a variable goes",
        f"{count:,} variables of {elements:,} elements, {threads} threads. Medians of differences.",
        "## In tf.function",
        _table(_layers(steps, count, rounds)),
        "## In tf.function, by function of Python",
        "`TFE_Py_Execute` is TensorFlow's runtime: the arguments, the executor and the operation.",
        _table(_by_function(steps["fused"], count)),
        "## In eager execution, by function of Python",
        "`TFE_Py_FastPathExecute` is TensorFlow's runtime: the inputs and the operation.",
        _table(_by_function(_eager(count, elements), count)),
    ]
    return "\n\n".join(parts)


def _table(rows: Sequence[tuple[str, float]]) -> str:
    cells = [(name, f"{value:.3f}") for name, value in rows]
    return markdown_table(("layer", "µs a variable"), cells, "<>")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile_variables")
    parser.add_argument("--variables", type=int, default=1000, metavar="N", help="how many")
    parser.add_argument("--elements", type=int, default=256, metavar="N", help="of each")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, metavar="N", help="samples of each")
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="write the tables there")
    arguments = parser.parse_args()
    for name in ("variables", "elements", "rounds"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} is {getattr(arguments, name)}, expected 1 or more")
    threads = len(os.sched_getaffinity(0))
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    tf.config.set_visible_devices([], "GPU")
    text = profile(arguments.variables, arguments.elements, arguments.rounds)
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
