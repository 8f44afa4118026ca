"""Networks that restore images."""

from trnr.models.adn import ADN
from trnr.models.ddn import DDN
from trnr.models.msresnet import DNNet, MSResNet
from trnr.models.network import RestorationNetwork
from trnr.models.registry import create, names

__all__ = [
  'ADN',
  'DDN',
  'DNNet',
  'MSResNet',
  'RestorationNetwork',
  'create',
  'names',
]
