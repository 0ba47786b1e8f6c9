"""The CUDA kernels on a GPU, through every door that is there: `pytest -m gpu`."""

import contextlib
import importlib.util
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from conftest import needs_xla
from oracle import DTYPES, ROLES, OptionsOracle, Oracle, update
from test_op_options import BUFFERS, TensorFlow, run_against_oracle
from test_sparse_kernel import check as check_lagging
from test_stochastic_training import arrays_of, dtype_of, forms
from test_stochastic_training import run as run_at_random

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
MODES = {"eager": "eager", "graph": "function", "jit": "jit_compile"}
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
@pytest.mark.parametrize("number", [1, 91, 92, 742, 743, 2000])
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


needs_fma = pytest.mark.skipif(
    kernels.instruction_sets() == ["baseline"], reason="this processor rounds a product and a sum"
)


@array_doors
@needs_fma
@pytest.mark.parametrize("buffers", [None, *BUFFERS], ids=str)
@dtypes
def test_same_bits_as_the_cpu(door, dtype, buffers):
    """Where nothing is subnormal, which only the CPU takes for zero."""
    skip_dtype(door, dtype)
    oracle = OptionsOracle(*(buffers or (False, False)), [(0,), (3,), (4097,)], dtype)
    options = {}
    if buffers is not None:
        options = {
            "grad_scale": 0.3,
            "clip_factors": np.array([1.0, 0.7, 0.9]),
            "clipvalue": 0.8,
            "weight_decay": 0.01,
            "ema_momentum": 0.9,
        }
    on_cpu = {role: oracle.stored(role) for role in oracle.roles}
    on_gpu = {role: [door.put(array) for array in on_cpu[role]] for role in oracle.roles}
    for number in range(5):
        grads = oracle.new_grads()
        if buffers and buffers[1]:
            options["update"] = number % 2 == 1
        for arrays, put in ((on_cpu, lambda array: array), (on_gpu, door.put)):
            given = dict(options)
            if buffers is not None:
                given["clip_factors"] = put(options["clip_factors"])
            lists = {role: arrays[role] for role in oracle.roles if role not in ROLES}
            kernels.fused_adadelta_apply(
                *(arrays[role] for role in ROLES),
                [put(grad) for grad in grads],
                learning_rate=0.7,
                **lists,
                **given,
            )
    door.synchronize()
    for role in oracle.roles:
        for cpu, gpu in zip(on_cpu[role], on_gpu[role]):
            assert cpu.tobytes() == door.get(gpu).tobytes(), role


@array_doors
@needs_fma
@pytest.mark.parametrize("exact", [True, False])
@dtypes
def test_sparse_same_bits_as_the_cpu(door, dtype, exact):
    """Thousands of duplicates included. Idle decay is by a power of two libraries: to an ulp."""
    skip_dtype(door, dtype)
    oracle = Oracle([(40, 33), (7, 300)], dtype)
    on_cpu = [oracle.stored(role) for role in oracle.values]
    on_gpu = put_state(door, oracle)
    clocks = [np.zeros(shape[0] + 1, np.int64) for shape in oracle.shapes] if exact else None
    device_clocks = put_clocks(door, oracle) if exact else None
    for _ in range(4):
        indices = [oracle.rng.zipf(1.3, 9000) % 40, oracle.rng.integers(0, 7, 5)]
        grads = oracle.new_slices(indices)
        kernels.fused_adadelta_sparse_apply(
            *on_cpu, grads, indices, clocks=clocks, learning_rate=0.7
        )
        run_sparse(door, on_gpu, grads, indices, device_clocks, 0.7)
    door.synchronize()
    for arrays, device_arrays in zip(on_cpu, on_gpu):
        for cpu, gpu in zip(arrays, map(door.get, device_arrays)):
            if exact:
                cpu, gpu = cpu.astype(np.float64), gpu.astype(np.float64)
                ulp = float(ml_dtypes.finfo(oracle.dtype).eps)
                np.testing.assert_allclose(gpu, cpu, rtol=8 * ulp, atol=ulp)
            else:
                assert cpu.tobytes() == gpu.tobytes()


def same_bits(door, on_cpu, on_gpu):
    door.synchronize()
    return all(
        cpu.tobytes() == door.get(gpu).tobytes()
        for arrays, device_arrays in zip(on_cpu, on_gpu)
        for cpu, gpu in zip(arrays, device_arrays)
    )


@array_doors
@needs_fma
@forms
@pytest.mark.parametrize("on_device", [False, True], ids=["number", "device scalar"])
@pytest.mark.parametrize("buffers", [None, *BUFFERS], ids=str)
def test_stochastic_rounding_has_the_bits_of_the_cpu(door, buffers, on_device, dtype):
    skip_dtype(door, "float32" if dtype == "uint8" else "bfloat16")
    shapes = [(0,), (1,), (3, 300), (4097,), (1, 20_001)]
    oracle = OptionsOracle(*(buffers or (False, False)), shapes, dtype_of(dtype))
    options = {} if buffers is None else {"weight_decay": 0.01, "ema_momentum": 0.9}
    on_cpu = {role: oracle.stored(role) for role in oracle.roles}
    on_cpu.update(zip(ROLES, arrays_of(oracle, dtype)))
    on_gpu = {role: [door.put(array) for array in on_cpu[role]] for role in oracle.roles}
    for number in range(4):
        grads = oracle.new_grads()
        if buffers and buffers[1]:
            options["update"] = number % 2 == 1
        for arrays, put in ((on_cpu, lambda array: array), (on_gpu, door.put)):
            step = put(np.array(number)) if on_device and put == door.put else number
            kernels.fused_adadelta_apply(
                *(arrays[role] for role in ROLES),
                [put(grad) for grad in grads],
                learning_rate=0.7,
                random_seeds=[5, -6, 7, 2**62, 9],
                step=step,
                **{role: arrays[role] for role in oracle.roles if role not in ROLES},
                **options,
            )
    assert same_bits(door, on_cpu.values(), on_gpu.values())


@array_doors
@needs_fma
@forms
def test_sparse_stochastic_rounding_has_the_bits_of_the_cpu(door, dtype):
    skip_dtype(door, "float32" if dtype == "uint8" else "bfloat16")
    oracle = Oracle([(40, 33), (7, 300)], dtype_of(dtype))
    on_cpu = arrays_of(oracle, dtype)
    on_gpu = [[door.put(array) for array in arrays] for arrays in on_cpu]
    for step in range(3):
        indices = [oracle.rng.zipf(1.3, 500) % 40, oracle.rng.integers(0, 7, 5)]
        grads = oracle.new_slices(indices)
        rounding = {"random_seeds": [8, 9], "step": step}
        kernels.fused_adadelta_sparse_apply(*on_cpu, grads, indices, learning_rate=0.7, **rounding)
        run_sparse(door, on_gpu, grads, indices, None, 0.7, **rounding)
    assert same_bits(door, on_cpu, on_gpu)


@array_doors
@dtypes
def test_norms_are_those_of_the_cpu_but_for_the_order(door, dtype):
    """Both add in float64, in an order of their own."""
    skip_dtype(door, dtype)
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(n).astype(DTYPES[dtype]) for n in (0, 1, 5, 70_001)]
    out = door.put(np.full(4, np.nan))
    kernels.squared_norms([door.put(grad) for grad in grads], grad_scale=0.7, out=out)
    door.synchronize()
    on_cpu = kernels.squared_norms(grads, grad_scale=0.7)
    np.testing.assert_allclose(door.get(out), on_cpu, rtol=1e-13)


@array_doors
@dtypes
def test_neutral_options_change_no_bit(door, dtype):
    skip_dtype(door, dtype)
    oracle = Oracle([(20_001,)], dtype)
    grads = oracle.new_grads()
    results = []
    for options in ({}, {"grad_scale": door.put(np.float64(1.0))}):
        state = put_state(door, oracle)
        for _ in range(2):
            kernels.fused_adadelta_apply(*state, door.put(grads[0]), learning_rate=1.0, **options)
        door.synchronize()
        results.append([door.get(array).tobytes() for (array,) in state])
    assert results[0] == results[1]


@array_doors
@pytest.mark.parametrize("buffers", BUFFERS[1:])
def test_an_empty_first_variable_switches_nothing_off(door, buffers):
    """Its pointers may be null, like those of buffers that nobody gave."""
    shapes = [(0,), (3,), (5000,)]
    run_against_oracle(lambda o: OptionsOnDevice(o, door), "float32", shapes, buffers)


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


class OptionsOnDevice:
    """The kernels with options, whose scalars and factors are on the GPU."""

    def __init__(self, oracle, door):
        self.door = door
        self.state = {
            role: [door.put(array) for array in oracle.stored(role)] for role in oracle.roles
        }

    def step(self, grads, learning_rate, options):
        put = self.door.put
        buffers = {role: arrays for role, arrays in self.state.items() if role not in ROLES}
        grads = [put(grad) for grad in grads]
        on_device = {name: put(np.asarray(v, np.float64)) for name, v in options.items()}
        asked_for = {name: on_device[name] for name in ("grad_scale", "update")}
        if "grad_accums" not in buffers:
            del on_device["update"]
        out = put(np.full(len(grads), np.nan))
        kernels.squared_norms(grads, grad_accums=buffers.get("grad_accums"), out=out, **asked_for)
        kernels.fused_adadelta_apply(
            *(self.state[role] for role in ROLES),
            grads,
            learning_rate=put(np.float64(learning_rate)),
            **buffers,
            **on_device,
        )
        self.door.synchronize()
        return self.door.get(out)

    def values(self):
        return [[self.door.get(array) for array in arrays] for arrays in self.state.values()]


@array_doors
@pytest.mark.parametrize("buffers", BUFFERS)
@dtypes
def test_options_match_oracle(door, dtype, buffers):
    skip_dtype(door, dtype)
    shapes = [(size,) for size in sizes(dtype)]
    run_against_oracle(lambda oracle: OptionsOnDevice(oracle, door), dtype, shapes, buffers)


@array_doors
@pytest.mark.parametrize("number", [57, 58, 479, 480, 1300])
def test_options_of_lists_of_any_length(door, number):
    shapes = [(size,) for size in np.random.default_rng(number).integers(0, 5000, number)]
    make_door = lambda oracle: OptionsOnDevice(oracle, door)  # noqa: E731
    run_against_oracle(make_door, "float32", shapes, (True, True), steps=3)


@array_doors
def test_norms_have_the_same_bits_on_every_run(door):
    rng = np.random.default_rng(0)
    grads = [
        door.put(rng.standard_normal(n).astype(np.float32)) for n in (10_000_019, 5, 0, 70_000)
    ]
    results = set()
    for _ in range(10):
        out = door.put(np.full(4, np.nan))
        kernels.squared_norms(grads, out=out)
        door.synchronize()
        results.add(door.get(out).tobytes())
    assert len(results) == 1
    expected = [np.sum(door.get(grad).astype(np.float64) ** 2) for grad in grads]
    np.testing.assert_allclose(np.frombuffer(results.pop()), expected, rtol=1e-12)


@array_doors
def test_graph_with_options_is_captured_and_replayed(door):
    """Whether a step updates is read when the graph runs; so nothing of it waits for the GPU."""
    oracle = OptionsOracle(True, True, [(4097,), (1,), (100,)], "float32")
    on_device = OptionsOnDevice(oracle, door)
    state = [on_device.state[role] for role in ROLES]
    buffers = {role: on_device.state[role] for role in ("averages", "grad_accums")}
    grads = oracle.new_grads()
    device_grads = [door.put(grad) for grad in grads]
    options = {
        "grad_scale": 0.5,
        "update": 0.0,
        "clip_factors": [0.5, 1.0, 2.0],
        "clipvalue": 0.7,
        "weight_decay": 0.1,
        "ema_momentum": 0.9,
    }
    scalars = {name: door.put(np.asarray(value)) for name, value in options.items()}
    out = door.put(np.zeros(3))

    def step():
        settings = {name: scalars[name] for name in ("grad_scale", "update")}
        kernels.squared_norms(device_grads, grad_accums=buffers["grad_accums"], out=out, **settings)
        kernels.fused_adadelta_apply(*state, device_grads, learning_rate=1.0, **buffers, **scalars)

    with door.stream():
        step()  # The driver loads a kernel when it is first launched.
    door.synchronize()
    oracle.options_step(grads, 1.0, options)
    replay = door.capture(step)
    for update_now in (0.0, 1.0, 0.0, 0.0, 1.0):
        scalars["update"][...] = update_now
        expected = [update_now * np.sum(total**2) for total in oracle.sums(grads, 0.5)]
        replay()
        oracle.options_step(grads, 1.0, {**options, "update": update_now})
        door.synchronize()
        np.testing.assert_allclose(door.get(out), expected, rtol=1e-5)
    oracle.check(*on_device.values())


SPARSE_SHAPES = [(13, 5), (40,), (7, 4097), (3, 2, 3), (3000, 64)]


def put_clocks(door, oracle):
    return [door.put(np.zeros(shape[0] + 1, np.int64)) for shape in oracle.shapes]


def check_sparse(door, oracle, state, clocks):
    door.synchronize()
    values = [[door.get(array) for array in arrays] for arrays in state]
    check_lagging(oracle, values, clocks and [door.get(clock) for clock in clocks])


def run_sparse(door, state, grads, indices, clocks=None, learning_rate=1.0, **rounding):
    kernels.fused_adadelta_sparse_apply(
        *state,
        [door.put(grad) for grad in grads],
        [door.put(rows) for rows in indices],
        clocks=clocks,
        learning_rate=learning_rate,
        **rounding,
    )


@array_doors
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
@dtypes
def test_sparse_matches_dense_oracle(door, dtype, index_dtype, exact):
    """Also with no index at all, and with more than one tile of the sort takes."""
    skip_dtype(door, dtype)
    oracle = Oracle(SPARSE_SHAPES, dtype)
    state = put_state(door, oracle)
    clocks = put_clocks(door, oracle) if exact else None
    for step in range(12):
        count = (0, 1, 9, 6000)[step % 4]
        indices = [
            oracle.rng.integers(0, s[0], min(count, 20 if s[-1] > 4000 else count)).astype(
                index_dtype
            )
            for s in SPARSE_SHAPES
        ]
        grads = oracle.new_slices(indices)
        run_sparse(door, state, grads, indices, clocks, 0.5 / (1 + step))
        oracle.sparse_step(grads, indices, 0.5 / (1 + step), lazy=not exact)
    check_sparse(door, oracle, state, clocks)


@array_doors
@pytest.mark.parametrize("count", [1, 4095, 4096, 4097, 50_000, 3_000_000])
def test_sparse_sort_of_any_length(door, count):
    oracle = Oracle([(1_000_003, 1)], "float32")
    state, clocks = put_state(door, oracle), put_clocks(door, oracle)
    for _ in range(2):
        indices = [oracle.rng.integers(0, 1_000_003, count)]
        grads = oracle.new_slices(indices)
        run_sparse(door, state, grads, indices, clocks)
        oracle.sparse_step(grads, indices, 1.0)
    check_sparse(door, oracle, state, clocks)


@array_doors
def test_sparse_same_bits_on_every_run(door):
    """Sums of floats depend on their order: many duplicates, and a third of a batch is padding."""
    results = []
    for _ in range(3):
        oracle = Oracle([(1000, 33), (7, 500)], "float32")
        state, clocks = put_state(door, oracle), put_clocks(door, oracle)
        for _ in range(3):
            indices = [oracle.rng.zipf(1.2, 20_000) % 1000, oracle.rng.integers(0, 7, 500)]
            indices[0][oracle.rng.random(20_000) < 0.3] = 0
            run_sparse(door, state, oracle.new_slices(indices), indices, clocks)
        door.synchronize()
        results.append([door.get(array).tobytes() for row in (*state, clocks) for array in row])
    assert all(result == results[0] for result in results[1:])


BAD_INDICES = [3, -1, 13, 0, 3, 14, -5, 2**31 - 1, -(2**31), 12]


@array_doors
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
def test_sparse_indices_out_of_range_are_skipped(door, index_dtype):
    oracle = Oracle([(13, 5)], "float32")
    indices = np.array(BAD_INDICES, index_dtype)
    valid = (indices >= 0) & (indices < 13)
    buffers, state = [], []
    for role in oracle.values:
        buffer = np.full((33, 5), 77, np.float32)
        buffer[10:-10] = oracle.stored(role)[0]
        buffers.append(door.put(buffer))
        state.append([buffers[-1][10:-10]])
    clocks = put_clocks(door, oracle)
    for _ in range(3):
        grads = oracle.new_slices([indices])
        grads[0][~valid] = np.nan
        run_sparse(door, state, grads, [indices], clocks)
        oracle.sparse_step([grads[0][valid]], [indices[valid]], 1.0)
    check_sparse(door, oracle, state, clocks)
    for buffer in map(door.get, buffers):
        assert (buffer[:10] == 77).all() and (buffer[-10:] == 77).all()


@array_doors
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
def test_sparse_indices_are_checked_on_demand(door, index_dtype, monkeypatch):
    monkeypatch.setenv("TF_ADADELTA_CHECK_INDICES", "1")
    oracle = Oracle([(13, 5), (13, 5)], "float32")
    state, clocks = put_state(door, oracle), put_clocks(door, oracle)
    indices = [np.array([0, 12], index_dtype), np.array(BAD_INDICES, index_dtype)]
    message = r"indices\[1\]\[1\] is -1, expected 0 to 12, a row of variables\[1\]"
    with pytest.raises(IndexError, match=message):
        run_sparse(door, state, oracle.new_slices(indices), indices, clocks)
    check_sparse(door, oracle, state, clocks)
    assert not any(door.get(clock).any() for clock in clocks)
    indices[1] = indices[0]
    grads = oracle.new_slices(indices)
    run_sparse(door, state, grads, indices, clocks)
    oracle.sparse_step(grads, indices, 1.0)
    check_sparse(door, oracle, state, clocks)


@array_doors
def test_sparse_graph_is_captured_and_replayed(door):
    """The memory of the sort is taken and given back inside the graph."""
    oracle = Oracle([(300, 64), (7, 3)], "float32")
    state, clocks = put_state(door, oracle), put_clocks(door, oracle)
    indices = [oracle.rng.integers(0, shape[0], 50) for shape in oracle.shapes]
    grads = oracle.new_slices(indices)
    arguments = [[door.put(array) for array in arrays] for arrays in (grads, indices)]

    def step():
        kernels.fused_adadelta_sparse_apply(*state, *arguments, clocks=clocks, learning_rate=0.5)

    with door.stream():
        step()  # The driver loads a kernel when it is first launched.
    door.synchronize()
    replay = door.capture(step)
    for _ in range(3):
        replay()
    for _ in range(4):
        oracle.sparse_step(grads, indices, 0.5)
    check_sparse(door, oracle, state, clocks)


@array_doors
def test_sparse_more_elements_than_32_bits_count(door):
    rows = 2**31 // 64 + 3
    if door.free_bytes() < 16e9:
        pytest.skip("less than 16 GB of GPU memory are free")
    flat = [door.filled(rows * 64, "float16", 0.0) for _ in range(3)]
    state = [array.reshape((rows, 64)) for array in flat]
    grad = np.ones((2, 64), np.float16)
    for _ in range(2):
        run_sparse(door, [[array] for array in state], [grad], [np.array([0, rows - 1])])
    door.synchronize()
    for array in state:
        first, second, last = (door.get(array[i : i + 1]) for i in (0, 1, rows - 1))
        np.testing.assert_array_equal(first, last)
        assert first.all() and not second.any()


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
                more = dict(zip(("averages", "grad_accums"), (
                    [door.put(np.ones(len(a) + offset, dtype))[offset:] for a in arrays[0]]
                    for _ in range(2)
                )))
                out = door.put(np.zeros(5))
                kernels.squared_norms(arrays[3], grad_accums=more["grad_accums"], out=out)
                for update in (True, False):
                    kernels.fused_adadelta_apply(
                        *arrays, **more, clip_factors=out, update=update, learning_rate=1.0
                    )
                door.synchronize()
        for dtype in ("float16", "float32", "float64"):
            for shape in ((5, 3), (700, 64), (3, 4097)):
                state = [door.put(np.ones(shape, dtype)) for _ in range(3)]
                clock = door.put(np.zeros(shape[0] + 1, np.int64))
                indices = door.put(np.arange(-2, 8) * 3)
                grad = door.put(np.ones((10, *shape[1:]), dtype))
                kernels.fused_adadelta_sparse_apply(
                    *state, grad, indices, clocks=clock, learning_rate=1.0
                )
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

    def run(*arguments):  # A function may not return an operation.
        step(*arguments)

    return tf.function(run, jit_compile=mode == "jit", reduce_retracing=False)


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
@needs_fma
@tf_modes
@forms
@pytest.mark.parametrize("sparse", [False, True])
def test_stochastic_rounding_of_the_op_has_the_bits_of_the_cpu(mode, sparse, dtype):
    oracle = Oracle([(9, 33), (4, 305)], dtype_of(dtype))
    arrays = arrays_of(oracle, dtype)
    call = ops.fused_adadelta_sparse_apply if sparse else ops.fused_adadelta_apply
    kernel = kernels.fused_adadelta_sparse_apply if sparse else kernels.fused_adadelta_apply
    with tf.device("GPU:0"):
        state = [[tf.Variable(array) for array in role] for role in arrays]

        @lambda step: as_function(mode, step)
        def run(step, *lists):
            call(*state, *lists, learning_rate=0.7, random_seeds=[3, 4], step=step)

        for step in range(3):
            lists = [oracle.new_grads()]
            if sparse:
                indices = [np.array([8, step, 8]), np.array([1])]
                lists = [oracle.new_slices(indices), indices]
            run(tf.constant(step, tf.int64), *([*map(tf.constant, one)] for one in lists))
            kernel(*arrays, *lists, learning_rate=0.7, random_seeds=[3, 4], step=step)
    for row, expected in zip(state, arrays):
        for variable, array in zip(row, expected):
            assert variable.numpy().tobytes() == array.tobytes()


@needs_tensorflow_gpu
@needs_fma
@tf_modes
@forms
def test_optimizer_with_stochastic_rounding_has_the_bits_of_the_cpu(mode, dtype):
    options = {"weight_decay": 0.01, "use_ema": True, "ema_momentum": 0.9}
    results = []
    for device in ("GPU:0", "CPU:0"):
        with tf.device(device):
            results.append(run_at_random(MODES[mode], dtype=dtype, **options))
    for on_gpu, on_cpu in zip(*results):
        assert on_gpu.tobytes() == on_cpu.tobytes()


@needs_tensorflow_gpu
@pytest.mark.parametrize("buffers", BUFFERS)
@dtypes
def test_op_with_options_matches_oracle(compiled, dtype, buffers):
    def make_door(oracle):
        return TensorFlow(oracle, compiled)

    with tf.device("GPU:0"):
        shapes = [(size,) for size in sizes(dtype)]
        run_against_oracle(make_door, dtype, shapes, buffers)


@needs_tensorflow_gpu
def test_norms_of_the_op_have_the_same_bits_on_every_run(compiled):
    rng = np.random.default_rng(0)
    with tf.device("GPU:0"):
        grads = [
            tf.constant(rng.standard_normal(n), tf.float32) for n in (10_000_019, 5, 0, 70_000)
        ]
        step = compiled(ops.fused_squared_norms)
        results = {step(grads).numpy().tobytes() for _ in range(10)}
    assert len(results) == 1
    expected = [np.sum(grad.numpy().astype(np.float64) ** 2) for grad in grads]
    np.testing.assert_allclose(np.frombuffer(results.pop()), expected, rtol=1e-12)


OPTIONS = {
    "all": {"global_clipnorm": 0.5, "gradient_accumulation_steps": 3},
    "clipnorm": {"clipnorm": 0.3, "loss_scale_factor": 4.0},
    "clipvalue": {"clipvalue": 0.2},
}


@needs_tensorflow_gpu
@tf_modes
@pytest.mark.parametrize("options", OPTIONS)
def test_optimizer_with_options_is_as_stock_keras(mode, options):
    results = []
    for make in (keras.optimizers.Adadelta, tf_adadelta.Adadelta):
        rng = np.random.default_rng(0)
        with tf.device("GPU:0"):
            variables = [
                keras.Variable(rng.standard_normal(shape), dtype="float32")
                for shape in ((), (3,), (5, 7), (4097,))
            ]
            optimizer = make(
                0.5, weight_decay=0.01, use_ema=True, ema_momentum=0.9, **OPTIONS[options]
            )
            optimizer.build(variables)
            step = as_function(mode, lambda *grads: optimizer.apply(grads, variables))  # noqa: B023
            for _ in range(20):
                step(*(tf.constant(rng.standard_normal(v.shape), tf.float32) for v in variables))
        results.append([v.numpy() for v in (*variables, *optimizer.variables)])
    for actual, expected in zip(*results):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


@needs_tensorflow_gpu
@tf_modes
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
@dtypes
def test_sparse_op_matches_dense_oracle(mode, dtype, index_dtype, exact):
    shapes = SPARSE_SHAPES[:-1]
    oracle = Oracle(shapes, dtype)
    with tf.device("GPU:0"):
        state = [[tf.Variable(array) for array in oracle.stored(role)] for role in oracle.values]
        clocks = [tf.Variable(tf.zeros(shape[0] + 1, tf.int64)) for shape in shapes]

        @lambda step: as_function(mode, step)
        def step(learning_rate, grads, indices):
            ops.fused_adadelta_sparse_apply(
                *state,
                grads,
                indices,
                clocks=clocks if exact else None,
                learning_rate=learning_rate,
            )

        for number in range(12):
            indices = [oracle.rng.integers(0, shape[0], 9).astype(index_dtype) for shape in shapes]
            grads = oracle.new_slices(indices)
            learning_rate = 0.5 / (1 + number)
            step(
                tf.constant(learning_rate, tf.float64),
                [tf.constant(grad) for grad in grads],
                [tf.constant(rows) for rows in indices],
            )
            oracle.sparse_step(grads, indices, learning_rate, lazy=not exact)
    assert all("GPU" in variable.device for row in (*state, clocks) for variable in row)
    values = [[variable.numpy() for variable in row] for row in state]
    check_lagging(oracle, values, [clock.numpy() for clock in clocks] if exact else None)


@needs_tensorflow_gpu
@tf_modes
@pytest.mark.parametrize("checked", [True, False])
def test_sparse_op_and_indices_out_of_range(mode, checked, monkeypatch):
    monkeypatch.setenv("TF_ADADELTA_CHECK_INDICES", str(int(checked)))
    with tf.device("GPU:0"):
        state = [[tf.Variable(tf.ones((4, 3))) for _ in range(2)] for _ in range(3)]
        step = as_function(
            mode,
            lambda rows: ops.fused_adadelta_sparse_apply(
                *state, [tf.fill([2, 3], 2.0)] * 2, [[3, 0], rows], learning_rate=1.0
            ),
        )
        if checked:
            message = r"indices\[1\]\[1\] is 4, expected 0 to 3, a row of variables\[1\]"
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                step(tf.constant([2, 4]))
        else:
            step(tf.constant([2, 4]))
    changed = [[(variable.numpy() != 1).any(axis=1).tolist() for variable in row] for row in state]
    expected = [[False] * 4] * 2
    if not checked:
        expected = [[True, False, False, True], [False, False, True, False]]
    assert changed == [expected] * 3


@needs_tensorflow_gpu
@tf_modes
def test_embedding_trains_as_with_dense_gradients(mode):
    """Through the optimizer, with its clocks on the GPU; read, assigned and stepped densely."""
    results = []
    for make in (keras.optimizers.Adadelta, tf_adadelta.Adadelta):
        rng = np.random.default_rng(0)
        with tf.device("GPU:0"):
            table = keras.Variable(rng.standard_normal((50, 7)), dtype="float32")
            optimizer = make(0.5)
            optimizer.build([table])

            @lambda step: as_function(mode, step)
            def step(indices, values, sparse):
                slices = tf.IndexedSlices(values, indices, tf.constant([50, 7]))
                ours = isinstance(optimizer, tf_adadelta.Adadelta)  # noqa: B023
                grad = slices if sparse and ours else tf.convert_to_tensor(slices)
                optimizer.apply([grad], [table])  # noqa: B023

            for number in range(12):
                indices = tf.constant(rng.integers(0, 50, 20))
                values = tf.constant(rng.standard_normal((20, 7)), tf.float32)
                step(indices, values, number % 5 != 4)
                if number == 6:  # Reading changes nothing.
                    [variable.numpy() for variable in optimizer.variables]
        results.append([table.numpy(), *(variable.numpy() for variable in optimizer.variables)])
    for actual, expected in zip(*results):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


@needs_tensorflow_gpu
@needs_xla
def test_one_sparse_custom_call_under_xla():
    with tf.device("GPU:0"):
        state = [tf.Variable(tf.ones((1000, 8))) for _ in range(3)]
        clock = tf.Variable(tf.zeros(1001, tf.int64))

        @tf.function(jit_compile=True)
        def step(indices):
            grad = tf.gather(state[0], indices)
            ops.fused_adadelta_sparse_apply(*state, grad, indices, clocks=clock, learning_rate=1.0)

        indices = tf.constant([5, 7, 5])
        step(indices)
        hlo = step.experimental_get_compiler_ir(indices)(stage="optimized_hlo")
    assert hlo.count('custom_call_target="tf_adadelta_fused_adadelta_sparse_apply"') == 1
    made = re.findall(r"= (?:f32\[1000,8\]|s64\[1001\])\S* (\w[\w-]*)\(", hlo)
    assert set(made) <= {"parameter", "get-tuple-element"}, made


@needs_tensorflow_gpu
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_what_was_read_before_stays(mode):
    """A buffer that somebody still reads is copied before it is written."""
    with tf.device("GPU:0"):
        state = [tf.Variable(tf.ones(5000)) for _ in range(3)]
        read = [variable.read_value() for variable in state]
        as_function(
            mode, lambda: ops.fused_adadelta_apply(*state, tf.fill([5000], 2.0), learning_rate=1.0)
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
