"""Loads the libraries of the package, or says what keeps one from loading and what mends it."""

import functools
import importlib
import importlib.machinery
import platform
import re
from pathlib import Path
from types import ModuleType

from tf_adadelta import _elf
from tf_adadelta._build_info import REBUILD, build_info, check_tensorflow, requirement

_FOLDER = Path(__file__).parent
_CORE = "libtf_adadelta_core.so"


@functools.cache
def load_ops() -> ModuleType:
    """Returns the module of the ops, loading the library for this TensorFlow on the first call.

    Raises:
        ImportError: TensorFlow is missing, or none of the libraries is for it; or the library does
            not load.
    """
    if not build_info()["op_libraries"]:
        raise ImportError(
            "tf_adadelta was built without TensorFlow, and has no ops but its kernels on arrays. "
            f"Rebuild it in an environment that has TensorFlow: `{REBUILD}`."
        )
    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        raise ImportError(
            "tf_adadelta needs TensorFlow, which is not installed. Run `pip install "
            f"'{requirement()}'` (or tensorflow-cpu)."
        ) from error
    minor = check_tensorflow(tf.__version__)
    name = f"_ops_{minor}.so"
    _check(_CORE)
    _check(name)
    loaded = _loaded_elsewhere()
    if loaded is not None:
        raise ImportError(
            f"two copies of tf_adadelta are on the path: {loaded.parent} has loaded its ops into "
            f"this process, and now {_FOLDER} would. Keep one: `pip uninstall tf_adadelta` removes "
            "the first that is installed, and PYTHONPATH may name the other."
        )
    built = build_info()["op_libraries"][minor]["tensorflow"]
    try:
        return tf.load_op_library(str(_FOLDER / name))
    except (tf.errors.OpError, OSError) as error:
        reason = str(error)
        if "undefined symbol" in reason:
            reason = "it asks for functions which this TensorFlow does not have"
        raise ImportError(
            f"tf_adadelta's {name} was built against TensorFlow {built} and does not load into the "
            f"TensorFlow {tf.__version__} that is running: {reason}. Rebuild it in this "
            f"environment: `{REBUILD}`."
        ) from None


def serves_xla() -> bool:
    """Whether `jit_compile=True` calls the fused kernel in the TensorFlow that is running."""
    import tensorflow as tf

    return build_info()["op_libraries"][check_tensorflow(tf.__version__)]["xla"]


@functools.cache
def load_kernels() -> ModuleType:
    """Returns the extension module of the kernels.

    Raises:
        ImportError: It was built for another Python, or does not load.
    """
    _check(_CORE)
    name = "_kernels" + importlib.machinery.EXTENSION_SUFFIXES[0]
    if not (_FOLDER / name).exists():
        raise ImportError(
            f"tf_adadelta was built for Python {build_info()['python']}, but Python "
            f"{platform.python_version()} is running. Build it for that: `{REBUILD}`."
        )
    _check(name)
    return importlib.import_module("tf_adadelta._kernels")


def _check(name: str) -> None:
    """Raises ImportError where a library of the package cannot be loaded."""
    reason = _elf.why_not_loadable(_FOLDER / name)
    if reason is not None:
        raise ImportError(
            f"tf_adadelta's library {_FOLDER / name} {reason}. Install the package again: "
            f"`{REBUILD}`."
        )


def _loaded_elsewhere() -> Path | None:
    """Returns the op library of another copy of the package that this process has loaded."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    for name in re.findall(r"/(?:.*/)?tf_adadelta/_ops_[^/]*\.so$", maps.read_text(), re.MULTILINE):
        if not Path(name).parent.samefile(_FOLDER):
            return Path(name)
    return None
