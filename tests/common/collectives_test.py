"""Collectives, read from hand-made programs and from a compiled one."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from common import collectives, distributed
from common.collectives import Collective

PROGRAM = """
HloModule jit_step, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %all-reduce = (f32[8]{0}, f32[4,8]{1,0}, f32[8]{0}, f32[], f32[], \
/*index=5*/bf16[3]{0:T(8,128)(2,1)S(1)}) all-reduce(%a, %b, %c, %d, %e, \
/*index=5*/%f), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  %first = f32[8]{0} get-tuple-element(%all-reduce), index=0, \
metadata={op_name="jit(step)/all-reduce(f32[9])"}
  %reduced = f32[2,3] all-reduce-start(f32[2,3] %first), to_apply=%add
  %end = f32[2,3] all-reduce-done(f32[2,3] %reduced)
  %gathered = f32[4,8]{0,1} all-gather(%first), channel_id=2, \
replica_groups=mesh['axis_0'=8] {'axis_0'}, dimensions={1}
  %gathering = (f32[1,8]{1,0}, f32[2,8]{1,0}) all-gather-start(%first)
  %gathered.1 = f32[2,8]{1,0} all-gather-done(%gathering)
  %both = ((s8[4], u8[4]), (s8[8], u8[8])) all-gather-start(%y, %z)
  %sent = (pred[5]{0}, pred[5]{0}, u32[], u32[]) \
collective-permute-start(%first), source_target_pairs={{0,1}}
  %scattering = ((f32[64]{0}), f32[8]{0}) reduce-scatter-start(%w)
  %parts = (s4[3,1], s4[3,1]) all-to-all(%u, %v), dimensions={0}
  ROOT %fusion = f32[8]{0} fusion(%all-gather.1), calls=%add
}
"""


def test_hand_made_program():
  assert collectives.collectives(PROGRAM) == [
    Collective('all-reduce', 'f32', (4, 8), 1, 128),
    Collective('all-reduce', 'f32', (8,), 2, 64),
    Collective('all-reduce', 'f32', (2, 3), 1, 24),
    Collective('all-reduce', 'f32', (), 2, 8),
    Collective('all-reduce', 'bf16', (3,), 1, 6),
    Collective('all-gather', 'f32', (4, 8), 1, 128),
    Collective('all-gather', 'f32', (2, 8), 1, 64),
    Collective('all-gather', 's8', (8,), 1, 8),
    Collective('all-gather', 'u8', (8,), 1, 8),
    Collective('reduce-scatter', 'f32', (8,), 1, 32),
    Collective('all-to-all', 's4', (3, 1), 2, 4),
    Collective('collective-permute', 'pred', (5,), 1, 5),
  ]


def test_table_and_totals():
  found = collectives.collectives(PROGRAM)
  assert collectives.total_bytes(found, 'all-reduce') == 230
  assert collectives.table(found).splitlines() == [
    '| collective | arrays | bytes per device |',
    '|---|---|---|',
    '| all-reduce | 7 | 230 |',
    '| all-gather | 4 | 208 |',
    '| reduce-scatter | 1 | 32 |',
    '| all-to-all | 2 | 4 |',
    '| collective-permute | 1 | 5 |',
  ]


@pytest.mark.parametrize('text', ['', 'ROOT %y = f32[8]{0} add(%x, %x)'])
def test_programs_without_any(text):
  assert collectives.collectives(text) == []
  assert collectives.total_bytes([], 'all-reduce') == 0


def test_compiled_program():
  mesh = distributed.make_mesh(jax.devices()[:4])
  rows = PartitionSpec(distributed.AXIS_NAME)

  def exchange(x):
    everywhere = jax.lax.all_gather(x, distributed.AXIS_NAME, tiled=True)
    return everywhere[:2] + x, jax.lax.psum(x, distributed.AXIS_NAME)

  mapped = jax.shard_map(
    exchange, mesh=mesh, in_specs=rows, out_specs=(rows, PartitionSpec())
  )
  text = jax.jit(mapped).lower(jnp.zeros((8, 3))).compile().as_text()
  assert collectives.collectives(text) == [
    Collective('all-reduce', 'f32', (2, 3), 1, 24),
    Collective('all-gather', 'f32', (8, 3), 1, 96),
  ]
