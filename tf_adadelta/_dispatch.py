"""Decides which variables of an optimizer go to the fused ops, and says why the others do not."""

import copy
import dataclasses
import itertools
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from tf_adadelta import ops
from tf_adadelta._build_info import REBUILD_WITH_CUDA, build_info
from tf_adadelta._clocks import RowClock
from tf_adadelta._slices import as_slices, as_tensor, sum_duplicates, with_tensor_indices
from tf_adadelta._step_options import PLAIN, StepOptions

SPARSE_UPDATES = ("exact", "lazy")
_DEVICE_TYPES = ("CPU", "GPU") if build_info()["cuda"] else ("CPU",)
_XLA = build_info()["xla"]

Slots = tuple[tf.Variable, tf.Variable]
Hyperparameters = Callable[[str, tf.DType], Mapping[str, Any]]


@dataclasses.dataclass
class _Group:
    """Variables of one dtype on one device with gradients of one kind: one call of an op."""

    device: str
    dtype: tf.DType
    index_dtype: tf.DType | None  # None: as dense gradients.
    decayed: bool  # By the weight decay of the optimizer.
    positions: list[int] = dataclasses.field(default_factory=list)
    variables: list[tf.Tensor] = dataclasses.field(default_factory=list)
    accums: list[tf.Tensor] = dataclasses.field(default_factory=list)
    accum_updates: list[tf.Tensor] = dataclasses.field(default_factory=list)
    clocks: list[RowClock] = dataclasses.field(default_factory=list)  # Of all or of none.
    averages: list[tf.Tensor] = dataclasses.field(default_factory=list)  # Likewise.
    grad_accums: list[tf.Tensor] = dataclasses.field(default_factory=list)  # Likewise.
    shapes: list[tf.TensorShape] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class _Plan:
    """Which positions of a list of variables go where."""

    key: tuple
    variables: list[tf.Variable]  # Kept alive: their ids are the key.
    groups: list[_Group]
    lagging: list[RowClock]  # Of variables that take the dense update, from sparse ones before.
    unserved: list[int]


class Dispatcher:
    """Applies the fused ops to what they serve and hands back the rest.

    Args:
        name: The name of the optimizer, for its warnings.
        slots: Returns the pair (accum, accum_update) of a variable.
        sparse_update: "exact", where a sparse gradient has the result of the dense one, or "lazy",
            where rows without a gradient do not change.
        on_clock: For slots whose rows may lag behind: called with a variable and its clock when its
            first sparse gradient comes. None: the slots are what everybody sees, so that "exact"
            takes the dense update.

    Raises:
        ValueError: `sparse_update` is neither.
    """

    def __init__(
        self,
        name: str,
        slots: Callable[[tf.Variable], Slots],
        sparse_update: str,
        on_clock: Callable[[tf.Variable, RowClock], None] | None = None,
    ) -> None:
        if sparse_update not in SPARSE_UPDATES:
            raise ValueError(f"sparse_update is {sparse_update!r}, expected 'exact' or 'lazy'")
        self._name = name
        self._slots = slots
        self._sparse_update = sparse_update
        self._on_clock = on_clock
        self._clocks: dict[Any, RowClock] = {}  # By variable.ref().
        self._in_graphs: set[Any] = set()  # Likewise: see keep_up_to_date.
        self._plan: _Plan | None = None
        self._warned: set[str] = set()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Dispatcher":
        # A plan holds the handles of the slots; those of a copied optimizer are others.
        slots, on_clock = copy.deepcopy((self._slots, self._on_clock), memo)
        return Dispatcher(self._name, slots, self._sparse_update, on_clock)

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
        hyperparameters: Hyperparameters,
        options: StepOptions = PLAIN,
    ) -> tuple[list[tf.Operation], list[int]]:
        """Updates the variables that the ops serve, or, with options, all or none.

        Args:
            variables: The variables of one step.
            grads: Their gradients.
            hyperparameters: Called with a device and a dtype; returns `learning_rate`, `rho` and
                `epsilon`, scalars, for the variables of that dtype there.
            options: What is done around the update.

        Returns:
            The operations that update, in a graph (none in eager execution), and the positions of
            the variables that are left to the stock update.

        Raises:
            RuntimeError: There are others, and TF_ADADELTA_STRICT=1.
        """
        all_positions = range(len(variables))
        reason = why_none_is_served()
        if reason is not None:
            self._report(reason)
            return [], list(all_positions)
        grads = list(map(with_tensor_indices, grads))
        if self._leaves_rows_alone(variables, grads, options):
            return [], list(all_positions)  # No op has both kinds of rows.
        plan = self._plan_for(variables, grads, options)
        if plan.unserved and options is not PLAIN:
            return [], list(all_positions)
        for clock in plan.lagging:
            clock.catch_up()
        given = [[grads[position] for position in group.positions] for group in plan.groups]
        taken = [_grads_of(*ones, options) for ones in zip(plan.groups, given)]
        factors = options.grad_factors(
            [len(group.positions) for group in plan.groups],
            lambda: [_squared_norms(*ones, options) for ones in zip(plan.groups, given, taken)],
        )
        operations = []
        for group, group_grads, factor in zip(plan.groups, taken, factors):
            values = hyperparameters(group.device, group.dtype)
            operation = _apply_group(group, group_grads, factor, values, options)
            if operation is not None:
                operations.append(operation)
        return operations, plan.unserved

    def forget_plan(self) -> None:
        """Asks the options anew which variables they are for."""
        self._plan = None

    def _leaves_rows_alone(
        self, variables: Sequence[tf.Variable], grads: Sequence[Any], options: StepOptions
    ) -> bool:
        """Whether some rows are to be left alone by the update, but not by what is around it."""
        return (
            self._sparse_update == "lazy"
            and options.grad_accum_of is None
            and any(
                isinstance(grad, tf.IndexedSlices) and options.touches_all_rows(variable)
                for variable, grad in zip(variables, grads)
            )
        )

    def _plan_for(
        self, variables: Sequence[tf.Variable], grads: Sequence[Any], options: StepOptions
    ) -> _Plan:
        # A plan holds only as long as every gradient is of the same kind, dense or sparse.
        key = (
            tf.executing_eagerly(),
            options.structure(),
            *map(id, variables),
            *(
                (i, grad.indices.dtype)
                for i, grad in enumerate(grads)
                if isinstance(grad, tf.IndexedSlices)
            ),
        )
        if self._plan is None or self._plan.key != key:
            self._plan = self._make_plan(key, variables, grads, options)
        return self._plan

    def _make_plan(
        self,
        key: tuple,
        variables: Sequence[tf.Variable],
        grads: Sequence[Any],
        options: StepOptions,
    ) -> _Plan:
        groups: dict[tuple, _Group] = {}
        unserved: dict[str, list[int]] = {}
        lagging: list[RowClock] = []
        seen: set[int] = set()
        for position, (variable, grad) in enumerate(zip(variables, grads)):
            reason = _why_not_served(variable, seen)
            if reason is not None:
                unserved.setdefault(reason, []).append(position)
                continue
            slots = self._slots(variable)
            clock, index_dtype = self._kind(variable, slots, grad, options)
            kind = (variable.device, variable.dtype, index_dtype, options.decays(variable))
            if index_dtype is None and clock is not None:
                lagging.append(clock)
                clock = None
            group = groups.setdefault((*kind, clock is None), _Group(*kind))
            group.positions.append(position)
            group.variables.append(variable.handle)
            group.accums.append(slots[0].handle)
            group.accum_updates.append(slots[1].handle)
            group.shapes.append(variable.shape)
            if clock is not None:
                group.clocks.append(clock)
            if options.average_of is not None:
                group.averages.append(options.average_of(variable).handle)
            if options.grad_accum_of is not None:
                group.grad_accums.append(options.grad_accum_of(variable).handle)
        for reason, positions in unserved.items():
            name = variables[positions[0]].name.removesuffix(":0")
            others = f" (and {len(positions) - 1} more)" if len(positions) > 1 else ""
            self._report(reason, f"'{name}'{others} ")
        positions = sorted(itertools.chain.from_iterable(unserved.values()))
        return _Plan(key, list(variables), list(groups.values()), lagging, positions)

    def _kind(
        self, variable: tf.Variable, slots: Slots, grad: Any, options: StepOptions
    ) -> tuple[RowClock | None, tf.DType | None]:
        """Returns the clock and the dtype of the indices for the update of a variable."""
        # Changes in rows without a gradient take the dense update, where there is one.
        touches_all = options.touches_all_rows(variable)
        sparse = isinstance(grad, tf.IndexedSlices) and not touches_all
        if self._sparse_update == "lazy":
            return None, grad.indices.dtype if sparse else None
        if self._on_clock is None:
            return None, None
        clock = self._clocks.get(variable.ref())
        if not sparse and not tf.executing_eagerly():
            self.keep_up_to_date(variable)
        if clock is None and sparse and variable.ref() not in self._in_graphs:
            clock = self._clocks[variable.ref()] = RowClock(variable, slots)
            self._on_clock(variable, clock)
        if clock is None:
            return None, None
        if touches_all:
            return clock, None
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


def _grads_of(group: _Group, grads: Sequence[Any], options: StepOptions) -> list[Any]:
    """Returns the gradients of a group as its op takes them."""
    if group.index_dtype is None:
        return [_as_dtype(as_tensor(g, s), group.dtype) for g, s in zip(grads, group.shapes)]
    slices = [as_slices(grad, shape) for grad, shape in zip(grads, group.shapes)]
    if options.clips():
        slices = list(map(sum_duplicates, slices))
    return [tf.IndexedSlices(_as_dtype(g.values, group.dtype), g.indices) for g in slices]


def _squared_norms(
    group: _Group, grads: Sequence[Any], taken: Sequence[Any], options: StepOptions
) -> tf.Tensor:
    """Returns the squared norms of the gradients of a group, as they were given and are taken."""
    if options.known_norms is not None and not group.grad_accums:
        known = options.known_norms.squared_norms(grads)
        if known is not None:
            return known * options.grad_scale**2
    tensors = [grad.values if isinstance(grad, tf.IndexedSlices) else grad for grad in taken]
    return ops.squared_norms_of_handles(
        group.grad_accums, tensors, options.grad_scale, options.update
    )


def _apply_group(
    group: _Group,
    grads: Sequence[Any],
    clip_factors: tf.Tensor | None,
    hyperparameters: Mapping[str, Any],
    options: StepOptions,
) -> tf.Operation | None:
    for clock in group.clocks:
        clock.set_rho(hyperparameters["rho"])
    scalars = {name: ops.as_hyperparameter(value) for name, value in hyperparameters.items()}
    resources = (group.variables, group.accums, group.accum_updates)
    if group.index_dtype is None:
        return ops.apply_handles(
            *resources,
            grads,
            averages=group.averages,
            grad_accums=group.grad_accums,
            **scalars,
            options=ops.Options(
                grad_scale=options.grad_scale,
                update=options.update,
                clip_factors=clip_factors,
                clipvalue=options.clipvalue or math.inf,
                weight_decay=options.weight_decay if group.decayed else 0.0,
                ema_momentum=options.ema_momentum,
            ),
        )
    # Of these rows there are few: they are changed before the op, not in it.
    values = [options.changed(grad.values, clip_factors, i) for i, grad in enumerate(grads)]
    return ops.sparse_apply_handles(
        *resources,
        [clock.counts.handle for clock in group.clocks],
        values,
        [grad.indices for grad in grads],
        **scalars,
    )


def why_none_is_served() -> str | None:
    """Returns what keeps all variables of a step from the ops, None if nothing does."""
    if tf.distribute.has_strategy():
        strategy = type(tf.distribute.get_strategy()).__name__
        return f"it runs under the distribution strategy {strategy}"
    if not _XLA and control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return "jit_compile=True needs TensorFlow 2.20 or newer"
    return None


def _why_not_served(variable: Any, seen: set[int]) -> str | None:
    if not isinstance(variable, tf.Variable) or not hasattr(variable, "handle"):
        return f"is a {type(variable).__name__}, not a plain resource variable"
    if id(variable) in seen:
        return "appears twice in one step"
    seen.add(id(variable))
    if variable.dtype not in ops.DTYPES:
        return f"has dtype {variable.dtype.name}"
    device = _device_type(variable)
    return None if device in _DEVICE_TYPES else _no_kernel_for(device)


def _device_type(variable: tf.Variable) -> str:
    device_type = tf.DeviceSpec.from_string(variable.device).device_type
    return device_type or _default_device_type()  # In a graph that is yet to be placed.


def _default_device_type() -> str:
    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


def device_is_served() -> bool:
    """Whether there are kernels for the device where TensorFlow puts what is put nowhere."""
    return _default_device_type() in _DEVICE_TYPES


def _no_kernel_for(device: str) -> str:
    reason = f"is on a device of type {device}, for which tf_adadelta has no kernel"
    return f"{reason}: rebuild it with CUDA, `{REBUILD_WITH_CUDA}`" if device == "GPU" else reason


def _as_dtype(grad: Any, dtype: tf.DType) -> tf.Tensor:
    return grad if isinstance(grad, tf.Tensor) and grad.dtype == dtype else tf.cast(grad, dtype)
