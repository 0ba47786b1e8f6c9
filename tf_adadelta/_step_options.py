"""What an optimizer does around the update of a step."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_adadelta import ops


@dataclasses.dataclass(frozen=True)
class KnownNorms:
    """The norms of gradients that somebody has asked for already.

    Attributes:
        squared: A vector of squared norms.
        places: Where in it that of a gradient is, by its id.
    """

    squared: tf.Tensor
    places: dict[int, int]

    def squared_norms(self, grads: Sequence[Any]) -> tf.Tensor | None:
        """Returns the squared norms of gradients, None if not all are known."""
        places = [self.places.get(id(grad)) for grad in grads]
        return None if None in places else tf.gather(self.squared, places)


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What an optimizer does around the update of a step, as Keras means it.

    Attributes:
        grad_divisor: What the gradients are divided by first: the loss scale. A number or a scalar.
        clipnorm: The largest norm of each gradient, or None. At most one of the three is given.
        global_clipnorm: The largest norm of all gradients together, or None.
        clipvalue: The largest magnitude of each element of a gradient, or None.
        weight_decay: The part of itself, times the learning rate, that a variable loses, or None.
        is_decayed: Whether that is for a variable.
        average_of: Returns the moving average of a variable. None: there are none.
        ema_momentum: The decay rate of the averages in this step.
        grad_accum_of: Returns where the gradients of a variable are summed. None: nowhere.
        accumulation_steps: The number of steps of whose gradients an update takes the mean.
        update: Whether this is the last of them.
        known_norms: The norms of gradients that are known already.
    """

    grad_divisor: Any = None
    clipnorm: float | None = None
    global_clipnorm: float | None = None
    clipvalue: float | None = None
    weight_decay: float | None = None
    is_decayed: Callable[[tf.Variable], bool] = lambda _: True
    average_of: Callable[[tf.Variable], tf.Variable] | None = None
    ema_momentum: Any = 0.0
    grad_accum_of: Callable[[tf.Variable], tf.Variable] | None = None
    accumulation_steps: int = 1
    update: Any = True
    known_norms: KnownNorms | None = None

    def structure(self) -> tuple[bool, bool, bool]:
        """What decides which variables go together into one call of an op."""
        return (
            self.weight_decay is not None,
            self.average_of is not None,
            self.grad_accum_of is not None,
        )

    def decays(self, variable: tf.Variable) -> bool:
        """Whether the variable loses a part of itself."""
        return self.weight_decay is not None and self.is_decayed(variable)

    def touches_all_rows(self, variable: tf.Variable) -> bool:
        """Whether rows without a gradient change too."""
        return (
            self.decays(variable) or self.average_of is not None or self.grad_accum_of is not None
        )

    def needs_norms(self) -> bool:
        """Whether the norms of the gradients are clipped."""
        return bool(self.clipnorm or self.global_clipnorm)

    def clips(self) -> bool:
        """Whether the gradients are clipped in any way."""
        return self.needs_norms() or bool(self.clipvalue)

    @functools.cached_property
    def grad_scale(self) -> Any:
        """By what the gradients are multiplied first."""
        return 1.0 if self.grad_divisor is None else 1.0 / ops.as_hyperparameter(self.grad_divisor)

    def grad_factors(
        self, sizes: Sequence[int], squared_norms: Callable[[], Sequence[tf.Tensor]]
    ) -> list[tf.Tensor | None]:
        """By what the gradients, or the sums of several, are multiplied before the update.

        Args:
            sizes: The numbers of gradients of groups of them.
            squared_norms: Returns the squared norms of their gradients, a vector for each group;
                called where norms are clipped.

        Returns:
            A vector for each group; None where nothing is to be multiplied.
        """
        mean = 1.0 / self.accumulation_steps
        if not self.needs_norms():
            if self.accumulation_steps == 1:
                return [None] * len(sizes)
            return [tf.fill([size], tf.constant(mean, tf.float64)) for size in sizes]
        norms = [tf.sqrt(squared) * mean for squared in squared_norms()]
        if self.clipnorm:  # As tf.clip_by_norm.
            factors = [self.clipnorm / tf.maximum(norm, self.clipnorm) for norm in norms]
        else:  # As keras.src.optimizers.base_optimizer.clip_by_global_norm, with no 1 / 0.
            norm = tf.sqrt(tf.add_n([tf.reduce_sum(norm**2) for norm in norms]))
            limit = self.global_clipnorm
            factor = limit / tf.maximum(norm, limit) + (norm - norm)
            factors = [tf.fill([size], factor) for size in sizes]
        return [factor * mean for factor in factors]

    def changed(self, values: tf.Tensor, factors: tf.Tensor | None, i: int) -> tf.Tensor:
        """Returns the rows of the sparse gradient `i` of a group as the update takes them."""
        if self.grad_divisor is None and factors is None and not self.clipvalue:
            return values
        compute = tf.float64 if values.dtype == tf.float64 else tf.float32
        factor = self.grad_scale * (1.0 if factors is None else factors[i])
        changed = tf.cast(values, compute) * tf.cast(factor, compute)
        if self.clipvalue:
            changed = tf.clip_by_value(changed, -self.clipvalue, self.clipvalue)
        return tf.cast(changed, values.dtype)


PLAIN = StepOptions()
"""Nothing but the update."""
