"""Names, sizes and options of the networks."""

import jax
import jax.numpy as jnp
import pytest

from coic import models

IMAGE = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)


def parameters(model):
  shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGE)
  return sum(x.size for x in jax.tree.leaves(shapes['params']))


@pytest.mark.parametrize('name', models.names())
def test_parameter_counts(name):
  entry = models.names()[name]
  plain = models.create(name, modulated=False)
  assert parameters(plain) == entry.plain_parameters
  assert parameters(models.create(name)) == entry.modulated_parameters


@pytest.mark.parametrize('name', models.names())
def test_parameters_are_the_same_however_initialised(narrow, name):
  init = models.create(name, **narrow(name)).init
  z = jnp.zeros((1, 128))
  plain, modulated = (
    jax.eval_shape(init, jax.random.key(0), IMAGE, z) for z in (None, z)
  )
  assert plain == modulated


def test_errors_tell_what_is_valid():
  with pytest.raises(ValueError, match=r"'bnr'\. Did you mean 'brn'"):
    models.create('bnr')
  with pytest.raises(ValueError, match=r'brn has no option depth.*iterations'):
    models.create('brn', depth=3)


def test_options_of_a_file_make_the_same_network():
  options = {'blocks': [1, 1], 'heads': [1, 2]}
  network = models.create('drsformer', **options)
  assert network == models.create('drsformer', blocks=(1, 1), heads=(1, 2))
  assert isinstance(hash(network), int)
