"""From PyTorch's named tensors to Flax variables and back.

A variable is known by its path, such as 'params/stem_conv/kernel'. Rules say
how modules are named on the other side, one pair of patterns for each kind of
module, where `{i}` stands for a number:

  {'stage{s}_block{b}/conv{i}': 'layer{s}.{b}.conv{i}'}

The right-hand pattern may shift a number: '{s-1}'. The first rule that fits
counts. A rule for a whole path, leaf included, names a tensor; the leaves of
the other modules have their usual names (`kernel` is `weight`) and layouts.
"""

import dataclasses
import fnmatch
import pathlib
import pickle
import re
import zipfile
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from common.array_types import Variables

Rules = Mapping[str, str]
Tensors = Mapping[str, np.ndarray]
Shape = tuple[int, ...]

# Usual names of the leaves on the other side.
_LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}
# Order in which PyTorch keeps the axes of a kernel, by their number, and those
# of what is laid out like images.
_KERNEL_AXES = {2: (1, 0), 4: (3, 2, 0, 1)}
_IMAGE_AXES = (0, 3, 1, 2)


@dataclasses.dataclass(frozen=True)
class Differences:
  """How named tensors differ from those that are needed.

  Attributes:
    missing: names that are needed and absent.
    unused: names that are there and not needed.
    reshaped: shapes (found, needed) of names where they differ.
  """

  missing: tuple[str, ...]
  unused: tuple[str, ...]
  reshaped: Mapping[str, tuple[Shape, Shape]]

  def without(self, patterns: Collection[str]) -> 'Differences':
    """Leaves out the names that fit a pattern such as 'head.*'."""

    def others(names: Iterable[str]) -> tuple[str, ...]:
      return tuple(
        name
        for name in names
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
      )

    return Differences(
      others(self.missing),
      others(self.unused),
      {name: self.reshaped[name] for name in others(self.reshaped)},
    )

  def __bool__(self) -> bool:
    return bool(self.missing or self.unused or self.reshaped)

  def __str__(self) -> str:
    lines = [f'missing {name}' for name in self.missing]
    lines += [f'unused {name}' for name in self.unused]
    lines += [
      f'{name} has shape {found}, needed {needed}'
      for name, (found, needed) in self.reshaped.items()
    ]
    return '\n'.join(lines)


def flatten(variables: Variables) -> dict[str, Any]:
  """Leaves by path, such as 'params/stem_conv/kernel'."""
  return traverse_util.flatten_dict(variables, sep='/')


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Inverse of `flatten`."""
  return traverse_util.unflatten_dict(leaves, sep='/')


def torch_names(variables: Variables, rules: Rules) -> dict[str, str]:
  """Names of the tensors that hold the variables, by path.

  Args:
    variables: variables of a model, or their shapes.
    rules: see the module.

  Raises:
    ValueError: no rule fits a path, or two paths have one name.
  """
  names = {path: _torch_name(path, rules) for path in flatten(variables)}
  if len(set(names.values())) < len(names):
    raise ValueError('two variables have one name under these rules')
  return names


def to_torch(variables: Variables, rules: Rules) -> dict[str, np.ndarray]:
  """Renames variables and turns them to PyTorch's layout.

  Args:
    variables: variables of a model.
    rules: see the module.

  Returns:
    Arrays by name: linear kernels [out, in], convolutions [out, in, h, w].

  Raises:
    ValueError: no rule fits a path, or two paths have one name.
  """
  names = torch_names(variables, rules)
  return {
    names[path]: np.transpose(value, _torch_axes(path, np.ndim(value)))
    for path, value in flatten(variables).items()
  }


def from_torch(
  tensors: Tensors, template: Variables, rules: Rules
) -> tuple[dict[str, np.ndarray], Differences]:
  """Finds variables among named tensors.

  Args:
    tensors: arrays by name, in PyTorch's layout.
    template: shapes and dtypes of the variables.
    rules: see the module.

  Returns:
    The variables that are there in the right shape, by path, in the dtype of
    the template; and how the tensors differ from what is needed.

  Raises:
    ValueError: no rule fits a path, or two paths have one name.
  """
  found, missing, reshaped = {}, [], {}
  names = torch_names(template, rules)
  for path, needed in flatten(template).items():
    name = names[path]
    axes = _torch_axes(path, len(needed.shape))
    shape = tuple(needed.shape[axis] for axis in axes)
    if name not in tensors:
      missing.append(name)
    elif tensors[name].shape != shape:
      reshaped[name] = (tensors[name].shape, shape)
    else:
      value = np.transpose(tensors[name], np.argsort(axes))
      found[path] = value.astype(needed.dtype)
  unused = tensors.keys() - set(names.values())
  return found, Differences(tuple(missing), tuple(sorted(unused)), reshaped)


def read_tensors(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Reads named tensors.

  Args:
    path: a .safetensors file; an .npz file of arrays; or what `torch.save`
      wrote (.pth, .pt, .bin): named tensors, or a dict that has them under
      'state_dict', 'model' or 'net'.

  Raises:
    ValueError: the file is of another kind, or cannot be read.
    ImportError: a .pth file, and PyTorch is not installed.
  """
  path = pathlib.Path(path)
  if path.suffix == '.safetensors':
    try:
      return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
      raise ValueError(f'{path} is not a safetensors file: {error}') from error
  if path.suffix == '.npz':
    try:
      with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
    except (ValueError, zipfile.BadZipFile) as error:
      raise ValueError(f'{path} holds no plain arrays: {error}') from error
  if path.suffix in ('.pth', '.pt', '.bin'):
    return _read_torch(path)
  raise ValueError(f'{path} must end in .safetensors, .npz, .pth, .pt or .bin')


def write_tensors(path: str | pathlib.Path, tensors: Tensors) -> None:
  """Writes named tensors as safetensors.

  Raises:
    ValueError: the file's name does not end in .safetensors.
  """
  if pathlib.Path(path).suffix != '.safetensors':
    raise ValueError(f'{path} must end in .safetensors')
  contiguous = {k: np.asarray(x, order='C') for k, x in tensors.items()}
  safetensors.numpy.save_file(contiguous, path)


def _torch_name(path: str, rules: Rules) -> str:
  """Applies the first rule that fits the path, or the path less its leaf."""
  _, _, inside = path.partition('/')  # Of the collection.
  module, _, leaf = inside.rpartition('/')
  for pattern, name in rules.items():
    regex = re.sub(r'\\{(\w+)\\}', r'(?P<\1>\\d+)', re.escape(pattern))
    if match := re.fullmatch(regex, inside):
      return _fill(name, match)
    if match := re.fullmatch(regex, module):
      return f'{_fill(name, match)}.{_LEAVES[leaf]}'
  raise ValueError(f'no rule names {path}')


def _fill(pattern: str, match: re.Match[str]) -> str:
  """Puts numbers in the places of a pattern, shifted where it says so."""

  def number(place: re.Match[str]) -> str:
    return str(int(match[place[1]]) + int(place[2] or 0))

  return re.sub(r'\{(\w+)([+-]\d+)?\}', number, pattern)


def _torch_axes(path: str, rank: int) -> tuple[int, ...]:
  """Our axes in the order in which PyTorch keeps them."""
  if path.endswith('/kernel'):
    return _KERNEL_AXES[rank]
  return _IMAGE_AXES if rank == 4 else tuple(range(rank))


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    import torch
  except ImportError as error:
    raise ImportError(
      f'reading {path} needs PyTorch: pip install "rsdjax[convert]", or give a '
      '.safetensors file'
    ) from error
  try:
    loaded = torch.load(path, map_location='cpu', weights_only=True)
  except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
    raise ValueError(f'{path} holds no plain tensors: {error}') from error
  for key in ('state_dict', 'model', 'net'):
    if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
      loaded = loaded[key]
  if not isinstance(loaded, Mapping) or not all(
    isinstance(tensor, torch.Tensor) for tensor in loaded.values()
  ):
    raise ValueError(f'{path} holds other things than named tensors')
  tensors = {}
  for name, tensor in loaded.items():
    if tensor.dtype == torch.bfloat16:  # NumPy has no such type.
      tensor = tensor.float()
    tensors[name.removeprefix('module.')] = tensor.numpy()
  return tensors
