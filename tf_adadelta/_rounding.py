"""How an optimizer rounds what it stores."""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_adadelta import ops


@dataclasses.dataclass(frozen=True)
class StochasticRounding:
    """Rounds bfloat16 variables, and what is stored for them, by reproducible random bits.

    Attributes:
        seed_of: Returns the seed of a variable, another one for each.
        step: Returns the count of steps before this one, an integer scalar.
    """

    seed_of: Callable[[tf.Variable], int]
    step: Callable[[], Any]

    def rounds(self, variable: tf.Variable) -> bool:
        """Whether this is about a variable: any other is rounded to the nearest."""
        return variable.dtype == tf.bfloat16

    def inputs(self, variables: list[tf.Variable]) -> list[tf.Tensor]:
        """Returns what the ops take for variables of one dtype."""
        if not self.rounds(variables[0]):
            return []
        return ops.random_inputs(list(map(self.seed_of, variables)), self.step())
