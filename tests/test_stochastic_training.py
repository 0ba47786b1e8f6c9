"""Stochastic rounding through the ops and the optimizer: the same bits in every mode."""

import copy
import pickle

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from conftest import XLA
from oracle import Oracle
from subprocesses import check_program

import tf_adadelta
from tf_adadelta import _block_codes, _support, kernels, ops

# What is in few bits: everything, or the averages of float32 variables.
FORMS = {
    "bfloat16": {"stochastic_rounding": True},
    "float32": {"state_dtype": "bfloat16"},
    "uint8": {"state_dtype": "uint8"},
}
forms = pytest.mark.parametrize("dtype", FORMS)
MODES = ["eager", "function", *(["jit_compile"] if XLA else [])]
SHAPES = [(0,), (1,), (3,), (65, 7), (4097,)]
# The averages of smaller ones stay in float32, whose small updates XLA rounds in its own way.
SHAPES_OF_BLOCKS = [(65, 70), (3, 3, 571), (16, 256)]
OPTIONS = {
    "plain": {},
    "weight_decay": {"weight_decay": 0.01},
    "clipnorm": {"clipnorm": 0.5},
    "ema": {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 4},
    "accumulation": {"gradient_accumulation_steps": 3},
    "loss_scale": {"loss_scale_factor": 8.0, "global_clipnorm": 1.0},
}


def in_mode(mode, step):
    return step if mode == "eager" else tf.function(step, jit_compile=mode == "jit_compile")


def dtype_of(form):
    """The dtype of the variables."""
    return "float32" if form == "uint8" else form


def bits(value):
    array = np.asarray(value)
    return array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array


def assert_same_bits(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other):
        np.testing.assert_array_equal(bits(a), bits(b))


def shapes_of(form):
    return SHAPES_OF_BLOCKS if form == "uint8" else SHAPES


def make_variables(dtype="bfloat16", shapes=None):
    shapes = shapes or shapes_of(dtype)
    rng = np.random.default_rng(0)
    return [keras.Variable(rng.standard_normal(shape), dtype=dtype_of(dtype)) for shape in shapes]


def make_grads(step, dtype="bfloat16", shapes=None):
    shapes = shapes or shapes_of(dtype)
    rng = np.random.default_rng(step)
    return [tf.constant(rng.standard_normal(shape), dtype_of(dtype)) for shape in shapes]


def make_optimizer(variables, form=None, **arguments):
    form = form or keras.backend.standardize_dtype(variables[0].dtype)
    optimizer = tf_adadelta.Adadelta(0.3, **FORMS[form], **arguments)
    optimizer.build(variables)
    return optimizer


def run(mode="eager", steps=7, grads_of=make_grads, variables=None, dtype="bfloat16", **arguments):
    """Returns all values after steps of an optimizer."""
    variables = variables or make_variables(dtype)
    optimizer = make_optimizer(variables, dtype, **arguments)
    step = in_mode(mode, lambda *grads: optimizer.apply(grads, variables))
    for number in range(steps):
        step(*grads_of(number, dtype))
    return [variable.numpy() for variable in (*variables, *optimizer.variables)]


def narrow(array, form):
    """An average as it is stored."""
    if form == "uint8":
        return _block_codes.encode(array).numpy()
    return array.astype(ml_dtypes.bfloat16)


def arrays_of(oracle, form):
    """Its values as they are stored."""
    return [
        [array if role == "variables" else narrow(array, form) for array in oracle.stored(role)]
        for role in oracle.values
    ]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [0, 1, 3, 4097])
@forms
def test_dense_op_has_the_bits_of_the_kernel(mode, size, dtype):
    oracle = Oracle([(size,), (5,), (), (3, size)], dtype_of(dtype))
    arrays = arrays_of(oracle, dtype)
    variables = [[tf.Variable(array) for array in role] for role in arrays]

    def apply(step, *grads):
        ops.fused_adadelta_apply(
            *variables, list(grads), learning_rate=0.5, random_seeds=[3, -1, 0, 7], step=step
        )

    call = in_mode(mode, apply)
    for step in range(4):
        grads = oracle.new_grads()
        call(tf.constant(step), *grads)
        kernels.fused_adadelta_apply(
            *arrays, grads, learning_rate=0.5, random_seeds=[3, -1, 0, 7], step=step
        )
    for role, expected in zip(variables, arrays):
        assert_same_bits(role, expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("index_dtype", [np.int32, np.int64])
@pytest.mark.parametrize("width", [1, 3, 64, 257])
@forms
def test_sparse_op_has_the_bits_of_the_kernel(mode, index_dtype, width, dtype):
    oracle = Oracle([(9, width), (4, 2)], dtype_of(dtype))
    arrays = arrays_of(oracle, dtype)
    variables = [[tf.Variable(array) for array in role] for role in arrays]
    clocks = [np.zeros(10, np.int64), np.zeros(5, np.int64)]
    clock_variables = [tf.Variable(clock) for clock in clocks]

    def apply(step, grads, indices):
        ops.fused_adadelta_sparse_apply(
            *variables,
            grads,
            indices,
            clocks=clock_variables,
            learning_rate=0.5,
            random_seeds=tf.constant([3, 4], tf.int64),
            step=step,
        )

    call = in_mode(mode, apply)
    for step in range(4):
        indices = [np.array([8, step, 8], index_dtype), np.array([1], index_dtype)]
        grads = oracle.new_slices(indices)
        call(tf.constant(step), list(map(tf.constant, grads)), list(map(tf.constant, indices)))
        kernels.fused_adadelta_sparse_apply(
            *arrays,
            grads,
            indices,
            clocks=clocks,
            learning_rate=0.5,
            random_seeds=[3, 4],
            step=step,
        )
    for role, expected in zip([*variables, clock_variables], [*arrays, clocks]):
        assert_same_bits(role, expected)


@forms
@pytest.mark.parametrize("options", OPTIONS)
def test_every_mode_has_the_same_bits(options, dtype):
    results = [run(mode, dtype=dtype, **OPTIONS[options]) for mode in MODES]
    for result in results[1:]:
        assert_same_bits(result, results[0])
    other = run(MODES[-1], dtype=dtype, **OPTIONS[options], seed=1)
    assert any(np.any(bits(a) != bits(b)) for a, b in zip(other, results[0]))


@pytest.mark.parametrize(
    "sparse_update, options",
    [
        ("exact", "plain"),
        ("exact", "clipnorm"),
        ("exact", "weight_decay"),
        ("lazy", "plain"),
        ("lazy", "clipnorm"),
    ],
)
@forms
def test_every_mode_has_the_same_bits_for_tables(sparse_update, options, dtype):
    shapes = [(9, 500), (16, 256)]

    def grads_of(step, dtype):
        rng = np.random.default_rng(step)
        values = tf.constant(rng.standard_normal((4, 500)), dtype_of(dtype))
        slices = tf.IndexedSlices(values, tf.constant([8, step, 8, 0]), tf.constant([9, 500]))
        return [slices, tf.constant(rng.standard_normal((16, 256)), dtype_of(dtype))]

    def run_once(mode):
        return run(
            mode,
            grads_of=grads_of,
            variables=make_variables(dtype, shapes),
            dtype=dtype,
            sparse_update=sparse_update,
            **OPTIONS[options],
        )

    results = [run_once(mode) for mode in MODES]
    for result in results[1:]:
        assert_same_bits(result, results[0])


@pytest.mark.skipif(not XLA, reason="jit_compile needs TensorFlow 2.20 or newer")
@pytest.mark.parametrize("options", ["plain", "clipnorm"])
@forms
def test_more_variables_than_a_custom_call_has(options, dtype):
    shapes = [(16, 256 + i % 3) if dtype == "uint8" else (i % 5 + 1,) for i in range(150)]
    one, other = (
        run(
            mode,
            2,
            lambda step, dtype: make_grads(step, dtype, shapes),
            make_variables(dtype, shapes),
            dtype,
            **OPTIONS[options],
        )
        for mode in ("eager", "jit_compile")
    )
    assert_same_bits(one, other)


def test_other_dtypes_are_rounded_to_the_nearest():
    for dtype in ("float16", "float32", "float64"):
        results = []
        for stochastic_rounding in (False, True):
            variables = [*make_variables(dtype), *make_variables()]
            optimizer = tf_adadelta.Adadelta(0.3, stochastic_rounding=stochastic_rounding)
            optimizer.build(variables)
            for step in range(3):
                optimizer.apply([*make_grads(step, dtype), *make_grads(step)], variables)
            results.append([variable.numpy() for variable in variables])
        assert_same_bits(results[0][: len(SHAPES)], results[1][: len(SHAPES)])
        assert np.any(bits(results[0][-1]) != bits(results[1][-1]))


def test_no_two_variables_or_steps_have_the_same_bits():
    shapes = [(4096,), (4096,)]
    rng = np.random.default_rng(0)
    value = rng.standard_normal(4096)
    grad = tf.constant(rng.standard_normal(4096), "bfloat16")
    variables = [keras.Variable(value, dtype="bfloat16") for _ in shapes]
    optimizer = make_optimizer(variables)
    optimizer.apply([grad, grad], variables)
    one, other = (bits(variable.numpy()) for variable in variables)
    assert 0.2 < np.mean(one != other) < 0.6
    first = variables[0].numpy()
    variables[0].assign(value)
    for slot in optimizer.variables[2:]:
        slot.assign(np.zeros(4096))
    optimizer.apply([grad, grad], variables)
    assert 0.2 < np.mean(bits(variables[0].numpy()) != bits(first)) < 0.6


def make_model(optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(300, 16),
            keras.layers.Flatten(),
            keras.layers.Dense(8, activation="tanh"),
            keras.layers.Dense(1),
        ]
    )
    model.compile(optimizer, loss="mse", jit_compile=False)
    return model


@pytest.fixture(params=FORMS)
def form(request):
    """The arguments of the optimizer, the dtype policy being that of their variables."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype_of(request.param))
    yield FORMS[request.param]
    keras.config.set_dtype_policy(before)


def fit(model, first, epochs):
    rng = np.random.default_rng(first)
    x = rng.integers(0, 40, (64, 3))
    y = rng.standard_normal((64, 1))
    for i in range(epochs):
        part = slice(8 * i, 8 * i + 8)
        model.fit(x[part], y[part], batch_size=4, shuffle=False, verbose=0)


def state_of(model):
    return [variable.numpy() for variable in (*model.weights, *model.optimizer.variables)]


@pytest.mark.parametrize("how", [".keras", ".weights.h5", "checkpoint", "pickle"])
def test_goes_on_with_the_same_bits_after_a_save_and_a_load(tmp_path, form, how):
    written = make_model(tf_adadelta.Adadelta(0.5, **form, seed=7))
    fit(written, 0, 3)
    path = str(tmp_path / f"model{how}")
    if how == "checkpoint":
        path = tf.train.Checkpoint(model=written, optimizer=written.optimizer).save(path)
    elif how != "pickle":
        (written.save if how == ".keras" else written.save_weights)(path)
    if how == ".keras":
        read = keras.models.load_model(path)
        assert form.items() <= read.optimizer.get_config().items() and read.optimizer.seed == 7
    elif how == "pickle":
        read = pickle.loads(pickle.dumps(written))
    else:
        read = make_model(tf_adadelta.Adadelta(0.5, **form, seed=7))
        read.optimizer.build(read.trainable_variables)
        if how == "checkpoint":
            tf.train.Checkpoint(model=read, optimizer=read.optimizer).restore(path)
        else:
            read.load_weights(path)
    for model in (written, read):
        fit(model, 1, 3)
    assert_same_bits(state_of(written), state_of(read))


@pytest.mark.parametrize("ours_first", [True, False])
def test_files_load_into_stock_keras_and_back(tmp_path, form, ours_first):
    makers = [
        lambda: tf_adadelta.Adadelta(0.5, **form),
        lambda: keras.optimizers.Adadelta(0.5),
    ]
    writer, reader = makers if ours_first else makers[::-1]
    written = make_model(writer())
    fit(written, 0, 2)
    path = str(tmp_path / "model.weights.h5")
    written.save_weights(path)
    read = make_model(reader())
    read.optimizer.build(read.trainable_variables)
    read.load_weights(path)
    if not ours_first and "state_dtype" in form:
        for slot in read.optimizer.variables[2:]:
            assert slot.dtype == slot.numpy().dtype == "float32"
        assert_rounded(state_of(read), state_of(written), form["state_dtype"])
    else:
        assert_same_bits(state_of(written), state_of(read))


def assert_rounded(actual, expected, state_dtype):
    """Up to half the distance of two numbers."""
    for a, b in zip(actual, expected):
        if state_dtype == "bfloat16":
            np.testing.assert_allclose(a, b, rtol=2**-8)
        else:
            np.testing.assert_allclose(a, b, rtol=2**-5, atol=2**-18 * np.max(np.abs(b)))


def test_configuration():
    optimizer = tf_adadelta.Adadelta(0.5, stochastic_rounding=True, seed=3)
    config = optimizer.get_config()
    assert config["stochastic_rounding"] is True and config["seed"] == 3
    again = tf_adadelta.Adadelta.from_config(config)
    assert again.stochastic_rounding and again.seed == 3
    plain = tf_adadelta.Adadelta(0.5, name="one").get_config()
    assert plain == keras.optimizers.Adadelta(0.5, name="one").get_config()
    variables = make_variables()
    optimizer.build(variables)
    copied = copy.deepcopy(optimizer)
    assert copied._dispatcher._rounding.step.__self__ is copied
    stock = tf_adadelta.to_keras(optimizer)
    assert not hasattr(stock, "stochastic_rounding") and not hasattr(stock, "seed")


@pytest.mark.parametrize("form", ["float32", "uint8"])
def test_slots_show_float32(form):
    variables = make_variables("float32", shapes_of(form))
    optimizer = make_optimizer(variables, form)
    optimizer.apply(make_grads(0, form), variables)
    stock = keras.optimizers.Adadelta(0.3)
    stock.build(make_variables("float32", shapes_of(form)))
    for slot, other in zip(optimizer.variables, stock.variables):
        assert (slot.dtype, slot.shape, slot.ndim) == (other.dtype, other.shape, other.ndim)
        assert slot.numpy().dtype == other.numpy().dtype
    slot = optimizer.variables[-1]
    assert slot.stored.dtype == FORMS[form]["state_dtype"]
    assert tf.convert_to_tensor(slot).dtype == tf.float32
    assert "float32" in repr(slot)
    before = slot.numpy()
    slot.assign(before)
    np.testing.assert_array_equal(slot.numpy(), before)
    for reading in (lambda: slot + 0.0, tf.function(lambda: slot + 0.0)):
        np.testing.assert_array_equal(reading(), before)
    converted = tf_adadelta.to_keras(optimizer)
    assert type(slot) is type(other) and slot.value.dtype == tf.float32
    np.testing.assert_array_equal(slot.numpy(), before)
    converted.apply(make_grads(1, form), variables)


def test_average_memory_is_half():
    variables = make_variables("float32")
    optimizer = make_optimizer(variables)
    stored = [slot.stored for slot in optimizer.variables[2:]]
    assert sum(s.dtype.size * s.shape.num_elements() for s in stored) == sum(
        2 * 2 * v.shape.num_elements() for v in map(tf.convert_to_tensor, variables)
    )


def test_average_memory_is_a_quarter():
    """But for the scales, and for what is too small."""
    small = [(4095,), (1000, 15), (8, 511)]
    variables = make_variables("float32", [(300, 512), (16, 256), (8, 512), *small])
    optimizer = make_optimizer(variables, "uint8")
    for slot, variable in zip(optimizer.variables[2:8:2], variables):
        rows, width = variable.shape
        assert slot.stored.dtype == tf.uint8
        assert slot.stored.shape == (rows, width + width // 256)
    assert all(slot.stored.dtype == tf.float32 for slot in optimizer.variables[8:])


@pytest.mark.parametrize("form", ["float32", "uint8"])
def test_saved_model(tmp_path, form):
    """What is exported are the values that the slots show; the step does not fit these."""
    variables = make_variables("float32", [(16, 257)])
    optimizer = make_optimizer(variables, form)

    @tf.function(input_signature=[tf.TensorSpec((16, 257))])
    def step(grad):
        optimizer.apply([grad], variables)

    step(tf.ones((16, 257)))
    module = tf.Module()
    module.optimizer, module.variable, module.step = optimizer, variables[0], step
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    for slot, value in zip(optimizer.variables[2:], loaded.optimizer._variables[2:]):
        assert value.dtype == tf.float32
        np.testing.assert_array_equal(slot.numpy(), value.numpy())
    expected = f"expected {FORMS[form]['state_dtype']}, where there are"
    with pytest.raises(tf.errors.InvalidArgumentError, match=expected):
        loaded.step(tf.ones((16, 257)))


@pytest.mark.parametrize("state_dtype", ["float16", "int8", 8])
def test_bad_state_dtype(state_dtype):
    message = r"state_dtype is .*, expected None, 'bfloat16' or 'uint8'"
    with pytest.raises(ValueError, match=message):
        tf_adadelta.Adadelta(state_dtype=state_dtype)


@pytest.mark.parametrize("seed", [-1, 2**31, 1.5, None])
def test_bad_seed(seed):
    with pytest.raises(ValueError, match=r"seed is .*, expected an int from 0 to 2147483647"):
        tf_adadelta.Adadelta(stochastic_rounding=True, seed=seed)


@pytest.mark.parametrize("options", ["plain", "weight_decay"])
@forms
def test_what_is_not_served_is_an_error(not_strict, monkeypatch, options, dtype):
    monkeypatch.setattr(_support, "_DEVICE_TYPES", ("TPU",))
    variables = make_variables(dtype)
    optimizer = make_optimizer(variables, dtype, **OPTIONS[options])
    before = [variable.numpy() for variable in (*variables, *optimizer.variables)]
    with pytest.raises(RuntimeError, match="cannot round stochastically, as only the fused"):
        optimizer.apply(make_grads(0, dtype), variables)
    assert_same_bits([variable.numpy() for variable in (*variables, *optimizer.variables)], before)


@pytest.mark.skipif(not XLA, reason="jit_compile needs TensorFlow 2.20 or newer")
def test_xla_without_the_call_is_an_error(monkeypatch):
    monkeypatch.setenv("TF_ADADELTA_XLA_HLO", "1")
    state = [tf.Variable(tf.ones(10, tf.bfloat16)) for _ in range(3)]

    @tf.function(jit_compile=True)
    def step():
        ops.fused_adadelta_apply(
            *state, tf.ones(10, tf.bfloat16), learning_rate=1.0, random_seeds=[1]
        )

    with pytest.raises(tf.errors.UnimplementedError, match="stochastic rounding has no kernel"):
        step()


@pytest.mark.parametrize(
    "dtype, arguments, error, message",
    [
        ("float16", {"random_seeds": [1]}, TypeError, "dtype float16, expected bfloat16"),
        (
            "float32",
            {"random_seeds": [1]},
            TypeError,
            "accums.0. .* has dtype float32, expected bfloat16, where there are random_seeds",
        ),
        ("bfloat16", {"random_seeds": [1, 2]}, ValueError, "length 2, expected 1"),
        ("bfloat16", {"random_seeds": [1.5]}, TypeError, "random_seeds has dtype float64"),
        (
            "bfloat16",
            {"random_seeds": tf.constant([1, 2])},
            tf.errors.InvalidArgumentError,
            r"random_seeds has shape \[2\], expected \[1\]",
        ),
        (
            "bfloat16",
            {"random_seeds": [1], "step": [1, 2]},
            tf.errors.InvalidArgumentError,
            r"step has shape \[2\], expected a scalar",
        ),
    ],
)
def test_bad_arguments(dtype, arguments, error, message):
    state = [tf.Variable(tf.ones(10, dtype)) for _ in range(3)]
    with pytest.raises(error, match=message):
        ops.fused_adadelta_apply(*state, tf.ones(10, dtype), learning_rate=1.0, **arguments)
    for variable in state:
        np.testing.assert_array_equal(variable.numpy(), np.ones(10))


@pytest.mark.parametrize("dtype, random", [("float32", 0), ("bfloat16", 2)])
def test_bad_nodes_of_blocks(dtype, random):
    state = [[tf.Variable(tf.ones(10, dtype)).handle] for _ in range(3)]
    scalars = {name: ops.as_hyperparameter(1.0) for name in ("learning_rate", "rho", "epsilon")}
    with pytest.raises(tf.errors.InvalidArgumentError, match="state is uint8 for variables of"):
        ops.apply_handles(
            *state,
            [tf.ones(10, dtype)],
            **scalars,
            random=ops.random_inputs([1], 0)[:random],
            state=tf.uint8,
        )


@pytest.mark.parametrize("role", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_bad_shapes_of_blocks(mode, role):
    state = [tf.Variable(tf.ones((2, 300))), *map(tf.Variable, np.zeros((2, 2, 302), np.uint8))]
    state[role] = tf.Variable(np.zeros((2, 300), np.uint8))
    before = [variable.numpy() for variable in state]

    def step():
        ops.fused_adadelta_apply(*state, tf.ones((2, 300)), learning_rate=1.0, random_seeds=[1])

    with pytest.raises(tf.errors.InvalidArgumentError, match=r"expected \[2,302\], rows of blocks"):
        in_mode(mode, step)()
    for variable, value in zip(state, before):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.parametrize("random", [1, 3])
def test_bad_nodes(random):
    state = [[tf.Variable(tf.ones(10, tf.bfloat16)).handle] for _ in range(3)]
    scalars = {name: ops.as_hyperparameter(1.0) for name in ("learning_rate", "rho", "epsilon")}
    with pytest.raises(tf.errors.InvalidArgumentError, match="random has length"):
        ops.apply_handles(
            *state,
            [tf.ones(10, tf.bfloat16)],
            **scalars,
            random=[tf.constant(1, tf.int64)] * random,
        )


@forms
def test_replicas_have_the_same_bits(dtype):
    check_program(
        f"""
        dtype, form = {dtype_of(dtype)!r}, {FORMS[dtype]!r}
        """
        """
        import numpy as np
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        import keras
        import tf_adadelta

        def train(strategy):
            with strategy.scope():
                variable = keras.Variable(np.linspace(0, 1, 4110).reshape(3, 1370), dtype=dtype)
                optimizer = tf_adadelta.Adadelta(0.3, **form, seed=5)
                optimizer.build([variable])

            @tf.function
            def step(grad):
                replicas = strategy.num_replicas_in_sync
                strategy.run(lambda: optimizer.apply([grad / replicas], [variable]))

            for number in range(5):
                rng = np.random.default_rng(number)
                step(tf.constant(rng.standard_normal((3, 1370)), dtype))
            values = (variable.value, *(slot.stored for slot in optimizer.variables[2:]))
            replicas = map(strategy.experimental_local_results, values)
            return [[np.asarray(part).view(np.uint8) for part in parts] for parts in replicas]

        mirrored = train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
        (one,) = zip(*train(tf.distribute.OneDeviceStrategy("CPU:0")))
        for replicas, expected in zip(mirrored, one):
            assert len(replicas) == 2
            for replica in replicas:
                np.testing.assert_array_equal(replica, expected)
        """,
        TF_ADADELTA_STRICT="1",
    )


def test_replicas_go_on_after_a_checkpoint(tmp_path):
    """And stock Keras goes on from the float32 values of its slots."""
    check_program(
        f"""
        import numpy as np
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        import keras
        import tf_adadelta

        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((64, 4)), rng.standard_normal((64, 1))

        def make(optimizer_class, **arguments):
            with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
                keras.utils.set_random_seed(0)
                model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
                model.compile(optimizer_class(0.5, **arguments), loss="mse", jit_compile=False)
                model.optimizer.build(model.trainable_variables)
            return model, tf.train.Checkpoint(model=model, optimizer=model.optimizer)

        def values(variables):
            return [variable.numpy() for variable in variables]

        written, checkpoint = make(tf_adadelta.Adadelta, state_dtype="bfloat16")
        written.fit(x, y, batch_size=16, shuffle=False, verbose=0)
        path = checkpoint.save({str(tmp_path / "checkpoint")!r})
        read, checkpoint = make(tf_adadelta.Adadelta, state_dtype="bfloat16")
        checkpoint.restore(path)
        stock, checkpoint = make(keras.optimizers.Adadelta)
        checkpoint.restore(path)
        for a, b in zip(*(values(m.optimizer.variables) for m in (written, stock))):
            np.testing.assert_array_equal(a, b)
        for model in (written, read):
            model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
        for a, b in zip(*(values([*m.weights, *m.optimizer.variables]) for m in (written, read))):
            np.testing.assert_array_equal(a, b)
        """,
        TF_ADADELTA_STRICT="1",
    )
