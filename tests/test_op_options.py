"""What is done around the update in the same pass, against the oracle, through each door."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf
from conftest import needs_xla
from oracle import DTYPES, ROLES, OptionsOracle

from tf_adadelta import kernels, ops

SHAPES = [(4097,), (), (0,), (1,), (3,), (33, 1021), (0, 7), (2, 3, 5)]
SMALL = [(3,), (), (0,), (5, 2)]
MANY = [(5,)] * 100 + [(40_000,)] + [(17,)] * 50
BUFFERS = list(itertools.product([False, True], repeat=2))


class TensorFlow:
    """The op, with a decorator that says how a step is run."""

    def __init__(self, oracle, compiled):
        self.variables = {
            role: [tf.Variable(value) for value in oracle.stored(role)] for role in oracle.roles
        }
        self._step = compiled(self._apply)

    def _apply(self, grads, learning_rate, options):
        grad_accums = self.variables.get("grad_accums")
        norms = ops.fused_squared_norms(
            grads,
            grad_accums=grad_accums,
            grad_scale=options["grad_scale"],
            update=options["update"],
        )
        ops.fused_adadelta_apply(
            *(self.variables[role] for role in ROLES),
            grads,
            averages=self.variables.get("averages"),
            grad_accums=grad_accums,
            learning_rate=learning_rate,
            **options,
        )
        return norms

    def step(self, grads, learning_rate, options):
        options = {name: tf.constant(value) for name, value in options.items()}
        return self._step([tf.constant(grad) for grad in grads], learning_rate, options)

    def values(self):
        return [[v.numpy() for v in variables] for variables in self.variables.values()]


class NumPy:
    """The kernel, for an instruction set."""

    def __init__(self, oracle, instruction_set):
        self.arrays = {role: oracle.stored(role) for role in oracle.roles}
        self.how = {"instruction_set": instruction_set, "num_threads": 2}

    def step(self, grads, learning_rate, options):
        buffers = {r: a for r, a in self.arrays.items() if r not in ROLES}
        norms = kernels.squared_norms(
            grads,
            grad_accums=buffers.get("grad_accums"),
            grad_scale=options["grad_scale"],
            **self.how,
        )
        kernels.fused_adadelta_apply(
            *(self.arrays[role] for role in ROLES),
            grads,
            learning_rate=learning_rate,
            **buffers,
            **options,
            **self.how,
        )
        return norms if options["update"] else np.zeros(len(grads))

    def values(self):
        return list(self.arrays.values())


def run_against_oracle(make_door, dtype, shapes, buffers, steps=9):
    oracle = OptionsOracle(*buffers, shapes, dtype)
    door = make_door(oracle)
    for number in range(steps):
        grads = oracle.new_grads()
        options = {
            "grad_scale": oracle.rng.choice([0.5, 1.0, 2.0]),
            "update": not buffers[1] or number % 3 == 2,
            "clip_factors": oracle.rng.random(len(shapes)),
            "clipvalue": oracle.rng.choice([0.2, 0.7, np.inf]),
            "weight_decay": oracle.rng.choice([0.0, 0.01, 0.1]),
            "ema_momentum": oracle.rng.choice([0.0, 0.9]),
        }
        # The kernel has what it stores; the oracle, only what it would have stored.
        expected = [
            np.sum(s**2) * options["update"] for s in oracle.sums(grads, options["grad_scale"])
        ]
        norms = door.step(grads, 0.5, options)
        relative = {"float64": 1e-13, "float32": 1e-6}.get(dtype, 1e-2)
        np.testing.assert_allclose(norms, expected, rtol=relative, atol=relative)
        oracle.options_step(grads, 0.5, options)
    oracle.check(*door.values())


@pytest.mark.parametrize("buffers", BUFFERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_op_matches_oracle(compiled, dtype, buffers):
    run_against_oracle(functools.partial(TensorFlow, compiled=compiled), dtype, SHAPES, buffers)


@pytest.mark.parametrize("buffers", BUFFERS[1:])
def test_an_empty_first_variable_switches_nothing_off(compiled, buffers):
    """Its buffers may be null, like those that nobody gave; and nothing else is asked for."""
    oracle = OptionsOracle(*buffers, [(0,), (3,), (5000,)], "float32")
    door = TensorFlow(oracle, compiled)
    for update in (0.0, 1.0, 1.0):
        grads = oracle.new_grads()
        options = {**NEUTRAL, "clip_factors": np.ones(3), "update": update, "ema_momentum": 0.5}
        if not buffers[1]:
            options["update"] = 1.0
        expected = [np.sum(s**2) * options["update"] for s in oracle.sums(grads, 1.0)]
        given = {name: options[name] for name in ("grad_scale", "update", "ema_momentum")}
        norms = door.step(grads, 0.5, given)
        np.testing.assert_allclose(norms, expected, rtol=1e-5)
        oracle.options_step(grads, 0.5, options)
    oracle.check(*door.values())


@pytest.mark.parametrize("buffers", BUFFERS)
def test_more_variables_than_one_custom_call_has(compiled, buffers):
    make_door = functools.partial(TensorFlow, compiled=compiled)
    run_against_oracle(make_door, "float32", MANY, buffers, steps=4)


@needs_xla
@pytest.mark.parametrize("hlo", ["0", "1"])
@pytest.mark.parametrize("buffers", BUFFERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_hlo_matches_oracle(monkeypatch, dtype, buffers, hlo):
    """What XLA compiles itself: for small lists, and for platforms other than the CPU."""
    monkeypatch.setenv("TF_ADADELTA_XLA_HLO", hlo)
    compiled = tf.function(jit_compile=True)
    make_door = functools.partial(TensorFlow, compiled=compiled)
    run_against_oracle(make_door, dtype, SMALL, buffers)


@pytest.mark.parametrize("instruction_set", kernels.instruction_sets())
@pytest.mark.parametrize("buffers", BUFFERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernel_matches_oracle(dtype, buffers, instruction_set):
    make_door = functools.partial(NumPy, instruction_set=instruction_set)
    run_against_oracle(make_door, dtype, SHAPES, buffers)


NEUTRAL = {
    "grad_scale": 1.0,
    "update": 1.0,
    "clip_factors": [1.0] * len(SHAPES),
    "clipvalue": np.inf,
    "weight_decay": 0.0,
    "ema_momentum": 0.0,
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_neutral_options_change_no_bit(compiled, dtype):
    """Infinite variables stay infinite, too: they lose no part of themselves."""
    results = []
    for options in ({}, {name: tf.constant(value, tf.float64) for name, value in NEUTRAL.items()}):
        oracle = OptionsOracle(False, False, SHAPES, dtype)
        oracle.values["variables"][0][5] = np.inf
        door = TensorFlow(oracle, compiled)
        lists = [door.variables[role] for role in ROLES]

        @compiled
        def step(grads):
            ops.fused_adadelta_apply(*lists, grads, learning_rate=0.5, **options)  # noqa: B023

        for _ in range(3):
            step([tf.constant(grad) for grad in oracle.new_grads()])
        results.append(door.values())
    for one, other in zip(*map(itertools.chain.from_iterable, results)):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_clipvalue_lets_nan_through(compiled, dtype):
    state = [tf.Variable(tf.ones(6, dtype)) for _ in range(3)]

    @compiled
    def step(grad):
        ops.fused_adadelta_apply(*state, grad, learning_rate=1.0, clipvalue=0.5)

    step(tf.constant([np.nan, np.inf, -np.inf, 0.25, 3.0, -3.0], dtype))
    plain = [tf.Variable(tf.ones(6, dtype)) for _ in range(3)]
    clipped = tf.constant([np.nan, 0.5, -0.5, 0.25, 0.5, -0.5], dtype)
    ops.fused_adadelta_apply(*plain, clipped, learning_rate=1.0)
    for actual, expected in zip(state, plain):
        actual, expected = (np.asarray(v.numpy(), np.float64) for v in (actual, expected))
        np.testing.assert_allclose(actual, expected, rtol=1e-2 if dtype != "float64" else 1e-12)


def test_norms_have_the_same_bits_for_any_number_of_threads():
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(n).astype(np.float32) for n in (1, 1_000_003, 0, 70_000, 5)]
    results = {tuple(kernels.squared_norms(grads, num_threads=n)) for n in (1, 2, 3, 8) * 3}
    assert len(results) == 1


def test_norms_of_what_overflows_in_float32():
    norm = kernels.squared_norms(np.full(3, 1e30, np.float32))
    np.testing.assert_allclose(norm, [3e60], rtol=1e-6)


def state(n=2, shape=(3,), dtype=tf.float32):
    return [[tf.Variable(tf.ones(shape, dtype)) for _ in range(n)] for _ in range(3)]


GRADS = [tf.ones(3)] * 2
BAD = [
    ({"averages": [tf.Variable(tf.ones(3))]}, r"averages has length 1, expected 2"),
    (
        {"averages": [tf.Variable(tf.ones(3)), tf.Variable(tf.ones(4))]},
        r"averages\[1\] .*has shape \[4\], expected \[3\]",
    ),
    (
        {"grad_accums": [tf.Variable(tf.ones(3)), tf.Variable(tf.ones(3, tf.float64))]},
        r"grad_accums\[1\] .*has dtype float64, expected float32",
    ),
    ({"averages": [1, 2]}, r"averages\[0\] is of type int, expected a variable"),
    ({"clip_factors": [1.0, 2.0, 3.0]}, r"clip_factors has shape \[3\], expected \[2\]"),
    ({"clipvalue": [1.0]}, r"clipvalue has shape \[1\], expected a scalar"),
    ({"weight_decay": [0.5, 0.5]}, r"weight_decay has shape \[2\], expected a scalar"),
    ({"update": False}, r"update is False, expected True where there are no grad_accums"),
]


@pytest.mark.parametrize("options, message", BAD)
def test_bad_options_change_nothing(compiled, options, message):
    variables = state()
    before = [v.numpy() for role in variables for v in role]
    with pytest.raises((TypeError, ValueError, tf.errors.InvalidArgumentError), match=message):
        compiled(
            lambda: ops.fused_adadelta_apply(*variables, GRADS, learning_rate=1.0, **options)
        )()
    for variable, value in zip(itertools.chain.from_iterable(variables), before):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_a_variable_that_is_its_own_average():
    variables = state()
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"averages\[\d\].*is the same variable"
    ):
        ops.fused_adadelta_apply(*variables, GRADS, averages=variables[0], learning_rate=1.0)


def test_bad_options_of_the_kernel():
    lists = [[np.ones(3, np.float32)] for _ in range(4)]
    for options, message in [
        (
            {"averages": [np.ones(4, np.float32)]},
            r"averages\[0\] has shape \(4,\), expected \(3,\)",
        ),
        ({"grad_accums": []}, "grad_accums has 0 arrays, expected 1"),
        ({"averages": lists[0]}, r"variables\[0\] and averages\[0\] share memory"),
        ({"clip_factors": [1.0, 2.0]}, "clip_factors has length 2, expected 1"),
        ({"update": False}, "update is False, expected True"),
    ]:
        with pytest.raises(ValueError, match=message):
            kernels.fused_adadelta_apply(*lists, learning_rate=1.0, **options)
    with pytest.raises(ValueError, match=r"grad_accums\[0\] has shape"):
        kernels.squared_norms(lists[0], grad_accums=[np.ones(2, np.float32)])
    with pytest.raises(TypeError, match=r"grads\[0\] has dtype int64"):
        kernels.squared_norms(np.ones(3, np.int64))
    for arrays in lists:
        np.testing.assert_array_equal(arrays[0], 1)
