"""Compares two runs, for CI: `python -m benchmarks.compare OLD.json NEW.json --slower 1.1`."""

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from benchmarks.names import FUSED_PREFIX, LIMIT
from benchmarks.report import markdown_table
from benchmarks.results import NotResultsError, Ratio, Row, Run, read_json

DEFAULT_SLOWER = 1.1

_MACHINE = ("processor", "GPU", "cores", "threads", "instruction set")


@dataclasses.dataclass(frozen=True)
class Change:
    """What became of one fused contestant in one case.

    Attributes:
        case: The case.
        contestant: The contestant.
        reference: Whose time its own is divided by, in either run: the limit, or Keras where the
            bytes are not all that counts. So a machine that has become slower is not taken for it.
        old: The ratio then.
        new: The ratio now.
    """

    case: str
    contestant: str
    reference: str
    old: Ratio
    new: Ratio

    @property
    def factor(self) -> Ratio:
        """How many times slower it has become."""
        return Ratio(
            self.new.median / self.old.median,
            self.new.low / self.old.high,
            self.new.high / self.old.low,
        )

    def is_slower(self, ratio: float) -> bool:
        """Whether it has become slower by more than a ratio, and not within the spread."""
        return self.factor.median > ratio and self.factor.low > 1


def compare(old: Run, new: Run) -> list[Change]:
    """Returns what became of the fused contestants that both runs have."""
    before = {case.path: case for case in old.cases}
    changes = []
    for case in new.cases:
        if case.path not in before:
            continue
        for row in _fused_rows(case.rows):
            for reference in (LIMIT, row.name.replace(FUSED_PREFIX, "Keras ")):
                if reference == LIMIT and row.fraction_of_limit is None:
                    continue
                ratios = [one.ratio(row.name, reference) for one in (before[case.path], case)]
                if None not in ratios:
                    changes.append(Change(case.path, row.name, reference, *ratios))
                    break
    return changes


def _fused_rows(rows: list[Row]) -> Iterator[Row]:
    return (row for row in rows if row.name.startswith(FUSED_PREFIX))


def describe(changes: list[Change], ratio: float) -> str:
    """Returns the changes as a table, and what got slower."""
    table = markdown_table(
        ("case", "contestant", "over", "old", "new", "new / old", ""),
        [
            (
                change.case,
                change.contestant,
                change.reference,
                _with_spread(change.old),
                _with_spread(change.new),
                _with_spread(change.factor),
                "SLOWER" if change.is_slower(ratio) else "",
            )
            for change in changes
        ],
        "<<<>>><",
    )
    slower = sum(change.is_slower(ratio) for change in changes)
    verdict = (
        f"{slower} of {len(changes)} got slower by more than a factor of {ratio:g}."
        if slower
        else f"None of {len(changes)} got slower by more than a factor of {ratio:g}."
    )
    return f"{table}\n\n{verdict}"


def _with_spread(ratio: Ratio) -> str:
    return f"{ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def differences(old: Run, new: Run) -> list[str]:
    """Says what makes two runs hard to compare."""
    found = [
        f"{name} was {old.environment.get(name)}, is {new.environment.get(name)}"
        for name in _MACHINE
        if old.environment.get(name) != new.environment.get(name)
    ]
    if old.quick or new.quick:
        found.append("--quick is to see that it works, not to measure")
    return found


def report_changes(old: Run, new: Run, ratio: float) -> int:
    """Prints what became of our contestants; returns the exit status: 1 if one got slower.

    Raises:
        NotResultsError: The runs have nothing in common.
    """
    changes = compare(old, new)
    if not changes:
        raise NotResultsError("the two runs have no case in common in which ours took part")
    for difference in differences(old, new):
        print(f"Beware: {difference}.")
    print(describe(changes, ratio))
    return int(any(change.is_slower(ratio) for change in changes))


def add_slower(parser: argparse.ArgumentParser) -> None:
    """Adds the argument that says what is slower."""
    parser.add_argument(
        "--slower",
        type=_factor,
        default=DEFAULT_SLOWER,
        metavar="RATIO",
        help="the exit status is 1 if something of ours takes more than so many times as long as "
        "before, and not within the spread (default: %(default)s)",
    )


def _factor(text: str) -> float:
    value = float(text)
    if not 1 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number of 1 or more")
    return value


def main() -> None:
    """Compares two files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("old", type=Path, metavar="OLD.json")
    parser.add_argument("new", type=Path, metavar="NEW.json")
    add_slower(parser)
    arguments = parser.parse_args()
    try:
        old, new = read_json(arguments.old), read_json(arguments.new)
        status = report_changes(old, new, arguments.slower)
    except NotResultsError as error:
        parser.error(str(error))
    raise SystemExit(status)


if __name__ == "__main__":
    main()
