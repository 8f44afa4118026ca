"""Steps as the compiler sees them: work, collectives, compilations, transfers.

Networks are tiny, and nothing hangs on the values. BRN takes long to compile,
so it is compiled on eight devices alone. `pytest -s` shows the collectives.
"""

import collections
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import coic.encoder
import coic.models
import coic.train
import rsdjax.train
import trnr.models
import trnr.train
from common import collectives, cost, distributed, steps
from common.layers import BatchNorm
from common.train_state import TrainState
from rsdjax import distillers, experiment
from rsdjax.losses.rsd import cheaper_collective

# Seconds of the compiler, as they come.
COMPILATIONS: list[float] = []


def note_compilation(event: str, seconds: float, **_: Any) -> None:
  if event == '/jax/core/compile/backend_compile_duration':
    COMPILATIONS.append(seconds)


jax.monitoring.register_event_duration_secs_listener(note_compilation)

AXIS = distributed.AXIS_NAME
COUNTS = (1, 2, 4, 8)
TX = optax.adam(1e-3)
ROWS = 32
KEY = jax.random.key(0)


class Case(NamedTuple):
  """A step to look at.

  Attributes:
    step: of one device.
    state: before the first step.
    batch: NumPy arrays, of all devices.
    constants: what the step takes besides.
    sums: numbers that devices add up beside gradients and statistics.
    twins: parameters whose gradient another parameter has too, so that XLA
      sends it once.
  """

  step: steps.Step
  state: TrainState
  batch: Any
  constants: tuple[Any, ...] = ()
  sums: int = 0
  twins: int = 0


class Network(nn.Module):
  """A few numbers of each picture, through BatchNorm or LayerNorm."""

  width: int
  batch_norm: bool

  @nn.compact
  def __call__(self, images, *, train=False, features=False):
    x = nn.Conv(4, (3, 3))(images)
    x = nn.Dense(self.width)(x.reshape(len(x), -1))
    x = BatchNorm()(x, train=train) if self.batch_norm else nn.LayerNorm()(x)
    x = jnp.tanh(x)
    logits = nn.Dense(4)(x)
    return {'logits': logits, 'embedding': x} if features else logits


def filled(make: Callable[[], TrainState]) -> TrainState:
  """A state of that shape, without running initialisers."""
  rng = np.random.default_rng(0)

  def fill(x: jax.ShapeDtypeStruct) -> Any:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      return KEY
    if jnp.issubdtype(x.dtype, jnp.floating):
      return jnp.asarray(rng.uniform(0, 0.1, x.shape), x.dtype)
    return jnp.zeros(x.shape, x.dtype)

  return jax.tree.map(fill, jax.eval_shape(make))


def pictures(*shape: int) -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def rsd(statistics: str, dim: int, **options: Any) -> Case:
  student, teacher = Network(6, batch_norm=True), Network(dim, batch_norm=False)
  teacher_variables = teacher.init(KEY, jnp.zeros((2, 8, 8, 3)))
  distiller = distillers.create(
    'rsd', axis_name=AXIS, rsd={'weight': 0.5, 'statistics': statistics}
  )
  state = filled(
    lambda: experiment.create_train_state(
      KEY,
      student,
      teacher,
      distiller,
      TX,
      image_shape=(8, 8, 3),
      teacher_variables=teacher_variables,
    )
  )
  step = rsdjax.train.make_train_step(
    student,
    teacher,
    distiller,
    TX,
    mean=(0.5,) * 3,
    std=(0.2,) * 3,
    axis_name=AXIS,
    **options,
  )
  label = np.arange(ROWS, dtype=np.int32) % 4
  batch = {'image': pictures(ROWS, 8, 8), 'label': label}
  return Case(step, state, batch, (teacher_variables,), sums=3)


def brn() -> Case:
  network = coic.models.create(
    'brn',
    iterations=1,
    features=4,
    rain_blocks=1,
    background_blocks=1,
    embedding_features=8,
  )
  encoder = coic.encoder.Encoder(features=4, embedding_features=8)

  def make() -> TrainState:
    image = jnp.zeros((1, 16, 16, 3))
    of_network = network.init(KEY, image)
    of_encoder = encoder.init(KEY, image)
    return TrainState.create(
      params={
        'network': of_network.pop('params'),
        'encoder': of_encoder['params'],
      },
      model_state={
        'network': of_network,
        'encoder': {'batch_stats': of_encoder['batch_stats']},
        'momentum_encoder': of_encoder,
      },
      tx=TX,
      rng=KEY,
    )

  step = coic.train.make_train_step(
    network, encoder, TX, num_negatives=2, axis_name=AXIS
  )
  names = ('input', 'target', 'whole_input', 'whole_target')
  batch = {name: pictures(ROWS, 16, 16) for name in names}
  # In three blocks of the encoder, the two branches end in norms whose shifts
  # are added.
  return Case(step, filled(make), batch, sums=3, twins=8 + 16 + 32)


def msresnet() -> Case:
  network = trnr.models.create(
    'msresnet', features=4, stages=1, multi_scale=False, block='concatenating'
  )

  def make() -> TrainState:
    variables = network.init(KEY, jnp.zeros((1, 12, 12, 3)))
    params = variables['params']
    return TrainState.create(
      params={'network': params},
      model_state={
        'network': {'batch_stats': variables['batch_stats']},
        'inner_learning_rates': jax.tree.map(lambda _: jnp.ones(()), params),
      },
      tx=TX,
      rng=KEY,
    )

  # All tasks at once: XLA counts the body of a loop over tasks only once.
  step = trnr.train.make_task_step(
    network, TX, over_tasks='vmap', axis_name=AXIS
  )
  batch = {'input': pictures(8, 2, 12, 12), 'target': pictures(8, 2, 12, 12)}
  state = filled(make)
  statistics = jax.tree.leaves(state.model_state['network'])
  # Those after all tasks, and losses by inner step, are sums already.
  sums = 3 + 2 * 2 + sum(x.size for x in statistics)
  return Case(step, state, {'support': batch, 'query': batch}, sums=sums)


CASES = {
  # Fewer numbers in an embedding than rows in the part of a device: else the
  # loss of a device takes another way, whose work is no share of the whole.
  'rsd': functools.partial(rsd, 'per_device', 2),
  'rsd in parts': functools.partial(rsd, 'per_device', 2, accumulation_steps=2),
  'rsd, correlation': functools.partial(rsd, 'global', 5),
  'rsd, gather': functools.partial(rsd, 'global', 64),
  'brn': brn,
  'msresnet': msresnet,
}
make_case = functools.cache(lambda name: CASES[name]())


class Mapped(NamedTuple):
  """A step on a mesh: what it takes, where it should lie, and its traces."""

  step: Callable[..., Any]
  arguments: tuple[Any, ...]
  traces: list[None]


@functools.cache
def mapped(
  name: str,
  devices: int,
  *,
  parallelism: str = 'shard_map',
  shard_optimizer: bool = False,
) -> Mapped:
  case = make_case(name)
  mesh = distributed.make_mesh(jax.devices()[:devices])
  traces: list[None] = []

  def find(*arguments: Any) -> steps.Found:
    traces.append(None)
    return case.step.find(*arguments)

  step = steps.map_step(
    steps.Step(find, case.step.update),
    mesh,
    parallelism=parallelism,
    shard_optimizer=shard_optimizer,
  )
  arguments = (
    distributed.place(case.state, mesh, shard_optimizer=shard_optimizer),
    distributed.shard_batch(case.batch, mesh, parallelism),
    *distributed.replicate(case.constants, mesh),
  )
  return Mapped(step, arguments, traces)


@functools.cache
def compiled(name: str, devices: int, shard_optimizer: bool = False) -> Any:
  step, arguments, _ = mapped(name, devices, shard_optimizer=shard_optimizer)
  return step.lower(*arguments).compile()


@functools.cache
def exchanged(
  name: str, devices: int, shard_optimizer: bool = False
) -> list[collectives.Collective]:
  text = compiled(name, devices, shard_optimizer).as_text()
  found = collectives.collectives(text)
  kind = ', optimiser sharded' if shard_optimizer else ''
  print(f'\n{name}, {devices} devices{kind}\n{collectives.table(found)}')
  return found


def numbers(tree: Any) -> int:
  return sum(x.size for x in jax.tree.leaves(tree))


def bytes_to_average(name: str) -> int:
  """Gradients, BatchNorm's statistics and terms, of 4 bytes a number."""
  case = make_case(name)
  statistics = [x.get('batch_stats') for x in case.state.model_state.values()]
  together = numbers((case.state.params, statistics))
  return 4 * (together - case.twins + case.sums)


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=pytest.mark.slow) if name == 'brn' else name
    for name in CASES
  ],
)
def test_multiply_adds_are_shared_out(name):
  # Of the jaxpr of one device: convolutions and matrix products, of which the
  # optimiser has none, so that they divide without a rest.
  each = []
  for devices in COUNTS:
    step, arguments, _ = mapped(name, devices)
    each.append(devices * cost.multiply_adds(step, *arguments))
  assert each[0] > 0
  assert each == each[:1] * len(COUNTS)


@pytest.mark.parametrize(
  'name', ['rsd', pytest.param('msresnet', marks=pytest.mark.slow)]
)
def test_compiled_work_is_shared_out(name):
  # XLA's own count, of everything. Work on parameters stays, that on examples
  # falls: what two counts of devices tell of the two must hold for a third.
  # XLA fuses each shape in its own way, and counts what it computes twice.
  one, two, eight = (
    compiled(name, n).cost_analysis()['flops'] for n in (1, 2, 8)
  )
  examples = 2 * (one - two)
  parameters = one - examples
  assert 0 <= parameters < 0.05 * one
  assert eight == pytest.approx(parameters + examples / 8, rel=0.05)


@pytest.mark.parametrize(
  ('name', 'devices'),
  [
    ('rsd', 2),
    ('rsd', 8),
    ('rsd in parts', 8),
    pytest.param('brn', 8, marks=pytest.mark.slow),
    ('msresnet', 2),
    ('msresnet', 8),
  ],
)
def test_gradients_statistics_and_terms_cross_once(name, devices):
  found = exchanged(name, devices)
  assert {x.kind for x in found} == {'all-reduce'}
  assert collectives.total_bytes(found, 'all-reduce') == bytes_to_average(name)


@pytest.mark.parametrize('dim', [5, 64])
def test_global_loss_takes_the_cheaper_collective(dim):
  way = cheaper_collective(ROWS, dim)
  found = exchanged(f'rsd, {way}', 8)
  sent = {
    kind: collectives.total_bytes(found, kind) // 4
    for kind in collectives.KINDS
  }
  # Sums over the examples: of the columns of both embeddings for the two means,
  # the deviation and the diagonal, and three for the gradient of the student's;
  # the decoupler's norm, which is global too, has two, and three.
  sums = bytes_to_average(f'rsd, {way}') // 4 + 10 * dim + 5 * 12
  if way == 'correlation':
    assert dim == 5
    sums += dim * dim
    gathered, scattered = 0, 0
  else:
    assert dim == 64
    gathered, scattered = 2 * ROWS * dim, ROWS // 8 * dim
  assert 0 <= sent.pop('all-reduce') - sums <= 3  # Scalars.
  assert sent == {
    'all-gather': gathered,
    'reduce-scatter': scattered,
    'all-to-all': 0,
    'collective-permute': 0,
  }


def test_sharded_optimiser_gathers_its_parameters_alone():
  found = exchanged('rsd', 8, shard_optimizer=True)
  assert [x for x in found if x.kind == 'all-reduce'] == exchanged('rsd', 8)
  others = {x.shape: x.number for x in found if x.kind != 'all-reduce'}
  shapes = [x.shape for x in jax.tree.leaves(make_case('rsd').state.params)]
  divided = [x for x in shapes if any(side % 8 == 0 for side in x)]
  assert {x.kind for x in found} == {'all-reduce', 'all-gather'}
  assert others == collections.Counter(divided)


@pytest.mark.parametrize(
  ('name', 'options'),
  [
    ('rsd', {}),
    ('rsd', {'shard_optimizer': True}),
    ('rsd', {'parallelism': 'pmap'}),
    pytest.param('brn', {}, marks=pytest.mark.slow),
    ('msresnet', {}),
    ('msresnet', {'parallelism': 'pmap'}),
  ],
)
def test_one_trace_one_compilation_no_transfers(name, options):
  step, (state, *rest), traces = mapped(name, 8, **options)
  # The batch of pmap lies on the host.
  guard = 'allow' if 'parallelism' in options else 'disallow'
  before, history = len(COMPILATIONS), []
  with jax.transfer_guard(guard):
    for _ in range(4):
      state, metrics = step(state, *rest)
      history.append(len(COMPILATIONS) - before)
  assert int(state.step) == 4 and np.isfinite(metrics['loss'])
  assert len(traces) == 1
  # None but the first step's, if no other test has compiled it before.
  assert history[0] <= 1 and history == history[:1] * 4


def test_the_guard_sees_a_batch_on_the_host():
  step, (state, _, *constants), _ = mapped('rsd', 8)
  with (
    jax.transfer_guard('disallow'),
    pytest.raises(Exception, match='Disallowed host-to-device transfer'),
  ):
    step(state, make_case('rsd').batch, *constants)
