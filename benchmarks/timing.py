"""Times contestants against each other."""

import contextlib
import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping

from benchmarks.contestants import Prepared

BURST_SECONDS = 0.02


def measure(
    contestants: Mapping[str, Prepared],
    rounds: int,
    on_sample: Callable[[str], None],
    burst: Callable[[Prepared], float],
) -> dict[str, list[float]]:
    """Samples every contestant once a round, in an order that is shuffled each round.

    Whatever disturbs the machine for a while so disturbs all contestants alike, and none always
    comes after the same other one.

    Args:
        contestants: What to time, by name.
        rounds: How many samples to take of each.
        on_sample: Called with the name before each sample.
        burst: Takes a sample: the mean seconds per call of a short run of calls.

    Returns:
        Seconds per call, by name.
    """
    shuffler = random.Random(0)
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    with _no_garbage_collection():
        for _ in range(rounds):
            for name in shuffler.sample(list(contestants), len(contestants)):
                on_sample(name)
                samples[name].append(burst(contestants[name]))
            gc.collect()  # Between rounds, or the memory of a large case would run out.
    return samples


def burst_on_cpu(contestant: Prepared) -> float:
    """Returns the mean seconds per call of a short run of calls.

    One call on its own would be timed with the thread pools asleep; a training run keeps them warm.
    """
    step = contestant.step
    step()  # Untimed: caches and thread pools still belong to the contestant before.
    calls = 0
    start = time.perf_counter()
    while True:
        step()
        calls += 1
        elapsed = time.perf_counter() - start
        if elapsed >= BURST_SECONDS:
            return elapsed / calls


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
