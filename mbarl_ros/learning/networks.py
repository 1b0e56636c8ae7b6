"""Stacked multilayer perceptrons: one ``bmm`` per layer for all policies, critics or members.

A stack is a flat list of tensors ``[weight_0, bias_0, weight_1, ...]``; weights are
[stack, in, out], biases [stack, 1, out], inputs [stack, batch, in].
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Activation = Literal['relu', 'norm_relu', 'silu']
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


def mlp(parameters: Sequence[Tensor], inputs: Tensor, activation: Activation = 'relu') -> Tensor:
    """Outputs [stack, batch, out], differentiable in parameters and inputs.

    ``norm_relu`` has a layer norm without weights before each ReLU, which steadies critics (Ball
    et al. 2023, RLPD).
    """
    return _Mlp.apply(inputs, activation, *parameters)


def forward(
    parameters: Sequence[Tensor],
    inputs: Tensor,
    activation: Activation,
    tape: list[_Layer] | None = None,
) -> Tensor:
    """The same without autograd; ``tape`` collects what :func:`backward` needs.

    Under ``torch.autocast`` products and activations are bfloat16, all that comes out is float32.
    On networks of this size autograd's bookkeeping takes a good part of an update, and without a
    tape activations can be written in place.
    """
    last = len(parameters) // 2 - 1
    x = inputs
    for number in range(last + 1):
        z = torch.bmm(x, parameters[2 * number]).add_(parameters[2 * number + 1])
        layer = _Layer(x, z)
        if number == last:
            x = z
        elif activation == 'silu':
            x = functional.silu(z, inplace=tape is None)
        elif activation == 'relu':
            x = z.relu_()
        else:
            length = torch.linalg.vector_norm(z, dim=-1, keepdim=True, dtype=torch.float32)
            layer.scale = torch.rsqrt(length.square() / z.shape[-1] + 1e-5)
            x = torch.relu(z).mul_(layer.scale)
        if tape is not None:
            tape.append(layer)
    return x.float()


def centre(parameters: Sequence[Tensor]) -> None:
    """Take from every hidden unit what all units of its layer have in common.

    A layer norm subtracts it anyway, from each activation; where it is done here once for each
    step of the weights, ``norm_relu`` need not. The layer's function stays the same.
    """
    for parameter in parameters[:-2]:
        parameter -= parameter.mean(-1, keepdim=True)


def backward(
    parameters: Sequence[Tensor], tape: Sequence[_Layer], gradient: Tensor, activation: Activation
) -> list[Tensor]:
    """Gradients of the parameters, given that of the outputs."""
    gradients = []
    for number, slope in _slopes(parameters, tape, gradient, activation):
        gradients += [slope.sum(1, keepdim=True), torch.bmm(tape[number].inputs.mT, slope)]
    return [gradient.float() for gradient in reversed(gradients)]


def input_gradient(
    parameters: Sequence[Tensor],
    tape: Sequence[_Layer],
    gradient: Tensor,
    activation: Activation,
    entries: int,
) -> Tensor:
    """Gradient [stack, batch, entries] of the trailing inputs, given that of the outputs."""
    for _, slope in _slopes(parameters, tape, gradient, activation):
        first = slope
    return torch.bmm(first, parameters[0][:, -entries:].mT).float()


@dataclass(slots=True)
class _Layer:
    """A layer's inputs and sums, and of a normalised one 1 / standard deviation."""

    inputs: Tensor
    sums: Tensor
    scale: Tensor | None = None


def _slopes(
    parameters: Sequence[Tensor], tape: Sequence[_Layer], gradient: Tensor, activation: Activation
) -> Iterator[tuple[int, Tensor]]:
    """Number of a layer and gradient of its sums, from the last to the first."""
    yield len(tape) - 1, gradient
    for number in range(len(tape) - 1, 0, -1):
        output, layer = tape[number].inputs, tape[number - 1]
        gradient = torch.bmm(gradient, parameters[2 * number].mT)
        if activation == 'silu':
            gradient = torch.ops.aten.silu_backward(gradient, layer.sums)
        else:
            torch.ops.aten.threshold_backward.grad_input(gradient, output, 0.0, grad_input=gradient)
        if activation == 'norm_relu':
            scale = layer.scale.to(gradient.dtype)
            gradient = torch.ops.aten.native_layer_norm_backward(
                gradient,
                layer.sums,
                gradient.shape[-1:],
                torch.zeros_like(scale),
                scale,
                None,
                None,
                [True, False, False],
            )[0]
        yield number - 1, gradient


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, activation: Activation, *parameters: Tensor) -> Tensor:
        ctx.parameters, ctx.activation, ctx.tape = parameters, activation, []
        return forward(parameters, inputs, activation, ctx.tape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        known = ctx.parameters, ctx.tape, gradient, ctx.activation
        wanted = ctx.needs_input_grad
        inputs = input_gradient(*known, ctx.tape[0].inputs.shape[-1]) if wanted[0] else None
        return inputs, None, *(backward(*known) if wanted[2] else [None] * len(ctx.parameters))


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


def squashed_gaussian(output: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sampled actions and their log-probabilities [stack, batch] from outputs of policies.

    ``output`` [stack, batch, 2 * action_dim] is the mean and log standard deviation of the
    action before tanh (Haarnoja et al. 2018, app. C).
    """
    mean, log_std = output.chunk(2, -1)
    log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
    noise = torch.randn(mean.shape, generator=generator)
    raw = mean + log_std.exp() * noise
    # log(1 - tanh(raw)^2), written so that it does not underflow
    squash = 2.0 * (math.log(2.0) - raw - functional.softplus(-2.0 * raw))
    log_prob = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi) - squash
    return torch.tanh(raw), log_prob.sum(-1)


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
