"""The CUDA kernel without a GPU: every thread of it run on the host, and what nvcc makes of it."""

import math
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from oracle import DTYPES, Oracle

from tf_adadelta import _kernels

CSRC = Path(__file__).resolve().parents[1] / "csrc"
CHUNK_BYTES = _kernels.CUDA_CHUNK_BYTES
UNLIMITED = 2**31 - 1  # Blocks a launch, on any GPU.


def emulate(
    state, grads, learning_rate=1.0, rho=0.95, epsilon=1e-7, by_pointer=False, blocks=UNLIMITED
):
    emulate_with(None, state, grads, learning_rate, rho, epsilon, by_pointer, blocks)


def emulate_with(
    options,
    state,
    grads,
    learning_rate=1.0,
    rho=0.95,
    epsilon=1e-7,
    by_pointer=False,
    blocks=UNLIMITED,
    averages=None,
    grad_accums=None,
    random_seeds=None,
    step=0,
):
    """The kernels with options, or without them where `options` is None."""
    neutral = {
        "grad_scale": 1.0,
        "update": True,
        "clip_factors": None,
        "clipvalue": math.inf,
        "weight_decay": 0.0,
        "ema_momentum": 0.0,
    }
    _kernels.emulate_cuda(
        *state,
        grads,
        averages,
        grad_accums,
        learning_rate,
        rho,
        epsilon,
        options is not None,
        *{**neutral, **(options or {})}.values(),
        random_seeds,
        step,
        by_pointer,
        blocks,
    )


def launches_of(starts, counts, itemsize, limit, stride, options=False, buffers=(False, False)):
    return _kernels.cuda_launches(starts, counts, options, *buffers, itemsize, limit, stride)


@pytest.mark.parametrize("by_pointer", [False, True], ids=["values", "pointers"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_oracle(dtype, by_pointer):
    chunk = CHUNK_BYTES // DTYPES[dtype].itemsize
    sizes = [0, 1, 3, 63, 64, 65, 257, 4097, chunk // 2 - 1, chunk - 1, chunk, 0, 3 * chunk + 5]
    oracle = Oracle([(size,) for size in sizes], dtype)
    state = [oracle.stored(role) for role in oracle.values]
    for step in range(20):
        grads = oracle.new_grads()
        learning_rate = 0.5 / (1 + step)
        emulate(state, grads, learning_rate, 0.9, 1e-6, by_pointer)
        oracle.step(grads, learning_rate, 0.9, 1e-6)
    oracle.check(*state)


@pytest.mark.parametrize("number", [0, 1, 2, 91, 92, 742, 743, 2000])
def test_lists_of_any_length(number):
    rng = np.random.default_rng(number)
    oracle = Oracle([(size,) for size in rng.integers(0, 300, number)], "float32")
    state = [oracle.stored(role) for role in oracle.values]
    for _ in range(2):
        grads = oracle.new_grads()
        emulate(state, grads)
        oracle.step(grads, 1.0)
    oracle.check(*state)


@pytest.mark.parametrize("dtype", DTYPES)
def test_addresses_that_no_vector_may_have(dtype):
    """Each stream starts anywhere, and not a byte beside it changes."""
    per_vector = 16 // DTYPES[dtype].itemsize
    size = CHUNK_BYTES // DTYPES[dtype].itemsize + 2 * per_vector + 1
    rng = np.random.default_rng(0)
    together = [[i] * 4 for i in range(per_vector + 1)]
    one_alone = np.eye(4, dtype=int).tolist()
    for offsets in together + one_alone + rng.integers(0, 9, (8, 4)).tolist():
        oracle = Oracle([(size,)], dtype)
        buffers = [np.full(size + 2 * 16, 77, oracle.dtype) for _ in range(4)]
        views = [buffer[start : start + size] for buffer, start in zip(buffers, offsets)]
        grads = oracle.new_grads()
        for view, value in zip(views, [*(oracle.stored(r)[0] for r in oracle.values), grads[0]]):
            view[:] = value
        emulate([[view] for view in views[:3]], [views[3]])
        oracle.step(grads, 1.0)
        oracle.check(*([view] for view in views[:3]))
        np.testing.assert_array_equal(views[3], grads[0])
        for buffer, start in zip(buffers, offsets):
            assert (buffer[:start] == 77).all() and (buffer[start + size :] == 77).all()


@pytest.mark.parametrize("blocks", [1, 2, 7])
def test_bits_do_not_depend_on_the_launches(blocks):
    results = []
    for limit in (UNLIMITED, blocks):
        oracle = Oracle([(50_003,), (5,), (0,), (8192,)], "float32")
        state = [oracle.stored(role) for role in oracle.values]
        emulate(state, oracle.new_grads(), blocks=limit)
        results.append(np.concatenate([np.concatenate(arrays) for arrays in state]))
    np.testing.assert_array_equal(*(result.view(np.uint32) for result in results))


def make_addresses(counts, itemsize, rng):
    """First addresses of arrays that lie apart from each other, in any order."""
    order = rng.permutation(len(counts))
    starts, address = [0] * len(counts), 2**20
    for i in order:
        starts[i] = address
        address += counts[i] * itemsize + int(rng.integers(1, 100)) * itemsize
    return starts


@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_launches_cover_every_element_once(itemsize):
    rng = np.random.default_rng(itemsize)
    chunk = CHUNK_BYTES // itemsize
    lists = [
        [],
        [0],
        [1],
        [0, 0, 5, 0],
        [chunk] * 3,
        *(rng.integers(0, 3 * chunk, rng.integers(1, 60)).tolist() for _ in range(30)),
        *((rng.integers(0, 2, 40) * rng.integers(0, 10**5, 40)).tolist() for _ in range(10)),
        rng.integers(0, 500, 2000).tolist(),
    ]
    for counts in lists:
        starts = make_addresses(counts, itemsize, rng)
        expected = [
            (start + begin * itemsize, start + min(begin + chunk, count) * itemsize)
            for start, count in zip(starts, counts)
            for begin in range(0, count, chunk)
        ]
        for limit in (UNLIMITED, 1, 3, 1000):
            launches = launches_of(starts, counts, itemsize, limit, 1)
            for number, blocks in launches:
                assert 1 <= number <= limit
                assert [block for block, _, _ in blocks] == list(range(number))
            chunks = [chunk[1:] for _, blocks in launches for chunk in blocks]
            assert chunks == expected


@pytest.mark.parametrize(
    "number, launches", [(0, 0), (91, 1), (92, 1), (742, 1), (743, 2), (2000, 3)]
)
def test_number_of_launches(number, launches):
    counts = [256, 0] * number
    starts = [2048 * i for i in range(2 * number)]
    assert len(launches_of(starts, counts, 4, UNLIMITED, 1)) == launches


def check_chunks(launches, starts, counts, itemsize):
    """The blocks that were looked at have the chunks of all tensors, one after the other."""
    chunk = CHUNK_BYTES // itemsize
    firsts = np.cumsum([0, *(-(-count // chunk) for count in counts)]).tolist()
    done = 0
    for number, blocks in launches:
        assert 1 <= number <= UNLIMITED
        for block, begin, end in blocks:
            tensor = int(np.searchsorted(firsts, done + block, side="right")) - 1
            offset = (done + block - firsts[tensor]) * chunk
            assert begin == starts[tensor] + offset * itemsize
            assert end == starts[tensor] + min(offset + chunk, counts[tensor]) * itemsize
        done += number
    assert done == firsts[-1]


@pytest.mark.parametrize(
    "counts, itemsize",
    [([2**31 + 3], 2), ([5, 2**33 + 1, 7], 4), ([2**40 + 1, 7, 2**33], 4), ([2**41 + 5, 3], 8)],
)
def test_sizes_beyond_32_bits(counts, itemsize):
    starts = make_addresses(counts, itemsize, np.random.default_rng(0))
    stride = 999_983 if sum(counts) > 2**34 else 997
    launches = launches_of(starts, counts, itemsize, UNLIMITED, stride)
    check_chunks(launches, starts, counts, itemsize)


def find_nvcc():
    packages = Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin/nvcc")
    return shutil.which("nvcc") or next(map(str, packages), None)


NVCC = find_nvcc()
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="there is no nvcc on the PATH")


def nvcc(output, *arguments, source="dense.cu"):
    source = str(CSRC / "cuda" / source)
    return subprocess.run(
        [NVCC, "-std=c++17", "--fmad=false", f"-I{CSRC}", *arguments, "-o", str(output), source],
        capture_output=True,
        text=True,
        timeout=120,
    )


def architectures():
    if NVCC is None:
        return ["none"]
    listed = subprocess.run([NVCC, "--list-gpu-arch"], capture_output=True, text=True).stdout
    found = sorted(
        {name for name in re.findall(r"compute_(\d+)", listed) if int(name) >= 70}, key=int
    )
    # A few seconds each: the oldest and the newest always, the generations between in CI.
    between = [
        pytest.param(name, marks=pytest.mark.exhaustive)
        for name in found[1:-1]
        if name.endswith("0")
    ]
    return [found[0], *between, found[-1]]


# Of four dtypes, bfloat16 rounded in two ways, float32 with three types of averages, and of two
# capacities: the plain kind and four with options; the norms without and with grad_accums, and one
# kernel that adds the pieces.
KERNELS = {"dense.cu": 7 * 2 * 5, "norms.cu": 4 * 2 * 2 + 1}


@needs_nvcc
@pytest.mark.parametrize("source", KERNELS)
@pytest.mark.parametrize("architecture", architectures())
def test_registers_hold_everything(architecture, source, tmp_path):
    """What the compiler reports of the real source: no warning, no spill, no stack."""
    result = nvcc(
        tmp_path / "kernels.cubin",
        f"-arch=sm_{architecture}",
        "--Werror=all-warnings",
        "--resource-usage",
        "-cubin",
        source=source,
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0 and "warning" not in output, output
    frames = re.findall(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", output
    )
    assert frames == [("0", "0", "0")] * KERNELS[source], output
    kernels = re.findall(r"entry function '(\w+)'.*?Used (\d+) registers", output, re.DOTALL)
    assert len(kernels) == KERNELS[source]
    for name, registers in kernels:
        # Three blocks a multiprocessor: 98,304 bytes on their way, more than any GPU's memory
        # needs. Of the six streams of all options, two blocks have as many; of accumulators in 8
        # bits they have 40,960, which is enough.
        three_blocks = re.search(r"DenseKindILb0ELb0ELb0ELb\dELb0E", name)
        assert int(registers) <= (80 if three_blocks else 128), (name, registers)


@needs_nvcc
def test_a_thread_loads_all_before_it_stores(tmp_path):
    """And no more than the step needs: one that does not update is apart from one that does."""
    ptx = tmp_path / "dense.ptx"
    result = nvcc(ptx, "-arch=compute_90", "-ptx")
    assert result.returncode == 0, result.stderr
    kernels = ptx.read_text().split(".entry ")[1:]
    assert len(kernels) == KERNELS["dense.cu"]
    for kernel in kernels:
        flags = re.search(r"DenseKindILb\dELb(\d)ELb(\d)ELb(\d)ELb(\d)E", kernel).groups()
        average, grad_accum, random, blocks = map(int, flags)
        if blocks:  # Element by element, of two accumulators with a scale each.
            accesses = re.findall(r"(ld|st)\.global\.(?:f32|u32|u8)", kernel)
            states = 2 * (8 + 1)
            loads, stores = 8 * (2 + average + grad_accum), 8 * (1 + average + grad_accum)
            expected = ["ld"] * (loads + states) + ["st"] * (stores + states)
            if grad_accum:
                expected = ["ld"] * (16 + 16 * average) + ["st"] * (8 + 8 * average) + expected
            assert accesses == expected, flags
            continue
        # Averages in bfloat16 beside float32 have vectors of half the size.
        vectors = r"(ld|st)\.global\.(v4\.\w32|v2\.\w64|v2\.\w32|v4\.\w16)"
        accesses = [a for a, _ in re.findall(vectors, kernel)]
        loads = 8 + 2 * average + grad_accum * (2 + 4 + 4 * average)
        stores = 6 + 2 * average + grad_accum * (2 + 2 + 2 * average)
        if average and grad_accum and random:  # One vector of each stream in place of two.
            loads, stores = loads // 2, stores // 2
        assert accesses == ["ld"] * loads + ["st"] * stores, flags
