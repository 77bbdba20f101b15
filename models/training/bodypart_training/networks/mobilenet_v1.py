"""MobileNet-V1 (Howard et al., 2017, arXiv 1704.04861), width 1.0, for one grey channel.

Starting weights have their batch normalisation folded into the convolutions, so that the network has none: it is fine-tuned
with plain biases, and what is trained is what is exported.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)) + ((512, 1),) * 5 + ((1024, 2), (1024, 1))  # (out, stride)

# ImageNet pictures come as x/127.5-1, whose deviation over a picture is near 0.5; ours have deviation 1. The first layer is
# scaled by this when weights are loaded, so that its activations start in the range they were trained for.
INPUT_DEVIATION = 0.5


class SameConv(nn.Module):
    """A 3×3 convolution with TensorFlow's SAME padding: stride 2 pads one row and column at the bottom and the right only."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1 if stride == 1 else 0, groups=groups)
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.stride == 2:
            x = F.pad(x, (0, 1, 0, 1))
        return self.conv(x)


class Block(nn.Module):
    """Depthwise 3×3, then 1×1, each with ReLU6."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.depthwise = SameConv(inputs, inputs, stride, groups=inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu6(self.pointwise(F.relu6(self.depthwise(x))))


class MobileNetV1(nn.Module):
    """Input float32 [N, 1, S, S], S a multiple of 32 (else the padding is not TensorFlow's); output logits [N, classes]."""

    export_pads = (0, 0, 1, 1)  # SameConv's padding for stride 2 (top, left, bottom, right), for the exported convolutions

    def __init__(self, classes: int, dropout: float = 0.2):
        super().__init__()
        self.stem = SameConv(1, 32, 2)
        blocks, inputs = [], 32
        for outputs, stride in BLOCKS:
            blocks.append(Block(inputs, outputs, stride))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(inputs, classes)
        for module in self.modules():  # He et al., 2015: without normalisation the signal dies with PyTorch's defaults
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu6(self.stem(x)))
        return self.head(self.dropout(x.mean((2, 3))))

    def load_imagenet(self, path: str) -> None:
        """Load conv1, conv_dw_1…13 and conv_pw_1…13 (``.weight``, ``.bias``) of an .npz; RGB is summed to one channel."""
        with np.load(path) as arrays:
            stem = arrays["conv1.weight"].astype(np.float32).sum(axis=1, keepdims=True) * INPUT_DEVIATION
            _copy(self.stem.conv, stem, arrays["conv1.bias"])
            for number, block in enumerate(self.blocks, start=1):
                _copy(block.depthwise.conv, arrays[f"conv_dw_{number}.weight"], arrays[f"conv_dw_{number}.bias"])
                _copy(block.pointwise, arrays[f"conv_pw_{number}.weight"], arrays[f"conv_pw_{number}.bias"])


def _copy(layer: nn.Conv2d, weight: np.ndarray, bias: np.ndarray) -> None:
    if tuple(layer.weight.shape) != weight.shape:
        raise ValueError(f"starting weights of shape {weight.shape} do not fit a layer of shape {tuple(layer.weight.shape)}")
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight.astype(np.float32)))
        layer.bias.copy_(torch.from_numpy(bias.astype(np.float32)))


def build(classes: int, weights: str | None) -> MobileNetV1:
    network = MobileNetV1(classes)
    if weights:
        network.load_imagenet(weights)
    return network
