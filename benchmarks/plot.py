"""The results as a picture."""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.contestants import FUSED_PREFIX, LIMIT
from benchmarks.results import CaseResult, Run

# A background of its own, so that it reads the same on a light and on a dark page.
BACKGROUND = "#fbfaf7"
TEXT = "#26323b"
ACCENT = "#d9622b"
MUTED = "#9fb0bb"


def write_plot(run: Run, path: Path) -> None:
    """Draws the bandwidth of every contestant, one panel a case, the limit as a line."""
    colors = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), TEXT)
    with matplotlib.rc_context({"font.size": 9, **colors}):
        figure = Figure(figsize=(11, 3.6), facecolor=BACKGROUND, layout="constrained")
        panels = figure.subplots(1, len(run.cases), sharey=True)
        for panel, case in zip(panels, run.cases):
            _draw_case(panel, case)
        panels[0].invert_yaxis()
        figure.supxlabel("GB/s at 28 bytes an element: longer is faster", fontsize=9)
        figure.savefig(path, dpi=110)


def _draw_case(panel: Axes, case: CaseResult) -> None:
    rows = [row for row in case.rows if row.mode is not None]
    limit = next(row.gigabytes_per_second for row in case.rows if row.name == LIMIT)
    bars = panel.barh(
        [row.name for row in rows],
        [row.gigabytes_per_second for row in rows],
        color=[ACCENT if row.name.startswith(FUSED_PREFIX) else MUTED for row in rows],
    )
    panel.axvline(limit, color=TEXT, linewidth=1, linestyle="--")
    panel.bar_label(
        bars,
        [f"{row.median_ms:.3g} ms" for row in rows],
        padding=4,
        fontsize=8,
        bbox={"facecolor": BACKGROUND, "edgecolor": "none", "pad": 1},  # Hides the line behind it.
    )
    panel.set_title(f"{case.name}  (dashed: limit, {limit:.3g} GB/s)", fontsize=9)
    panel.margins(x=0.25)
    panel.set_facecolor(BACKGROUND)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)
