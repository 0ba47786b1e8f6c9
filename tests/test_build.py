"""The build and the import: what they say when something is missing or does not fit."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from subprocesses import run_program, run_python

import tf_adadelta
from tf_adadelta import _build_info

ROOT = Path(__file__).resolve().parents[1]


def setup(tmp_path, *arguments, **environment):
    """Runs setup.py in a copy of the source tree."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "CMakeLists.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "tf_adadelta").mkdir()
    return subprocess.run(
        [sys.executable, "setup.py", "-q", *arguments],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_missing_compiler(tmp_path):
    result = setup(tmp_path, "build_ext", CXX="/nowhere/g++")
    assert result.returncode != 0
    assert "tf_adadelta: CXX names /nowhere/g++, which is not there. Install g++" in result.stderr
    assert "Traceback" not in result.stderr


def test_no_compiler_at_all(tmp_path):
    environment = {"PATH": str(tmp_path), "CXX": ""}
    result = setup(tmp_path, "build_ext", **environment)
    assert result.returncode != 0
    assert "tf_adadelta: no C++ compiler was found. Install g++" in result.stderr


def run_setup_functions(program):
    """Runs a program after the functions of setup.py, without its call of setup()."""
    source = (ROOT / "setup.py").read_text().split("\nsetup(\n")[0]
    return run_program(f"__file__ = {str(ROOT / 'setup.py')!r}\n{source}\n{program}")


def test_missing_tensorflow():
    program = """
find_tensorflows = lambda: []
print(extras()["demo"][0], extras()["tensorflow"])
CMakeBuild.run(None)
"""
    result = run_setup_functions(program)
    assert result.stdout.split()[0].startswith("tensorflow>=2.18,<2.2")
    assert result.returncode != 0
    assert "TensorFlow is missing" in result.stderr and "pip install 'tensorflow>=" in result.stderr
    assert "Traceback" not in result.stderr


def test_unsupported_tensorflow():
    program = """
ask = lambda program, environment: {"distribution": "tensorflow", "version": "2.17.1"}
find_tensorflows()
"""
    result = run_setup_functions(program)
    assert result.returncode != 0
    assert "tensorflow 2.17.1 is installed, but TensorFlow 2.18 to 2.21 is supp" in result.stderr


def test_extras_ask_for_the_distribution_that_is_there():
    program = """
ask = lambda program, environment: {"distribution": "tensorflow-cpu", "version": "2.20.3"}
print(extras()["demo"][0], extras()["test"][0], extras()["and-cuda"][0], sep="\\n")
"""
    assert run_setup_functions(program).stdout.split() == [
        "tensorflow-cpu==2.20.*",
        "tensorflow-cpu==2.20.*",
        "tensorflow[and-cuda]==2.20.*",
    ]


@pytest.mark.parametrize("distribution, brought", [("tensorflow", True), ("tensorflow-cpu", False)])
def test_tf_keras_is_an_extra(distribution, brought):
    """tf-keras requires `tensorflow`, and so must not come along beside tensorflow-cpu."""
    program = f"""
ask = lambda program, environment: {{"distribution": {distribution!r}, "version": "2.20.3"}}
for name in ("tf-keras", "test", "bench"):
    print("tf-keras==2.20.*" in extras()[name])
"""
    assert run_setup_functions(program).stdout.split() == ["True", str(brought), str(brought)]


def test_several_tensorflows_for_the_cpu_name_no_gpu():
    """Without that a wheel for several has no CUDA: `;` is no list of architectures."""
    program = """
print(as_lists([{"VERSION": "2.20.0", "GPUS": ""}, {"VERSION": "2.21.0", "GPUS": ""}]))
print(as_lists([{"GPUS": "sm_80;compute_90"}, {"GPUS": ""}]))
"""
    assert run_setup_functions(program).stdout.splitlines() == [
        "{'VERSION': '2.20.0;2.21.0', 'GPUS': ''}",
        "{'GPUS': 'sm_80;compute_90'}",
    ]


def test_mismatch_of_versions(monkeypatch):
    libraries = {"2.19": {}, "2.21": {}}
    monkeypatch.setattr(_build_info, "build_info", lambda: {"op_libraries": libraries})
    with pytest.raises(ImportError, match=r"built for TensorFlow 2\.19 and 2\.21, but") as caught:
        _build_info.check_tensorflow("2.20.0")
    assert "pip install --force-reinstall" in str(caught.value)
    assert _build_info.check_tensorflow("2.21.3") == "2.21"
    assert _build_info.requirement() == "tensorflow>=2.19,<2.22"


def test_mismatch_at_import():
    program = """
import tensorflow as tf
tf.__version__ = "2.7.0"
import tf_adadelta
tf_adadelta.Adadelta
"""
    result = run_program(program)
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: tf_adadelta was built for TensorFlow")
    assert "TensorFlow 2.7.0 is running" in last and "Rebuild" in last


@pytest.mark.parametrize(
    "name", ["tf_adadelta.Adadelta", "tf_adadelta.compat.v1", "tf_adadelta.tf_keras.legacy"]
)
def test_import_without_tensorflow(name):
    program = f"""
import sys; sys.modules["tensorflow"] = None
import tf_adadelta
print(tf_adadelta.build_info()["compiler"])
{name}
"""
    result = run_program(program)
    assert result.stdout.strip() == tf_adadelta.build_info()["compiler"]
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: tf_adadelta needs TensorFlow, which is not installed")


def test_another_keras_backend():
    program = """
        import keras
        keras.backend.backend = lambda: "jax"
        import tf_adadelta
        from tf_adadelta import ops
        for name in ("Adadelta", "patch_keras", "from_keras"):
            try:
                getattr(tf_adadelta, name)
            except ImportError as error:
                print(error)
        tf_adadelta.Adadelta
        """
    result = run_program(program)
    assert result.returncode != 0
    needed = "needs the TensorFlow backend of Keras, but Keras runs on 'jax'"
    assert result.stdout.count(needed) == 3
    assert needed in result.stderr.strip().splitlines()[-1]


def test_report():
    result = run_python("-m", "tf_adadelta")
    assert result.returncode == 0, result.stderr
    info = tf_adadelta.build_info()
    for expected in (
        *(library["tensorflow"] for library in info["op_libraries"].values()),
        info["compiler"],
        ", ".join(info["instruction_sets"]),
        "CUDA:",
        f"toolkit {info['cuda_toolkit']}" if info["cuda"] else "TF_ADADELTA_CUDA=ON pip install",
        "Keras",
    ):
        assert expected in result.stdout


def test_report_as_json():
    """What an issue asks for; all that the readable one says is in it."""
    result = run_python("-m", "tf_adadelta", "--json")
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts.items() >= tf_adadelta.build_info().items()
    assert facts["instruction_set"] == tf_adadelta.kernels.instruction_sets()[0]
    assert facts["running"]["keras"] == keras.__version__
    assert "/device:CPU:0" in facts["running"]["devices"]
    assert facts["python_running"] == platform.python_version()


def test_report_without_tensorflow():
    program = """
import sys; sys.modules["tensorflow"] = None
from tf_adadelta import _build_info
facts = _build_info.facts()
assert facts["running"] is None and facts["instruction_set"]
print(_build_info.report().splitlines()[-1])
"""
    result = run_program(program)
    assert result.stdout.startswith("TensorFlow running:   none: install it with"), result.stderr


def test_report_of_a_tensorflow_that_does_not_fit(monkeypatch):
    library = {"tensorflow": "2.7.0", "xla": False}
    info = {**_build_info.build_info(), "op_libraries": {"2.7": library}}
    monkeypatch.setattr(_build_info, "build_info", lambda: info)
    assert _build_info.report().splitlines()[-1].startswith("TensorFlow running:   unusable: ")
    assert "built for TensorFlow 2.7, but" in _build_info.facts()["running"]["unusable"]


def test_report_of_sources():
    program = """
from pathlib import Path
from tf_adadelta import _build_info
_build_info._FILE = Path("nowhere/_build_info.json")
assert _build_info.report() == _build_info.facts()["not_built"]
print(_build_info.report())
"""
    assert "tf_adadelta is not built: nowhere holds its sources" in run_program(program).stdout


def test_version_is_that_of_the_package():
    assert tf_adadelta.__version__ == tf_adadelta.build_info()["version"]


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="module 'tf_adadelta' has no attribute 'nonsense'"):
        _ = tf_adadelta.nonsense
