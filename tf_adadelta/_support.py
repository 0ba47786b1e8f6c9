"""What the fused ops serve, and why they do not serve the rest."""

from typing import Any

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from tf_adadelta import _gpus, _replicas, _servers, ops
from tf_adadelta._build_info import REBUILD_WITH_CUDA, build_info
from tf_adadelta._library import serves_xla

_DEVICE_TYPES = ("CPU", "GPU") if build_info()["cuda"] else ("CPU",)
_XLA = serves_xla()


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
    reasons = (_why_no_kernel(part.device) for part in parts)
    return next((reason for reason in reasons if reason is not None), None)


def device_is_served() -> bool:
    """Whether there are kernels for the device where TensorFlow puts what is put nowhere."""
    return _why_no_kernel("") is None


def _why_no_kernel(device: str) -> str | None:
    spec = tf.DeviceSpec.from_string(device)
    # In a graph that is yet to be placed there is none.
    device_type = spec.device_type or ("GPU" if tf.config.list_physical_devices("GPU") else "CPU")
    if device_type not in _DEVICE_TYPES:
        reason = f"is on a device of type {device_type}, for which tf_adadelta has no kernel"
        rebuild = f"{reason}: rebuild it with CUDA, `{REBUILD_WITH_CUDA}`"
        return rebuild if device_type == "GPU" else reason
    if device_type == "GPU" and spec.job in (None, "localhost"):
        return _gpus.why_not_served(spec.device_index or 0)
    return None
