"""Stochastic rounding by the kernels: of the CPU, and of the GPU as threads on the host."""

import ml_dtypes
import numpy as np
import pytest
import test_cuda_kernel
import test_cuda_sparse_kernel
from oracle import OptionsOracle, Oracle, update

from tf_adadelta import kernels

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
BLOCK = 32 * 1024
SIZES = [0, 1, 3, 63, 64, 65, 4097, 2 * BLOCK + 5]
OPTIONS = {
    "grad_scale": 0.5,
    "update": True,
    "clip_factors": [1.0, 0.5, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    "clipvalue": 1.5,
    "weight_decay": 0.01,
    "ema_momentum": 0.9,
}


def random_halves(seed, step, size, first=0):
    """The two lots of 16 bits that each element has, as csrc/random_bits.h describes them."""

    def hash_long(value):
        value = (value + 0x9E3779B97F4A7C15) % 2**64
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
        return value ^ (value >> 31)

    counter = hash_long(seed % 2**64 ^ hash_long(step % 2**64)) >> 32
    words = (np.arange((size + 1) // 2, dtype=np.uint64) + counter + first).astype(np.uint32)
    words ^= words >> 16
    words *= np.uint32(0x7FEB352D)
    words ^= words >> 15
    words *= np.uint32(0x846CA68B)
    words ^= words >> 16
    low, high = words & 0xFFFF, words >> 16
    own = np.stack([low, high], 1).reshape(-1)[:size]
    other = np.stack([high, low], 1).reshape(-1)[:size]
    return own, other


def round_at_random(values, bits):
    """float64 values, rounded to float32 and then by 16 bits each to bfloat16."""
    words = np.asarray(values, np.float32).view(np.uint32) + bits.astype(np.uint32)
    return (words >> 16).astype(np.uint16).view(BFLOAT16)


def bits_of(arrays):
    return np.concatenate([array.view(np.uint16).reshape(-1) for array in arrays])


def all_bits(state):
    return np.concatenate([bits_of(arrays) for arrays in state])


def run(size, seed=1, steps=3, **how):
    """Returns the state of a variable after steps that are rounded at random."""
    oracle = Oracle([(size,)], "bfloat16", seed=5)
    state = [oracle.stored(role) for role in oracle.values]
    for step in range(steps):
        kernels.fused_adadelta_apply(
            *state, oracle.new_grads(), learning_rate=0.5, random_seeds=[seed], step=step, **how
        )
    return state


@pytest.mark.parametrize("instruction_set", kernels.instruction_sets())
def test_rounds_by_the_bits_that_are_documented(instruction_set):
    """Against the oracle, step by step from the same values: nearly every element to the bit."""
    size = BLOCK + 4097
    oracle = Oracle([(size,)], "bfloat16")
    state = [oracle.stored(role)[0] for role in oracle.values]
    for step, seed in [(0, 0), (1, -7), (2**40, 2**62)]:
        before = [array.astype(np.float64) for array in state]
        (grad,) = oracle.new_grads()
        kernels.fused_adadelta_apply(
            *state,
            grad,
            learning_rate=0.5,
            random_seeds=[seed],
            step=step,
            instruction_set=instruction_set,
        )
        own, other = random_halves(seed, step, size)
        expected = update(*before, grad.astype(np.float64), 0.5)
        for actual, value, bits in zip(state, expected, (other, own, own)):
            rounded = round_at_random(value, bits)
            # The kernel has float32 values in hand, which may lie on the other side of a bound.
            equal = actual.view(np.uint16) == rounded.view(np.uint16)
            assert np.mean(equal) > 0.999
            steps = actual.view(np.uint16).astype(int) - rounded.view(np.uint16)
            assert np.max(np.abs(steps)) <= 1


@pytest.mark.parametrize("buffers", [(), ("averages",), ("averages", "grad_accums")])
@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_matches_oracle(num_threads, buffers):
    """With options, over many steps: within the noise that so many roundings have."""
    oracle = OptionsOracle(
        "averages" in buffers, "grad_accums" in buffers, [(size,) for size in SIZES], "bfloat16"
    )
    oracle.store = lambda values: np.asarray(values, np.float64)  # Without any rounding.
    arrays = {role: oracle.stored(role) for role in oracle.roles}
    seeds = list(range(len(SIZES)))
    for step in range(20):
        grads = oracle.new_grads()
        options = {**OPTIONS, "update": "grad_accums" not in buffers or step % 3 == 2}
        roles = ("variables", "accums", "accum_updates")
        kernels.fused_adadelta_apply(
            *(arrays[role] for role in roles),
            grads,
            **{role: arrays[role] for role in buffers},
            learning_rate=0.3,
            **options,
            random_seeds=seeds,
            step=step,
            num_threads=num_threads,
        )
        oracle.options_step(grads, 0.3, options)
    for role, values in arrays.items():
        for array, expected, largest in zip(values, oracle.values[role], oracle.largest[role]):
            error = np.abs(array.astype(np.float64) - expected)
            assert np.all(error <= 1e-3 + 0.1 * largest)
            if array.size > 4000:  # Rounded at random, errors cancel.
                assert abs(np.mean(array.astype(np.float64) - expected)) < 1e-3


def test_bits_depend_on_seed_and_step_alone():
    size = 2 * BLOCK + 77
    expected = all_bits(run(size))
    for num_threads in (1, 2, 8):
        np.testing.assert_array_equal(all_bits(run(size, num_threads=num_threads)), expected)
    assert np.mean(all_bits(run(size, seed=2)) != expected) > 0.3
    # A variable has the same bits whatever is beside it in the call.
    oracle = Oracle([(size,)], "bfloat16", seed=5)
    state = [oracle.stored(role) for role in oracle.values]
    for step in range(3):
        beside = [np.ones(5, BFLOAT16) for _ in range(4)]
        grads = oracle.new_grads()
        kernels.fused_adadelta_apply(
            *([array, *arrays] for arrays, array in zip(state, beside)),
            [beside[3], *grads],
            learning_rate=0.5,
            random_seeds=[9, 1],
            step=step,
        )
    np.testing.assert_array_equal(all_bits(state), expected)


@pytest.mark.parametrize("seed", range(3))
def test_is_unbiased(seed):
    """An idle average decays by ρ in the mean, where rounding to the nearest stands still."""
    size, rho, steps = 40_000, 0.998, 300
    rng = np.random.default_rng(seed)
    start = (1 + rng.random(size)).astype(BFLOAT16)
    zeros = np.zeros(size, BFLOAT16)
    for random_seeds, expected, tolerance in [([seed], rho**steps, 0.01), (None, None, None)]:
        accum, accum_update, variable = start.copy(), start.copy(), zeros.copy()
        for step in range(steps):
            kernels.fused_adadelta_apply(
                variable,
                accum,
                accum_update,
                zeros,
                learning_rate=1.0,
                rho=rho,
                random_seeds=random_seeds,
                step=step,
            )
        ratio = accum.astype(np.float64).mean() / start.astype(np.float64).mean()
        if random_seeds is None:
            assert ratio > 1.3 * rho**steps
        else:
            assert abs(ratio / expected - 1) < tolerance
            # The errors of the two averages are the same, and so cancel in their quotient.
            np.testing.assert_array_equal(accum.view(np.uint16), accum_update.view(np.uint16))


def test_a_small_step_moves_the_variable_in_the_mean():
    size = 40_000
    variable = np.full(size, 1.0, BFLOAT16)
    accum, accum_update = (np.full(size, 0.01, BFLOAT16) for _ in range(2))
    stuck = [array.copy() for array in (variable, accum, accum_update)]
    exact = tuple(array.astype(np.float64) for array in stuck)
    grad = np.full(size, 0.1, BFLOAT16)
    for step in range(50):
        state = (variable, accum, accum_update)
        kernels.fused_adadelta_apply(*state, grad, learning_rate=1e-3, random_seeds=[3], step=step)
        kernels.fused_adadelta_apply(*stuck, grad, learning_rate=1e-3)
        exact = update(*exact, grad.astype(np.float64), 1e-3)
    assert np.all(stuck[0] == 1)
    assert abs(variable.astype(np.float64).mean() - exact[0].mean()) < 1e-4
    assert 1 - exact[0].mean() > 4e-3


def test_what_is_exact_stays_and_what_is_not_a_number_too():
    """With a zero step every bfloat16 comes back with its own bits, but subnormals and NaN."""
    bits = np.arange(2**16, dtype=np.uint16)
    for instruction_set in kernels.instruction_sets():
        for seed in range(4):
            variable = bits.view(BFLOAT16).copy()
            zeros = np.zeros_like(variable)
            kernels.fused_adadelta_apply(
                variable,
                zeros.copy(),
                zeros.copy(),
                zeros,
                learning_rate=0.0,
                random_seeds=[seed],
                instruction_set=instruction_set,
            )
            values = bits.view(BFLOAT16).astype(np.float32)
            nan = np.isnan(values)
            assert np.array_equal(np.isnan(variable.astype(np.float32)), nan)
            kept = ~nan & ((np.abs(values) >= np.finfo(np.float32).tiny) | (values == 0))
            np.testing.assert_array_equal(variable.view(np.uint16)[kept], bits[kept])


def sparse_call(shape, indices, dtype=np.int64):
    oracle = Oracle([shape], "bfloat16", seed=3)
    state = [oracle.stored(role) for role in oracle.values]
    indices = [np.array(indices, dtype)]
    return state, oracle.new_slices(indices), indices


@pytest.mark.parametrize("width", [1, 2, 3, 64, 255, 257, 4097])
def test_rows_are_rounded_by_the_bits_of_their_place(width):
    rows = 9
    state, grads, indices = sparse_call((rows, width), [7, 0, 3])
    before = [arrays[0].astype(np.float64) for arrays in state]
    kernels.fused_adadelta_sparse_apply(
        *state, grads, indices, learning_rate=0.5, random_seeds=[11], step=6
    )
    words = (width + 1) // 2
    for grad, row in zip(grads[0], indices[0]):
        own, other = random_halves(11, 6, width, first=int(row) * words)
        expected = update(*(values[row] for values in before), grad.astype(np.float64), 0.5)
        for arrays, value, bits in zip(state, expected, (other, own, own)):
            rounded = round_at_random(value, bits)
            steps = arrays[0][row].view(np.uint16).astype(int) - rounded.view(np.uint16)
            assert np.max(np.abs(steps)) <= 1
            assert np.count_nonzero(steps) <= 2 + width // 100


@pytest.mark.parametrize("width", [1, 2, 3, 65, 8192 + 65, 20_001])
def test_sparse_bits_depend_neither_on_threads_nor_on_vectors(width):
    results = []
    for num_threads in (1, 2, 5):
        state, grads, indices = sparse_call((5, width), [4, 2, 4, 0])
        clocks = [np.zeros(6, np.int64)]
        for step in range(2):
            kernels.fused_adadelta_sparse_apply(
                *state,
                grads,
                indices,
                clocks=clocks,
                learning_rate=0.5,
                random_seeds=[2],
                step=step,
                num_threads=num_threads,
            )
        results.append(all_bits(state))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_idle_rows_are_unbiased():
    """What the clock puts off is paid in one product, rounded at random once."""
    rows, width, idle, rho = 4, 20_000, 100, 0.97
    accum = np.full((rows, width), 1.7, BFLOAT16)
    state = [np.zeros((rows, width), BFLOAT16), accum, accum.copy()]
    clocks = [np.array([0] * rows + [idle], np.int64)]
    kernels.fused_adadelta_sparse_apply(
        *([array] for array in state),
        [np.zeros((1, width), BFLOAT16)],
        [np.array([2])],
        clocks=clocks,
        learning_rate=1.0,
        rho=rho,
        random_seeds=[1],
    )
    value = float(BFLOAT16.type(1.7)) * rho ** (idle + 1)
    assert abs(accum[2].astype(np.float64).mean() / value - 1) < 1e-4
    assert len(np.unique(accum[2].view(np.uint16))) == 2
    assert np.all(accum[[0, 1, 3]] == accum[0, 0])


# The threads of the CUDA kernels are compiled for any processor too.
EMULATED = {"instruction_set": "baseline"}


@pytest.mark.parametrize("by_pointer", [False, True])
@pytest.mark.parametrize("options", [None, OPTIONS])
@pytest.mark.parametrize("blocks", [test_cuda_kernel.UNLIMITED, 3])
def test_cuda_kernels_have_the_bits_of_the_cpu(options, by_pointer, blocks):
    oracle = Oracle([(size,) for size in SIZES], "bfloat16")
    state = [oracle.stored(role) for role in oracle.values]
    emulated = [oracle.stored(role) for role in oracle.values]
    seeds = [10 + i for i in range(len(SIZES))]
    for step in range(3):
        grads = oracle.new_grads()
        kernels.fused_adadelta_apply(
            *state,
            grads,
            learning_rate=0.5,
            random_seeds=seeds,
            step=step,
            **EMULATED,
            **(options or {}),
        )
        test_cuda_kernel.emulate_with(
            options,
            emulated,
            grads,
            learning_rate=0.5,
            random_seeds=seeds,
            step=step,
            by_pointer=by_pointer,
            blocks=blocks,
        )
    np.testing.assert_array_equal(all_bits(emulated), all_bits(state))


@pytest.mark.parametrize("width", [1, 3, 64, 4097])
def test_sparse_cuda_kernels_have_the_bits_of_the_cpu(width):
    results = []
    for emulated in (False, True):
        state, grads, indices = sparse_call((9, width), [8, 3, 3, 0, 5])
        clocks = [np.zeros(10, np.int64)]
        for step in range(3):
            if emulated:
                test_cuda_sparse_kernel.emulate(
                    state, grads, indices, clocks, random_seeds=[4], step=step
                )
            else:
                kernels.fused_adadelta_sparse_apply(
                    *state,
                    grads,
                    indices,
                    clocks=clocks,
                    learning_rate=1.0,
                    random_seeds=[4],
                    step=step,
                    **EMULATED,
                )
        results.append(all_bits(state))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    "dtype, seeds, error, message",
    [
        ("bfloat16", [1, 2], ValueError, "random_seeds has length 2, expected 1"),
        ("float32", [1], TypeError, "accums.0. is neither bfloat16 nor uint8"),
        ("float16", [1], TypeError, "accums.0. is neither bfloat16 nor uint8"),
    ],
)
def test_bad_seeds(dtype, seeds, error, message):
    oracle = Oracle([(5,)], dtype)
    state = [oracle.stored(role) for role in oracle.values]
    before = [arrays[0].copy() for arrays in state]
    with pytest.raises(error, match=message):
        kernels.fused_adadelta_apply(
            *state, oracle.new_grads(), learning_rate=1.0, random_seeds=seeds
        )
    for arrays, kept in zip(state, before):
        np.testing.assert_array_equal(arrays[0], kept)


class State:
    """float32 variables whose averages are bfloat16."""

    def __init__(self, shapes, seed=0):
        self.rng = np.random.default_rng(seed)
        self.shapes = shapes
        self.variables = [self.new(shape) for shape in shapes]
        self.accums = [self.average(shape) for shape in shapes]
        self.accum_updates = [self.average(shape) for shape in shapes]

    def new(self, shape):
        return self.rng.standard_normal(shape).astype(np.float32)

    def average(self, shape):
        return self.rng.random(shape).astype(BFLOAT16)

    def new_grads(self):
        return list(map(self.new, self.shapes))

    def roles(self):
        return self.variables, self.accums, self.accum_updates

    def bits(self):
        return [array.tobytes() for arrays in self.roles() for array in arrays]


@pytest.mark.parametrize("instruction_set", kernels.instruction_sets())
@pytest.mark.parametrize("num_threads", [1, 3])
def test_state_is_rounded_by_the_bits_that_are_documented(instruction_set, num_threads):
    state = State([(size,) for size in SIZES])
    seeds = [3 * i - 5 for i in range(len(SIZES))]
    for step in range(4):
        before = [[array.astype(np.float64) for array in arrays] for arrays in state.roles()]
        grads = state.new_grads()
        kernels.fused_adadelta_apply(
            *state.roles(),
            grads,
            learning_rate=0.5,
            random_seeds=seeds,
            step=step,
            num_threads=num_threads,
            instruction_set=instruction_set,
        )
        for i, size in enumerate(SIZES):
            values = (arrays[i] for arrays in before)
            x, *averages = update(*values, grads[i].astype(np.float64), 0.5)
            np.testing.assert_allclose(state.variables[i], x, rtol=1e-5, atol=1e-6)
            own, _ = random_halves(seeds[i], step, size)
            for actual, value in zip((state.accums[i], state.accum_updates[i]), averages):
                rounded = round_at_random(value, own).view(np.uint16).astype(int)
                steps = actual.view(np.uint16) - rounded
                assert np.count_nonzero(steps) <= 1 + size // 1000
                assert size == 0 or np.max(np.abs(steps)) <= 1


def test_state_of_float32_variables_is_unbiased():
    """After hundreds of steps the averages are right in the mean, and the variables near."""
    size, steps = 20_000, 300
    state = State([(size,)])
    exact = [arrays[0].astype(np.float64) for arrays in state.roles()]
    for step in range(steps):
        (grad,) = state.new_grads()
        kernels.fused_adadelta_apply(
            *state.roles(), [grad], learning_rate=0.1, rho=0.99, random_seeds=[1], step=step
        )
        exact = update(*exact, grad.astype(np.float64), 0.1, rho=0.99)
    for arrays, expected in zip(state.roles()[1:], exact[1:]):
        assert abs(arrays[0].astype(np.float64).mean() / expected.mean() - 1) < 2e-3
    distance = np.abs(exact[0]).mean()
    assert np.abs(state.variables[0] - exact[0]).mean() < 0.02 * distance


@pytest.mark.parametrize("options", [None, OPTIONS])
@pytest.mark.parametrize("buffers", [(), ("averages", "grad_accums")])
@pytest.mark.parametrize("blocks", [test_cuda_kernel.UNLIMITED, 3])
def test_cuda_kernels_have_the_state_of_the_cpu(options, buffers, blocks):
    if options is None and buffers:
        options = {}
    one, other = (State([(size,) for size in SIZES]) for _ in range(2))
    more, other_more = (
        {role: [np.ones(size, np.float32) for size in SIZES] for role in buffers} for _ in range(2)
    )
    seeds = list(range(len(SIZES)))
    for step in range(4):
        grads = one.new_grads()
        if buffers:
            options = {**options, "update": step % 2 == 1}
        how = {"learning_rate": 0.5, "random_seeds": seeds, "step": step}
        given = {**how, **EMULATED, **(options or {})}
        kernels.fused_adadelta_apply(*one.roles(), grads, **more, **given)
        test_cuda_kernel.emulate_with(
            options, other.roles(), grads, **other_more, **how, blocks=blocks
        )
    assert other.bits() == one.bits()
    for role in buffers:
        for a, b in zip(more[role], other_more[role]):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("offset", range(9))
def test_addresses_that_no_vector_of_a_state_may_have(offset):
    """Streams that begin at a vector's address, at that of a smaller one, or at neither."""
    size = 5000
    one = State([(size,)])
    other = State([(size + 16,)])
    views = [
        arrays[0][start : start + size] for arrays, start in zip(other.roles(), (0, offset, 8))
    ]
    for view, arrays in zip(views, one.roles()):
        view[:] = arrays[0]
    (grad,) = one.new_grads()
    how = {"learning_rate": 0.5, "random_seeds": [1], "step": 2}
    kernels.fused_adadelta_apply(*one.roles(), [grad], **how, **EMULATED)
    test_cuda_kernel.emulate_with(None, [[view] for view in views], [grad], **how)
    for view, arrays in zip(views, one.roles()):
        assert view.tobytes() == arrays[0].tobytes()


@pytest.mark.parametrize("width", [1, 2, 3, 64, 255, 4097, 20_001])
@pytest.mark.parametrize("exact", [True, False])
def test_sparse_state(width, exact):
    """The CPU on several threads, the GPU's threads, and the documented bits of each row."""
    states = [State([(9, width)]) for _ in range(4)]
    clocks = [[np.zeros(10, np.int64)] if exact else None for _ in states]
    indices = [np.array([8, 3, 3, 0, 5])]
    how = {"learning_rate": 1.0, "random_seeds": [4]}
    for step in range(3):
        grad = [states[0].new((5, width))]
        before = [arrays[0].astype(np.float64) for arrays in states[0].roles()]
        for state, clock, num_threads in zip(states, clocks, (1, 2, 5)):
            kernels.fused_adadelta_sparse_apply(
                *state.roles(),
                grad,
                indices,
                clocks=clock,
                step=step,
                num_threads=num_threads,
                **how,
                **EMULATED,
            )
        test_cuda_sparse_kernel.emulate(
            states[3].roles(), grad, indices, clocks[3], step=step, **how
        )
        own, _ = random_halves(4, step, width, first=5 * ((width + 1) // 2))
        row = update(*(values[5] for values in before), grad[0][4].astype(np.float64), 1.0)
        for arrays, value in zip(states[0].roles()[1:], row[1:]):
            rounded = round_at_random(value, own).view(np.uint16).astype(int)
            assert np.max(np.abs(arrays[0][5].view(np.uint16) - rounded)) <= 1
    for state in states[1:]:
        assert state.bits() == states[0].bits()


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"random_seeds": None}, TypeError, "accums.0. has dtype bfloat16, expected float32, the"),
        ({"random_seeds": [1, 2]}, ValueError, "random_seeds has length 2, expected 1"),
        ({"accum": np.float32}, TypeError, "accum_updates.0. has dtype bfloat16, expected float32"),
        ({"accum_update": np.float32}, TypeError, "expected bfloat16, the dtype of accums.0."),
        ({"variable": np.float64}, TypeError, "accums.0. has dtype bfloat16, expected float64"),
        ({"grad": BFLOAT16}, TypeError, "grads.0. has dtype bfloat16, expected float32"),
    ],
)
def test_bad_state(change, error, message):
    arrays = {
        "variable": np.ones(5, np.float32),
        "accum": np.ones(5, BFLOAT16),
        "accum_update": np.ones(5, BFLOAT16),
        "grad": np.ones(5, np.float32),
    }
    arrays.update({k: arrays[k].astype(v) for k, v in change.items() if k in arrays})
    random_seeds = change.get("random_seeds", [1])
    with pytest.raises(error, match=message):
        kernels.fused_adadelta_apply(*arrays.values(), learning_rate=1.0, random_seeds=random_seeds)
    for array in arrays.values():
        np.testing.assert_array_equal(array, 1)
