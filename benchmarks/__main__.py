"""Command line of the benchmark: `python -m benchmarks --help`."""

import argparse
import gc
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from benchmarks import compare, plot, report, results
from benchmarks.cases import Case
from benchmarks.growth import fit_overheads
from benchmarks.suite import Suite, make_cpu_suite
from benchmarks.targets import evaluate
from benchmarks.timing import LEAST_ROUNDS, Samples, measure
from benchmarks.verification import verify, verify_like_keras


def _make_parser() -> argparse.ArgumentParser:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures fused against unfused Adadelta updates, and both against the memory.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("benchmarks/results"),
        metavar="DIR",
        help="where cpu.json, cpu.md and the plots go, or gpu.* (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "gpu"),
        default="cpu",
        help="where to measure; a GPU needs PyTorch and a build with CUDA (default: %(default)s)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="few rounds, variables and elements: to see that it works, not to measure",
    )
    parser.add_argument(
        "--filter",
        type=_pattern,
        metavar="REGEX",
        help="only what matches somewhere in section/case/contestant (see --list), and what that "
        "is compared with",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="also what takes minutes to trace or to compile: thousands of variables",
    )
    parser.add_argument("--list", action="store_true", help="list what would be measured, and end")
    parser.add_argument(
        "--threads",
        type=int,
        default=cores,
        metavar="N",
        help="cores to use on the CPU, one thread each (default: all, here %(default)s)",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="OLD.json",
        help="compare with the results of an earlier run",
    )
    compare.add_slower(parser)
    return parser


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression: {error}") from None


def _make_suite(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Suite:
    cores = len(os.sched_getaffinity(0))
    if not 1 <= arguments.threads <= cores:
        parser.error(f"--threads is {arguments.threads}, expected 1 to {cores}, the cores to use")
    if arguments.device == "cpu":
        suite = make_cpu_suite(arguments.threads)
    else:
        from benchmarks.gpu import make_gpu_suite

        suite = make_gpu_suite()
    if arguments.all:
        suite = suite.with_slow()
    if arguments.filter is not None:
        suite = suite.matching(arguments.filter)
        if not suite.cases:
            parser.error(f"--filter {arguments.filter.pattern!r} matches nothing: see --list")
    return suite.quick() if arguments.quick else suite


def _run_case(suite: Suite, case: Case, advance: Callable[[str], None]) -> results.CaseResult:
    gc.collect()  # Graphs are cyclic, and those of the case before hold its variables.
    contestants = suite.contestants_of(case)
    work = suite.make_work(case)
    prepared = {}
    for contestant in contestants:
        advance(f"{case.path}: building {contestant.name}")
        prepared[contestant.name] = contestant.prepare(work)
        prepared[contestant.name].step()  # Which compiles it, or what is left of that.

    def summarize(samples: Samples) -> results.CaseResult:
        return results.summarize(case, contestants, samples, suite.fused)

    samples = measure(
        prepared,
        case.rounds,
        lambda name: advance(f"{case.path}: timing {name}"),
        suite.burst,
        seconds=case.seconds,
        enough=lambda samples: all(row.stable for row in summarize(samples).rows),
    )
    return summarize(samples)


def _steps(suite: Suite, case: Case) -> int:
    """Returns how many steps of progress a case is, if it ends after the least rounds."""
    return len(suite.contestants_of(case)) * (1 + min(case.rounds, LEAST_ROUNDS))


def _measure(suite: Suite, quick: bool) -> tuple[Suite, results.Run]:
    """Verifies and measures; returns the suite without what turned out not to run."""
    names = {one.name for case in suite.cases for one in suite.contestants_of(case)}
    wanted = [one for one in suite.contestants if one.name in names]
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("")
        ahead = len(wanted) + sum(_steps(suite, one) for one in suite.cases)

        def advance(what: str) -> None:
            progress.update(task, advance=1, description=what)

        progress.update(task, total=ahead)
        suite = suite.without(verify(wanted, suite.make_work, advance))
        trained = [case for case in suite.cases if case.model][:1]  # One model will do.
        with_options = [case for case in suite.cases if case.options]
        verify_like_keras([*with_options, *trained], suite.contestants, suite.make_work, advance)
        case_results = []
        ahead = sum(_steps(suite, case) for case in suite.cases)
        for case in suite.cases:
            done = progress.tasks[0].completed
            progress.update(task, total=done + ahead)  # As many rounds as it took before it.
            case_results.append(_run_case(suite, case, advance))
            ahead -= _steps(suite, case)
    return suite, results.Run(
        device=suite.name,
        quick=quick,
        environment=suite.environment,
        missing=dict(suite.missing),
        cases=case_results,
        targets=evaluate(case_results, suite.targets),
        overheads=fit_overheads(case_results),
    )


def main() -> None:
    """Verifies, measures, prints, writes and compares."""
    parser = _make_parser()
    arguments = parser.parse_args()
    # A fused contestant that quietly took the unfused update would be measured as fused.
    os.environ["TF_ADADELTA_STRICT"] = "1"
    try:
        old = results.read_json(arguments.compare) if arguments.compare else None
        if arguments.output.exists() and not arguments.output.is_dir():
            parser.error(f"--output {arguments.output} is not a directory")
        suite = _make_suite(parser, arguments)
        if arguments.list:
            for case in suite.cases:
                for contestant in suite.contestants_of(case):
                    print(f"{case.path}/{contestant.name}")
            for name, reason in suite.missing.items():
                print(f"Not measured: {name}: {reason}.", file=sys.stderr)
            return
        suite, run = _measure(suite, arguments.quick)
        print(report.summary(run))
        arguments.output.mkdir(parents=True, exist_ok=True)
        names = [f"{suite.name}.{ending}" for ending in ("json", "md")]
        results.write_json(run, arguments.output / names[0])
        plots = plot.write_plots(run, arguments.output)
        report.write_markdown(run, arguments.output / names[1], plots, how=suite.how)
        print(f"Written to {arguments.output}: {', '.join([*names, *plots])}")
        if old is not None:
            raise SystemExit(compare.report_changes(old, run, arguments.slower))
    except results.NotResultsError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
