"""Our networks against timm itself, where timm is installed (`-m slow`)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsdjax import convert, models

pytestmark = pytest.mark.slow

torch = pytest.importorskip('torch')
timm = pytest.importorskip('timm')

NAMES = [name for name in models.names() if timm.is_model(name)]
NAMING = '0.6.5' if timm.__version__.startswith('0.') else 'current'
# What no converter sets: counters, and buffers that timm builds itself.
BUFFERS = ('num_batches_tracked', 'relative_position_index', 'attn_mask')


@pytest.mark.parametrize('name', NAMES)
def test_outputs_and_names(name):
  torch.manual_seed(0)
  theirs = timm.create_model(name, pretrained=False).eval()
  with torch.no_grad():  # So that no layer scale or classifier is 0.
    for key, tensor in theirs.state_dict().items():
      if not key.endswith(BUFFERS):
        tensor += 0.02 * torch.rand_like(tensor) - 0.01
  embeddings = []  # What enters the classifier.
  theirs.get_classifier().register_forward_pre_hook(
    lambda module, inputs: embeddings.append(inputs[0])
  )
  images = torch.randn(2, 3, 224, 224)
  with torch.no_grad():
    logits = theirs(images)
  state_dict = {k: x.numpy() for k, x in theirs.state_dict().items()}

  variables = convert.from_timm(name, state_dict)
  ours = jax.jit(models.create(name).apply, static_argnames='features')(
    variables, jnp.asarray(images.permute(0, 2, 3, 1).numpy()), features=True
  )
  for actual, desired in [
    (ours['embedding'], embeddings[0].detach().numpy()),
    (ours['logits'], logits.numpy()),
  ]:
    scale = np.abs(desired).max()
    np.testing.assert_allclose(actual, desired, rtol=0, atol=1e-4 * scale)

  back = convert.to_timm(name, variables, naming=NAMING)
  weights = {k for k in state_dict if not k.endswith(BUFFERS)}
  assert back.keys() == weights
  for key in weights:
    np.testing.assert_array_equal(back[key], state_dict[key])
