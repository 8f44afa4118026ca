"""CoI-M's masks of kernels, from what a generator says of each picture."""

from typing import Literal

import flax.linen as nn

from common.array_types import Array

MaskLayout = Literal['published', 'paired']


def mask_gate(rows: Array, columns: Array) -> Array:
  """Gate t of a mask: how strongly each pair of channels follows the window.

  1 / t acts as the temperature of the softmax in `kernel_masks`.

  Args:
    rows: one number per row, v, float [b, rows].
    columns: one number per column, u, float [b, columns].

  Returns:
    sigmoid(v[r] + u[q]), float [b, rows, columns], in (0, 1).

  Source: CoIC, CoI-M (step 3 of the published program's layer).
  """
  return nn.sigmoid(rows[:, :, None] + columns[:, None, :])


def kernel_masks(
  gate: Array, window: Array, *, layout: MaskLayout = 'published'
) -> Array:
  """Masks for the kernels of a batch.

  A softmax over the positions of the window, of the window's logits times the
  gate, times their number: every pair of channels has a mask of mean 1.

  The axes of a kernel are [height, width, rows, columns]: rows are input and
  columns output channels; in a transposed convolution rows are output and
  columns input channels. The published program reads its array of masks,
  [rows, columns], as [columns, rows] without transposing it. So where both
  numbers are equal, the two kinds of channels swap roles, and where they are
  not, they are scrambled (a depthwise kernel has one row and stays as it is).
  Learning works either way, but weights only fit the layout that they were
  trained with.

  Args:
    gate: of `mask_gate`, float [b, rows, columns].
    window: logits of the window's positions, row by row, float [b, positions].
    layout: 'published' as described; 'paired' gives each mask the gate of its
      own row and column.

  Returns:
    Float [b, positions, rows, columns], positive.

  Raises:
    ValueError: the layout is neither.

  Source: CoIC, CoI-M (steps 4 to 6 of the published program's layer).
  """
  if layout not in ('published', 'paired'):
    raise ValueError(f"mask layout {layout!r} must be 'published' or 'paired'")
  if layout == 'published':
    batch, rows, columns = gate.shape
    gate = gate.reshape(batch, columns, rows).swapaxes(1, 2)
  logits = window[:, :, None, None] * gate[:, None]
  return window.shape[1] * nn.softmax(logits, axis=1)
