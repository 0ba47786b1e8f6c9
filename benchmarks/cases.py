"""What is updated: lists of variables, all float32."""

import dataclasses
import json
import math
from pathlib import Path

Shape = tuple[int, ...]

# The shapes of `keras.applications.ResNet50(weights=None).trainable_variables`, in their order.
_MODELS = json.loads(Path(__file__).with_name("models.json").read_text(encoding="utf-8"))


@dataclasses.dataclass(frozen=True)
class Case:
    """One list of variables.

    Attributes:
        name: A short name.
        description: What it is, for the reader of the report.
        shapes: The shapes of the variables.
        rounds: How many samples each contestant gets.
    """

    name: str
    description: str
    shapes: tuple[Shape, ...]
    rounds: int

    @property
    def elements(self) -> int:
        """How many elements all variables have together."""
        return sum(map(math.prod, self.shapes))

    def quick(self) -> "Case":
        """Returns the case with few rounds and every eighth variable: it shows that all works."""
        return dataclasses.replace(
            self,
            shapes=self.shapes[::8],  # Tracing takes its time for every variable.
            rounds=3,
        )


_RESNET50 = Case(
    "resnet50",
    "The 214 trainable variables of ResNet-50",
    tuple(map(tuple, _MODELS["resnet50"])),
    rounds=25,
)
_SMALL = Case("200x256", "200 variables of 256 elements", ((256,),) * 200, rounds=30)

CPU_CASES = (
    Case("16M", "One variable of 16 × 2²⁰ elements", ((16 * 2**20,),), rounds=25),
    _RESNET50,
    _SMALL,
)
GPU_CASES = (
    Case("100M", "One variable of 100 million elements", ((100_000_000,),), rounds=25),
    _RESNET50,
    _SMALL,
)
