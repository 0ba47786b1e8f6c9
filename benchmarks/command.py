"""What the commands of the benchmark have in common."""

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import Progress


def make_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Returns a parser of `--output` and `--quick` for `python -m benchmarks.MODULE`."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=description)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="small: to see that it works")
    return parser


def write_results(output: Path, name: str, content: Mapping[str, object], text: str) -> None:
    """Writes the results of a command to NAME.json, and its report to NAME.md."""
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    (output / f"{name}.md").write_text(text, encoding="utf-8")


def publish(
    arguments: argparse.Namespace,
    name: str,
    text: str,
    environment: Mapping[str, object],
    **content: object,
) -> None:
    """Prints the report of a command, and writes it and its results as `write_results` does."""
    print(text)
    content = {"quick": arguments.quick, "environment": environment, **content}
    write_results(arguments.output, name, content, text)


@contextlib.contextmanager
def show_progress(total: int) -> Iterator[Callable[[str], None]]:
    """Shows a bar of so many steps; what it yields is called with what each step is."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda what: progress.update(task, advance=1, description=what)
