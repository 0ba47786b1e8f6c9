"""Adadelta for TensorFlow as one fused pass over memory.

`tf_adadelta.Adadelta` is a drop-in for `keras.optimizers.Adadelta`, with a `LossScaleOptimizer` to
go around it; `tf_adadelta.tf_keras` and `tf_adadelta.compat.v1` have those for the older APIs.
`patch_keras` makes the stock classes give them; `from_keras` and `to_keras` convert an optimizer in
the middle of training. `tf_adadelta.ops` are the TensorFlow ops below them and
`tf_adadelta.kernels` the kernels on arrays below those.
"""

from typing import TYPE_CHECKING, Any

from tf_adadelta import _library
from tf_adadelta._build_info import build_info

if TYPE_CHECKING:
    from tf_adadelta import compat, kernels, ops, tf_keras
    from tf_adadelta._conversion import from_keras, to_keras
    from tf_adadelta._patch import patch_keras, unpatch_keras
    from tf_adadelta.loss_scale import LossScaleOptimizer
    from tf_adadelta.optimizer import Adadelta

    __version__: str

__all__ = [
    "Adadelta",
    "LossScaleOptimizer",
    "build_info",
    "compat",
    "from_keras",
    "kernels",
    "load_library",
    "ops",
    "patch_keras",
    "tf_keras",
    "to_keras",
    "unpatch_keras",
]

# Imported at once, so that Keras knows the optimizer when it loads a model. Where TensorFlow is
# missing or does not fit, the kernels and the build report still work, and whoever asks for
# anything else is told what to do.
try:
    _library.load_ops()
    from tf_adadelta import ops
    from tf_adadelta.loss_scale import LossScaleOptimizer
    from tf_adadelta.optimizer import Adadelta
except ImportError as error:
    _unavailable: ImportError | None = error
else:
    from tf_adadelta._conversion import from_keras, to_keras
    from tf_adadelta._patch import patch_keras, unpatch_keras

    _unavailable = None


def load_library() -> None:
    """Loads the ops into this process, which need not do anything else with them.

    `import tf_adadelta` does it already where it can. This is for a process that runs what others
    ask of it, such as a worker or parameter server of `tf.distribute.ParameterServerStrategy`: call
    it before the `tf.distribute.Server` starts, and it says what is wrong where the import would
    have gone on without TensorFlow.

    Raises:
        ImportError: TensorFlow is missing, or is not the one that the library was built against.
    """
    _library.load_ops()


def __getattr__(name: str) -> Any:
    if name in ("compat", "kernels", "tf_keras"):  # Each with requirements of its own.
        import importlib

        return importlib.import_module(f"tf_adadelta.{name}")
    if name == "__version__":
        return build_info()["version"]
    if name in __all__ and _unavailable is not None:
        raise _unavailable
    raise AttributeError(f"module 'tf_adadelta' has no attribute '{name}'")
