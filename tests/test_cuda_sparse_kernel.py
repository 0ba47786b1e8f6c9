"""The CUDA kernels of the sparse update without a GPU, every thread of them run on the host."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import DTYPES, Oracle, sum_rows
from test_cuda_kernel import architectures, needs_nvcc, nvcc
from test_sparse_kernel import check, sequences

from tf_adadelta import _kernels, kernels


def emulate(
    state,
    grads,
    indices,
    clocks=None,
    learning_rate=1.0,
    rho=0.95,
    epsilon=1e-7,
    random_seeds=None,
    step=0,
    blocks=1,
    pieces=1,
):
    return _kernels.emulate_cuda_sparse(
        *state,
        grads,
        indices,
        clocks,
        learning_rate,
        rho,
        epsilon,
        random_seeds,
        step,
        blocks,
        pieces,
    )


@settings(max_examples=150, deadline=None)
@given(
    sequence=sequences(),
    dtype=st.sampled_from(list(DTYPES)),
    index_dtype=st.sampled_from([np.int32, np.int64]),
    blocks=st.integers(1, 3),
    pieces=st.integers(1, 3),
    lazy=st.booleans(),
)
def test_matches_dense_oracle(sequence, dtype, index_dtype, blocks, pieces, lazy):
    shapes, steps = sequence
    oracle = Oracle(shapes, dtype)
    state = [oracle.stored(role) for role in oracle.values]
    clocks = None if lazy else [np.zeros(shape[0] + 1, np.int64) for shape in shapes]
    for number, indices in enumerate(steps):
        indices = [np.array(rows, index_dtype) for rows in indices]
        grads = oracle.new_slices(indices)
        learning_rate = 0.5 / (1 + number)
        bad = emulate(state, grads, indices, clocks, learning_rate, blocks=blocks, pieces=pieces)
        assert bad == [-1] * len(shapes)
        oracle.sparse_step(grads, indices, learning_rate, lazy=lazy)
    check(oracle, state, clocks)


@pytest.mark.parametrize(
    "shape", [(9, 1), (9, 4), (9, 5), (9, 127), (9, 128), (9, 129), (5, 4097), (5, 0), (300,)]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_any_width(shape, dtype):
    """Around the columns of a thread, of a group of threads and of a piece; few blocks for all."""
    for blocks, pieces in [(1, 1), (2, 3), (100, 100)]:
        oracle = Oracle([shape], dtype)
        state = [oracle.stored(role) for role in oracle.values]
        clocks = [np.zeros(shape[0] + 1, np.int64)]
        for _ in range(3):
            indices = [oracle.rng.integers(0, shape[0], 600 if len(shape) == 1 else 20)]
            grads = oracle.new_slices(indices)
            emulate(state, grads, indices, clocks, blocks=blocks, pieces=pieces)
            oracle.sparse_step(grads, indices, 1.0)
        check(oracle, state, clocks)


COPIES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 63, 64, 65, 127, 128, 1000, 4095, 4096, 4097, 8300]


@pytest.mark.parametrize("run", ["emulated", *kernels.instruction_sets()])
@pytest.mark.parametrize("copies", COPIES)
def test_duplicates_are_summed_in_their_order(copies, run):
    """In float32 another order would round to other bits; also where they are the last slots."""
    rng = np.random.default_rng(copies)
    indices = np.array([0, 2, 2, *[5] * copies, *[3] * (copies // 2)])
    rng.shuffle(indices)
    grad = (rng.standard_normal((len(indices), 3)) * 10.0 ** rng.integers(-4, 4, (1, 3))).astype(
        np.float32
    )
    state = [np.zeros((6, 3), np.float32) for _ in range(3)]
    if run == "emulated":
        emulate([[array] for array in state], [grad], [indices], rho=0.0, blocks=2)
    else:
        kernels.fused_adadelta_sparse_apply(
            *state, grad, indices, learning_rate=1.0, rho=0.0, instruction_set=run
        )
    for row in np.unique(indices):
        total = sum_rows(grad[indices == row], np.float32)
        np.testing.assert_array_equal(state[1][row], total * total)
    assert not state[1][np.setdiff1d(np.arange(6), indices)].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_as_on_the_cpu(dtype):
    """Of an instruction set that fuses nothing, as the host that emulates does not."""
    results = []
    for blocks in (None, 1, 3):
        oracle = Oracle([(50, 33), (7, 500)], dtype)
        state = [oracle.stored(role) for role in oracle.values]
        clocks = [np.zeros(51, np.int64), np.zeros(8, np.int64)]
        for _ in range(5):
            indices = [oracle.rng.zipf(1.2, 200) % 50, oracle.rng.integers(0, 7, 3)]
            grads = oracle.new_slices(indices)
            if blocks is None:
                kernels.fused_adadelta_sparse_apply(
                    *state,
                    grads,
                    indices,
                    clocks=clocks,
                    learning_rate=1.0,
                    instruction_set="baseline",
                )
            else:
                emulate(state, grads, indices, clocks, blocks=blocks, pieces=blocks)
        results.append([array.tobytes() for arrays in (*state, clocks) for array in arrays])
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_indices_out_of_range_are_skipped(index_dtype, blocks):
    """Neither read nor written: of the table not a byte more changes, and the rest is updated."""
    info = np.iinfo(index_dtype)
    rows = 13
    oracle = Oracle([(rows, 5)], "float32")
    buffers, state = [], []
    for role in oracle.values:
        buffer = np.full((rows + 20, 5), 77, np.float32)
        buffer[10:-10] = oracle.stored(role)[0]
        buffers.append(buffer)
        state.append([buffer[10:-10]])
    clock_buffer = np.full(rows + 21, 77, np.int64)
    clock = clock_buffer[10:-10]
    clock[:] = 0
    indices = np.array(
        [3, -1, rows, 0, 3, rows + 1, -5, info.max, info.min, 12, 16, 15], index_dtype
    )
    valid = (indices >= 0) & (indices < rows)
    for _ in range(3):
        grads = oracle.new_slices([indices])
        grads[0][~valid] = np.nan
        assert emulate(state, grads, [indices], [clock], blocks=blocks) == [1]
        oracle.sparse_step([grads[0][valid]], [indices[valid]], 1.0)
    check(oracle, state, [clock])
    for buffer in (*buffers, clock_buffer):
        assert (buffer[:10] == 77).all() and (buffer[-10:] == 77).all()


def test_nothing_but_bad_indices_is_an_empty_update():
    state = [[np.ones((4, 3), np.float32)] for _ in range(3)]
    clock = np.zeros(5, np.int64)
    grad = np.ones((2, 3), np.float32)
    assert emulate(state, [grad], [np.array([4, -1])], [clock]) == [0]
    assert emulate(state, [grad[:0]], [np.zeros(0, int)], [clock]) == [-1]
    assert all((array == 1).all() for (array,) in state)
    np.testing.assert_array_equal(clock, [0, 0, 0, 0, 2])


def test_table_without_rows():
    state = [[np.ones((0, 3), np.float32)] for _ in range(3)]
    clock = np.zeros(1, np.int64)
    grad = np.ones((2, 3), np.float32)
    assert emulate(state, [grad], [np.array([0, 5])], [clock]) == [0]
    assert clock[0] == 1


def test_first_bad_position_of_many():
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 50, 2000)
    for position in (1999, 700, 256, 255, 0):
        indices[position] = 50
        state = [[np.zeros((50, 1), np.float32)] for _ in range(3)]
        grad = np.ones((2000, 1), np.float32)
        for blocks in (1, 2, 10):
            assert emulate(state, [grad], [indices], blocks=blocks) == [position]


@pytest.mark.parametrize("rows", [1, 2, 2**11, 2**22 + 5, 2**31 - 1, 2**31, 2**31 + 5])
def test_bits_that_are_sorted(rows):
    """All that a row may have, and the one that is said of an index out of range."""
    indices = np.array([rows - 1, 0, rows // 2, rows, rows - 1, -1, 0], np.int64)
    state = [np.zeros(rows, np.float16) for _ in range(3)]
    grad = np.arange(1, 8).astype(np.float16)
    emulate([[array] for array in state], [grad], [indices])
    for row in {0, rows // 2, rows - 1}:
        expected = 0.05 * grad[indices == row].sum() ** 2
        np.testing.assert_allclose(state[1][row], expected, rtol=1e-3)


def test_more_than_2_to_the_31_elements():
    rows = 2**31 // 64 + 3
    state = [np.zeros((rows, 64), np.float16) for _ in range(3)]
    clock = np.zeros(rows + 1, np.int64)
    grad = np.ones((2, 64), np.float16)
    for _ in range(2):
        emulate([[array] for array in state], [grad], [np.array([0, rows - 1])], [clock])
    for array in state:
        np.testing.assert_array_equal(array[0], array[-1])
        assert array[0].all() and not array[1].any() and not array[-2].any()
    assert clock[0] == clock[-2] == clock[-1] == 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_long_idle_times(dtype):
    """ρ to their power is no number any more: an infinite average stays so, a large one decays."""
    state = [[np.array(values, dtype)] for values in ([0, 0, 0], [np.inf, 1e38, 1e38], [1, 0, 0])]
    clock = np.array([-(10**6), 0, 2**40, 1800], np.int64)
    emulate(state, [np.zeros(3, dtype)], [np.arange(3)], [clock])
    accum = state[1][0]
    assert np.isinf(accum[0]) and state[2][0][0] < 1e-30
    np.testing.assert_allclose(accum[1:], [1e38 * 0.95**1801, 0.95e38], rtol=1e-4)
    np.testing.assert_array_equal(clock, [1801] * 4)


@needs_nvcc
@pytest.mark.parametrize("architecture", architectures())
def test_registers_hold_everything(architecture, tmp_path):
    """What the compiler reports of the real source: no warning, no spill, no stack."""
    result = nvcc(
        tmp_path / "sparse.o",
        f"-arch=sm_{architecture}",
        "--Werror=all-warnings",
        "-Xcompiler=-Wall,-Wextra",
        "--resource-usage",
        "-c",
        source="sparse.cu",
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0 and "warning" not in output, output
    registers = list(map(int, re.findall(r"Used (\d+) registers", output)))
    # Four kernels for each of two types, two for each of seven ways to store a variable.
    assert len(registers) == 22
    # Two blocks a multiprocessor at least.
    assert max(registers) <= 128, registers
    # A function that is called, as pow may be, has a line of its own.
    frames = re.findall(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", output
    )
    assert len(frames) >= 22 and set(frames) == {("0", "0", "0")}, output
