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
from tf_adadelta._clocks import RowClock, as_slices, as_tensor, convert

SPARSE_UPDATES = ("exact", "lazy")
_DEVICE_TYPES = ("CPU", "GPU") if build_info()["cuda"] else ("CPU",)
_XLA = build_info()["xla"]

Slots = tuple[tf.Variable, tf.Variable]


@dataclasses.dataclass
class _Group:
    """Variables of one dtype on one device with gradients of one kind: one call of an op."""

    dtype: tf.DType
    index_dtype: tf.DType | None  # None: dense gradients.
    positions: list[int] = dataclasses.field(default_factory=list)
    variables: list[tf.Tensor] = dataclasses.field(default_factory=list)
    accums: list[tf.Tensor] = dataclasses.field(default_factory=list)
    accum_updates: list[tf.Tensor] = dataclasses.field(default_factory=list)
    clocks: list[tf.Tensor] = dataclasses.field(default_factory=list)  # Empty: none has one.
    rows: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class _Plan:
    """Which positions of a list of variables go where."""

    key: tuple
    variables: list[tf.Variable]  # Kept alive: their ids are the key.
    groups: list[_Group]
    clocks: list[RowClock]
    unserved: list[int]


class Dispatcher:
    """Applies the fused op to what it serves and hands back the rest.

    Args:
        name: The name of the optimizer, for its warnings.
        slots: Returns the pair (accum, accum_update) of a variable.
        sparse_update: "exact", where a sparse gradient has the result of the dense one, or "lazy",
            where rows without a gradient do not change.
        on_clock: Called with a variable and its clock when its first sparse gradient comes.
    """

    def __init__(
        self,
        name: str,
        slots: Callable[[tf.Variable], Slots],
        sparse_update: str,
        on_clock: Callable[[tf.Variable, RowClock], None],
    ) -> None:
        if sparse_update not in SPARSE_UPDATES:
            raise ValueError(f"sparse_update is {sparse_update!r}, expected 'exact' or 'lazy'")
        self._name = name
        self._slots = slots
        self._exact = sparse_update == "exact"
        self._on_clock = on_clock
        self._clocks: dict[Any, RowClock] = {}  # By variable.ref().
        self._in_graphs: set[Any] = set()  # Likewise: see keep_up_to_date.
        self._plan: _Plan | None = None
        self._warned: set[str] = set()

    def keep_up_to_date(self, variable: tf.Variable) -> None:
        """Never lets the slots of a variable lag from now on, if they have not begun to.

        For a graph that takes them as they are stored: it may run again after a sparse gradient.
        """
        if variable.ref() not in self._clocks:
            self._in_graphs.add(variable.ref())

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
        grads = list(map(convert, grads))
        plan = self._plan_for(variables, grads, rho)
        if plan.groups:
            hyperparameters = {
                "learning_rate": ops.as_hyperparameter(learning_rate),
                "rho": ops.as_hyperparameter(rho),
                "epsilon": ops.as_hyperparameter(epsilon),
            }
        for clock in plan.clocks:
            clock.set_rho(rho)
        for group in plan.groups:
            values = [grads[position] for position in group.positions]
            slots = (group.accums, group.accum_updates)
            if group.index_dtype is None:
                values = [
                    _as_dtype(as_tensor(*pair), group.dtype) for pair in zip(values, group.rows)
                ]
                ops.apply_handles(group.variables, *slots, values, **hyperparameters)
                continue
            slices = [as_slices(*pair) for pair in zip(values, group.rows)]
            ops.sparse_apply_handles(
                group.variables,
                *slots,
                group.clocks,
                [_as_dtype(grad.values, group.dtype) for grad in slices],
                [grad.indices for grad in slices],
                **hyperparameters,
            )
        return plan.unserved

    def _plan_for(
        self, variables: Sequence[tf.Variable], grads: Sequence[Any], rho: float
    ) -> _Plan:
        # A plan holds only as long as every gradient is of the same kind, dense or sparse.
        key = (
            tf.executing_eagerly(),
            *map(id, variables),
            *(
                (i, grad.indices.dtype)
                for i, grad in enumerate(grads)
                if isinstance(grad, tf.IndexedSlices)
            ),
        )
        if self._plan is None or self._plan.key != key:
            self._plan = self._make_plan(key, variables, grads, rho)
        return self._plan

    def _make_plan(
        self, key: tuple, variables: Sequence[tf.Variable], grads: Sequence[Any], rho: float
    ) -> _Plan:
        groups: dict[tuple, _Group] = {}
        clocks: list[RowClock] = []
        unserved: dict[str, list[int]] = {}
        seen: set[int] = set()
        for position, (variable, grad) in enumerate(zip(variables, grads)):
            reason = _why_not_served(variable, grad, seen)
            if reason is not None:
                unserved.setdefault(reason, []).append(position)
                continue
            slots = self._slots(variable)
            clock, index_dtype = self._kind(variable, slots, grad, rho)
            key = (variable.dtype, variable.device, index_dtype, clock is None)
            group = groups.setdefault(key, _Group(variable.dtype, index_dtype))
            group.positions.append(position)
            group.variables.append(variable.handle)
            group.accums.append(slots[0].handle)
            group.accum_updates.append(slots[1].handle)
            group.rows.append(variable.shape[0] if variable.shape.rank else 1)
            if clock is not None:
                clocks.append(clock)
                group.clocks.append(clock.counts.handle)
        for reason, positions in unserved.items():
            name = variables[positions[0]].name.removesuffix(":0")
            others = f" (and {len(positions) - 1} more)" if len(positions) > 1 else ""
            self._report(reason, f"'{name}'{others} ")
        positions = sorted(itertools.chain.from_iterable(unserved.values()))
        return _Plan(key, list(variables), list(groups.values()), clocks, positions)

    def _kind(
        self, variable: tf.Variable, slots: Slots, grad: Any, rho: float
    ) -> tuple[RowClock | None, tf.DType | None]:
        """Returns the clock and the dtype of the indices for the update of a variable."""
        sparse = isinstance(grad, tf.IndexedSlices)
        if not self._exact:
            return None, grad.indices.dtype if sparse else None
        clock = self._clocks.get(variable.ref())
        if clock is None and not sparse and not tf.executing_eagerly():
            self.keep_up_to_date(variable)
        if clock is None and sparse and variable.ref() not in self._in_graphs:
            clock = self._clocks[variable.ref()] = RowClock(variable, slots, rho)
            self._on_clock(variable, clock)
        if clock is None:
            return None, None
        return clock, grad.indices.dtype if sparse else tf.int64

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
    if variable.dtype not in ops.DTYPES:
        return f"has dtype {variable.dtype.name}"
    device = tf.DeviceSpec.from_string(variable.device).device_type
    if device not in _DEVICE_TYPES:
        reason = f"is on a device of type {device}, for which tf_adadelta has no kernel"
        if device == "GPU":
            reason += f"; rebuild it with CUDA ({REBUILD_WITH_CUDA})"
        return reason
    return None


def _as_dtype(grad: Any, dtype: tf.DType) -> tf.Tensor:
    return grad if isinstance(grad, tf.Tensor) and grad.dtype == dtype else tf.cast(grad, dtype)
