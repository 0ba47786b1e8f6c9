"""Command line of the benchmark: `python -m benchmarks --help`."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from benchmarks import plot, report, results
from benchmarks.cases import Case
from benchmarks.suite import Suite, make_cpu_suite
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
        help="where cpu.json, cpu.md and cpu.png go, or gpu.* (default: %(default)s)",
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
        help="few rounds and variables: to see that it works, not to measure",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="threads of a contestant on the CPU (default: one for each core, here %(default)s)",
    )
    arguments = parser.parse_args()
    if arguments.threads < 1:
        parser.error(f"--threads is {arguments.threads}, expected 1 or more")
    return arguments


def _make_suite(arguments: argparse.Namespace) -> Suite:
    if arguments.device == "cpu":
        return make_cpu_suite(arguments.threads)
    from benchmarks.gpu import make_gpu_suite

    return make_gpu_suite()


def _run_case(suite: Suite, case: Case, advance: Callable[[str], None]) -> results.CaseResult:
    work = suite.make_work(case.shapes)
    prepared = {}
    for contestant in suite.contestants:
        advance(f"{case.name}: building {contestant.name}")
        prepared[contestant.name] = contestant.prepare(work)
    samples = measure(
        prepared,
        case.rounds,
        lambda name: advance(f"{case.name}: timing {name}"),
        suite.burst,
    )
    return results.summarize(case, suite.contestants, samples, suite.fused)


def main() -> None:
    """Verifies, measures, prints and writes."""
    arguments = _parse_arguments()
    # A fused contestant that quietly took the unfused update would be measured as fused.
    os.environ["TF_ADADELTA_STRICT"] = "1"
    suite = _make_suite(arguments)

    cases = [case.quick() if arguments.quick else case for case in suite.cases]
    steps = len(suite.contestants) * (1 + sum(1 + case.rounds for case in cases))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=steps)

        def advance(what: str) -> None:
            progress.update(task, advance=1, description=what)

        verify(suite.contestants, suite.make_work, advance)
        case_results = [_run_case(suite, case, advance) for case in cases]

    run = results.Run(
        quick=arguments.quick,
        environment=suite.environment,
        missing=list(suite.missing),
        cases=case_results,
        targets=evaluate(case_results, suite.targets),
    )
    print(report.tables(run))
    arguments.output.mkdir(parents=True, exist_ok=True)
    names = [f"{suite.name}.{ending}" for ending in ("json", "md", "png")]
    results.write_json(run, arguments.output / names[0])
    report.write_markdown(run, arguments.output / names[1], plot=names[2], how=suite.how)
    plot.write_plot(run, arguments.output / names[2])
    print(f"Written to {arguments.output}: {', '.join(names)}")


if __name__ == "__main__":
    main()
