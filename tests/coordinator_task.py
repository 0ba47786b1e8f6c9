"""What the chief of a parameter server cluster runs when something is wrong with another task.

`python coordinator_task.py ROLE OUTPUT`, with TF_CONFIG set.
"""

import json
import os
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
import training
from strategy_task import make_coordinator

RHO = 0.999  # So near to one that single updates can be told from an average.


def wait_for_other(output, event):
    """Says that something may happen now, and waits until it has."""
    print(event, flush=True)
    while not (output / event).exists():
        time.sleep(0.05)


def library_lacking(coordinator, output):
    """Trains where a server lacks the ops: with a warning, and strictly."""
    from tf_adadelta import _servers

    found = {}
    with coordinator.strategy.scope():
        assert _servers.why_not_served()
    found["asked"] = len(_servers._HAS_LIBRARY)
    for fused in (False, True):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = training.Training(coordinator.strategy, "keras", fused, "dense")
            model.run_by(coordinator, 3)
        found[f"warnings {fused}"] = [
            str(w.message) for w in caught if "tf_adadelta" in str(w.message)
        ]
        found[f"state {fused}"] = {name: v.tolist() for name, v in model.state().items()}
    os.environ["TF_ADADELTA_STRICT"] = "1"
    strict = training.Training(coordinator.strategy, "keras", True, "dense")
    before = strict.state()
    try:
        strict.run_by(coordinator, 1)
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"
    found["untouched"] = all(np.array_equal(v, before[k]) for k, v in strict.state().items())
    (output / "found.json").write_text(json.dumps(found))


def worker_killed(coordinator, output):
    """Trains on while a worker is killed and comes back."""
    models = [
        training.Training(coordinator.strategy, "keras", True, mode)
        for mode in ("exact", "exact", "lazy", "lazy")
    ]
    for model in models[1::2]:
        model.run_by(coordinator, 20)
    for model in models[::2]:
        model.run_by(coordinator, 10)
    wait_for_other(output, "between-steps")
    for model in models[::2]:
        model.run_by(coordinator, 10, first=10)
    found = {
        "differ": [name for pair in zip(models[::2], models[1::2]) for name in differing(*pair)],
        "restored": restored(coordinator, output, models[0]),
        **updates_while_killed(coordinator, output),
    }
    (output / "found.json").write_text(json.dumps(found))


def differing(one, other):
    """Returns the names of what has other bits in two trainings."""
    state = other.state()
    return [name for name, v in one.state().items() if v.tobytes() != state[name].tobytes()]


def restored(coordinator, output, model):
    """Saves a training, goes on, and goes on once more in another one that was restored."""
    other = training.Training(coordinator.strategy, model.api, True, model.mode)
    checkpoints = [
        tf.train.Checkpoint(optimizer=one.optimizer, parts=one.parts) for one in (model, other)
    ]
    path = checkpoints[0].save(str(output / "checkpoint"))
    checkpoints[1].restore(path).assert_consumed()
    for one in (model, other):
        one.run_by(coordinator, 10, first=20)
    state = other.state()
    return {
        "calls": [model.calls, other.calls],
        "values": [[v.tolist(), state[name].tolist()] for name, v in model.state().items()],
    }


def updates_while_killed(coordinator, output, steps=200):
    """Counts the updates that a variable has had, by what a constant gradient left in its accum."""
    import keras

    import tf_adadelta

    with coordinator.strategy.scope():
        variable = keras.Variable(np.zeros((8, 3), np.float32))
        optimizer = tf_adadelta.Adadelta(learning_rate=1.0, rho=RHO)
        shards = variable.value.variables
        optimizer.build(shards)

    def replica_step():
        # So long that one is under way when its worker is killed.
        big = tf.random.normal([500, 500])
        one = tf.exp(0 * tf.reduce_sum(tf.tanh(big @ big)))
        optimizer.apply([one * tf.ones_like(shard) for shard in shards], shards)

    step = tf.function(lambda: coordinator.strategy.run(replica_step), autograph=False)
    for _ in range(steps):
        coordinator.schedule(step)
    wait_for_other(output, "in-a-step")
    done = int(optimizer.iterations.numpy())
    wait_for_other(output, "back")
    for _ in range(steps):
        coordinator.schedule(step)
    coordinator.join()
    accums = np.concatenate([slot.numpy().ravel() for slot in optimizer._accumulated_grads])
    # After n updates with a gradient of one, accum is 1 - rho^n.
    return {
        "steps": 2 * steps,
        "done when killed": done,
        "iterations": int(optimizer.iterations.numpy()),
        "accums": accums.tolist(),
    }


def main():
    role, output = sys.argv[1], Path(sys.argv[2])
    {"library_lacking": library_lacking, "worker_killed": worker_killed}[role](
        make_coordinator(), output
    )


if __name__ == "__main__":
    main()
