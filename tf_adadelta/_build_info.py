"""What was built, and whether it fits the TensorFlow that is running."""

import importlib.metadata
import importlib.util
import json
import platform
import sys
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("_build_info.json")
REBUILD = "pip install --force-reinstall --no-deps --no-cache-dir /path/to/tf_adadelta"
REBUILD_WITH_CUDA = f"TF_ADADELTA_CUDA=ON {REBUILD}"


def build_info() -> dict[str, Any]:
    """Returns what this installation was built with and for.

    Returns:
        A dictionary with the keys `version`, `op_libraries` (by the minor version of TensorFlow
        that one is for, such as "2.21", a dictionary: `tensorflow`, the version built against, and
        `xla`, whether `jit_compile=True` calls the fused kernel), `python`, `compiler`, `pybind11`,
        `instruction_sets` (compiled in, the widest first), `cuda` (whether there are CUDA kernels),
        `cuda_reason` (why, or why not), `cuda_toolkit` (its version, or ""), and
        `cuda_architectures` (as CMake writes them: "80-real" is machine code for sm_80, "90"
        machine code and PTX, which newer GPUs run too).

    Raises:
        ImportError: The package was not built: it is a source tree on the path.
    """
    if not _FILE.exists():
        raise ImportError(
            f"tf_adadelta is not built: {_FILE.parent} holds its sources only. Run `pip install .` "
            "in the folder above it, and start Python from another folder."
        )
    return json.loads(_FILE.read_text(encoding="utf-8"))


def requirement() -> str:
    """Returns the TensorFlow that the op libraries are for, as pip takes it."""
    minors = list(build_info()["op_libraries"])
    if len(minors) == 1:
        return f"tensorflow=={minors[0]}.*"
    major, newest = minors[-1].split(".")
    return f"tensorflow>={minors[0]},<{major}.{int(newest) + 1}"


def check_tensorflow(running: str) -> str:
    """Returns the minor version of TensorFlow whose op library fits the one that is running.

    Raises:
        ImportError: There is none for it.
    """
    minor = ".".join(running.split(".")[:2])
    minors = list(build_info()["op_libraries"])
    if minor in minors:
        return minor
    raise ImportError(
        f"tf_adadelta was built for TensorFlow {' and '.join(minors)}, but TensorFlow {running} is "
        "running, and TensorFlow's C++ interface changes with every minor version. Rebuild it in "
        f"this environment with `{REBUILD}`, or install tensorflow=={minors[-1]}.*"
    )


def facts() -> dict[str, Any]:
    """Returns an account of the build, the environment, and what is missing, for JSON.

    Returns:
        A dictionary with what `build_info` returns (or `not_built`, why there is no build), and the
        keys `instruction_set` (the one used here; None where the kernels do not load, for the
        reason in `kernels_unusable`), `machine`, `platform`, `python_running`, `copies` (the
        folders on the path that hold the package, the one used first), and `running`: the
        versions of TensorFlow, Keras and tf_keras and the devices, None where there is no
        TensorFlow, and `unusable`, a sentence, where it does not fit.
    """
    found: dict[str, Any] = {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "python_running": platform.python_version(),
    }
    try:
        info = build_info()
    except ImportError as error:
        return {"not_built": str(error), **found}
    try:
        from tf_adadelta import kernels

        found["instruction_set"] = kernels.instruction_sets()[0]
    except ImportError as error:
        found.update(instruction_set=None, kernels_unusable=str(error))
    return {**info, **found, "copies": _copies(), "running": _running()}


def report() -> str:
    """Returns a readable account of the build, the environment, and what is missing."""
    lines = []

    def line(name: str, value: object) -> None:
        lines.append(f"{name + ':' if name else '':<22}{value}")

    info = facts()
    if "not_built" in info:
        return info["not_built"]
    line("tf_adadelta", info["version"])
    libraries = info["op_libraries"].values()
    against = " and ".join(library["tensorflow"] for library in libraries)
    line("built against", f"TensorFlow {against}, Python {info['python']}")
    line("compiler", info["compiler"])
    line("instruction sets", ", ".join(info["instruction_sets"]))
    if info["instruction_set"] is None:
        line("used here", f"nothing: {info['kernels_unusable']}")
    else:
        line("used here", f"{info['instruction_set']} on {info['machine']}")
    with_xla = [library["tensorflow"] for library in libraries if library["xla"]]
    needed = "no: TensorFlow 2.20 or newer is needed"
    line("XLA custom call", f"with {' and '.join(with_xla)}" if with_xla else needed)
    if info["cuda"]:
        architectures = ", ".join(info["cuda_architectures"])
        line("CUDA", f"yes: toolkit {info['cuda_toolkit']}, for {architectures}")
    else:
        line("CUDA", f"no: {info['cuda_reason']}")
        line("", f"To rebuild with CUDA: {REBUILD_WITH_CUDA}")
    running = info["running"]
    if running is None:
        text = f"none: install it with `pip install '{requirement()}'`"
    elif "unusable" in running:
        text = f"unusable: {running['unusable']}"
    else:
        text = f"{running['tensorflow']}, Keras {running['keras']}, {', '.join(running['devices'])}"
    line("TensorFlow running", text)
    for copy in info["copies"][1:]:
        line("", f"another copy on the path, which is not used: {copy}")
    return "\n".join(lines)


def _copies() -> list[str]:
    """Returns the folders on the path that hold the package, the one that is used first."""
    folders = [Path(folder).resolve() / _FILE.parent.name for folder in sys.path]
    others = [str(folder) for folder in folders if (folder / _FILE.name).exists()]
    return list(dict.fromkeys([str(_FILE.parent.resolve()), *others]))


def _running() -> dict[str, Any] | None:
    """Returns which TensorFlow is running, and whether one of the op libraries fits it."""
    if importlib.util.find_spec("tensorflow") is None:
        return None
    found: dict[str, Any] = {}
    try:
        import tensorflow as tf

        found["tensorflow"] = tf.__version__
        check_tensorflow(tf.__version__)
        import keras
    except ImportError as error:
        return {**found, "unusable": str(error)}
    found["keras"] = keras.__version__
    found["keras_backend"] = keras.backend.backend()
    try:
        found["tf_keras"] = importlib.metadata.version("tf_keras")
    except importlib.metadata.PackageNotFoundError:
        found["tf_keras"] = None
    found["devices"] = [device.name for device in tf.config.list_logical_devices()]
    return found
