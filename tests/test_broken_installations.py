"""Installations that are damaged or do not fit: each says so in one message, and none crashes."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import tensorflow as tf
from test_build import ROOT

import tf_adadelta

FOLDER = Path(tf_adadelta.__file__).parent
MINOR = ".".join(tf.__version__.split(".")[:2])
OPS, CORE = f"_ops_{MINOR}.so", "libtf_adadelta_core.so"
KERNELS = next(FOLDER.glob("_kernels*.so")).name
REBUILD = "pip install --force-reinstall --no-deps --no-cache-dir /path/to/tf_adadelta"
USE = {
    OPS: "import tf_adadelta; tf_adadelta.Adadelta",
    CORE: "import tf_adadelta.kernels",
    KERNELS: "import tf_adadelta.kernels",
}


@pytest.fixture
def copy(tmp_path):
    """A copy of the package that may be broken."""
    copied = shutil.copytree(
        FOLDER, tmp_path / "site/tf_adadelta", ignore=shutil.ignore_patterns("__pycache__")
    )
    return Path(copied)


def last_words(copy, program):
    """Returns how a program ends that imports a copy of the package: with an error, no crash."""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=copy.parent,
        env={**os.environ, "PYTHONPATH": str(copy.parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "undefined symbol" not in result.stderr
    assert "During handling of the above exception" not in result.stderr
    return last.removeprefix("ImportError: ")


def delete(path):
    path.unlink()
    return "is missing"


def cut_off(path):
    size = path.stat().st_size
    os.truncate(path, size // 2)
    return f"is cut off: it has {size // 2:,} of {size:,} bytes"


def empty(path):
    os.truncate(path, 0)
    return "is no library: it has 0 bytes"


def for_another_processor(path):
    content = bytearray(path.read_bytes())
    content[18:20] = (183).to_bytes(2, "little")  # EM_AARCH64.
    path.write_bytes(content)
    return "is for aarch64, and this machine is x86_64"


@pytest.mark.parametrize(
    "library, damage",
    [
        *((library, delete) for library in USE),
        (OPS, cut_off),
        (CORE, empty),
        (KERNELS, for_another_processor),
    ],
)
def test_damaged_library(copy, library, damage):
    reason = damage(copy / library)
    words = last_words(copy, USE[library])
    if library == KERNELS and damage is delete:
        assert words.startswith("tf_adadelta was built for Python ")
    else:
        assert words.startswith(f"tf_adadelta's library {copy / library} {reason}. Install the")
    assert REBUILD in words


def test_another_python(copy):
    (copy / KERNELS).rename(copy / "_kernels.cpython-39-x86_64-linux-gnu.so")
    info = json.loads((copy / "_build_info.json").read_text())
    (copy / "_build_info.json").write_text(json.dumps({**info, "python": "3.9.1"}))
    words = last_words(copy, "import tf_adadelta.kernels")
    assert words.startswith("tf_adadelta was built for Python 3.9.1, but Python 3.1")
    assert REBUILD in words


def test_another_tensorflow(copy):
    """As where it was built for 2.20, and TensorFlow was updated."""
    (copy / OPS).rename(copy / "_ops_2.17.so")
    text = (copy / "_build_info.json").read_text().replace(f'"{MINOR}": {{', '"2.17": {')
    (copy / "_build_info.json").write_text(text)
    words = last_words(copy, USE[OPS])
    assert words.startswith(f"tf_adadelta was built for TensorFlow 2.17, but TensorFlow {MINOR}.")
    assert REBUILD in words and words.endswith("or install tensorflow==2.17.*")


def test_functions_that_tensorflow_lacks(copy, tmp_path):
    """As where it was built against a nightly."""
    source = tmp_path / "ops.cc"
    source.write_text("void of_a_nightly(); extern void (*const f)() = of_a_nightly;")
    subprocess.run(["c++", "-shared", "-fPIC", source, "-o", copy / OPS], check=True)
    words = last_words(copy, USE[OPS])
    assert words.startswith(f"tf_adadelta's {OPS} was built against TensorFlow {MINOR}")
    assert "asks for functions which this TensorFlow does not have" in words
    assert REBUILD in words


def test_two_copies_in_one_process(copy):
    program = f"""
import sys
import tf_adadelta
assert tf_adadelta.__file__.startswith({str(copy)!r})
for name in [name for name in sys.modules if name.startswith("tf_adadelta")]:
    del sys.modules[name]
sys.path.insert(0, {str(FOLDER.parent)!r})
import tf_adadelta
tf_adadelta.Adadelta
"""
    words = last_words(copy, program)
    assert words.startswith(f"two copies of tf_adadelta are on the path: {copy} has loaded its ops")
    assert f"now {FOLDER} would. Keep one: `pip uninstall tf_adadelta`" in words


def test_report_lists_the_copies(copy):
    result = subprocess.run(
        [sys.executable, "-m", "tf_adadelta"],
        cwd=copy.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(copy.parent), str(FOLDER.parent)])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert f"another copy on the path, which is not used: {FOLDER}" in result.stdout


class Build:
    """The build of a copy of the sources, in an environment of its own."""

    def __init__(self, folder):
        self.sources, self.folder = folder / "sources", folder
        self.venv = folder / "venv"
        venv.create(self.venv, symlinks=True)
        self.site = next(self.venv.glob("lib/python*/site-packages"))
        for name in ("setuptools", "_distutils_hack", "pybind11", "cmake", "ninja"):
            found = Path(__import__(name).__path__[0])
            for path in [found, *found.parent.glob(f"{name}-*.dist-info")]:
                (self.site / path.name).symlink_to(path)
        self.sources.mkdir()
        for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "CMakeLists.txt"):
            shutil.copy(ROOT / name, self.sources)
        for name in ("cmake", "csrc"):
            (self.sources / name).symlink_to(ROOT / name)
        for path in (ROOT / "tf_adadelta").rglob("*.py"):
            copied = self.sources / path.relative_to(ROOT)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copied)

    def add_distribution(self, name, version, module="tensorflow", code=""):
        """Installs what passes for a distribution."""
        (self.site / f"{module}.py").write_text(code)
        info = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "top_level.txt").write_text(module)

    def add_tensorflow(self):
        """Makes the environment see the TensorFlow of this process."""
        (self.site / "rest.pth").write_text("\n".join(p for p in sys.path if "site-packages" in p))

    def last_words(self, *command, **environment):
        """Returns the message with which it fails, which are a few lines."""
        result = subprocess.run(
            command or [self.venv / "bin/python", "setup.py", "-q", "build_ext"],
            cwd=self.sources,
            env={**os.environ, "PYTHONPATH": "", "TF_ADADELTA_CUDA": "OFF", **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode != 0
        assert "Traceback" not in result.stderr
        words = result.stderr.rpartition("tf_adadelta: ")[2]
        words = words.partition("[end of output]")[0].strip()  # Of what pip adds of its own.
        assert words and len(words.splitlines()) <= 3
        return words

    def pretend(self, name, script):
        """Makes a program that stands in for another."""
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path


@pytest.fixture
def build(tmp_path):
    return Build(tmp_path)


@pytest.mark.parametrize(
    ("distribution", "version", "words"),
    [
        ("tensorflow", "2.17.1", "TensorFlow 2.18 to 2.21 is supported. Install"),
        ("tensorflow-cpu", "2.22.0", "TensorFlow 2.18 to 2.21 is supported. Install"),
        ("tf-nightly", "2.21.0.dev20260101", "2.18 to 2.21 is supported, as it was released"),
        ("tf-nightly", "2.23.0.dev20260101", "TensorFlow 2.18 to 2.21 is supported. Install"),
    ],
)
def test_unsupported_tensorflow(build, distribution, version, words):
    build.add_distribution(distribution, version)
    said = build.last_words()
    assert said.startswith(f"{distribution} {version} is installed, but")
    assert words in said and "pip install 'tensorflow>=2.18,<2.22'" in said


def test_tensorflow_that_cannot_be_imported(build):
    build.add_distribution("tensorflow", "2.21.0", code="raise ImportError('no libfoo.so')")
    said = build.last_words()
    assert "TensorFlow is installed but cannot be imported. It says: ImportError: no libfoo" in said


def test_no_tensorflow_and_no_network(build):
    command = [sys.executable, "-m", "pip", "--python", build.venv / "bin/python", "install"]
    command += ["--no-index", "--no-build-isolation", "--no-deps", "."]
    said = build.last_words(*command)
    assert said.startswith("TensorFlow is missing, and is needed to build against. Run `pip inst")


@pytest.mark.parametrize(("macros", "name"), [("GNUC", "GNU 7"), ("clang", "Clang 11")])
def test_compiler_that_is_too_old(build, macros, name):
    build.add_tensorflow()
    version = {
        "GNUC": "-U__GNUC__ -D__GNUC__=7",
        "clang": "-D__clang__=1 -D__clang_major__=11 -D__clang_minor__=0 -D__clang_patchlevel__=1",
    }[macros]
    compiler = build.pretend("c++", f'exec g++ {version} "$@"')
    said = build.last_words(CXX=str(compiler))
    assert said.startswith("tf_adadelta needs g++ 9 or newer, or clang 12 or newer, for C++17; ")
    assert f"{compiler} is {name}" in said and "apt-get install g++" in said


FAILURES = {
    "disk": ("fatal error: error writing to x.s: No space left on device", "the disk is full: "),
    "memory": ("g++: fatal error: Killed signal terminated program", "the compiler was killed, "),
    "anything": ("parallel.cc:1:2: error: no <thread>", "the build failed: parallel.cc:1:2: error"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_compiler_that_fails(build, failure):
    """The last word is what went wrong and what to do, not what the compiler printed."""
    printed, words = FAILURES[failure]
    build.add_tensorflow()
    compiler = build.pretend(
        "c++", f'case "$*" in *csrc/*) echo "{printed}" >&2; exit 1 ;; esac; exec g++ "$@"'
    )
    assert build.last_words(CXX=str(compiler)).startswith(words)


def test_disk_that_is_full(build):
    """A real one, of 64 KB."""
    disk = build.folder / "disk"
    disk.mkdir()
    mount = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=64k none "{disk}" && exec "$@"']
    if shutil.which("unshare") is None or subprocess.run([*mount, "-", "true"]).returncode != 0:
        pytest.skip("no file system can be mounted here")
    build.add_tensorflow()
    command = [build.venv / "bin/python", "setup.py", "-q", "build_ext"]
    said = build.last_words(*mount, "-", *command, "--build-temp", str(disk), TMPDIR=str(disk))
    assert said.startswith(f"the disk is full: {disk} has ")
