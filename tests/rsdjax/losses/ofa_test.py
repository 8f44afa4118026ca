import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsdjax import losses
from rsdjax.losses import ConvProjector, TokenProjector

# Position in a stack of the reference -> our name.
SEPARABLE = {
  'op.0': 'depthwise0',
  'op.1': 'pointwise0',
  'op.2': 'norm0',
  'op.4': 'depthwise1',
  'op.5': 'pointwise1',
  'op.6': 'norm1',
}
BLOCK = {
  'norm1': 'norm0',
  'attn.qkv': 'qkv',
  'attn.proj': 'project',
  'norm2': 'norm1',
  'mlp.fc1': 'mlp/expand',
  'mlp.fc2': 'mlp/project',
}
STATISTICS = {'running_mean': 'mean', 'running_var': 'var'}


def our_module(path, stack_size):
  """Our name of a module of the reference's stack, `0.op.1` say."""
  first, *rest = path.split('.')
  rest = '.'.join(rest)
  if rest in SEPARABLE:
    return f'block{first}/{SEPARABLE[rest]}'
  if rest.startswith('fn.'):  # Patch mergings: fn.0.norm, fn.0.reduction.
    _, i, layer = rest.split('.')
    return f'merge{i}/' + {'norm': 'norm', 'reduction': 'reduce'}[layer]
  if rest:  # Transformer blocks: 1.0.attn.qkv.
    i, layer = rest.split('.', 1)
    return f'block{i}/{BLOCK[layer]}'
  return 'classifier' if int(first) == stack_size else 'widen'


def our_leaf(name, value):
  """Our collection, name and layout of a parameter."""
  if name in STATISTICS:
    return 'batch_stats', STATISTICS[name], value
  if name == 'bias':
    return 'params', 'bias', value
  if value.ndim == 4:
    return 'params', 'kernel', value.transpose(2, 3, 1, 0)
  if value.ndim == 2:
    return 'params', 'kernel', value.T
  return 'params', 'scale', value


def variables_of(numbers, stage, kind='param', dtype=None):
  """Variables of one projector from names such as `param_1.0.op.2.bias`."""
  prefix = f'{kind}_{stage}.'
  named = {
    key.removeprefix(prefix): value
    for key, value in numbers.items()
    if key.startswith(prefix)
  }
  last = max(int(key.split('.')[0]) for key in named)
  variables = {}
  for key, value in named.items():
    module, leaf = key.rsplit('.', 1)
    collection, name, value = our_leaf(leaf, value)
    node = variables.setdefault(collection, {})
    for part in our_module(module, last).split('/'):
      node = node.setdefault(part, {})
    node[name] = value if dtype is None else value.astype(dtype)
  return variables


def projector_of(numbers, name, stage):
  """The projector that the reference gives a student's stage."""
  student_dim, teacher_dim = map(int, numbers['feature_dim_student_teacher'])
  num_classes = numbers['teacher_logits'].shape[1]
  if name == 'ofa_cnn':
    return ConvProjector(stage, max(student_dim, teacher_dim), num_classes)
  prefix_tokens = 1 if name == 'ofa_tokens_cls' else 0
  return TokenProjector(stage, student_dim, num_classes, prefix_tokens)


def to_ours(feature):
  """Maps become channel-last, tokens stay."""
  return feature.transpose(0, 2, 3, 1) if feature.ndim == 4 else feature


@pytest.mark.parametrize(
  'name, stage',
  [('ofa_cnn', stage) for stage in (1, 2, 3, 4)]
  + [('ofa_tokens_cls', stage) for stage in (1, 4)]
  + [('ofa_tokens_pyramid', stage) for stage in (1, 2, 3, 4)],
)
def test_branch_matches_the_reference(name, stage, golden, precision):
  numbers = golden(f'rsd/{name}.npz')
  projector = projector_of(numbers, name, stage)
  variables = variables_of(numbers, stage, dtype=precision.dtype)
  feature, teacher_logits = precision.cast(
    to_ours(numbers[f'feat_stage{stage}']), numbers['teacher_logits']
  )
  options = {'train': True} if name == 'ofa_cnn' else {}
  exponent = numbers['eps'][list(numbers['stages']).index(stage)]

  @jax.jit
  def branch(feature):
    def loss_fn(feature):
      logits, updates = projector.apply(
        variables, feature, **options, mutable=['batch_stats']
      )
      per_example = losses.ofa_loss(
        logits,
        teacher_logits,
        numbers['labels'],
        exponent=float(exponent),
        temperature=float(numbers['temperature']),
      )
      return per_example.mean(), (logits, updates)

    return jax.grad(loss_fn, has_aux=True)(feature)

  gradient, (logits, updates) = branch(feature)

  # The softmax of attention is float32 in float64 too.
  tolerance = max(precision.gradient_rtol, 5e-7)

  def check(actual, expected):
    np.testing.assert_allclose(
      actual, expected, rtol=0, atol=tolerance * np.abs(expected).max()
    )

  check(logits, numbers[f'head_logits_stage{stage}_64'])
  check(gradient, to_ours(numbers[f'grad_feat_stage{stage}_32']))
  if any(key.startswith(f'after_{stage}.') for key in numbers):
    jax.tree.map(check, updates, variables_of(numbers, stage, kind='after'))


@pytest.mark.parametrize(
  'name', ['ofa_cnn', 'ofa_tokens_cls', 'ofa_tokens_pyramid']
)
@pytest.mark.parametrize('precision', ['float64'], indirect=True)
def test_whole_objective_matches_the_reference(name, golden, precision):
  numbers = golden(f'rsd/{name}.npz')
  student_logits, teacher_logits = precision.cast(
    numbers['student_logits'], numbers['teacher_logits']
  )
  target, labels = numbers['target'], numbers['labels']

  branch_logits = precision.cast(
    *(numbers[f'head_logits_stage{stage}_64'] for stage in numbers['stages'])
  )

  def ofa(logits, exponent):
    return losses.ofa_loss(
      logits,
      teacher_logits,
      # A soft target counts by its largest class.
      target if target.ndim == 2 else labels,
      exponent=float(exponent),
      temperature=float(numbers['temperature']),
    ).mean()

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def objective(student_logits):
    classification = losses.cross_entropy(
      student_logits, target, label_smoothing=0.1 if target.ndim == 1 else 0.0
    ).mean()
    own = ofa(student_logits, numbers['eps'][-1])
    branches = sum(map(ofa, branch_logits, numbers['eps'][:-1]))
    branches *= float(numbers['ofa_loss_weight'])
    return classification + own + branches, (classification, own, branches)

  (_, parts), gradient = objective(student_logits)

  for part, name in zip(parts, ('gt', 'kd', 'ofa'), strict=True):
    precision.check_loss(part, numbers[f'loss_{name}_64'])
  precision.check_gradient(gradient, numbers['grad_student_logits_64'])


# Stage shapes of the students, at 224 x 224.
RESNET18 = [(56, 56, 64), (28, 28, 128), (14, 14, 256), (7, 7, 512)]
MOBILENETV2 = [(56, 56, 24), (28, 28, 32), (14, 14, 96), (7, 7, 1280)]
DEIT_TINY = [(197, 192)] * 4
SWIN_PICO = [(3136, 48), (784, 96), (196, 192), (49, 384)]
SWIN_NANO = [(3136, 64), (784, 128), (196, 256), (49, 512)]
RESMLP = [(196, 384)] * 4


@pytest.mark.parametrize(
  'stages, student_dim, teacher_dim, num_classes, count',
  [
    (RESNET18, 512, 768, 100, 1_626_256),
    (RESNET18, 512, 384, 100, 1_194_384),
    (MOBILENETV2, 1280, 768, 100, 2_529_296),
    (DEIT_TINY, 192, 768, 100, 3_783_184),
    (SWIN_PICO, 384, 768, 100, 14_864_656),
    (RESMLP, 384, 768, 100, 14_938_768),
    (SWIN_NANO, 512, 768, 1000, 28_187_040),
    (RESMLP, 384, 768, 1000, 16_324_768),
    (RESNET18, 512, 192, 1000, 3_041_184),
    (DEIT_TINY, 192, 2048, 1000, 4_477_984),
  ],
)
def test_parameter_counts(stages, student_dim, teacher_dim, num_classes, count):
  def init(features):
    variables = []
    for stage, feature in enumerate(features, 1):
      if feature.ndim == 4:
        projector = ConvProjector(
          stage, max(student_dim, teacher_dim), num_classes
        )
        arguments = {'train': True}
      else:
        prefix_tokens = 1 if stages is DEIT_TINY else 0
        projector = TokenProjector(
          stage, student_dim, num_classes, prefix_tokens
        )
        arguments = {}
      variables.append(
        projector.init(jax.random.key(0), feature, **arguments)['params']
      )
    return variables

  features = [jax.ShapeDtypeStruct((2, *s), jnp.float32) for s in stages]
  params = jax.tree.leaves(jax.eval_shape(init, features))
  assert sum(math.prod(x.shape) for x in params) == count


def initialise(projector, shape, **options):
  init = jax.jit(functools.partial(projector.init, **options))
  return init(jax.random.key(0), jnp.ones((2, *shape)))


def test_initialisation_of_convolutions():
  projector = ConvProjector(3, 256, 10)
  params = initialise(projector, (4, 4, 128), train=True)['params']
  # Kaiming normal over the fan-out: kernel area times outputs.
  np.testing.assert_allclose(
    params['block0']['pointwise1']['kernel'].std(), (2 / 256) ** 0.5, rtol=0.02
  )
  np.testing.assert_allclose(
    params['block0']['depthwise0']['kernel'].std(),
    (2 / (9 * 128)) ** 0.5,
    rtol=0.1,
  )
  last = ConvProjector(4, 256, 10)
  params = initialise(last, (4, 4, 128), train=True)['params']
  bias = np.abs(params['widen']['bias'])
  assert 0.9 * 128**-0.5 < bias.max() <= 128**-0.5


def test_initialisation_of_linear_layers():
  params = initialise(TokenProjector(4, 64, 10), (196, 64))['params']
  for path, value in jax.tree_util.tree_leaves_with_path(params):
    match path[-1].key:
      case 'kernel':
        np.testing.assert_allclose(value.std(), 0.02, rtol=0.1)
      case 'bias':
        np.testing.assert_array_equal(value, 0)
      case 'scale':
        np.testing.assert_array_equal(value, 1)


@pytest.mark.parametrize(
  'projector, shape, options',
  [
    (ConvProjector, (8, 8, 6), {'train': True}),
    (TokenProjector, (16, 8), {}),
  ],
)
def test_projectors_compute_in_bfloat16(projector, shape, options):
  feature = np.random.default_rng(0).normal(size=(4, *shape)).astype('f')
  variables = initialise(projector(3, 8, 10), shape, **options)

  @functools.partial(jax.jit, static_argnums=0)
  def classify(dtype):
    return projector(3, 8, 10, dtype=dtype).apply(
      variables, feature, **options, mutable=['batch_stats']
    )[0]

  expected, out = classify(None), classify(jnp.bfloat16)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    np.float32(out), expected, rtol=0, atol=0.05 * np.abs(expected).max()
  )


def test_running_statistics_serve_in_evaluation():
  feature = np.random.default_rng(0).normal(size=(4, 8, 8, 6)).astype('f')
  projector = ConvProjector(3, 8, 10)
  variables = initialise(projector, (8, 8, 6), train=True)
  classify = jax.jit(functools.partial(projector.apply, train=False))
  together = classify(variables, feature)
  alone = classify(variables, feature[:1])
  np.testing.assert_allclose(alone, together[:1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  'stage, features, prefix_tokens, shape, message',
  [
    (4, 8, 0, (197, 8), r'tokens \[2, 197, 8\] do not form a square'),
    (4, 8, 0, (49, 4), r'unmerged tokens \[2, 49, 4\] must be 8 wide'),
    (1, 8, 1, (197, 4), r'unmerged tokens \[2, 1, 4\] must be 8 wide'),
    (1, 8, 0, (225, 8), '15 is not a multiple of 2'),
    (4, 6, 0, (49, 6), 'features 6 must be a multiple of 4'),
    (5, 8, 0, (49, 8), 'stage 5 must be 1, 2, 3 or 4'),
    (4, 8, 0, (7, 7, 8), r'tokens float32\[2, 7, 7, 8\] must have 3 axes'),
  ],
)
def test_tokens_that_do_not_fit_raise(
  stage, features, prefix_tokens, shape, message
):
  projector = TokenProjector(stage, features, 10, prefix_tokens)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(projector.init, jax.random.key(0), jnp.ones((2, *shape)))


@pytest.mark.parametrize(
  'stage, shape, message',
  [
    (1, (49, 8), r'feature_map float32\[2, 49, 8\] must have 4 axes'),
    (0, (7, 7, 8), 'stage 0 must be 1, 2, 3 or 4'),
  ],
)
def test_maps_that_do_not_fit_raise(stage, shape, message):
  projector = ConvProjector(stage, 8, 10)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
      functools.partial(projector.init, train=True),
      jax.random.key(0),
      jnp.ones((2, *shape)),
    )
