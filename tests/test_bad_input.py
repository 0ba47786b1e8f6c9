"""Every mistake gets a message that names the variable, and leaves every buffer as it was."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import needs_xla

from tf_adadelta import ops

ROLES = ("variables", "accums", "accum_updates", "grads")


class Call:
    """A valid call with two variables, to be spoiled."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.arguments = {
            role: [
                tf.Variable(rng.random((3, 2)), dtype=tf.float32, name=f"{role}{i}")
                for i in range(2)
            ]
            for role in ROLES[:3]
        }
        self.arguments["grads"] = [tf.constant(rng.random((3, 2)), tf.float32) for _ in range(2)]
        self.scalars = {"learning_rate": 1.0, "rho": 0.95, "epsilon": 1e-7}
        self.watched = [v for role in ROLES[:3] for v in self.arguments[role]]
        self.before = [v.numpy() for v in self.watched]

    def check_untouched(self):
        for variable, before in zip(self.watched, self.before):
            np.testing.assert_array_equal(variable.numpy(), before)

    def public(self):
        ops.fused_adadelta_apply(*self.arguments.values(), **self.scalars)

    def raw(self):
        """Past the checks in Python, down to those of the op."""
        ops.apply_handles(
            *(
                [v.handle if hasattr(v, "handle") else v for v in self.arguments[role]]
                for role in ROLES[:3]
            ),
            self.arguments["grads"],
            **{
                name: tf.convert_to_tensor(value, tf.float64)
                for name, value in self.scalars.items()
            },
        )


def replace(role, i, value):
    def spoil(call):
        call.arguments[role][i] = value() if callable(value) else value

    return spoil


def scalar(name):
    return lambda call: call.scalars.__setitem__(name, tf.ones(2, tf.float64))


def uninitialized():
    return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=(3, 2), shared_name="never assigned")


def same_variable(role, other):
    return lambda call: call.arguments[role].__setitem__(1, call.arguments[other][0])


RAW = {
    "accum shape": (
        replace("accums", 1, lambda: tf.Variable(tf.ones((2, 3)), name="bad")),
        r"accums\[1\].* has shape \[2,3\], expected \[3,2\]",
    ),
    "accum_update shape": (
        replace("accum_updates", 0, lambda: tf.Variable(tf.ones(6))),
        r"accum_updates\[0\].* has shape \[6\], expected \[3,2\]",
    ),
    "gradient shape": (
        replace("grads", 1, lambda: tf.ones((3, 3))),
        r"grads\[1\] has shape \[3,3\], expected \[3,2\]",
    ),
    "variable dtype": (
        replace("variables", 1, lambda: tf.Variable(tf.ones((3, 2), tf.float64))),
        r"variables\[1\].* has dtype double, expected float",
    ),
    "accum dtype": (
        replace("accums", 1, lambda: tf.Variable(tf.ones((3, 2), tf.float16))),
        r"accums\[1\].* has dtype half, expected float",
    ),
    "learning_rate": (scalar("learning_rate"), r"learning_rate has shape \[2\], expected a scalar"),
    "rho": (scalar("rho"), r"rho has shape \[2\], expected a scalar"),
    "epsilon": (scalar("epsilon"), r"epsilon has shape \[2\], expected a scalar"),
    "variable twice": (
        same_variable("variables", "variables"),
        r"variables\[1\].* is the same variable as variables\[0\]",
    ),
    "variable as its accum": (
        same_variable("accum_updates", "accums"),
        r"accum_updates\[1\].* is the same variable as accums\[0\]",
    ),
}


@pytest.mark.parametrize("mistake", RAW)
def test_op_in_eager_execution(mistake):
    spoil, message = RAW[mistake]
    call = Call()
    spoil(call)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        call.raw()
    call.check_untouched()


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=needs_xla)])
@pytest.mark.parametrize("mistake", RAW)
def test_op_in_a_graph(mistake, jit_compile):
    """Shapes and dtypes are caught when the graph is made or compiled, the rest when it runs."""
    spoil, message = RAW[mistake]
    call = Call()
    spoil(call)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=message):
        tf.function(call.raw, jit_compile=jit_compile)()
    call.check_untouched()


def test_shapes_unknown_to_the_graph():
    call = Call()

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32)])
    def step(grad):
        call.arguments["grads"][1] = grad
        call.raw()

    with pytest.raises(tf.errors.InvalidArgumentError, match=r"grads\[1\] has shape \[7\]"):
        step(tf.ones(7))
    call.check_untouched()
    step(tf.ones((3, 2)))


@pytest.mark.parametrize("compile", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_uninitialized_variable(compile):
    call = Call()
    call.arguments["variables"][1] = uninitialized()
    with pytest.raises(
        (tf.errors.FailedPreconditionError, tf.errors.NotFoundError),
        match=r"variables\[1\] .*is not (an )?initialized",
    ):
        compile(call.raw)()
    call.check_untouched()


def test_resource_that_is_no_variable():
    call = Call()
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([1], [2]), 0)
    call.arguments["accums"][0] = table.resource_handle
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"accums\[0\] .*not an initialized"):
        call.raw()
    call.check_untouched()


@pytest.mark.parametrize(
    "spoil, error, message",
    [
        (lambda c: c.arguments["accums"].pop(), ValueError, "accums has length 1, expected 2"),
        (lambda c: c.arguments["grads"].pop(), ValueError, "grads has length 1, expected 2"),
        (
            replace("variables", 1, lambda: tf.ones((3, 2))),
            TypeError,
            r"variables\[1\] is of type EagerTensor, expected a variable",
        ),
        (
            replace("accums", 1, None),
            TypeError,
            r"accums\[1\] is of type NoneType, expected a variable",
        ),
        (
            replace("accum_updates", 1, lambda: tf.Variable(tf.ones((3, 2), tf.float64))),
            TypeError,
            r"accum_updates\[1\] .*has dtype float64, expected float32",
        ),
        (
            replace("variables", 0, lambda: tf.Variable(tf.ones((3, 2), tf.int32))),
            TypeError,
            r"variables\[0\] .*has dtype int32, expected float16, bfloat16, float32 or float64",
        ),
        (
            replace("grads", 1, lambda: tf.ones((3, 2), tf.float64)),
            TypeError,
            r"grads\[1\] has dtype float64, expected float32",
        ),
        (
            replace("grads", 0, lambda: tf.IndexedSlices(tf.ones((1, 2)), [0], (3, 2))),
            TypeError,
            r"grads\[0\] is tf.IndexedSlices, expected a dense tensor",
        ),
        (replace("grads", 1, None), ValueError, r"None"),
        (
            scalar("rho"),
            tf.errors.InvalidArgumentError,
            r"rho has shape \[2\], expected a scalar",
        ),
    ],
)
def test_public_function(spoil, error, message):
    call = Call()
    spoil(call)
    with pytest.raises(error, match=message):
        call.public()
    call.check_untouched()


def test_last_variable_of_many_is_wrong():
    """What comes first in the list has not been written when the last is found to be wrong."""
    state = [[tf.Variable(tf.ones(100)) for _ in range(50)] for _ in range(3)]
    state[2][-1] = tf.Variable(tf.ones(99))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"accum_updates\[49\]"):
        ops.fused_adadelta_apply(*state, [tf.ones(100)] * 50, learning_rate=1.0)
    for role in state:
        for variable in role:
            np.testing.assert_array_equal(variable.numpy(), np.ones(variable.shape))
