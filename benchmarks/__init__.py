"""Fused against unfused Adadelta updates, measured in one run: `python -m benchmarks`."""
