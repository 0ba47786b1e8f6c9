"""Optimizers for older APIs of TensorFlow itself."""

from tf_adadelta.compat import v1

__all__ = ["v1"]
