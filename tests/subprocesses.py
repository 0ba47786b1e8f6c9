"""Runs programs in a Python process of their own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path


def run_python(*arguments, timeout=120, **environment):
    """Runs Python away from the source tree, whose tf_adadelta is not built."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=Path(__file__).parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def run_program(program, **environment):
    return run_python("-c", textwrap.dedent(program), **environment)


def check_program(program, **environment):
    result = run_program(program, **environment)
    assert result.returncode == 0, result.stderr
    return result
