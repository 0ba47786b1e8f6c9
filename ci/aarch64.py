"""Cross-compiles the core and the extension module for aarch64 and tries them under QEMU.

python ci/aarch64.py

On a Debian for x86-64 whose python3 is that of this script's minor version, with the packages
g++-aarch64-linux-gnu and qemu-user-static. Python for arm64 and the libraries that it needs are
taken from the archive that this machine's apt is configured for, NumPy and pytest from that of pip;
neither is installed, they are unpacked in build/aarch64 and need no rights.

What runs: ci/vectorised.py; the programs of tests/core; the tests of the kernels that need no
TensorFlow, which emulation lets take some minutes; and tests/core/bits.py on both processors, whose
results are compared bit by bit. For the latter tf_adadelta has to be built in this tree
(`python setup.py build_ext --inplace`).
"""

import argparse
import json
import os
import shutil
import sys
import sysconfig
import time
from pathlib import Path

from kernel_tests import add_build_arguments, build_core, pytest_command
from steps import ROOT, Steps, first_line

BUILD = ROOT / "build" / "aarch64"
COMPILER = "aarch64-linux-gnu-g++"
QEMU = "qemu-aarch64-static"
DEBIAN_PACKAGES = ("python3", "libstdc++6")
PYTHON_PACKAGES = ("numpy", "ml_dtypes", "pytest", "hypothesis")
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"

# What takes longest under emulation, for what it adds, is left to the processor of this machine:
# files, and what of them to leave out. A test that starts Python starts one of another processor.
TESTS = {
    "test_kernels.py": "not knows_no_tensorflow and not partition and not a_fork_starts_its_own",
    "test_sparse_kernel.py": "not 100000",
    "test_stochastic_rounding.py": "",
    "test_fuzz_arrays.py": "",
    "test_device_arrays.py": "",
}


def check_tools() -> None:
    """Ends the script where something is missing."""
    for tool, package in (
        (COMPILER, "g++-aarch64-linux-gnu"),
        (QEMU, "qemu-user-static"),
        ("apt-get", "apt"),
        ("dpkg-deb", "dpkg"),
    ):
        if shutil.which(tool) is None:
            sys.exit(f"ci/aarch64.py: {tool} is missing (apt-get install {package})")


def unpack_python(steps: Steps, root: Path) -> bool:
    """Unpacks Python for arm64 with what it needs; says whether it did."""
    apt = BUILD / "apt"
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()  # Nothing is installed: all that is needed is fetched.
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "Dir::State": apt / "state",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "Debug::NoLocking": "1",
    }
    get = ["apt-get", *(f"-o{name}={value}" for name, value in settings.items()), "-q", "-y"]
    install = [*get, "--download-only", "--no-install-recommends", "install", *DEBIAN_PACKAGES]
    if steps.run("lists of packages", [*get, "update"], listed=False) is None:
        return False
    if steps.run("Python for arm64", install, listed=False) is None:
        return False
    root.mkdir(exist_ok=True)
    packages = sorted((apt / "cache" / "archives").glob("*.deb"))
    unpack = 'for package in "${@:2}"; do dpkg-deb -x "$package" "$1"; done'
    command = ["bash", "-ec", unpack, "unpack", root, *packages]
    return steps.run("unpack", command, listed=False) is not None


def unpack_packages(steps: Steps, site: Path) -> bool:
    """Unpacks what the tests import; says whether it did."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", site]
    platforms = ["--platform", "manylinux2014_aarch64", "--platform", "manylinux_2_28_aarch64"]
    version = ["--python-version", MINOR, "--only-binary", ":all:"]
    command += [*platforms, *version, *PYTHON_PACKAGES]
    return steps.run("NumPy for arm64", command, listed=False) is not None


def compare_bits(steps: Steps, emulated: str | None) -> None:
    """Compares the digests of this processor's instruction sets with those of aarch64."""
    if emulated is None:
        return
    there = json.loads(emulated.splitlines()[-1])
    sys.path.insert(0, str(ROOT))
    sys.modules["tensorflow"] = None  # type: ignore[assignment]
    from tf_adadelta import kernels

    for instruction_set in kernels.instruction_sets():
        begin = time.monotonic()
        command = [sys.executable, ROOT / "tests" / "core" / "bits.py", instruction_set]
        printed = steps.run(f"bits: {instruction_set}", command, listed=False, PYTHONPATH=str(ROOT))
        if printed is None:
            continue
        here = json.loads(printed.splitlines()[-1])
        others = [name for name in here if here[name] != there[name]]
        detail = f"{len(here) - len(others)} of {len(here)} as on aarch64"
        if others and instruction_set != "baseline":
            detail += f", not: {', '.join(others)}"
        # The baseline of x86-64 has no FMA, and so bits of its own.
        differs = bool(others) and instruction_set != "baseline"
        result = "FAILED" if differs else "ok"
        steps.add(f"bits of {instruction_set}", result, time.monotonic() - begin, detail)


def main() -> None:
    """Runs everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="a root for arm64 with Python, made otherwise")
    add_build_arguments(parser)
    arguments = parser.parse_args()
    check_tools()
    steps = Steps(BUILD / "logs")
    root, site, build = arguments.root or BUILD / "root", BUILD / "site", BUILD / "core"
    compiler = first_line(COMPILER, "--version")
    facts = {"compiler": compiler, "emulator": first_line(QEMU, "--version")}

    steps.run("vectorised", [sys.executable, ROOT / "ci" / "vectorised.py", COMPILER])
    ready = arguments.no_build or (
        (arguments.root is not None or unpack_python(steps, root)) and unpack_packages(steps, site)
    )
    cross = (
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={COMPILER}",
        # CMake does not find them by the interpreter where it cross-compiles.
        f"-DPython_INCLUDE_DIR={sysconfig.get_path('include')}",
        f"-DPYTHON_MODULE_EXTENSION=.cpython-{MINOR.replace('.', '')}-aarch64-linux-gnu.so",
        "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O2",
    )
    if not ready or not build_core(steps, "aarch64", build, arguments, *cross):
        steps.finish(arguments.out, **facts)
    emulate = [QEMU, "-L", str(root)]
    python = [*emulate, str(root / "usr" / "bin" / f"python{MINOR}")]
    path = {"PYTHONPATH": f"{build}{os.pathsep}{site}"}
    steps.run("pool", [*emulate, build / "pool", "3"], timeout=600)
    steps.run("replay", [*emulate, build / "replay", ROOT / "tests" / "core" / "corpus"])
    for file, left_out in TESTS.items():
        command = [*python, *pytest_command(file, "-k", left_out)[1:]]
        steps.run(file, command, cwd=ROOT / "tests", **path)
    bits = steps.run("bits", [*python, ROOT / "tests" / "core" / "bits.py"], listed=False, **path)
    compare_bits(steps, bits)
    steps.finish(arguments.out, **facts)


if __name__ == "__main__":
    main()
