"""tf_adadelta.compat.v1.AdadeltaOptimizer beside tf.compat.v1.train.AdadeltaOptimizer."""

import numpy as np
import pytest
import tensorflow as tf
from classic import (
    SHAPES,
    assert_close,
    check_sparse_update,
    eagerly,
    make_grads,
    make_slices,
    make_step,
    make_variables,
    run,
    run_both,
)
from oracle import Oracle
from subprocesses import check_program

from tf_adadelta.compat import v1

STOCK = tf.compat.v1.train.AdadeltaOptimizer
FUSED = v1.AdadeltaOptimizer
OPTIMIZERS = (STOCK, FUSED)
DIRECTIONS = [(a, b) for a in OPTIMIZERS for b in OPTIMIZERS]
IDS = [f"{a.__module__.split('.')[0]}-to-{b.__module__.split('.')[0]}" for a, b in DIRECTIONS]
directions = pytest.mark.parametrize("writer, reader", DIRECTIONS, ids=IDS)
SLOTS = ("accum", "accum_update")


class Session:
    """A graph with variables, placeholders for their gradients, and a step of an optimizer."""

    def __init__(
        self, make, dtype="float32", use_resource=True, sparse=False, densify=False, **options
    ):
        initial_values = [variable.numpy() for variable in make_variables(dtype)]
        self.graph = tf.Graph()
        with self.graph.as_default():
            self.variables = [
                tf.compat.v1.get_variable(
                    f"v{i}",
                    initializer=tf.constant(value),
                    use_resource=use_resource,
                    **({"constraint": options.get("constraint")} if i else {}),
                )
                for i, value in enumerate(initial_values)
            ]
            options.pop("constraint", None)
            self.optimizer = make(**{"learning_rate": 0.5, **options})
            self.global_step = tf.compat.v1.train.get_or_create_global_step()
            self.placeholders = [
                tf.compat.v1.placeholder(variable.dtype.base_dtype, variable.shape)
                for variable in self.variables
            ]
            grads = list(self.placeholders)
            if sparse:
                self.values = tf.compat.v1.placeholder(dtype, (6, 5))
                self.indices = tf.compat.v1.placeholder(tf.int64, (6,))
                grads[0] = tf.IndexedSlices(self.values, self.indices, tf.constant((17, 5)))
            if densify:
                grads[0] = tf.convert_to_tensor(grads[0])
            self.sparse = sparse
            self.step = self.optimizer.apply_gradients(
                zip(grads, self.variables), global_step=self.global_step
            )
            self.session = tf.compat.v1.Session()
            self.session.run(tf.compat.v1.global_variables_initializer())
            self.saver = tf.compat.v1.train.Saver()

    @property
    def slots(self):
        return [[self.optimizer.get_slot(v, name) for v in self.variables] for name in SLOTS]

    def run(self, dtype="float32", steps=5, seed=0):
        for number in range(seed, seed + steps):
            feed = {
                placeholder: grad.numpy()
                for placeholder, grad in zip(self.placeholders, make_grads(dtype, seed=number))
            }
            if self.sparse:
                slices = make_slices(dtype, seed=number)
                feed.update({self.values: slices.values.numpy()})
                feed.update({self.indices: slices.indices.numpy()})
            self.session.run(self.step, feed)
        return self

    def state(self):
        return self.session.run([*self.variables, *self.slots[0], *self.slots[1], self.global_step])

    def save(self, path):
        with self.graph.as_default():
            return self.saver.save(self.session, path)

    def restore(self, path):
        with self.graph.as_default():
            self.saver.restore(self.session, path)

    def types(self):
        return [operation.type for operation in self.graph.get_operations()]


def test_is_a_drop_in():
    assert issubclass(FUSED, STOCK)
    assert vars(STOCK()).items() <= vars(FUSED()).items()
    with pytest.raises(ValueError, match="Must specify the optimizer name"):
        FUSED(name="")
    assert FUSED(name="mine").get_name() == "mine"
    stock, fused = (Session(make) for make in OPTIMIZERS)
    assert fused.optimizer.get_slot_names() == stock.optimizer.get_slot_names() == list(SLOTS)
    with fused.graph.as_default():
        names = [variable.name for variable in fused.optimizer.variables()]
    with stock.graph.as_default():
        assert names == [variable.name for variable in stock.optimizer.variables()]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_matches_the_oracle(compiled, dtype):
    oracle = Oracle(SHAPES, dtype)
    variables = [tf.Variable(value) for value in oracle.stored("variables")]
    optimizer = FUSED(0.5)
    optimizer._create_slots(variables)
    slots = [[optimizer.get_slot(v, name) for v in variables] for name in SLOTS]
    for role, values in zip(("accums", "accum_updates"), slots):
        for slot, value in zip(values, oracle.stored(role)):
            slot.assign(value)
    step = make_step(compiled, optimizer, variables)
    rho, epsilon = (float(np.float32(value)) for value in (0.95, 1e-8))
    for _ in range(20):
        grads = oracle.new_grads()
        step(*map(tf.constant, grads))
        oracle.step(grads, 0.5, rho=rho, epsilon=epsilon)
    oracle.check(*([value.numpy() for value in role] for role in (variables, *slots)))


def test_matches_stock(compiled):
    run_both(OPTIMIZERS, compiled)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_matches_stock_in_a_session(dtype):
    stock, fused = (Session(make, dtype).run(dtype, steps=20) for make in OPTIMIZERS)
    assert_close(fused.state(), stock.state(), dtype)
    assert fused.types().count("FusedAdadeltaApply") == 1
    assert "ResourceApplyAdadelta" not in fused.types()


def test_minimize_in_a_session():
    results = []
    for make in OPTIMIZERS:
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            x = tf.compat.v1.get_variable("x", initializer=[[1.0, -2.0], [3.0, 0.5]])
            y = tf.compat.v1.get_variable("y", initializer=[1.0, 2.0])
            loss = tf.reduce_sum(tf.square(tf.linalg.matvec(x, y)))
            step = tf.compat.v1.train.get_or_create_global_step()
            optimizer = make(1.0)
            train = optimizer.minimize(loss, global_step=step, name="train")
            assert train.name == "train"
            assert tf.compat.v1.get_collection("train_op") == [train]
            session.run(tf.compat.v1.global_variables_initializer())
            for _ in range(10):
                session.run(train)
            slots = [optimizer.get_slot(v, name) for v in (x, y) for name in SLOTS]
            results.append(session.run([x, y, step, *slots]))
    assert results[1][2] == 10
    assert_close(results[1], results[0])


def test_operation_without_a_global_step():
    names = []
    for make in OPTIMIZERS:
        with tf.Graph().as_default():
            variables = make_variables()
            operation = make().apply_gradients(zip(make_grads(), variables))
            assert isinstance(operation, tf.Operation)
            names.append(operation.name)
    assert names[0] == names[1] == "Adadelta"


def test_eager_minimize_with_callable_hyperparameters():
    results = []
    for make in OPTIMIZERS:
        rate = tf.Variable(1.0)
        variable = tf.Variable([1.0, -2.0])
        optimizer = make(lambda: rate, rho=lambda: 0.9, epsilon=lambda: 1e-6)  # noqa: B023
        for _ in range(5):
            optimizer.minimize(lambda: tf.reduce_sum(variable**2), var_list=[variable])  # noqa: B023
            rate.assign(0.5 * rate)
        results.append([variable, *(optimizer.get_slot(variable, name) for name in SLOTS)])
    assert_close(results[1], results[0])


def test_tensor_hyperparameters():
    run_both(
        OPTIMIZERS,
        tf.function,
        steps=3,
        learning_rate=tf.constant(0.3, tf.float64),
        rho=tf.constant(0.9),
        epsilon=tf.constant(1e-5),
        use_locking=True,
    )


def test_fed_learning_rate():
    results = []
    for make in OPTIMIZERS:
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            rate = tf.compat.v1.placeholder(tf.float32, ())
            variable = tf.compat.v1.get_variable("x", initializer=[1.0, 2.0], use_resource=True)
            step = make(rate).apply_gradients([(tf.constant([0.5, -1.0]), variable)])
            session.run(tf.compat.v1.global_variables_initializer())
            for value in (1.0, 0.5, 2.0):
                session.run(step, {rate: value})
            results.append([session.run(variable)])
    assert_close(results[1], results[0])


def test_constraint(compiled):
    results = []
    for make in OPTIMIZERS:
        constrained = make_variables(constraint=lambda value: tf.maximum(value, 0))[:2]
        variables = [*constrained, *make_variables()[2:]]
        optimizer = make(5.0)
        step = make_step(compiled, optimizer, variables)
        for number in range(3):
            step(*make_grads(seed=number))
        results.append([*variables, *optimizer.variables()])
    assert_close(results[1], results[0])
    assert tf.reduce_min(results[1][0]).numpy() == 0


def test_constraint_in_a_session():
    stock, fused = (
        Session(make, learning_rate=5.0, constraint=lambda value: tf.maximum(value, 0)).run()
        for make in OPTIMIZERS
    )
    assert_close(fused.state(), stock.state())
    assert min(value.min() for value in fused.state()[1 : len(SHAPES) - 1]) == 0


def test_missing_and_malformed_gradients():
    variables = make_variables()
    for make in OPTIMIZERS:
        optimizer = make()
        with pytest.raises(ValueError, match="No gradients provided"):
            optimizer.apply_gradients([(None, variable) for variable in variables])
        with pytest.raises(ValueError, match="No variables provided"):
            optimizer.apply_gradients([])
        with pytest.raises(TypeError):
            optimizer.apply_gradients([1, 2])

    def grads_of(dtype, seed):
        return [None if i == seed else g for i, g in enumerate(make_grads(dtype, seed=seed))]

    run_both(OPTIMIZERS, eagerly, steps=4, grads_of=grads_of)


@pytest.mark.parametrize("where", ["eager", "session"])
def test_bad_gradient_leaves_everything_untouched(where):
    variables = make_variables()
    grads = make_grads()
    grads[5] = tf.ones(4096)
    if where == "eager":
        optimizer = FUSED(1.0)
        before = [variable.numpy() for variable in variables]
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"grads\[5\] has shape \[4096\]"):
            optimizer.apply_gradients(zip(grads, variables))
        for variable, value in zip(variables, before):
            np.testing.assert_array_equal(variable.numpy(), value)
        # And the step that failed is forgotten.
        optimizer.apply_gradients([(make_grads()[0], variables[0])])
        np.testing.assert_array_equal(variables[1].numpy(), before[1])
    else:
        session = Session(FUSED)
        before = session.state()
        with session.graph.as_default():
            # A shape that is known only when the step is run.
            late = [tf.compat.v1.placeholder_with_default(grad.numpy(), None) for grad in grads]
            step = session.optimizer.apply_gradients(zip(late, session.variables))
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"grads\[5\] has shape \[4096\]"):
            session.session.run(step)
        for actual, expected in zip(session.state(), before):
            np.testing.assert_array_equal(actual, expected)


def test_reference_variables(not_strict):
    """Those of use_resource=False are left to the stock ops, which take them."""
    with pytest.warns(UserWarning, match="is a RefVariable, not a plain resource variable") as seen:
        stock, fused = (Session(make, use_resource=False).run() for make in OPTIMIZERS)
    assert sum("tf_adadelta" in str(warning.message) for warning in seen) == 1
    assert fused.types().count("ApplyAdadelta") == len(SHAPES)
    assert_close(fused.state(), stock.state())


def test_reference_variables_are_an_error_in_strict_mode():
    with pytest.raises(RuntimeError, match=r"is a RefVariable.*TF_ADADELTA_STRICT=1"):
        Session(FUSED, use_resource=False)


@pytest.mark.filterwarnings("ignore:tf_adadelta. optimizer")
@pytest.mark.parametrize("use_resource", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sparse_in_a_session(not_strict, dtype, use_resource):
    stock, fused = (
        Session(make, dtype, use_resource, sparse=True).run(dtype, steps=20) for make in OPTIMIZERS
    )
    assert_close(fused.state(), stock.state(), dtype)
    accum = fused.session.run(fused.slots[0][0])
    assert not np.any(accum[17 // 2 :])  # Rows that never occur.


@pytest.mark.parametrize("sparse_update", ["lazy", "exact"])
def test_sparse_update(compiled, sparse_update):
    """Exact: the result of the dense gradient. Lazy: the same however it is run."""
    check_sparse_update(OPTIMIZERS, compiled, sparse_update)


def test_unknown_sparse_update():
    with pytest.raises(ValueError, match="sparse_update is 'fast', expected 'exact' or 'lazy'"):
        FUSED(sparse_update="fast")


def test_sparse_exact_in_a_session():
    def exact(*arguments, **options):
        return FUSED(*arguments, sparse_update="exact", **options)

    sparse = Session(exact, sparse=True).run(steps=20)
    dense = Session(FUSED, sparse=True, densify=True).run(steps=20)
    assert_close(sparse.state(), dense.state())


def test_constraint_on_a_sparse_variable(not_strict):
    variables = make_variables(constraint=lambda value: value)
    before = variables[1].numpy()
    for make in OPTIMIZERS:
        with pytest.raises(RuntimeError, match="constraint function on a sparse variable"):
            make().apply_gradients([(make_slices(), variables[0]), (make_grads()[1], variables[1])])
        np.testing.assert_array_equal(variables[1].numpy(), before)


def test_a_step_that_fails_half_way_is_forgotten(not_strict):
    constrained = make_variables(constraint=lambda value: value)[0]
    free = tf.Variable([1.0, 2.0])
    optimizer = FUSED(1.0)
    with pytest.raises(RuntimeError, match="constraint function on a sparse variable"):
        optimizer.apply_gradients([(tf.ones(2), free), (make_slices(), constrained)])
    optimizer.apply_gradients([(make_grads()[0], constrained)])
    np.testing.assert_array_equal(free.numpy(), [1.0, 2.0])


@directions
@pytest.mark.parametrize("use_resource", [True, False])
@pytest.mark.filterwarnings("ignore:tf_adadelta. optimizer")
def test_name_based_checkpoint(not_strict, tmp_path, writer, reader, use_resource):
    """`tf.compat.v1.train.Saver`, as TensorFlow 1 wrote its checkpoints."""
    written = Session(writer, use_resource=use_resource).run()
    path = written.save(str(tmp_path / "model"))
    names = [name for name, _ in tf.train.list_variables(path)]
    assert "v0/Adadelta" in names and "v0/Adadelta_1" in names
    read = Session(reader, use_resource=use_resource)
    read.restore(path)
    for session in (written, read):
        session.run(seed=100)
    assert_close(read.state(), written.state())
    assert read.state()[-1] == 10  # The global step.


@directions
def test_object_based_checkpoint(tmp_path, writer, reader):
    written, variables = run(writer, eagerly, steps=3)
    path = tf.train.Checkpoint(optimizer=written, variables=variables).save(
        str(tmp_path / "checkpoint")
    )
    read, copies = reader(0.5), make_variables(seed=9)
    status = tf.train.Checkpoint(optimizer=read, variables=copies).restore(path)
    for optimizer, trained in ((written, variables), (read, copies)):
        for number in range(3):
            optimizer.apply_gradients(zip(make_grads(seed=100 + number), trained))
    status.assert_consumed()
    assert_close(copies, variables)
    for name in SLOTS:
        assert_close(
            [read.get_slot(variable, name) for variable in copies],
            [written.get_slot(variable, name) for variable in variables],
        )


def test_tensorflow_1_behaviour():
    """As a program of TensorFlow 1 turns it on for the whole process."""
    program = """
        import numpy as np, tensorflow.compat.v1 as tf
        tf.disable_v2_behavior()
        tf.enable_resource_variables()
        from tf_adadelta.compat import v1
        results = []
        for make in (tf.train.AdadeltaOptimizer, v1.AdadeltaOptimizer):
            tf.reset_default_graph()
            x = tf.get_variable("x", initializer=np.ones((5, 3), "f"))
            train = make(1.0).minimize(tf.reduce_sum(tf.sin(x)))
            with tf.Session() as session:
                session.run(tf.global_variables_initializer())
                for _ in range(5):
                    session.run(train)
                results.append(session.run(tf.global_variables()))
        assert len(results[0]) == 3
        for stock, fused in zip(*results):
            np.testing.assert_allclose(stock, fused, rtol=1e-6)
        """
    check_program(program)
