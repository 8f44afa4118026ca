import jax
import jax.numpy as jnp
import numpy as np

from rsdjax.losses import LinearEmbedding


def test_maps_to_the_common_width_from_a_uniform_start():
  embedding = jnp.ones((2, 400))
  out, variables = jax.jit(LinearEmbedding().init_with_output)(
    jax.random.key(0), embedding
  )
  layer = variables['params']['linear']
  np.testing.assert_allclose(
    out, embedding @ layer['kernel'] + layer['bias'][None], rtol=1e-5
  )
  assert out.shape == (2, 128)
  for values in layer.values():  # Within 1 / sqrt(fan-in).
    assert 0.045 < np.abs(values).max() <= 0.05
