"""Runs the kernels and their door for NumPy under sanitizers and valgrind.

python ci/sanitize.py                   all that needs no GPU
python ci/sanitize.py --asan --ubsan    some of it

They are in builds of their own in build/sanitize. Under them run the tests of the kernels that
need no TensorFlow, `pool` (tests/core/pool.cc: hundreds of calls at once on one pool of threads)
and `replay` (what the fuzzer found worth keeping, tests/core/corpus). Needs g++ with its
sanitizers, and valgrind for --valgrind; the tests need NumPy, ml_dtypes, pytest and Hypothesis.
"""

import argparse
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from kernel_tests import FILES, SELECTION, add_build_arguments, build_core, pytest_command
from steps import ROOT, Steps, first_line

BUILD = ROOT / "build" / "sanitize"
CORPUS = ROOT / "tests" / "core" / "corpus"
TESTS = ROOT / "tests"

# Those that go into one build.
GROUPS = (("asan", "ubsan"), ("tsan",))
FLAGS = {
    "asan": "-fsanitize=address -fno-omit-frame-pointer",
    "ubsan": "-fsanitize=undefined -fno-sanitize-recover=all",
    "tsan": "-fsanitize=thread",
}
# Python, which has not been built with them, has to load their runtimes first.
RUNTIMES = {"asan": "libasan.so", "tsan": "libtsan.so"}
OPTIONS = {
    "ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_init_order=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}

# The loops have an optimisation of their own; the rest need not take long to compile.
OPTIMISE = "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -g"

# Under valgrind a test takes fifty times as long. These go through every kind of loop and check.
VALGRIND_TESTS = (
    "test_hyperparameters or test_unaligned_starts or test_bad_input or test_empty "
    "or test_copy_streams or test_large_gradients or test_all_rows or test_sixteen_bit "
    "or test_sparse_state or test_addresses_that_no_vector_of_a_state_may_have"
)


def sanitize(steps: Steps, names: list[str], told: argparse.Namespace) -> None:
    """Builds with some sanitizers and runs everything under them."""
    name = " and ".join(names)
    build = BUILD / "-".join(names)
    flags = " ".join(FLAGS[n] for n in names)
    if not build_core(steps, name, build, told, f"-DCMAKE_CXX_FLAGS={flags}", OPTIMISE):
        return
    steps.run(f"{name}: pool", [build / "pool", "10"], timeout=900, **OPTIONS)
    steps.run(f"{name}: replay", [build / "replay", CORPUS], timeout=600, **OPTIONS)
    compiler = os.environ.get("CXX", "g++")
    runtimes = [RUNTIMES[n] for n in names if n in RUNTIMES] + ["libstdc++.so"]
    preload = [first_line(compiler, f"-print-file-name={library}") for library in runtimes]
    # Python keeps memory until it ends, which is no leak of ours.
    options = {**OPTIONS, "ASAN_OPTIONS": f"{OPTIONS['ASAN_OPTIONS']}:detect_leaks=0"}
    for file in FILES:
        steps.run(
            f"{name}: {file}",
            pytest_command("-x", file, "-k", SELECTION),
            cwd=TESTS,
            PYTHONPATH=str(build),
            LD_PRELOAD=":".join(preload),
            **options,
        )


def valgrind_errors(report: Path) -> list[str]:
    """Returns what valgrind reports of code of ours: Python and NumPy have a style of their own."""
    errors = []
    for error in ElementTree.parse(report).getroot().iter("error"):
        if (error.findtext("kind") or "").startswith("Leak"):
            continue  # What Python keeps until it ends.
        frames = error.findall("./stack/frame")
        ours = [
            frame
            for frame in frames
            if any(name in (frame.findtext("obj") or "") for name in ("tf_adadelta", "_kernels"))
            or (frame.findtext("obj") or "").startswith(str(BUILD))
        ]
        if ours:
            what = error.findtext("what") or error.findtext("xwhat/text") or "?"
            errors.append(f"{what} in {ours[0].findtext('fn')} ({ours[0].findtext('file')})")
    return errors


def valgrind(steps: Steps, told: argparse.Namespace) -> None:
    """Runs the programs and some of the tests under valgrind."""
    if shutil.which("valgrind") is None:
        steps.add("valgrind", "FAILED", 0, "valgrind is not installed (apt-get install valgrind)")
        return
    build = BUILD / "valgrind"
    if not build_core(steps, "valgrind", build, told, OPTIMISE):
        return
    check = ["valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full"]
    steps.run("valgrind: pool", [*check, build / "pool", "1"], timeout=1200)
    steps.run("valgrind: replay", [*check, build / "replay", CORPUS], timeout=1200)
    report = steps.folder / "valgrind.xml"
    for file in ("test_kernels.py", "test_sparse_kernel.py", "test_stochastic_rounding.py"):
        name = f"valgrind: {file}"
        python = ["valgrind", "--num-callers=30", "--xml=yes", f"--xml-file={report}"]
        command = [*python, *pytest_command("-x", file, "-k", VALGRIND_TESTS)]
        ran = steps.run(
            name, command, cwd=TESTS, PYTHONPATH=str(build), PYTHONMALLOC="malloc", timeout=3600
        )
        errors = valgrind_errors(report) if ran is not None else []
        if errors:
            steps.add(name, "FAILED", 0, f"{len(errors)} errors, the first: {errors[0]}")


def compute_sanitizer(steps: Steps) -> None:
    """Runs the tests of the GPU's kernels, as they are installed, under each tool of CUDA's."""
    if not Path("/dev/nvidiactl").exists():
        steps.add("compute-sanitizer", "not run", 0, "no GPU on this machine")
        return
    for tool in ("memcheck", "racecheck", "initcheck", "synccheck"):
        command = ["compute-sanitizer", f"--tool={tool}", "--error-exitcode=9"]
        test = ["-m", "pytest", "-n", "0", "-m", "gpu", "-k", "kernel", "tests/test_gpu.py"]
        steps.run(f"compute-sanitizer: {tool}", [*command, sys.executable, *test], timeout=3600)


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in (*FLAGS, "valgrind"):
        parser.add_argument(f"--{name}", action="store_true", help="only this and others named")
    parser.add_argument(
        "--compute-sanitizer",
        action="store_true",
        help="the tests of the GPU under CUDA's tools, with the tf_adadelta that is installed",
    )
    add_build_arguments(parser)
    arguments = parser.parse_args()
    named = vars(arguments)
    everything = not any(named[n] for n in (*FLAGS, "valgrind", "compute_sanitizer"))
    steps = Steps(BUILD / "logs")
    for group in GROUPS:
        names = [name for name in group if named[name] or everything]
        if names:
            sanitize(steps, names, arguments)
    if arguments.valgrind or everything:
        valgrind(steps, arguments)
    if arguments.compute_sanitizer or everything:
        compute_sanitizer(steps)
    compiler = first_line(os.environ.get("CXX", "g++"), "--version")
    versions = {"compiler": compiler}
    if shutil.which("valgrind"):
        versions["valgrind"] = first_line("valgrind", "--version")
    steps.finish(arguments.out, **versions)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd} failed")
