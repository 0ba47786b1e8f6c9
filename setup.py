"""Builds tf_adadelta against the TensorFlow of the environment that it is installed into.

The metadata is in pyproject.toml. Here is what can only be known at build time: which TensorFlow
there is, and how CMake is to be called.

A wheel for several (ci/build_wheel.py) is built with TF_ADADELTA_TENSORFLOWS, folders as
`pip install --target` makes them, separated as on the PATH: each holds a TensorFlow to build an op
library against.
"""

import atexit
import functools
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple

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
    names = [name.lower().replace("_", "-") for name in names]
    names = [name for name in names if name.startswith(("tensorflow", "tf-nightly"))] or names
    name = names[0] if names else "tensorflow"
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


def named_environments() -> list[dict[str, str]]:
    """Those whose TensorFlows are all built against, by TF_ADADELTA_TENSORFLOWS."""
    folders = filter(None, os.environ.get("TF_ADADELTA_TENSORFLOWS", "").split(os.pathsep))
    return [{**os.environ, "PYTHONPATH": folder} for folder in folders]


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
        last = result.stderr.strip().splitlines()[-1:] or ["nothing"]
        fail(
            f"TensorFlow is installed but cannot be imported. It says: {last[0]}\nMend that first: "
            "`python -c 'import tensorflow'` has all of it."
        )
    lines = result.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else None


class TensorFlow(NamedTuple):
    """A TensorFlow to build against."""

    distribution: str
    version: str
    environment: dict[str, str]  # In which Python imports it.

    @property
    def minor(self) -> tuple[int, int]:
        """The first two numbers of the version, on which its C++ interface depends."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)


def find(environment: dict[str, str]) -> TensorFlow | None:
    """Returns the TensorFlow of an environment; ends the build where it is not supported."""
    found = ask(FIND_TENSORFLOW, environment)
    if found is None:
        return None
    tensorflow = TensorFlow(found["distribution"], found["version"], environment)
    supported = f"TensorFlow {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]} is supported"
    if not OLDEST <= tensorflow.minor <= NEWEST:
        problem = supported
    elif "nightly" in tensorflow.distribution or "dev" in tensorflow.version:
        problem = f"{supported}, as it was released"
    else:
        return tensorflow
    fail(
        f"{tensorflow.distribution} {tensorflow.version} is installed, but {problem}. Install one "
        f"of these (pip install '{REQUIREMENT}') and build again."
    )


@functools.cache
def find_tensorflows() -> list[TensorFlow]:
    """Returns the TensorFlows to build against, the oldest first; none if there is none."""
    if named := named_environments():
        found = [find(environment) for environment in named]
        for environment, tensorflow in zip(named, found):
            if tensorflow is None:
                fail(
                    f"TF_ADADELTA_TENSORFLOWS names {environment['PYTHONPATH']}, where no "
                    "TensorFlow is. `pip install --target` makes such a folder."
                )
        return sorted(found, key=lambda tensorflow: tensorflow.minor)
    return list(filter(None, (find(environment) for environment in environments())))[:1]


def extras() -> dict[str, list[str]]:
    """The optional dependencies, with TensorFlow pinned to what it is built against."""
    found = find_tensorflows()
    distribution, pin = "tensorflow", REQUIREMENT.removeprefix("tensorflow")
    if len(found) == 1:
        distribution = found[0].distribution
        pin = "=={}.{}.*".format(*found[0].minor)
    present = distribution + pin
    plot = ["matplotlib"]
    tf_keras = ["tf-keras" + pin]
    # tf-keras requires `tensorflow` by name: beside tensorflow-cpu it would bring a second one.
    classic = tf_keras if distribution == "tensorflow" else []
    # For Python 3.10 there is no mkdocstrings that a newer one works with.
    docs = ["mkdocs-material", "mkdocstrings[python]"]
    docs.append("pymdown-extensions<12; python_version < '3.11'")
    return {
        "tensorflow": ["tensorflow" + pin],
        "tensorflow-cpu": ["tensorflow-cpu" + pin],
        "and-cuda": ["tensorflow[and-cuda]" + pin],
        "tf-keras": tf_keras,
        "docs": docs,
        "demo": [present, "mlxtend", "tqdm", *plot],
        "bench": [present, "mlxtend", *plot, *classic],
        "test": [
            present,
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "ipykernel",  # Runs the cells of the notebook.
            "mypy",
            "nbclient",
            "pyright[nodejs]",  # Brings the Node that it runs on.
            "setuptools>=77",
            "cmake",
            "ninja",
            "pybind11",
            "tqdm",  # For the examples.
            *docs,
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


# What CMakeLists.txt and cmake/ say, broken into lines by CMake.
MESSAGE_OF_OURS = re.compile(
    r"^CMake Error at (?:CMakeLists|cmake/)\S+ \(message\):\n((?:  .*\n|\n)+)", re.MULTILINE
)


def explain(printed: str, folder: Path) -> str:
    """Returns what a failed command of the build wants to say, in a few lines.

    Args:
        printed: What it printed.
        folder: Where it wrote.
    """
    free = shutil.disk_usage(folder).free / 2**20
    if "No space left on device" in printed or free < 1:
        return (
            f"the disk is full: {folder} has {free:.0f} MB left, and a build takes 200. Make room, "
            "or set TMPDIR to a folder that has it, and build again."
        )
    if re.search("Killed|[Cc]annot allocate memory|out of memory", printed):
        return (
            "the compiler was killed, most likely for want of memory: a process takes up to 1.5 "
            "GB. Build with fewer at once: CMAKE_BUILD_PARALLEL_LEVEL=1 pip install ."
        )
    if message := MESSAGE_OF_OURS.search(printed):
        return " ".join(message[1].split())
    errors = re.findall(r"^.*(?:\berror:|^CMake Error).*$", printed, re.M | re.I)
    first = errors[0].strip() if errors else "it does not say why"
    return (
        f"the build failed: {first}\nAll that the compiler said is above. g++ 9 or newer and clang "
        "12 or newer are known to work; set CXX to one of them and build again."
    )


def as_lists(answers: list[dict[str, str]]) -> dict[str, str]:
    """Returns CMake's lists of what each TensorFlow answered.

    Empty answers are left out: TensorFlows for the CPU name no GPUs, and to CMake `;` is a list.
    """
    return {name: ";".join(filter(None, [a[name] for a in answers])) for name in answers[0]}


class CMakeBuild(build_ext):
    """Builds the libraries with CMake and Ninja, next to the Python files."""

    def run(self) -> None:
        """Builds everything in one CMake run."""
        check_compiler()
        found = find_tensorflows()
        if not found:
            fail(
                "TensorFlow is missing, and is needed to build against. Run `pip install "
                f"'{REQUIREMENT}'`, or build without --no-build-isolation."
            )
        if self.inplace or self.editable_mode:
            output = ROOT / "tf_adadelta"
        else:
            output = Path(self.build_lib).resolve() / "tf_adadelta"
        import pybind11

        asked = [ask(ASK_TENSORFLOW, tensorflow.environment) for tensorflow in found]
        settings = {
            **as_lists(asked),
            "VERSION": self.distribution.get_version(),
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
        """Runs a command and shows what it prints; ends the build with the gist where it fails."""
        printed = []
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as process:
            for line in process.stdout:
                print(line, end="", flush=True)
                printed.append(line)
        if process.returncode != 0:
            fail(explain("".join(printed), Path(self.build_temp)))


def folders() -> dict[str, dict[str, str]]:
    """The options that give an installation folders of its own: two of one tree must not meet.

    There is one for each interpreter in build; where the tree may not be written, elsewhere.
    """
    installs = "bdist_wheel" in sys.argv or ("egg_info" in sys.argv and "build_ext" not in sys.argv)
    if not installs:
        return {}
    name = hashlib.sha256(sys.executable.encode()).hexdigest()[:12]
    folder = ROOT / "build" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="tf_adadelta-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {"build": {"build_base": str(folder)}, "egg_info": {"egg_base": str(folder)}}


setup(
    options=folders(),
    ext_modules=[Extension("tf_adadelta._kernels", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    setup_requires=[] if find_tensorflows() else [REQUIREMENT],
    extras_require=extras(),
)
