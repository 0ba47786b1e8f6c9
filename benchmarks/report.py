"""The results as text: Markdown that is readable as it stands."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.names import FIT_FUNCTION, FIT_JIT, FUNCTION, FUSED, FUSED_PREFIX, JIT, KERAS
from benchmarks.results import (
    STABLE_WITHIN,
    CaseResult,
    Overhead,
    Ratio,
    Row,
    Run,
    TargetResult,
    sections,
)

_TITLES = {
    "size": "One variable, from 10³ to 10⁸ elements",
    "models": "The variables of real models",
    "variables": "More and more variables, the same number of elements",
    "threads": "Threads, by the NumPy kernels",
    "dtypes": "Dtypes",
    "options": "Keras's options",
    "training": "The whole step of `fit`",
}
"""Of the sections; one that is not here is its own title."""

HOW_ON_CPU = """\
## How it was measured

- All contestants ran in one process on the same cores, one after the other in every round, in an
  order shuffled each round. A sample is the mean of a burst of calls of at least 6 ms, after a
  warm-up of at least 3 ms that is not counted (where that takes more than 0.1 s, it is the sample);
  the table has the median of the samples and their quartiles.
- Rounds go on, 9 at least (5 where those take three times the case's time), until every ratio of
  the case is stable, or the case's time is over.
  [Brackets] are the 95% confidence interval of a median ratio, by the order statistics. A ratio is
  marked `~` if the ends of its interval are more than 10% apart.
- The contestants that update TensorFlow's variables in place (ours, ResourceApplyAdadelta,
  tf_keras's legacy class, Keras with `jit_compile`) do so in the same ones: where the pages of an
  array happen to lie makes a difference of up to a quarter, from one run to the next, on a virtual
  machine.
- A step is one update of all variables of the case with everything around it that the optimizer
  does: the whole `optimizer.apply(grads, variables)` for Keras and for `tf_adadelta.Adadelta`, the
  whole `apply_gradients` for tf_keras and our classes for it, the whole `step()` for PyTorch,
  `update` and `apply_updates` in one jitted function with donated arguments for Optax.
  `ResourceApplyAdadelta` and the NumPy kernel are the bare update.
- `tf.function` and `jit_compile` are timed as concrete functions: what a `tf.function` does in
  Python to find its graph is paid once per training step, whatever the optimizer. PyTorch's loop
  and foreach count as eager execution, `torch.compile` and `jax.jit` as `jit_compile`.
- GB/s counts the bytes that any update must move (variable, two averages and gradient read; the
  first three written: 28 an element in float32), so what moves more shows as slower.
- The limit moves the same bytes between NumPy arrays by the same loop with no arithmetic. Where all
  variables fit into the caches, it says what a call costs rather than what the memory allows. An
  option's bytes are taken to move at the same rate.
- × fused is the time over that of the fused update in the same mode. It, "of the limit" and the
  targets are medians of the ratios of all rounds rather than ratios of the medians: the bandwidth
  of the memory changes from minute to minute on a shared machine, within a round hardly.
- Learning rate 1, ρ = 0.95, ε = 1e-7 for all. Before anything was timed, each contestant was
  compared with a float64 oracle over a few steps; with options, with Keras in eager execution."""


def summary(run: Run) -> str:
    """Returns what one wants to know first: what is missing, the targets, each case in short."""
    parts = [
        *_caveats(run),
        _targets(run.targets),
        _slower(run),
        _overview(run.cases),
        _options(run.cases),
        _training(run.cases),
        _overheads(run.overheads),
    ]
    return "\n\n".join(filter(None, parts))


def tables(run: Run) -> str:
    """Returns the tables of all cases."""
    parts = []
    for section, cases in sections(run.cases).items():
        parts += [f"## {_TITLES.get(section, section)}", *map(_case, cases)]
    return "\n\n".join(parts)


def write_markdown(run: Run, path: Path, plots: dict[str, str], how: str) -> None:
    """Writes the report, with plots (their descriptions by file name) and how it was measured."""
    environment = markdown_table(
        ("", ""), [(name, str(value)) for name, value in run.environment.items()], "<<"
    )
    parts = [
        "# Fused against unfused Adadelta updates",
        *(f"![{description}]({name})" for name, description in plots.items()),
        summary(run),
        tables(run),
        how,
        "## With what it was measured",
        environment,
    ]
    path.write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")


_NAMED = 10  # So many unstable rows are named in front; all are marked.


def _caveats(run: Run) -> Iterator[str]:
    if run.quick:
        yield "**From `--quick`: few rounds, variables and elements; no figures to rely on.**"
    by_reason: dict[str, list[str]] = {}
    for name, reason in run.missing.items():
        by_reason.setdefault(reason, []).append(name)
    if by_reason:
        reasons = [f"{' and '.join(names)}: {reason}" for reason, names in by_reason.items()]
        yield f"Not measured: {'; '.join(reasons)}."
    unstable = [f"{case.path}: {row.name}" for case in run.cases for row in _unstable(case)]
    if unstable:
        ratios = sum(len(case.rows) for case in run.cases)
        names = "; ".join(unstable[:_NAMED])
        if len(unstable) > _NAMED:
            names = f"{names}; and {len(unstable) - _NAMED} more"
        yield (
            f"**Not stable** (marked `~`: the 95% interval of a ratio is wider than "
            f"{STABLE_WITHIN - 1:.0%}): {len(unstable)} of {ratios} rows. {names}."
        )


def _unstable(case: CaseResult) -> list[Row]:
    return [row for row in case.rows if not row.stable]


def _targets(targets: Sequence[TargetResult]) -> str:
    if not targets:
        return ""
    missed = sum(not target.met for target in targets)
    verdict = f"{len(targets) - missed} of {len(targets)} met, {missed} NOT met."
    table = markdown_table(
        ("case", "target", "measured", "wanted", ""),
        [
            (
                target.case,
                target.description,
                f"{target.measured:.2f}",
                f"≥ {target.wanted:.2f}",
                "met" if target.met else "NOT met",
            )
            for target in targets
        ],
        "<<>><",
    )
    return f"## Targets\n\n{verdict}\n\n{table}"


def _slower(run: Run) -> str:
    """Names every contestant that is faster than the fused update in the same mode."""
    faster = [
        (case.path, row.name, FUSED.get(row.mode, row.mode), _with_interval(row.ratio_to_fused))
        for case in run.cases
        for row in case.rows
        if row.ratio_to_fused is not None and row.ratio_to_fused.high < 1
    ]
    if not faster:
        return "## Where ours is slower\n\nNowhere: no contestant was faster in the same mode."
    table = markdown_table(("case", "contestant", "ours", "× fused"), faster, "<<<>")
    return (
        "## Where ours is slower\n\nContestants that were faster in the same mode, the whole "
        f"interval of the ratio below 1:\n\n{table}"
    )


def _overview(cases: Sequence[CaseResult]) -> str:
    rows = []
    for case in cases:
        for row in case.rows:
            if not row.name.startswith(FUSED_PREFIX) or row.gigabytes_per_second is None:
                continue
            others = [
                other
                for other in case.rows
                if other.mode == row.mode and other.name != row.name and other.ratio_to_fused
            ]
            best = min(others, key=lambda other: other.ratio_to_fused.median, default=None)
            rows.append(
                (
                    case.path,
                    row.name,
                    _milliseconds(row.median_ms),
                    f"{row.gigabytes_per_second:.3g}",
                    _ratio(row.fraction_of_limit, 3),
                    "" if best is None else best.name,
                    "" if best is None else _ratio(best.ratio_to_fused),
                )
            )
    header = ("case", "ours", "ms", "GB/s", "of the limit", "best other in the mode", "× fused")
    if not rows:
        return ""
    return f"## Ours in short\n\n{markdown_table(header, rows, '<<>>><>')}"


def _options(cases: Sequence[CaseResult]) -> str:
    """The bytes of Keras's options beside the times, ours and Keras's."""
    rows = []
    for case in cases:
        if case.section != "options":
            continue
        cells = [case.name, str(case.bytes_per_element)]
        for mode in (FUNCTION, JIT):
            pair = [case.row(names[mode]) for names in (FUSED, KERAS)]
            cells += ["" if row is None else _milliseconds(row.median_ms) for row in pair]
            ratio = case.ratio(KERAS[mode], FUSED[mode])
            cells.append("" if ratio is None else _with_interval(ratio))
        rows.append(tuple(cells))
    if not rows:
        return ""
    sides = ("ours ms", "Keras ms", "Keras / ours")
    header = ("options", "bytes an element", *sides, *(f"{side}, jit" for side in sides))
    return (
        "## What the options cost\n\nThe bytes that the update must move with them, and times in "
        f"`tf.function` and with `jit_compile`.\n\n{markdown_table(header, rows, '<>>>>>>>')}"
    )


def _training(cases: Sequence[CaseResult]) -> str:
    """The whole step of `fit`, and how much of it is the optimizer."""
    rows = []
    for case in cases:
        for fit, alone in ((FIT_FUNCTION, FUNCTION), (FIT_JIT, JIT)):
            gain = case.ratio(KERAS[fit], FUSED[fit])
            shares = [case.ratio(names[alone], names[fit]) for names in (KERAS, FUSED)]
            if gain is not None and None not in shares:
                times = [_milliseconds(case.row(names[fit]).median_ms) for names in (KERAS, FUSED)]
                rows.append(
                    (
                        case.name,
                        alone,
                        *times,
                        _with_interval(gain),
                        *(f"{share.median:.0%}" for share in shares),
                    )
                )
    if not rows:
        return ""
    header = ("model", "mode", "Keras ms", "fused ms", "Keras / fused", "Keras's share", "ours")
    return (
        "## What training gains\n\nA step of `fit`, and the optimizer's share of it: the time of "
        "`optimizer.apply` alone, on the same variables, over that of the step.\n\n"
        + markdown_table(header, rows, "<<>>>>>")
    )


def _overheads(overheads: Sequence[Overhead]) -> str:
    if not overheads:
        return ""
    table = markdown_table(
        ("contestant", "µs a call", "µs a variable", "ns an element", "largest error"),
        [
            (
                overhead.contestant,
                f"{overhead.call_us:.2f}",
                f"{overhead.variable_us:.3f}",
                f"{overhead.element_ns:.3f}",
                f"{overhead.error:.0%}",
            )
            for overhead in overheads
        ],
        "<>>>>",
    )
    return (
        "## What a call, a variable and an element cost\n\nLeast squares of the relative errors "
        "over the cases of at most 256,000 elements, which are in the caches; the last column is "
        f"the largest error of that straight line.\n\n{table}"
    )


def _case(case: CaseResult) -> str:
    table = markdown_table(
        ("contestant", "median ms", "quartiles ms", "GB/s", "of the limit", "× fused"),
        list(map(_cells, case.rows)),
        "<>>>>>",
    )
    rounds = len(case.rows[0].samples_ms)
    return (
        f"### {case.name}\n\n{case.description}: {case.elements:,} elements, "
        f"{case.bytes_per_element} bytes each, {rounds} rounds.\n\n{table}"
    )


def _cells(row: Row) -> tuple[str, ...]:
    speed = row.gigabytes_per_second
    return (
        row.name,
        _milliseconds(row.median_ms),
        f"{_milliseconds(row.lower_quartile_ms)} – {_milliseconds(row.upper_quartile_ms)}",
        "" if speed is None else f"{speed:.3g}",
        _ratio(row.fraction_of_limit, 3),
        "" if row.ratio_to_fused is None else _with_interval(row.ratio_to_fused),
    )


def _milliseconds(value: float) -> str:
    return f"{value:.3f}" if value >= 0.1 else f"{value:.5f}"


def _ratio(ratio: Ratio | None, digits: int = 2) -> str:
    if ratio is None:
        return ""
    return f"{'' if ratio.stable else '~'}{ratio.median:.{digits}f}"


def _with_interval(ratio: Ratio) -> str:
    return f"{_ratio(ratio)} [{ratio.low:.2f}, {ratio.high:.2f}]"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], alignment: str) -> str:
    """Lays out a Markdown table; `alignment` has a `<` or a `>` for each column."""
    widths = [max(3, *map(len, column)) for column in zip(header, *rows)]
    rule = [
        ":" + "-" * (width - 1) if side == "<" else "-" * (width - 1) + ":"
        for width, side in zip(widths, alignment)
    ]
    lines = [
        " | ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, alignment, widths))
        for row in (header, rule, *rows)
    ]
    return "\n".join(f"| {line} |" for line in lines)


def environment_table(environment: Mapping[str, object]) -> str:
    """Lays out what `describe_environment` returned as a Markdown table."""
    return markdown_table(("", ""), [(key, str(value)) for key, value in environment.items()], "<<")
