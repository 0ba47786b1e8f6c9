"""What was measured, in the form in which it is written as JSON."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.names import LIMIT

if TYPE_CHECKING:  # Results can be read, drawn and compared where there is no TensorFlow.
    from benchmarks.cases import Case
    from benchmarks.contestants import Contestant

STABLE_WITHIN = 1.1
"""A ratio is stable when the upper end of its interval is at most so many times the lower one."""

_FORMAT = 2


class NotResultsError(ValueError):
    """A file does not hold the results of a run."""


@dataclasses.dataclass(frozen=True)
class Ratio:
    """The ratio of two contestants' times.

    Attributes:
        median: The median of the ratios of all rounds.
        low: The lower end of its 95% confidence interval, which supposes no distribution.
        high: The upper end.
    """

    median: float
    low: float
    high: float

    @property
    def stable(self) -> bool:
        """Whether more rounds would hardly change it."""
        return self.high <= STABLE_WITHIN * self.low

    def times(self, factor: float) -> "Ratio":
        """Returns the ratio with its interval, times a number."""
        return Ratio(self.median * factor, self.low * factor, self.high * factor)

    @classmethod
    def of(cls, numerators: Sequence[float], denominators: Sequence[float]) -> "Ratio":
        """Returns the ratio of two contestants' samples, round by round.

        On a shared machine the bandwidth of the memory changes from one minute to the next; the two
        samples of a round are taken within about a second.
        """
        ratios = np.sort(np.divide(numerators, denominators))
        # The order statistics between which the median of any distribution lies with 95%.
        half_width = 0.98 * math.sqrt(len(ratios))
        low = max(0, math.floor(len(ratios) / 2 - half_width))
        high = min(len(ratios), math.ceil(len(ratios) / 2 + half_width)) - 1
        return cls(float(np.median(ratios)), float(ratios[low]), float(ratios[high]))


@dataclasses.dataclass(frozen=True)
class Row:
    """One contestant in one case.

    Attributes:
        name: The contestant.
        mode: How it is executed; None for what is no update.
        median_ms: Median of the samples.
        lower_quartile_ms: Lower quartile of the samples.
        upper_quartile_ms: Upper quartile of the samples.
        gigabytes_per_second: The bytes that any update must move, over the median. This one and the
            next are None for what does other things, too.
        fraction_of_limit: The time that the bytes take at the limit over the time of this
            contestant.
        ratio_to_fused: The time of this contestant over that of the fused one in the same mode.
            None for what is no update, and where the fused one did not take part.
        samples_ms: Milliseconds per call, one sample a round.
    """

    name: str
    mode: str | None
    median_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float
    gigabytes_per_second: float | None
    fraction_of_limit: Ratio | None
    ratio_to_fused: Ratio | None
    samples_ms: list[float]

    @property
    def stable(self) -> bool:
        """Whether its ratios are."""
        ratios = (self.fraction_of_limit, self.ratio_to_fused)
        return all(ratio is None or ratio.stable for ratio in ratios)


@dataclasses.dataclass(frozen=True)
class CaseResult:
    """All contestants in one case."""

    section: str
    name: str
    description: str
    variables: int
    elements: int
    bytes_per_element: int
    dtype: str
    rows: list[Row]

    @property
    def path(self) -> str:
        """The section and the name."""
        return f"{self.section}/{self.name}"

    def row(self, name: str) -> Row | None:
        """Returns the row of a contestant, None where it did not take part."""
        return next((row for row in self.rows if row.name == name), None)

    def ratio(self, numerator: str, denominator: str) -> Ratio | None:
        """Returns the ratio of two contestants' times, None where one did not take part."""
        rows = [self.row(name) for name in (numerator, denominator)]
        return None if None in rows else Ratio.of(*(row.samples_ms for row in rows))


@dataclasses.dataclass(frozen=True)
class TargetResult:
    """One of the project's targets and what came of it."""

    case: str
    description: str
    measured: float
    wanted: float
    met: bool


@dataclasses.dataclass(frozen=True)
class Overhead:
    """What a contestant's time grows with while everything is in the caches: a least-squares fit.

    Attributes:
        contestant: The contestant.
        call_us: Microseconds for a call.
        variable_us: Microseconds for each variable.
        element_ns: Nanoseconds for each element.
        error: The largest relative error of the fit.
    """

    contestant: str
    call_us: float
    variable_us: float
    element_ns: float
    error: float


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that one run found out; `missing` says what it could not measure, and why."""

    device: str
    quick: bool
    environment: dict[str, str | float]
    missing: dict[str, str]
    cases: list[CaseResult]
    targets: list[TargetResult]
    overheads: list[Overhead] = dataclasses.field(default_factory=list)


def sections(cases: Iterable[CaseResult]) -> dict[str, list[CaseResult]]:
    """Groups cases by section, in their order."""
    grouped: dict[str, list[CaseResult]] = {}
    for case in cases:
        grouped.setdefault(case.section, []).append(case)
    return grouped


def summarize(
    case: "Case",
    contestants: Sequence["Contestant"],
    samples: Mapping[str, Sequence[float]],
    fused: Mapping[str, str],
) -> CaseResult:
    """Turns the samples of a case, in seconds, into its results.

    Args:
        case: The case.
        contestants: Those that took part.
        samples: Seconds per update, by contestant.
        fused: The name of the fused contestant of each mode.
    """
    limit_bytes = case.bytes_per_element - case.extra_bytes
    rows = []
    for contestant in contestants:
        seconds = samples[contestant.name]
        lower, median, upper = map(float, np.percentile(seconds, (25, 50, 75)))
        moved = limit_bytes if contestant.name == LIMIT else case.bytes_per_element
        fused_samples = samples.get(fused.get(contestant.mode, ""))
        rows.append(
            Row(
                name=contestant.name,
                mode=contestant.mode,
                median_ms=1e3 * median,
                lower_quartile_ms=1e3 * lower,
                upper_quartile_ms=1e3 * upper,
                gigabytes_per_second=(
                    1e-9 * moved * case.elements / median if contestant.bare else None
                ),
                fraction_of_limit=(
                    Ratio.of(samples[LIMIT], seconds).times(moved / limit_bytes)
                    if contestant.bare and LIMIT in samples
                    else None
                ),
                ratio_to_fused=(
                    None if fused_samples is None else Ratio.of(seconds, fused_samples)
                ),
                samples_ms=[1e3 * value for value in seconds],
            )
        )
    return CaseResult(
        case.section,
        case.name,
        case.description,
        len(case.shapes),
        case.elements,
        case.bytes_per_element,
        case.dtype,
        rows,
    )


def write_json(run: Run, path: Path) -> None:
    """Writes a run as JSON."""
    content = {"format": _FORMAT, **dataclasses.asdict(run)}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Run:
    """Reads a run from JSON.

    Raises:
        NotResultsError: The file cannot be read, or is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotResultsError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise NotResultsError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
        raise NotResultsError(
            f"{path} does not hold the results of `python -m benchmarks`, or those of another "
            "version of it"
        )
    try:
        return _run_from(content)
    except (KeyError, TypeError) as error:
        raise NotResultsError(f"{path} does not hold a whole run: {error}") from None


def _run_from(content: dict[str, Any]) -> Run:
    def ratio(values: dict[str, float] | None) -> Ratio | None:
        return None if values is None else Ratio(**values)

    def row(values: dict[str, Any]) -> Row:
        ratios = {name: ratio(values[name]) for name in ("fraction_of_limit", "ratio_to_fused")}
        return Row(**{**values, **ratios})

    def case(values: dict[str, Any]) -> CaseResult:
        return CaseResult(**{**values, "rows": list(map(row, values["rows"]))})

    return Run(
        **{
            **content,
            "cases": list(map(case, content["cases"])),
            "targets": [TargetResult(**values) for values in content["targets"]],
            "overheads": [Overhead(**values) for values in content["overheads"]],
        }
    )
