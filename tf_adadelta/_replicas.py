"""Variables that a `tf.distribute` strategy keeps on several devices or on other machines."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute import distribute_lib


def is_replicated(value: Any) -> bool:
    """Whether a variable or gradient has a component for each replica."""
    return isinstance(value, tf.distribute.DistributedValues)


def is_on_server(variable: tf.Variable) -> bool:
    """Whether a variable is on a parameter server."""
    return tf.DeviceSpec.from_string(variable.device).job == "ps"


def components(value: Any) -> tuple[Any, ...]:
    """Returns what each replica of this process has of a variable or gradient."""
    return tuple(value.values) if is_replicated(value) else (value,)


def update(
    variable: tf.Variable,
    fn: Callable[..., Any],
    args: Sequence[Any] = (),
) -> list[Any]:
    """Calls a function where a variable is: once for each of its replicas, or for itself.

    Inside, the handle and the value of a replicated variable are those of that replica.

    Args:
        variable: The variable.
        fn: Called with the device, and with `args`, of which replicated values are those of the
            replica.
        args: Nests of values.

    Returns:
        What the calls returned.
    """
    strategy = tf.distribute.get_strategy()
    if not tf.distribute.has_strategy():
        if not is_replicated(variable):
            return [fn(variable.device, *args)]
        strategy = variable.distribute_strategy  # Outside of its scope.
    elif tf.distribute.get_replica_context() or distribute_lib.get_update_replica_id() is not None:
        # On a replica already, or in the middle of such a call.
        with tf.device(variable.device):
            return [fn(variable.device, *args)]

    @tf.autograph.experimental.do_not_convert
    def update_component(component: tf.Variable, *args: Any) -> Any:
        return fn(component.device, *args)

    return tf.nest.flatten(
        strategy.extended.update(variable, update_component, args=tuple(args), group=False)
    )


def replica_of_update() -> int | None:
    """Returns the replica that a strategy is updating, None if it updates what all share."""
    replica = distribute_lib.get_update_replica_id()
    return replica if isinstance(replica, int) else None  # Elsewhere, a variable or a device.


def can_create() -> bool:
    """Whether variables can be created now.

    Not on one of the replicas, where a strategy leaves them by themselves: on GPUs, under XLA.
    """
    return not tf.distribute.has_strategy() or tf.distribute.in_cross_replica_context()


def create_beside(variable: tf.Variable, create: Callable[[], tf.Variable]) -> tf.Variable:
    """Creates a variable that is replicated and placed as another one is.

    It outlives a graph that is being traced.
    """
    strategy = tf.distribute.get_strategy()
    if is_replicated(variable):
        strategy = variable.distribute_strategy
    elif not tf.distribute.has_strategy():
        with tf.init_scope(), tf.device(variable.device):
            return create()
    with tf.init_scope(), strategy.scope(), strategy.extended.colocate_vars_with(variable):
        return create()
