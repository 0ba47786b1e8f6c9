"""Command line of the benchmark: `python -m benchmarks --help`."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf
from rich.console import Console
from rich.progress import Progress

from benchmarks import plot, report, results
from benchmarks.cases import CASES, Case
from benchmarks.contestants import CONTESTANTS, MISSING, Work
from benchmarks.environment import describe_environment
from benchmarks.targets import evaluate
from benchmarks.timing import measure
from benchmarks.verification import verify


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures fused against unfused Adadelta updates, and both against the memory.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("benchmarks/results"),
        metavar="DIR",
        help="where cpu.json, cpu.md and cpu.png go (default: %(default)s)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="few rounds and variables: to see that it works, not to measure",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="threads for every contestant (default: one for each core, here %(default)s)",
    )
    arguments = parser.parse_args()
    if arguments.threads < 1:
        parser.error(f"--threads is {arguments.threads}, expected 1 or more")
    return arguments


def _run_case(case: Case, num_threads: int, advance: Callable[[str], None]) -> results.CaseResult:
    work = Work(case.shapes, num_threads)
    prepared = {}
    for contestant in CONTESTANTS:
        advance(f"{case.name}: building {contestant.name}")
        prepared[contestant.name] = contestant.prepare(work)
    samples = measure(prepared, case.rounds, lambda name: advance(f"{case.name}: timing {name}"))
    return results.summarize(case, CONTESTANTS, samples)


def main() -> None:
    """Verifies, measures, prints and writes."""
    arguments = _parse_arguments()
    load = os.getloadavg()[0]
    # Independent operations of one graph run on the second pool: it gets no more threads either.
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    # A fused contestant that quietly took the unfused update would be measured as fused.
    os.environ["TF_ADADELTA_STRICT"] = "1"

    cases = [case.quick() if arguments.quick else case for case in CASES]
    steps = len(CONTESTANTS) * (1 + sum(1 + case.rounds for case in cases))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=steps)

        def advance(what: str) -> None:
            progress.update(task, advance=1, description=what)

        verify(CONTESTANTS, arguments.threads, advance)
        case_results = [_run_case(case, arguments.threads, advance) for case in cases]

    run = results.Run(
        quick=arguments.quick,
        environment=describe_environment(arguments.threads, load),
        missing=MISSING,
        cases=case_results,
        targets=evaluate(case_results),
    )
    print(report.tables(run))
    arguments.output.mkdir(parents=True, exist_ok=True)
    results.write_json(run, arguments.output / "cpu.json")
    plot.write_plot(run, arguments.output / "cpu.png")
    report.write_markdown(run, arguments.output / "cpu.md", plot="cpu.png")
    print(f"Written to {arguments.output}: cpu.json, cpu.md, cpu.png")


if __name__ == "__main__":
    main()
