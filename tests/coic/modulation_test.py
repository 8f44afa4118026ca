"""Modulated convolutions: values, masks and gradients, options, errors."""

import pathlib
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coic import modulation
from coic.masks import kernel_masks, mask_gate
from common import weight_conversion
from common.initialization import initialize

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Published name of each part of a layer.
RULES = {
  'kernel': 'base_conv.conv.weight',
  'bias': 'base_conv.conv.bias',
  'generator/linear1': 'g2pa_wgen.0',
  'generator/linear2': 'g2pa_wgen.2',
  'generator/linear3': 'g2pa_wgen.4',
}
CASES = [('coim_conv', case) for case in 'abcdefgh']
CASES += [('coim_transpose', case) for case in 'ab']


def nhwc(x):
  return jnp.asarray(np.moveaxis(x, 1, -1))


def nchw(x):
  return np.moveaxis(np.asarray(x), -1, 1)


def assert_close(actual, desired, tolerance=1e-5):
  scale = max(1, np.abs(desired).max())
  np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * scale)


def layer_and_variables(file, arrays, x, z, **options):
  """The layer of a case and its published weights."""
  if file == 'coim_conv':
    _, features, width, size, stride, padding, dilation, groups, bias = (
      int(n) for n in arrays['cfg']
    )
    layer_type, options = (
      modulation.ModulatedConv,
      options
      | {
        'dilation': dilation,
        'groups': groups,
      },
    )
  else:
    _, features, width, size, stride, padding, bias = (
      int(n) for n in arrays['cfg']
    )
    layer_type = modulation.ModulatedConvTranspose
  layer = layer_type(
    features,
    size,
    stride,
    padding,
    bool(bias),
    width,
    unused_generator=True,
    **options,
  )
  template = jax.eval_shape(layer.init, jax.random.key(0), x)
  weights = {
    name.removeprefix('w/'): array
    for name, array in arrays.items()
    if name.startswith('w/')
  }
  found, differences = weight_conversion.from_torch(weights, template, RULES)
  assert not differences, differences
  return layer, weight_conversion.unflatten(found)


@pytest.fixture(params=CASES, ids=lambda case: '-'.join(case))
def case(request, golden):
  file, name = request.param
  arrays = {
    key.removeprefix(f'{name}/'): array
    for key, array in golden(f'coic/{file}.npz').items()
    if key.startswith(f'{name}/')
  }
  x, z = nhwc(arrays['x']), jnp.asarray(arrays['z'])
  return arrays, x, z, *layer_and_variables(file, arrays, x, z)


def test_published_layers(case):
  arrays, x, z, layer, variables = case
  cotangent = nhwc(arrays['cot']) if 'cot' in arrays else 0

  @jax.jit
  def run(variables, x, z):
    def objective(*args):
      y, state = layer.apply(*args, mutable='intermediates')
      return (y * cotangent).sum(), (y, state)

    grad = jax.grad(objective, argnums=(0, 1, 2), has_aux=True)
    return layer.apply(variables, x), *grad(variables, x, z)

  plain, gradients, (y, state) = run(variables, x, z)
  assert_close(nchw(plain), arrays['y_plain'])
  assert_close(nchw(y), arrays['y_mod'])
  if 'cot' not in arrays:
    assert not state  # A 1x1 layer.
    return
  if 'modulation' in arrays:
    (gate,) = state['intermediates']['gate']
    (window,) = state['intermediates']['window']
    masks = kernel_masks(gate, window)
    out, rows, *size = arrays['modulation'].shape[1:]
    masks = masks.reshape(-1, *size, rows, out).transpose(0, 4, 3, 1, 2)
    assert_close(masks, arrays['modulation'])
  in_params, in_x, in_z = gradients
  assert_close(nchw(in_x), arrays['grad_x'], 1e-4)
  assert_close(in_z, arrays['grad_z'], 1e-4)
  named = weight_conversion.to_torch(in_params, RULES)
  expected = {k[5:]: g for k, g in arrays.items() if k.startswith('grad/')}
  assert named.keys() == expected.keys()
  for name, gradient in named.items():
    assert_close(gradient, expected[name], 1e-4)


@pytest.mark.parametrize('layout', ['published', 'paired'])
def test_masks_by_hand(layout):
  rows, columns = np.array([[0.5, -1]]), np.array([[1, 0, 2.0]])
  window = np.array([[0, 1.0, -2]])
  gate = mask_gate(jnp.asarray(rows), jnp.asarray(columns))
  masks = kernel_masks(gate, jnp.asarray(window), layout=layout)
  np.testing.assert_allclose(masks.mean(1), 1, rtol=1e-6)
  for r in range(2):
    for c in range(3):
      flat = 2 * c + r  # Where the published program finds the mask.
      u, v = (flat % 3, flat // 3) if layout == 'published' else (c, r)
      logits = window[0] / (1 + np.exp(-rows[0, v] - columns[0, u]))
      expected = 3 * np.exp(logits) / np.exp(logits).sum()
      np.testing.assert_allclose(masks[0, :, r, c], expected, rtol=1e-6)


def test_masks_without_context_leave_the_kernel():
  gate = jnp.full((1, 2, 3), 0.5)
  masks = kernel_masks(gate, jnp.zeros((1, 9)))
  np.testing.assert_allclose(masks, 1, rtol=1e-6)


def test_unknown_layout():
  with pytest.raises(ValueError, match="layout 'mine' must be 'published'"):
    kernel_masks(jnp.ones((1, 2, 2)), jnp.ones((1, 9)), layout='mine')


def shapes_of(layer, channels, z=None):
  x = jnp.zeros((2, 6, 7, channels))
  variables = jax.eval_shape(layer.init, jax.random.key(0), x, z)
  return {
    path: x.shape
    for path, x in weight_conversion.flatten(variables['params']).items()
  }


def test_parameters_exist_in_either_mode():
  layer = modulation.ModulatedConv(4, (1, 3), groups=2)
  assert shapes_of(layer, 6) == shapes_of(layer, 6, jnp.zeros((2, 128)))
  assert shapes_of(layer, 6) == {
    'kernel': (1, 3, 3, 4),
    'bias': (4,),
    'generator/linear1/kernel': (134, 1),
    'generator/linear1/bias': (1,),
    'generator/linear2/kernel': (1, 16),
    'generator/linear2/bias': (16,),
    'generator/linear3/kernel': (16, 10),
    'generator/linear3/bias': (10,),
  }


@pytest.mark.parametrize(
  ('kernel_size', 'options', 'has_generator'),
  [
    (1, {}, False),
    (1, {'unused_generator': True}, True),
    (3, {'embedding_features': None}, False),
  ],
)
def test_which_layers_have_a_generator(kernel_size, options, has_generator):
  layer = modulation.ModulatedConv(4, kernel_size, **options)
  assert ('generator/linear1/bias' in shapes_of(layer, 6)) == has_generator


@pytest.mark.parametrize(
  'layer_type', [modulation.ModulatedConv, modulation.ModulatedConvTranspose]
)
def test_initialisation_is_that_of_pytorch(layer_type):
  layer = layer_type(32, 3)
  x = jnp.zeros((1, 4, 4, 48))
  params = jax.jit(layer.init)(jax.random.key(0), x)['params']
  fan_in = 9 * (48 if layer_type is modulation.ModulatedConv else 32)
  linears = params['generator']
  widths = {'linear1': 176, 'linear2': 32, 'linear3': 16}
  layers = [(params, fan_in), *((linears[k], n) for k, n in widths.items())]
  for leaves, fan_in in layers:
    for x in leaves['kernel'], leaves['bias']:
      largest = np.abs(x).max()
      assert 0.8 * fan_in**-0.5 < largest <= fan_in**-0.5 * (1 + 1e-6)


def test_initialisation_computes_nothing_of_the_generator(caplog):
  # Of sizes that no other test compiles.
  layer = modulation.ModulatedConv(301, 3, embedding_features=13)
  x = jax.ShapeDtypeStruct((1, 6, 6, 37), jnp.float32)
  with jax.log_compiles():
    variables = initialize(layer, jax.random.key(0), x)
  assert variables['params']['generator']
  assert 'jit(_uniform)' in caplog.text
  assert 'jit(dot_general)' not in caplog.text


@pytest.mark.parametrize('z', [None, 0.3 * jnp.ones((2, 128))])
def test_layers_together_make_what_each_makes(z):
  class Layers(nn.Module):
    together: bool

    @nn.compact
    def __call__(self, x, z):
      layers = [modulation.ModulatedConv(4, 3, name=name) for name in 'ab']
      if self.together:
        return modulation.convolve_together(layers, x, z)
      return [layer(x, z) for layer in layers]

  x = jax.random.normal(jax.random.key(0), (2, 6, 7, 3))
  variables = Layers(True).init(jax.random.key(1), x, z)
  together, apart = (
    Layers(together).apply(variables, x, z) for together in (True, False)
  )
  assert len(together) == 2
  for found, expected in zip(together, apart, strict=True):
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_linear_init_goes_to_the_generator():
  init = jax.nn.initializers.constant(0.5)
  layer = modulation.ModulatedConv(4, 3, linear_init=init)
  params = layer.init(jax.random.key(0), jnp.zeros((1, 4, 4, 2)))['params']
  for linear in params['generator'].values():
    np.testing.assert_array_equal(linear['kernel'], 0.5)
    np.testing.assert_array_equal(linear['bias'], 0)
  assert np.ptp(params['kernel']) > 0


@pytest.mark.parametrize('z', [None, jnp.ones((2, 128))])
def test_bfloat16(z):
  x = jax.random.normal(jax.random.key(0), (2, 6, 7, 3))
  layer = modulation.ModulatedConv(4, 3, dtype=jnp.bfloat16)
  variables = layer.init(jax.random.key(1), x)
  half = layer.apply(variables, x, z)
  full = modulation.ModulatedConv(4, 3).apply(variables, x, z)
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(half, full, atol=0.03)


@pytest.mark.parametrize(
  ('channels', 'z', 'options', 'match'),
  [
    (4, jnp.zeros((2, 64)), {}, r'z \[2, 64\] must be \[batch, 128\]'),
    (4, jnp.zeros((3, 128)), {}, 'same batch size'),
    (4, jnp.zeros((2, 128), int), {}, 'z int32.*floating'),
    (4, jnp.zeros((2, 8)), {'embedding_features': None}, 'no use to a layer'),
    (4, None, {'groups': 3}, '3 groups do not divide 4 input'),
  ],
)
def test_errors(channels, z, options, match):
  with pytest.raises(ValueError, match=match):
    shapes_of(modulation.ModulatedConv(6, 3, **options), channels, z)


def test_context_branch():
  branch = modulation.ContextBranch(5)
  z = jax.random.normal(jax.random.key(0), (2, 8))
  variables = branch.init(jax.random.key(1), z)
  linear = variables['params']['linear']
  expected = z / (1 + np.exp(-z)) @ linear['kernel'] + linear['bias'][None]
  np.testing.assert_allclose(branch.apply(variables, z), expected, rtol=1e-5)


def test_network_of_the_page():
  page = (ROOT / 'docs' / 'modulation.md').read_text()
  (program,) = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
  names = {'__name__': 'page'}
  exec(program, names)
  model = names['Derainer']()
  image = jax.random.uniform(jax.random.key(0), (2, 8, 9, 3))
  z = jnp.eye(2, 128)

  @jax.jit
  def run(rng):
    variables = model.init(rng, image)

    def apply(z):
      return model.apply(variables, image, z)

    return apply(None), apply(z), jax.grad(lambda z: apply(z).sum())(z)

  plain, modulated, in_z = run(jax.random.key(1))
  assert plain.shape == modulated.shape == image.shape
  assert (np.abs(plain - modulated).max((1, 2, 3)) > 1e-4).all()
  assert (np.abs(in_z).max(1) > 0).all()
