"""Several threads, one set of variables; several custom calls, two threads."""

import threading

import numpy as np
import pytest
import tensorflow as tf
from conftest import needs_xla
from subprocesses import check_program

from tf_adadelta import ops


@pytest.mark.parametrize("use_locking", [True, False])
def test_two_threads_on_the_same_variables(use_locking):
    """Each call is atomic, and calls that list the variables in opposite order do not deadlock."""
    steps, size = 50, 3001

    def fresh():
        return [[tf.Variable(tf.ones(size) * (i + 1)) for i in range(4)] for _ in range(3)]

    grads = [tf.ones(size) * (0.1 + i) for i in range(4)]
    state = fresh()

    def work(order):
        for _ in range(steps):
            ops.fused_adadelta_apply(
                *([role[i] for i in order] for role in state),
                [grads[i] for i in order],
                learning_rate=0.01,
                use_locking=use_locking,
            )

    threads = [
        threading.Thread(target=work, args=(order,), daemon=True)
        for order in ([0, 1, 2, 3], [3, 2, 1, 0])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive(), "deadlock"

    expected = fresh()
    for _ in range(2 * steps):
        ops.fused_adadelta_apply(*expected, grads, learning_rate=0.01)
    for role, role_expected in zip(state, expected):
        for actual, value in zip(role, role_expected):
            np.testing.assert_array_equal(actual.numpy(), value.numpy())


@needs_xla
def test_many_custom_calls_at_once_do_not_deadlock():
    """200 variables over 8 optimizers in one compiled step, on 2 threads."""
    program = """
        import keras, tensorflow as tf, tf_adadelta
        tf.config.threading.set_intra_op_parallelism_threads(2)
        tf.config.threading.set_inter_op_parallelism_threads(2)
        variables = [tf.Variable(tf.ones(20_000)) for _ in range(200)]
        optimizers = [tf_adadelta.Adadelta(1.0) for _ in range(8)]
        for i, optimizer in enumerate(optimizers):
            optimizer.build(variables[i::8])
        @tf.function(jit_compile=True)
        def step():
            grads = [v * 0.5 for v in variables]
            for i, optimizer in enumerate(optimizers):
                optimizer.apply(grads[i::8], variables[i::8])
        for _ in range(30):
            step()
        first = variables[0].numpy()
        assert first[0] < 1 and all((v.numpy() == first).all() for v in variables)
        """
    check_program(program)
