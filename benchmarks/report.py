"""The results as text: Markdown that is readable as it stands."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.contestants import LIMIT
from benchmarks.results import BYTES_PER_ELEMENT, CaseResult, Row, Run, TargetResult

HOW_ON_CPU = f"""\
## How it was measured

- All contestants ran in one process on the same threads, one after the other in every round, in an
  order shuffled each round. A sample is the mean of a burst of calls of at least 20 ms, after one
  call that is not timed; the table has the median of the samples and their quartiles.
- The contestants that update TensorFlow's variables in place (ours, ResourceApplyAdadelta,
  tf_keras's legacy class, Keras with `jit_compile`) do so in the same ones: where the pages of an
  array happen to lie makes a difference of up to a quarter, from one run to the next, on a virtual
  machine.
- A step is one update of all variables of the case, float32, with everything around it that the
  optimizer does: the whole `optimizer.apply(grads, variables)` for Keras and for
  `tf_adadelta.Adadelta`, the whole `apply_gradients` for `tf_keras.optimizers.legacy.Adadelta` and
  `tf_adadelta.tf_keras.legacy.Adadelta`. `ResourceApplyAdadelta` and the NumPy kernel are the bare
  update.
- `tf.function` and `jit_compile` are timed as concrete functions: what a `tf.function` does in
  Python to find its graph is paid once per training step, whatever the optimizer.
- GB/s counts the {BYTES_PER_ELEMENT} bytes an element that any update must move (variable, two
  averages and gradient read; the first three written), so what moves more shows as slower.
- The limit moves the same bytes between NumPy arrays by the same loop with no arithmetic. Where all
  variables fit into the caches (200x256), it says what a call costs rather than what the memory
  allows.
- × fused is the time over that of the fused update in the same mode. It, "of the limit" and the
  targets are medians of the ratios of all rounds rather than ratios of the medians: the bandwidth
  of the memory changes from minute to minute on a shared machine, within a round hardly.
- Before anything was timed, each contestant was compared with a float64 oracle over a few steps."""


def tables(run: Run) -> str:
    """Returns the targets and the tables of all cases."""
    parts = [_targets(run.targets), *map(_case, run.cases)]
    if run.missing:
        parts.insert(0, f"Not measured: {'; '.join(run.missing)}.")
    if run.quick:
        parts.insert(
            0, "**From `--quick`: few rounds, every eighth variable; no figures to rely on.**"
        )
    return "\n\n".join(parts)


def write_markdown(run: Run, path: Path, plot: str, how: str) -> None:
    """Writes the report, which shows the plot of that file name and says how it was measured."""
    environment = markdown_table(
        ("", ""), [(name, str(value)) for name, value in run.environment.items()], "<<"
    )
    parts = [
        "# Fused against unfused Adadelta updates",
        f"![Bandwidth of every contestant in every case]({plot})",
        tables(run),
        how,
        "## With what it was measured",
        environment,
    ]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _targets(targets: Sequence[TargetResult]) -> str:
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


def _case(case: CaseResult) -> str:
    table = markdown_table(
        ("contestant", "median ms", "quartiles ms", "GB/s", "of the limit", "× fused"),
        list(map(_cells, case.rows)),
        "<>>>>>",
    )
    rounds = len(case.rows[0].samples_ms)
    return (
        f"## {case.name}\n\n{case.description}: {case.elements:,} elements, "
        f"{rounds} rounds.\n\n{table}"
    )


def _cells(row: Row) -> tuple[str, ...]:
    counts = row.mode is not None or row.name == LIMIT  # Others move no bytes.
    return (
        row.name,
        f"{row.median_ms:.3f}",
        f"{row.lower_quartile_ms:.3f} – {row.upper_quartile_ms:.3f}",
        f"{row.gigabytes_per_second:.3g}" if counts else "",
        f"{row.fraction_of_limit:.3f}" if counts else "",
        "" if row.ratio_to_fused is None else f"{row.ratio_to_fused:.2f}",
    )


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
