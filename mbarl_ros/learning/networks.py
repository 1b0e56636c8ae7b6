"""Stacked multilayer perceptrons: one ``bmm`` per layer for all policies, critics or members.

A stack is a flat list of tensors ``[weight_0, bias_0, weight_1, ...]``; weights are
[stack, in, out], biases [stack, 1, out].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Activation = Literal['relu', 'silu']
Generators = torch.Generator | Sequence[torch.Generator]
CPU = torch.device('cpu')
LOG_STD_MIN, LOG_STD_MAX = -10.0, 2.0
FEW_COLUMNS = 32  # of a product that is better done transposed


def stacked_mlp(
    stack: int,
    sizes: Sequence[int],
    generator: torch.Generator,
    last_scale: float = 1.0,
    device: torch.device = CPU,
) -> list[Tensor]:
    """New parameters, uniform in +-1/sqrt(in) as in ``torch.nn.Linear``.

    :param generator: of the processor, so that all devices begin with the same networks
    :param last_scale: factor on the last layer; a small one makes a policy start near zero mean
    """
    parameters = []
    layers = list(pairwise(sizes))
    for number, (fan_in, fan_out) in enumerate(layers):
        bound = 1.0 / math.sqrt(fan_in)
        if number == len(layers) - 1:
            bound *= last_scale
        for rows in (fan_in, 1):
            value = torch.rand(stack, rows, fan_out, generator=generator)
            parameters.append(((2.0 * value - 1.0) * bound).to(device).requires_grad_())
    return parameters


def product(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` of stacks of matrices.

    The library is slow where ``right`` has few columns, but not at the transposed product.
    """
    if right.shape[-1] <= FEW_COLUMNS:
        return torch.bmm(right.mT, left.mT).mT
    return torch.bmm(left, right)


@dataclass(slots=True)
class Tape:
    """What :func:`gradients` needs of a pass: each layer's inputs and, with silu, sums."""

    inputs: list[Tensor] = field(default_factory=list)
    sums: list[Tensor] = field(default_factory=list)


def mlp(
    parameters: Sequence[Tensor],
    inputs: Tensor,
    activation: Activation = 'relu',
    tape: Tape | None = None,
) -> Tensor:
    """Outputs [stack, batch, out] of inputs [stack, batch, in].

    :param tape: is filled, for :func:`mlp_gradients`
    """
    x = inputs
    keep = torch.is_grad_enabled() or tape is not None
    for number in range(0, len(parameters) - 2, 2):
        if tape is not None:
            tape.inputs.append(x)
        x = torch.bmm(x, parameters[number]).add_(parameters[number + 1])
        if activation == 'relu':
            x = x.relu_()
            continue
        if tape is not None:
            tape.sums.append(x)
        x = functional.silu(x, inplace=not keep)
    if tape is not None:
        tape.inputs.append(x)
    return product(x, parameters[-2]).add_(parameters[-1])


def mlp_gradients(
    parameters: Sequence[Tensor], tape: Tape, gradient: Tensor, activation: Activation = 'relu'
) -> list[Tensor]:
    """Gradients of the parameters of :func:`mlp`, given that of its outputs.

    Written by hand: autograd takes as long as the products on networks as small as these.
    """
    gradients: list[Tensor] = []
    for number in reversed(range(len(tape.inputs))):
        inputs = tape.inputs[number]
        of_weight = product(inputs.mT, gradient).contiguous()
        gradients = [of_weight, gradient.sum(1, keepdim=True), *gradients]
        if number:
            of_inputs = torch.bmm(gradient, parameters[2 * number].mT)
            if activation == 'relu':
                gradient = torch.ops.aten.threshold_backward(of_inputs, inputs, 0.0)
            else:
                gradient = torch.ops.aten.silu_backward(of_inputs, tape.sums[number - 1])
    return gradients


def with_fourier_features(inputs: Tensor, frequencies: int) -> Tensor:
    """Inputs in [-1, 1] and their Fourier features [..., entries * (1 + 2 * frequencies)].

    Values and dynamics jump at walls; a network of raw coordinates learns that slowly (Yang et
    al. 2022, "Overcoming the spectral bias of neural value approximation").
    """
    features = [inputs]
    for frequency in range(frequencies):
        if frequency == 0:
            sin, cos = torch.sin(math.pi * inputs), torch.cos(math.pi * inputs)
        else:  # of the double angle
            sin, cos = 2.0 * sin * cos, 1.0 - 2.0 * sin.square()
        features += [sin, cos]
    return torch.cat(features, -1)


def with_pairwise_differences(inputs: Tensor, pairwise_differences: Tensor) -> Tensor:
    """Inputs [..., entries] and their differences [..., entries + pairs].

    :param pairwise_differences: [pairs, entries], see :class:`mbarl_ros.task.Task`
    """
    return torch.cat([inputs, inputs @ pairwise_differences.T], -1)


class Sample(NamedTuple):
    """Actions ``tanh(mean + exp(log_std) * noise)`` [stack, batch, action_dim] of policies.

    ``log_prob`` [stack, batch]: their log-probability densities.
    """

    action: Tensor
    log_prob: Tensor
    log_std: Tensor
    noise: Tensor

    def gradient(self, of_action: Tensor, of_log_prob: Tensor) -> Tensor:
        """Gradient [stack, batch, 2 * action_dim] of the policies' outputs.

        :param of_action: the loss's gradient of the action; ``of_log_prob`` broadcasts with it
        """
        raw = of_action * (1.0 - self.action.square()) + 2.0 * of_log_prob * self.action
        log_std = raw * self.log_std.exp() * self.noise - of_log_prob
        within = (self.log_std > LOG_STD_MIN) & (self.log_std < LOG_STD_MAX)
        return torch.cat([raw, log_std * within], -1)


def sample_action(output: Tensor, generator: Generators) -> Tensor:
    """As :func:`squashed_gaussian`, actions only [stack, batch, action_dim]."""
    mean, log_std, noise = _gaussian(output, generator)
    return torch.tanh(mean + log_std.exp() * noise)


def squashed_gaussian(output: Tensor, generator: Generators) -> Sample:
    """Sampled actions and their log-probabilities from outputs of policies.

    ``output`` [stack, batch, 2 * action_dim] is the mean and log standard deviation of the
    action before tanh (Haarnoja et al. 2018, app. C).
    """
    mean, log_std, noise = _gaussian(output, generator)
    raw = mean + log_std.exp() * noise
    # log(1 - tanh(raw)^2), written so that it does not underflow
    squash = 2.0 * (math.log(2.0) - raw - functional.softplus(-2.0 * raw))
    log_prob = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi) - squash
    return Sample(torch.tanh(raw), log_prob.sum(-1), log_std, noise)


def generator_on(device: torch.device, seed: int, generator: torch.Generator) -> torch.Generator:
    """A seeded generator of a device; ``generator`` itself where that is the processor."""
    return generator if device == CPU else torch.Generator(device).manual_seed(seed)


def standard_normal(shape: torch.Size, generators: Generators) -> Tensor:
    """Standard normal numbers [stack, ...], on the device of the generators.

    Of several generators each gives an equal share of the stack, so that seeds that are trained
    together draw the same numbers as alone.
    """
    if isinstance(generators, torch.Generator):
        return torch.randn(shape, generator=generators, device=generators.device)
    share = (shape[0] // len(generators), *shape[1:])
    return torch.cat([torch.randn(share, generator=g, device=g.device) for g in generators])


def _gaussian(output: Tensor, generator: Generators) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, log standard deviation and standard normal noise [stack, batch, action_dim]."""
    mean, log_std = output.chunk(2, -1)
    noise = standard_normal(mean.shape, generator)
    return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX), noise


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Copy of a tensor of any device."""
    return np.array(tensor.detach().cpu().numpy())


def layer_arrays(
    parameters: Sequence[Tensor],
    index: int,
    prefix: str,
    pairwise_differences: Tensor | None = None,
) -> dict[str, np.ndarray]:
    """One network of a stack in the layout of a policy message: ``prefix/0/weight`` [in, out].

    Pairwise differences are linear in the inputs and are folded into the first layer, so that the
    robot runs the network on plain observations.
    """
    arrays = {}
    for number in range(len(parameters) // 2):
        weight, bias = parameters[2 * number][index].detach(), parameters[2 * number + 1]
        if number == 0 and pairwise_differences is not None:
            entries = pairwise_differences.shape[1]
            weight = weight[:entries] + pairwise_differences.T @ weight[entries:]
        arrays[f'{prefix}/{number}/weight'] = to_numpy(weight)
        arrays[f'{prefix}/{number}/bias'] = to_numpy(bias[index, 0])
    return arrays


def stack_arrays(parameters: Sequence[Tensor], prefix: str) -> dict[str, np.ndarray]:
    """A whole stack as ``prefix/0/weight`` [stack, in, out], ``prefix/0/bias`` [stack, 1, out]."""
    arrays = {}
    for number, value in enumerate(parameters):
        kind = 'bias' if number % 2 else 'weight'
        arrays[f'{prefix}/{number // 2}/{kind}'] = to_numpy(value)
    return arrays
