"""What is measured: ways to do one Adadelta step on a list of variables."""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Sequence

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
LEGACY_EAGER = "legacy eager"
LEGACY_FUNCTION = "legacy tf.function"

LIMIT = "limit"
FUSED_PREFIX = "fused "
FUSED = {
    NUMPY: f"{FUSED_PREFIX}(NumPy)",
    **{mode: FUSED_PREFIX + mode for mode in (EAGER, FUNCTION, JIT, LEGACY_EAGER, LEGACY_FUNCTION)},
}
"""The fused contestant of each mode."""

STOCK_LEGACY = {
    LEGACY_EAGER: "tf_keras legacy eager",
    LEGACY_FUNCTION: "tf_keras legacy tf.function",
}
"""The contestants of tf_keras.optimizers.legacy, which calls ResourceApplyAdadelta."""

MISSING = (
    []
    if importlib.util.find_spec("tf_keras")
    else [f"{' and '.join(STOCK_LEGACY.values())}: tf_keras is not installed"]
)
"""What is not measured, and why."""


def zero_variables(shapes: Sequence[Shape]) -> list[keras.Variable]:
    """Returns a variable of zeros for each shape."""
    return [keras.Variable("zeros", shape=shape, dtype="float32") for shape in shapes]


class Work:
    """The gradients of one case, and one set of variables.

    All contestants share the gradients. Those that update TensorFlow's variables in place share
    these variables too: where the pages of an array happen to lie makes a difference of up to a
    quarter on a virtual machine, and would be the luck of a contestant for the whole run.

    Attributes:
        shapes: The shapes of the variables.
        num_threads: How many threads a contestant may use.
        grads: The gradients as NumPy arrays.
        grad_tensors: The same gradients as tensors.
        state: The variables, accums and accum_updates that are shared, all zero.
    """

    def __init__(self, shapes: Sequence[Shape], num_threads: int) -> None:
        """Draws the gradients."""
        rng = np.random.default_rng(0)
        self.shapes = shapes
        self.num_threads = num_threads
        self.grads = [np.asarray(rng.standard_normal(shape, np.float32)) for shape in shapes]
        self.grad_tensors = [tf.constant(grad) for grad in self.grads]
        self.state = [zero_variables(shapes) for _ in range(3)]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A contestant with variables, all zero, and everything traced.

    Attributes:
        step: Does one update of all variables. What it returns means nothing.
        values: Returns the current values of the variables.
    """

    step: Callable[[], object]
    values: Callable[[], list[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A way to do the update.

    Attributes:
        name: Its name in the results.
        mode: How it is executed: it is compared with the fused update in the same mode. None for
            what is no update, such as the limit.
        prepare: Makes its variables.
    """

    name: str
    mode: str | None
    prepare: Callable[[Work], Prepared]


def _in_mode(step: Callable[[], None], mode: str) -> Callable[[], object]:
    if mode in (EAGER, LEGACY_EAGER):
        return step
    function = tf.function(step, autograph=False, jit_compile=mode == JIT)
    # The concrete function: what a tf.function does in Python to find it is paid once per training
    # step, whatever the optimizer. Gradients of up to 128 elements become constants of the graph,
    # which can only help contestants that square them in an operation of its own.
    return function.get_concrete_function()


def prepare_optimizer(
    work: Work, optimizer_class: type[keras.optimizers.Optimizer], mode: str
) -> Prepared:
    """Prepares an optimizer of Keras, or ours."""
    # Keras puts its results into other memory at every step, unless XLA finds that it need not.
    in_place = optimizer_class is tf_adadelta.Adadelta or mode == JIT
    variables = work.state[0] if in_place else zero_variables(work.shapes)
    optimizer = optimizer_class(learning_rate=LEARNING_RATE, rho=RHO, epsilon=EPSILON)
    optimizer.build(variables)
    if in_place:
        slots = (optimizer._accumulated_grads, optimizer._accumulated_delta_vars)
        for own, shared in zip(slots, work.state[1:]):
            for slot, variable in zip(own, shared):
                slot._value = variable.value

    def step() -> None:
        optimizer.apply(work.grad_tensors, variables)

    return Prepared(_in_mode(step, mode), lambda: [value.numpy() for value in variables])


def _prepare_legacy(work: Work, stock: bool, mode: str) -> Prepared:
    if stock:
        from tf_keras.optimizers.legacy import Adadelta
    else:
        from tf_adadelta.tf_keras.legacy import Adadelta

    variables, accums, accum_updates = ([v.value for v in state] for state in work.state)
    optimizer = Adadelta(learning_rate=LEARNING_RATE, rho=RHO, epsilon=EPSILON)
    optimizer._create_hypers()
    # The slots that are shared, where the optimizer would create its own.
    optimizer._slots = {
        variable._unique_id: {"accum_grad": accum, "accum_var": accum_update}
        for variable, accum, accum_update in zip(variables, accums, accum_updates)
    }

    def step() -> None:
        optimizer.apply_gradients(zip(work.grad_tensors, variables))

    return Prepared(_in_mode(step, mode), lambda: [value.numpy() for value in variables])


def prepare_stock_op(work: Work) -> Prepared:
    """Prepares TensorFlow's own op, one for each variable."""

    def step() -> None:
        for variable, accum, accum_update, grad in zip(*work.state, work.grad_tensors):
            tf.raw_ops.ResourceApplyAdadelta(
                var=variable.value.handle,
                accum=accum.value.handle,
                accum_update=accum_update.value.handle,
                lr=LEARNING_RATE,
                rho=RHO,
                epsilon=EPSILON,
                grad=grad,
            )

    return Prepared(_in_mode(step, FUNCTION), lambda: [value.numpy() for value in work.state[0]])


def _prepare_kernel(work: Work, kernel: Callable[..., None]) -> Prepared:
    variables, accums, accum_updates = (
        [np.zeros(shape, np.float32) for shape in work.shapes] for _ in range(3)
    )

    def step() -> None:
        kernel(variables, accums, accum_updates, work.grads, num_threads=work.num_threads)

    return Prepared(step, lambda: variables)


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
    prepare = functools.partial(prepare_optimizer, optimizer_class=optimizer_class, mode=mode)
    return Contestant(name, mode, prepare)


def _legacy() -> list[Contestant]:
    if MISSING:
        return []
    return [
        Contestant(name, mode, functools.partial(_prepare_legacy, stock=stock, mode=mode))
        for stock, names in ((False, FUSED), (True, STOCK_LEGACY))
        for mode, name in names.items()
        if mode in STOCK_LEGACY
    ]


CONTESTANTS = (
    _limit(),
    _fused_kernel(),
    *(_optimizer(FUSED[mode], tf_adadelta.Adadelta, mode) for mode in (EAGER, FUNCTION, JIT)),
    *(_optimizer(f"Keras {m}", keras.optimizers.Adadelta, m) for m in (EAGER, FUNCTION, JIT)),
    Contestant("ResourceApplyAdadelta", FUNCTION, prepare_stock_op),
    *_legacy(),
)
