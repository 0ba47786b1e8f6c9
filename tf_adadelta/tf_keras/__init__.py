"""The optimizers for tf_keras, the Keras 2 that lives on beside Keras 3."""

from tf_adadelta import _library

_library.load_ops()

import tensorflow as tf  # noqa: E402  After the check that there is one, and that it fits.

try:
    import tf_keras as _  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "tf_keras":
        raise
    _minor = ".".join(tf.__version__.split(".")[:2])
    raise ImportError(
        f"tf_adadelta.tf_keras needs tf_keras, which is not installed. Run `pip install "
        f"'tf-keras=={_minor}.*'`, the one for TensorFlow {tf.__version__} (with `--no-deps` "
        "where TensorFlow is tensorflow-cpu: tf-keras asks for tensorflow by name)."
    ) from error

from tf_adadelta.tf_keras import legacy  # noqa: E402
from tf_adadelta.tf_keras.optimizer import Adadelta  # noqa: E402

__all__ = ["Adadelta", "legacy"]
