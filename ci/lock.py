"""Writes the lock files of .ci/locks: every package that CI installs, by version and hash.

    python ci/lock.py             # after a change of an .in file
    python ci/lock.py --upgrade   # takes the newest of everything
    python ci/lock.py --check     # fails if a lock file is not what its .in file asks for

NAME.in holds what is asked for, NAME.txt what `pip install --require-hashes -r` installs with any
Python that the project supports. Needs `pip install uv`, and the package index.
"""

import argparse
import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = Path(".ci") / "locks"
OLDEST_PYTHON = "3.10"


def resolve(requirements: Path, lock: Path, *, upgrade: bool) -> None:
    """Writes `lock`, keeping the versions that it has unless `upgrade`."""
    command = [
        *("uv", "pip", "compile", "--quiet", "--universal", "--python-version", OLDEST_PYTHON),
        *("--generate-hashes", "--no-annotate", "--custom-compile-command", "python ci/lock.py"),
        *(["--upgrade"] if upgrade else []),
        *(str(requirements), "--output-file", str(lock)),
    ]
    if subprocess.run(command, cwd=ROOT).returncode != 0:
        sys.exit(f"lock.py: {requirements} has no solution; uv's message is above.")


def check(requirements: Path) -> bool:
    """Returns whether the lock file of `requirements` is what would be written."""
    lock = ROOT / requirements.with_suffix(".txt")
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder) / lock.name
        if lock.exists():
            shutil.copy(lock, again)
        resolve(requirements, again, upgrade=False)
        return lock.exists() and filecmp.cmp(lock, again, shallow=False)


def main() -> None:
    """Writes or checks every lock file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--upgrade", action="store_true", help="take the newest version of everything"
    )
    what.add_argument(
        "--check", action="store_true", help="write nothing; fail if anything differs"
    )
    arguments = parser.parse_args()
    if shutil.which("uv") is None:
        sys.exit("lock.py: uv is missing. Run `pip install uv`.")

    stale = []
    for requirements in sorted(path.relative_to(ROOT) for path in (ROOT / LOCKS).glob("*.in")):
        if not arguments.check:
            resolve(requirements, requirements.with_suffix(".txt"), upgrade=arguments.upgrade)
        elif not check(requirements):
            stale.append(str(requirements.with_suffix(".txt")))
        print(requirements, "has been looked up", flush=True)
    if stale:
        sys.exit(f"lock.py: {', '.join(stale)}: out of date. Run `python ci/lock.py`.")


if __name__ == "__main__":
    main()
