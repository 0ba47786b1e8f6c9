"""What was measured, in the form in which it is written as JSON."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.cases import Case
from benchmarks.contestants import LIMIT, Contestant

BYTES_PER_ELEMENT = 28
"""Variable, two averages and gradient are read, the first three are written; 4 bytes each."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One contestant in one case.

    Attributes:
        name: The contestant.
        mode: How it is executed; None for what is no update.
        median_ms: Median of the samples.
        lower_quartile_ms: Lower quartile of the samples.
        upper_quartile_ms: Upper quartile of the samples.
        gigabytes_per_second: The bytes that any update must move, over the median.
        fraction_of_limit: The time of the limit over the time of this contestant: the median of
            the ratios of all rounds.
        ratio_to_fused: The time of this contestant over that of the fused one in the same mode,
            likewise. None for what is no update.
        samples_ms: Milliseconds per call, one sample a round.
    """

    name: str
    mode: str | None
    median_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float
    gigabytes_per_second: float
    fraction_of_limit: float
    ratio_to_fused: float | None
    samples_ms: list[float]


@dataclasses.dataclass(frozen=True)
class CaseResult:
    """All contestants in one case."""

    name: str
    description: str
    variables: int
    elements: int
    rows: list[Row]

    def ratio(self, numerator: str, denominator: str) -> float:
        """Returns the ratio of two contestants' times: the median of the ratios of all rounds."""
        samples = {row.name: row.samples_ms for row in self.rows}
        return _ratio(samples[numerator], samples[denominator])


@dataclasses.dataclass(frozen=True)
class TargetResult:
    """One of the project's targets and what came of it."""

    case: str
    description: str
    measured: float
    wanted: float
    met: bool


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that one run found out; `missing` says what it could not measure, and why."""

    quick: bool
    environment: dict[str, str | float]
    missing: list[str]
    cases: list[CaseResult]
    targets: list[TargetResult]


def summarize(
    case: Case,
    contestants: Sequence[Contestant],
    samples: Mapping[str, Sequence[float]],
    fused: Mapping[str, str],
) -> CaseResult:
    """Turns the samples of a case, in seconds, into its results.

    Args:
        case: The case.
        contestants: All of them.
        samples: Seconds per call, by contestant.
        fused: The name of the fused contestant of each mode.
    """
    rows = []
    for contestant in contestants:
        seconds = samples[contestant.name]
        lower, median, upper = map(float, np.percentile(seconds, (25, 50, 75)))
        rows.append(
            Row(
                name=contestant.name,
                mode=contestant.mode,
                median_ms=1e3 * median,
                lower_quartile_ms=1e3 * lower,
                upper_quartile_ms=1e3 * upper,
                gigabytes_per_second=1e-9 * BYTES_PER_ELEMENT * case.elements / median,
                fraction_of_limit=_ratio(samples[LIMIT], seconds),
                ratio_to_fused=(
                    None
                    if contestant.mode is None
                    else _ratio(seconds, samples[fused[contestant.mode]])
                ),
                samples_ms=[1e3 * value for value in seconds],
            )
        )
    return CaseResult(case.name, case.description, len(case.shapes), case.elements, rows)


def _ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    # Round by round, since on a shared machine the bandwidth of the memory changes from one minute
    # to the next: the two samples of a round are taken within about a second.
    return float(np.median(np.divide(numerators, denominators)))


def write_json(run: Run, path: Path) -> None:
    """Writes a run as JSON."""
    text = json.dumps(dataclasses.asdict(run), indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
