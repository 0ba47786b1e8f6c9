"""Hands the variables of an optimizer to the fused ops, and says why not the others."""

import copy
import dataclasses
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_adadelta import _apply, _replicas
from tf_adadelta._clocks import RowClock
from tf_adadelta._plan import Group, Plan, Planner, Slots
from tf_adadelta._rounding import StochasticRounding
from tf_adadelta._slices import with_tensor_indices
from tf_adadelta._step_options import PLAIN, StepOptions
from tf_adadelta._support import why_none_is_served

SPARSE_UPDATES = ("exact", "lazy")

Hyperparameters = Callable[[str, tf.DType], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class StockUpdate:
    """What the stock update makes of a sparse gradient.

    Attributes:
        sparse_update: "exact" or "lazy", as the optimizers have it.
        sums_duplicates: Whether rows of equal indices are summed before they are squared.
    """

    sparse_update: str
    sums_duplicates: bool = True

    def differences(self, sparse_update: str) -> str:
        """Returns sentences on how its results differ from those of ours."""
        sentences = []
        if self.sparse_update != sparse_update:
            sentences.append(
                "rows without a gradient decay in both averages, where sparse_update='lazy' leaves "
                "them as they are"
                if sparse_update == "lazy"
                else "rows without a gradient stay as they are, where sparse_update='exact' lets "
                "both averages decay"
            )
        if not self.sums_duplicates:
            sentences.append(
                "rows of equal indices, as several replicas may have, are squared one by one, "
                "where ours are summed first"
            )
        return "; ".join(sentences)


class Dispatcher:
    """Applies the fused ops to what they serve and hands back the rest.

    Args:
        name: The name of the optimizer, for its warnings.
        slots: Returns the pair (accum, accum_update) of a variable.
        sparse_update: "exact", where a sparse gradient has the result of the dense one, or "lazy",
            where rows without a gradient do not change.
        stock: What the update does that takes the rest.
        on_clock: As `Planner` has it.
        rounding: What is rounded stochastically; None: nothing is.

    Attributes:
        planner: Decides which variables go together into one call of an op.

    Raises:
        ValueError: `sparse_update` is neither.
    """

    def __init__(
        self,
        name: str,
        slots: Callable[[tf.Variable], Slots],
        sparse_update: str,
        stock: StockUpdate,
        on_clock: Callable[[tf.Variable, RowClock], None] | None = None,
        rounding: StochasticRounding | None = None,
    ) -> None:
        if sparse_update not in SPARSE_UPDATES:
            raise ValueError(f"sparse_update is {sparse_update!r}, expected 'exact' or 'lazy'")
        self._name = name
        self._sparse_update = sparse_update
        self._stock = stock
        self._rounding = rounding
        self.planner = Planner(slots, sparse_update, on_clock)
        self._warned: set[str] = set()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Dispatcher":
        copied = copy.copy(self)
        copied.planner = copy.deepcopy(self.planner, memo)
        copied._rounding = copy.deepcopy(self._rounding, memo)
        copied._warned = set(self._warned)
        return copied

    def apply(
        self,
        variables: Sequence[tf.Variable],
        grads: Sequence[Any],
        hyperparameters: Hyperparameters,
        options: StepOptions = PLAIN,
    ) -> tuple[list[tf.Operation], list[int]]:
        """Updates the variables that the ops serve, or, with options, all or none.

        Variables with replicas are updated on each: where a strategy wants it, in the context that
        its `merge_call` gives, with gradients that have been summed over the replicas.

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
            RuntimeError: There are others, and TF_ADADELTA_STRICT=1, or something of them was to be
                rounded stochastically.
        """
        if not variables:
            return [], []
        all_positions = range(len(variables))
        reason = why_none_is_served()
        if reason is not None:
            self._report(reason, "", variables, grads)
            return [], list(all_positions)
        grads = list(map(with_tensor_indices, grads))
        if self._leaves_rows_alone(variables, grads, options):
            return [], list(all_positions)  # No op has both kinds of rows.
        plan = self.planner.plan(variables, grads, options)
        self._report_unserved(plan, grads)
        if options is not PLAIN and (
            plan.unserved or any(group.replicated for group in plan.groups)
        ):
            return [], list(all_positions)
        for clock in plan.lagging:
            clock.catch_up()
        for group in plan.groups:
            for clock in group.clocks:
                clock.set_rho(hyperparameters(group.devices[0], group.dtype)["rho"])
        given = [[grads[position] for position in group.positions] for group in plan.groups]
        if options is PLAIN:
            results = [
                result
                for group, group_grads in zip(plan.groups, given)
                for result in self._apply_everywhere(group, group_grads, hyperparameters)
            ]
        else:
            results = self._apply_with_options(plan.groups, given, hyperparameters, options)
        operations = [result for result in results if result is not None]
        return operations, plan.unserved_positions()

    def _apply_everywhere(
        self, group: Group, grads: list[Any], hyperparameters: Hyperparameters
    ) -> list[tf.Operation | None]:
        def apply_here(device: str, grads: list[Any]) -> tf.Operation | None:
            taken = _apply.grads_of(group, grads, PLAIN)
            return _apply.apply_group(
                group, taken, None, hyperparameters(device, group.dtype), PLAIN, self._rounding
            )

        return _replicas.update(group.variables[0], apply_here, (grads,))

    def _apply_with_options(
        self,
        groups: Sequence[Group],
        given: Sequence[list[Any]],
        hyperparameters: Hyperparameters,
        options: StepOptions,
    ) -> list[tf.Operation | None]:
        taken = [_apply.grads_of(*ones, options) for ones in zip(groups, given)]
        factors = options.grad_factors(
            [len(group.positions) for group in groups],
            lambda: [_apply.squared_norms(*ones, options) for ones in zip(groups, given, taken)],
        )
        return [
            _apply.apply_group(
                group,
                grads,
                factor,
                hyperparameters(group.devices[0], group.dtype),
                options,
                self._rounding,
            )
            for group, grads, factor in zip(groups, taken, factors)
        ]

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

    def _report_unserved(self, plan: Plan, grads: Sequence[Any]) -> None:
        for reason, positions in plan.unserved.items():
            name = plan.variables[positions[0]].name.removesuffix(":0")
            others = f" (and {len(positions) - 1} more)" if len(positions) > 1 else ""
            unserved = [plan.variables[i] for i in positions]
            self._report(reason, f"'{name}'{others} ", unserved, [grads[i] for i in positions])

    def _report(
        self,
        reason: str,
        subject: str,
        variables: Sequence[tf.Variable],
        grads: Sequence[Any],
    ) -> None:
        if self._rounding is not None and any(map(self._rounding.rounds, variables)):
            raise RuntimeError(
                f"tf_adadelta: optimizer '{self._name}' cannot round stochastically, as only the "
                f"fused update does: {subject}{reason}."
            )
        differences = ""
        if any(isinstance(_replicas.components(grad)[0], tf.IndexedSlices) for grad in grads):
            differences = self._stock.differences(self._sparse_update)
        message = (
            f"tf_adadelta: optimizer '{self._name}' takes the stock update, which is "
            f"{'not' if differences else 'correct but not'} fused: {subject}{reason}."
        )
        if differences:
            message += f" For sparse gradients it gives other results: {differences}."
        if os.environ.get("TF_ADADELTA_STRICT") == "1":
            raise RuntimeError(f"{message} (An error because TF_ADADELTA_STRICT=1.)")
        if (key := reason + differences) not in self._warned:
            self._warned.add(key)
            warnings.warn(message, stacklevel=2)
