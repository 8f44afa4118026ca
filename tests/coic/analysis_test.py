"""Vectors, temperatures and impact against stored numbers; the command."""

import functools
import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coic import analysis, evaluate, models, representations, temperatures
from coic.encoder import Encoder
from coic.modulation import ModulatedConv
from common import checkpoints
from common.data import derain_sets

ENCODER = Encoder(features=2, embedding_features=8)
encode = jax.jit(ENCODER.apply)
MODEL = {
  'name': 'brn',
  'iterations': 2,
  'features': 4,
  'rain_blocks': 1,
  'background_blocks': 1,
  'embedding_features': 8,
}


def random_variables(module):
  image = jnp.zeros((1, 16, 16, 3))
  return jax.jit(module.init)(jax.random.key(0), image)


@pytest.fixture(scope='module')
def encoder_variables():
  return random_variables(ENCODER)


@pytest.fixture(scope='module')
def derainer(encoder_variables):
  network = models.create(**MODEL)
  return evaluate.Derainer(
    network, random_variables(network), ENCODER, encoder_variables
  )


def units(*shape, seed=0):
  x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_stored_vectors_and_similarity(golden):
  arrays = golden('coic/analysis.npz')
  vectors = []
  for i in range(3):
    features = jnp.asarray(np.moveaxis(arrays[f'features{i}'], 1, -1))
    vectors.append(representations.pooled_vectors(features))
    np.testing.assert_allclose(vectors[i], arrays[f'embedding{i}'], atol=1e-6)
  matrix = representations.similarity(vectors)
  np.testing.assert_allclose(matrix, arrays['similarity'], atol=1e-6)


def test_similarity_by_hand():
  sets = [units(3, 5), units(4, 5, seed=1)]
  expected = [[(a @ b.T).mean() for b in sets] for a in sets]
  np.testing.assert_allclose(
    representations.similarity(sets), expected, atol=1e-6
  )
  with pytest.raises(ValueError, match='must have 2 axes'):
    representations.similarity([jnp.ones(3)])


def test_dataset_vectors(encoder_variables):
  images = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3))
  vectors = representations.dataset_vectors(
    ENCODER, encoder_variables, images, size=16
  )
  _, features = encode(encoder_variables, images)
  mean = np.mean(features, axis=(1, 2))
  expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
  np.testing.assert_allclose(vectors, expected, atol=1e-6)
  with pytest.raises(ValueError, match='floating'):
    representations.dataset_vectors(
      ENCODER, encoder_variables, jnp.zeros((1, 8, 8, 3), jnp.uint8)
    )


@pytest.mark.parametrize('case', ['temp_a', 'temp_b'])
def test_stored_temperatures(golden, case):
  arrays = golden('coic/analysis.npz')
  channels, features, width, size = (int(n) for n in arrays[f'{case}/cfg'])
  generator = {
    f'linear{i}': {
      'kernel': arrays[f'{case}/w/g2pa_wgen.{j}.weight'].T,
      'bias': arrays[f'{case}/w/g2pa_wgen.{j}.bias'],
    }
    for i, j in enumerate((0, 2, 4), 1)
  }
  layer = ModulatedConv(
    features, size, use_bias=False, embedding_features=width
  )
  kernel = np.zeros((size, size, channels, features), np.float32)
  _, state = layer.apply(
    {'params': {'kernel': kernel, 'generator': generator}},
    jnp.asarray(np.moveaxis(arrays[f'{case}/x'], 1, -1)),
    jnp.asarray(arrays[f'{case}/z']),
    mutable=['intermediates'],
  )
  (gate,) = state['intermediates']['gate']
  (window,) = state['intermediates']['window']
  # The reference takes the window of the whole batch.
  whole = jnp.broadcast_to(window.reshape(1, -1), (len(window), window.size))
  found = temperatures.mask_temperatures(gate, whole)
  np.testing.assert_allclose(found, arrays[f'{case}/temperature'], rtol=2e-5)
  expected = arrays[f'{case}/mean_log_temperature']
  np.testing.assert_allclose(np.log(found).mean(), expected, rtol=1e-5)


def test_temperatures_by_hand():
  gate = jnp.full((2, 3, 4), 0.25)
  window = jnp.array([[-1.0, 0.0, 4.0], [0.0, 0.0, 3.0]])
  found = temperatures.mask_temperatures(gate, window)
  assert found.shape == gate.shape
  np.testing.assert_allclose(found[:, 1, 2], [4 / 2, 4 / 1], rtol=1e-6)
  half = temperatures.mask_temperatures(
    gate.astype(jnp.bfloat16), window.astype(jnp.bfloat16)
  )
  assert half.dtype == jnp.float32
  np.testing.assert_allclose(half, found, rtol=1e-6)
  with pytest.raises(ValueError, match='floating'):
    temperatures.mask_temperatures(gate, jnp.ones((2, 3), int))

  layers = {
    'scan': {
      'layer': {
        'gate': (jnp.stack([gate] * 5),),
        'window': (jnp.stack([window] * 5),),
      }
    },
    'twice': {'gate': (gate, gate), 'window': (window, 2 * window)},
  }
  means = temperatures.mean_log_temperatures(layers)
  once = np.log([2, 4])
  np.testing.assert_allclose(means['scan/layer'], [once] * 5, rtol=1e-6)
  np.testing.assert_allclose(
    means['twice'], [once, once - np.log(2)], rtol=1e-5
  )


def test_impact(encoder_variables):
  rng_target, rng_rain = jax.random.split(jax.random.key(2))
  target = jax.random.uniform(rng_target, (2, 16, 16, 3), maxval=0.5)
  rain = 0.3 * jax.random.bernoulli(rng_rain, shape=(2, 16, 16, 1))
  run = functools.partial(representations.impact, ENCODER, encoder_variables)
  # Neither other rain nor a blur: nothing moves.
  found = run(target, target, sigma=0.01)
  np.testing.assert_allclose(found.rain, 0, atol=1e-6)
  np.testing.assert_allclose(found.detail, 0, atol=1e-6)
  found = run(target + rain, target, sigma=1.0)
  assert (found.rain > 1e-4).all() and (found.detail > 1e-4).all()
  # The other picture's rain is the farthest.
  maps = [
    encode(encoder_variables, x).features
    for x in (target + rain, target + rain[::-1])
  ]
  cosines = (maps[0] * maps[1]).sum(-1).mean((1, 2))
  np.testing.assert_allclose(found.rain, 1 - cosines, atol=1e-5)
  with pytest.raises(ValueError, match='must have the same shape'):
    run(target, target[:1])


def test_impact_by_density():
  found = representations.Impact(
    jnp.array([0.1, 0.3, 0.9]), jnp.array([1.0, 0.5, 0.25])
  )
  rows = representations.impact_by_density(np.array([0.01, 0.04, 0.12]), found)
  expected = [(0.0, 2 / 3, 0.2, 0.75), (0.1, 1 / 3, 0.9, 0.25)]
  keys = ('density_from', 'share', 'rain', 'detail')
  for row, numbers in zip(rows, expected, strict=True):
    assert tuple(row) == keys
    np.testing.assert_allclose([*row.values()], numbers, rtol=1e-6)


def test_map_without_umap(monkeypatch):
  monkeypatch.setitem(sys.modules, 'umap', None)
  vectors = units(6, 4)
  points, method = representations.planar_map(vectors)
  assert method == 'PCA'
  centred = vectors - vectors.mean(0)
  lengths = np.linalg.svd(centred, compute_uv=False)[:2]
  np.testing.assert_allclose(np.linalg.norm(points, axis=0), lengths, rtol=1e-4)


def test_map_by_umap(monkeypatch):
  """What UMAP is asked for, and from its sphere to degrees."""
  seen = {}

  class Stub:
    def __init__(self, **options):
      seen.update(options)

    def fit_transform(self, angles):
      np.testing.assert_array_equal(np.diagonal(angles), 0)
      np.testing.assert_allclose(angles[0, 1], np.pi / 2, atol=1e-6)
      return np.array([[0.1, 0.2 + 2 * np.pi], [np.pi - 0.1, 0.2]])

  monkeypatch.setitem(sys.modules, 'umap', types.SimpleNamespace(UMAP=Stub))
  points, method = representations.planar_map(np.eye(2))
  assert method == 'UMAP'
  assert (seen['metric'], seen['n_neighbors']) == ('precomputed', 1)
  # Over the pole, on the other side.
  expected = np.degrees([[0.2, 0.1], [0.2 - np.pi, 0.1]])
  np.testing.assert_allclose(points, expected, atol=1e-5)


@pytest.mark.slow
def test_cost(derainer):
  found = analysis.cost(derainer, size=16, warmup_runs=1, timed_runs=2)
  assert found['seconds_mean'] > 0 and found['seconds_deviation'] >= 0
  leaves = jax.tree.leaves(
    [part['params'] for part in derainer.variables.values()]
  )
  assert found['parameters'] == sum(x.size for x in leaves)
  without = evaluate.Derainer(derainer.network, derainer.network_variables)
  plain = analysis.cost(without, size=16, warmup_runs=1, timed_runs=1)
  # The first layer of the rain branch, in both iterations.
  assert plain['multiply_adds'] > 2 * 16**2 * 9 * 6 * 4
  assert plain['multiply_adds'] < found['multiply_adds']
  z = jnp.zeros(8)  # In place of the encoder's.
  given = analysis.cost(derainer, size=16, z=z, warmup_runs=1, timed_runs=1)
  assert given['multiply_adds'] < found['multiply_adds']
  with pytest.raises(ValueError, match=r'size = 513 must be in 1..512'):
    analysis.cost(derainer, size=513)
  with pytest.raises(ValueError, match='at least 1'):
    analysis.cost(derainer, size=16, warmup_runs=0)


def test_command(derainer, tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, 'umap', None)
  weights = tmp_path / evaluate.MODEL_FILE
  description = {
    'model': MODEL,
    'encoder': {'features': 2, 'embedding_features': 8},
  }
  checkpoints.export_model(weights, derainer.variables, description)
  output = tmp_path / 'analysis'
  sets = ['--set', 'photos:light', '--set', 'photos:heavy']
  options = ['--weights', str(weights), '--num_images', '1', '--crop', '16']
  analysis.main([*options, *sets, '--output', str(output)])
  assert 'analysis.json' in capsys.readouterr().out
  result = json.loads((output / 'analysis.json').read_text())
  assert result['images'] == {'photos:light': 1, 'photos:heavy': 1}
  names = ['photos:light', 'photos:heavy', 'photos:light, clean']
  assert [*result['similarity']] == [*result['map']['points']] == names
  for name in names:  # Of one picture each.
    np.testing.assert_allclose(result['similarity'][name][name], 1, rtol=1e-5)
  assert sum(row['share'] for row in result['impact']) == 1
  layers = result['temperature']['photos:heavy']
  assert len(layers) == 2 * (6 + 2)
  assert 'iteration/rain/block1_conv1' in layers
  for picture in ('similarity', 'map', 'impact', 'temperature'):
    assert (output / f'{picture}.png').stat().st_size > 1000
  with pytest.raises(SystemExit):
    analysis.main([*options, *sets[:2] * 2, '--output', str(output)])
  assert 'photos:light is given twice' in capsys.readouterr().err


def test_without_encoder(derainer, tmp_path):
  source = derain_sets.open_set('photos', split='test')
  alone = evaluate.Derainer(derainer.network, derainer.network_variables)
  result = analysis.analyse(
    alone, {'rain': source}, tmp_path, num_images=1, crop=16
  )
  assert [*result] == ['images', 'temperature']
  with pytest.raises(ValueError, match='no modulation'):
    plain = evaluate.Derainer(models.create('brn', modulated=False), {})
    analysis.analyse(plain, {'rain': source}, tmp_path)
  with pytest.raises(ValueError, match='no set'):
    analysis.analyse(alone, {}, tmp_path)
