"""Ours and the same mathematics in eager PyTorch, side by side.

`python -m benchmarks.run` times both in turn; see `benchmarks.side_by_side`.
"""
