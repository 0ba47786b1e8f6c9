"""Whether the other processes of a parameter server cluster have loaded the op library."""

import tensorflow as tf

from tf_adadelta import _library

_HAS_LIBRARY: dict[str, bool] = {}  # By task; each is asked once.


def why_not_served() -> str | None:
    """Returns which tasks lack the ops, None if none does or there are no others."""
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.ParameterServerStrategy):
        return None
    with tf.init_scope():
        if not tf.executing_eagerly():
            return None  # TensorFlow 1: no task can be asked before the session.
        # Workers too: they read the graphs whose updates the servers run.
        lacking = [task for task in _tasks() if not _has_library(task)]
    if not lacking:
        return None
    return (
        f"the ops of tf_adadelta are not loaded in {', '.join(lacking)}: add `import tf_adadelta` "
        "or `tf_adadelta.load_library()` to the script of each, before its tf.distribute.Server "
        "starts"
    )


def _tasks() -> list[str]:
    specs = [
        tf.DeviceSpec.from_string(device.name) for device in tf.config.list_logical_devices("CPU")
    ]
    others = (spec for spec in specs if spec.job in ("ps", "worker"))
    return sorted({f"/job:{spec.job}/replica:{spec.replica}/task:{spec.task}" for spec in others})


def _has_library(task: str) -> bool:
    if task not in _HAS_LIBRARY:
        try:
            with tf.device(f"{task}/device:CPU:0"):
                _library.load_ops().fused_squared_norms(
                    grad_accums=[],
                    grads=[tf.zeros([])],
                    grad_scale=tf.ones([], tf.float64),
                    update=tf.ones([], tf.float64),
                )
        except tf.errors.NotFoundError:
            _HAS_LIBRARY[task] = False
        except tf.errors.UnavailableError:
            return True  # It is down. If it comes back without, the step itself says so.
        else:
            _HAS_LIBRARY[task] = True
    return _HAS_LIBRARY[task]
