"""The whole RSD objective against two steps of the published program."""

import functools

import jax
import pytest

from rsdjax import Decoupler, losses


def kernels_of(numbers, name):
  """Linear maps [in, out] and BatchNorm parameters, in our layout."""
  return {
    'expand': {'kernel': numbers[name.format('fc1_weight')].T},
    'norm': {
      'scale': numbers[name.format('bn_weight')],
      'bias': numbers[name.format('bn_bias')],
    },
    'project': {'kernel': numbers[name.format('fc2_weight')].T},
  }


def statistics_of(numbers, name):
  return {
    'norm': {
      'mean': numbers[name.format('bn_running_mean')],
      'var': numbers[name.format('bn_running_var')],
    }
  }


@pytest.mark.parametrize(
  'source, case, num_steps',
  [('shared', 'a0', 2), ('shared', 'a1', 2), ('stored', 'a0', 1)],
)
def test_losses_gradients_and_statistics(
  source, case, num_steps, reference, precision
):
  numbers = {
    key.removeprefix(f'{case}_'): value
    for key, value in reference(source, 'aad_and_rsd_step').items()
  }
  weight, kappa = float(numbers['rsd_weight']), float(numbers['kappa'])
  target = numbers['target']
  smoothing = 0.1 if target.ndim == 1 else 0.0
  dim = numbers['z_teacher_0'].shape[1]
  decoupler = Decoupler(dim, expansion=int(numbers['gamma']))

  @jax.jit
  def train_step(trained, statistics, teacher):
    def loss_fn(trained):
      embedding, updates = decoupler.apply(
        {'params': trained['params'], 'batch_stats': statistics},
        trained['embedding'],
        train=True,
        mutable=['batch_stats'],
      )
      parts = (
        losses.cross_entropy(
          trained['logits'], target, label_smoothing=smoothing
        ).mean(),
        weight * losses.rsd_loss(embedding, teacher, kappa=kappa),
      )
      return sum(parts), (parts, embedding, updates['batch_stats'])

    return jax.value_and_grad(loss_fn, has_aux=True)(trained)

  def check_tree(actual, expected):
    jax.tree.map(precision.check_gradient, actual, expected)

  params = jax.tree.map(
    lambda x: x.astype(precision.dtype), kernels_of(numbers, '{}')
  )
  statistics = jax.tree.map(
    lambda x: x.astype(precision.dtype), statistics_of(numbers, '{}_0')
  )
  for step in range(num_steps):
    student, teacher, logits = precision.cast(
      *(numbers[f'{x}_{step}'] for x in ('z_student', 'z_teacher', 'logits'))
    )
    trained = {'params': params, 'embedding': student, 'logits': logits}

    (total, (parts, embedding, statistics)), gradient = train_step(
      trained, statistics, teacher
    )

    classification, rsd = parts
    precision.check_loss(total, numbers[f'loss_total_{step}_64'])
    precision.check_loss(classification, numbers[f'loss_gt_{step}_64'])
    precision.check_loss(
      rsd, numbers[f'loss_total_{step}_64'] - numbers[f'loss_gt_{step}_64']
    )
    check_tree(
      gradient,
      {
        'params': kernels_of(numbers, f'grad_{{}}_{step}_64'),
        'embedding': numbers[f'grad_z_student_{step}_64'],
        'logits': numbers[f'grad_logits_{step}_64'],
      },
    )
    check_tree(statistics, statistics_of(numbers, f'{{}}_{step + 1}_64'))
    if source == 'shared':
      check_tree(embedding, numbers[f'out_train_{step}_64'])
  if source == 'shared':
    (student,) = precision.cast(numbers['z_student_0'])
    embedding = jax.jit(functools.partial(decoupler.apply, train=False))(
      {'params': params, 'batch_stats': statistics}, student
    )
    check_tree(embedding, numbers['out_eval_2_64'])
