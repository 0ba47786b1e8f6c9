"""The speeds that this project wants to reach."""

import dataclasses
from collections.abc import Sequence

from benchmarks.contestants import (
    EAGER,
    FUNCTION,
    FUSED,
    JIT,
    LEGACY_EAGER,
    LEGACY_FUNCTION,
    LIMIT,
    MISSING,
    NUMPY,
    STOCK_LEGACY,
)
from benchmarks.results import CaseResult, TargetResult


@dataclasses.dataclass(frozen=True)
class Target:
    """A wanted ratio of two times.

    Attributes:
        case: The name of the case.
        description: The ratio in words.
        numerator: The contestant whose time is divided.
        denominators: The contestants by whose time it is divided; the best one counts.
        wanted: The least ratio that will do.
    """

    case: str
    description: str
    numerator: str
    denominators: Sequence[str]
    wanted: float


def _of_limit(case: str, mode: str, wanted: float) -> Target:
    return Target(case, f"{FUSED[mode]}, of the limit", LIMIT, (FUSED[mode],), wanted)


def _faster_than(case: str, other: str, mode: str, wanted: float) -> Target:
    return Target(case, f"{other} / {FUSED[mode]}", other, (FUSED[mode],), wanted)


_BY_ITSELF = tuple(FUSED[mode] for mode in (NUMPY, EAGER, FUNCTION, JIT))

_LEGACY = (
    ()
    if MISSING
    else (
        _faster_than("resnet50", STOCK_LEGACY[LEGACY_EAGER], LEGACY_EAGER, 1.5),
        _faster_than("resnet50", STOCK_LEGACY[LEGACY_FUNCTION], LEGACY_FUNCTION, 1.8),
    )
)

# On two cores.
CPU_TARGETS = (
    _of_limit("16M", FUNCTION, 0.90),
    Target("16M", "fastest fused, of the limit", LIMIT, _BY_ITSELF, 0.90),
    _faster_than("16M", "Keras tf.function", FUNCTION, 6),
    _faster_than("16M", "ResourceApplyAdadelta", FUNCTION, 2),
    _faster_than("16M", "Keras jit_compile", JIT, 3),
    _of_limit("resnet50", FUNCTION, 0.70),
    *_LEGACY,
    _faster_than("200x256", "Keras tf.function", FUNCTION, 2.5),
    _faster_than("200x256", "Keras eager", EAGER, 20),
)


def make_gpu_targets(tensors: str, graph: str, empty: str, foreach: str) -> tuple[Target, ...]:
    """Returns what is to be reached on an H100, between contestants of these names."""
    best = (tensors, graph)
    return (
        Target("100M", "fastest fused, of the limit", LIMIT, best, 0.92),
        Target("resnet50", "fastest fused, of the limit", LIMIT, best, 0.75),
        Target("200x256", f"{empty} / {graph}", empty, (graph,), 1 / 3),
        Target("100M", f"{foreach} / {tensors}", foreach, (tensors,), 4),
    )


def evaluate(cases: Sequence[CaseResult], targets: Sequence[Target]) -> list[TargetResult]:
    """Compares the targets with what was measured."""
    by_name = {case.name: case for case in cases}
    evaluated = []
    for target in targets:
        case = by_name[target.case]
        measured = max(case.ratio(target.numerator, name) for name in target.denominators)
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
