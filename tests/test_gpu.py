"""The CUDA kernel on a GPU, through every door that is there: `pytest -m gpu`."""

import contextlib
import importlib.util
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import needs_xla
from oracle import DTYPES, Oracle, update

import tf_adadelta
from tf_adadelta import _kernels, kernels, ops

INFO = tf_adadelta.build_info()


class TorchDoor:
    """`tf_adadelta.kernels` on tensors of PyTorch."""

    name = "torch"
    dtypes = tuple(DTYPES)

    @staticmethod
    def available():
        if importlib.util.find_spec("torch") is None:
            return False
        import torch

        return torch.cuda.is_available()

    def put(self, array):
        import torch

        array = np.asarray(array)
        if array.dtype == DTYPES["bfloat16"]:  # Which PyTorch does not take from NumPy.
            return torch.from_numpy(array.view(np.int16)).cuda().view(torch.bfloat16)
        return torch.from_numpy(array).cuda()

    def get(self, array):
        import torch

        if array.dtype == torch.bfloat16:
            return array.view(torch.int16).cpu().numpy().view(DTYPES["bfloat16"])
        return array.cpu().numpy()

    def filled(self, count, dtype, value):
        import torch

        return torch.full((count,), value, dtype=getattr(torch, dtype), device="cuda")

    def free_bytes(self):
        import torch

        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]

    def synchronize(self):
        import torch

        torch.cuda.synchronize()

    @contextlib.contextmanager
    def stream(self):
        """A stream of its own, the current one inside."""
        import torch

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            yield stream

    def capture(self, step):
        """Captures a step into a graph; returns what replays it."""
        import torch

        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph.replay


class CupyDoor:
    """`tf_adadelta.kernels` on arrays of CuPy."""

    name = "cupy"
    dtypes = ("float16", "float32", "float64")

    @staticmethod
    def available():
        if importlib.util.find_spec("cupy") is None:
            return False
        import cupy

        try:
            return cupy.cuda.runtime.getDeviceCount() > 0
        except cupy.cuda.runtime.CUDARuntimeError:
            return False

    def put(self, array):
        import cupy

        return cupy.asarray(array)

    def get(self, array):
        return array.get()

    def filled(self, count, dtype, value):
        import cupy

        return cupy.full(count, value, dtype)

    def free_bytes(self):
        import cupy

        cupy.get_default_memory_pool().free_all_blocks()
        return cupy.cuda.runtime.memGetInfo()[0]

    def synchronize(self):
        import cupy

        cupy.cuda.runtime.deviceSynchronize()

    @contextlib.contextmanager
    def stream(self):
        import cupy

        cupy.cuda.runtime.deviceSynchronize()
        with cupy.cuda.Stream(non_blocking=True) as stream:
            yield stream

    def capture(self, step):
        import cupy

        with cupy.cuda.Stream(non_blocking=True) as stream:
            stream.begin_capture()
            step()
            graph = stream.end_capture()
        return lambda: graph.launch(stream=cupy.cuda.get_current_stream())


def tensorflow_sees_a_gpu():
    return bool(tf.config.list_physical_devices("GPU"))


ARRAY_DOORS = [door() for door in (TorchDoor, CupyDoor) if INFO["cuda"] and door.available()]
TF_GPU = INFO["cuda"] and tensorflow_sees_a_gpu()

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not INFO["cuda"], reason="tf_adadelta was built without CUDA"),
]
array_doors = pytest.mark.parametrize(
    "door",
    [pytest.param(door, id=door.name) for door in ARRAY_DOORS]
    or [
        pytest.param(
            None, marks=pytest.mark.skip(reason="no GPU that PyTorch or CuPy sees"), id="none"
        )
    ],
)
needs_tensorflow_gpu = pytest.mark.skipif(not TF_GPU, reason="no GPU that TensorFlow sees")
tf_modes = pytest.mark.parametrize("mode", ["eager", "graph", pytest.param("jit", marks=needs_xla)])
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def sizes(dtype):
    chunk = _kernels.CUDA_CHUNK_BYTES // DTYPES[dtype].itemsize
    return [0, 1, 3, 63, 64, 65, 4097, chunk - 1, chunk, 3 * chunk + 5]


def skip_dtype(door, dtype):
    if dtype not in door.dtypes:
        pytest.skip(f"{door.name} has no {dtype}")


def put_state(door, oracle):
    return [[door.put(array) for array in oracle.stored(role)] for role in oracle.values]


def check(door, oracle, state):
    door.synchronize()
    oracle.check(*([door.get(array) for array in arrays] for arrays in state))


@array_doors
@dtypes
@pytest.mark.parametrize("on_device", [False, True], ids=["numbers", "device scalars"])
def test_matches_oracle(door, dtype, on_device):
    skip_dtype(door, dtype)
    oracle = Oracle([(size,) for size in sizes(dtype)], dtype)
    state = put_state(door, oracle)
    for step in range(20):
        grads = oracle.new_grads()
        values = {"learning_rate": 0.5 / (1 + step), "rho": 0.9, "epsilon": 1e-6}
        settings = {k: door.put(np.float64(v)) for k, v in values.items()} if on_device else values
        kernels.fused_adadelta_apply(*state, [door.put(grad) for grad in grads], **settings)
        oracle.step(grads, **values)
    check(door, oracle, state)


@array_doors
@pytest.mark.parametrize("number", [1, 91, 92, 743, 744, 2000])
def test_lists_of_any_length(door, number):
    rng = np.random.default_rng(number)
    oracle = Oracle([(size,) for size in rng.integers(0, 5000, number)], "float32")
    state = put_state(door, oracle)
    for _ in range(2):
        grads = oracle.new_grads()
        kernels.fused_adadelta_apply(*state, [door.put(grad) for grad in grads], learning_rate=1.0)
        oracle.step(grads, 1.0)
    check(door, oracle, state)


@array_doors
@dtypes
def test_addresses_that_no_vector_may_have(door, dtype):
    """Each stream starts anywhere, and not an element beside it changes."""
    skip_dtype(door, dtype)
    size = 4097
    rng = np.random.default_rng(0)
    together = [[i] * 4 for i in range(9)]
    one_alone = np.eye(4, dtype=int).tolist()
    for offsets in together + one_alone + rng.integers(0, 9, (8, 4)).tolist():
        oracle = Oracle([(size,)], dtype)
        grads = oracle.new_grads()
        values = [*(oracle.stored(role)[0] for role in oracle.values), grads[0]]
        buffers = []
        for value, start in zip(values, offsets):
            buffer = np.full(size + 32, 77, oracle.dtype)
            buffer[start : start + size] = value
            buffers.append(door.put(buffer))
        views = [buffer[start : start + size] for buffer, start in zip(buffers, offsets)]
        kernels.fused_adadelta_apply(*views, learning_rate=1.0)
        oracle.step(grads, 1.0)
        check(door, oracle, [[view] for view in views[:3]])
        for buffer, start in zip(map(door.get, buffers), offsets):
            assert (buffer[:start] == 77).all() and (buffer[start + size :] == 77).all()


@array_doors
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bit_conversions(door, dtype):
    """Every value survives a step of zero, and what is stored is rounded to nearest even."""
    skip_dtype(door, dtype)
    bits = np.arange(2**16, dtype=np.uint16)
    values = bits.view(DTYPES[dtype])
    zeros = np.zeros_like(values)
    state = [door.put(array) for array in (values, zeros, zeros)]
    kernels.fused_adadelta_apply(*state, door.put(zeros), learning_rate=0.0)
    variable = door.get(state[0])
    nan = np.isnan(values.astype(np.float32))
    assert np.array_equal(np.isnan(variable.astype(np.float32)), nan)
    np.testing.assert_array_equal(variable.view(np.uint16)[~nan], bits[~nan])

    rng = np.random.default_rng(0)
    g = (2.0 ** rng.uniform(-16, 9, 50_000)).astype(DTYPES[dtype])
    g[:3] = [0.0, 2.0**-12, 300.0]  # A zero, a half of the smallest subnormal half, an overflow.
    with np.errstate(over="ignore"):
        expected = (g.astype(np.float32) ** 2).astype(DTYPES[dtype])
    state = [door.put(np.zeros_like(g)) for _ in range(3)]
    kernels.fused_adadelta_apply(*state, door.put(g), learning_rate=1.0, rho=0.0)
    actual = door.get(state[1])
    np.testing.assert_array_equal(actual.view(np.uint16), expected.view(np.uint16))


@array_doors
def test_same_bits_on_every_run(door):
    results = []
    for _ in range(5):
        oracle = Oracle([(100_003,), (5,), (0,), (4096,)], "float32")
        state = put_state(door, oracle)
        for _ in range(3):
            grads = [door.put(grad) for grad in oracle.new_grads()]
            kernels.fused_adadelta_apply(*state, grads, learning_rate=1.0)
        door.synchronize()
        results.append(np.concatenate([door.get(a) for arrays in state for a in arrays]))
    for result in results[1:]:
        np.testing.assert_array_equal(result.view(np.uint32), results[0].view(np.uint32))


@array_doors
def test_extreme_gradients(door):
    g = np.array([1e16, -1e17, 1e18, np.nan, np.inf, 0.0], np.float32)
    state = [door.put(np.zeros_like(g)) for _ in range(3)]
    kernels.fused_adadelta_apply(*state, door.put(g), learning_rate=1.0)
    variable = door.get(state[0])
    np.testing.assert_allclose(variable[:3], -np.sign(g[:3]) * np.sqrt(1e-7 / 0.05), rtol=1e-5)
    assert np.isnan(variable[3:5]).all() and variable[5] == 0


@array_doors
def test_more_elements_than_32_bits_count(door):
    count = 2**31 + 4099
    if door.free_bytes() < 22e9:
        pytest.skip("less than 22 GB of GPU memory are free")
    start = {"x": 0.5, "a": 0.25, "u": 0.125, "g": 2.0}
    state = [door.filled(count, "float16", start[name]) for name in "xau"]
    grad = door.filled(count, "float16", start["g"])
    kernels.fused_adadelta_apply(*state, grad, learning_rate=1.0)
    for array, expected in zip(state, update(*start.values(), learning_rate=1.0)):
        first = door.get(array[:1])[0]
        np.testing.assert_allclose(float(first), expected, rtol=1e-3)
        assert bool((array == array[0]).all())


@array_doors
def test_graph_is_captured_and_replayed(door):
    """The learning rate is read when the graph runs, not when it is captured."""
    oracle = Oracle([(4097,), (1,), (100,)], "float32")
    state = put_state(door, oracle)
    grads = oracle.new_grads()
    device_grads = [door.put(grad) for grad in grads]
    learning_rate = door.put(np.float64(0.0))

    def step():
        kernels.fused_adadelta_apply(*state, device_grads, learning_rate=learning_rate)

    with door.stream():
        step()  # The driver loads a kernel when it is first launched.
    door.synchronize()
    oracle.step(grads, 0.0)
    replay = door.capture(step)
    for value in (1.0, 0.25, 0.0, 3.0):
        learning_rate[...] = value
        replay()
        oracle.step(grads, value)
    check(door, oracle, state)


@array_doors
def test_two_streams_at_once(door):
    oracles = [Oracle([(300_001,), (77,)], "float32", seed=seed) for seed in range(2)]
    states = [put_state(door, oracle) for oracle in oracles]
    steps = [[oracle.new_grads() for _ in range(20)] for oracle in oracles]
    grads = [[[door.put(grad) for grad in step] for step in of_one] for of_one in steps]
    streams = []
    for _ in oracles:
        with door.stream() as stream:
            streams.append(stream)
    for number in range(20):
        for state, of_one, stream in zip(states, grads, streams):
            handle = stream.cuda_stream if door.name == "torch" else stream.ptr
            kernels.fused_adadelta_apply(*state, of_one[number], learning_rate=1.0, stream=handle)
    door.synchronize()
    for oracle, state, of_one in zip(oracles, states, steps):
        for step in of_one:
            oracle.step(step, 1.0)
        check(door, oracle, state)


@array_doors
def test_the_current_stream_is_used(door):
    """On another one, what is queued before would not be waited for."""
    oracle = Oracle([(1000,)], "float32")
    state = put_state(door, oracle)
    grads = oracle.new_grads()
    oracle.step(grads, 1.0)
    large = door.filled(50_000_000, "float32", 1.0)
    grad, values = door.filled(1000, "float32", 0.0), door.put(grads[0])
    with door.stream():
        for _ in range(20):
            large *= 1.0
        grad += values
        kernels.fused_adadelta_apply(*([a] for (a,) in state), [grad], learning_rate=1.0)
    check(door, oracle, state)


@array_doors
def test_bad_input_changes_nothing(door):
    arrays = [[door.put(np.ones(4, np.float32)) for _ in range(2)] for _ in range(4)]
    arrays[2][1] = door.put(np.ones(5, np.float32))
    with pytest.raises(ValueError, match=r"accum_updates\[1\] has shape \(5,\)"):
        kernels.fused_adadelta_apply(*arrays, learning_rate=1.0)
    for row in arrays[:3]:
        for array in row:
            assert (door.get(array) == 1).all()


@pytest.mark.skipif(
    shutil.which("compute-sanitizer") is None, reason="there is no compute-sanitizer on the PATH"
)
@array_doors
@pytest.mark.parametrize("check_for", ["memcheck", "racecheck", "initcheck"])
def test_sanitizer_finds_nothing(door, check_for):
    program = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import numpy as np
        from tf_adadelta import kernels
        from test_gpu import {type(door).__name__}
        door = {type(door).__name__}()
        for dtype in ("float16", "float32", "float64"):
            for offset in (0, 1):
                arrays = [
                    [door.put(np.ones(n + offset, dtype))[offset:] for n in (0, 1, 65, 4097, 9000)]
                    for _ in range(4)
                ]
                kernels.fused_adadelta_apply(*arrays, learning_rate=1.0)
                door.synchronize()
        """
    sanitizer = ["compute-sanitizer", "--tool", check_for, "--error-exitcode", "86"]
    result = subprocess.run(
        [*sanitizer, sys.executable, "-c", textwrap.dedent(program)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def as_function(mode, step):
    if mode == "eager":
        return step
    return tf.function(step, jit_compile=mode == "jit", reduce_retracing=False)


@needs_tensorflow_gpu
@tf_modes
@dtypes
def test_op_matches_oracle(mode, dtype):
    oracle = Oracle([(size,) for size in sizes(dtype)], dtype)
    with tf.device("GPU:0"):
        state = [[tf.Variable(array) for array in oracle.stored(role)] for role in oracle.values]

        @lambda step: as_function(mode, step)
        def step(learning_rate, *grads):
            ops.fused_adadelta_apply(*state, list(grads), learning_rate=learning_rate)

        for number in range(20):
            grads = oracle.new_grads()
            learning_rate = 0.5 / (1 + number)
            step(tf.constant(learning_rate, tf.float64), *map(tf.constant, grads))
            oracle.step(grads, learning_rate)
    assert all("GPU" in variable.device for row in state for variable in row)
    oracle.check(*([variable.numpy() for variable in row] for row in state))


@needs_tensorflow_gpu
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_what_was_read_before_stays(mode):
    """A buffer that somebody still reads is copied before it is written."""
    with tf.device("GPU:0"):
        state = [tf.Variable(tf.ones(5000)) for _ in range(3)]
        read = [variable.read_value() for variable in state]
        as_function(
            mode, lambda: ops.fused_adadelta_apply(*state, tf.ones(5000), learning_rate=1.0)
        )()
    for before, variable in zip(read, state):
        np.testing.assert_array_equal(before.numpy(), np.ones(5000))
        assert (variable.numpy() != 1).all()


@needs_tensorflow_gpu
def test_op_refuses_bad_input():
    with tf.device("GPU:0"):
        state = [[tf.Variable(tf.ones(4)) for _ in range(2)] for _ in range(3)]
        state[2][1] = tf.Variable(tf.ones(5))
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"accum_updates\[1\].* has shape"):
            ops.fused_adadelta_apply(*state, [tf.ones(4)] * 2, learning_rate=1.0)
    for row in state:
        for variable in row:
            np.testing.assert_array_equal(variable.numpy(), np.ones(variable.shape))


@needs_tensorflow_gpu
@needs_xla
def test_one_custom_call_under_xla():
    with tf.device("GPU:0"):
        state = [[tf.Variable(tf.ones(i + 1)) for i in range(10)] for _ in range(3)]

        @tf.function(jit_compile=True)
        def step():
            grads = [variable * 0.5 for variable in state[0]]
            ops.fused_adadelta_apply(*state, grads, learning_rate=1.0)

        step()
        hlo = step.experimental_get_compiler_ir()(stage="optimized_hlo")
    assert hlo.count('custom_call_target="tf_adadelta_fused_adadelta_apply"') == 1


@needs_tensorflow_gpu
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_model_on_the_cpu_and_on_the_gpu(mode):
    """Each group of variables goes to its own kernel."""
    results = []
    for make in (keras.optimizers.Adadelta, tf_adadelta.Adadelta):
        rng = np.random.default_rng(0)
        variables, grads = [], []
        for i in range(6):
            with tf.device(f"{'CPU' if i % 2 else 'GPU'}:0"):
                variables.append(keras.Variable(rng.standard_normal((17, i + 1)), dtype="float32"))
                grads.append(tf.constant(rng.standard_normal((17, i + 1)), tf.float32))
        optimizer = make(0.5)
        optimizer.build(variables)
        step = as_function(mode, lambda: optimizer.apply(grads, variables))  # noqa: B023
        for _ in range(5):
            step()
        results.append([v.numpy() for v in (*variables, *optimizer.variables)])
    for actual, expected in zip(*results):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@needs_tensorflow_gpu
def test_fit_compiles_by_default():
    losses = []
    for make in (keras.optimizers.Adadelta, tf_adadelta.Adadelta):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(1)])
        model.compile(optimizer=make(1.0), loss="mse")
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((64, 8)), rng.standard_normal((64, 1))
        losses.append(model.fit(x, y, epochs=3, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-4)
