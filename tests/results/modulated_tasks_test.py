"""TRNR's tasks for a modulated network, on embedded photos."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import configuration, distributed
from common.checkpoints import load_model
from results.modulated_tasks import compare, METHODS, ModulatedBRN
from trnr import train
from trnr.patch_set import PatchSet

CONFIG = 'configs/trnr/photos.py:smoke'


@pytest.fixture(scope='module')
def small():
  """A network for patches of 12 pixels, and its variables."""
  network = ModulatedBRN(features=4)
  image = jax.random.uniform(jax.random.key(1), (1, 12, 12, 3))
  return network, jax.jit(network.init)(jax.random.key(0), image), image


@pytest.mark.slow  # As below.
def test_every_parameter_has_a_depth(small):
  network, variables, _ = small
  depths = network.depths(variables['params'])
  assert {*jax.tree.leaves(depths)} == {1, 2, 3}
  assert {*jax.tree.leaves(depths['encoder'])} == {1}


@pytest.mark.slow  # As below.
def test_modulation_is_all_that_differs(small):
  network, variables, image = small
  plain = ModulatedBRN(features=4, modulated=False)
  of_plain = jax.jit(plain.init)(jax.random.key(0), image)
  flat = jax.tree_util.tree_leaves_with_path(of_plain['params'])
  for path, value in flat:
    own = variables['params']
    for key in path:
      own = own[key.key]
    np.testing.assert_array_equal(own, value)
  restored = jax.jit(network.apply)(variables, image)
  assert restored.shape == image.shape
  of_plain = jax.jit(plain.apply)(of_plain, image)
  assert not np.allclose(restored, of_plain, atol=1e-4)


@pytest.mark.slow  # As below.
def test_an_inner_step_moves_encoder_and_generators(small):
  network, variables, image = small
  loss_fn = train.make_loss_fn(network, ssim_weight=0.0)
  batch = {'input': image, 'target': jnp.clip(image + 0.1, 0, 1)}
  gradients, statistics = jax.jit(jax.grad(loss_fn, has_aux=True))(
    variables['params'], variables['batch_stats'], batch
  )
  branch = gradients['brn']['iteration']['background']
  for kernel in (
    gradients['encoder']['linear2']['kernel'],
    gradients['encoder']['stem']['kernel'],
    branch['output']['generator']['linear1']['kernel'],
  ):
    assert np.abs(kernel).max() > 0
  norm = statistics['encoder']['block1']['norm1']
  assert np.abs(norm['mean']).max() > 0


def test_methods_differ_in_sampling_and_network_alone(tmp_path, monkeypatch):
  started = {}

  def start(config, workdir, *, network):
    started[workdir.name] = config, network
    return {}

  monkeypatch.setattr(train, 'train_and_evaluate', start)
  config = configuration.load(CONFIG, {'model.features': 4})
  compare(config, tmp_path, methods=[*METHODS], seeds=[0, 3])
  assert len(started) == 8
  for method, (sampling, modulated) in METHODS.items():
    run, network = started[f'{method}_seed3']
    assert (run.seed, run.sampling.name) == (3, sampling)
    assert run.patches.path == str(tmp_path / 'patches.npz')
    assert network == ModulatedBRN(features=4, modulated=modulated)
    assert run.model.modulated == modulated
    assert run.train == config.train and run.is_locked


def test_unknown_method_is_named(tmp_path):
  with pytest.raises(ValueError, match="'rcs' must be one of"):
    compare(configuration.load(CONFIG), tmp_path, methods=['rcs'], seeds=[0])


@pytest.mark.slow  # Half a minute or more of compilation.
def test_run_on_tasks(tmp_path, monkeypatch):
  make_mesh = distributed.make_mesh
  monkeypatch.setattr(
    distributed, 'make_mesh', lambda: make_mesh(jax.devices()[:1])
  )
  clean = np.random.default_rng(0).integers(0, 256, (60, 12, 12, 3), np.uint8)
  PatchSet(clean, clean[:, None], np.repeat(np.arange(6), 10)).write(
    tmp_path / 'patches.npz'
  )
  config = configuration.load(
    CONFIG,
    {
      'model.features': 4,
      'sampling.num_tasks': 1,
      'train.num_steps': 1,
      'train.pictures': False,
    },
  )
  found = compare(config, tmp_path, methods=['rcs_modulated'], seeds=[0])
  folder = tmp_path / 'rcs_modulated_seed0'
  variables, description = load_model(folder / 'model.safetensors')
  assert description['scores'] == found['rcs_modulated_seed0']
  assert description['model']['name'] == 'modulated_brn'
  assert {*variables['params']} == {'encoder', 'brn'}
