"""What an optimizer rounds stochastically."""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_adadelta import ops


@dataclasses.dataclass(frozen=True)
class StochasticRounding:
    """Rounds what is stored in few bits by reproducible random ones.

    Attributes:
        rounds: Whether that is done for a variable: a bfloat16 one, or a float32 one of which the
            slots are narrower. What is stored for others is rounded to the nearest.
        seed_of: Returns the seed of a variable, another one for each.
        step: Returns the count of steps before this one, an integer scalar.
    """

    rounds: Callable[[tf.Variable], bool]
    seed_of: Callable[[tf.Variable], int]
    step: Callable[[], Any]

    def inputs(self, variables: list[tf.Variable]) -> list[tf.Tensor]:
        """Returns what the ops take for the variables of a call."""
        if not self.rounds(variables[0]):
            return []
        return ops.random_inputs(list(map(self.seed_of, variables)), self.step())
