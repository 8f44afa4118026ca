"""Ours and the same mathematics in eager PyTorch, side by side.

`python -m benchmarks.run` times both in turn; see `benchmarks.side_by_side`.
"""

import os

# Threads of PyTorch that wait by spinning take the cores from whoever runs
# next. It is read when the library is loaded.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
