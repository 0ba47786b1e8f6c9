"""Which variables of a step go together into one call of an op."""

import copy
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_adadelta import _replicas
from tf_adadelta._clocks import RowClock
from tf_adadelta._step_options import StepOptions
from tf_adadelta._support import why_not_served

Slots = tuple[tf.Variable, tf.Variable]


class Handles(NamedTuple):
    """The resources of a call of an op."""

    variables: list[tf.Tensor]
    accums: list[tf.Tensor]
    accum_updates: list[tf.Tensor]
    clocks: list[tf.Tensor]
    averages: list[tf.Tensor]
    grad_accums: list[tf.Tensor]


@dataclasses.dataclass
class Group:
    """Variables and slots of one dtype each in one place, with gradients of one kind: one call.

    Attributes:
        devices: Where they are: a device for each replica.
        replicated: Whether each replica has its own.
        dtype: Of the variables.
        slot_dtype: Of what is stored for their slots.
        index_dtype: Of the indices of the gradients; None: as dense gradients.
        decayed: By the weight decay of the optimizer.
        positions: Of the variables in the step.
        variables: The variables, and in the same order what belongs to them.
        accums: Their slots.
        accum_updates: Likewise.
        clocks: Of all or of none.
        averages: Likewise.
        grad_accums: Likewise.
        shapes: Of the variables.
    """

    devices: tuple[str, ...]
    replicated: bool
    dtype: tf.DType
    slot_dtype: tf.DType
    index_dtype: tf.DType | None
    decayed: bool
    positions: list[int] = dataclasses.field(default_factory=list)
    variables: list[tf.Variable] = dataclasses.field(default_factory=list)
    accums: list[tf.Variable] = dataclasses.field(default_factory=list)
    accum_updates: list[tf.Variable] = dataclasses.field(default_factory=list)
    clocks: list[RowClock] = dataclasses.field(default_factory=list)
    averages: list[tf.Variable] = dataclasses.field(default_factory=list)
    grad_accums: list[tf.Variable] = dataclasses.field(default_factory=list)
    shapes: list[tf.TensorShape] = dataclasses.field(default_factory=list)
    _handles: Handles | None = None

    def handles(self) -> Handles:
        """Returns the handles of the variables; of replicated ones, those of the replica here."""
        if self._handles is not None:
            return self._handles
        lists = (
            self.variables,
            self.accums,
            self.accum_updates,
            [clock.counts for clock in self.clocks],
            self.averages,
            self.grad_accums,
        )
        handles = Handles(*([variable.handle for variable in each] for each in lists))
        if not self.replicated:
            self._handles = handles
        return handles


@dataclasses.dataclass
class Plan:
    """Which positions of a list of variables go where.

    Attributes:
        variables: The variables, kept alive because their ids are the key of the plan.
        groups: Those that the ops serve.
        lagging: The clocks of variables that take the dense update, from sparse ones before.
        unserved: The positions of the others, by what keeps them from the ops.
    """

    variables: list[tf.Variable]
    groups: list[Group]
    lagging: list[RowClock]
    unserved: dict[str, list[int]]

    def unserved_positions(self) -> list[int]:
        """The positions of all variables that the ops do not serve, in order."""
        return sorted(itertools.chain.from_iterable(self.unserved.values()))


class Planner:
    """Makes plans, and keeps the clocks of the variables that have had a sparse gradient.

    Args:
        slots: Returns the pair (accum, accum_update) of a variable.
        sparse_update: "exact", where a sparse gradient has the result of the dense one, or "lazy",
            where rows without a gradient do not change.
        on_clock: For slots whose rows may lag behind: called with a variable and its clock when its
            first sparse gradient comes. None: the slots are what everybody sees, so that "exact"
            takes the dense update.
    """

    def __init__(
        self,
        slots: Callable[[tf.Variable], Slots],
        sparse_update: str,
        on_clock: Callable[[tf.Variable, RowClock], None] | None,
    ) -> None:
        self._slots = slots
        self._sparse_update = sparse_update
        self._on_clock = on_clock
        self._clocks: dict[Any, RowClock] = {}  # By variable.ref().
        self._in_graphs: set[Any] = set()  # Likewise: see keep_up_to_date.
        # By the first variable: a replica, or a variable by itself, has plans of its own.
        self._plans: dict[int, tuple[tuple, Plan]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Planner":
        # A plan holds slots; those of a copied optimizer are others.
        slots, on_clock = copy.deepcopy((self._slots, self._on_clock), memo)
        return Planner(slots, self._sparse_update, on_clock)

    def keep_up_to_date(self, variable: tf.Variable) -> None:
        """Never lets the slots of a variable lag from now on, if they have not begun to.

        For a graph that takes them as they are stored: it may run again after a sparse gradient.
        """
        if variable.ref() not in self._clocks:
            self._in_graphs.add(variable.ref())

    def catch_up(self) -> None:
        """Brings all slots up to date that nobody else is updating."""
        for clock in self._clocks.values():
            if not clock.shared:
                clock.catch_up()

    def forget_plan(self) -> None:
        """Asks the options anew which variables they are for."""
        self._plans = {}

    def forget_slots(self) -> None:
        """Asks for the slots anew, of which no row lags behind."""
        self.forget_plan()
        self._clocks = {}
        self._in_graphs = set()

    def plan(
        self, variables: Sequence[tf.Variable], grads: Sequence[Any], options: StepOptions
    ) -> Plan:
        """Returns the plan for a step."""
        # A plan holds only as long as every gradient is of the same kind, dense or sparse.
        index_dtypes = list(map(_index_dtype, grads))
        key = (
            tf.executing_eagerly(),
            options.structure(),
            *map(id, variables),
            *((i, dtype) for i, dtype in enumerate(index_dtypes) if dtype is not None),
        )
        known_key, plan = self._plans.get(id(variables[0]), (None, None))
        if known_key == key:
            return plan
        plan = self._make(variables, index_dtypes, options)
        self._plans[id(variables[0])] = (key, plan)
        return plan

    def _make(
        self,
        variables: Sequence[tf.Variable],
        index_dtypes: Sequence[tf.DType | None],
        options: StepOptions,
    ) -> Plan:
        groups: dict[tuple, Group] = {}
        plan = Plan(list(variables), [], [], {})
        seen: set[int] = set()
        for position, (variable, index_dtype) in enumerate(zip(variables, index_dtypes)):
            reason = why_not_served(variable)
            if reason is None and id(variable) in seen:
                reason = "appears twice in one step"
            seen.add(id(variable))
            replicated = _replicas.is_replicated(variable)
            slots = None if reason else self._slots(variable)
            if slots and _replicas.is_replicated(slots[0]) != replicated:
                reason = "has replicas, but its slots were made outside of their strategy's scope"
            if reason is not None:
                plan.unserved.setdefault(reason, []).append(position)
                continue
            clock, index_dtype = self._kind(variable, slots, index_dtype, options)
            place = tuple(part.device for part in _replicas.components(variable))
            kind = (
                place,
                replicated,
                variable.dtype,
                slots[0].dtype,
                index_dtype,
                options.decays(variable),
            )
            if index_dtype is None and clock is not None:
                plan.lagging.append(clock)
                clock = None
            group = groups.setdefault((*kind, clock is None), Group(*kind))
            group.positions.append(position)
            group.variables.append(variable)
            group.accums.append(slots[0])
            group.accum_updates.append(slots[1])
            group.shapes.append(variable.shape)
            if clock is not None:
                group.clocks.append(clock)
            if options.average_of is not None:
                group.averages.append(options.average_of(variable))
            if options.grad_accum_of is not None:
                group.grad_accums.append(options.grad_accum_of(variable))
        plan.groups = list(groups.values())
        return plan

    def _kind(
        self,
        variable: tf.Variable,
        slots: Slots,
        index_dtype: tf.DType | None,
        options: StepOptions,
    ) -> tuple[RowClock | None, tf.DType | None]:
        """Returns the clock and the dtype of the indices for the update of a variable."""
        # Changes in rows without a gradient take the dense update, where there is one.
        touches_all = options.touches_all_rows(variable)
        sparse = index_dtype is not None and not touches_all
        if self._sparse_update == "lazy":
            return None, index_dtype if sparse else None
        if self._on_clock is None:
            return None, None
        clock = self._clocks.get(variable.ref())
        if not _replicas.can_create() or (not sparse and not tf.executing_eagerly()):
            self.keep_up_to_date(variable)
        if clock is None and sparse and variable.ref() not in self._in_graphs:
            clock = self._clocks[variable.ref()] = RowClock(variable, slots)
            self._on_clock(variable, clock)
        if clock is None:
            return None, None
        if touches_all:
            return clock, None
        return clock, index_dtype if sparse else tf.int64


def _index_dtype(grad: Any) -> tf.DType | None:
    """Returns the dtype of the indices of a gradient, None if it has none."""
    if _replicas.is_replicated(grad):
        grad = _replicas.components(grad)[0]
    return grad.indices.dtype if isinstance(grad, tf.IndexedSlices) else None
