"""Fresh environments for the scripts of this folder, made by uv, and the commands run in them."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Which Pythons each minor version of TensorFlow has wheels for, of those that the package supports.
PYTHONS = {
    "2.18": ("3.10", "3.11", "3.12"),
    "2.19": ("3.10", "3.11", "3.12"),
    "2.20": ("3.10", "3.11", "3.12", "3.13"),
    "2.21": ("3.10", "3.11", "3.12", "3.13"),
}

# What the build requires, for builds without isolation.
BUILD_TOOLS = ("setuptools", "cmake", "ninja", "pybind11")


class CommandError(Exception):
    """A command failed; the message holds the last lines of what it printed."""


class Environment:
    """A virtual environment that this class has made, and a log of all that was run in it."""

    def __init__(self, folder: Path, python: str) -> None:
        """Makes the environment anew.

        Args:
            folder: Where it goes; what is there is removed.
            python: The version, such as "3.12".
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder = folder
        self.version = python
        self.log = folder / "log.txt"
        self.venv = folder / "venv"
        self.python = self.venv / "bin/python"
        self.run(["uv", "venv", "--python", python, self.venv])

    def install(self, *arguments: str | Path, cwd: Path = ROOT, **more: str) -> None:
        """Runs `uv pip install` with these arguments, and environment variables."""
        self.run(["uv", "pip", "install", "--python", self.python, *arguments], cwd=cwd, **more)

    def run(
        self,
        command: Sequence[str | Path],
        cwd: Path | None = None,
        check: bool = True,
        **more: str,
    ) -> str:
        """Returns what a command printed to its standard output, the environment being active.

        Args:
            command: The program and its arguments.
            cwd: Where it runs; by default in the folder of the environment.
            check: Whether to raise CommandError where it fails.
            **more: Environment variables.
        """
        return run(command, self.log, cwd or self.folder, check, {**self._variables(), **more})

    def _variables(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        path = os.pathsep.join([str(self.venv / "bin"), os.environ["PATH"]])
        return {**kept, "VIRTUAL_ENV": str(self.venv), "PATH": path}


def run(
    command: Sequence[str | Path],
    log: Path,
    cwd: Path,
    check: bool = True,
    environment: Mapping[str, str] = os.environ,
) -> str:
    """Returns what a command printed to its standard output; all that it printed goes to the log.

    Raises:
        CommandError: It failed, and `check` is true.
    """
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    shown = " ".join(str(part) for part in command)
    with log.open("a") as file:
        file.write(f"+ {shown}\n{result.stdout}{result.stderr}")
    if check and result.returncode != 0:
        last = (result.stdout + result.stderr).strip().splitlines()[-15:]
        raise CommandError("\n".join([f"`{shown}` failed:", *last, f"(all of it is in {log})"]))
    return result.stdout


def copy_sources(to: Path) -> Path:
    """Copies what git tracks, as it is now, to a folder: no leftover of another build."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    shutil.rmtree(to, ignore_errors=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to
