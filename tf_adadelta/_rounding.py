"""What an optimizer rounds stochastically."""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_adadelta import ops


@dataclasses.dataclass(frozen=True)
class StochasticRounding:
    """Rounds what is stored in bfloat16 by reproducible random bits.

    Attributes:
        dtypes: Of the variables for which that is done. Of float32 ones the slots are bfloat16; any
            others are rounded to the nearest.
        seed_of: Returns the seed of a variable, another one for each.
        step: Returns the count of steps before this one, an integer scalar.
    """

    dtypes: tuple[tf.DType, ...]
    seed_of: Callable[[tf.Variable], int]
    step: Callable[[], Any]

    def rounds(self, variable: tf.Variable) -> bool:
        """Whether this is about a variable."""
        return variable.dtype in self.dtypes

    def inputs(self, variables: list[tf.Variable]) -> list[tf.Tensor]:
        """Returns what the ops take for variables of one dtype."""
        if not self.rounds(variables[0]):
            return []
        return ops.random_inputs(list(map(self.seed_of, variables)), self.step())
