"""The CPU kernel through the NumPy door."""

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from oracle import DTYPES, Oracle
from subprocesses import check_program

from tf_adadelta import _kernels, kernels

BLOCK = 32 * 1024
SIZES = [0, 1, 3, 63, 64, 65, 4097, BLOCK - 1, BLOCK, 2 * BLOCK + 5]


@pytest.mark.parametrize("instruction_set", kernels.instruction_sets())
@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_oracle(dtype, num_threads, instruction_set):
    oracle = Oracle([(size,) for size in SIZES], dtype)
    state = [oracle.stored(role) for role in oracle.values]
    for step in range(20):
        grads = oracle.new_grads()
        learning_rate = 0.5 / (1 + step)
        kernels.fused_adadelta_apply(
            *state,
            grads,
            learning_rate=learning_rate,
            num_threads=num_threads,
            instruction_set=instruction_set,
        )
        oracle.step(grads, learning_rate)
    oracle.check(*state)


@pytest.mark.parametrize("instruction_set", kernels.instruction_sets())
def test_more_than_caches_hold(instruction_set):
    """Bit for bit what the parts of it give, each of which a cache holds."""
    size = 5 * 2**20 + 3
    rng = np.random.default_rng(0)
    whole = [np.zeros(size, np.float32) for _ in range(5)]
    parts = [array.copy() for array in whole]
    for _ in range(2):
        grad = rng.standard_normal(size, np.float32)
        for arrays in (
            [(*whole, grad)],
            list(zip(*(np.split(a, [2**21]) for a in (*parts, grad)))),
        ):
            for *state, average, grad_accum, part in arrays:
                kernels.fused_adadelta_apply(
                    *state,
                    part,
                    averages=average,
                    grad_accums=grad_accum,
                    learning_rate=1.0,
                    ema_momentum=0.9,
                    instruction_set=instruction_set,
                )
    for a, b in zip(whole, parts):
        assert a.tobytes() == b.tobytes()
    assert all(state.any() for state in whole[:4])


@pytest.mark.parametrize("rho, epsilon", [(0.0, 1e-6), (0.9, 1e-2), (0.999, 1e-8), (1.0, 1e-7)])
def test_hyperparameters(rho, epsilon):
    oracle = Oracle([(257,)], "float32")
    state = [oracle.stored(role) for role in oracle.values]
    for _ in range(20):
        grads = oracle.new_grads()
        kernels.fused_adadelta_apply(*state, grads, learning_rate=1.0, rho=rho, epsilon=epsilon)
        oracle.step(grads, 1.0, rho, epsilon)
    oracle.check(*state)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bit_values_survive_storage(dtype):
    """With a zero step every one of the 65,536 values comes back with its own bits."""
    bits = np.arange(2**16, dtype=np.uint16)
    values = bits.view(DTYPES[dtype])
    for instruction_set in kernels.instruction_sets():
        variable = values.copy()
        zeros = np.zeros_like(values)
        kernels.fused_adadelta_apply(
            variable,
            zeros.copy(),
            zeros.copy(),
            zeros,
            learning_rate=0.0,
            instruction_set=instruction_set,
        )
        nan = np.isnan(values.astype(np.float32))
        assert np.array_equal(np.isnan(variable.astype(np.float32)), nan)
        changed = variable.view(np.uint16)[~nan] != bits[~nan]
        # A subnormal bfloat16 is a subnormal float, and is flushed to zero.
        magnitude = np.abs(values[~nan].astype(np.float32))
        assert np.all(magnitude[changed] < np.finfo(np.float32).tiny)
        if dtype == "float16":
            assert not changed.any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounds_to_nearest_even(dtype):
    """The accumulator is rho * a + (1 - rho) * g²: with rho = 0 the square of g, rounded."""
    rng = np.random.default_rng(0)
    g = (2.0 ** rng.uniform(-16, 9, 50_000)).astype(DTYPES[dtype])
    g[:3] = [0.0, 2.0**-12, 300.0]  # A zero, a half of the smallest subnormal half, an overflow.
    expected = (g.astype(np.float32) ** 2).astype(DTYPES[dtype])
    for instruction_set in kernels.instruction_sets():
        accum = np.zeros_like(g)
        kernels.fused_adadelta_apply(
            np.zeros_like(g),
            accum,
            np.zeros_like(g),
            g,
            learning_rate=1.0,
            rho=0.0,
            instruction_set=instruction_set,
        )
        np.testing.assert_array_equal(accum.view(np.uint16), expected.view(np.uint16))


def test_bits_do_not_depend_on_threads():
    results = []
    for num_threads in (1, 2, 3, 8):
        oracle = Oracle([(3 * BLOCK + 7,), (5,), (BLOCK,)], "float32")
        state = [oracle.stored(role) for role in oracle.values]
        for _ in range(3):
            kernels.fused_adadelta_apply(
                *state, oracle.new_grads(), learning_rate=1.0, num_threads=num_threads
            )
        results.append(np.concatenate([np.concatenate(arrays) for arrays in state]))
    for result in results[1:]:
        np.testing.assert_array_equal(result.view(np.uint32), results[0].view(np.uint32))


@pytest.mark.parametrize("instruction_set", kernels.instruction_sets())
@pytest.mark.parametrize(
    ("dtype", "random"),
    [*((dtype, {}) for dtype in DTYPES), ("bfloat16", {"random_seeds": [1]})],
)
def test_a_nan_keeps_none_of_its_payload(dtype, random, instruction_set):
    """Rounded to bfloat16, one with all bits set would be carried over to a number."""
    nan = np.uint64(0x7FFFFFFFFFFFFFFF).view(np.float64).item()
    neutral = {"learning_rate": 0.1, "rho": 0.9, "epsilon": 1e-7}
    options = ("grad_scale", "clipvalue", "weight_decay", "ema_momentum")
    for name in (*neutral, *options, "clip_factors"):
        how = {**neutral, name: [nan] if name == "clip_factors" else nan}
        state = [np.ones(67, DTYPES[dtype]) for _ in range(4)]
        average = np.ones(67, DTYPES[dtype])
        more = {"averages": average} if name == "ema_momentum" else {}
        kernels.fused_adadelta_apply(
            *state, **how, **more, **random, instruction_set=instruction_set
        )
        written = average if more else state[0]
        assert np.isnan(written.astype(np.float64)).all() or name == "clipvalue"
    state = [np.ones((3, 67), DTYPES[dtype]) for _ in range(3)]
    kernels.fused_adadelta_sparse_apply(
        *state,
        np.ones((1, 67), DTYPES[dtype]),
        np.array([1]),
        clocks=np.array([0, 0, 0, 5]),
        **{**neutral, "rho": nan},
        **random,
        instruction_set=instruction_set,
    )
    for array in state:
        assert np.isnan(array[1].astype(np.float64)).all()


def run_steps(num_threads):
    oracle = Oracle([(5 * BLOCK + 3,)], "float32")
    state = [oracle.stored(role) for role in oracle.values]
    for _ in range(20):
        kernels.fused_adadelta_apply(
            *state, oracle.new_grads(), learning_rate=1.0, num_threads=num_threads
        )
    return b"".join(array.tobytes() for (array,) in state)


def test_calls_at_once_share_threads():
    expected = run_steps(1)
    with ThreadPoolExecutor(8) as callers:
        assert all(result == expected for result in callers.map(run_steps, [2, 3, 4, 5] * 8))


def test_threads_are_kept_and_a_fork_starts_its_own():
    """The fork has none of its parent's threads, and perhaps a lock that one of them holds."""
    program = """
        import os, signal, threading, warnings
        from test_kernels import run_steps

        def count_threads():
            return len(os.listdir("/proc/self/task"))

        expected = run_steps(1)
        before = count_threads()
        assert run_steps(4) == expected and run_steps(4) == expected
        assert count_threads() == before + 3
        caller = threading.Thread(target=lambda: [run_steps(4) for _ in range(10)])
        caller.start()
        warnings.simplefilter("ignore", DeprecationWarning)  # Of a fork beside threads.
        for _ in range(10):
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                assert count_threads() == 1
                same = run_steps(3) == expected and count_threads() == 3
                os._exit(0 if same else 1)
            assert os.waitpid(child, 0)[1] == 0
        caller.join()
    """
    check_program(program)


def test_subnormals_are_harmless():
    """Accumulators that have decayed to subnormal numbers neither slow down nor spoil anything."""
    n = 4097
    variable, accum, accum_update = (np.full(n, 1e-40, np.float32) for _ in range(3))
    for _ in range(20):
        kernels.fused_adadelta_apply(
            variable, accum, accum_update, np.zeros(n, np.float32), learning_rate=1.0
        )
    for array in (variable, accum, accum_update):
        assert np.all(np.abs(array) <= 1e-40)


def test_large_gradients():
    """Where sqrt((u + ε) / (a + ε)) would have underflowed."""
    g = np.array([1e16, -1e17, 1e18], np.float32)
    variable, accum, accum_update = (np.zeros(3, np.float32) for _ in range(3))
    kernels.fused_adadelta_apply(variable, accum, accum_update, g, learning_rate=1.0)
    expected = -np.sign(g) * np.sqrt(1e-7 / 0.05)
    np.testing.assert_allclose(variable, expected, rtol=1e-5)


def test_not_a_number_stays_where_it_is():
    g = np.zeros(100, np.float32)
    g[[3, 50]] = np.nan, np.inf
    state = [np.ones(100, np.float32) for _ in range(3)]
    kernels.fused_adadelta_apply(*state, g, learning_rate=1.0)
    for array in state:
        assert np.isfinite(np.delete(array, [3, 50])).all()
    assert np.isnan(state[0][[3, 50]]).all()


def test_unaligned_starts():
    """Any multiple of the element size will do as an address."""
    for offset in range(1, 17):
        oracle = Oracle([(1000,)], "float32")
        buffers = [np.zeros(1017, np.float32) for _ in range(3)]
        state = [buffer[offset : offset + 1000] for buffer in buffers]
        for view, role in zip(state, oracle.values):
            view[:] = oracle.stored(role)[0]
        grads = oracle.new_grads()
        kernels.fused_adadelta_apply(*state, grads[0], learning_rate=1.0)
        oracle.step(grads, 1.0)
        oracle.check(*([view] for view in state))
        for buffer in buffers:
            assert not buffer[:offset].any() and not buffer[offset + 1000 :].any()


@pytest.mark.parametrize("block", [64, 128, 32768])
def test_partition_covers_every_element_once(block):
    rng = np.random.default_rng(block)
    for counts in (
        [],
        [0],
        [1],
        [0, 0, 5, 0],
        [2**31 + 3],
        [2**40 + 1, 7, 2**33],
        *(rng.integers(0, 300, rng.integers(1, 50)).tolist() for _ in range(50)),
        *((rng.integers(0, 2, 20) * rng.integers(0, 10**5, 20)).tolist() for _ in range(20)),
    ):
        counts = [int(count) for count in counts]
        if sum(counts) // block > 10**5:
            check_ends_of_partition(counts, 2**30)
            continue
        pieces = _kernels.partition(counts, block)
        covered = [0] * len(counts)
        tiles = {}
        for number, tensor, begin, end in pieces:
            assert begin == covered[tensor] and begin < end and begin % 64 == 0
            covered[tensor] = end
            tiles[number] = tiles.get(number, 0) + -(-(end - begin) // 64)
        assert covered == counts
        assert list(tiles) == list(range(len(tiles)))
        assert all(size * 64 == block for size in list(tiles.values())[:-1])


def check_ends_of_partition(counts, block):
    pieces = _kernels.partition(counts, block)
    covered = [0] * len(counts)
    for _, tensor, begin, end in pieces:
        assert begin == covered[tensor] and begin < end
        covered[tensor] = end
    assert covered == counts


def arrays(count=1, shape=(4,), dtype=np.float32):
    return [[np.ones(shape, dtype) for _ in range(count)] for _ in range(4)]


@pytest.mark.parametrize(
    "spoil, error, message",
    [
        (lambda c: c[1].pop(), ValueError, r"accums has 1 arrays, expected 2"),
        (
            lambda c: c[1].__setitem__(1, np.ones(5, np.float32)),
            ValueError,
            r"accums\[1\] has shape \(5,\), expected \(4,\)",
        ),
        (
            lambda c: c[3].__setitem__(1, np.ones(4)),
            TypeError,
            r"grads\[1\] has dtype float64, expected float32",
        ),
        (
            lambda c: [row.__setitem__(0, np.ones(4, np.int32)) for row in c],
            TypeError,
            r"variables\[0\] has dtype int32, expected float16",
        ),
        (
            lambda c: c[2].__setitem__(1, np.ones(8, np.float32)[::2]),
            ValueError,
            r"accum_updates\[1\] is not C-contiguous",
        ),
        (
            lambda c: c[0][1].setflags(write=False),
            ValueError,
            r"variables\[1\] is read-only",
        ),
        (
            lambda c: c[3].__setitem__(1, np.ones(17, np.uint8)[1:].view(np.float32)),
            ValueError,
            r"grads\[1\] is not aligned",
        ),
        (
            lambda c: c[2].__setitem__(1, c[1][0]),
            ValueError,
            r"accums\[0\] and accum_updates\[1\] share memory",
        ),
        (
            lambda c: c[3].__setitem__(0, c[0][0]),
            ValueError,
            r"variables\[0\] and grads\[0\] share memory",
        ),
        (lambda c: c[3].__setitem__(0, [1.0] * 4), TypeError, r"grads\[0\] is of type list"),
    ],
)
def test_bad_input(spoil, error, message):
    call = arrays(count=2)
    spoil(call)
    before = [[np.array(array) for array in row] for row in call]
    with pytest.raises(error, match=message):
        kernels.fused_adadelta_apply(*call, learning_rate=1.0)
    for row, row_before in zip(call, before):
        for array, array_before in zip(row, row_before):
            np.testing.assert_array_equal(array, array_before)


@pytest.mark.parametrize(
    "scalar, message",
    [
        ({"learning_rate": "x"}, "learning_rate is 'x', expected a number"),
        ({"learning_rate": None}, "learning_rate is None, expected a number"),
        ({"rho": [0.9]}, r"rho is \[0.9\], expected a number"),
        ({"step": 1.5}, "step is 1.5, expected an integer of 64 bits"),
        ({"num_threads": "2"}, "num_threads is '2', expected an integer of 64 bits"),
        ({"instruction_set": 3}, "instruction_set is 3, expected a str"),
        (
            {"random_seeds": 3},
            "random_seeds is 3, expected an integer of 64 bits for each variable",
        ),
        (
            {"random_seeds": np.array([1, 2**64])},
            r"random_seeds\[1\] is .*, expected an integer of",
        ),
    ],
)
@pytest.mark.parametrize("sparse", [False, True])
def test_bad_scalars(scalar, message, sparse):
    call = arrays(count=2)
    update = kernels.fused_adadelta_apply
    if sparse:
        call = [[array.reshape(-1, 1) for array in row] for row in call]
        indices = [np.arange(len(array)) for array in call[0]]
        update = functools.partial(kernels.fused_adadelta_sparse_apply, indices=indices)
    before = [[array.copy() for array in row] for row in call]
    with pytest.raises(TypeError, match=f"^{message}"):
        update(*call, **{"learning_rate": 1.0, **scalar})
    np.testing.assert_equal(call, before)


def test_bad_scalars_of_dense_updates_and_norms():
    for update, scalar, message in (
        (
            kernels.fused_adadelta_apply,
            {"clip_factors": 1.0},
            "clip_factors is 1.0, expected a numb",
        ),
        (kernels.fused_adadelta_apply, {"clip_factors": ["a"]}, r"clip_factors\[0\] is 'a', exp"),
        (kernels.fused_adadelta_apply, {"update": "no"}, "update is 'no', expected a bool"),
        (kernels.squared_norms, {"grad_scale": "x"}, "grad_scale is 'x', expected a number"),
    ):
        call = [[np.ones(4)]] if update is kernels.squared_norms else arrays(count=1)
        rate = {} if update is kernels.squared_norms else {"learning_rate": 1.0}
        with pytest.raises(TypeError, match=message):
            update(*call, **rate, **scalar)


def test_what_is_taken_for_a_bool_is_not_blamed_for_an_array():
    call = arrays(count=1)
    call[3][0] = call[3][0].astype(np.float64)
    with pytest.raises(TypeError, match=r"grads\[0\] "):
        kernels.fused_adadelta_apply(*call, learning_rate=1.0, update=1)


def test_bad_settings():
    for setting, message in (
        ({"num_threads": -1}, "num_threads is -1"),
        ({"instruction_set": "sse9"}, "instruction_set is 'sse9'"),
    ):
        with pytest.raises(ValueError, match=message):
            kernels.fused_adadelta_apply(*arrays(), learning_rate=1.0, **setting)


def test_gradients_may_be_shared_and_read_only():
    variables, accums, accum_updates, grads = arrays(count=2)
    grads[1] = grads[0]
    grads[0].setflags(write=False)
    kernels.fused_adadelta_apply(variables, accums, accum_updates, grads, learning_rate=1.0)
    np.testing.assert_array_equal(variables[0], variables[1])


def test_copy_streams_moves_every_stream():
    variable, accum, accum_update, grad = (np.full(1000, i, np.float32) for i in range(4))
    kernels.copy_streams(variable, accum, accum_update, grad)
    assert (accum == 3).all() and (accum_update == 1).all() and (variable == 2).all()


def test_knows_no_tensorflow():
    program = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "import numpy as np, tf_adadelta.kernels as kernels\n"
        "x = [np.ones(3, np.float32) for _ in range(4)]\n"
        "kernels.fused_adadelta_apply(*x, learning_rate=1.0)\n"
        "assert x[0][0] < 1"
    )
    check_program(program)
