"""Learning rates of the published recipes."""

import jax
import numpy as np
import pytest

from coic import schedules

# Published recipes: golden name, steps of an epoch, options.
RECIPES = {
  'brn': (2409, {'milestones': (30, 50, 80), 'learning_rate': 1e-3}),
  'rcdnet': (1807, {'milestones': (25, 50, 75), 'learning_rate': 1e-3}),
  'idt': (
    3613,
    {'milestones': (100, 250, 350), 'factor': 0.1, 'learning_rate': 1e-4},
  ),
}


@pytest.mark.parametrize('name', RECIPES)
def test_milestones(golden, name):
  steps_per_epoch, options = RECIPES[name]
  expected = golden('coic/schedules.npz')[f'{name}_lr_per_epoch']
  schedule = schedules.make_schedule(
    'milestones', num_steps=1, steps_per_epoch=steps_per_epoch, **options
  )
  first = np.arange(len(expected)) * steps_per_epoch
  for step in (first, first + steps_per_epoch - 1):
    np.testing.assert_allclose(jax.vmap(schedule)(step), expected, rtol=1e-6)


def test_milestone_acts_after_its_epoch():
  schedule = schedules.make_schedule(
    'milestones',
    learning_rate=1.0,
    num_steps=1,
    steps_per_epoch=10,
    milestones=(1,),
  )
  rates = [float(schedule(step)) for step in (0, 19, 20, 99)]
  np.testing.assert_allclose(rates, [1, 1, 0.2, 0.2], rtol=1e-6)


def test_cosine_by_epoch(golden):
  expected = golden('coic/schedules.npz')['dgunet_lr_per_epoch']
  schedule = schedules.make_schedule(
    'cosine', learning_rate=2e-4, num_steps=222 * 1807, steps_per_epoch=1807
  )
  steps = np.arange(222) * 1807
  np.testing.assert_allclose(jax.vmap(schedule)(steps), expected, rtol=1e-5)


def test_published_drsformer(golden):
  arrays = golden('coic/schedules.npz')
  schedule = schedules.make_schedule(
    'drsformer_published', learning_rate=3e-4, num_steps=400_000
  )
  # The program counts from 1.
  rates = jax.vmap(schedule)(arrays['drsformer_steps'] - 1)
  np.testing.assert_allclose(rates, arrays['drsformer_lr'], rtol=1e-5)


def test_published_drsformer_jumps_back():
  schedule = schedules.make_schedule(
    'drsformer_published', learning_rate=3e-4, num_steps=400_000
  )
  rates = [float(schedule(step)) for step in (0, 299_999, 300_000)]
  np.testing.assert_allclose(rates, [3e-4, 1e-4, 3e-4], rtol=1e-4)


def test_hold_cosine():
  schedule = schedules.make_schedule(
    'hold_cosine', learning_rate=3e-4, num_steps=300
  )
  rates = [float(schedule(step)) for step in (0, 92, 196, 300)]
  middle = (3e-4 + 1e-6) / 2
  np.testing.assert_allclose(rates, [3e-4, 3e-4, middle, 1e-6], rtol=1e-4)


def test_unknown_kind():
  with pytest.raises(ValueError, match="'sine' must be one of"):
    schedules.make_schedule('sine', learning_rate=1.0, num_steps=1)
