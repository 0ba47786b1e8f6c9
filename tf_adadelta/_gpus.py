"""Which GPUs the CUDA kernels of this build run on."""

import functools
import re
from collections.abc import Sequence

import tensorflow as tf

from tf_adadelta._build_info import REBUILD_WITH_CUDA, build_info
from tf_adadelta._library import load_kernels

_OLDEST_CAPABILITY = (7, 0)
_OLDEST_DRIVER = (12, 1)  # Others take no kernel with so many parameters.


@functools.cache
def why_not_served(index: int) -> str | None:
    """Returns what keeps the variables on a GPU of this process from a build with CUDA, or None.

    Args:
        index: The index of the logical device, as in "GPU:0".
    """
    info = build_info()
    capability = _capability(index)
    if capability is None:
        return None
    driver = divmod(load_kernels().cuda_driver_version() // 10, 100)
    reason = why_no_code(capability, info["cuda_architectures"], info["cuda_toolkit"], driver)
    return f"is on GPU:{index}, {reason}" if reason else None


def why_no_code(
    capability: tuple[int, int],
    architectures: Sequence[str],
    toolkit: str,
    driver: tuple[int, int],
) -> str | None:
    """Returns what keeps a GPU from running a build, None if nothing does.

    Args:
        capability: The compute capability of the GPU.
        architectures: Those of the build, as CMake writes them; one that is no number, such as
            "native", is taken for fitting.
        toolkit: The version of the build's CUDA toolkit.
        driver: The CUDA version that the driver supports.
    """
    version = ".".join(map(str, driver))
    if driver < _OLDEST_DRIVER:
        oldest = ".".join(map(str, _OLDEST_DRIVER))
        return f"whose driver supports CUDA {version}: update it to one for {oldest} or newer"
    built_with = tuple(map(int, toolkit.split(".")[:2]))
    if driver[0] < built_with[0]:
        return (
            f"whose driver supports CUDA {version}, and tf_adadelta was built with {toolkit}: "
            f"update the driver, or rebuild with a CUDA {driver[0]} toolkit"
        )
    name = ".".join(map(str, capability))
    if capability < _OLDEST_CAPABILITY:
        return f"of compute capability {name}, and the kernels need 7.0 or newer"
    if any(_runs_on(capability, name, driver >= built_with) for name in architectures):
        return None
    rebuild = f'CMAKE_ARGS="-DCMAKE_CUDA_ARCHITECTURES={capability[0]}{capability[1]}" '
    rebuild += REBUILD_WITH_CUDA
    if built_with >= (13, 0) and capability < (7, 5):
        return (
            f"of compute capability {name}, which CUDA 13 has dropped: rebuild with a toolkit of "
            f"12.1 to 12.9, `{rebuild}`"
        )
    return (
        f"of compute capability {name}, and tf_adadelta was built for "
        f"{', '.join(architectures)}: rebuild it, `{rebuild}`"
    )


def _runs_on(capability: tuple[int, int], architecture: str, compiles: bool) -> bool:
    """Whether a GPU runs the code for an architecture; `compiles`: whether its driver takes PTX."""
    parts = re.fullmatch(r"(\d+)(\d)([a-z]?)(-real|-virtual)?", architecture)
    if parts is None:
        return True
    built_for = (int(parts[1]), int(parts[2]))
    if parts[3]:  # Such as 90a, which runs nowhere else.
        return built_for == capability
    machine_code = parts[4] != "-virtual" and built_for[0] == capability[0]
    ptx = parts[4] != "-real" and compiles
    return built_for <= capability and (machine_code or ptx)


def _capability(index: int) -> tuple[int, int] | None:
    """Returns the compute capability of a logical device, None if TensorFlow does not tell."""
    logical = []
    for device in tf.config.get_visible_devices("GPU"):
        logical += [device] * len(tf.config.get_logical_device_configuration(device) or [None])
    if index >= len(logical):
        return None
    return tf.config.experimental.get_device_details(logical[index]).get("compute_capability")
