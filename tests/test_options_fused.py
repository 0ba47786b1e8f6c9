"""What is around the update is in the op, and nowhere else: read from the graphs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_adadelta

SHAPES = [(50, 7), (33,), (20, 5)]
ALL = {
    "global_clipnorm": 1.0,
    "weight_decay": 0.1,
    "use_ema": True,
    "gradient_accumulation_steps": 2,
    "loss_scale_factor": 4.0,
}


def operations(step):
    """All operations of the graph of a step, those of functions that it calls included."""
    graph = tf.function(step).get_concrete_function().graph
    definition = graph.as_graph_def()
    names = [operation.type for operation in graph.get_operations()]
    for function in definition.library.function:
        names += [node.op for node in function.node_def]
    return names


def big_outputs(step):
    """The operations of the graph that make something as large as a variable."""
    graph = tf.function(step).get_concrete_function().graph
    shapes = {tf.TensorShape(shape) for shape in SHAPES}
    return [
        operation.type
        for operation in graph.get_operations()
        if operation.type not in ("Const", "Placeholder")
        and any(output.shape in shapes for output in operation.outputs)
    ]


def make(options, excluded=()):
    variables = [
        keras.Variable(np.ones(shape), dtype="float32", name=f"v{i}")
        for i, shape in enumerate(SHAPES)
    ]
    optimizer = tf_adadelta.Adadelta(1.0, **options)
    if excluded:
        optimizer.exclude_from_weight_decay(var_names=list(excluded))
    optimizer.build(variables)
    return optimizer, variables, [tf.ones(shape) for shape in SHAPES]


@pytest.mark.parametrize("option", [{name: value} for name, value in ALL.items()] + [ALL], ids=str)
def test_one_call_and_no_pass_besides(option):
    optimizer, variables, grads = make(option)

    def step():
        optimizer.apply(grads, variables)

    found = operations(step)
    assert found.count("FusedAdadeltaApply") == 1
    assert found.count("FusedSquaredNorms") == ("global_clipnorm" in option)
    assert not big_outputs(step)


def test_what_is_excluded_from_decay_takes_a_call_of_its_own():
    optimizer, variables, grads = make({"weight_decay": 0.1}, excluded=["v1"])

    def step():
        optimizer.apply(grads, variables)

    assert operations(step).count("FusedAdadeltaApply") == 2
    assert not big_outputs(step)


@pytest.mark.parametrize("option", ["weight_decay", "use_ema", "gradient_accumulation_steps"])
def test_a_sparse_gradient_takes_one_fused_dense_pass(option):
    optimizer, variables, grads = make({option: ALL[option]})
    grads[0] = tf.IndexedSlices(tf.ones((4, 7)), tf.constant([3, 1, 3, 40]), tf.constant([50, 7]))

    def step():
        optimizer.apply(grads, variables)

    assert operations(step).count("FusedAdadeltaApply") == 1
    # The rows in zeros, and a cast that does nothing.
    assert set(big_outputs(step)) <= {"UnsortedSegmentSum", "Cast"}


@pytest.mark.parametrize("option", [{}, {"clipnorm": 1.0}, {"global_clipnorm": 1.0}], ids=str)
def test_gradients_are_read_once_for_finiteness_and_norms(option):
    inner, variables, grads = make(option)
    optimizer = tf_adadelta.LossScaleOptimizer(inner)
    optimizer.build(variables)

    def step():
        optimizer.apply(grads, variables)

    found = operations(step)
    assert found.count("FusedSquaredNorms") == 1
    assert found.count("FusedAdadeltaApply") == 1
    assert found.count("IsFinite") == 1  # Of the sum of all squares.
    assert not {"RealDiv", "Div"} & set(big_outputs(step))
