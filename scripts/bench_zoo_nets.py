"""The nets of bench_zoo.py: name -> how it and a batch of inputs are made."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Made = tuple[nn.Module, Tensor]

PYTORCHCV = """
    alexnet zfnet vgg11 bn_vgg16 resnet10 resnet18 resnet50 resnetbc14b preresnet18 preresnet50 resnext14_32x4d
    seresnet10 sepreresnet18 seresnext50_32x4d senet16 cbam_resnet18 bam_resnet18 resneta10 resnetd50b
    resattnet56 sknet50 diaresnet10 airnet50_1x64d_r2 densenet121 condensenet74_c4_g4 sparsenet121 peleenet
    wrn50_2 drnc26 dpn68 darknet_ref darknet53 darknet19 irevnet301 bagnet9 dla34 hrnet_w18_small_v1 vovnet27s
    selecsls42b hardnet39ds squeezenet_v1_0 squeezeresnet_v1_1 sqnxt23_w1 shufflenet_g1_wd4 shufflenetv2_wd2
    menet108_8x1_g3 mobilenet_wd4 fdmobilenet_wd4 mobilenetv2_wd4 mobilenetv3_small_w1 igcv3_wd4 ghostnet
    mnasnet_a1 spnasnet proxylessnas_mobile fbnet_cb xception inceptionv3 inceptionv4 inceptionresnetv2 polynet
    nasnet_4a1056 regnetx002 regnety002 efficientnet_b0 mixnet_s resnet20_cifar10 preresnet20_cifar10
    wrn16_10_cifar10 ror3_56_cifar10 shakeshakeresnet20_2x16d_cifar10 pyramidnet110_a48_cifar10
    densenet40_k12_cifar10 xdensenet40_2_k24_bc_cifar10 nin_cifar10 resnext20_32x2d_cifar10
"""

TIMM = """
    resnet18 resnet50d resnetv2_50 seresnet50 res2net50_26w_4s resnext50_32x4d regnetx_004 regnety_004
    efficientnet_b0 mobilenetv3_small_100 mobilenetv4_conv_small mnasnet_100 ghostnet_100 repvgg_a0 rexnet_100
    convnext_atto convnextv2_atto vit_tiny_patch16_224 deit_tiny_patch16_224 mixer_s32_224 resmlp_12_224
    poolformer_s12 cait_xxs24_224 swin_tiny_patch4_window7_224 edgenext_xx_small mobilevit_xxs
    efficientformer_l1 fastvit_t8 hrnet_w18_small vgg11_bn inception_v3 densenet121 dla34 cspresnet50 nfnet_l0
    mobilenetv2_100 lcnet_050 tinynet_e
"""

TRANSFORMERS = ("bert", "distilbert", "gpt2", "llama", "vit", "t5_encoder")
WORDS = 12


class Logits(nn.Module):
    """A net of transformers that takes one tensor and gives one."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(x)[0]
        return found


def _of_pytorchcv(name: str, batch: int) -> Made:
    _without_torchvision()
    from pytorchcv.model_provider import get_model

    net = get_model(name, pretrained=False)
    side = getattr(net, "in_size", (224, 224))[0]
    return net, torch.randn(batch, 3, side, side)


def _of_timm(name: str, batch: int) -> Made:
    _without_torchvision()
    import timm

    net = timm.create_model(name, pretrained=False)
    known: Any = net.default_cfg
    side = known["input_size"][-1]
    return net, torch.randn(batch, 3, side, side)


def _of_transformers(name: str, batch: int) -> Made:
    import transformers as tf

    config: Any
    small: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
    words = torch.randint(0, 50, (batch, WORDS))
    match name:
        case "bert":
            config = tf.BertConfig(vocab_size=50, num_hidden_layers=2, **small)
            return Logits(tf.BertForSequenceClassification(config)), words
        case "distilbert":
            config = tf.DistilBertConfig(vocab_size=50, dim=64, n_heads=4, n_layers=2, hidden_dim=128)
            return Logits(tf.DistilBertForSequenceClassification(config)), words
        case "gpt2":
            config = tf.GPT2Config(vocab_size=50, n_embd=64, n_head=4, n_layer=2, use_cache=False)
            return Logits(tf.GPT2LMHeadModel(config)), words
        case "llama":
            config = tf.LlamaConfig(vocab_size=50, num_hidden_layers=2, use_cache=False, **small)
            return Logits(tf.LlamaForCausalLM(config)), words
        case "t5_encoder":
            config = tf.T5Config(vocab_size=50, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
            return Logits(tf.T5EncoderModel(config)), words
    config = tf.ViTConfig(num_hidden_layers=2, image_size=64, **small)
    return Logits(tf.ViTForImageClassification(config)), torch.randn(batch, 3, 64, 64)


def _block(num_in: int, num_out: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(num_in, num_out, size, stride, size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(num_out), nn.SiLU())


class Yolo(nn.Module):
    """As YOLO nets are written: cross-stage parts, pyramid pooling, features of three scales, a head for each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = _block(3, 16, 3, 2), nn.ModuleList(_block(16 * 2**k, 32 * 2**k, 3, 2) for k in range(3))
        self.enter = nn.ModuleList(_block(32 * 2**k, 32 * 2**k, 1) for k in range(3))
        self.inner = nn.ModuleList(_block(16 * 2**k, 16 * 2**k) for k in range(3))
        self.leave = nn.ModuleList(_block(48 * 2**k, 32 * 2**k, 1) for k in range(3))
        self.pool, self.after = nn.MaxPool2d(5, 1, 2), _block(512, 128, 1)
        self.up = nn.Upsample(scale_factor=2)
        self.merge = nn.ModuleList([_block(64 + 32, 32), _block(128 + 64, 64)])
        self.heads = nn.ModuleList(nn.Conv2d(32 * 2**k, 3 * 7, 1) for k in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x, scales = self.stem(x), []
        for down, enter, inner, leave in zip(self.down, self.enter, self.inner, self.leave, strict=True):
            first, second = enter(down(x)).chunk(2, 1)
            x = leave(torch.cat([first, second, second + inner(second)], 1))
            scales.append(x)
        pooled = [x]
        for _ in range(3):
            pooled.append(self.pool(pooled[-1]))
        scales[2] = self.after(torch.cat(pooled, 1))
        scales[1] = self.merge[1](torch.cat([self.up(scales[2]), scales[1]], 1))
        scales[0] = self.merge[0](torch.cat([self.up(scales[1]), scales[0]], 1))
        return torch.cat([head(scale).flatten(2) for head, scale in zip(self.heads, scales, strict=True)], 2)


class UNet(nn.Module):
    """Down by pooling, up by transposed convolutions, joined on each level."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([_block(3, 16), _block(16, 32), _block(32, 64)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)])
        self.join = nn.ModuleList([_block(64, 32), _block(32, 16)])
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for index, down in enumerate(self.down):
            x = down(x if index == 0 else nn.functional.max_pool2d(x, 2))
            kept.append(x)
        for up, join, other in zip(self.up, self.join, kept[-2::-1], strict=True):
            x = join(torch.cat([up(x), other], 1))
        found: Tensor = self.head(x)
        return found


class Recurrent(nn.Module):
    """Symbols, an LSTM, and a classifier of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.lstm = nn.Embedding(50, 32), nn.LSTM(32, 48, batch_first=True)
        self.hidden, self.head = nn.Linear(48, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(torch.relu(self.hidden(self.lstm(self.table(x))[0][:, -1])))
        return found


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """torchvision where there is none: timm imports names of it and needs none to build a net."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.startswith("torchvision") else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Anything(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing to run."""


def _without_torchvision() -> None:
    sys.meta_path.append(_Absent())


class _Name(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Anything(types.ModuleType):
    """A module in which each name is a class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Name(name, (), {})


NETS: dict[str, Callable[[int], Made]] = {
    "yolo": lambda batch: (Yolo(), torch.randn(batch, 3, 64, 64)),
    "unet": lambda batch: (UNet(), torch.randn(batch, 3, 32, 32)),
    "lstm": lambda batch: (Recurrent(), torch.randint(0, 50, (batch, WORDS))),
    **{f"transformers:{name}": partial(_of_transformers, name) for name in TRANSFORMERS},
    **{f"timm:{name}": partial(_of_timm, name) for name in TIMM.split()},
    **{f"pytorchcv:{name}": partial(_of_pytorchcv, name) for name in PYTORCHCV.split()},
}
