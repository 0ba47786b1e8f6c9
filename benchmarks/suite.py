"""What belongs together for the measurements on one kind of device, and how it is chosen from."""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from benchmarks import contestants, frameworks, report, training
from benchmarks.cases import Case
from benchmarks.contestants import Contestant, Prepared
from benchmarks.cpu_cases import make_cpu_cases
from benchmarks.environment import describe_environment
from benchmarks.names import FUSED, LIMIT
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
        burst: Takes one sample of a contestant, in seconds per update.
        environment: What describes the machine.
        how: How it is measured, in Markdown.
        missing: The contestants that cannot be measured, and why.
    """

    name: str
    cases: Sequence[Case]
    contestants: Sequence[Contestant]
    fused: Mapping[str, str]
    targets: Sequence[Target]
    make_work: Callable[[Case], Any]
    burst: Callable[[Prepared], float]
    environment: dict[str, str | float]
    how: str
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def contestants_of(self, case: Case) -> list[Contestant]:
        """Returns who takes part in a case."""
        return [
            contestant
            for contestant in self.contestants
            if not case.contestants or contestant.name in case.contestants
        ]

    def without(self, missing: Mapping[str, str]) -> "Suite":
        """Returns the suite without these contestants, which it names as missing, with reasons."""
        return dataclasses.replace(
            self,
            contestants=[one for one in self.contestants if one.name not in missing],
            missing={**self.missing, **missing},
        )

    def matching(self, pattern: re.Pattern[str]) -> "Suite":
        """Returns the suite with the contestants of cases whose `section/case/contestant` matches.

        Whoever they are compared with stays, too: the limit, and the fused one in the same mode.
        """
        cases = []
        for case in self.cases:
            taking_part = self.contestants_of(case)
            chosen = [one for one in taking_part if pattern.search(f"{case.path}/{one.name}")]
            if chosen:
                compared = {LIMIT, *(self.fused.get(one.mode) for one in chosen)}
                names = [one.name for one in taking_part if one in chosen or one.name in compared]
                cases.append(dataclasses.replace(case, contestants=tuple(names)))
        return dataclasses.replace(self, cases=cases)

    def with_slow(self) -> "Suite":
        """Returns the suite with the contestants that take minutes to trace or to compile."""
        return dataclasses.replace(self, cases=[case.with_slow() for case in self.cases])

    def quick(self) -> "Suite":
        """Returns the suite with small cases: it shows that all works."""
        return dataclasses.replace(self, cases=[case.quick() for case in self.cases])


def make_cpu_suite(num_threads: int) -> Suite:
    """Returns the measurements on the CPU, by so many threads, at most one for each core."""
    load = os.getloadavg()[0]
    tf.get_logger().setLevel("ERROR")  # It warns of models that are compiled one after the other.
    # Every framework makes one thread for each core that it may use, now or when it starts.
    cores = sorted(os.sched_getaffinity(0))[:num_threads]
    os.sched_setaffinity(0, cores)
    # Independent operations of one graph run on the second pool: it gets no more threads either.
    tf.config.threading.set_intra_op_parallelism_threads(num_threads)
    tf.config.threading.set_inter_op_parallelism_threads(num_threads)
    # A machine with a GPU would put the variables there.
    tf.config.set_visible_devices([], "GPU")
    environment = describe_environment(num_threads, load) | frameworks.versions()
    return Suite(
        name="cpu",
        cases=make_cpu_cases(num_threads),
        contestants=(
            *contestants.CONTESTANTS,
            *frameworks.CONTESTANTS,
            *training.CONTESTANTS,
        ),
        fused=FUSED,
        targets=CPU_TARGETS,
        make_work=functools.partial(training.make_work, num_threads=num_threads),
        burst=burst_on_cpu,
        environment=environment,
        how=report.HOW_ON_CPU,
    ).without({**contestants.find_missing(), **frameworks.find_missing()})
