"""A stack of multilayer perceptrons as one node of the autograd graph.

The gradients are written by hand: of a critic the actor needs those of the action alone, and
layers whose weights are centred (:func:`centre`) need half of a layer norm. They are compared with
those of autograd in ``tests/test_learning_parts.py``, and timed by
``benchmarks/learner.py --gradients``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

Activation = Literal['relu', 'norm_relu', 'silu']
NORM_EPSILON = 1e-5  # as torch.nn.LayerNorm


def centre(parameters: Sequence[Tensor]) -> None:
    """Subtract from each hidden unit's weights and bias the mean over the units of its layer.

    A layer norm subtracts that mean from each activation anyway. Done once per optimiser step, it
    saves ``norm_relu`` the work; the function of the network stays the same.
    """
    for parameter in parameters[:-2]:
        parameter -= parameter.mean(-1, keepdim=True)


@dataclass(slots=True)
class _Layer:
    """What the backward pass needs of a layer: inputs, pre-activations and 1 / their deviation."""

    inputs: Tensor
    sums: Tensor
    inverse_deviation: Tensor | None = None


class FastMlp(torch.autograd.Function):
    """Networks with parameters ``[weight_0, bias_0, ...]`` and one activation between layers.

    Weights are [stack, in, out], biases [stack, 1, out]. Inputs are ``features`` and, where there
    are any, ``extra`` ones: [groups, batch, entries] each. Every group is seen by ``stack /
    groups`` networks in a row.
    """

    @staticmethod
    def forward(
        ctx: Any,
        activation: Activation,
        features: Tensor,
        extra: Tensor | None,
        *parameters: Tensor,
    ) -> Tensor:
        """Outputs [stack, batch, out]."""
        ctx.activation, ctx.parameters, ctx.layers = activation, parameters, []
        ctx.groups, ctx.features = features.shape[0], features.shape[-1]
        return evaluate(activation, features, extra, parameters, ctx.layers)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of ``features``, ``extra`` and the parameters, those that are needed."""
        _, features_needed, extra_needed, *parameters_needed = ctx.needs_input_grad
        parameter_gradients: list[Tensor | None] = [None] * len(ctx.parameters)
        for number, slope in _sum_gradients(ctx.activation, ctx.parameters, ctx.layers, gradient):
            if parameters_needed[2 * number]:
                weight_gradient = torch.bmm(ctx.layers[number].inputs.mT, slope)
                parameter_gradients[2 * number] = weight_gradient
                parameter_gradients[2 * number + 1] = slope.sum(1, keepdim=True)
        first_weight = ctx.parameters[0]

        def input_gradient(columns: slice) -> Tensor:
            each = torch.bmm(slope, first_weight[:, columns].mT)
            return each.unflatten(0, (ctx.groups, -1)).sum(1)

        features_gradient = input_gradient(slice(ctx.features)) if features_needed else None
        extra_gradient = input_gradient(slice(ctx.features, None)) if extra_needed else None
        return None, features_gradient, extra_gradient, *parameter_gradients


def evaluate(
    activation: Activation,
    features: Tensor,
    extra: Tensor | None,
    parameters: Sequence[Tensor],
    layers: list[_Layer] | None = None,
) -> Tensor:
    """Outputs [stack, batch, out]; ``layers`` collects what the backward pass needs.

    Without it activations are written in place.
    """
    x = features if extra is None else torch.cat([features, extra], -1)
    copies = parameters[0].shape[0] // x.shape[0]
    if copies > 1:
        x = x[:, None].expand(-1, copies, -1, -1).flatten(0, 1)
    last = len(parameters) // 2 - 1
    for number in range(last + 1):
        z = torch.bmm(x, parameters[2 * number]).add_(parameters[2 * number + 1])
        layer = _Layer(x, z)
        if number == last:
            x = z
        elif activation == 'silu':
            x = functional.silu(z, inplace=layers is None)
        elif activation == 'relu':
            x = z.relu_()
        else:
            length = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
            layer.inverse_deviation = torch.rsqrt(length.square() / z.shape[-1] + NORM_EPSILON)
            x = torch.relu(z).mul_(layer.inverse_deviation)
        if layers is not None:
            layers.append(layer)
    return x


def _sum_gradients(
    activation: Activation,
    parameters: Sequence[Tensor],
    layers: Sequence[_Layer],
    gradient: Tensor,
) -> Iterator[tuple[int, Tensor]]:
    """Number of a layer and gradient of its pre-activations, from the last to the first."""
    yield len(layers) - 1, gradient
    for number in range(len(layers) - 1, 0, -1):
        output, layer = layers[number].inputs, layers[number - 1]
        gradient = torch.bmm(gradient, parameters[2 * number].mT)
        if activation == 'silu':
            gradient = torch.ops.aten.silu_backward(gradient, layer.sums)
        else:
            torch.ops.aten.threshold_backward.grad_input(gradient, output, 0.0, grad_input=gradient)
        if activation == 'norm_relu':
            gradient = torch.ops.aten.native_layer_norm_backward(
                gradient,
                layer.sums,
                gradient.shape[-1:],
                torch.zeros_like(layer.inverse_deviation),  # the mean: weights are centred
                layer.inverse_deviation,
                None,
                None,
                [True, False, False],
            )[0]
        yield number - 1, gradient
