import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["TF_ADADELTA_STRICT"] = "1"  # A silent fallback would make a comparison meaningless.

import keras
import pytest
import tensorflow as tf

from tf_adadelta._library import serves_xla

tf.config.threading.set_intra_op_parallelism_threads(2)
for gpu in tf.config.list_physical_devices("GPU"):  # Of whose memory others want a share.
    tf.config.experimental.set_memory_growth(gpu, True)

XLA = serves_xla()
KERAS = tuple(map(int, keras.__version__.split(".")[:2]))
needs_xla = pytest.mark.skipif(not XLA, reason="jit_compile needs TensorFlow 2.20 or newer")


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a GPU and a build with CUDA")
    config.addinivalue_line("markers", "browser: needs Chromium")
    config.addinivalue_line("markers", "exhaustive: takes long; run by CI, not by plain pytest")


@pytest.fixture(autouse=True)
def _fresh_keras():
    keras.utils.set_random_seed(0)
    yield
    keras.backend.clear_session(free_memory=False)  # Collecting garbage takes longer than a test.


@pytest.fixture
def not_strict(monkeypatch):
    monkeypatch.delenv("TF_ADADELTA_STRICT")


@pytest.fixture(params=["eager", "graph", pytest.param("jit", marks=needs_xla)])
def compiled(request):
    """Returns a decorator: how a step is run, eagerly, as tf.function, or compiled by XLA."""
    return {
        "eager": lambda step: step,
        "graph": tf.function,
        "jit": tf.function(jit_compile=True),
    }[request.param]
