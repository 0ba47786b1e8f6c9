"""The speeds that this project wants to reach."""

import dataclasses
from collections.abc import Sequence

from benchmarks.names import (
    EAGER,
    FUNCTION,
    FUSED,
    JIT,
    KERAS,
    LEGACY_EAGER,
    LEGACY_FUNCTION,
    LIMIT,
    STOCK_CLASSIC,
    STOCK_OP,
)
from benchmarks.results import CaseResult, TargetResult


@dataclasses.dataclass(frozen=True)
class Target:
    """A wanted ratio of two times.

    Attributes:
        case: The path of the case.
        description: The ratio in words.
        numerator: The contestant whose time is divided.
        denominators: The contestants by whose time it is divided; the least one counts.
        wanted: The least ratio that will do.
    """

    case: str
    description: str
    numerator: str
    denominators: Sequence[str]
    wanted: float


def _of_limit(case: str, wanted: float) -> Target:
    name = FUSED[FUNCTION]
    return Target(case, f"{name}, of the limit", LIMIT, (name,), wanted)


def _faster_than(case: str, other: str, mode: str, wanted: float) -> Target:
    return Target(case, f"{other} / {FUSED[mode]}", other, (FUSED[mode],), wanted)


# On two cores.
CPU_TARGETS = (
    _of_limit("size/16M", 0.95),
    _of_limit("size/1e8", 0.95),
    _of_limit("models/resnet50", 0.90),
    _of_limit("models/bert-base", 0.90),
    _faster_than("size/16M", KERAS[FUNCTION], FUNCTION, 6),
    _faster_than("size/16M", STOCK_OP, FUNCTION, 2),
    _faster_than("size/16M", KERAS[JIT], JIT, 3),
    _faster_than("models/resnet50", KERAS[EAGER], EAGER, 20),
    _faster_than("models/resnet50", STOCK_CLASSIC[LEGACY_EAGER], LEGACY_EAGER, 1.5),
    _faster_than("models/resnet50", STOCK_CLASSIC[LEGACY_FUNCTION], LEGACY_FUNCTION, 1.8),
    _faster_than("models/200x256", KERAS[FUNCTION], FUNCTION, 2.5),
    _faster_than("models/200x256", KERAS[EAGER], EAGER, 20),
    _faster_than("variables/1000x256", STOCK_OP, FUNCTION, 2.5),
    _faster_than("options/resnet50", KERAS[FUNCTION], FUNCTION, 8),
    _faster_than("options/resnet50", KERAS[JIT], JIT, 4),
)


def make_gpu_targets(tensors: str, graph: str, empty: str, foreach: str) -> tuple[Target, ...]:
    """Returns what is to be reached on an H100, between contestants of these names."""
    best = (tensors, graph)
    return (
        Target("size/100M", "fastest fused, of the limit", LIMIT, best, 0.92),
        Target("models/resnet50", "fastest fused, of the limit", LIMIT, best, 0.75),
        Target("variables/200x256", f"{empty} / {graph}", empty, (graph,), 1 / 3),
        Target("size/100M", f"{foreach} / {tensors}", foreach, (tensors,), 4),
    )


def evaluate(cases: Sequence[CaseResult], targets: Sequence[Target]) -> list[TargetResult]:
    """Compares the targets with what was measured; leaves out those that were not."""
    by_path = {case.path: case for case in cases}
    evaluated = []
    for target in targets:
        case = by_path.get(target.case)
        if case is None or None in map(case.row, (target.numerator, *target.denominators)):
            continue
        measured = max(case.ratio(target.numerator, name).median for name in target.denominators)
        evaluated.append(
            TargetResult(
                case=target.case,
                description=target.description,
                measured=measured,
                wanted=target.wanted,
                met=measured >= target.wanted,
            )
        )
    return evaluated
