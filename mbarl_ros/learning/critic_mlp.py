"""The critics' networks: multilayer perceptrons with a layer norm before each ReLU.

A layer norm without weights steadies critics (Ball et al. 2023, RLPD). The gradients are written
by hand: the actor needs those of the action alone, and layers with centred weights (:func:`centre`)
need only half of a layer norm. ``tests/test_learning_parts.py`` compares them with autograd's, and
``benchmarks/learner.py --gradients`` times both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NORM_EPSILON = 1e-5  # as torch.nn.LayerNorm


def centre(parameters: Sequence[Tensor]) -> None:
    """Subtract from each hidden unit's weights and bias the mean over the units of its layer.

    A layer norm subtracts that mean from each activation anyway. Done once per optimiser step, it
    need not be done in :func:`critic_mlp`; the function of the network stays the same.
    """
    for parameter in parameters[:-2]:
        parameter -= parameter.mean(-1, keepdim=True)


def critic_mlp(parameters: Sequence[Tensor], features: Tensor, action: Tensor) -> Tensor:
    """Outputs [stack, batch, out] of centred critics, differentiable in parameters and inputs.

    :param parameters: ``[weight_0, bias_0, ...]``, weights [stack, in, out], biases [stack, 1, out]
    :param features: [groups, batch, features]; ``stack / groups`` critics in a row share a group
    :param action: [groups, batch, action_dim]
    """
    if torch.is_grad_enabled():
        return CriticMlp.apply(features, action, *parameters)
    return _evaluate(features, action, parameters)


@dataclass(slots=True)
class _Layer:
    """What the backward pass needs of a layer; the last has no inverse deviation."""

    inputs: Tensor
    sums: Tensor  # inputs @ weight + bias
    inverse_deviation: Tensor | None = None


class CriticMlp(torch.autograd.Function):
    """:func:`critic_mlp` as one node of the autograd graph."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, action: Tensor, *parameters: Tensor) -> Tensor:
        """Outputs [stack, batch, out]."""
        ctx.parameters, ctx.layers = parameters, []
        ctx.groups, ctx.features = features.shape[0], features.shape[-1]
        return _evaluate(features, action, parameters, ctx.layers)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of features, action and parameters; None where they are not needed."""
        features_needed, action_needed, *parameters_needed = ctx.needs_input_grad
        gradients: list[Tensor | None] = [None] * len(ctx.parameters)
        for number, slope in _sum_gradients(ctx.parameters, ctx.layers, gradient):
            if parameters_needed[2 * number]:
                gradients[2 * number] = torch.bmm(ctx.layers[number].inputs.mT, slope)
                gradients[2 * number + 1] = slope.sum(1, keepdim=True)

        def input_gradient(columns: slice) -> Tensor:
            of_each_critic = torch.bmm(slope, ctx.parameters[0][:, columns].mT)
            return of_each_critic.unflatten(0, (ctx.groups, -1)).sum(1)

        features_gradient = input_gradient(slice(ctx.features)) if features_needed else None
        action_gradient = input_gradient(slice(ctx.features, None)) if action_needed else None
        del ctx.layers  # as autograd frees its own buffers, so that their memory is used again
        return features_gradient, action_gradient, *gradients


def _evaluate(
    features: Tensor,
    action: Tensor,
    parameters: Sequence[Tensor],
    layers: list[_Layer] | None = None,
) -> Tensor:
    """Outputs [stack, batch, out]; ``layers`` collects what the backward pass needs."""
    x = torch.cat([features, action], -1)
    critics = parameters[0].shape[0] // x.shape[0]
    x = x[:, None].expand(-1, critics, -1, -1).flatten(0, 1)
    for number in range(0, len(parameters) - 2, 2):
        z = torch.bmm(x, parameters[number]).add_(parameters[number + 1])
        length = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
        inverse_deviation = torch.rsqrt(length.square() / z.shape[-1] + NORM_EPSILON)
        if layers is not None:
            layers.append(_Layer(x, z, inverse_deviation))
        x = torch.relu(z).mul_(inverse_deviation)
    z = torch.bmm(x, parameters[-2]).add_(parameters[-1])
    if layers is not None:
        layers.append(_Layer(x, z))
    return z


def _sum_gradients(
    parameters: Sequence[Tensor], layers: Sequence[_Layer], gradient: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """Number of a layer and gradient of its ``sums``, from the last layer to the first."""
    yield len(layers) - 1, gradient
    for number in range(len(layers) - 1, 0, -1):
        output, layer = layers[number].inputs, layers[number - 1]
        gradient = torch.bmm(gradient, parameters[2 * number].mT)
        torch.ops.aten.threshold_backward.grad_input(gradient, output, 0.0, grad_input=gradient)
        gradient = torch.ops.aten.native_layer_norm_backward(
            gradient,
            layer.sums,
            gradient.shape[-1:],
            torch.zeros_like(layer.inverse_deviation),  # the mean of centred layers
            layer.inverse_deviation,
            None,
            None,
            [True, False, False],
        )[0]
        yield number - 1, gradient
