"""Prints a digest of what the kernels compute, for one processor to be compared with another.

python tests/core/bits.py [instruction_set]

The inputs are made of whole numbers, so that they are the same everywhere. What is not a number
counts as equal.
"""

import hashlib
import json
import sys

import ml_dtypes
import numpy as np

# What the tests need of it is imported where there is no TensorFlow.
sys.modules["tensorflow"] = None

from tf_adadelta import kernels  # noqa: E402

STOCHASTIC = "bfloat16, stochastic"
NARROW_STATE = "float32, averages in bfloat16"
BLOCKS = "float32, averages in 8 bits"
DTYPES = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    STOCHASTIC: ml_dtypes.bfloat16,
    "float32": "f4",
    NARROW_STATE: "f4",
    BLOCKS: "f4",
    "float64": "f8",
}
SCALES = {"ordinary": 1.0, "large": 1e15, "tiny": 1e-19, "subnormal": 1e-38}
SIZES = (1, 7, 255, 1000, 40_000)
BEST = kernels.instruction_sets()[0]


class Maker:
    """Makes arrays of numbers that are the same on every machine."""

    def __init__(self, dtype, scale):
        self.rng = np.random.default_rng(0)
        self.dtype, self.scale = DTYPES[dtype], scale
        self.in_blocks = dtype == BLOCKS
        self.state_dtype = ml_dtypes.bfloat16 if dtype == NARROW_STATE else self.dtype

    def numbers(self, *shape, least=-(2**20)):
        return (self.rng.integers(least, 2**20, shape) / 2**20 * self.scale).astype(self.dtype)

    def averages(self, rows, row_elements):
        if self.in_blocks:
            return np.zeros((rows, row_elements + -(-row_elements // 256)), np.uint8)
        shape = rows, row_elements
        return self.numbers(*shape, least=0).astype(self.state_dtype)


def digest(arrays):
    """Returns a hash of some arrays."""
    total = hashlib.sha256()
    for array in arrays:
        array = np.array(array, copy=True)
        array[np.isnan(array.astype(np.float64))] = 1
        total.update(array.tobytes())
    return total.hexdigest()[:16]


def dense(make, settings, options, random):
    roles = [
        [make.numbers(1, size) for size in SIZES],
        [make.averages(1, size) for size in SIZES],
        [make.averages(1, size) for size in SIZES],
    ]
    lists = {
        name: [make.numbers(1, size) for size in SIZES]
        for name in ("averages", "grad_accums")
        if options
    }
    for step in range(4):
        grads = [make.numbers(1, size) for size in SIZES]
        extra = {**options, **lists, **({"update": step % 2 == 1} if options else {})}
        if random:
            extra.update(random_seeds=range(len(SIZES)), step=step)
        kernels.fused_adadelta_apply(*roles, grads, learning_rate=0.7, **settings, **extra)
    return [array for values in (*roles, *lists.values()) for array in values]


def sparse(make, settings, random):
    rows = 300
    state = [make.numbers(rows, 17), make.averages(rows, 17), make.averages(rows, 17)]
    clock = np.zeros(rows + 1, np.int64)
    for step in range(4):
        indices = make.rng.integers(0, 1 + step * 90, 500)
        grads = make.numbers(500, 17)
        extra = {"random_seeds": [1], "step": step} if random else {}
        kernels.fused_adadelta_sparse_apply(
            *state, grads, indices, clocks=clock, learning_rate=0.7, **settings, **extra
        )
    return [*state, clock]


def main():
    instruction_set = sys.argv[1] if len(sys.argv) > 1 else BEST
    settings = {"instruction_set": instruction_set, "num_threads": 2}
    options = {"grad_scale": 0.37, "clipvalue": 0.9, "weight_decay": 0.01, "ema_momentum": 0.9}
    digests = {}
    for dtype in DTYPES:
        for scale in SCALES:
            if dtype == "float16" and scale in ("large", "tiny"):
                continue

            random = dtype in (STOCHASTIC, NARROW_STATE, BLOCKS)

            def make(dtype=dtype, scale=scale):
                return Maker(dtype, SCALES[scale])

            name = f"{dtype} {scale}"
            digests[f"dense {name}"] = digest(dense(make(), settings, {}, random))
            digests[f"options {name}"] = digest(dense(make(), settings, options, random))
            digests[f"sparse {name}"] = digest(sparse(make(), settings, random))
            if random:
                continue  # Norms are not rounded.
            grads = [make().numbers(size) for size in SIZES]
            norms = kernels.squared_norms(grads, grad_scale=0.37, **settings)
            digests[f"norms {name}"] = digest([np.array(norms)])
    print(json.dumps(digests))


if __name__ == "__main__":
    main()
