"""Loads the op library into the TensorFlow that is running."""

import functools
from pathlib import Path
from types import ModuleType

from tf_adadelta._build_info import build_info, check_tensorflow


@functools.cache
def load() -> ModuleType:
    """Returns the module of the ops, loading it on the first call.

    Raises:
        ImportError: TensorFlow is missing, or is not the one that the library was built against.
    """
    built = build_info()["tensorflow"]
    minor = ".".join(built.split(".")[:2])
    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        raise ImportError(
            "tf_adadelta needs TensorFlow, which is not installed. It was built against "
            f"{built}: run `pip install 'tensorflow=={minor}.*'` (or tensorflow-cpu)."
        ) from error
    check_tensorflow(tf.__version__, built)
    try:
        return tf.load_op_library(str(Path(__file__).with_name("_ops.so")))
    except (tf.errors.NotFoundError, OSError) as error:
        raise ImportError(
            f"tf_adadelta's op library does not load into TensorFlow {tf.__version__}; it was "
            f"built against {built}. Rebuild it in this environment. The loader says: {error}"
        ) from error
