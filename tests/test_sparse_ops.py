"""FusedAdadeltaSparseApply in eager execution, tf.function and XLA."""

import re

import numpy as np
import pytest
import tensorflow as tf
from conftest import needs_xla
from oracle import DTYPES, Oracle

from tf_adadelta import ops

SHAPES = [(13, 5), (40,), (7, 4097), (3, 2, 3)]


def make_state(oracle, exact):
    state = [
        [tf.Variable(value, name=f"{role}{i}") for i, value in enumerate(oracle.stored(role))]
        for role in oracle.values
    ]
    clocks = [tf.Variable(tf.zeros(shape[0] + 1, tf.int64)) for shape in oracle.shapes]
    return state, clocks if exact else None


def check(oracle, state, clocks):
    values = [[variable.numpy() for variable in variables] for variables in state]
    if clocks is not None:
        for averages in values[1:]:
            averages[:] = [ops.up_to_date(a, c, 0.95).numpy() for a, c in zip(averages, clocks)]
    oracle.check(*values)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_dense_oracle(compiled, dtype, index_dtype, exact):
    oracle = Oracle(SHAPES, dtype)
    state, clocks = make_state(oracle, exact)

    @compiled
    def step(learning_rate, grads, indices):
        ops.fused_adadelta_sparse_apply(
            *state, grads, indices, clocks=clocks, learning_rate=learning_rate
        )

    for number in range(20):
        indices = [oracle.rng.integers(0, shape[0], 6).astype(index_dtype) for shape in SHAPES]
        grads = oracle.new_slices(indices)
        learning_rate = 0.5 / (1 + number)
        step(
            tf.constant(learning_rate, tf.float64),
            [tf.constant(grad) for grad in grads],
            [tf.constant(rows) for rows in indices],
        )
        oracle.sparse_step(grads, indices, learning_rate, lazy=not exact)
    check(oracle, state, clocks)


def test_single_variable_and_no_indices(compiled):
    state = [tf.Variable(tf.ones((4, 2))) for _ in range(3)]
    clock = tf.Variable(tf.zeros(5, tf.int64))

    @compiled
    def step():
        ops.fused_adadelta_sparse_apply(
            *state, tf.zeros((0, 2)), tf.zeros(0, tf.int32), clocks=clock, learning_rate=1.0
        )

    step()
    step()
    np.testing.assert_array_equal(clock.numpy(), [0, 0, 0, 0, 2])
    np.testing.assert_array_equal(state[0].numpy(), np.ones((4, 2)))
    np.testing.assert_allclose(ops.up_to_date(state[1], clock, 0.95).numpy(), 0.95**2, rtol=1e-6)


def test_a_read_value_does_not_change(compiled):
    """A tensor that was read before the update keeps the old values."""
    state = [tf.Variable(tf.ones((4, 2))) for _ in range(3)]

    @compiled
    def step():
        before = state[0].read_value()
        ops.fused_adadelta_sparse_apply(*state, tf.ones((1, 2)), [2], learning_rate=1.0)
        return before

    np.testing.assert_array_equal(step().numpy(), np.ones((4, 2)))
    assert (state[0].numpy() != 1).sum() == 2


def test_no_copy_on_read_mode():
    """A table is never switched to copies on every read, as TensorFlow's sparse ops switch it."""
    state = [tf.Variable(tf.ones((4, 2))) for _ in range(3)]
    ops.fused_adadelta_sparse_apply(*state, tf.ones((1, 2)), [2], learning_rate=1.0)
    address = state[0].read_value().numpy().ctypes.data
    assert state[0].read_value().numpy().ctypes.data == address


@needs_xla
@pytest.mark.parametrize("exact", [True, False])
def test_one_custom_call_in_place(exact):
    """Nothing of the size of the table is copied or made."""
    state = [tf.Variable(tf.ones((1000, 8))) for _ in range(3)]
    clock = tf.Variable(tf.zeros(1001, tf.int64)) if exact else None

    @tf.function(jit_compile=True)
    def step(indices):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(state[0], indices) ** 2)
        grad = tape.gradient(loss, state[0])
        ops.fused_adadelta_sparse_apply(
            *state, grad.values, grad.indices, clocks=clock, learning_rate=1.0
        )

    indices = tf.constant([5, 7, 5])
    step(indices)
    hlo = step.experimental_get_compiler_ir(indices)(stage="optimized_hlo")
    assert hlo.count('custom_call_target="tf_adadelta_fused_adadelta_sparse_apply"') == 1
    aliased = re.search(r"input_output_alias=\{ (.*?) \}, ", hlo).group(1)
    assert aliased.count("-alias") >= (4 if exact else 3)
    made = re.findall(r"= (?:f32\[1000,8\]|s64\[1001\])\S* (\w[\w-]*)\(", hlo)
    assert set(made) <= {"parameter", "get-tuple-element"}, made


@needs_xla
def test_inside_a_compiled_loop():
    expected, state = ([tf.Variable(tf.ones((9, 5))) for _ in range(3)] for _ in range(2))
    clocks = [tf.Variable(tf.zeros(10, tf.int64)) for _ in range(2)]
    indices = tf.constant([[1, 2], [3, 3], [0, 1], [8, 8]])

    def step(state, clock, rows):
        ops.fused_adadelta_sparse_apply(
            *state, tf.gather(state[0], rows), rows, clocks=clock, learning_rate=1.0
        )

    @tf.function(jit_compile=True)
    def steps():
        for i in tf.range(4):
            step(state, clocks[0], indices[i])

    steps()
    for i in range(4):
        step(expected, clocks[1], indices[i])
    for actual, value in zip([*state, clocks[0]], [*expected, clocks[1]]):
        np.testing.assert_allclose(actual.numpy(), value.numpy(), rtol=1e-5)


LISTS = ("variables", "accums", "accum_updates", "clocks", "grads", "indices")


class Call:
    """A valid call with two variables, to be spoiled."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.lists = {
            name: [tf.Variable(rng.random((4, 3)), dtype=tf.float32, name=name) for _ in range(2)]
            for name in LISTS[:3]
        }
        self.lists["clocks"] = [tf.Variable(tf.zeros(5, tf.int64), name="clock") for _ in range(2)]
        self.lists["grads"] = [tf.ones((2, 3)) for _ in range(2)]
        self.lists["indices"] = [tf.constant([3, 0]) for _ in range(2)]
        self.watched = [v for name in LISTS[:4] for v in self.lists[name]]
        self.before = [v.numpy() for v in self.watched]

    def check_untouched(self):
        for variable, before in zip(self.watched, self.before):
            np.testing.assert_array_equal(variable.numpy(), before)

    def public(self):
        lists = dict(self.lists)
        clocks = lists.pop("clocks")
        ops.fused_adadelta_sparse_apply(*lists.values(), clocks=clocks, learning_rate=1.0)

    def raw(self):
        """Past the checks in Python, down to those of the op."""
        one = tf.ones((), tf.float64)
        handles = [[v.handle for v in self.lists[name]] for name in LISTS[:4]]
        ops.sparse_apply_handles(
            *handles,
            self.lists["grads"],
            self.lists["indices"],
            learning_rate=one,
            rho=one,
            epsilon=one,
        )


def replaced(name, value, i=1):
    return lambda call: call.lists[name].__setitem__(i, value() if callable(value) else value)


MISTAKES = {
    "grad": (
        replaced("grads", tf.ones((3, 3))),
        r"grads\[1\] has shape \[3,3\], expected \[2,3\], a row of .*variable",
    ),
    "indices": (
        replaced("indices", tf.constant([[3], [0]])),
        r"indices\[1\] has shape \[2,1\], expected one dimension",
    ),
    "accum": (
        replaced("accums", lambda: tf.Variable(tf.ones((3, 3)))),
        r"accums\[1\].* has shape \[3,3\], expected \[4,3\]",
    ),
    "clock": (
        replaced("clocks", lambda: tf.Variable(tf.zeros(4, tf.int64))),
        r"clocks\[1\].* has shape \[4\], expected \[5\], one more than the rows of .*variable",
    ),
    "clock dtype": (
        replaced("clocks", lambda: tf.Variable(tf.zeros(5))),
        r"clocks\[1\].* float.*int64",
    ),
    "clocks": (lambda call: call.lists["clocks"].pop(), r"clocks has length 1, expected"),
    "scalar": (
        lambda call: [replaced(name, lambda: tf.Variable(1.0))(call) for name in LISTS[:3]],
        r"variables\[1\].* is a scalar, which has no rows",
    ),
}
ERRORS = (ValueError, TypeError, tf.errors.InvalidArgumentError)


@pytest.mark.parametrize("door", ["public", "raw"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake(compiled, mistake, door):
    spoil, message = MISTAKES[mistake]
    call = Call()
    spoil(call)
    with pytest.raises(ERRORS, match=message):
        compiled(getattr(call, door))()
    call.check_untouched()


@pytest.mark.parametrize("index", [4, -1, 2**31 - 1, -(2**31)])
def test_index_out_of_range(compiled, index, monkeypatch):
    monkeypatch.setenv("TF_ADADELTA_CHECK_INDICES", "1")  # On a GPU it is no error otherwise.
    call = Call()
    call.lists["indices"][1] = tf.constant([0, index])
    message = rf"indices\[1\]\[1\] is {index}, expected 0 to 3, a row of variables\[1\]"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        compiled(call.public)()
    call.check_untouched()


def test_clocks_without_sense_are_harmless():
    """Rows ahead of their variable are taken for up to date."""
    state = [tf.Variable(tf.ones((2, 3))) for _ in range(3)]
    clock = tf.Variable([2**62, -(2**62), 5], dtype=tf.int64)
    ops.fused_adadelta_sparse_apply(
        *state, tf.ones((2, 3)), [0, 1], clocks=clock, learning_rate=1.0
    )
    assert np.isfinite(state[0].numpy()).all()
    np.testing.assert_allclose(state[1].numpy()[0], 1.0, rtol=1e-6)
    np.testing.assert_array_equal(clock.numpy(), [6, 6, 6])
