"""A progress bar on stderr."""

import sys


class Progress:
    """Shows how many of a known number of pieces of work have begun, and which one runs."""

    _WIDTH = 30

    def __init__(self, total: int) -> None:
        """Begins at nothing of `total`."""
        self._total = total
        self._begun = 0

    def advance(self, what: str) -> None:
        """Begins the next piece of work."""
        bar = "█" * (self._WIDTH * self._begun // self._total)
        percent = 100 * self._begun // self._total
        self._begun += 1
        self._show(f"{percent:3d}% {bar:░<{self._WIDTH}} {what}")

    def close(self) -> None:
        """Removes the bar."""
        self._show("")

    def _show(self, text: str) -> None:
        # Back to the start of the line, and erase what the last text left there.
        sys.stderr.write(f"\r{text}\033[K")
        sys.stderr.flush()
