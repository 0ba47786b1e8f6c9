"""What was built, and whether it fits the TensorFlow that is running."""

import importlib.metadata
import importlib.util
import json
import platform
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("_build_info.json")
_REBUILD = "pip install --force-reinstall --no-deps --no-cache-dir /path/to/tf_adadelta"
REBUILD_WITH_CUDA = f"TF_ADADELTA_CUDA=ON {_REBUILD}"


def build_info() -> dict[str, Any]:
    """Returns what this installation was built with and for.

    Returns:
        A dictionary with the keys `version`, `tensorflow` (the version built against), `python`,
        `compiler`, `instruction_sets` (compiled in, the widest first), `xla` (whether
        `jit_compile=True` calls the fused kernel), `cuda` (whether there are CUDA kernels),
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
    return {
        "version": importlib.metadata.version("tf_adadelta"),
        **json.loads(_FILE.read_text(encoding="utf-8")),
    }


def check_tensorflow(running: str, built: str) -> None:
    """Raises ImportError unless the two TensorFlow versions agree in their first two numbers."""
    if running.split(".")[:2] != built.split(".")[:2]:
        raise ImportError(
            f"tf_adadelta was built against TensorFlow {built}, but TensorFlow {running} is "
            "running, and TensorFlow's C++ interface changes with every minor version. Rebuild it "
            f"in this environment with `{_REBUILD}`, or install "
            f"tensorflow=={'.'.join(built.split('.')[:2])}.*"
        )


def facts() -> dict[str, Any]:
    """Returns an account of the build, the environment, and what is missing, for JSON.

    Returns:
        A dictionary with what `build_info` returns (or `not_built`, why there is no build), and the
        keys `instruction_set` (the one used here; None where the kernels do not load, for the
        reason in `kernels_unusable`), `machine`, `platform`, `python_running`, and `running`: the
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
    return {**info, **found, "running": _running(info["tensorflow"])}


def report() -> str:
    """Returns a readable account of the build, the environment, and what is missing."""
    lines = []

    def line(name: str, value: object) -> None:
        lines.append(f"{name + ':' if name else '':<22}{value}")

    info = facts()
    if "not_built" in info:
        return info["not_built"]
    line("tf_adadelta", info["version"])
    line("built against", f"TensorFlow {info['tensorflow']}, Python {info['python']}")
    line("compiler", info["compiler"])
    line("instruction sets", ", ".join(info["instruction_sets"]))
    if info["instruction_set"] is None:
        line("used here", f"nothing: {info['kernels_unusable']}")
    else:
        line("used here", f"{info['instruction_set']} on {info['machine']}")
    line("XLA custom call", "yes" if info["xla"] else "no: TensorFlow 2.20 or newer is needed")
    if info["cuda"]:
        architectures = ", ".join(info["cuda_architectures"])
        line("CUDA", f"yes: toolkit {info['cuda_toolkit']}, for {architectures}")
    else:
        line("CUDA", f"no: {info['cuda_reason']}")
        line("", f"To rebuild with CUDA: {REBUILD_WITH_CUDA}")
    running = info["running"]
    if running is None:
        minor = ".".join(info["tensorflow"].split(".")[:2])
        text = f"none: install it with `pip install 'tensorflow=={minor}.*'`"
    elif "unusable" in running:
        text = f"unusable: {running['unusable']}"
    else:
        text = f"{running['tensorflow']}, Keras {running['keras']}, {', '.join(running['devices'])}"
    line("TensorFlow running", text)
    return "\n".join(lines)


def _running(built: str) -> dict[str, Any] | None:
    """Returns which TensorFlow is running, and whether it fits the one built against."""
    if importlib.util.find_spec("tensorflow") is None:
        return None
    found: dict[str, Any] = {}
    try:
        import tensorflow as tf

        found["tensorflow"] = tf.__version__
        check_tensorflow(tf.__version__, built)
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
