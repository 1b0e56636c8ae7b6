"""Stacked multilayer perceptrons: one ``baddbmm`` per layer for all policies, critics or members.

A stack is a flat list of tensors ``[weight_0, bias_0, weight_1, ...]``; weights are
[stack, in, out], biases [stack, 1, out], inputs [stack, batch, in].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

LOG_STD_MIN, LOG_STD_MAX = -10.0, 2.0


def stacked_mlp(
    stack: int, sizes: Sequence[int], generator: torch.Generator, last_scale: float = 1.0
) -> list[Tensor]:
    """Fresh parameters, uniform in +-1/sqrt(in) as ``torch.nn.Linear``; ``last_scale`` shrinks
    the last layer (a policy starts near zero mean).
    """
    parameters = []
    layers = list(pairwise(sizes))
    for number, (fan_in, fan_out) in enumerate(layers):
        bound = 1.0 / math.sqrt(fan_in)
        if number == len(layers) - 1:
            bound *= last_scale
        for rows in (fan_in, 1):
            value = torch.rand(stack, rows, fan_out, generator=generator)
            parameters.append(((2.0 * value - 1.0) * bound).requires_grad_())
    return parameters


def mlp(parameters: Sequence[Tensor], inputs: Tensor, *, layer_norm: bool = False) -> Tensor:
    """Outputs [stack, batch, out] of a ReLU stack; ``layer_norm`` before each ReLU steadies
    critics (Ball et al. 2023, RLPD).
    """
    last = len(parameters) // 2 - 1
    x = inputs
    for number in range(last + 1):
        x = torch.baddbmm(parameters[2 * number + 1], x, parameters[2 * number])
        if number < last:
            if layer_norm:
                x = functional.layer_norm(x, x.shape[-1:])
            x = functional.relu(x)
    return x


def with_waves(inputs: Tensor, frequencies: int) -> Tensor:
    """Inputs in [-1, 1] beside their Fourier features [..., entries * (1 + 2 * frequencies)].

    Values and dynamics jump at walls; a network of raw coordinates learns that slowly (Yang et
    al. 2022, "Overcoming the spectral bias of neural value approximation").
    """
    angles = [math.pi * 2.0**k * inputs for k in range(frequencies)]
    return torch.cat([inputs, *(f(angle) for angle in angles for f in (torch.sin, torch.cos))], -1)


def with_relations(inputs: Tensor, relations: Tensor) -> Tensor:
    """Inputs beside linear combinations of them, [..., entries + rows of ``relations``]."""
    return torch.cat([inputs, inputs @ relations.T], -1)


def squashed_gaussian(
    parameters: Sequence[Tensor], observation: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Sampled action, its log-probability [stack, batch] and tanh(mean) of a stack of policies.

    ``observation`` is normalised, [stack, batch, observation_dim] (Haarnoja et al. 2018, app. C).
    """
    mean, log_std = mlp(parameters, observation).chunk(2, -1)
    log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
    noise = torch.randn(mean.shape, generator=generator)
    raw = mean + log_std.exp() * noise
    # log(1 - tanh(raw)^2), written so that it does not underflow
    squash = 2.0 * (math.log(2.0) - raw - functional.softplus(-2.0 * raw))
    log_prob = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi) - squash
    return torch.tanh(raw), log_prob.sum(-1), torch.tanh(mean)


def layer_arrays(
    parameters: Sequence[Tensor], index: int, prefix: str, relations: Tensor | None = None
) -> dict[str, np.ndarray]:
    """One network of a stack in the layout of a policy message: ``prefix/0/weight`` [in, out].

    ``relations`` are linear in the inputs and fold into the first layer: whoever runs the network
    need not know of them.
    """
    arrays = {}
    for number in range(len(parameters) // 2):
        weight, bias = parameters[2 * number][index].detach(), parameters[2 * number + 1]
        if number == 0 and relations is not None:
            entries = relations.shape[1]
            weight = weight[:entries] + relations.T @ weight[entries:]
        arrays[f'{prefix}/{number}/weight'] = weight.numpy().copy()
        arrays[f'{prefix}/{number}/bias'] = bias[index, 0].detach().numpy().copy()
    return arrays
