"""Calls of the kernels on NumPy arrays and through DLPack that Hypothesis makes, right and wrong.

A call that is right is done, and changes what it names; one that is wrong says so and changes
nothing. No call ends the process. `ci/fuzz.py` lets this run for long, `ci/sanitize.py` lets it run
under sanitizers.
"""

import ctypes
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from fake_device_arrays import DeviceArray, capsule_name, new_capsule
from fuzzing import fuzz, note, numbers
from hypothesis import example, given
from hypothesis import strategies as st
from oracle import DTYPES

from tf_adadelta import kernels

KERNELS = {
    "dense": kernels.fused_adadelta_apply,
    "sparse": kernels.fused_adadelta_sparse_apply,
    "norms": kernels.squared_norms,
    "copy": kernels.copy_streams,
}
REFUSED = (TypeError, ValueError, IndexError, BufferError)


@dataclasses.dataclass
class Case:
    """A call that is right but for its mistakes: (list, position, kind, value) each."""

    kernel: str
    dtype: str
    shapes: list
    indices: list = ()
    index_dtype: str = "int64"
    optional: tuple = ()
    scalars: dict = dataclasses.field(default_factory=dict)
    mistakes: list = ()

    def lists(self):
        """The shape and the dtype of each array of each list."""
        like = [(shape, self.dtype) for shape in self.shapes]
        roles = ["variables", "accums", "accum_updates", "grads"]
        lists = {role: list(like) for role in (roles if self.kernel != "norms" else ["grads"])}
        lists |= {role: list(like) for role in self.optional if role != "clocks"}
        if self.kernel == "sparse":
            lists["grads"] = [
                ((len(rows), *shape[1:]), self.dtype)
                for rows, shape in zip(self.indices, self.shapes)
            ]
            lists["indices"] = [((len(rows),), self.index_dtype) for rows in self.indices]
            if "clocks" in self.optional:
                lists["clocks"] = [((shape[0] + 1,), "int64") for shape in self.shapes]
        return lists


SHAPES = st.lists(st.integers(0, 6), max_size=3).map(tuple)
TABLES = st.lists(st.integers(0, 6), min_size=1, max_size=3).map(tuple)
ANY_DTYPE = [*DTYPES, "int32", "int64", "complex64", "bool", ">f4", "uint8"]


@st.composite
def cases(draw, mistakes, kernels=tuple(KERNELS)):
    kernel = draw(st.sampled_from(kernels))
    shapes = draw(st.lists(TABLES if kernel == "sparse" else SHAPES, max_size=3))
    case = Case(kernel, draw(st.sampled_from(list(DTYPES))), shapes)
    if kernel == "sparse":
        case.indices = [
            draw(st.lists(st.integers(0, shape[0] - 1), max_size=8)) if shape[0] else []
            for shape in shapes
        ]
        case.index_dtype = draw(st.sampled_from(["int32", "int64"]))
    choice = {"dense": ["averages", "grad_accums"], "sparse": ["clocks"], "norms": ["grad_accums"]}
    case.optional = tuple(name for name in choice.get(kernel, []) if draw(st.booleans()))
    names = {
        "dense": ["learning_rate", "rho", "epsilon", "grad_scale", "clipvalue", "ema_momentum"],
        "sparse": ["learning_rate", "rho", "epsilon"],
        "norms": ["grad_scale"],
        "copy": [],
    }[kernel]
    case.scalars = {name: draw(numbers) for name in names}
    lists = case.lists()
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(list(lists)))
        kind = draw(st.sampled_from(list(mistakes)))
        case.mistakes = [
            *case.mistakes,
            (name, draw(st.integers(0, 2)), kind, draw(mistakes[kind])),
        ]
    return case


def call(case, lists):
    arguments = dict(lists)
    note(case)
    return KERNELS[case.kernel](**arguments, **case.scalars)


NUMPY_MISTAKES = {
    "dtype": st.sampled_from(ANY_DTYPE),
    "shape": st.lists(st.integers(0, 6), max_size=4).map(tuple),
    "index": st.integers(-(2**31), 2**31 - 1),
    "missing": st.none(),
    "too many": st.none(),
    "strided": st.none(),
    "read-only": st.none(),
    "unaligned": st.none(),
    "shared": st.sampled_from(["variables", "accums", "accum_updates", "grads"]),
    "no array": st.sampled_from([None, 1.0, [1.0, 2.0], "text"]),
}


def numpy_lists(case):
    """The arrays of a call, with its mistakes."""
    rng = np.random.default_rng(0)
    lists = {
        name: [rng.random(shape).astype(DTYPES.get(dtype, dtype)) for shape, dtype in specs]
        for name, specs in case.lists().items()
    }
    for i, rows in enumerate(case.indices):
        lists["indices"][i][:] = rows
    for clock in lists.get("clocks", []):
        clock[:] = rng.integers(-3, 9, clock.shape)
    for name, i, kind, value in case.mistakes:
        arrays = lists[name]
        if i >= len(arrays):
            continue
        array = arrays[i]
        if not isinstance(array, np.ndarray):
            continue
        if kind == "dtype":
            arrays[i] = array.astype(DTYPES.get(value, value))
        elif kind == "shape":
            arrays[i] = np.ones(value, array.dtype)
        elif kind == "index" and name == "indices" and array.size:
            array.flat[0] = value
        elif kind == "missing":
            arrays.pop(i)
        elif kind == "too many":
            arrays.append(array.copy())
        elif kind == "strided":
            arrays[i] = np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array
        elif kind == "read-only":
            array.setflags(write=False)
        elif kind == "unaligned":
            arrays[i] = np.frombuffer(bytearray(array.nbytes + 1), np.uint8)[1:].view(array.dtype)
            arrays[i] = arrays[i].reshape(array.shape)
        elif kind == "shared" and lists.get(value):
            arrays[i] = lists[value][-1]
        elif kind == "no array":
            arrays[i] = value
    return lists


@fuzz
@given(cases(NUMPY_MISTAKES))
@example(  # The last of several variables has a bad index.
    Case(
        *("sparse", "float16", [(0,), (1,), (1,)], [[], [0], [0]]),
        scalars={"learning_rate": 1.0},
        mistakes=[("indices", 2, "index", 1)],
    )
)
def test_numpy(case):
    lists = numpy_lists(case)
    arrays = [a for values in lists.values() for a in values if isinstance(a, np.ndarray)]
    before = [array.copy() for array in arrays]
    try:
        call(case, lists)
    except REFUSED:
        assert case.mistakes
        for array, copy in zip(arrays, before):
            assert array.tobytes() == copy.tobytes()
        return
    if "grads" in lists and case.kernel != "copy":
        for array, copy in zip(arrays, before):
            if any(array is grad for grad in lists["grads"]):
                assert array.tobytes() == copy.tobytes()
    if case.kernel == "sparse":
        check_idle_rows(lists, dict(zip(map(id, arrays), before)))


def check_idle_rows(lists, before):
    """Rows that no index names are as they were."""
    for i, rows in enumerate(lists["indices"]):
        for name in ("variables", "accums", "accum_updates", "clocks"):
            if name not in lists:
                continue
            array = lists[name][i]
            idle = np.setdiff1d(np.arange(lists["variables"][i].shape[0]), rows)
            assert array[idle].tobytes() == before[id(array)][idle].tobytes()


def test_clocks_of_any_value():
    """A file may have brought any number: no difference of two overflows."""
    least, most = -(2**63), 2**63 - 2
    for row_clock, now in ((least, most), (most, least), (least, least), (most, most), (-5, most)):
        state = [np.ones((1, 2), np.float32) for _ in range(3)]
        clock = np.array([row_clock, now])
        kernels.fused_adadelta_sparse_apply(
            *state, np.zeros((1, 2), np.float32), np.array([0]), clocks=clock, learning_rate=1.0
        )
        assert clock.tolist() == [now + 1, now + 1]
        behind = now > row_clock
        # Longer than any training: an average that has decayed for so long is nothing.
        assert (state[1] < 1e-30).all() if behind else (state[1] == np.float32(0.95)).all()


class Capsule:
    """What `__dlpack__` may give instead of a capsule that is in order."""

    KINDS = ("none", "other name", "used", "raises")

    def __init__(self, array, kind):
        self.array, self.kind = array, kind

    def __call__(self, **keywords):
        if self.kind == "none":
            return None
        if self.kind == "other name":
            return new_capsule(ctypes.addressof(ctypes.c_int64(1)), b"tensor", None)
        if self.kind == "raises":
            raise BufferError("the array cannot be exported")
        if not self.array.capsules:
            DeviceArray.__dlpack__(self.array, **keywords)
        return self.array.capsules[-1]


DLPACK_MISTAKES = {
    "dtype": st.tuples(
        st.sampled_from(["int", "uint", "float", "bfloat", "complex"]),
        st.sampled_from([0, 1, 4, 8, 16, 32, 64, 128]),
    ),
    "lanes": st.integers(0, 65535),
    "shape": st.lists(
        st.one_of(st.integers(-2, 6), st.sampled_from([2**31, 2**40, 2**62, 2**63 - 1, -(2**63)])),
        max_size=4,
    ).map(tuple),
    "all shapes": st.lists(
        st.sampled_from([-1, 0, 2, 2**31, 2**40, 2**62, 2**63 - 1]), min_size=1, max_size=4
    ).map(tuple),
    "device": st.tuples(st.integers(-1, 14), st.integers(-1, 3)),
    "device in capsule": st.tuples(st.integers(-1, 14), st.integers(-1, 3)),
    "strides": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3).map(tuple),
    "offset": st.sampled_from([0, 1, 3, 4, 2**40, 2**64 - 1]),
    "version": st.sampled_from([None, (0, 8), (1, 9), (2, 0), (2**32 - 1, 0)]),
    "read-only": st.none(),
    "null": st.none(),
    "capsule": st.sampled_from(Capsule.KINDS),
    "missing": st.none(),
    "shared": st.sampled_from(["variables", "accums", "grads"]),
}


def device_lists(case):
    lists = {}
    for name, specs in case.lists().items():
        kinds = [
            (dtype.rstrip("0123456789"), int(dtype.lstrip("abcdefghijklmnopqrstuvwxyz")))
            for _, dtype in specs
        ]
        lists[name] = [DeviceArray(shape, kind) for (shape, _), kind in zip(specs, kinds)]
    everything = [array for arrays in lists.values() for array in arrays]
    for name, i, kind, value in case.mistakes:
        arrays = lists[name]
        if kind == "all shapes":
            for array in everything:
                array.shape, array.strides = value, None
        if i >= len(arrays):
            continue
        array = arrays[i]
        if kind in ("dtype", "shape", "offset", "version", "lanes", "device"):
            setattr(array, kind, value)
            if kind == "device":
                array.device_in_capsule = value
            if kind == "shape":
                array.strides = None
        elif kind == "device in capsule":
            array.device_in_capsule = value
        elif kind == "strides":
            array.strides = (*value, *[1] * len(array.shape))[: len(array.shape)]
        elif kind == "read-only":
            array.read_only = True
        elif kind == "null":
            array.address = None
        elif kind == "capsule":
            array.__dict__["__dlpack__"] = Capsule(array, value)
        elif kind == "missing":
            arrays.pop(i)
        elif kind == "shared" and lists.get(value):
            array.address = lists[value][-1].address
    return lists, everything


@pytest.mark.skipif(
    Path("/dev/nvidiactl").exists(), reason="a call that is right would let a GPU work on nothing"
)
@fuzz
@given(cases(DLPACK_MISTAKES, kernels=("dense", "sparse")))
@example(  # The product of the sizes is more than an int64.
    Case(
        *("dense", "float32", [(4,)]),
        scalars={"learning_rate": 1.0},
        mistakes=[("variables", 0, "all shapes", (2**40, 2**40))],
    )
)
@example(
    Case(
        *("dense", "float32", [(4,)]),
        scalars={"learning_rate": 1.0},
        mistakes=[("variables", 0, "all shapes", (-1, 2))],
    )
)
@example(  # It has no elements, and its sizes can be multiplied.
    Case(
        *("dense", "float16", [()]),
        scalars={"learning_rate": 1.0},
        mistakes=[("variables", 0, "all shapes", (0, 2**31))],
    )
)
def test_dlpack(case):
    lists, everything = device_lists(case)
    if not any(lists.values()):
        return
    try:
        call(case, lists)
    except REFUSED:
        assert case.mistakes
    except RuntimeError as error:
        assert "CUDA" in str(error) or "driver" in str(error)
        for array in everything:
            if array.capsules:
                assert all(size >= 0 for size in array.shape)
                itemsize = max(array.dtype[1] // 8, 1)
                assert itemsize * math.prod(filter(None, array.shape)) < 2**63
    else:
        raise AssertionError("there is no GPU")
    for array in everything:
        taken = {id(c) for c in array.capsules if capsule_name(c).startswith(b"used_dltensor")}
        assert array.deleted == len(taken)
