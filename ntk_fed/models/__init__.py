"""Networks of the theory as ordinary modules. A user's own works wherever they do."""

from ntk_fed.models.activations import SmoothLeakyReLU
from ntk_fed.models.linear import Linear, SharedRepresentation
from ntk_fed.models.pyramid import Pyramid
from ntk_fed.models.relu import MLP, TwoLayerReLU, on_the_sphere
from ntk_fed.models.vision import LeNet, ResNet18

__all__ = [
    "MLP",
    "LeNet",
    "Linear",
    "Pyramid",
    "ResNet18",
    "SharedRepresentation",
    "SmoothLeakyReLU",
    "TwoLayerReLU",
    "on_the_sphere",
]
