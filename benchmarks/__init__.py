"""Fused against unfused Adadelta updates, measured in one run: `python -m benchmarks`."""

import os
import sys
from pathlib import Path

# `python -m` puts the clone first on the path, where tf_adadelta has no libraries: what was
# installed is what is to be measured.
_CLONE = str(Path(__file__).resolve().parents[1])
if sys.path[0] in ("", _CLONE):
    sys.path.append(sys.path.pop(0))

# The progress bar is not to be torn by what TensorFlow has to say about GPUs.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# NumPy asks for huge pages and TensorFlow does not: the limit is to be that of TensorFlow's memory.
os.environ.setdefault("NUMPY_MADVISE_HUGEPAGE", "0")
