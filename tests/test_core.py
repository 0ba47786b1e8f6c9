"""The core without Python: what the fuzzer has found worth keeping, and vector code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tf_adadelta

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "tests" / "core"
COMPILERS = ["c++", "aarch64-linux-gnu-g++"]


def run(*command):
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout


def test_corpus_of_the_fuzzer(tmp_path):
    """No compiler but that of the build is needed: libFuzzer's part is played by replay.cc."""
    library = Path(tf_adadelta.__file__).with_name("libtf_adadelta_core.so")
    # What the library keeps to itself is compiled again.
    sources = [CORE / "fuzz_core.cc", CORE / "replay.cc", ROOT / "csrc" / "cpu" / "row_groups.cc"]
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-pthread", f"-I{ROOT / 'csrc'}"]
    link = [library, f"-Wl,-rpath,{library.parent}", "-o", tmp_path / "replay"]
    run(os.environ.get("CXX", "c++"), *flags, *sources, *link)
    corpus = CORE / "corpus"
    count = len(list(corpus.iterdir()))
    assert count > 0
    assert f"{count} files replayed" in run(tmp_path / "replay", corpus)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_loops_are_vector_code(compiler):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    assert "14 of 14 loops" in run(sys.executable, ROOT / "ci" / "vectorised.py", compiler)
