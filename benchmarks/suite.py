"""What belongs together for the measurements on one kind of device."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from benchmarks import report
from benchmarks.cases import CPU_CASES, Case, Shape
from benchmarks.contestants import CONTESTANTS, FUSED, MISSING, Contestant, Prepared, Work
from benchmarks.environment import describe_environment
from benchmarks.targets import CPU_TARGETS, Target
from benchmarks.timing import burst_on_cpu


@dataclasses.dataclass(frozen=True)
class Suite:
    """The measurements on one kind of device.

    Attributes:
        name: Of the device and of the files with the results.
        cases: What is updated.
        contestants: By what.
        fused: The name of the fused contestant of each mode.
        targets: What is to be reached.
        make_work: Makes what the contestants of a case are prepared from.
        burst: Takes one sample of a contestant, in seconds per call.
        environment: What describes the machine.
        how: How it is measured, in Markdown.
        missing: What is not measured, and why.
    """

    name: str
    cases: Sequence[Case]
    contestants: Sequence[Contestant]
    fused: Mapping[str, str]
    targets: Sequence[Target]
    make_work: Callable[[Sequence[Shape]], Any]
    burst: Callable[[Prepared], float]
    environment: dict[str, str | float]
    how: str
    missing: Sequence[str] = ()


def make_cpu_suite(num_threads: int) -> Suite:
    """Returns the measurements on the CPU, by so many threads."""
    load = os.getloadavg()[0]
    # Independent operations of one graph run on the second pool: it gets no more threads either.
    tf.config.threading.set_intra_op_parallelism_threads(num_threads)
    tf.config.threading.set_inter_op_parallelism_threads(num_threads)
    # A machine with a GPU would put the variables there.
    tf.config.set_visible_devices([], "GPU")
    return Suite(
        name="cpu",
        cases=CPU_CASES,
        contestants=CONTESTANTS,
        fused=FUSED,
        targets=CPU_TARGETS,
        make_work=functools.partial(Work, num_threads=num_threads),
        burst=burst_on_cpu,
        environment=describe_environment(num_threads, load),
        how=report.HOW_ON_CPU,
        missing=MISSING,
    )
