"""Compares what two trainings have come to: lists of arrays."""

import numpy as np


def assert_equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other):
        np.testing.assert_array_equal(a, b)


def assert_close(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5)
