"""Decides which variables of an optimizer go to the fused op, and says why the others do not."""

import dataclasses
import itertools
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from tf_adadelta import ops
from tf_adadelta._build_info import REBUILD_WITH_CUDA, build_info

_DEVICE_TYPES = ("CPU", "GPU") if build_info()["cuda"] else ("CPU",)
_XLA = build_info()["xla"]

Slots = tuple[tf.Variable, tf.Variable]


@dataclasses.dataclass
class _Group:
    """Variables of one dtype on one device: one call of the op."""

    dtype: tf.DType
    positions: list[int] = dataclasses.field(default_factory=list)
    variables: list[tf.Tensor] = dataclasses.field(default_factory=list)
    accums: list[tf.Tensor] = dataclasses.field(default_factory=list)
    accum_updates: list[tf.Tensor] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class _Plan:
    """Which positions of a list of variables go where."""

    key: tuple
    variables: list[tf.Variable]  # Kept alive: their ids are the key.
    groups: list[_Group]
    unserved: list[int]


class Dispatcher:
    """Applies the fused op to what it serves and hands back the rest.

    Args:
        name: The name of the optimizer, for its warnings.
        slots: Returns the pair (accum, accum_update) of a variable.
    """

    def __init__(self, name: str, slots: Callable[[tf.Variable], Slots]) -> None:
        self._name = name
        self._slots = slots
        self._plan: _Plan | None = None
        self._warned: set[str] = set()

    def apply(
        self,
        variables: Sequence[tf.Variable],
        grads: Sequence[Any],
        *,
        learning_rate: Any,
        rho: Any,
        epsilon: Any,
    ) -> list[int]:
        """Updates the variables that the op serves; returns the positions of the others.

        Raises:
            RuntimeError: There are others, and TF_ADADELTA_STRICT=1.
        """
        reason = _why_none_is_served()
        if reason is not None:
            self._report(reason)
            return list(range(len(variables)))
        plan = self._plan_for(variables, grads)
        if plan.groups:
            hyperparameters = {
                "learning_rate": ops.as_hyperparameter(learning_rate),
                "rho": ops.as_hyperparameter(rho),
                "epsilon": ops.as_hyperparameter(epsilon),
            }
        for group in plan.groups:
            ops.apply_handles(
                group.variables,
                group.accums,
                group.accum_updates,
                [_as_dtype(grads[position], group.dtype) for position in group.positions],
                **hyperparameters,
            )
        return plan.unserved

    def _plan_for(self, variables: Sequence[tf.Variable], grads: Sequence[Any]) -> _Plan:
        # A plan holds only as long as every gradient is of the same kind, dense or sparse.
        key = (
            *map(id, variables),
            *(i for i, grad in enumerate(grads) if isinstance(grad, tf.IndexedSlices)),
        )
        if self._plan is None or self._plan.key != key:
            self._plan = self._make_plan(key, variables, grads)
        return self._plan

    def _make_plan(
        self, key: tuple, variables: Sequence[tf.Variable], grads: Sequence[Any]
    ) -> _Plan:
        groups: dict[tuple[tf.DType, str], _Group] = {}
        unserved: dict[str, list[int]] = {}
        seen: set[int] = set()
        for position, (variable, grad) in enumerate(zip(variables, grads)):
            reason = _why_not_served(variable, grad, seen)
            if reason is not None:
                unserved.setdefault(reason, []).append(position)
                continue
            group = groups.setdefault((variable.dtype, variable.device), _Group(variable.dtype))
            accum, accum_update = self._slots(variable)
            group.positions.append(position)
            group.variables.append(variable.handle)
            group.accums.append(accum.handle)
            group.accum_updates.append(accum_update.handle)
        for reason, positions in unserved.items():
            name = variables[positions[0]].name.removesuffix(":0")
            others = f" (and {len(positions) - 1} more)" if len(positions) > 1 else ""
            self._report(reason, f"'{name}'{others} ")
        positions = sorted(itertools.chain.from_iterable(unserved.values()))
        return _Plan(key, list(variables), list(groups.values()), positions)

    def _report(self, reason: str, subject: str = "") -> None:
        message = (
            f"tf_adadelta: optimizer '{self._name}' takes the stock update, which is correct but "
            f"not fused: {subject}{reason}."
        )
        if os.environ.get("TF_ADADELTA_STRICT") == "1":
            raise RuntimeError(f"{message} (An error because TF_ADADELTA_STRICT=1.)")
        if reason not in self._warned:
            self._warned.add(reason)
            warnings.warn(message, stacklevel=2)


def _why_none_is_served() -> str | None:
    if tf.distribute.has_strategy():
        strategy = type(tf.distribute.get_strategy()).__name__
        return f"it runs under the distribution strategy {strategy}"
    if not _XLA and control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return "jit_compile=True needs TensorFlow 2.20 or newer"
    return None


def _why_not_served(variable: Any, grad: Any, seen: set[int]) -> str | None:
    if not isinstance(variable, tf.Variable) or not hasattr(variable, "handle"):
        return f"is a {type(variable).__name__}, not a plain resource variable"
    if id(variable) in seen:
        return "appears twice in one step"
    seen.add(id(variable))
    if isinstance(grad, tf.IndexedSlices):
        return "has a sparse gradient (tf.IndexedSlices)"
    if variable.dtype not in ops.DTYPES:
        return f"has dtype {variable.dtype.name}"
    device = tf.DeviceSpec.from_string(variable.device).device_type
    return None if device in _DEVICE_TYPES else _no_kernel_for(device)


def _no_kernel_for(device: str) -> str:
    reason = f"is on a device of type {device}, for which tf_adadelta has no kernel"
    return f"{reason}: rebuild it with CUDA, `{REBUILD_WITH_CUDA}`" if device == "GPU" else reason


def _as_dtype(grad: Any, dtype: tf.DType) -> tf.Tensor:
    return grad if isinstance(grad, tf.Tensor) and grad.dtype == dtype else tf.cast(grad, dtype)
