"""What the fused ops serve, and why they do not serve the rest."""

from typing import Any

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from tf_adadelta import _replicas, _servers, ops
from tf_adadelta._build_info import REBUILD_WITH_CUDA, build_info

_DEVICE_TYPES = ("CPU", "GPU") if build_info()["cuda"] else ("CPU",)
_XLA = build_info()["xla"]


def why_none_is_served() -> str | None:
    """Returns what keeps all variables of a step from the ops, None if nothing does."""
    if not _XLA and control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return "jit_compile=True needs TensorFlow 2.20 or newer"
    return _servers.why_not_served()


def why_not_served(variable: Any) -> str | None:
    """Returns what keeps a variable from the ops, None if nothing does."""
    parts = _replicas.components(variable)
    if not isinstance(variable, tf.Variable) or not all(hasattr(part, "handle") for part in parts):
        return f"is a {type(variable).__name__}, not a plain resource variable"
    if variable.dtype not in ops.DTYPES:
        return f"has dtype {variable.dtype.name}"
    for part in parts:
        device = _device_type(part)
        if device not in _DEVICE_TYPES:
            return _no_kernel_for(device)
    return None


def device_is_served() -> bool:
    """Whether there are kernels for the device where TensorFlow puts what is put nowhere."""
    return _default_device_type() in _DEVICE_TYPES


def _device_type(variable: tf.Variable) -> str:
    device_type = tf.DeviceSpec.from_string(variable.device).device_type
    return device_type or _default_device_type()  # In a graph that is yet to be placed.


def _default_device_type() -> str:
    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


def _no_kernel_for(device: str) -> str:
    reason = f"is on a device of type {device}, for which tf_adadelta has no kernel"
    return f"{reason}: rebuild it with CUDA, `{REBUILD_WITH_CUDA}`" if device == "GPU" else reason
