"""The tests of the kernels that need no TensorFlow, run with a build of the core of one's own."""

import re
import shutil
import sys
from pathlib import Path

from steps import ROOT, Steps, first_line

FILES = (
    "test_kernels.py",
    "test_sparse_kernel.py",
    "test_device_arrays.py",
    "test_cuda_kernel.py",
    "test_cuda_options.py",
    "test_cuda_sparse_kernel.py",
    "test_fuzz_arrays.py",
)

# TensorFlow would be loaded into a process that a sanitizer watches, and takes its time there.
PYTEST = """
import sys
sys.modules["tensorflow"] = None
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def cmake_arguments(build: Path, *arguments: str) -> list[str | Path]:
    """Returns the command that configures tests/core, and with it the core, in a folder."""
    return [
        "cmake",
        *("-S", ROOT / "tests" / "core", "-B", build, "-G", "Ninja"),
        f"-DOUTPUT_DIR={build}/tf_adadelta",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={first_line(sys.executable, '-m', 'pybind11', '--cmakedir')}",
        "-DTF_ADADELTA_CUDA=OFF",
        *arguments,
    ]


def build_core(steps: Steps, name: str, build: Path, *arguments: str, jobs: int) -> bool:
    """Builds the core, the extension module and the programs of tests/core; says whether it did."""
    configured = steps.run(f"{name}: configure", cmake_arguments(build, *arguments), listed=False)
    if configured is None:
        return False
    command = ["cmake", "--build", build, "--parallel", str(jobs)]
    if steps.run(f"{name}: build", command, listed=False) is None:
        return False
    for source in (ROOT / "tf_adadelta").rglob("*.py"):
        target = build / source.relative_to(ROOT)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(source, target)
    [version] = re.findall(
        r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    metadata = build / f"tf_adadelta-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(exist_ok=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: tf_adadelta\nVersion: {version}\n")
    return True


def pytest_command(*arguments: str, python: str = sys.executable) -> list[str]:
    """Returns the command that runs pytest without TensorFlow and without tests/conftest.py."""
    plain = ["--noconftest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:xdist"]
    return [python, "-c", PYTEST, *plain, *arguments]
