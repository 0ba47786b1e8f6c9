"""The CUDA kernels of what is done around the update, without a GPU, as in test_cuda_kernel.py."""

import numpy as np
import pytest
from oracle import DTYPES, ROLES, OptionsOracle
from test_cuda_kernel import (
    CHUNK_BYTES,
    UNLIMITED,
    check_chunks,
    emulate,
    emulate_with,
    launches_of,
    make_addresses,
)
from test_op_options import BUFFERS, run_against_oracle

from tf_adadelta import _kernels

NORM_CHUNK_BYTES = _kernels.CUDA_NORM_CHUNK_BYTES


def norms_of(
    grads, grad_accums=None, grad_scale=1.0, update=True, by_pointer=False, blocks=UNLIMITED
):
    return _kernels.emulate_cuda_norms(grads, grad_accums, grad_scale, update, by_pointer, blocks)


class Emulation:
    """Every thread of the kernels, on NumPy arrays."""

    def __init__(self, oracle, by_pointer=True, blocks=UNLIMITED):
        self.arrays = {role: oracle.stored(role) for role in oracle.roles}
        self.how = {"by_pointer": by_pointer, "blocks": blocks}

    def step(self, grads, learning_rate, options):
        state = [self.arrays[role] for role in ROLES]
        buffers = {role: arrays for role, arrays in self.arrays.items() if role not in ROLES}
        norms = norms_of(
            grads,
            buffers.get("grad_accums"),
            options["grad_scale"],
            options["update"],
            **self.how,
        )
        emulate_with(options, state, grads, learning_rate, **buffers, **self.how)
        return norms

    def values(self):
        return list(self.arrays.values())


@pytest.mark.parametrize("by_pointer", [False, True], ids=["values", "pointers"])
@pytest.mark.parametrize("buffers", BUFFERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_oracle(dtype, buffers, by_pointer):
    chunk = CHUNK_BYTES // DTYPES[dtype].itemsize
    sizes = [0, 1, 3, 63, 65, 4097, chunk // 2 - 1, chunk, 0, 2 * chunk + 5]
    shapes = [(size,) for size in sizes]
    run_against_oracle(lambda oracle: Emulation(oracle, by_pointer), dtype, shapes, buffers)


@pytest.mark.parametrize("number", [57, 58, 479, 480, 626, 627, 1300])
@pytest.mark.parametrize("buffers", BUFFERS)
def test_lists_of_any_length(number, buffers):
    """Each variable has its own clip factor, in the second launch too, and behind empty ones."""
    sizes = np.random.default_rng(number).integers(0, 40, number)
    shapes = [(size,) for size in sizes]
    run_against_oracle(Emulation, "float32", shapes, buffers, steps=3)


@pytest.mark.parametrize("blocks", [1, 2, 7])
@pytest.mark.parametrize("buffers", BUFFERS)
def test_bits_do_not_depend_on_the_launches(buffers, blocks):
    """Also where a launch ends inside a tensor."""
    results = []
    for limit in (UNLIMITED, blocks):
        oracle = OptionsOracle(*buffers, [(50_003,), (5,), (0,), (8192,)], "float32")
        door = Emulation(oracle, blocks=limit)
        options = {
            "grad_scale": 0.5,
            "update": True,
            "clip_factors": [0.1, 0.2, 0.3, 0.4],
            "clipvalue": 0.05,
            "weight_decay": 0.1,
            "ema_momentum": 0.9,
        }
        norms = door.step(oracle.new_grads(), 0.5, options)
        results.append(
            [np.array(norms).tobytes(), *(a.tobytes() for v in door.values() for a in v)]
        )
    assert results[0] == results[1]


@pytest.mark.parametrize("buffers", BUFFERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_addresses_that_no_vector_may_have(dtype, buffers):
    """Each stream starts anywhere, and not a byte beside it changes."""
    per_vector = 16 // DTYPES[dtype].itemsize
    size = CHUNK_BYTES // DTYPES[dtype].itemsize + 2 * per_vector + 1
    roles = 4 + sum(buffers)
    rng = np.random.default_rng(0)
    one_alone = np.eye(roles, dtype=int).tolist()
    options = {"clip_factors": [0.5], "clipvalue": 0.3, "weight_decay": 0.1, "ema_momentum": 0.9}
    for update in (True, False) if buffers[1] else (True,):
        for offsets in [[0] * roles, *one_alone, *rng.integers(0, 9, (4, roles)).tolist()]:
            oracle = OptionsOracle(*buffers, [(size,)], dtype)
            grads = oracle.new_grads()
            whole = [np.full(size + 2 * 16, 77, oracle.dtype) for _ in range(roles)]
            views = [array[start : start + size] for array, start in zip(whole, offsets)]
            for view, value in zip(views, [*(oracle.stored(r)[0] for r in oracle.roles), grads[0]]):
                view[:] = value
            *state, grad = views
            named = dict(zip(oracle.roles[3:], ([array] for array in state[3:])))
            step = {"grad_scale": 2.0, "update": update, **options}
            expected = np.sum(oracle.sums([grad], 2.0)[0] ** 2)
            norms = norms_of([grad], named.get("grad_accums"), 2.0)
            np.testing.assert_allclose(norms, [expected], rtol=1e-6)
            emulate_with(step, [[array] for array in state[:3]], [grad], **named)
            oracle.options_step(grads, 1.0, step)
            oracle.check(*([array] for array in state))
            np.testing.assert_array_equal(grad, grads[0])
            for array, start in zip(whole, offsets):
                assert (array[:start] == 77).all() and (array[start + size :] == 77).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_neutral_options_change_no_bit(dtype):
    """Infinite and undefined values included; without a decay an infinite variable stays so."""
    special = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1.0], DTYPES[dtype])
    grads = [np.tile(special, 6)]
    variable = np.repeat(special, 6)
    results = []
    for run in (emulate, lambda *call: emulate_with({}, *call)):
        state = [[variable.copy()], [np.ones_like(variable)], [np.ones_like(variable)]]
        run(state, grads)
        results.append(np.concatenate(state).astype(np.float64))  # The sign of a NaN is the host's.
    np.testing.assert_array_equal(*results)
    np.testing.assert_array_equal(*map(np.signbit, map(np.nan_to_num, results)))


@pytest.mark.parametrize("average", [False, True])
def test_a_step_that_does_not_update_touches_nothing_else(average):
    oracle = OptionsOracle(average, True, [(4097,)], "float32")
    before = {role: oracle.stored(role)[0] for role in oracle.roles}
    grads = oracle.new_grads()
    state = [[before["variables"].copy()], *([np.zeros(4097, np.float32)] for _ in range(2))]
    buffers = {role: [before[role].copy()] for role in oracle.roles[3:]}
    options = {"update": False, "ema_momentum": 0.5, "clipvalue": 1e-3, "weight_decay": 0.5}
    emulate_with(options, state, grads, **buffers)
    np.testing.assert_array_equal(state[0][0], before["variables"])
    assert not state[1][0].any() and not state[2][0].any()
    np.testing.assert_array_equal(buffers["grad_accums"][0], before["grad_accums"] + grads[0])
    if average:
        expected = np.float32(0.5) * before["averages"] + np.float32(0.5) * before["variables"]
        np.testing.assert_allclose(buffers["averages"][0], expected, rtol=1e-6, atol=1e-7)


CAPACITIES = {(False, False): 626, (True, False): 543, (False, True): 543, (True, True): 479}


@pytest.mark.parametrize("buffers", BUFFERS)
def test_number_of_launches(buffers):
    capacity = CAPACITIES[buffers]
    for number, launches in [(0, 0), (1, 1), (capacity, 1), (capacity + 1, 2), (2 * capacity, 2)]:
        counts = [256, 0] * number
        starts = [2048 * (1 + i) for i in range(2 * number)]  # Null would be none.
        call = (starts, counts, 4, UNLIMITED, 1, True, buffers)
        assert len(launches_of(*call)) == launches


@pytest.mark.parametrize("buffers", BUFFERS)
def test_sizes_beyond_32_bits(buffers):
    counts, itemsize = [5, 2**33 + 1, 7, 2**40 + 1], 4
    starts = make_addresses(counts, itemsize, np.random.default_rng(0))
    launches = launches_of(starts, counts, itemsize, UNLIMITED, 999_983, True, buffers)
    check_chunks(launches, starts, counts, itemsize)


def expected_norms(grads, grad_accums, grad_scale):
    sums = [grad_scale * grad.astype(np.float64) for grad in grads]
    if grad_accums is not None:
        sums = [total + a.astype(np.float64) for total, a in zip(sums, grad_accums)]
    return [float(np.sum(total**2)) for total in sums]


@pytest.mark.parametrize("by_pointer", [False, True], ids=["values", "pointers"])
@pytest.mark.parametrize("accumulated", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_match_numpy(dtype, accumulated, by_pointer):
    """To the last bits of float64: nothing is summed or squared in less."""
    chunk = NORM_CHUNK_BYTES // DTYPES[dtype].itemsize
    sizes = [0, 1, 3, 63, 65, 4097, chunk - 1, chunk, 0, chunk + 1, 3 * chunk + 5, 0]
    rng = np.random.default_rng(0)
    grads, accums = (
        [
            (10.0 ** rng.integers(-2, 3) * rng.standard_normal(n)).astype(DTYPES[dtype])
            for n in sizes
        ]
        for _ in range(2)
    )
    accums = accums if accumulated else None
    norms = norms_of(grads, accums, 0.37, by_pointer=by_pointer)
    np.testing.assert_allclose(norms, expected_norms(grads, accums, 0.37), rtol=1e-13)
    assert norms_of(grads, accums, 0.37, update=False, by_pointer=by_pointer) == [0.0] * len(sizes)


@pytest.mark.parametrize("number", [1, 144, 145, 1169, 1636, 3999, 4000, 9000])
def test_norms_of_lists_of_any_length(number):
    """Around the capacities of both kernels; a norm that overflows float32 does not."""
    rng = np.random.default_rng(number)
    grads = [rng.standard_normal(n).astype(np.float32) * 1e30 for n in rng.integers(0, 20, number)]
    for accums in (None, [rng.standard_normal(g.size).astype(np.float32) * 1e30 for g in grads]):
        norms = norms_of(grads, accums)
        np.testing.assert_allclose(norms, expected_norms(grads, accums, 1.0), rtol=1e-13)


def test_norms_of_more_pieces_than_a_block_loads_at_once():
    grads = [np.ones(size, np.float64) for size in (5_000_000, 17, 9_000_000)]
    assert norms_of(grads) == [5_000_000.0, 17.0, 9_000_000.0]


@pytest.mark.parametrize("blocks", [1, 2, 7])
def test_bits_of_norms_do_not_depend_on_the_launches(blocks):
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(n).astype(np.float32) for n in (50_003, 5, 0, 8192)]
    assert norms_of(grads, blocks=blocks) == norms_of(grads)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_norms_that_are_not_finite(value):
    grads = [np.ones(5000, np.float32) for _ in range(3)]
    grads[1][4321] = value
    norms = norms_of(grads)
    assert norms[0] == norms[2] == 5000
    assert np.isnan(norms[1]) if np.isnan(value) else norms[1] == np.inf
