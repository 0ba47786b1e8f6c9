"""What is measured: ways to do one Adadelta step on a list of variables."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tf_adadelta
from benchmarks.cases import Shape

LEARNING_RATE = 1.0
RHO = 0.95
EPSILON = 1e-7

NUMPY = "NumPy"
EAGER = "eager"
FUNCTION = "tf.function"
JIT = "jit_compile"

LIMIT = "limit"
FUSED = {
    NUMPY: "fused (NumPy)",
    EAGER: "fused eager",
    FUNCTION: "fused tf.function",
    JIT: "fused jit_compile",
}
"""The fused contestant of each mode."""


class Work:
    """The gradients of one case. All contestants share them; each has variables of its own.

    Attributes:
        shapes: The shapes of the variables.
        num_threads: How many threads a contestant may use.
        grads: The gradients as NumPy arrays.
        grad_tensors: The same gradients as tensors.
    """

    def __init__(self, shapes: Sequence[Shape], num_threads: int) -> None:
        """Draws the gradients."""
        rng = np.random.default_rng(0)
        self.shapes = shapes
        self.num_threads = num_threads
        self.grads = [np.asarray(rng.standard_normal(shape, np.float32)) for shape in shapes]
        self.grad_tensors = [tf.constant(grad) for grad in self.grads]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A contestant with variables, all zero, and everything traced.

    Attributes:
        renew: Gives the variables other memory, all zero.
        step: Does one update of all variables. What it returns means nothing.
        values: Returns the current values of the variables.
    """

    renew: Callable[[], None]
    step: Callable[[], object]
    values: Callable[[], list[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A way to do the update.

    Attributes:
        name: Its name in the results.
        mode: How it is executed: it is compared with the fused update in the same mode. None for
            the limit, which is no update.
        prepare: Makes its variables.
    """

    name: str
    mode: str | None
    prepare: Callable[[Work], Prepared]


def _in_mode(step: Callable[[], None], mode: str) -> Callable[[], object]:
    if mode == EAGER:
        return step
    function = tf.function(step, autograph=False, jit_compile=mode == JIT)
    # The concrete function: what a tf.function does in Python to find it is paid once per training
    # step, whatever the optimizer. Gradients of up to 128 elements become constants of the graph,
    # which can only help contestants that square them in an operation of its own.
    return function.get_concrete_function()


def _prepare_optimizer(
    work: Work, optimizer_class: type[keras.optimizers.Optimizer], mode: str
) -> Prepared:
    variables = [keras.Variable("zeros", shape=shape, dtype="float32") for shape in work.shapes]
    optimizer = optimizer_class(learning_rate=LEARNING_RATE, rho=RHO, epsilon=EPSILON)
    optimizer.build(variables)

    def renew() -> None:
        # After the iteration and the learning rate come the averages.
        _assign_zeros([*variables, *optimizer.variables[2:]])

    def step() -> None:
        optimizer.apply(work.grad_tensors, variables)

    return Prepared(renew, _in_mode(step, mode), lambda: [value.numpy() for value in variables])


def _assign_zeros(variables: Sequence[Any]) -> None:
    for variable in variables:
        variable.assign(tf.zeros(variable.shape))


def _prepare_stock_op(work: Work) -> Prepared:
    variables, accums, accum_updates = (
        [tf.Variable(tf.zeros(shape)) for shape in work.shapes] for _ in range(3)
    )

    def step() -> None:
        for variable, accum, accum_update, grad in zip(
            variables, accums, accum_updates, work.grad_tensors
        ):
            tf.raw_ops.ResourceApplyAdadelta(
                var=variable.handle,
                accum=accum.handle,
                accum_update=accum_update.handle,
                lr=LEARNING_RATE,
                rho=RHO,
                epsilon=EPSILON,
                grad=grad,
            )

    def renew() -> None:
        _assign_zeros([*variables, *accums, *accum_updates])

    return Prepared(renew, _in_mode(step, FUNCTION), lambda: [value.numpy() for value in variables])


def _prepare_kernel(work: Work, kernel: Callable[..., None]) -> Prepared:
    state: list[list[np.ndarray]] = [[], [], []]

    def renew() -> None:
        for arrays in state:
            arrays[:] = [np.zeros(shape, np.float32) for shape in work.shapes]

    def step() -> None:
        kernel(*state, work.grads, num_threads=work.num_threads)

    return Prepared(renew, step, lambda: state[0])


def _limit() -> Contestant:
    kernel = tf_adadelta.kernels.copy_streams
    return Contestant(LIMIT, None, functools.partial(_prepare_kernel, kernel=kernel))


def _fused_kernel() -> Contestant:
    kernel = functools.partial(
        tf_adadelta.kernels.fused_adadelta_apply,
        learning_rate=LEARNING_RATE,
        rho=RHO,
        epsilon=EPSILON,
    )
    return Contestant(FUSED[NUMPY], NUMPY, functools.partial(_prepare_kernel, kernel=kernel))


def _optimizer(
    name: str, optimizer_class: type[keras.optimizers.Optimizer], mode: str
) -> Contestant:
    prepare = functools.partial(_prepare_optimizer, optimizer_class=optimizer_class, mode=mode)
    return Contestant(name, mode, prepare)


CONTESTANTS = (
    _limit(),
    _fused_kernel(),
    *(_optimizer(FUSED[mode], tf_adadelta.Adadelta, mode) for mode in (EAGER, FUNCTION, JIT)),
    *(_optimizer(f"Keras {m}", keras.optimizers.Adadelta, m) for m in (EAGER, FUNCTION, JIT)),
    Contestant("ResourceApplyAdadelta", FUNCTION, _prepare_stock_op),
)
