"""Runs the steps of a script one after the other, says how each went, and keeps the results."""

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def machine() -> str:
    """Returns the processor and the number of its cores."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def first_line(*command: str) -> str:
    """Returns the first line that a command prints, such as its version."""
    result = subprocess.run(command, capture_output=True, text=True)
    return (result.stdout or result.stderr).splitlines()[0]


class Steps:
    """The steps of a script.

    Args:
        folder: Where what the commands print is kept, a file for each step.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, object]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def run(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        timeout: float = 1800,
        cwd: Path = ROOT,
        listed: bool = True,
        **environment: str,
    ) -> str | None:
        """Runs a command; returns what it printed, or None where it failed.

        Args:
            name: How the step is called.
            command: The command and its arguments.
            timeout: Seconds after which the command hangs.
            cwd: The folder to run it in.
            listed: Whether a success has a row in the results; a failure always has one.
            **environment: Variables in addition to those of this process.
        """
        print(f"{name} ...", end=" ", flush=True)
        log = self.folder / f"{''.join(c if c.isalnum() else '_' for c in name)}.log"
        begin = time.monotonic()
        with log.open("w") as output:
            try:
                code: int | str = subprocess.run(
                    [str(argument) for argument in command],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env={**os.environ, **environment},
                    timeout=timeout,
                ).returncode
            except subprocess.TimeoutExpired:
                code = f"hangs after {timeout:.0f} s"
            except FileNotFoundError as error:
                code = str(error)
        seconds = time.monotonic() - begin
        printed = log.read_text(errors="replace")
        if code == 0:
            lines = [line for line in printed.splitlines() if line.strip()]
            self.add(name, "ok", seconds, lines[-1] if lines else "", listed=listed)
            return printed
        self.add(name, f"FAILED ({code})", seconds, f"see {log}")
        print("\n".join(printed.splitlines()[-15:]))
        return None

    def add(self, name: str, result: str, seconds: float, detail: str, listed: bool = True) -> None:
        """Says how a step went, and keeps it."""
        detail = detail.strip(" =")
        print(f"{result}, {seconds:.0f} s: {detail[:200]}", flush=True)
        if listed:
            row = {"step": name, "result": result, "seconds": round(seconds, 1)}
            self.rows.append({**row, "detail": detail})

    def failed(self) -> list[str]:
        """Returns the names of the steps that failed."""
        return [str(row["step"]) for row in self.rows if str(row["result"]).startswith("FAILED")]

    def finish(self, out: Path | None, **facts: object) -> None:
        """Prints the table, writes it with the date and further facts, and ends the script."""
        width = max((len(str(row["step"])) for row in self.rows), default=0)
        print()
        for row in self.rows:
            print(f"{row['step']:<{width}}  {row['result']:<12} {row['seconds']:>7} s")
        if out is not None:
            report = {
                "date": datetime.date.today().isoformat(),
                "machine": machine(),
                "commit": first_line("git", "-C", str(ROOT), "rev-parse", "HEAD"),
                **facts,
                "steps": self.rows,
            }
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
            print(f"\nwritten to {out}")
        if self.failed():
            sys.exit(f"\nFailed: {', '.join(self.failed())}. What they printed is in {self.folder}")
