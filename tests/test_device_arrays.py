"""The DLPack door, with arrays that only say that they are on a GPU."""

import re
from pathlib import Path

import numpy as np
import pytest
from fake_device_arrays import DeviceArray, capsule_name

import tf_adadelta
from tf_adadelta import _device_arrays, kernels

CUDA = tf_adadelta.build_info()["cuda"]
# A valid call would let a GPU work where there is no array.
pytestmark = pytest.mark.skipif(
    Path("/dev/nvidiactl").exists(), reason="there is a GPU: tests/test_gpu.py has real arrays"
)

NOT_RUN = (
    "no NVIDIA driver is installed on this machine; the CUDA kernels of tf_adadelta"
    if CUDA
    else "tf_adadelta was built without CUDA; `python -m tf_adadelta` says why and how to rebuild"
)


def make_call(count=2, **settings):
    return [[DeviceArray(**settings) for _ in range(count)] for _ in range(4)]


def run(call, **settings):
    kernels.fused_adadelta_apply(*call, **{"learning_rate": 1.0, **settings})


def make_sparse_call(count=2, dtype=("float", 32), index=("int", 64)):
    """The lists of a sparse call by name, for tables of 5 rows and gradients of 3."""
    return {
        **{
            name: [DeviceArray((5, 4), dtype) for _ in range(count)]
            for name in ("variables", "accums", "accum_updates")
        },
        "grads": [DeviceArray((3, 4), dtype) for _ in range(count)],
        "indices": [DeviceArray((3,), index) for _ in range(count)],
        "clocks": [DeviceArray((6,), ("int", 64)) for _ in range(count)],
    }


def run_sparse(call, **settings):
    kernels.fused_adadelta_sparse_apply(**call, **{"learning_rate": 1.0, **settings})


def run_norms(grads, out, **settings):
    kernels.squared_norms(grads, out=out, **settings)


def make_norms(count=2, **settings):
    return [DeviceArray(**settings) for _ in range(count)], DeviceArray((count,), ("float", 64))


def check_returned(call):
    """Whatever was taken out of its capsule was given back, once."""
    for row in call:
        for array in row:
            if isinstance(array, DeviceArray):
                taken = [capsule_name(c).startswith(b"used_dltensor") for c in array.capsules]
                assert array.deleted == sum(taken)


def check_refused(mistake, call, run, lists_of):
    """The mistake made in the call is named, and nothing that was taken for it is kept."""
    spoil, error, message = mistake
    spoil(call)
    with pytest.raises(error, match=re.escape(message)):
        run(call)
    check_returned(lists_of(call))


def as_lists(call):
    return [value if isinstance(value, list) else [value] for value in call.values()]


@pytest.mark.parametrize("version", [None, (1, 0), (1, 7)])
@pytest.mark.parametrize("dtype", [("float", 16), ("bfloat", 16), ("float", 32), ("float", 64)])
def test_valid_call_says_what_is_missing(dtype, version):
    call = make_call(dtype=dtype)
    for row in call:
        for array in row:
            array.version = version
    with pytest.raises(RuntimeError, match=NOT_RUN):
        run(call)
    check_returned(call)
    assert all(array.deleted == 1 for row in call for array in row)
    name = b"used_dltensor" if version is None else b"used_dltensor_versioned"
    assert capsule_name(call[0][0].capsules[0]) == name


@pytest.mark.parametrize("clocks", [True, False])
@pytest.mark.parametrize("index", [("int", 32), ("int", 64)])
@pytest.mark.parametrize("dtype", [("float", 16), ("bfloat", 16), ("float", 32), ("float", 64)])
def test_valid_sparse_call_says_what_is_missing(dtype, index, clocks):
    call = make_sparse_call(dtype=dtype, index=index)
    if not clocks:
        call["clocks"] = None
    with pytest.raises(RuntimeError, match=NOT_RUN):
        run_sparse(call)
    arrays = [array for row in call.values() for array in row or []]
    check_returned([arrays])
    assert all(array.deleted == 1 for array in arrays)


@pytest.mark.parametrize("grad_accums", [True, False])
@pytest.mark.parametrize("averages", [True, False])
@pytest.mark.parametrize("dtype", [("float", 16), ("bfloat", 16), ("float", 32), ("float", 64)])
def test_valid_call_with_options_says_what_is_missing(dtype, averages, grad_accums):
    """Whatever the options are: numbers, scalars on the device, one array of factors."""
    call = make_call(dtype=dtype)
    factors = DeviceArray((2,), ("float", 64))
    scalars = {
        name: DeviceArray((), ("float", 64))
        for name in ("grad_scale", "clipvalue", "weight_decay", "ema_momentum")
    }
    buffers = {}
    if averages:
        buffers["averages"] = [DeviceArray(dtype=dtype) for _ in range(2)]
    if grad_accums:
        buffers["grad_accums"] = [DeviceArray(dtype=dtype) for _ in range(2)]
        scalars["update"] = DeviceArray((), ("float", 64))
    with pytest.raises(RuntimeError, match=NOT_RUN):
        run(call, clip_factors=factors, **scalars, **buffers)
    arrays = [array for row in (*call, *buffers.values()) for array in row]
    arrays += [factors, *scalars.values()]
    check_returned([arrays])
    assert all(array.deleted == 1 for array in arrays)
    with pytest.raises(RuntimeError, match=NOT_RUN):
        run(call, grad_scale=0.5, clipvalue=1.0, weight_decay=0.1, ema_momentum=0.9, **buffers)


@pytest.mark.parametrize("grad_accums", [True, False])
@pytest.mark.parametrize("dtype", [("float", 16), ("bfloat", 16), ("float", 32), ("float", 64)])
def test_valid_call_for_norms_says_what_is_missing(dtype, grad_accums):
    grads, out = make_norms(dtype=dtype)
    accums = [DeviceArray(dtype=dtype) for _ in range(2)] if grad_accums else None
    with pytest.raises(RuntimeError, match=NOT_RUN):
        run_norms(grads, out, grad_accums=accums)
    scalars = {name: DeviceArray((), ("float", 64)) for name in ("grad_scale", "update")}
    with pytest.raises(RuntimeError, match=NOT_RUN):
        run_norms(grads, out, grad_accums=accums, **scalars)
    arrays = [*grads, out, *(accums or [])]
    check_returned([arrays, scalars.values()])
    assert all(array.deleted == 2 for array in arrays)


@pytest.mark.skipif(not CUDA, reason="built without CUDA")
def test_check_of_the_indices_says_what_is_missing(monkeypatch):
    monkeypatch.setenv("TF_ADADELTA_CHECK_INDICES", "1")
    with pytest.raises(RuntimeError, match=NOT_RUN):
        run_sparse(make_sparse_call())


@pytest.mark.skipif(not CUDA, reason="built without CUDA")
def test_error_is_gone_after_it_was_raised():
    for _ in range(2):
        with pytest.raises(RuntimeError, match=NOT_RUN):
            run(make_call())


def test_empty_list_needs_no_gpu():
    kernels.fused_adadelta_apply([], [], [], [], learning_rate=1.0)
    kernels.fused_adadelta_sparse_apply([], [], [], [], [], clocks=[], learning_rate=1.0)


def test_strides_that_do_not_matter():
    call = make_call(shape=(3, 1, 2), strides=(2, 77, 1))
    with pytest.raises(RuntimeError, match=NOT_RUN):
        run(call)


def test_hyperparameters_on_the_device():
    scalars = [DeviceArray((), ("float", 64)) for _ in range(3)]
    call = make_call()
    with pytest.raises(RuntimeError, match=NOT_RUN):
        run(call, learning_rate=scalars[0], rho=scalars[1], epsilon=scalars[2])
    check_returned([*call, scalars])


@pytest.mark.parametrize(
    "scalar, error, message",
    [
        (DeviceArray((), ("float", 32)), TypeError, "rho has dtype float32, expected float64"),
        (DeviceArray((1,), ("float", 64)), ValueError, "rho has 1 dimensions, expected a scalar"),
        (
            DeviceArray((), ("float", 64), device=(2, 1)),
            ValueError,
            r"rho is on CUDA device 1, expected 0, that of variables\[0\]",
        ),
        (DeviceArray((), ("float", 64), offset=4), ValueError, "rho is not aligned"),
        ("many", ValueError, "could not convert"),
    ],
)
def test_bad_hyperparameter(scalar, error, message):
    call = make_call()
    with pytest.raises(error, match=message):
        run(call, rho=scalar)
    check_returned(call)


@pytest.mark.parametrize("stream, told", [(None, 1), (0, 1), (1, 1), (12345, 12345)])
def test_arrays_are_told_the_stream(stream, told):
    call = make_call()
    with pytest.raises(RuntimeError, match=NOT_RUN):
        run(call, stream=stream)
    assert {stream for row in call for array in row for stream in array.streams} == {told}


def set_array(role, i, value):
    def spoil(call):
        call[role][i] = value()

    return spoil


def set_field(role, i, field, value):
    return lambda call: setattr(call[role][i], field, value)


BAD = {
    "list length": (lambda c: c[1].pop(), ValueError, "accums has 1 arrays, expected 2"),
    "shape": (
        set_field(1, 1, "shape", (5,)),
        ValueError,
        r"accums[1] has shape (5,), expected (4,), the shape of its variable",
    ),
    "dtype": (
        set_field(3, 1, "dtype", ("float", 64)),
        TypeError,
        "grads[1] has dtype float64, expected float32, the dtype of variables[0]",
    ),
    "unserved dtype": (
        lambda c: [setattr(array, "dtype", ("uint", 8)) for row in c for array in row],
        TypeError,
        "variables[0] has dtype uint8, expected float16",
    ),
    "strides": (
        lambda c: set_field(2, 1, "strides", (2,))(c),
        ValueError,
        "accum_updates[1] is not C-contiguous",
    ),
    "read-only": (
        set_field(0, 1, "read_only", True),
        ValueError,
        "variables[1] is read-only",
    ),
    "alignment": (set_field(3, 0, "offset", 2), ValueError, "grads[0] is not aligned"),
    "same memory": (
        lambda c: setattr(c[3][0], "address", c[0][0].address + 12),
        ValueError,
        "variables[0] and grads[0] share memory",
    ),
    "other GPU": (
        set_array(2, 0, lambda: DeviceArray(device=(2, 3))),
        ValueError,
        "accum_updates[0] is on CUDA device 3, expected 0, that of variables[0]",
    ),
    "CPU": (
        set_array(1, 0, lambda: DeviceArray(device=(1, 0))),
        TypeError,
        "accums[0] is a DeviceArray on a device of DLPack's type 1, expected one on a CUDA device",
    ),
    "NumPy": (
        set_array(3, 1, lambda: np.ones(4, np.float32)),
        TypeError,
        "grads[1] is a numpy.ndarray, expected an array on the GPU",
    ),
    "no array": (set_array(3, 1, lambda: [1.0]), TypeError, "grads[1] is of type list, expected"),
    "lies about its device": (
        set_field(1, 1, "device_in_capsule", (1, 0)),
        ValueError,
        "accums[1] is on device 0 of DLPack's type 1, expected CUDA device 0",
    ),
    "future version": (
        set_field(2, 0, "version", (2, 0)),
        BufferError,
        "accum_updates[0] comes by version 2 of DLPack, expected 0 or 1",
    ),
}


@pytest.mark.parametrize("mistake", BAD)
def test_bad_input(mistake):
    check_refused(BAD[mistake], make_call(), run, lambda call: call)


BAD_SPARSE = {
    "row shape": (
        lambda c: setattr(c["grads"][1], "shape", (3, 5)),
        ValueError,
        "grads[1] has shape (3, 5), expected (3, 4), a row of its variable for each of its indices",
    ),
    "index dtype": (
        lambda c: [setattr(array, "dtype", ("uint", 64)) for array in c["indices"]],
        TypeError,
        "indices[0] has dtype uint64, expected int32 or int64",
    ),
    "two index dtypes": (
        lambda c: setattr(c["indices"][1], "dtype", ("int", 32)),
        TypeError,
        "indices[1] has dtype int32, expected int64, the dtype of indices[0]",
    ),
    "clock shape": (
        lambda c: setattr(c["clocks"][0], "shape", (5,)),
        ValueError,
        "clocks[0] has shape (5,), expected (6,), one more than the rows of its variable",
    ),
    "clocks": (lambda c: c["clocks"].pop(), ValueError, "clocks has 1 arrays, expected 2"),
    "read-only clock": (
        lambda c: setattr(c["clocks"][1], "read_only", True),
        ValueError,
        "clocks[1] is read-only",
    ),
    "same memory": (
        lambda c: setattr(c["indices"][0], "address", c["clocks"][1].address + 8),
        ValueError,
        "clocks[1] and indices[0] share memory",
    ),
    "scalar": (
        lambda c: [
            setattr(c[name][0], "shape", ()) for name in ("variables", "accums", "accum_updates")
        ],
        ValueError,
        "variables[0] is a scalar, which has no rows",
    ),
    "other GPU": (
        lambda c: c["indices"].__setitem__(1, DeviceArray((3,), ("int", 64), device=(2, 1))),
        ValueError,
        "indices[1] is on CUDA device 1, expected 0, that of variables[0]",
    ),
    "NumPy": (
        lambda c: c["clocks"].__setitem__(0, np.zeros(6, np.int64)),
        TypeError,
        "clocks[0] is a numpy.ndarray, expected an array on the GPU",
    ),
}


@pytest.mark.parametrize("mistake", BAD_SPARSE)
def test_bad_sparse_input(mistake):
    check_refused(BAD_SPARSE[mistake], make_sparse_call(), run_sparse, dict.values)


def options_of(**settings):
    """Lists and arrays of a valid call with all options, by name."""
    names = ("variables", "accums", "accum_updates", "grads", "averages", "grad_accums")
    lists = {name: [DeviceArray() for _ in range(2)] for name in names}
    return {**lists, "clip_factors": DeviceArray((2,), ("float", 64)), **settings}


BAD_OPTIONS = {
    "averages": (lambda c: c["averages"].pop(), ValueError, "averages has 1 arrays, expected 2"),
    "shape": (
        lambda c: setattr(c["grad_accums"][1], "shape", (5,)),
        ValueError,
        "grad_accums[1] has shape (5,), expected (4,), the shape of its variable",
    ),
    "read-only": (
        lambda c: setattr(c["averages"][0], "read_only", True),
        ValueError,
        "averages[0] is read-only",
    ),
    "same memory": (
        lambda c: setattr(c["averages"][0], "address", c["grad_accums"][1].address + 12),
        ValueError,
        "grad_accums[1] and averages[0] share memory",
    ),
    "numbers": (
        lambda c: c.update(clip_factors=[0.5, 0.5]),
        TypeError,
        "clip_factors is of type list, expected a float64 array on the GPU",
    ),
    "factors on the CPU": (
        lambda c: c.update(clip_factors=np.ones(2)),
        TypeError,
        "clip_factors is of type ndarray, expected a float64 array on the GPU",
    ),
    "dtype of the factors": (
        lambda c: setattr(c["clip_factors"], "dtype", ("float", 32)),
        TypeError,
        "clip_factors has dtype float32, expected float64",
    ),
    "shape of the factors": (
        lambda c: setattr(c["clip_factors"], "shape", (3,)),
        ValueError,
        "clip_factors has shape (3,), expected (2,), one for each variable",
    ),
    "factors in a variable": (
        lambda c: setattr(c["clip_factors"], "address", c["variables"][1].address + 8),
        ValueError,
        "variables[1] and clip_factors share memory",
    ),
    "factors on another GPU": (
        lambda c: c.update(clip_factors=DeviceArray((2,), ("float", 64), device=(2, 1))),
        ValueError,
        "clip_factors is on CUDA device 1, expected 0, that of variables[0]",
    ),
    "scalar": (
        lambda c: c.update(clipvalue=DeviceArray((), ("float", 32))),
        TypeError,
        "clipvalue has dtype float32, expected float64",
    ),
    "nothing to add to": (
        lambda c: c.update(grad_accums=None, update=False),
        ValueError,
        "update is False, expected True where there are no grad_accums",
    ),
    "nothing to add to on the device": (
        lambda c: c.update(grad_accums=None, update=DeviceArray((), ("float", 64))),
        ValueError,
        "update is an array, expected True where there are no grad_accums",
    ),
}


@pytest.mark.parametrize("mistake", BAD_OPTIONS)
def test_bad_options(mistake):
    def run_options(call):
        kernels.fused_adadelta_apply(learning_rate=1.0, **call)

    check_refused(BAD_OPTIONS[mistake], options_of(), run_options, as_lists)


BAD_NORMS = {
    "no out": (lambda c: c.update(out=None), TypeError, "out is None, expected a float64 array"),
    "out on the CPU": (
        lambda c: c.update(out=np.zeros(2)),
        TypeError,
        "out is of type ndarray, expected a float64 array on the GPU",
    ),
    "dtype of out": (
        lambda c: setattr(c["out"], "dtype", ("float", 32)),
        TypeError,
        "out has dtype float32, expected float64",
    ),
    "shape of out": (
        lambda c: setattr(c["out"], "shape", (2, 1)),
        ValueError,
        "out has shape (2, 1), expected (2,), one for each gradient",
    ),
    "read-only out": (
        lambda c: setattr(c["out"], "read_only", True),
        ValueError,
        "out is read-only",
    ),
    "out in a gradient": (
        lambda c: setattr(c["out"], "address", c["grads"][1].address + 8),
        ValueError,
        "grads[1] and out share memory",
    ),
    "shape": (
        lambda c: setattr(c["grad_accums"][1], "shape", (5,)),
        ValueError,
        "grad_accums[1] has shape (5,), expected (4,), the shape of its gradient",
    ),
    "other GPU": (
        lambda c: c["grads"].__setitem__(1, DeviceArray(device=(2, 1))),
        ValueError,
        "grads[1] is on CUDA device 1, expected 0, that of grads[0]",
    ),
    "gradients on the CPU": (
        lambda c: c.update(grads=[np.ones(4, np.float32)] * 2),
        TypeError,
        "grads[0] is a numpy.ndarray, expected an array on the GPU",
    ),
    "threads": (
        lambda c: c.update(num_threads=2),
        ValueError,
        "num_threads is 2, expected None for arrays on a GPU",
    ),
}


@pytest.mark.parametrize("mistake", BAD_NORMS)
def test_bad_norms(mistake):
    grads, out = make_norms()
    call = {"grads": grads, "grad_accums": [DeviceArray() for _ in range(2)], "out": out}
    check_refused(BAD_NORMS[mistake], call, lambda call: kernels.squared_norms(**call), as_lists)


def test_settings_of_norms_that_do_not_go_with_numpy():
    with pytest.raises(ValueError, match="out is of type ndarray, expected None for arrays on the"):
        kernels.squared_norms(np.ones(3), out=np.zeros(1))
    with pytest.raises(ValueError, match="stream is 1, expected None for arrays on the CPU"):
        kernels.squared_norms(np.ones(3), stream=1)


def test_norms_that_nobody_asks_for():
    assert kernels.squared_norms([np.ones(3), np.ones(2)], update=False) == [0.0, 0.0]


def test_gradients_may_be_shared_and_read_only():
    call = make_call()
    call[3][0].read_only = True
    call[3][1] = call[3][0]
    with pytest.raises(RuntimeError, match=NOT_RUN):
        run(call)
    check_returned([call[0]])


def test_capsule_that_was_used_already():
    call = make_call()
    capsule = call[1][0].__dlpack__(stream=1)
    with pytest.raises(RuntimeError, match=NOT_RUN):
        call[1][0].__dlpack__ = lambda **_: capsule
        run(call)
    with pytest.raises(TypeError, match=r"accums\[0\].__dlpack__\(\) gave no capsule of DLPack"):
        run(call)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_threads": 2}, "num_threads is 2, expected None for arrays on a GPU"),
        ({"instruction_set": "avx2"}, "instruction_set is 'avx2', expected None for arrays on a"),
        ({"stream": -1}, "stream is -1, expected the handle of a CUDA stream"),
    ],
)
def test_settings_that_do_not_go_with_a_gpu(settings, message):
    with pytest.raises(ValueError, match=message):
        run(make_call(), **settings)
    with pytest.raises(ValueError, match=message):
        run_sparse(make_sparse_call(), **settings)


@pytest.mark.parametrize("stream", ["main", True, 1.0])
def test_stream_is_a_handle(stream):
    with pytest.raises(TypeError, match=f"stream is {stream!r}, expected an int, the handle"):
        run(make_call(), stream=stream)


@pytest.mark.parametrize("stream, told", [(None, -1), (77, -1), (0, 1), (1, 1), (5, 5)])
def test_nothing_waits_for_the_current_stream(monkeypatch, stream, told):
    monkeypatch.setattr(_device_arrays, "_current_stream", lambda array, device: 77)
    call = make_call()
    with pytest.raises(RuntimeError, match=NOT_RUN):
        run(call, stream=stream)
    assert {stream for row in call for array in row for stream in array.streams} == {told}


def test_stream_does_not_go_with_numpy():
    arrays = [np.ones(3, np.float32) for _ in range(4)]
    with pytest.raises(ValueError, match="stream is 0, expected None for arrays on the CPU"):
        kernels.fused_adadelta_apply(*arrays, learning_rate=1.0, stream=0)
    with pytest.raises(ValueError, match="stream is 0, expected None for arrays on the CPU"):
        kernels.fused_adadelta_sparse_apply(*arrays, np.arange(3), learning_rate=1.0, stream=0)


def test_copy_streams_is_for_the_cpu():
    with pytest.raises(TypeError, match=r"copy_streams takes numpy.ndarray only"):
        kernels.copy_streams(*make_call())
