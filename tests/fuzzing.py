"""What the fuzz tests share: how long they run, and what is left of an example that ends them."""

import os
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# Plain pytest tries a few; ci/fuzz.py asks for thousands and names the file for the last one, which
# is all that there is to see where a process has been aborted.
EXAMPLES = int(os.environ.get("TF_ADADELTA_FUZZ_EXAMPLES", "40"))
_LOG = os.environ.get("TF_ADADELTA_FUZZ_LOG")

fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

numbers = st.one_of(
    st.sampled_from([0.0, 1.0, 0.95, 1e-7, float("nan"), float("inf"), -1.0]), st.floats(width=64)
)


def note(case):
    """Keeps what is about to be tried."""
    if _LOG:
        Path(_LOG).write_text(f"{case!r}\n")
