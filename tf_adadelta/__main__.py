"""`python -m tf_adadelta`: what was built, against what, and what is missing."""

from tf_adadelta import _build_info

if __name__ == "__main__":
    print(_build_info.report())
