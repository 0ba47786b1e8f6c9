"""Makes a stock optimizer one of ours, and the other way, at any moment of training."""

from typing import Any

from tf_adadelta._pairs import ADADELTAS, WRAPPERS, Pair
from tf_adadelta._patch import is_stand_in
from tf_adadelta._slot import Slot

# What our classes have besides the attributes of the stock ones.
_OUR_ATTRIBUTES = (
    "sparse_update",
    "_sparse_update",
    "state_dtype",
    "stochastic_rounding",
    "seed",
    "_dispatcher",
    "_step",
    "_pending",
    "_norms",
)


def from_keras(optimizer: Any, *, sparse_update: str | None = None) -> Any:
    """Returns one of ours that goes on where a stock optimizer is.

    It takes over the variables themselves, not copies: averages of squares, iterations, learning
    rate, moving averages, accumulated gradients; and all settings, schedules and callables, and
    which variables are excluded from weight decay. The stock optimizer cannot be used for updates
    afterwards. A model has to be compiled with what is returned.

    Args:
        optimizer: A `keras.optimizers.Adadelta`, or a `keras.optimizers.LossScaleOptimizer` around
            one; a `tf_keras.optimizers.Adadelta`, `tf_keras.optimizers.legacy.Adadelta` or
            `tf.compat.v1.train.AdadeltaOptimizer`. One of ours is returned as it is.
        sparse_update: "exact" or "lazy", as our classes have it. None: their default.

    Returns:
        The optimizer of ours that is a subclass of the given one's class.

    Raises:
        TypeError: It is none of these. A subclass is none either: what it changes would be lost.
        ValueError: `sparse_update` is neither.
        RuntimeError: It has been handed over already.

    Example:
        >>> optimizer = tf_adadelta.from_keras(model.optimizer)
        >>> model.compile(optimizer=optimizer, loss="mse")
    """
    for pair in _imported_pairs():
        if isinstance(optimizer, pair.ours):
            return optimizer
        if type(optimizer) is pair.stock:
            break
    else:
        raise TypeError(
            f"optimizer is a {_name_of(type(optimizer))}, expected one of "
            f"{', '.join(pair.stock_name.replace(':', '.') for pair in _imported_pairs())}"
        )
    _check_in_use(optimizer)
    if pair in WRAPPERS:
        inner = from_keras(optimizer.inner_optimizer, sparse_update=sparse_update)
        converted = _with_state_of(optimizer, pair.ours)
        converted.inner_optimizer = inner
    else:
        converted = _with_state_of(optimizer, pair.ours)
        converted.start_fused(*([] if sparse_update is None else [sparse_update]))
    _retire(optimizer, "from_keras")
    return converted


def to_keras(optimizer: Any) -> Any:
    """Returns a stock optimizer that goes on where one of ours is: the inverse of `from_keras`.

    Args:
        optimizer: A `tf_adadelta.Adadelta`, or a `tf_adadelta.LossScaleOptimizer` around one; one
            of `tf_adadelta.tf_keras` or `tf_adadelta.compat.v1`. A stock one is returned as it is.

    Returns:
        The stock optimizer, with the same variables, every row of them up to date. It knows no
        `sparse_update` and rounds to the nearest. Ours cannot be used for updates afterwards.

    Raises:
        TypeError: It is none of these. A subclass is none either: what it changes would be lost.
        RuntimeError: It has been handed over already.
    """
    for pair in _imported_pairs():
        if type(optimizer) is pair.stock:
            return optimizer
        if type(optimizer) is pair.ours or (
            is_stand_in(type(optimizer)) and isinstance(optimizer, pair.ours)
        ):
            break
    else:
        raise TypeError(
            f"optimizer is a {_name_of(type(optimizer))}, expected one of "
            f"{', '.join(pair.our_name.replace(':', '.') for pair in _imported_pairs())}"
        )
    _check_in_use(optimizer)
    if pair in WRAPPERS:
        inner = to_keras(optimizer.inner_optimizer)
        converted = _with_state_of(optimizer, pair.stock)
        converted.inner_optimizer = inner
    else:
        converted = _with_state_of(optimizer, pair.stock)
        for slots in ("_accumulated_grads", "_accumulated_delta_vars"):
            for slot in getattr(converted, slots, ()):
                if isinstance(slot, Slot):
                    Slot.release(slot)
    _retire(optimizer, "to_keras")
    return converted


def _imported_pairs() -> list[Pair]:
    return [pair for pair in (*ADADELTAS, *WRAPPERS) if pair.is_imported]


def _with_state_of(optimizer: Any, cls: type[Any]) -> Any:
    """Returns an optimizer of a class that shares all stock attributes with the given one.

    What checkpoints depend on is among them, so it is as it was.
    """
    converted = object.__new__(cls)
    state = {name: value for name, value in vars(optimizer).items() if name not in _OUR_ATTRIBUTES}
    vars(converted).update(state)
    return converted


def _retire(optimizer: Any, function: str) -> None:
    """Makes an optimizer refuse to update: two that share their slots would undo each other."""

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError(
            f"this {type(optimizer).__name__} was handed over by tf_adadelta.{function}: go on "
            "with the optimizer that it returned"
        )

    vars(optimizer).update(apply=refuse, apply_gradients=refuse)


def _check_in_use(optimizer: Any) -> None:
    refuse = vars(optimizer).get("apply_gradients")
    if refuse is not None:
        refuse()


def _name_of(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
