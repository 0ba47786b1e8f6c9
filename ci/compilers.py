"""Builds with one compiler after the other, no warning allowed, and runs the tests of the kernels.

python ci/compilers.py                                   every g++ and clang++ on the PATH
python ci/compilers.py g++-12 clang++-14
python ci/compilers.py --distribution jammy g++-9        in a root of Ubuntu 22.04, made for it

Each compiler builds the core, the extension module and, against the TensorFlow of this
interpreter, the op library, in a folder of its own below build/compilers. The tests run without
TensorFlow, since what is tried is the compiler. What came out is kept in
ci/results/compilers.json, and docs/compilers.md is written from it; compilers that are not tried
again stay as they were.

With --distribution, which needs root, debootstrap and the network, the compilers and Python are
those of that distribution. pip takes its settings there from this environment's variables.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from kernel_tests import pytest_command
from roots import RootError, enter, make_root
from steps import ROOT, Steps, first_line, machine

BUILD = ROOT / "build" / "compilers"
RESULTS = ROOT / "ci" / "results" / "compilers.json"
PAGE = ROOT / "docs" / "compilers.md"
TESTS = (
    "test_kernels.py",
    "test_sparse_kernel.py",
    "test_stochastic_rounding.py",
    "test_cuda_kernel.py",
    "test_cuda_sparse_kernel.py",
)
NEEDED = ("cmake", "ninja", "pybind11", "numpy", "ml_dtypes", "pytest", "hypothesis")

ASK_TENSORFLOW = """
import json
import tensorflow as tf
print(json.dumps({
    "TENSORFLOW_VERSION": tf.__version__,
    "TENSORFLOW_LIBRARY_DIR": tf.sysconfig.get_lib(),
    "TENSORFLOW_COMPILE_FLAGS": " ".join(
        flag for flag in tf.sysconfig.get_compile_flags() if not flag.startswith("-I")),
}))
"""


def tensorflow_settings() -> dict[str, str]:
    """Returns what CMake wants to know of the TensorFlow of this interpreter."""
    asked = subprocess.run(
        [sys.executable, "-c", ASK_TENSORFLOW],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    if asked.returncode != 0:
        sys.exit(
            "compilers.py: no TensorFlow to build the op library against. It needs to be "
            f"installed beside {sys.executable}:\n{asked.stderr[-500:]}"
        )
    return json.loads(asked.stdout.splitlines()[-1])


def installed_compilers() -> list[str]:
    """Returns the names of the compilers on the PATH."""
    names = {
        path.name
        for folder in os.environ["PATH"].split(os.pathsep)
        for path in Path(folder).glob("*++*")
        if re.fullmatch(r"(g|clang)\+\+(-\d+)?", path.name)
    }
    # g++ is one of those that have a number, if there are any.
    return sorted(name for name in names if "-" in name or not {n for n in names if "-" in n})


def try_compiler(
    steps: Steps, compiler: str, tensorflow: dict[str, str], arguments: argparse.Namespace
) -> dict[str, object]:
    """Builds everything with a compiler and runs the tests; returns the row of the table."""
    row: dict[str, object] = {
        "compiler": compiler,
        "version": first_line(compiler, "--version"),
        "distribution": platform.freedesktop_os_release()["PRETTY_NAME"],
        "python": platform.python_version(),
        "tensorflow": tensorflow["TENSORFLOW_VERSION"],
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "passed": False,
    }
    folder = arguments.build / compiler
    built = folder / "built.json"
    if not (arguments.tests_only and built.exists()):
        shutil.rmtree(folder, ignore_errors=True)
        if not build_all(steps, compiler, tensorflow, folder, arguments.jobs):
            return row
    row |= json.loads(built.read_text())
    if row["warnings"]:
        return row
    for source in (ROOT / "tf_adadelta").rglob("*.py"):
        target = folder / source.relative_to(ROOT)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(source, target)
    environment = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    tests = pytest_command(*TESTS)
    passed = steps.run(f"{compiler}: tests", tests, cwd=ROOT / "tests", **environment)
    row["tests"] = steps.rows[-1]["detail"]
    row["passed"] = passed is not None
    return row


def build_all(
    steps: Steps, compiler: str, tensorflow: dict[str, str], folder: Path, jobs: int
) -> bool:
    """Builds everything with a compiler; writes built.json and returns whether it could."""
    settings = {
        **tensorflow,
        "TENSORFLOW_INCLUDE_DIR": f"{tensorflow['TENSORFLOW_LIBRARY_DIR']}/include",
        "OUTPUT_DIR": str(folder / "tf_adadelta"),
        "Python_EXECUTABLE": sys.executable,
        "CMAKE_CXX_COMPILER": compiler,
        "CMAKE_CXX_FLAGS": "-Werror",
        "TF_ADADELTA_CUDA": "OFF",
    }
    settings["pybind11_DIR"] = first_line(sys.executable, "-m", "pybind11", "--cmakedir")
    definitions = [f"-D{name}={value}" for name, value in settings.items()]
    configure = ["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", *definitions]
    if steps.run(f"{compiler}: configure", configure) is None:
        return False
    command = ["cmake", "--build", folder, "--parallel", str(jobs), "--", "-k", "0"]
    printed = steps.run(f"{compiler}: build", command, CCACHE_DISABLE="1")
    step = steps.rows[-1]
    text = printed or Path(str(step["detail"]).removeprefix("see ")).read_text()
    found = {
        "jobs": jobs,
        "build_s": step["seconds"],
        "warnings": len(re.findall(r"warning: |error: .*\[-W", text)),
    }
    (folder / "built.json").write_text(json.dumps(found))
    return bool(found["warnings"]) or printed is not None


def in_distribution(
    steps: Steps, arguments: argparse.Namespace, tensorflow: dict[str, str]
) -> list[dict[str, object]]:
    """Runs this script in a root of another distribution; returns its rows."""
    suite = arguments.distribution
    arguments.work.mkdir(parents=True, exist_ok=True)
    root = arguments.work / suite
    print(f"{suite}: root ...", flush=True)
    make_root(suite, root, arguments.work / f"{suite}.log", arguments.mirror)
    packages = ["ca-certificates", "python3-dev", "python3-venv", "g++"]
    packages += [name.replace("clang++", "clang") for name in arguments.compilers]
    # Where the mirror is a snapshot, its releases have expired; they are signed all the same.
    update = "apt-get -o Acquire::Check-Valid-Until=false update"
    install = "apt-get install --yes --no-install-recommends"
    command = f"{update} && {install} {' '.join(packages)}"
    steps.run(f"{suite}: compilers", enter(root, ["sh", "-c", command]), listed=False)
    venv = "python3 -m venv /venv && /venv/bin/pip install " + " ".join(NEEDED)
    steps.run(f"{suite}: Python", enter(root, ["sh", "-c", venv]), listed=False)
    if steps.failed():
        return []
    inner = {**tensorflow, "TENSORFLOW_LIBRARY_DIR": "/tensorflow"}
    rows = root / "rows.json"
    rows.unlink(missing_ok=True)
    command = enter(
        root,
        [
            *("/venv/bin/python", "/source/ci/compilers.py", *arguments.compilers),
            *("--tensorflow", json.dumps(inner), "--rows", "/rows.json", "--build", "/build"),
            *("--jobs", str(arguments.jobs)),
            *(["--tests-only"] if arguments.tests_only else []),
        ],
        mounts={ROOT: "/source", Path(tensorflow["TENSORFLOW_LIBRARY_DIR"]): "/tensorflow"},
        PATH="/venv/bin:/usr/bin:/bin",
    )
    subprocess.run(command)
    if not rows.exists():
        sys.exit(f"compilers.py: nothing came out of {suite}; what it printed is above.")
    return json.loads(rows.read_text())


def write_page(rows: list[dict[str, object]]) -> None:
    """Writes docs/compilers.md."""
    lines = [
        "# Compilers",
        "",
        "Written by `python ci/compilers.py`. Each compiler built the core, the extension module",
        "and the op library, with `-Wall -Wextra -Werror`, as many files at once as *jobs* says;",
        "then the tests of the kernels ran with what it built.",
        "",
        "| compiler | version | on | headers of | jobs | build | warnings | tests "
        "| machine | date |",
        "|:--|:--|:--|:--|--:|--:|--:|:--|:--|:--|",
    ]
    for row in rows:
        version = re.search(r"\d+\.\d+\.\d+", str(row["version"]))
        lines.append(
            f"| {row['compiler']} | {version[0] if version else row['version']} "
            f"| {row['distribution']}, Python {row['python']} | TensorFlow {row['tensorflow']} "
            f"| {row.get('jobs', 1)} | {row.get('build_s', '')} s | {row.get('warnings', '')} "
            f"| {'' if row['passed'] else '**failed** '}{row.get('tests', '')} "
            f"| {row['machine']} | {row['date']} |"
        )
    PAGE.write_text("\n".join(lines) + "\n")


def keep(rows: list[dict[str, object]]) -> None:
    """Puts rows into the results, in place of those of the same compilers, and writes the page."""
    kept = json.loads(RESULTS.read_text())["compilers"] if RESULTS.exists() else []
    names = {(row["compiler"], row["distribution"]) for row in rows}
    kept = [row for row in kept if (row["compiler"], row["distribution"]) not in names]
    rows = sorted([*kept, *rows], key=lambda row: natural(f"{row['compiler']} {row['version']}"))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    report = {"compilers": rows}
    RESULTS.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    write_page(rows)


def natural(text: str) -> list[tuple[int, str]]:
    """Returns a key that sorts 9 before 12."""
    return [(int(part or 0), word) for word, part in re.findall(r"(\D*)(\d*)", text)]


def main() -> None:
    """Tries the compilers that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "compilers", nargs="*", metavar="COMPILER", help="such as g++-12 clang++-14"
    )
    parser.add_argument(
        "--distribution", help="the release to try them in, such as jammy or trixie"
    )
    parser.add_argument("--mirror", default="", help="where debootstrap takes its packages from")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build" / "roots", help="where roots are made and kept"
    )
    parser.add_argument("--jobs", type=int, default=1, help="compile as many files at a time")
    parser.add_argument("--tests-only", action="store_true", help="test what was built before")
    parser.add_argument("--no-results", action="store_true", help="write no result and no page")
    # What the script in a root is told by the one outside.
    parser.add_argument("--build", type=Path, default=BUILD, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tensorflow", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.distribution and not arguments.compilers:
        parser.error("--distribution wants the names of the compilers")

    steps = Steps(arguments.build / "logs")
    tensorflow = arguments.tensorflow or tensorflow_settings()
    try:
        if arguments.distribution:
            rows = in_distribution(steps, arguments, tensorflow)
        else:
            names = arguments.compilers or installed_compilers()
            missing = [name for name in names if shutil.which(name) is None]
            if missing:
                sys.exit(f"compilers.py: not on the PATH: {', '.join(missing)}")
            rows = [try_compiler(steps, name, tensorflow, arguments) for name in names]
    except RootError as error:
        sys.exit(f"compilers.py: {error}")
    if arguments.rows:
        arguments.rows.write_text(json.dumps(rows))
    elif not arguments.no_results and rows:
        keep(rows)
    failed = steps.failed() or [str(row["compiler"]) for row in rows if not row["passed"]]
    if failed:
        sys.exit(f"compilers.py: failed: {', '.join(failed)}. Logs: {steps.folder}")


if __name__ == "__main__":
    main()
