"""Which stock optimizers there are, and which of ours stand for them."""

import pkgutil
import sys
from typing import Any, NamedTuple


class Pair(NamedTuple):
    """A stock optimizer and the subclass of it that is ours, by name: neither may be imported yet.

    Attributes:
        stock_name: The stock class, as `pkgutil.resolve_name` takes it.
        our_name: Ours, likewise.
        config_module: What configurations call the module of the stock class; None: there are none.
    """

    stock_name: str
    our_name: str
    config_module: str | None

    @property
    def library(self) -> str:
        """The package that has the stock class."""
        return self.stock_name.partition(":")[0].partition(".")[0]

    @property
    def is_imported(self) -> bool:
        """Whether that has been imported."""
        return self.library in sys.modules

    @property
    def stock(self) -> type[Any]:
        """The stock class."""
        return pkgutil.resolve_name(self.stock_name)

    @property
    def ours(self) -> type[Any]:
        """The class that is ours."""
        return pkgutil.resolve_name(self.our_name)


ADADELTAS = (
    Pair("keras.optimizers:Adadelta", "tf_adadelta:Adadelta", "keras.optimizers"),
    Pair(
        "tensorflow:compat.v1.train.AdadeltaOptimizer",
        "tf_adadelta.compat.v1:AdadeltaOptimizer",
        None,
    ),
    Pair("tf_keras.optimizers:Adadelta", "tf_adadelta.tf_keras:Adadelta", "keras.optimizers"),
    Pair(
        "tf_keras.optimizers.legacy:Adadelta",
        "tf_adadelta.tf_keras.legacy:Adadelta",
        "keras.optimizers.legacy",
    ),
)

WRAPPERS = (
    Pair(
        "keras.optimizers:LossScaleOptimizer",
        "tf_adadelta:LossScaleOptimizer",
        "keras.optimizers",
    ),
)
"""What goes around another optimizer, its `inner_optimizer`."""
