"""What CMake decides about CUDA, by configuring only, and what a build with CUDA registers."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import tensorflow as tf
from conftest import XLA, needs_xla
from tensorflow.python.framework import kernels as registered_kernels
from test_cuda_kernel import NVCC, needs_nvcc

import tf_adadelta
from tf_adadelta import _gpus, _kernels, _support, ops

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(tf_adadelta.__file__).parent
INFO = tf_adadelta.build_info()
needs_cuda_build = pytest.mark.skipif(
    not INFO["cuda"], reason=f"built without CUDA: {INFO['cuda_reason']}"
)
# Found by this name on the PATH by CMake or by the compiler.
TOOLS = ("ar", "as", "c++", "cc", "cp", "g++", "gcc", "ld", "nm", "ranlib", "rm", "sh", "uname")


def tool(name):
    path = shutil.which(name) or shutil.which(name, path=Path(sys.executable).parent)
    assert path is not None, f"{name} is missing: run `pip install {name}`"
    return path


class Configuration:
    """Runs CMake on the project with a PATH on which there is no nvcc."""

    def __init__(self, folder):
        self.folder = folder
        self.path = folder / "path"
        self.path.mkdir()
        for name in TOOLS:
            if shutil.which(name):
                (self.path / name).symlink_to(shutil.which(name))
        self.python = sys.executable

    def add_nvcc(self, folder, script=f'exec "{NVCC}" "$@"'):
        """Puts an nvcc into a folder: the real one, or a script that pretends to be one."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "nvcc").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "nvcc").chmod(0o755)

    def run(self, *definitions, **environment):
        """Returns what CMake printed, without its line breaks, and the build's description."""
        settings = {
            "TENSORFLOW_VERSION": tf.__version__,
            "TENSORFLOW_INCLUDE_DIR": tf.sysconfig.get_include(),
            "TENSORFLOW_LIBRARY_DIR": tf.sysconfig.get_lib(),
            "OUTPUT_DIR": self.folder,
            "Python_EXECUTABLE": self.python,
            "pybind11_DIR": Path(importlib.util.find_spec("pybind11").origin).parent
            / "share/cmake/pybind11",
            "CMAKE_MAKE_PROGRAM": tool("ninja"),
            **dict(definition.split("=", 1) for definition in definitions),
        }
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in ("CUDACXX", "CUDAARCHS", "CUDAToolkit_ROOT", "CUDA_PATH")
        }
        result = subprocess.run(
            [tool("cmake"), "-S", ROOT, "-B", self.folder / "build", "-G", "Ninja"]
            + [f"-D{name}={value}" for name, value in settings.items()],
            env={**inherited, "PATH": str(self.path), **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.failed = result.returncode != 0
        self.output = " ".join((result.stdout + result.stderr).split())
        info = self.folder / "_build_info.json"
        self.info = None if self.failed else json.loads(info.read_text())


@pytest.fixture
def configuration(tmp_path):
    return Configuration(tmp_path)


def test_auto_without_a_toolkit(configuration):
    configuration.run("TF_ADADELTA_CUDA=AUTO")
    assert "CUDA: no: nvcc was not found (looked at the PATH and" in configuration.output
    assert configuration.info["cuda"] is False
    assert "pip install 'nvidia-cuda-nvcc'" in configuration.info["cuda_reason"]


def test_on_without_a_toolkit(configuration):
    configuration.run("TF_ADADELTA_CUDA=ON")
    assert configuration.failed
    assert "TF_ADADELTA_CUDA=ON, but nvcc was not found" in configuration.output
    assert "pip install 'nvidia-cuda-nvcc'" in configuration.output


def test_off(configuration):
    configuration.add_nvcc(configuration.path, "exit 1")
    configuration.run("TF_ADADELTA_CUDA=OFF")
    assert configuration.info["cuda"] is False
    assert configuration.info["cuda_reason"] == "TF_ADADELTA_CUDA=OFF"


def test_neither_on_nor_off(configuration):
    configuration.run("TF_ADADELTA_CUDA=perhaps")
    assert configuration.failed
    assert "TF_ADADELTA_CUDA is 'perhaps', expected ON, OFF or AUTO" in configuration.output


# What an nvcc says of itself.
PRETENCE = (
    '[ "$1" = --version ] && echo V13.0.88 && exit\n'
    '[ "$1" = --list-gpu-arch ] && echo compute_90 && exit\n'
)
BROKEN = {
    "does not compile": (
        f"{PRETENCE}echo '\"no\" header' >&2; exit 1",
        'nvcc does not compile for 90: "no" header',
    ),
    "no CUB": (
        f"{PRETENCE}"
        "for last; do :; done; while read -r line; do case $line in "
        '*"<cub/"*) echo no CUB >&2 ;; esac; done < "$last"; exit 1',
        "nvcc does not compile for 90: no CUB",
    ),
    "refused": (
        f"{PRETENCE}echo '/usr/include/crt/host_config.h:143:2: error: #error -- unsupported GNU "
        "version! gcc versions later than 15 are not supported!' >&2; echo and more >&2; exit 1",
        "later than 15 are not supported!. Set CUDAHOSTCXX to a C++ compiler that it accepts",
    ),
    "old": ("echo V11.8.89", r"is of CUDA 11.8.89, but 12.1 is needed"),
    "no nvcc": ("echo nothing", r"nvcc --version does not work: nothing"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_toolkit_that_does_not_work(configuration, broken):
    script, reason = BROKEN[broken]
    configuration.add_nvcc(configuration.path, script)
    configuration.run("TF_ADADELTA_CUDA=AUTO")
    assert not configuration.failed, configuration.output
    assert reason in " ".join(configuration.info["cuda_reason"].split())
    configuration.run("TF_ADADELTA_CUDA=ON")
    assert configuration.failed
    assert reason in configuration.output


@needs_nvcc
@pytest.mark.parametrize("where", ["path", "root", "root in the environment", "python"])
def test_toolkit_is_found(configuration, where):
    environment, definitions = {}, []
    folder = configuration.path
    if where == "python":
        venv.create(configuration.folder / "venv", symlinks=True)
        configuration.python = configuration.folder / "venv/bin/python"
        site = next((configuration.folder / "venv/lib").glob("python*/site-packages"))
        folder = site / "nvidia/cu13/bin"
    elif where != "path":
        folder = configuration.folder / "toolkit/bin"
        if where == "root":
            definitions.append(f"CUDAToolkit_ROOT={folder.parent}")
        else:
            environment["CUDAToolkit_ROOT"] = str(folder.parent)
    configuration.add_nvcc(folder)
    configuration.run("TF_ADADELTA_CUDA=ON", *definitions, **environment)
    assert not configuration.failed, configuration.output
    assert configuration.info["cuda"] is True
    named = {"path": "the PATH", "python": "the packages of Python"}
    assert named.get(where, "CUDAToolkit_ROOT=") in configuration.info["cuda_reason"]


def supported_architectures():
    listed = subprocess.run([NVCC, "--list-gpu-arch"], capture_output=True, text=True).stdout
    return sorted(int(line.removeprefix("compute_")) for line in listed.split())


@needs_nvcc
@pytest.mark.parametrize(
    "wanted",
    [(), ("sm_60", "sm_70", "sm_80", "sm_89", "compute_90"), ("compute_90", "sm_80"), ("sm_60",)],
)
def test_architectures_of_tensorflow(configuration, wanted):
    configuration.add_nvcc(configuration.path)
    configuration.run(f"TENSORFLOW_CUDA_ARCHITECTURES={';'.join(wanted)}")
    supported = supported_architectures()
    numbers = [int(name.split("_")[1]) for name in wanted] or [70, 80, 89, 90]
    expected = set()
    for number in filter(lambda number: number >= 70, numbers):
        same_major = [other for other in supported if other // 10 == number // 10]
        expected |= {number} if number in supported else set(same_major[:1])
    *older, newest = sorted(expected) or supported[-1:]
    assert configuration.info["cuda_architectures"] == [*(f"{n}-real" for n in older), str(newest)]


@needs_nvcc
@pytest.mark.parametrize("by", ["definition", "environment"])
def test_architectures_that_were_asked_for(configuration, by):
    configuration.add_nvcc(configuration.path)
    if by == "definition":
        configuration.run("CMAKE_CUDA_ARCHITECTURES=80-real;90")
    else:
        configuration.run(CUDAARCHS="80-real;90")
    assert configuration.info["cuda_architectures"] == ["80-real", "90"]


@needs_nvcc
def test_architecture_that_the_kernels_cannot_have(configuration):
    configuration.add_nvcc(configuration.path)
    configuration.run("CMAKE_CUDA_ARCHITECTURES=60;80")
    assert configuration.failed
    message = "CMAKE_CUDA_ARCHITECTURES has 60, but the kernels need 70 or newer"
    assert message in configuration.output


@needs_nvcc
def test_what_is_tried_is_what_is_built(configuration):
    """A toolkit of which one architecture does not take such kernels is not used."""
    refuse_80 = (
        'case "$*" in *compute_80*cuda_trial.cu*) '
        f'echo "ptxas error: too large" >&2; exit 1 ;; esac; exec "{NVCC}" "$@"'
    )
    configuration.add_nvcc(configuration.path, refuse_80)
    configuration.run("TENSORFLOW_CUDA_ARCHITECTURES=sm_80;compute_90")
    reason = "nvcc does not compile for 80-real, 90: ptxas error: too large"
    assert reason in configuration.info["cuda_reason"]
    configuration.run("TENSORFLOW_CUDA_ARCHITECTURES=compute_90")
    assert configuration.info["cuda"] is True


ADVICE = {
    "13.1": "(12.1 to 13.1, which the driver of this machine supports) and put its nvcc on the "
    "PATH, or set CUDAToolkit_ROOT to it, or run `pip install 'nvidia-cuda-nvcc<13.2' "
    "'nvidia-cuda-crt<13.2' 'nvidia-cuda-runtime<13.2' 'nvidia-cuda-cccl<13.2' 'nvidia-nvvm<13.2'`",
    "12.4": "Install a CUDA toolkit (12.1 to 12.4, which the driver of this machine supports) and "
    "put its nvcc on the PATH, or set CUDAToolkit_ROOT to it. PyPI has no nvcc of CUDA 12",
    "11.8": "The driver of this machine supports CUDA 11.8: update it to one for CUDA 12.1 or "
    "newer",
}


@pytest.mark.parametrize("driver", ADVICE)
def test_advice_is_what_the_driver_supports(configuration, driver):
    configuration.add_nvcc(configuration.path, "exit 1")
    smi = configuration.path / "nvidia-smi"
    smi.write_text(f'#!/bin/sh\necho "| NVIDIA-SMI 1.2   CUDA Version: {driver}     |"\n')
    smi.chmod(0o755)
    configuration.run()
    assert ADVICE[driver] in configuration.info["cuda_reason"]


def registered(op):
    return registered_kernels.get_registered_kernels_for_op(op).kernel


HANDLES = {
    "FusedAdadeltaApply": ["vars", "accums", "accum_updates", "averages", "grad_accums"],
    "FusedAdadeltaSparseApply": ["vars", "accums", "accum_updates", "clocks"],
    "FusedSquaredNorms": ["grad_accums"],
}


@needs_cuda_build
@pytest.mark.parametrize("op", HANDLES)
def test_kernels_are_registered_for_the_gpu(op):
    on_gpu = [kernel for kernel in registered(op) if kernel.device_type == "GPU"]
    dtypes = [
        tuple(
            tf.as_dtype(constraint.allowed_values.list.type[0]).name
            for constraint in sorted(kernel.constraint, key=lambda constraint: constraint.name)
        )
        for kernel in on_gpu
    ]
    served = [(dtype.name,) for dtype in ops.DTYPES]
    if op == "FusedAdadeltaSparseApply":
        served = [(*dtype, index.name) for dtype in served for index in ops.INDEX_DTYPES]
    assert sorted(dtypes) == sorted(served)
    for kernel in on_gpu:  # Everything else, the scalars too, is in the GPU's memory.
        assert list(kernel.host_memory_arg) == HANDLES[op]
    if XLA:
        assert any(kernel.device_type == "XLA_GPU_JIT" for kernel in registered(op))


@pytest.mark.parametrize("op", HANDLES)
def test_no_kernel_for_the_gpu_without_cuda(op):
    if INFO["cuda"]:
        pytest.skip("built with CUDA")
    assert not any(kernel.device_type == "GPU" for kernel in registered(op))


@needs_cuda_build
@needs_xla
def test_custom_call_is_emitted_and_handled_on_the_gpu():
    """XLA finds handlers by name and platform; both stand in the library."""
    minor = ".".join(tf.__version__.split(".")[:2])
    library = (FOLDER / f"_ops_{minor}.so").read_bytes()
    assert b"tf_adadelta_fused_adadelta_apply\0" in library
    assert b"tf_adadelta_fused_adadelta_sparse_apply\0" in library
    assert b"tf_adadelta_fused_squared_norms\0" in library
    assert b"CUDA\0" in library


@needs_cuda_build
def test_cuda_runtime_is_linked_statically_and_hidden():
    for library in FOLDER.glob("*.so"):
        needed = subprocess.run(["ldd", library], capture_output=True, text=True).stdout
        assert "cudart" not in needed and "libcuda.so" not in needed
        exported = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True)
        assert b" cuda" not in exported.stdout
        assert b"3cub" not in exported.stdout  # As compilers write cub:: in a symbol.


def test_a_gpu_without_a_kernel(monkeypatch):
    if not INFO["cuda"]:
        for device in ("GPU:0", "/job:worker/task:1/device:GPU:0"):
            reason = _support._why_no_kernel(device)
            assert "rebuild it with CUDA, `TF_ADADELTA_CUDA=ON pip install" in reason
    assert "CUDA" not in _support._why_no_kernel("TPU:0")
    info = {**INFO, "cuda": True, "cuda_architectures": ["75-real", "90"], "cuda_toolkit": "13.0.1"}
    monkeypatch.setattr(_support, "_DEVICE_TYPES", ("CPU", "GPU"))
    monkeypatch.setattr(_gpus, "build_info", lambda: info)
    monkeypatch.setattr(_gpus, "_capability", lambda index: (7, 0) if index else (8, 9))
    monkeypatch.setattr(_kernels, "cuda_driver_version", lambda: 13000)
    _gpus.why_not_served.cache_clear()
    try:
        assert "is on GPU:1, of compute capability 7.0" in _support._why_no_kernel("GPU:1")
        assert (
            _support._why_no_kernel("/job:worker/task:1/device:GPU:1") is None
        )  # Not ours to see.
    finally:
        _gpus.why_not_served.cache_clear()


DEFAULT = ["75-real", "80-real", "89-real", "90"]


@pytest.mark.parametrize(
    ("capability", "architectures", "toolkit", "driver", "reason"),
    [
        ((7, 5), DEFAULT, "13.0.88", (13, 0), None),
        ((8, 6), DEFAULT, "13.0.88", (13, 0), None),
        ((9, 0), DEFAULT, "13.0.88", (13, 0), None),
        ((12, 0), DEFAULT, "13.0.88", (13, 0), None),  # By the PTX.
        ((12, 0), ["90-real"], "13.0.88", (13, 0), "was built for 90-real: rebuild it"),
        ((12, 0), DEFAULT, "13.1.80", (13, 0), "was built for 75-real, 80-real, 89-real, 90"),
        ((9, 0), DEFAULT, "13.1.80", (13, 0), None),
        ((7, 0), DEFAULT, "13.0.88", (13, 0), "rebuild with a toolkit of 12.1 to 12.9"),
        ((7, 0), ["70-real", "90"], "12.9.86", (13, 0), None),
        ((7, 0), ["80-real", "90"], "12.9.86", (12, 9), "DCMAKE_CUDA_ARCHITECTURES=70"),
        ((6, 1), DEFAULT, "13.0.88", (13, 0), "the kernels need 7.0 or newer"),
        ((9, 0), DEFAULT, "13.0.88", (12, 8), "rebuild with a CUDA 12 toolkit"),
        ((9, 0), DEFAULT, "12.9.86", (12, 0), "update it to one for 12.1 or newer"),
        ((10, 0), ["90a"], "12.9.86", (12, 9), "was built for 90a"),
        ((9, 0), ["90a"], "12.9.86", (12, 9), None),
        ((9, 0), ["native"], "12.9.86", (12, 9), None),
    ],
)
def test_gpus_that_a_build_runs_on(capability, architectures, toolkit, driver, reason):
    found = _gpus.why_no_code(capability, architectures, toolkit, driver)
    assert found is None if reason is None else reason in found


def test_glue_knows_no_cuda_header():
    for folder in ("tensorflow", "python"):
        for path in (ROOT / "csrc" / folder).rglob("*.*"):
            assert "#include <cuda" not in path.read_text(), path
    for path in (ROOT / "csrc/cuda").iterdir():
        assert '#include "tensorflow' not in path.read_text(), path
