"""The tests of the kernels that need no TensorFlow, run with a build of the core of one's own."""

import argparse
import os
import re
import shutil
import sys
from pathlib import Path

from steps import ROOT, Steps, first_line

FILES = (
    "test_kernels.py",
    "test_sparse_kernel.py",
    "test_stochastic_rounding.py",
    "test_device_arrays.py",
    "test_cuda_kernel.py",
    "test_cuda_sparse_kernel.py",
    "test_fuzz_arrays.py",
)

# nvcc is not to be sanitized.
SELECTION = "not registers_hold_everything and not test_a_thread_loads_all_before_it_stores"

# TensorFlow would be loaded into a process that a sanitizer watches, and takes its time there.
PYTEST = """
import sys
sys.modules["tensorflow"] = None
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def cmake_arguments(build: Path, *arguments: str) -> list[str | Path]:
    """Returns the command that configures tests/core, and with it the core, in a folder."""
    project = (ROOT / "pyproject.toml").read_text()
    [version] = re.findall(r'^version = "(.*)"', project, re.MULTILINE)
    return [
        "cmake",
        *("-S", ROOT / "tests" / "core", "-B", build, "-G", "Ninja"),
        f"-DOUTPUT_DIR={build}/tf_adadelta",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={first_line(sys.executable, '-m', 'pybind11', '--cmakedir')}",
        f"-DVERSION={version}",
        "-DTF_ADADELTA_CUDA=OFF",
        *arguments,
    ]


def add_build_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the scripts that build the core can be told."""
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at once")
    parser.add_argument("--no-build", action="store_true", help="take what was built before")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")


def build_core(
    steps: Steps, name: str, build: Path, told: argparse.Namespace, *arguments: str
) -> bool:
    """Builds the core, the extension module and the programs of tests/core; says whether it did."""
    commands = {
        "configure": cmake_arguments(build, *arguments),
        "build": ["cmake", "--build", build, "--parallel", str(told.jobs)],
    }
    for what, command in commands.items() if not told.no_build else []:
        if steps.run(f"{name}: {what}", command, listed=False) is None:
            return False
    for source in (ROOT / "tf_adadelta").rglob("*.py"):
        target = build / source.relative_to(ROOT)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(source, target)
    return True


def pytest_command(*arguments: str, python: str = sys.executable) -> list[str]:
    """Returns the command that runs pytest without TensorFlow and without tests/conftest.py."""
    plain = ["--noconftest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:xdist"]
    return [python, "-c", PYTEST, *plain, *arguments]
