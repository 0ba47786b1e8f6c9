"""All four optimizers under `tf.distribute` strategies, as far as one process has them.

A process can have one strategy, so replicas.py is started for each; what it has found out of a
check is the test of that name.
"""

import functools
import json
import re

import pytest
import replicas
from conftest import KERAS, needs_xla
from subprocesses import run_python

pytest.importorskip("tf_keras")

# Four replicas take the code paths of two, and one device those of no strategy: with them, what
# could differ. For the others test_strategies.py has what `same_as` does.
ALL_BUT_SAME = "^(?!same_as)"
CHECKS_OF = {
    "one": "fit|jit|saved|constraint",
    "mirrored2": ALL_BUT_SAME,
    "mirrored4": "same_as",
    "central": ALL_BUT_SAME,
}


def marks_of(strategy, check):
    if "jit" in check:
        return needs_xla
    if strategy == "central" and check.endswith("[keras]"):
        return pytest.mark.skipif(KERAS < (3, 7), reason="its variables have no aggregation")
    return []


CASES = [
    pytest.param(strategy, check, id=f"{strategy}-{check}", marks=marks_of(strategy, check))
    for strategy, regex in CHECKS_OF.items()
    for check in replicas.CHECKS
    if re.search(regex, check)
]


@functools.cache
def results_of(strategy):
    result = run_python("replicas.py", strategy, CHECKS_OF[strategy], timeout=600)
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return {line["check"]: line["error"] for line in lines}, result.stderr


@pytest.mark.distribute
@pytest.mark.parametrize("strategy, check", CASES)
def test_strategy(strategy, check):
    errors, stderr = results_of(strategy)
    assert check in errors, stderr[-3000:]
    assert errors[check] is None, errors[check]
