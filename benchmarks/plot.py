"""The results as pictures; `python -m benchmarks.plot FILE.json` draws them again."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.names import (
    COMPILED,
    FOREACH,
    FUNCTION,
    FUSED,
    FUSED_PREFIX,
    JIT,
    KERAS,
    LIMIT,
    NUMPY,
    OPTAX,
    STOCK_OP,
)
from benchmarks.results import CaseResult, NotResultsError, Run, read_json

# No background, and tones in the middle: legible on a light page and on a dark one.
BACKGROUND = "none"
TEXT = "#7d8791"
ACCENT = "#d9622b"
MUTED = "#93a4b0"

_SIZE_LINES = {
    LIMIT: {"color": TEXT, "linestyle": "--", "linewidth": 1.2},
    FUSED[NUMPY]: {"color": "#e39a6f", "marker": "o"},
    FUSED[FUNCTION]: {"color": ACCENT, "marker": "o", "linewidth": 2.2},
    FUSED[JIT]: {"color": "#b0489c", "marker": "o"},
    STOCK_OP: {"color": "#3f8fc4", "marker": "s"},
    KERAS[FUNCTION]: {"color": "#4c9f70", "marker": "s"},
    KERAS[JIT]: {"color": "#8aa83c", "marker": "s"},
    FOREACH: {"color": "#8d7fc7", "marker": "^"},
    COMPILED: {"color": "#c2a034", "marker": "^"},
    OPTAX: {"color": MUTED, "marker": "v"},
}


def write_plots(run: Run, directory: Path) -> dict[str, str]:
    """Draws what the run has data for; returns descriptions of the pictures by file name."""
    drawings = {
        "size": (_draw_sizes, "Bandwidth of each contestant against the size of one variable"),
        "models": (
            _draw_models,
            "How many times as long as the fused update each contestant takes",
        ),
    }
    written = {}
    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    with matplotlib.rc_context({"font.size": 9, **dict.fromkeys(names, TEXT)}):
        for what, (draw, description) in drawings.items():
            figure = draw(run)
            if figure is not None:
                name = f"{run.device}_{what}.png"
                figure.savefig(directory / name, dpi=110, transparent=True)
                written[name] = description
    return written


def _draw_sizes(run: Run) -> Figure | None:
    cases = [case for case in run.cases if case.section == "size"]
    if len(cases) < 2:
        return None
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.subplots()
    for name, style in _SIZE_LINES.items():
        points = [(case.elements, row) for case in cases if (row := case.row(name)) is not None]
        if points:
            axes.plot(
                [elements for elements, _ in points],
                [row.gigabytes_per_second for _, row in points],
                label=name,
                markersize=4,
                **style,
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("elements of the variable")
    axes.set_ylabel("GB/s at 28 bytes an element")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False)
    return figure


def _draw_models(run: Run) -> Figure | None:
    """Bars of the ratios, a panel for each list of several variables."""
    cases = [case for case in run.cases if case.section == "models"]
    cases += [case for case in run.cases if case.section == "variables" and case.variables == 1000]
    cases = [case for case in cases if _others(case)]
    if not cases:
        return None
    rows = max(len(_others(case)) for case in cases)
    lines, columns = -(-len(cases) // 3), min(3, len(cases))
    figure = Figure(figsize=(11, 0.9 + (0.5 + 0.2 * rows) * lines), layout="constrained")
    grid = figure.add_gridspec(lines, columns)
    shared = None
    for position, case in zip(grid, cases):
        shared = figure.add_subplot(position, sharex=shared)
        _draw_case(shared, case, rows)
    figure.supxlabel("time over that of the fused update in the same mode", fontsize=9)
    return figure


def _others(case: CaseResult) -> Sequence:
    return [
        row
        for row in case.rows
        if row.ratio_to_fused is not None and not row.name.startswith(FUSED_PREFIX)
    ]


def _draw_case(panel: Axes, case: CaseResult, rows: int) -> None:
    others = _others(case)
    ratios = [row.ratio_to_fused for row in others]
    medians = [ratio.median for ratio in ratios]
    bars = panel.barh(
        [row.name for row in others],
        [median - 1 for median in medians],
        left=1,
        xerr=[
            [ratio.median - ratio.low for ratio in ratios],
            [ratio.high - ratio.median for ratio in ratios],
        ],
        color=[MUTED if median >= 1 else "#3f8fc4" for median in medians],
        ecolor=TEXT,
    )
    panel.set_xscale("log")
    panel.axvline(1, color=ACCENT, linewidth=1.5)
    panel.bar_label(bars, [f"{median:.2f}×" for median in medians], padding=4, fontsize=8)
    panel.set_title(case.name, fontsize=9)
    panel.margins(x=0.25)
    panel.set_ylim(rows - 0.5, -0.5)  # The first at the top, and bars of one height in all panels.
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.tick_params(axis="x", labelbottom=True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)


def main() -> None:
    """Draws the pictures of a file of results beside it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.json")
    arguments = parser.parse_args()
    try:
        run = read_json(arguments.file)
    except NotResultsError as error:
        parser.error(str(error))
    names = write_plots(run, arguments.file.parent)
    print(f"Written to {arguments.file.parent}: {', '.join(names) or 'nothing: no case to draw'}")


if __name__ == "__main__":
    main()
