"""Builds, installs and tests the package for every TensorFlow, Python and Keras it supports.

A cell of the matrix is named by TensorFlow, Python, distribution and Keras, such as
2.21/3.12/tensorflow-cpu/newest. Each gets a fresh environment. What came out is kept in
ci/results/matrix.json and written to docs/compatibility.md after every cell, with its date; cells
that are not run again stay as they were.
"""

import argparse
import dataclasses
import datetime
import fnmatch
import json
import shutil
import sys
import tempfile
import time
import xml.etree.ElementTree
from pathlib import Path

from environments import BUILD_TOOLS, PYTHONS, ROOT, CommandError, Environment, copy_sources

RESULTS = ROOT / "ci/results/matrix.json"
PAGE = ROOT / "docs/compatibility.md"
DISTRIBUTIONS = ("tensorflow", "tensorflow-cpu")
KERAS = {"oldest": "lowest-direct", "newest": "highest"}

# What touches the build, the ops, XLA and the optimizer.
QUICK = ("build", "kernels", "stochastic_rounding", "ops", "op_options", "xla", "optimizer")
QUICK_TESTS = [f"tests/test_{name}.py" for name in QUICK]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One combination of versions.

    Attributes:
        tensorflow: The minor version, such as "2.21".
        python: The version, such as "3.12".
        distribution: "tensorflow" or "tensorflow-cpu".
        keras: "oldest" or "newest": of those that go with this TensorFlow and Python.
    """

    tensorflow: str
    python: str
    distribution: str
    keras: str

    @property
    def name(self) -> str:
        """What it is called on the command line and in the results."""
        return "/".join(dataclasses.astuple(self))


CELLS = [
    Cell(tensorflow, python, distribution, keras)
    for tensorflow, pythons in PYTHONS.items()
    for python in pythons
    for distribution in DISTRIBUTIONS
    for keras in KERAS
]


def run_cell(cell: Cell, arguments: argparse.Namespace) -> dict[str, object]:
    """Returns what came out of a cell: versions, seconds, how many tests passed, and problems."""
    started = time.monotonic()
    result: dict[str, object] = {
        "date": datetime.date.today().isoformat(),
        "tests": "quick" if arguments.quick else "all",
        "installed": "wheel" if arguments.wheel_house else "source",
    }
    folder = arguments.work / cell.name.replace("/", "-")
    try:
        environment = Environment(folder, cell.python)
        # The oldest of what is named here: of TensorFlow's patches too.
        environment.install(
            f"{cell.distribution}=={cell.tensorflow}.*", "keras", "--resolution", KERAS[cell.keras]
        )
        sources = copy_sources(folder / "tf_adadelta")
        report = install(environment, sources, cell, arguments)
        running = report["running"]
        result |= {
            "tensorflow": running["tensorflow"],
            "keras": running["keras"],
            "python": report["python_running"],
            "compiler": report["compiler"],
            "built_in_s": round(time.monotonic() - started),
        }
        if "unusable" in running:
            raise CommandError(running["unusable"])
        result |= test(environment, sources, arguments.quick)
    except CommandError as error:
        result["problem"] = str(error)
    result["took_s"] = round(time.monotonic() - started)
    if "problem" not in result and not arguments.keep:
        shutil.rmtree(folder)
    return result


def install(
    environment: Environment, sources: Path, cell: Cell, arguments: argparse.Namespace
) -> dict:
    """Installs the package and returns its own report of the build."""
    environment.install(*BUILD_TOOLS, "pip")  # Which a test calls.
    # Nothing that is there gives way to another version.
    pins = environment.run(["uv", "pip", "freeze", "--python", environment.python])
    constraints = environment.folder / "constraints.txt"
    constraints.write_text(pins)
    if arguments.wheel_house:
        environment.install(
            "tf_adadelta", "--no-index", "--offline", "--find-links", arguments.wheel_house
        )
        extras = environment.run([environment.python, "-c", EXTRA_REQUIREMENTS, cell.distribution])
        environment.install(*extras.split(), "--constraint", constraints)
    else:
        environment.install(
            *(".[test]", "--no-build-isolation", "--constraint", constraints),
            cwd=sources,
            TF_ADADELTA_CUDA="OFF",
            # The cells differ in the folder that they are in: to ccache, where there is one, they
            # are the same.
            CCACHE_BASEDIR=str(environment.folder),
            CCACHE_NOHASHDIR="1",
        )
    printed = environment.run([environment.python, "-m", "tf_adadelta", "--json"])
    return json.loads(printed)


# Prints what the extra "test" of the installed package requires, but for what would bring a second
# TensorFlow: a wheel for all of them says `tensorflow`, and tf-keras requires that by name.
EXTRA_REQUIREMENTS = """
import importlib.metadata, sys
from packaging.requirements import Requirement
there = {"tensorflow"} if sys.argv[1] == "tensorflow" else {"tensorflow", "tf-keras"}
for text in importlib.metadata.requires("tf_adadelta"):
    requirement = Requirement(text)
    wanted = requirement.marker and requirement.marker.evaluate({"extra": "test"})
    if wanted and requirement.name not in there:
        print(str(requirement).split(";")[0].replace(" ", ""))
"""


def test(environment: Environment, sources: Path, quick: bool) -> dict[str, object]:
    """Returns how many tests passed, and what failed."""
    report = environment.folder / "junit.xml"
    environment.run(
        ["pytest", "-q", f"--junitxml={report}"] + (QUICK_TESTS if quick else []),
        cwd=sources,
        check=False,
        TF_CPP_MIN_LOG_LEVEL="2",
    )
    if not report.exists():
        raise CommandError(f"pytest ended without a report; see {environment.log}")
    cases = xml.etree.ElementTree.parse(report).getroot().findall(".//testcase")
    outcome = {kind: 0 for kind in ("passed", "skipped", "failed")}
    failed = []
    for case in cases:
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            outcome["failed"] += 1
            failed.append(f"{case.get('classname')}::{case.get('name')}")
        else:
            outcome["skipped" if "skipped" in kinds else "passed"] += 1
    if failed:
        raise CommandError(f"{len(failed)} of {len(cases)} tests failed: {', '.join(failed[:20])}")
    return outcome


def write_page(results: dict[str, dict]) -> None:
    """Writes docs/compatibility.md from the results."""
    lines = [
        "# What works with what",
        "",
        "Written by `python ci/matrix.py`: each row is a fresh environment, in which the",
        "package was installed and its tests ran. *quick* are the tests of the build, the",
        "kernels, the ops, XLA and the optimizer, *all* what plain `pytest` runs;",
        "*source* is `pip install .`, *wheel* one of `ci/build_wheel.py`, without network.",
        "",
        "| TensorFlow | Python | distribution | Keras | tests | from | passed | date |",
        "|:--|:--|:--|:--|:--|:--|--:|:--|",
    ]
    for cell in CELLS:
        result = results.get(cell.name)
        if result is None:
            continue
        passed = "**failed**" if "problem" in result else str(result["passed"])
        row = [
            result.get("tensorflow", cell.tensorflow),
            result.get("python", cell.python),
            cell.distribution,
            result.get("keras", cell.keras),
            result["tests"],
            result["installed"],
            passed,
            result["date"],
        ]
        lines.append(f"| {' | '.join(row)} |")
    missing = [cell.name for cell in CELLS if cell.name not in results]
    if missing:
        lines += ["", f"Not run yet: {', '.join(missing)}."]
    PAGE.write_text("\n".join(lines) + "\n")


def main() -> None:
    """Runs the cells that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cells", nargs="*", default=["*"], metavar="CELL", help="may hold * and ?")
    parser.add_argument("--list", action="store_true", help="print the names as JSON and stop")
    parser.add_argument("--quick", action="store_true", help="fewer tests: under 3 minutes a cell")
    parser.add_argument("--missing", action="store_true", help="only cells without a green result")
    parser.add_argument(
        "--wheel-house", type=Path, help="install from the wheels in this folder, offline"
    )
    parser.add_argument("--keep", action="store_true", help="keep the environments of green cells")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "tf_adadelta-matrix"
    )
    arguments = parser.parse_args()
    if arguments.wheel_house:
        arguments.wheel_house = arguments.wheel_house.resolve()
    arguments.work = arguments.work.resolve()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    cells = [cell for cell in CELLS if any(fnmatch.fnmatch(cell.name, n) for n in arguments.cells)]
    if arguments.missing:
        cells = [cell for cell in cells if "passed" not in results.get(cell.name, {})]
    if arguments.list:
        print(json.dumps([cell.name for cell in cells]))
        return
    if not cells:
        parser.error("no cell has such a name; --list prints them")
    print(f"{'cell':<36} {'keras':<8} {'tests':<6} {'build':>6} {'all':>6}  outcome", flush=True)
    failed = 0
    for number, cell in enumerate(cells, 1):
        print(f"{cell.name:<36} … {number} of {len(cells)}", end="\r", flush=True)
        result = run_cell(cell, arguments)
        results[cell.name] = result
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        write_page(results)
        outcome = result.get("problem") or f"{result['passed']} passed"
        failed += "problem" in result
        print(
            f"{cell.name:<36} {result.get('keras', '?'):<8} {result['tests']:<6} "
            f"{result.get('built_in_s', 0):>4} s {result['took_s']:>4} s  {outcome}",
            flush=True,
        )
    if failed:
        sys.exit(f"{failed} of {len(cells)} cells failed")


if __name__ == "__main__":
    main()
