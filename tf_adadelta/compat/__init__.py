"""Optimizers for older APIs of TensorFlow itself."""

from tf_adadelta import _library

_library.load_ops()  # Says what to do where TensorFlow is missing or does not fit.

from tf_adadelta.compat import v1  # noqa: E402

__all__ = ["v1"]
