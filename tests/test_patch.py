"""`patch_keras`: programs that name the stock optimizers get ours, and lose nothing by it."""

import contextlib
import copy
import inspect
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from states import assert_close, assert_equal
from subprocesses import check_program

import tf_adadelta
from tf_adadelta.__main__ import main

tf_keras = pytest.importorskip("tf_keras")

STOCK = {
    "keras": (keras.optimizers.Adadelta, tf_adadelta.Adadelta),
    "v1": (tf.compat.v1.train.AdadeltaOptimizer, tf_adadelta.compat.v1.AdadeltaOptimizer),
    "tf_keras": (tf_keras.optimizers.Adadelta, tf_adadelta.tf_keras.Adadelta),
    "legacy": (tf_keras.optimizers.legacy.Adadelta, tf_adadelta.tf_keras.legacy.Adadelta),
}
INITS = {stock: stock.__init__ for stock, _ in STOCK.values()}
OPTIONS = {
    "learning_rate": 0.5,
    "clipnorm": 0.3,
    "weight_decay": 0.01,
    "use_ema": True,
    "gradient_accumulation_steps": 2,
}

stock_and_ours = pytest.mark.parametrize("stock, ours", STOCK.values(), ids=STOCK)


@pytest.fixture(autouse=True)
def _unpatched():
    yield
    tf_adadelta.unpatch_keras()
    assert all(stock.__init__ is init for stock, init in INITS.items())  # Nothing is left behind.


def is_patched():
    made = [isinstance(stock(), ours) for stock, ours in STOCK.values()]
    assert len(set(made)) == 1
    return made[0]


def make_model(optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    loss = keras.losses.MeanSquaredError()  # "mse" does not come back from an .h5 file.
    model.compile(optimizer=optimizer, loss=loss, jit_compile=False)
    return model


def train(model, steps, start=0):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((start + steps, 8, 6)).astype(np.float32)
    for batch in x[start:]:
        model.train_on_batch(batch, batch[:, :1])
    return model


def state(model):
    return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


@stock_and_ours
def test_class_gives_ours(stock, ours):
    before = stock()
    with tf_adadelta.patch_keras():
        made = stock(0.25, rho=0.9, name="mine")
        assert isinstance(made, ours) and isinstance(made, stock)
        assert type(made).__name__ in (stock.__name__, ours.__name__)
        assert isinstance(before, stock) and not isinstance(before, ours)
        if hasattr(made, "get_config"):
            assert made.get_config() == stock(0.25, rho=0.9, name="mine").get_config()
            assert made.get_config().items() >= {"rho": 0.9, "learning_rate": 0.25}.items()
    assert type(stock()) is stock
    assert isinstance(made, ours)


@stock_and_ours
def test_signature_and_errors_are_those_of_the_stock_class(stock, ours):
    expected = inspect.signature(stock)
    with pytest.raises((TypeError, ValueError)) as unpatched:
        stock(no_such_argument=1)
    with tf_adadelta.patch_keras():
        assert inspect.signature(stock) == expected
        with pytest.raises(unpatched.type):
            stock(no_such_argument=1)


def test_strings_and_configurations():
    config = keras.optimizers.serialize(keras.optimizers.Adadelta(0.5, name="mine"))
    old_style = {"class_name": "Adadelta", "config": {"learning_rate": 0.5}}
    with tf_adadelta.patch_keras():
        for made in (
            keras.optimizers.get("adadelta"),
            keras.optimizers.get("Adadelta"),
            keras.optimizers.get(copy.deepcopy(config)),
            keras.optimizers.deserialize(copy.deepcopy(config)),
            keras.optimizers.deserialize(copy.deepcopy(old_style)),
            keras.saving.deserialize_keras_object(config),
            make_model("adadelta").optimizer,
            tf.keras.optimizers.Adadelta(),
            keras.optimizers.Adadelta.from_config(old_style["config"]),
        ):
            assert isinstance(made, tf_adadelta.Adadelta)
        written = keras.optimizers.serialize(keras.optimizers.Adadelta(0.5, name="mine"))
        assert type(keras.optimizers.get("sgd")) is keras.optimizers.SGD
    assert written["module"] == config["module"] and written["config"] == config["config"]
    assert type(keras.optimizers.deserialize(written)) is keras.optimizers.Adadelta


def test_tf_keras_strings_and_configurations():
    optimizers = tf_keras.optimizers
    stock = (optimizers.Adadelta, optimizers.legacy.Adadelta)
    configs = [optimizers.serialize(make()) for make in stock]
    fused = (tf_adadelta.tf_keras.Adadelta, tf_adadelta.tf_keras.legacy.Adadelta)
    with tf_adadelta.patch_keras():
        assert isinstance(optimizers.get("adadelta"), fused[0])
        assert isinstance(optimizers.get("adadelta", use_legacy_optimizer=True), fused[1])
        written = []
        for config, ours in zip(configs, fused):
            made = optimizers.deserialize(copy.deepcopy(config))
            assert isinstance(made, ours)
            written.append(optimizers.serialize(made))
    for config, one, cls in zip(configs, written, stock):
        assert one["config"] == config["config"] and one["module"] == config["module"]
        assert type(optimizers.deserialize(one)) is cls


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("saved_patched, loaded_patched", [(True, False), (False, True)])
def test_files_go_both_ways(tmp_path, suffix, saved_patched, loaded_patched):
    """In the middle of training, accumulated gradients and averages included."""

    def patched(yes):
        return tf_adadelta.patch_keras() if yes else contextlib.nullcontext()

    with patched(saved_patched):
        model = train(make_model(keras.optimizers.Adadelta(**OPTIONS)), 5)
        assert isinstance(model.optimizer, tf_adadelta.Adadelta) == saved_patched
        model.save(tmp_path / f"model.{suffix}")
    with patched(loaded_patched):
        read = keras.models.load_model(tmp_path / f"model.{suffix}")
        assert isinstance(read.optimizer, tf_adadelta.Adadelta) == loaded_patched
    assert read.optimizer.get_config() == model.optimizer.get_config()
    if suffix == "keras":  # From an .h5 file Keras does not read what an optimizer has stored.
        assert_equal(state(read), state(model))
        assert_close(state(train(read, 5, start=5)), state(train(model, 5, start=5)))


def test_resumed_to_the_bit(tmp_path):
    with tf_adadelta.patch_keras():
        model = train(make_model(keras.optimizers.Adadelta(**OPTIONS)), 5)
        model.save(tmp_path / "model.keras")
        read = keras.models.load_model(tmp_path / "model.keras")
        assert_equal(state(train(read, 6, start=5)), state(train(model, 6, start=5)))


def test_tf_keras_files_go_both_ways(tmp_path):
    def make():
        model = tf_keras.Sequential([tf_keras.layers.Dense(1, input_shape=(3,))])
        model.compile("adadelta", "mse")
        model.fit(np.ones((4, 3)), np.ones(4), epochs=2, verbose=0)
        return model

    for suffix in ("keras", "h5"):
        path = tmp_path / f"model.{suffix}"
        with tf_adadelta.patch_keras():
            model = make()
            model.save(path)
            assert isinstance(model.optimizer, tf_adadelta.tf_keras.Adadelta)
        read = tf_keras.models.load_model(path)
        assert type(read.optimizer) is tf_keras.optimizers.Adadelta
        assert_equal(
            [v.numpy() for v in read.optimizer.variables],
            [v.numpy() for v in model.optimizer.variables],
        )
        with tf_adadelta.patch_keras():
            read = tf_keras.models.load_model(path)
            assert isinstance(read.optimizer, tf_adadelta.tf_keras.Adadelta)


def test_files_load_where_it_is_not_installed(tmp_path):
    with tf_adadelta.patch_keras():
        model = train(make_model("adadelta"), 2)
        optimizer = keras.optimizers.Adadelta(0.5)
        pickles = tmp_path / "pickles"
        pickles.write_bytes(pickle.dumps([model, optimizer, type(optimizer)]))
        model.save(tmp_path / "model.keras")
        model.save(tmp_path / "model.h5")  # Keras takes the optimizer out of what it pickles here.
    check_program(
        f"""
        import pickle, sys
        sys.modules["tf_adadelta"] = None  # As if it were not there.
        import keras
        for suffix in ("keras", "h5"):
            model = keras.models.load_model("{tmp_path}/model." + suffix)
            assert type(model.optimizer) is keras.optimizers.Adadelta
        with open("{pickles}", "rb") as file:
            model, optimizer, cls = pickle.load(file)
        assert type(model.optimizer) is type(optimizer) is cls is keras.optimizers.Adadelta
        assert float(optimizer.learning_rate) == 0.5
        """
    )


def test_pickles_and_copies():
    with tf_adadelta.patch_keras():
        model = train(make_model("adadelta"), 3)
        for made in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert isinstance(made.optimizer, tf_adadelta.Adadelta)
            assert_equal(state(made), state(model))
        clone = keras.models.clone_model(model)
        clone.compile(optimizer=model.optimizer.from_config(model.optimizer.get_config()))
        assert isinstance(clone.optimizer, tf_adadelta.Adadelta)
    assert type(pickle.loads(pickle.dumps(model)).optimizer) is keras.optimizers.Adadelta


def test_subclasses_keep_the_update_that_they_were_written_for():
    """Made before or after: a fused update would pass over what they override."""

    class Before(keras.optimizers.Adadelta):
        pass

    with tf_adadelta.patch_keras():

        class After(keras.optimizers.Adadelta):
            def update_step(self, grad, variable, learning_rate):
                self.assign_sub(variable, tf.ones(1))

        variable = keras.Variable([3.0])
        for cls in (Before, After):
            made = cls(0.5)
            assert type(made) is cls and not isinstance(made, tf_adadelta.Adadelta)
        made.build([variable])
        made.apply([tf.ones(1)], [variable])
        assert variable.numpy() == [2.0]

        class Ours(tf_adadelta.Adadelta):
            pass

        assert type(Ours()) is Ours
    assert type(Before()) is Before and type(After()) is After


def test_explicit_optimizers_are_as_ever(tmp_path):
    """One of ours that is asked for by its name is written under its name, patched or not."""
    with tf_adadelta.patch_keras():
        made = tf_adadelta.Adadelta(sparse_update="lazy")
        assert type(made) is tf_adadelta.Adadelta
        assert keras.optimizers.serialize(made)["registered_name"] == "tf_adadelta>Adadelta"
        assert type(keras.optimizers.deserialize(keras.optimizers.serialize(made))) is type(made)


def test_twice_and_nested():
    for _ in range(2):
        assert not is_patched()
        tf_adadelta.patch_keras()
        tf_adadelta.patch_keras()
        assert is_patched()
        tf_adadelta.unpatch_keras()
        assert not is_patched()
        tf_adadelta.unpatch_keras()
    with tf_adadelta.patch_keras():
        with tf_adadelta.patch_keras():
            assert is_patched()
        assert is_patched()
    assert not is_patched()
    tf_adadelta.patch_keras()
    with tf_adadelta.patch_keras():
        pass
    assert is_patched()  # What was patched before the context stays.
    with tf_adadelta.patch_keras():
        tf_adadelta.unpatch_keras()
        assert not is_patched()
    assert not is_patched()


def test_context_ends_with_an_error():
    with pytest.raises(KeyError), tf_adadelta.patch_keras():
        raise KeyError
    assert not is_patched()


def test_threads():
    """Contexts that overlap in threads: patched as long as one of them is in force."""
    wrong = []

    def work():
        for _ in range(200):
            with tf_adadelta.patch_keras():
                if not isinstance(keras.optimizers.Adadelta(), tf_adadelta.Adadelta):
                    wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not wrong and not is_patched()


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with tf_adadelta.patch_keras():
            model = train(make_model("adadelta"), 2)
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(model.optimizer.inner_optimizer, tf_adadelta.Adadelta)


def test_tf_keras_that_is_imported_later_and_one_line():
    result = check_program(
        """
        import importlib.util, sys
        import tf_adadelta, keras
        assert "tf_keras" not in sys.modules
        with tf_adadelta.patch_keras():
            pass
        assert not any(type(finder).__name__ == "ImportHook" for finder in sys.meta_path)
        tf_adadelta.patch_keras()
        tf_adadelta.patch_keras()
        assert "tf_keras" not in sys.modules
        assert importlib.util.find_spec("tf_keras") is not None  # To look is not to import.
        from tf_adadelta import tf_keras as fused  # Ours imports the stock one.
        import tf_keras
        assert isinstance(tf_keras.optimizers.Adadelta(), fused.Adadelta)
        assert isinstance(tf_keras.optimizers.legacy.Adadelta(), fused.legacy.Adadelta)
        tf_adadelta.unpatch_keras()
        assert type(tf_keras.optimizers.Adadelta()) is tf_keras.optimizers.Adadelta
        assert not any(type(finder).__name__ == "ImportHook" for finder in sys.meta_path)
        """
    )
    lines = [line for line in result.stderr.splitlines() if line.startswith("tf_adadelta:")]
    assert len(lines) == 1
    for stock in ("keras.optimizers.Adadelta", "tf.compat.v1.train", "tf_keras.optimizers.legacy"):
        assert stock in lines[0]


PROGRAM = """
import sys
import helper
import keras
from keras.optimizers import Adadelta

if __name__ == "__main__":
    print(sys.argv[1:], type(Adadelta()).__mro__[1].__module__, helper.ANSWER)
    sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "helper.py").write_text("ANSWER = 42")
    return tmp_path


def run_main(*arguments, cwd=None):
    """As `python -m tf_adadelta` away from the source tree, whatever is installed there."""
    root = Path(tf_adadelta.__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-m", "tf_adadelta", *arguments],
        cwd=cwd or Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_run_a_script(program):
    """With its arguments, its folder on the path, and its exit status."""
    result = run_main(str(program / "program.py"), "3", "--json", "-m", "x")
    assert result.returncode == 3, result.stderr
    assert result.stdout == "['3', '--json', '-m', 'x'] tf_adadelta.optimizer 42\n"
    assert result.stderr.count("tf_adadelta: ") == 1


def test_run_a_module(program):
    result = run_main("-m", "program", "0", "-m", cwd=program)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "['0', '-m'] tf_adadelta.optimizer 42\n"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing.py"], "can't open file 'missing.py'"),
        (["-m"], "-m needs the name of a module"),
        (["--json", "x.py"], "--json is for the report"),
        (["--jsno"], "unrecognized arguments"),
    ],
)
def test_mistakes_on_the_command_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tf_adadelta", *arguments])
    with pytest.raises(SystemExit) as exit_status:
        main()
    assert exit_status.value.code not in (0, None)
    assert message in f"{exit_status.value.code} {capsys.readouterr().err}"
