"""The sparse CPU kernel through the NumPy door: against the oracle of the dense update."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import DTYPES, Oracle

from tf_adadelta import kernels

ROW_SHAPES = [(), (1,), (3,), (2, 5), (64,), (300,)]


def up_to_date(oracle, averages, clocks, rho):
    """The averages with the decay that has been put off."""
    values = []
    for average, clock in zip(averages, clocks):
        decay = rho ** (clock[-1] - clock[:-1]).astype(np.float64)
        decay = decay.reshape([-1] + [1] * (average.ndim - 1))
        values.append((average.astype(np.float64) * decay).astype(oracle.dtype))
    return values


def check(oracle, state, clocks, rho=0.95):
    variables, accums, accum_updates = state
    if clocks is not None:
        accums, accum_updates = (
            up_to_date(oracle, averages, clocks, rho) for averages in (accums, accum_updates)
        )
    oracle.check(variables, accums, accum_updates)


@st.composite
def sequences(draw):
    """Shapes of one to three variables, and for each step the indices of each."""
    shapes = draw(
        st.lists(
            st.tuples(st.integers(1, 40), st.sampled_from(ROW_SHAPES)).map(lambda s: (s[0], *s[1])),
            min_size=1,
            max_size=3,
        )
    )
    steps = draw(
        st.lists(
            st.tuples(*(st.lists(st.integers(0, shape[0] - 1), max_size=30) for shape in shapes)),
            min_size=1,
            max_size=25,
        )
    )
    return shapes, steps


@settings(max_examples=150, deadline=None)
@given(
    sequence=sequences(),
    dtype=st.sampled_from(list(DTYPES)),
    index_dtype=st.sampled_from([np.int32, np.int64]),
    instruction_set=st.sampled_from(kernels.instruction_sets()),
    num_threads=st.integers(1, 3),
    lazy=st.booleans(),
)
def test_matches_dense_oracle(sequence, dtype, index_dtype, instruction_set, num_threads, lazy):
    shapes, steps = sequence
    oracle = Oracle(shapes, dtype)
    state = [oracle.stored(role) for role in oracle.values]
    clocks = None if lazy else [np.zeros(shape[0] + 1, np.int64) for shape in shapes]
    for number, indices in enumerate(steps):
        indices = [np.array(rows, index_dtype) for rows in indices]
        grads = oracle.new_slices(indices)
        learning_rate = 0.5 / (1 + number)
        kernels.fused_adadelta_sparse_apply(
            *state,
            grads,
            indices,
            clocks=clocks,
            learning_rate=learning_rate,
            instruction_set=instruction_set,
            num_threads=num_threads,
        )
        oracle.sparse_step(grads, indices, learning_rate, lazy=lazy)
    check(oracle, state, clocks)


@pytest.mark.parametrize("shape", [(3, 20_001), (70_000, 3), (5_000, 64), (100_000,)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_more_than_one_block(shape, dtype):
    """Rows shared out among blocks and blocks of many rows; many threads."""
    oracle = Oracle([shape], dtype)
    state = [oracle.stored(role) for role in oracle.values]
    clocks = [np.zeros(shape[0] + 1, np.int64)]
    for _ in range(3):
        indices = [oracle.rng.integers(0, shape[0], min(2 * shape[0], 9_000))]
        grads = oracle.new_slices(indices)
        kernels.fused_adadelta_sparse_apply(
            *state, grads, indices, clocks=clocks, learning_rate=1.0, num_threads=4
        )
        oracle.sparse_step(grads, indices, 1.0)
    check(oracle, state, clocks)


@pytest.mark.parametrize("instruction_set", kernels.instruction_sets())
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_rows_in_order_is_the_dense_update(dtype, instruction_set):
    """Bit for bit: the two loops do the same arithmetic, whatever is left for the last pack."""
    rows = 7
    for width in range(1, 36):
        oracle = Oracle([(rows, width)], dtype)
        dense, sparse = ([oracle.stored(role) for role in oracle.values] for _ in range(2))
        clocks = [np.zeros(rows + 1, np.int64)]
        how = {"learning_rate": 1.0, "instruction_set": instruction_set}
        for _ in range(3):
            grads = oracle.new_grads()
            kernels.fused_adadelta_apply(*dense, grads, **how)
            kernels.fused_adadelta_sparse_apply(
                *sparse, grads, [np.arange(rows)], clocks=clocks, **how
            )
        for a, b in zip(dense, sparse):
            assert a[0].tobytes() == b[0].tobytes(), width


def test_bits_do_not_depend_on_threads_or_runs():
    """Float sums depend on their order, so the order must depend on nothing but the indices."""
    results = []
    for num_threads in (1, 1, 2, 3, 8, 8):
        oracle = Oracle([(1000, 33), (7, 5000)], "float32")
        state = [oracle.stored(role) for role in oracle.values]
        clocks = [np.zeros(1001, np.int64), np.zeros(8, np.int64)]
        for _ in range(3):
            indices = [oracle.rng.zipf(1.2, 20_000) % 1000, oracle.rng.integers(0, 7, 50)]
            kernels.fused_adadelta_sparse_apply(
                *state,
                oracle.new_slices(indices),
                indices,
                clocks=clocks,
                learning_rate=1.0,
                num_threads=num_threads,
            )
        results.append([array.copy() for arrays in (*state, clocks) for array in arrays])
    for result in results[1:]:
        for actual, expected in zip(result, results[0]):
            assert actual.tobytes() == expected.tobytes()


@pytest.mark.parametrize("rows", [2**11, 2**22 + 5, 2**31 + 5])
def test_indices_of_many_digits(rows):
    """Around the digits of the radix sort, and past 32 bits (of memory that is never touched)."""
    indices = np.array([rows - 1, 0, rows // 2, rows - 1, 2**11 - 1, 2**10, 0], np.int64)
    state = [np.zeros(rows, np.float16) for _ in range(3)]
    grad = np.arange(1, 8).astype(np.float16)
    kernels.fused_adadelta_sparse_apply(*state, grad, indices, learning_rate=1.0)
    for row in np.unique(indices):
        expected = 0.05 * grad[indices == row].sum() ** 2
        np.testing.assert_allclose(state[1][row], expected, rtol=1e-3)


def test_more_than_2_to_the_31_elements():
    """The last row of a table past 32 bits of offset."""
    rows = 2**31 // 64 + 3
    state = [np.zeros((rows, 64), np.float16) for _ in range(3)]
    clock = np.zeros(rows + 1, np.int64)
    grad = np.ones((2, 64), np.float16)
    for _ in range(2):
        kernels.fused_adadelta_sparse_apply(
            *state, grad, np.array([0, rows - 1]), clocks=clock, learning_rate=1.0
        )
    for array in state:
        np.testing.assert_array_equal(array[0], array[-1])
        assert array[0].all() and not array[1].any() and not array[-2].any()
    assert clock[0] == clock[-2] == clock[-1] == 2


def test_infinite_average_stays_infinite():
    """However long it was idle: 0 times infinity would be NaN."""
    state = [np.array([value], np.float32) for value in (1.0, np.inf, 1.0)]
    clock = np.array([0, 10**6], np.int64)
    kernels.fused_adadelta_sparse_apply(
        *state, np.ones(1, np.float32), np.zeros(1, np.int32), clocks=clock, learning_rate=1.0
    )
    assert state[0] == 1.0 and np.isinf(state[1]) and state[2] < 1e-30


def test_large_average_after_a_long_idle_time():
    """ρ to the power of the idle steps is no float any more, the decayed average is."""
    state = [np.array([value], np.float32) for value in (0.0, 1e38, 0.0)]
    clock = np.array([0, 1800], np.int64)
    kernels.fused_adadelta_sparse_apply(
        *state, np.zeros(1, np.float32), np.zeros(1, np.int32), clocks=clock, learning_rate=1.0
    )
    np.testing.assert_allclose(state[1], 1e38 * 0.95**1801, rtol=1e-4)


class Call:
    """A valid call with two variables, to be spoiled."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.lists = {
            name: [rng.random((4, 3)).astype(np.float32) for _ in range(2)]
            for name in ("variables", "accums", "accum_updates")
        }
        self.lists["grads"] = [rng.random((2, 3)).astype(np.float32) for _ in range(2)]
        self.lists["indices"] = [np.array([3, 0]) for _ in range(2)]
        self.lists["clocks"] = [np.zeros(5, np.int64) for _ in range(2)]

    def copies(self):
        return {name: [np.array(a) for a in arrays] for name, arrays in self.lists.items()}


def replaced(name, value, i=1):
    return lambda call: call.lists[name].__setitem__(i, value)


@pytest.mark.parametrize(
    "spoil, error, message",
    [
        (
            replaced("indices", np.array([0, 4])),
            IndexError,
            r"indices\[1\]\[1\] is 4, expected 0 to 3, a row of variables\[1\]",
        ),
        (replaced("indices", np.array([-1, 2])), IndexError, r"indices\[1\]\[0\] is -1"),
        (
            replaced("indices", np.array([0, 1, 2])),
            ValueError,
            r"grads\[1\] has shape \(2, 3\), expected \(3, 3\), a row of its variable for each",
        ),
        (
            replaced("indices", np.array([[0], [1]])),
            ValueError,
            r"indices\[1\] has shape \(2, 1\), expected \(2,\)",
        ),
        (
            replaced("indices", np.array([0, 1], np.int32)),
            TypeError,
            r"indices\[1\] has dtype int32, expected int64, the dtype of indices\[0\]",
        ),
        (
            replaced("indices", np.array([0.0, 1.0]), i=0),
            TypeError,
            r"indices\[0\] has dtype float64, expected int32 or int64",
        ),
        (
            replaced("clocks", np.zeros(4, np.int64)),
            ValueError,
            r"clocks\[1\] has shape \(4,\), expected \(5,\)",
        ),
        (
            replaced("clocks", np.zeros(5, np.int32)),
            TypeError,
            r"clocks\[1\] has dtype int32, expected int64",
        ),
        (
            lambda call: [
                call.lists[name].__setitem__(0, np.array(1.0, np.float32))
                for name in ("variables", "accums", "accum_updates")
            ],
            ValueError,
            r"variables\[0\] is a scalar, which has no rows",
        ),
        (lambda call: call.lists["clocks"].pop(), ValueError, "clocks has 1 arrays, expected 2"),
        (lambda call: call.lists["indices"].pop(), ValueError, "indices has 1 arrays, expected 2"),
        (
            lambda call: call.lists["grads"].__setitem__(0, call.lists["accums"][1][:2]),
            ValueError,
            r"accums\[1\] and grads\[0\] share memory",
        ),
        (replaced("indices", [0, 1]), TypeError, r"indices\[1\] is of type list"),
    ],
)
def test_bad_input(spoil, error, message):
    call = Call()
    spoil(call)
    before = call.copies()
    lists = dict(call.lists)
    clocks = lists.pop("clocks")
    with pytest.raises(error, match=message):
        kernels.fused_adadelta_sparse_apply(*lists.values(), clocks=clocks, learning_rate=1.0)
    for name, arrays in before.items():
        for array, copy in zip(call.lists[name], arrays):
            np.testing.assert_array_equal(array, copy)


def test_empty():
    kernels.fused_adadelta_sparse_apply([], [], [], [], [], learning_rate=1.0)
    state = [np.ones((0, 3), np.float32) for _ in range(3)]
    clock = np.zeros(1, np.int64)
    kernels.fused_adadelta_sparse_apply(
        *state, np.ones((0, 3), np.float32), np.zeros(0, int), clocks=clock, learning_rate=1.0
    )
    assert clock[0] == 1
