"""What an update costs under MirroredStrategy, by replicas: `python -m benchmarks.replicas --help`.

The variables are ResNet-50's, the replicas logical CPU devices of one process, so that they share
its cores: what a replica costs, not how fast many are. A process is started for each number of
replicas, since it can have one such strategy only.
"""

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

import tf_adadelta
from benchmarks.command import make_parser, show_progress, write_results
from benchmarks.contestants import EPSILON, LEARNING_RATE, RHO, Prepared, prepare_copy
from benchmarks.environment import describe_environment
from benchmarks.make_models import MODELS
from benchmarks.plot import ACCENT, BACKGROUND, MUTED, TEXT
from benchmarks.report import environment_table, markdown_table
from benchmarks.results import Ratio
from benchmarks.timing import burst_on_cpu, measure

_REPLICAS = (1, 2, 4, 8, 16)
_QUICK_REPLICAS = (1, 2)
_ROUNDS = 15  # At most: many replicas take seconds for a step.
_SECONDS = 20.0
_UPDATE, _STEP = "update alone", "whole step"
_FUSED, _KERAS, _COPY = "fused", "Keras", "copy"
_TARGETS = {_UPDATE: 5.0, _STEP: 1.3}
_TARGET_REPLICAS = 2


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured with one number of replicas.

    Attributes:
        replicas: How many.
        samples_ms: Milliseconds a step, by what was timed ("update alone" or "whole step") and
            optimizer ("fused" or "Keras"); with the update alone also "copy", which moves the bytes
            of a fused update and does nothing else.
    """

    replicas: int
    samples_ms: dict[str, dict[str, list[float]]]

    def median(self, what: str, optimizer: str) -> float:
        """Returns the median in milliseconds."""
        return float(np.median(self.samples_ms[what][optimizer]))

    def ratio(self, what: str) -> Ratio:
        """Returns how many times as long Keras takes, round by round."""
        samples = self.samples_ms[what]
        return Ratio.of(samples[_KERAS], samples[_FUSED])


def _shapes(quick: bool) -> list[tuple[int, ...]]:
    shapes = [tuple(shape) for shape in json.loads(MODELS.read_text())["resnet50"]]
    return shapes[:20] if quick else shapes


def _make_strategy(replicas: int) -> tf.distribute.MirroredStrategy:
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration()] * replicas
    tf.config.set_logical_device_configuration(cpu, logical)
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])


def _contestants(replicas: int, quick: bool) -> dict[tuple[str, str], Prepared]:
    """Prepares both optimizers on the same variables, slots and gradients."""
    strategy = _make_strategy(replicas)
    rng = np.random.default_rng(0)
    with strategy.scope():
        variables = [keras.Variable("zeros", shape=shape) for shape in _shapes(quick)]
        optimizers = {
            _FUSED: tf_adadelta.Adadelta(LEARNING_RATE, rho=RHO, epsilon=EPSILON),
            _KERAS: keras.optimizers.Adadelta(LEARNING_RATE, rho=RHO, epsilon=EPSILON),
        }
        for optimizer in optimizers.values():
            optimizer.build(variables)
    slots = [
        [*optimizer._accumulated_grads, *optimizer._accumulated_delta_vars]
        for optimizer in optimizers.values()
    ]
    for one, other in zip(*slots):
        one._value = other._value
    grads = [
        strategy.experimental_distribute_values_from_function(
            lambda context, shape=variable.shape: tf.constant(
                rng.standard_normal(shape, np.float32)
            )
        )
        for variable in variables
    ]
    state = [variable._value for variable in (*variables, *slots[1])]

    def reset() -> None:
        for variable in state:
            variable.assign(tf.zeros(variable.shape))

    def prepare(what: str, optimizer: keras.optimizers.Optimizer) -> Prepared:
        def replica_step(*own: tf.Tensor) -> None:
            if what == _UPDATE:  # Of gradients as if they were summed already.
                optimizer._all_reduce_sum_gradients = list
            try:
                optimizer.apply(list(own), variables)
            finally:
                vars(optimizer).pop("_all_reduce_sum_gradients", None)

        def step() -> None:
            strategy.run(replica_step, args=tuple(grads))

        function = tf.function(step, autograph=False).get_concrete_function()
        return Prepared(function, lambda: [tf.convert_to_tensor(v).numpy() for v in state])

    prepared = {
        (what, name): prepare(what, optimizer)
        for what in (_UPDATE, _STEP)
        for name, optimizer in optimizers.items()
    }
    _verify(prepared, reset)
    elements = sum(math.prod(shape) for shape in _shapes(quick))
    return prepared | {(_UPDATE, _COPY): prepare_copy(elements, replicas)}


def _verify(
    prepared: dict[tuple[str, str], Prepared],
    reset: Callable[[], None],
) -> None:
    """Checks that both optimizers take the same step, and that one sums over the replicas."""
    for what in (_UPDATE, _STEP):
        values = {}
        for name in (_FUSED, _KERAS):
            reset()
            prepared[what, name].step()
            values[name] = prepared[what, name].values()
        for fused, stock in zip(*values.values()):
            if not np.allclose(fused, stock, atol=1e-6, rtol=1e-4):
                raise RuntimeError(f"{what}: the two optimizers do not agree")


def _measure(replicas: int, quick: bool) -> Result:
    prepared = _contestants(replicas, quick)
    names = {f"{what}, {name}": key for key in prepared for what, name in [key]}

    def advance(name: str) -> None:
        print(f"measuring {name}", file=sys.stderr, flush=True)

    samples = measure(
        {name: prepared[key] for name, key in names.items()},
        2 if quick else _ROUNDS,
        advance,
        burst_on_cpu,
        seconds=_SECONDS,
    )
    found: dict[str, dict[str, list[float]]] = {_UPDATE: {}, _STEP: {}}
    for name, (what, optimizer) in names.items():
        found[what][optimizer] = [1e3 * seconds for seconds in samples[name]]
    return Result(replicas, found)


def _measure_in_process(replicas: int, quick: bool, advance: Callable[[str], None]) -> Result:
    command = [sys.executable, "-m", "benchmarks.replicas", "--measure", str(replicas)]
    process = subprocess.Popen(
        [*command, *["--quick"] * quick],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    errors = []
    for line in process.stderr:
        errors.append(line)
        if line.startswith("measuring "):
            advance(f"{replicas} replicas: {line.removeprefix('measuring ').strip()}")
    output = process.stdout.read()
    if process.wait() != 0:
        raise RuntimeError(f"{replicas} replicas: {''.join(errors[-20:])}")
    return Result(**json.loads(output.splitlines()[-1]))


def _report(results: Sequence[Result], environment: dict, quick: bool) -> str:
    body = []
    for result in results:
        for what in (_UPDATE, _STEP):
            fused, stock = (result.median(what, name) for name in (_FUSED, _KERAS))
            copy = f"{result.median(what, _COPY):.1f}" if what == _UPDATE else ""
            ratio = result.ratio(what)
            body.append(
                (
                    str(result.replicas),
                    what,
                    f"{fused:.1f}",
                    f"{stock:.1f}",
                    copy,
                    f"{fused / result.replicas:.1f}",
                    f"{stock / result.replicas:.1f}",
                    f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]",
                )
            )
    times = ("fused ms", "Keras ms", "copy ms", "fused ms a replica", "Keras ms a replica")
    verdicts = []
    for result in results:
        if result.replicas == _TARGET_REPLICAS and not quick:
            for what, target in _TARGETS.items():
                reached = result.ratio(what).median
                verdict = "met" if reached >= target else "**not met**"
                if what == _UPDATE and verdict != "met":
                    limit = result.median(what, _KERAS) / result.median(what, _COPY)
                    verdict += f"; an update that took the time of the copy would reach {limit:.2f}"
                verdicts.append(
                    f"- {what}, {_TARGET_REPLICAS} replicas, at least {target} times as fast as "
                    f"Keras: {reached:.2f}, {verdict}"
                )
    return "\n\n".join(
        [
            "# Replicas",
            "![Milliseconds a replica against the number of replicas](replicas.png)",
            "ResNet-50's 214 variables in float32 under `MirroredStrategy`, in `tf.function`; the "
            "replicas are logical CPU devices of one process and share its cores. *Update alone* "
            "is `optimizer.apply` of both without the all-reduce, *whole step* with it; it is "
            "TensorFlow's own in both. *Copy* moves the bytes of the fused update, 28 an element "
            "and replica, and does nothing else. Keras over fused is the median of the ratios of "
            "all rounds, with its 95% interval."
            + (" Measured with --quick: the figures mean nothing." if quick else ""),
            markdown_table(("replicas", "", *times, "Keras / fused"), body, "<<>>>>>>"),
            *(["\n".join(verdicts)] if verdicts else []),
            environment_table(environment),
        ]
    )


def _plot(results: Sequence[Result], path: Path) -> None:
    colors = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), TEXT)
    with matplotlib.rc_context({"font.size": 9, **colors}):
        figure = Figure(figsize=(7, 3.4), facecolor=BACKGROUND, layout="constrained")
        panel = figure.subplots()
        counts = [result.replicas for result in results]
        for name, color in ((_FUSED, ACCENT), (_KERAS, MUTED)):
            for what, style in ((_UPDATE, "o-"), (_STEP, "s--")):
                times = [result.median(what, name) / result.replicas for result in results]
                panel.plot(counts, times, style, color=color, label=f"{name}, {what}")
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(counts, [str(count) for count in counts])
        panel.set_xlabel("replicas")
        panel.set_ylabel("milliseconds a replica")
        panel.legend(frameon=False)
        panel.set_facecolor(BACKGROUND)
        panel.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=110)


def _write(arguments: argparse.Namespace, results: Sequence[Result], environment: dict) -> None:
    content = {
        "quick": arguments.quick,
        "environment": environment,
        "results": [dataclasses.asdict(result) for result in results],
    }
    text = _report(results, environment, arguments.quick)
    write_results(arguments.output, "replicas", content, text + "\n")
    _plot(results, arguments.output / "replicas.png")


def _read(folder: Path) -> dict[int, Result]:
    results = json.loads((folder / "replicas.json").read_text())["results"]
    return {result["replicas"]: Result(**result) for result in results}


def main() -> None:
    """Measures, prints and writes."""
    parser = make_parser(
        "replicas", "Times the update under MirroredStrategy, by the number of replicas."
    )
    parser.add_argument(
        "--replicas",
        type=int,
        nargs="+",
        metavar="N",
        help="only these numbers; the results of others in DIR are kept",
    )
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ["TF_ADADELTA_STRICT"] = "1"
    if arguments.measure:
        print(json.dumps(dataclasses.asdict(_measure(arguments.measure, arguments.quick))))
        return
    load, threads = os.getloadavg()[0], len(os.sched_getaffinity(0))
    counts = arguments.replicas or (_QUICK_REPLICAS if arguments.quick else _REPLICAS)
    rounds = 2 if arguments.quick else _ROUNDS
    with show_progress(5 * rounds * len(counts)) as advance:
        by_count = _read(arguments.output) if arguments.replicas else {}
        for count in counts:
            by_count[count] = _measure_in_process(count, arguments.quick, advance)
            results = [by_count[known] for known in sorted(by_count)]
            # What takes so long is not to be lost at its end.
            _write(arguments, results, describe_environment(threads, load))
    print(_report(results, describe_environment(threads, load), arguments.quick))


if __name__ == "__main__":
    main()
