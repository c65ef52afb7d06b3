"""LeNet-300-100 and LeNet-5, the two small nets of the pruning papers for MNIST, and one with two hidden layers.

LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, 1998. LeNet-5 is the
version of Caffe's MNIST example that Han et al. 2015 and later pruning papers use: 20-50-500-10, no padding,
max pooling. Caffe has a ReLU only after the 500 units; as in the later papers, here each hidden layer has
one. Jantre et al. 2023 have hidden layers of 800 and 500 units behind the convolutions, and pool before the activation.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.config.arguments import validated
from prunebench.config.ranges import PositiveInt
from prunebench.models import check_image_size
from prunebench.models.activations import ACTIVATIONS, Activation


class LeNet300100(nn.Module):
    """784-300-100-10 perceptron: 266,610 parameters and 266,200 MACs for MNIST.

    Args:
        num_classes, in_features: sizes of the last and the first layer.
        width: factor of both hidden layers.
    """

    def __init__(self, *, num_classes: int, in_features: int, width: int = 1) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, 300 * width)
        self.fc2 = nn.Linear(300 * width, 100 * width)
        self.fc3 = nn.Linear(100 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        x = F.relu(self.fc1(x.flatten(1)))
        x = F.relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits


class LeNet5(nn.Module):
    """20-50-500-10 convolutional net: 431,080 parameters and 2,293,000 MACs for MNIST.

    Args:
        num_classes, in_channels, image_size: of the pictures.
        width: factor of the three hidden layers.
    """

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int, width: int = 1) -> None:
        super().__init__()
        side = _side_after_convs(image_size)
        self.conv1 = nn.Conv2d(in_channels, 20 * width, kernel_size=5)
        self.conv2 = nn.Conv2d(20 * width, 50 * width, kernel_size=5)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(50 * width * side * side, 500 * width)
        self.fc2 = nn.Linear(500 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = F.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc2(x)
        return logits


class LeNet800500(nn.Module):
    """20-50-800-500-10 convolutional net: 1,071,880 parameters and 2,933,000 MACs for MNIST."""

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int, activation: str) -> None:
        super().__init__()
        side = _side_after_convs(image_size)
        self.activation = ACTIVATIONS[activation]
        self.conv1 = nn.Conv2d(in_channels, 20, kernel_size=5)
        self.conv2 = nn.Conv2d(20, 50, kernel_size=5)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(50 * side * side, 800)
        self.fc2 = nn.Linear(800, 500)
        self.fc3 = nn.Linear(500, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        x = self.activation(self.pool(self.conv1(x)))
        x = self.activation(self.pool(self.conv2(x)))
        x = self.activation(self.fc1(x.flatten(1)))
        x = self.activation(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits


def _side_after_convs(image_size: int) -> int:
    """Side of the last maps: twice a 5x5 convolution without padding and a 2x2 pooling."""
    return ((image_size - 4) // 2 - 4) // 2


_WHY = "two 5x5 convolutions without padding, each followed by a pooling"


@validated
def lenet300_100(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 1,
    image_size: PositiveInt = 28,
    width: PositiveInt = 1,
) -> LeNet300100:
    """LeNet-300-100; its first layer has ``in_channels * image_size ** 2`` inputs. Raises ``UserError``."""
    return LeNet300100(num_classes=num_classes, in_features=in_channels * image_size**2, width=width)


@validated
def lenet5(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 1,
    image_size: PositiveInt = 28,
    width: PositiveInt = 1,
) -> LeNet5:
    """LeNet-5 as in Caffe, for images of at least 16x16 pixels. Raises ``UserError``."""
    check_image_size("lenet5", image_size, smallest=16, why=_WHY)
    return LeNet5(num_classes=num_classes, in_channels=in_channels, image_size=image_size, width=width)


@validated
def lenet_20_50_800_500(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 1,
    image_size: PositiveInt = 28,
    activation: Activation = "silu",
) -> LeNet800500:
    """LeNet with hidden layers of 800 and 500 units, for images of at least 16x16 pixels. Raises ``UserError``."""
    check_image_size("lenet_20_50_800_500", image_size, smallest=16, why=_WHY)
    return LeNet800500(num_classes=num_classes, in_channels=in_channels, image_size=image_size, activation=activation)
