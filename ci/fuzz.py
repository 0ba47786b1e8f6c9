"""Lets the fuzzers run for long: libFuzzer on the core, Hypothesis on the ops and on arrays.

python ci/fuzz.py                       ten minutes each
python ci/fuzz.py --seconds 60 --only core

The core is built by clang with AddressSanitizer and UndefinedBehaviorSanitizer, in build/fuzz; its
corpus grows there. `--merge` puts the fewest inputs that reach all of it into tests/core/corpus,
which the tests replay. The other two run in processes that are started over and over with a new
seed, so that one that is aborted or hangs is seen; the last example is then in build/fuzz/logs.
What fails belongs into the tests as an @example, or into the corpus.

Needs clang with libFuzzer (on Debian and Ubuntu: apt-get install clang libclang-rt-dev), and the
built package with TensorFlow for the ops.
"""

import argparse
import os
import re
import shutil
import sys
import time

from kernel_tests import add_build_arguments, cmake_arguments
from steps import ROOT, Steps, first_line

BUILD = ROOT / "build" / "fuzz"
CORPUS = ROOT / "tests" / "core" / "corpus"
FLAGS = (
    "-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all "
    "-fno-omit-frame-pointer -g"
)
TESTS = {"ops": "tests/test_fuzz_ops.py", "arrays": "tests/test_fuzz_arrays.py"}
# A round of a Hypothesis test: long enough that starting TensorFlow does not matter.
EXAMPLES = 1000
ROUND_LIMIT = 900


def find_clang() -> str:
    """Returns the name of a clang++; ends the script where there is none."""
    names = ["clang++", *(f"clang++-{version}" for version in range(30, 11, -1))]
    for name in [os.environ.get("CXX", ""), *names]:
        if "clang" in name and shutil.which(name):
            return name
    sys.exit("ci/fuzz.py: no clang++ found; libFuzzer comes with it (apt-get install clang)")


def fuzz_core(steps: Steps, told: argparse.Namespace) -> None:
    """Runs libFuzzer on the core."""
    configure = cmake_arguments(
        BUILD / "core",
        f"-DCMAKE_CXX_COMPILER={find_clang()}",
        f"-DCMAKE_CXX_FLAGS={FLAGS}",
        "-DTF_ADADELTA_FUZZ=ON",
    )
    build = ["cmake", "--build", BUILD / "core", "--target", "fuzz", "--parallel", str(told.jobs)]
    for what, command in (("configure", configure), ("build", build)):
        if not told.no_build and steps.run(f"core: {what}", command, listed=False) is None:
            return
    grown = BUILD / "corpus"
    grown.mkdir(exist_ok=True)
    fuzz = BUILD / "core" / "fuzz"
    options = [
        f"-max_total_time={told.seconds}",
        "-max_len=2048",
        "-len_control=0",  # Short inputs are calls of nothing but zeros.
        "-timeout=60",
        "-rss_limit_mb=4096",
        f"-artifact_prefix={BUILD}/",
        "-print_final_stats=1",
    ]
    printed = steps.run(
        "core: libFuzzer", [fuzz, grown, CORPUS, *options], timeout=told.seconds + 600, listed=False
    )
    if printed is not None:
        runs = re.search(r"number_of_executed_units: (\d+)", printed)
        covered = re.findall(r"cov: (\d+) ft: (\d+)", printed)
        detail = f"{runs and runs[1]} inputs, {covered[-1][0] if covered else 0} edges, no finding"
        steps.add("core: libFuzzer", "ok", told.seconds, detail)
    if told.merge:
        # The fewest that reach everything.
        kept = BUILD / "kept"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        command = [fuzz, "-set_cover_merge=1", "-max_len=2048", kept, CORPUS, grown]
        if steps.run("core: merge", command, listed=False) is not None:
            shutil.rmtree(CORPUS)
            shutil.copytree(kept, CORPUS)


def fuzz_tests(steps: Steps, name: str, seconds: int, seed: int) -> None:
    """Runs a test of Hypothesis in one process after the other."""
    end = time.monotonic() + seconds
    rounds, begin = 0, time.monotonic()
    while time.monotonic() < end:
        last = steps.folder / f"{name}-last-example.txt"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-x", TESTS[name]]
        ran = steps.run(
            f"{name}: seed {seed + rounds}",
            [*command, f"--hypothesis-seed={seed + rounds}"],
            timeout=ROUND_LIMIT,
            listed=False,
            TF_ADADELTA_FUZZ_EXAMPLES=str(EXAMPLES),
            TF_ADADELTA_FUZZ_LOG=str(last),
        )
        if ran is None:
            print(f"the last example: {last.read_text() if last.exists() else 'none'}")
            return
        rounds += 1
    detail = f"{rounds} rounds of {EXAMPLES} examples for each test, no finding"
    steps.add(f"{name}: Hypothesis", "ok", time.monotonic() - begin, detail)


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=600, help="how long each of them runs")
    parser.add_argument("--only", action="append", choices=["core", *TESTS], help="not the others")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of Hypothesis")
    parser.add_argument("--merge", action="store_true", help="keep what reaches something new")
    add_build_arguments(parser)
    arguments = parser.parse_args()
    wanted = arguments.only or ["core", *TESTS]
    steps = Steps(BUILD / "logs")
    facts = {}
    if "core" in wanted:
        facts["compiler"] = first_line(find_clang(), "--version")
        fuzz_core(steps, arguments)
    for name in TESTS:
        if name in wanted:
            facts["seed"] = arguments.seed
            fuzz_tests(steps, name, arguments.seconds, arguments.seed)
    steps.finish(arguments.out, **facts)


if __name__ == "__main__":
    main()
