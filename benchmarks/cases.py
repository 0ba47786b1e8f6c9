"""What is updated: lists of variables, and by whom each list is worth being updated."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from benchmarks.make_models import MODELS

Shape = tuple[int, ...]

STREAMS = 7
"""Variable, two averages and gradient are read, the first three are written."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One list of variables.

    Attributes:
        section: What it is to show: the part of the report that it belongs to.
        name: A short name, unique in its section.
        description: What it is, for the reader of the report.
        shapes: The shapes of the variables.
        contestants: The names of those that take part; empty for all.
        slow: The names of those that take minutes to trace or to compile, and part only if asked.
        dtype: The dtype of variables, averages and gradients.
        options: What Keras's optimizers are given besides the hyperparameters.
        extra_bytes: The bytes an element that the options add to those of the plain update.
        num_threads: The threads of the NumPy kernels; None for those of the whole run.
        model: The model that is trained, one of `training.MODELS`; None for a mere update.
        images: How many images the model is trained on in one sample.
        rounds: How many samples each contestant gets at most.
        seconds: After how many seconds no further round is begun.
    """

    section: str
    name: str
    description: str
    shapes: tuple[Shape, ...]
    contestants: tuple[str, ...] = ()
    slow: tuple[str, ...] = ()
    dtype: str = "float32"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    extra_bytes: int = 0
    num_threads: int | None = None
    model: str | None = None
    images: int = 3000  # What they show costs no time: they are random.
    rounds: int = 31
    seconds: float = 4.0

    @property
    def path(self) -> str:
        """The section and the name."""
        return f"{self.section}/{self.name}"

    @property
    def elements(self) -> int:
        """How many elements all variables have together."""
        return sum(map(math.prod, self.shapes))

    @property
    def bytes_per_element(self) -> int:
        """How many bytes any update must move for each element."""
        return STREAMS * tf.as_dtype(self.dtype).size + self.extra_bytes

    def with_slow(self) -> "Case":
        """Returns the case with those that take long to prepare."""
        return dataclasses.replace(self, contestants=(*self.contestants, *self.slow), slow=())

    def quick(self) -> "Case":
        """Returns the case with few rounds, variables and elements: it shows that all works."""
        few = self.shapes[:: math.ceil(len(self.shapes) / 8)]  # Tracing takes time for each.
        return dataclasses.replace(self, shapes=tuple(map(_clip, few)), images=300, rounds=3)


def _clip(shape: Shape) -> Shape:
    return shape if math.prod(shape) <= 2**16 else (2**16,)


def models() -> dict[str, tuple[Shape, ...]]:
    """Returns the shapes of the variables of real models, by name."""
    lists = json.loads(MODELS.read_text(encoding="utf-8"))
    return {name: tuple(map(tuple, shapes)) for name, shapes in lists.items()}
