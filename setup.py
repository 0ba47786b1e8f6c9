"""Builds tf_adadelta against the TensorFlow of the environment that it is installed into.

The metadata is in pyproject.toml. Here is what can only be known at build time: which TensorFlow
there is, and how CMake is to be called.
"""

import functools
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
OLDEST, NEWEST = (2, 18), (2, 21)
REQUIREMENT = f"tensorflow>={OLDEST[0]}.{OLDEST[1]},<{NEWEST[0]}.{NEWEST[1] + 1}"

# Run by the interpreter that will run the package. Prints nothing where there is no TensorFlow.
FIND_TENSORFLOW = """
import importlib.metadata, importlib.util, json
if importlib.util.find_spec("tensorflow"):
    names = importlib.metadata.packages_distributions().get("tensorflow", [])
    names = [name for name in names if "tensorflow" in name.lower()] or ["tensorflow"]
    name = names[0].lower().replace("_", "-")
    print(json.dumps({"distribution": name, "version": importlib.metadata.version(name)}))
"""
ASK_TENSORFLOW = """
import json
import tensorflow as tf
flags = [flag for flag in tf.sysconfig.get_compile_flags() if not flag.startswith("-I")]
print(json.dumps({
    "TENSORFLOW_VERSION": tf.__version__,
    "TENSORFLOW_INCLUDE_DIR": tf.sysconfig.get_include(),
    "TENSORFLOW_LIBRARY_DIR": tf.sysconfig.get_lib(),
    "TENSORFLOW_COMPILE_FLAGS": " ".join(flags),
    "TENSORFLOW_CUDA_ARCHITECTURES": ";".join(
        tf.sysconfig.get_build_info().get("cuda_compute_capabilities", [])),
}))
"""


def fail(message: str) -> None:
    """Ends the build with a message and no traceback."""
    raise SystemExit(f"\ntf_adadelta: {message}\n")


def environments() -> list[dict[str, str]]:
    """The environments to look for TensorFlow in, in order.

    Under build isolation this process sees the packages of the build only, through PYTHONPATH:
    without it the same interpreter sees the environment that the package will run in.
    """
    target = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONNOUSERSITE")}
    return [target, dict(os.environ)]


def ask(program: str, environment: dict[str, str]) -> dict[str, str] | None:
    """Runs a program that prints JSON, in a clean subprocess."""
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=sysconfig.get_path("purelib"),  # Not the source tree, whose files could be imported.
        capture_output=True,
        text=True,
    )
    if result.returncode != 0:
        fail(f"TensorFlow is installed but cannot be imported. It says:\n{result.stderr}")
    lines = result.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else None


@functools.cache
def find_tensorflow() -> tuple[dict[str, str], dict[str, str]] | None:
    """Returns what TensorFlow there is and the environment it was found in, or None."""
    for environment in environments():
        found = ask(FIND_TENSORFLOW, environment)
        if found is None:
            continue
        minor = tuple(int(number) for number in found["version"].split(".")[:2])
        if not OLDEST <= minor <= NEWEST:
            fail(
                f"{found['distribution']} {found['version']} is installed, but TensorFlow "
                f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]} is supported. Install one of "
                f"these (pip install '{REQUIREMENT}') and build again."
            )
        return found, environment
    return None


def extras() -> dict[str, list[str]]:
    """The optional dependencies, with TensorFlow pinned to the minor version built against."""
    found = find_tensorflow()
    if found is None:
        distribution, pin = "tensorflow", REQUIREMENT.removeprefix("tensorflow")
    else:
        distribution = found[0]["distribution"]
        pin = f"=={'.'.join(found[0]['version'].split('.')[:2])}.*"
    present = distribution + pin
    plot = ["matplotlib"]
    tf_keras = ["tf-keras" + pin]
    # tf-keras requires `tensorflow` by name: beside tensorflow-cpu it would bring a second one.
    classic = tf_keras if distribution == "tensorflow" else []
    return {
        "tensorflow": ["tensorflow" + pin],
        "tensorflow-cpu": ["tensorflow-cpu" + pin],
        "and-cuda": ["tensorflow[and-cuda]" + pin],
        "tf-keras": tf_keras,
        "docs": ["mkdocs-material", "mkdocstrings[python]"],
        "demo": [present, "mlxtend", "tqdm", *plot],
        "bench": [present, "mlxtend", *plot, *classic],
        "test": [
            present,
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "ipykernel",  # Runs the cells of the notebook.
            "mkdocs-material",
            "mkdocstrings[python]",
            "mypy",
            "nbclient",
            "pyright[nodejs]",  # Brings the Node that it runs on.
            "setuptools>=77",
            "cmake",
            "ninja",
            "pybind11",
            "tqdm",  # For the examples.
            *plot,
            *classic,
        ],
    }


def tool(name: str) -> str:
    """Returns the path of a build tool that a build requirement brings."""
    path = shutil.which(name) or shutil.which(name, path=sysconfig.get_path("scripts"))
    if path is None:
        fail(f"{name} is missing. Run `pip install {name}`, or build without --no-build-isolation.")
    return path


def check_compiler() -> None:
    """Ends the build unless there is a C++ compiler."""
    named = os.environ.get("CXX")
    if not any(shutil.which(name) for name in ([named] if named else ["c++", "g++", "clang++"])):
        what = f"CXX names {named}, which is not there" if named else "no C++ compiler was found"
        fail(
            f"{what}. Install g++ 9 or newer (on Debian and Ubuntu: apt-get install g++), or set "
            "CXX to a C++17 compiler."
        )


class CMakeBuild(build_ext):
    """Builds the libraries with CMake and Ninja, next to the Python files."""

    def run(self) -> None:
        """Builds everything in one CMake run."""
        check_compiler()
        found = find_tensorflow()
        if found is None:
            fail(
                "TensorFlow is missing, and is needed to build against. Run `pip install "
                f"'{REQUIREMENT}'`, or build without --no-build-isolation."
            )
        if self.inplace or self.editable_mode:
            output = ROOT / "tf_adadelta"
        else:
            output = Path(self.build_lib).resolve() / "tf_adadelta"
        import pybind11

        settings = {
            **ask(ASK_TENSORFLOW, found[1]),
            "OUTPUT_DIR": str(output),
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "CMAKE_MAKE_PROGRAM": tool("ninja"),
            "TF_ADADELTA_CUDA": os.environ.get("TF_ADADELTA_CUDA") or "AUTO",
        }
        build = str(Path(self.build_temp).resolve())
        definitions = [f"-D{name}={value}" for name, value in settings.items()]
        definitions += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        self.call([tool("cmake"), "-S", str(ROOT), "-B", build, "-G", "Ninja", *definitions])
        self.call([tool("cmake"), "--build", build])

    def call(self, command: list[str]) -> None:
        """Runs a command; ends the build when it fails, its own output having said why."""
        if subprocess.run(command).returncode != 0:
            fail(f"`{' '.join(command[:3])} …` failed; its messages are above.")


setup(
    ext_modules=[Extension("tf_adadelta._kernels", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    setup_requires=[] if find_tensorflow() else [REQUIREMENT],
    extras_require=extras(),
)
