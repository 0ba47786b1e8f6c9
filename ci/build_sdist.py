"""Builds the sdist: the same bytes from the same sources, whoever builds it and when."""

import argparse
import gzip
import io
import subprocess
import tarfile
import tempfile
from pathlib import Path

from environments import ROOT, Environment, copy_sources


def normalize(source: Path, target: Path, date: int) -> None:
    """Packs an archive anew, without what tells of the machine and the hour."""
    packed = io.BytesIO()
    with tarfile.open(source) as old, tarfile.open(fileobj=packed, mode="w") as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = date, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    with target.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=date) as archive:
        archive.write(packed.getvalue())


def commit_date() -> int:
    """Returns when the last commit was made, in seconds since 1970."""
    shown = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return int(shown.stdout)


def build_sdist(output: Path, work: Path) -> Path:
    """Returns the sdist."""
    environment = Environment(work, "3.12")
    environment.install("build", "setuptools")
    sources = copy_sources(environment.folder / "tf_adadelta")
    environment.run(
        [
            *(environment.python, "-m", "build", "--sdist", "--no-isolation"),
            *("--skip-dependency-check", "--outdir", "raw", sources),
        ]
    )
    (raw,) = (environment.folder / "raw").glob("*.tar.gz")
    output.mkdir(parents=True, exist_ok=True)
    normalize(raw, output / raw.name, commit_date())
    return output / raw.name


def main() -> None:
    """Builds it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="DIR")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        sdist = build_sdist(arguments.output.resolve(), Path(work) / "sdist")
    print(f"{sdist.name}, {sdist.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
