"""Times contestants against each other."""

import contextlib
import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping

from benchmarks.contestants import Prepared

BURST_SECONDS = 0.006
WARM_UP_SECONDS = 0.003
LEAST_ROUNDS = 9
FEWEST_ROUNDS = 5  # Where rounds take far longer than they were given.
_LATE = 3

Samples = dict[str, list[float]]


def measure(
    contestants: Mapping[str, Prepared],
    rounds: int,
    on_sample: Callable[[str], None],
    burst: Callable[[Prepared], float],
    *,
    seconds: float = float("inf"),
    enough: Callable[[Samples], bool] = lambda samples: False,
) -> Samples:
    """Samples every contestant once a round, in an order that is shuffled each round.

    Whatever disturbs the machine for a while so disturbs all contestants alike, and none always
    comes after the same other one.

    Args:
        contestants: What to time, by name.
        rounds: How many samples to take of each at most.
        on_sample: Called with the name before each sample.
        burst: Takes a sample: the mean seconds per call of a short run of calls.
        seconds: After how long no further round is begun; there are at least `LEAST_ROUNDS`, or
            `rounds` if that is less, and `FEWEST_ROUNDS` if it takes three times as long.
        enough: Whether no further round is needed, asked from `LEAST_ROUNDS` on.

    Returns:
        Seconds per call, by name.
    """
    shuffler = random.Random(0)
    samples: Samples = {name: [] for name in contestants}
    start = time.perf_counter()
    with _no_garbage_collection():
        for done in range(1, rounds + 1):
            for name in shuffler.sample(list(contestants), len(contestants)):
                on_sample(name)
                samples[name].append(burst(contestants[name]))
            gc.collect()  # Between rounds, or the memory of a large case would run out.
            elapsed = time.perf_counter() - start
            if done >= LEAST_ROUNDS and (elapsed > seconds or enough(samples)):
                break
            if done >= FEWEST_ROUNDS and elapsed > _LATE * seconds:
                break
    return samples


def burst_on_cpu(contestant: Prepared) -> float:
    """Returns the mean seconds per update of a short run of calls.

    One call on its own would be timed with the thread pools asleep; a training run keeps them warm.
    """
    elapsed, calls = _run(contestant, WARM_UP_SECONDS)
    # Caches and thread pools still belonged to the contestant before: to a call that takes so much
    # longer than the warm-up that makes no difference.
    if elapsed < 30 * WARM_UP_SECONDS:
        elapsed, calls = _run(contestant, BURST_SECONDS)
    return elapsed / calls / contestant.updates


def _run(contestant: Prepared, seconds: float) -> tuple[float, int]:
    """Calls for at least so long; returns how long it was, and how many calls."""
    step = contestant.step
    calls = 0
    start = time.perf_counter()
    while True:
        step()
        calls += 1
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return elapsed, calls


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.freeze()  # A graph of thousands of variables is not to be searched after each round.
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
