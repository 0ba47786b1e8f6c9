"""Averages in 8 bits: the kernels against NumPy, what is read, and what no rounding may destroy."""

import numpy as np
import pytest
import test_cuda_kernel
import test_cuda_sparse_kernel
from test_op_options import BUFFERS
from test_stochastic_rounding import random_halves

from tf_adadelta import _block_codes, kernels

BLOCK = 256
# Rows of one block, of several, of pieces of one, and more blocks than a thread takes at once.
SHAPES = [(0, 3), (1, 1), (3, 255), (2, 256), (5, 257), (1, 4097), (300, 300), (7,), ()]


def decode(stored, shape):
    return _block_codes.decode(stored, shape).numpy()


def encode(values):
    return _block_codes.encode(values).numpy()


def blocks_of(row):
    return [row[begin : begin + BLOCK] for begin in range(0, row.size, BLOCK)]


def scale_for(values):
    """The scale of a block, as csrc/block_codes.h has it."""
    largest = np.max(values[np.isfinite(values)], initial=0.0)
    mantissa, exponent = np.frexp(largest)  # In [0.5, 1).
    return 0 if largest == 0 else max(exponent + 126 + (mantissa > 1.8125 / 2) - 19, 0)


def resolution_of(values):
    return 2.0 ** (scale_for(values) - 126)


def encode_at_random(values, halves):
    """The scale and the codes of a block, from float64 values and 16 bits for each."""
    scale = scale_for(values)
    steps = values / 2.0 ** (scale - 126)
    exponent = np.maximum(np.frexp(steps)[1] - 5, 0)  # Of the distance of two codes.
    low = np.floor(steps / 2.0**exponent)
    up = steps / 2.0**exponent - low + (halves + 0.5) / 2**16 >= 1.0
    return scale, (low + up + 16 * exponent).astype(int)


def make_state(shapes, seed=0):
    rng = np.random.default_rng(seed)
    variables = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    averages = [
        [encode(np.exp(4 * rng.standard_normal(shape)).astype(np.float32)) for shape in shapes]
        for _ in range(2)
    ]
    return [variables, *averages]


def make_grads(shapes, step):
    rng = np.random.default_rng(step)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def bytes_of(state):
    return [array.tobytes() for arrays in state for array in arrays]


def test_codes_are_those_of_a_small_float():
    """All of them: 16 steps, and then 16 for each doubling; above the largest what is no number."""
    stored = np.zeros((1, BLOCK + 1), np.uint8)
    stored[0, 0] = 126  # A step of 1.
    stored[0, 1:] = np.arange(256)
    values = decode(stored, (1, BLOCK))[0]
    codes = np.arange(254)
    exponent = np.maximum(codes // 16 - 1, 0)
    expected = (codes % 16 + 16.0 * (codes >= 16)) * 2.0**exponent
    np.testing.assert_array_equal(values[:254], expected)
    assert np.isposinf(values[254]) and np.isnan(values[255])


@pytest.mark.parametrize("magnitude", [0.0, 1e-33, 1e-10, 1.0, 1e37])
def test_what_is_read_is_stored_without_a_loss(magnitude):
    rng = np.random.default_rng(0)
    values = (np.exp(4 * rng.standard_normal((200, 300))) * magnitude).astype(np.float32)
    values[3, 5], values[4, 7], values[5] = np.inf, np.nan, 0.0
    read = decode(encode(values), values.shape)
    np.testing.assert_array_equal(decode(encode(read), values.shape), read)
    for row, read_row in zip(values.astype(np.float64), read):
        for block, read_block in zip(blocks_of(row), blocks_of(read_row)):
            numbers = np.isfinite(block)
            error = np.abs(read_block - block)[numbers]
            bound = np.maximum(block[numbers] / 32, resolution_of(block) / 2)
            assert np.all(error <= bound * (1 + 1e-6)) or magnitude == 1e37
            np.testing.assert_array_equal(read_block[~numbers], block[~numbers])


@pytest.mark.parametrize("instruction_set", kernels.instruction_sets())
@pytest.mark.parametrize("num_threads", [1, 3])
def test_matches_the_oracle_to_the_code(instruction_set, num_threads):
    """Step by step from the same values, but for those next to a bound."""
    state = make_state(SHAPES)
    seeds = [3 * i - 5 for i in range(len(SHAPES))]
    for step in range(6):
        before = [
            [array.astype(np.float64) for array in state[0]],
            *([decode(a, s).astype(np.float64) for a, s in zip(x, SHAPES)] for x in state[1:]),
        ]
        grads = make_grads(SHAPES, step)
        kernels.fused_adadelta_apply(
            *state,
            grads,
            learning_rate=0.5,
            random_seeds=seeds,
            step=step,
            num_threads=num_threads,
            instruction_set=instruction_set,
        )
        off = total = 0
        for i, shape in enumerate(SHAPES):
            rows = shape[0] if shape else 1
            row_elements = int(np.prod(shape[1:])) if rows else 0
            for row in range(rows):
                words = (row_elements + 1) // 2
                halves, _ = random_halves(seeds[i], step, row_elements, first=row * words)
                x, a, u = (role[i].reshape(rows, -1)[row] for role in before)
                g = grads[i].reshape(rows, -1)[row].astype(np.float64)
                moved = state[0][i].reshape(rows, -1)[row]
                begin = 0
                for first in range(0, row_elements, BLOCK):
                    part = slice(first, first + BLOCK)
                    expected = update_block(x[part], a[part], u[part], g[part], 0.5)
                    np.testing.assert_allclose(moved[part], expected[0], rtol=1e-5, atol=1e-5)
                    for role, values in zip(state[1:], expected[1:]):
                        stored = role[i][row, begin : begin + 1 + values.size].astype(int)
                        scale, codes = encode_at_random(values, halves[part])
                        assert stored[0] == scale
                        assert np.max(np.abs(stored[1:] - codes)) <= 1
                        off += np.count_nonzero(stored[1:] != codes)
                        total += values.size
                    begin += 1 + values.size
        assert off < 1e-3 * total


def update_block(x, a, u, grad, learning_rate, rho=0.95, epsilon=1e-7):
    """The step of a block: below the resolution of `a` nothing is told from zero."""
    resolution = resolution_of(a)
    a = rho * a + (1 - rho) * grad**2
    delta = grad / np.sqrt(a + epsilon + resolution) * np.sqrt(u + epsilon)
    u = rho * u + (1 - rho) * delta**2
    return x - learning_rate * delta, a, u


@pytest.mark.parametrize("buffers", [(), ("averages", "grad_accums")])
def test_bits_depend_on_neither_threads_nor_neighbours(buffers):
    """With options, too."""
    results = []
    for num_threads in (1, 2, 5):
        state = make_state(SHAPES)
        more = {role: [np.ones(shape, np.float32) for shape in SHAPES] for role in buffers}
        for step in range(4):
            options = {"weight_decay": 0.01, "clipvalue": 1.5} if buffers else {}
            if buffers:
                options["update"] = step != 1
            kernels.fused_adadelta_apply(
                *state,
                make_grads(SHAPES, step),
                **more,
                **options,
                learning_rate=0.5,
                random_seeds=range(len(SHAPES)),
                step=step,
                num_threads=num_threads,
            )
        results.append(bytes_of([*state, *more.values()]))
    assert results[1:] == results[:-1]


@pytest.mark.parametrize("shape", [(9, 1), (9, 257), (3, 20_001)])
@pytest.mark.parametrize("exact", [True, False])
def test_sparse_rows_are_those_of_the_dense_update(shape, exact):
    dense, *sparse = (make_state([shape]) for _ in range(4))
    clocks = [[np.zeros(shape[0] + 1, np.int64)] if exact else None for _ in sparse]
    order = np.random.default_rng(0).permutation(shape[0])
    how = {"learning_rate": 0.5, "random_seeds": [4]}
    for step in range(4):
        (grad,) = make_grads([shape], step)
        kernels.fused_adadelta_apply(*dense, [grad], step=step, **how)
        for state, clock, num_threads in zip(sparse, clocks, (1, 2, 5)):
            kernels.fused_adadelta_sparse_apply(
                *state,
                [grad[order]],
                [order],
                clocks=clock,
                step=step,
                num_threads=num_threads,
                **how,
            )
    for state in sparse:
        assert bytes_of(state) == bytes_of(dense)


def test_idle_rows_are_unbiased():
    """What rows owe after idle steps, and step after step: right in the mean, down to zero."""
    shape, rho = (400, 64), 0.9
    rng = np.random.default_rng(0)
    start = np.exp(rng.standard_normal(shape)).astype(np.float32)
    state = [[np.zeros(shape, np.float32)], *([encode(start)] for _ in range(2))]
    expected = decode(state[1][0], shape).astype(np.float64)
    zero = np.zeros(shape, np.float32)
    for step in range(30):
        kernels.fused_adadelta_apply(
            *state, [zero], learning_rate=1.0, rho=rho, random_seeds=[1], step=step
        )
        expected *= rho
        for role in state[1:]:
            ratio = decode(role[0], shape).astype(np.float64).sum() / expected.sum()
            assert abs(ratio - 1) < 5e-3
    for step in range(30, 4000):
        kernels.fused_adadelta_apply(
            *state, [zero], learning_rate=1.0, rho=rho, random_seeds=[1], step=step
        )
    assert all(np.all(decode(role[0], shape) == 0) for role in state[1:])
    np.testing.assert_array_equal(state[0][0], zero)


def add_what_is_no_number(state, grads):
    """Infinities and NaN among the averages and the gradients, and a variable with an infinity."""
    for role in state[1:]:
        role[6][::7, 5] = 0xFE
        role[6][3::11, 270] = 0xFF
    grads[4][2, 1], grads[4][3, 300 % 257], grads[5][0, 4096] = np.inf, np.nan, -np.inf
    state[0][4][0, 0] = np.inf


@pytest.mark.parametrize("limit", [test_cuda_kernel.UNLIMITED, 1, 3])
@pytest.mark.parametrize("by_pointer", [False, True], ids=["values", "pointers"])
@pytest.mark.parametrize("buffers", [None, *BUFFERS], ids=str)
def test_cuda_kernels_have_the_bits_of_the_cpu(buffers, by_pointer, limit):
    """Of an instruction set that fuses nothing; also where a launch ends inside a row."""
    seeds = [2**40 * i - 5 for i in range(len(SHAPES))]
    names = [n for n, has in zip(("averages", "grad_accums"), buffers or ()) if has]
    results = []
    for emulated in (False, True):
        state = make_state(SHAPES)
        lists = {name: [np.ones(shape, np.float32) for shape in SHAPES] for name in names}
        for step in range(5):
            grads = make_grads(SHAPES, step)
            if step == 3:
                add_what_is_no_number(state, grads)
            options = {"clipvalue": 1.5, "weight_decay": 0.01, "ema_momentum": 0.9}
            options["update"] = "grad_accums" not in names or step != 1
            how = {"learning_rate": 0.5, "random_seeds": seeds, "step": step, **lists}
            if emulated:
                how.update(by_pointer=by_pointer, blocks=limit)
                how["options"] = None if buffers is None else options
                test_cuda_kernel.emulate_with(state=state, grads=grads, **how)
            else:
                how.update({} if buffers is None else options, instruction_set="baseline")
                kernels.fused_adadelta_apply(*state, grads, **how)
        results.append([*state, *lists.values()])
    for one, other in zip(*results):
        for array, emulated_array in zip(one, other):
            np.testing.assert_array_equal(emulated_array, array)


@pytest.mark.parametrize("shape", [(40, 1), (40, 33), (7, 256), (5, 700)])
@pytest.mark.parametrize("exact", [False, True])
def test_sparse_cuda_kernels_have_the_bits_of_the_cpu(shape, exact):
    """Rows with sums of gradients and with one, rows that catch up, and more than one block."""
    results = []
    for blocks, pieces in ((None, None), (1, 1), (3, 2)):
        rng = np.random.default_rng(0)
        state = make_state([shape])
        clocks = [np.zeros(shape[0] + 1, np.int64)] if exact else None
        for step in range(4):
            indices = rng.zipf(1.2, 300) % shape[0] if step % 2 else np.array([3])
            grads = rng.standard_normal((indices.size, shape[1])).astype(np.float32)
            grads[-1, 0] = (1, np.inf, np.nan, -np.inf)[step]
            how = {"random_seeds": [9], "step": step, "clocks": clocks, "learning_rate": 0.5}
            if blocks is None:
                kernels.fused_adadelta_sparse_apply(
                    *state, [grads], [indices], instruction_set="baseline", **how
                )
            else:
                how.update(blocks=blocks, pieces=pieces)
                test_cuda_sparse_kernel.emulate(state, [grads], [indices], **how)
        results.append([array for arrays in [*state, clocks or []] for array in arrays])
    for emulated in results[1:]:
        for array, emulated_array in zip(results[0], emulated):
            np.testing.assert_array_equal(emulated_array, array)


@pytest.mark.parametrize("row_elements", [1, 255, 300, 2048, 5000])
def test_cuda_writes_nothing_beside_a_variable(row_elements):
    shape = (3, row_elements)
    results = []
    for emulated in (True, False):
        variable, *averages = (arrays[0] for arrays in make_state([shape]))
        state = [variable, *averages]
        whole = [np.full(array.size + 64, 77, array.dtype) for array in state]
        views = [w[17 : 17 + s.size].reshape(s.shape) for w, s in zip(whole, state)]
        for view, array in zip(views, state):
            view[...] = array
        if emulated:
            how = {"random_seeds": [1], "blocks": 1}
            test_cuda_kernel.emulate_with(None, [[v] for v in views], make_grads([shape], 0), **how)
        for array, view in zip(whole, views):
            assert (array[:17] == 77).all() and (array[17 + view.size :] == 77).all()
        results.append([view.copy() for view in views])
    assert all((one != other).any() for one, other in zip(*results))


def train(grads, narrow, **hyperparameters):
    """Returns the variable after steps, and its averages as they are read."""
    shape = grads[0].shape
    average = (lambda: encode(np.zeros(shape))) if narrow else lambda: np.zeros(shape, np.float32)
    state = [[np.zeros(shape, np.float32)], [average()], [average()]]
    for step, grad in enumerate(grads):
        kernels.fused_adadelta_apply(
            *state,
            [grad],
            learning_rate=1.0,
            random_seeds=[0] if narrow else None,
            step=step,
            **hyperparameters,
        )
    averages = [decode(role[0], shape) if narrow else role[0] for role in state[1:]]
    return [state[0][0], *averages]


@pytest.mark.parametrize("rho", [0.95, 0.99])
@pytest.mark.parametrize("case", ["ordinary", "outlier", "large", "spread"])
def test_stays_with_float32(case, rho):
    """What other forms in 8 bits diverge on: the steps remain those of float32, give or take."""
    rng = np.random.default_rng(0)
    grads = list(rng.standard_normal((600, 8, 256)).astype(np.float32))
    if case == "outlier":
        grads[50][:, 3] = 1e4
    if case == "large":
        grads = [100 * grad for grad in grads]
    if case == "spread":
        scales = np.exp(rng.standard_normal((8, 256))).astype(np.float32)
        grads = [scales * grad for grad in grads]
    wide, narrow = (train(grads, form, rho=rho, epsilon=1e-7) for form in (False, True))
    assert all(np.all(np.isfinite(values)) for values in narrow)
    others = np.arange(256) != 3
    size, narrow_size = (np.sqrt(np.mean(x[0][:, others] ** 2)) for x in (wide, narrow))
    # It may learn more slowly beside the outlier, but never runs away.
    assert (0.2 if case == "outlier" else 0.8) < narrow_size / size < 1.25
    assert np.max(np.abs(narrow[0])) < 2 * np.max(np.abs(wide[0]))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e30])
def test_what_is_not_a_number_stays_with_its_element(value):
    rng = np.random.default_rng(0)
    grads = list(rng.standard_normal((30, 2, 300)).astype(np.float32))
    grads[5][1, 7] = value
    with np.errstate(all="ignore"):
        wide, narrow = (train(grads, form) for form in (False, True))
    for one, other in zip(wide, narrow):
        np.testing.assert_array_equal(np.isnan(one), np.isnan(other))
        np.testing.assert_array_equal(np.isinf(one), np.isinf(other))


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"random_seeds": None}, TypeError, "accums.0. has dtype uint8, expected float32, the"),
        ({"random_seeds": [1, 2]}, ValueError, "random_seeds has length 2, expected 1"),
        (
            {"accum": np.zeros((2, 300), np.uint8)},
            ValueError,
            r"accums.0. has shape \(2, 300\), expected \(2, 302\), rows of blocks for those of",
        ),
        (
            {"accum_update": np.zeros(604, np.uint8)},
            ValueError,
            r"accum_updates.0. has shape \(604,\), expected \(2, 302\)",
        ),
        (
            {"accum_update": np.zeros((2, 300), np.float32)},
            TypeError,
            "expected uint8, the dtype of accums.0.",
        ),
        (
            {"variable": np.zeros((2, 300), np.float64)},
            TypeError,
            "accums.0. has dtype uint8, expected float64",
        ),
    ],
)
def test_bad_state(change, error, message):
    arrays = {
        "variable": np.ones((2, 300), np.float32),
        "accum": np.ones((2, 302), np.uint8),
        "accum_update": np.ones((2, 302), np.uint8),
    }
    arrays.update({name: value for name, value in change.items() if name in arrays})
    before = [array.copy() for array in arrays.values()]
    with pytest.raises(error, match=message):
        kernels.fused_adadelta_apply(
            *arrays.values(),
            np.ones((2, 300), np.float32),
            learning_rate=1.0,
            random_seeds=change.get("random_seeds", [1]),
        )
    for array, value in zip(arrays.values(), before):
        np.testing.assert_array_equal(array, value)
