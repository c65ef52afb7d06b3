from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from prunebench.errors import UserError
from prunebench.models.lenet import lenet5, lenet300_100, lenet_20_50_800_500


def test_published_sizes(count):
    # 784*300 + 300*100 + 100*10 weights and 410 biases
    assert count(lenet300_100, size=28, channels=1) == (266_200, 266_610)
    # the 431,080 parameters of Han et al. 2015, table 1 ("431K")
    assert count(lenet5, size=28, channels=1) == (2_293_000, 431_080)
    # the 1,071,880 parameters of jsanket12/SS_IG, SS_Gaussian_Node_Lenet.py:213
    assert count(lenet_20_50_800_500, size=28, channels=1) == (2_933_000, 1_071_880)


def test_lenet5_is_the_caffe_net():
    torch.manual_seed(0)
    net = lenet5()
    images = torch.rand(3, 1, 28, 28)
    x = F.max_pool2d(F.conv2d(images, net.conv1.weight, net.conv1.bias).clamp(min=0), 2)
    assert x.shape == (3, 20, 12, 12)
    x = F.max_pool2d(F.conv2d(x, net.conv2.weight, net.conv2.bias).clamp(min=0), 2)
    assert x.shape == (3, 50, 4, 4)
    x = (x.reshape(3, 800) @ net.fc1.weight.T + net.fc1.bias).clamp(min=0)
    torch.testing.assert_close(net(images), x @ net.fc2.weight.T + net.fc2.bias)


@pytest.mark.parametrize("size", [16, 17, 19, 28, 32])
def test_lenet5_fits_its_image_size(size):
    assert lenet5(image_size=size, in_channels=3, num_classes=7)(torch.rand(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize("size", [1, 8, 28])
def test_lenet300_100_fits_its_image_size(size):
    net = lenet300_100(image_size=size, in_channels=3, num_classes=7)
    assert net(torch.rand(2, 3, size, size)).shape == (2, 7)


def test_traceable(assert_traceable):
    assert_traceable(lenet5(), torch.rand(2, 1, 28, 28))
    assert_traceable(lenet300_100(image_size=8), torch.rand(2, 1, 8, 8))


@pytest.mark.parametrize("size", [8, 14, 15])
def test_too_small_images(size):
    with pytest.raises(UserError, match=rf"^lenet5 needs images of at least 16x16 pixels .* got {size}; use dataset"):
        lenet5(image_size=size)


@pytest.mark.parametrize("value", [0, -1, 2.5, "ten", True, None])
@pytest.mark.parametrize("name", ["num_classes", "in_channels", "image_size"])
def test_counts_are_positive_integers(name, value):
    with pytest.raises(UserError, match=rf"^{name} must be a whole number of at least 1, got"):
        lenet300_100(**{name: value})


def test_width_is_a_factor_of_all_hidden_layers(count):
    # 784-600-200-10 and 40-100-1000: products of neighbouring sizes, as by hand
    assert count(lambda **sizes: lenet300_100(width=2, **sizes), size=28, channels=1)[0] == 784 * 600 + 600 * 200 + 2000
    conv = 24 * 24 * 25 * 40 + 8 * 8 * 25 * 40 * 100
    assert count(lambda **sizes: lenet5(width=2, **sizes), size=28, channels=1)[0] == conv + 1600 * 1000 + 10_000
