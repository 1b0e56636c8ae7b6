"""The critics' networks: multilayer perceptrons with a layer norm before each ReLU.

A layer norm without weights steadies critics (Ball et al. 2023, RLPD). The gradients are written
by hand: layers with centred weights (:func:`centre`) need only half of a layer norm, the actor
needs the gradient of the action alone, and the first layer's product with the features, half of
the work of a value, is shared by all actions that are valued there.
``tests/test_learning_parts.py`` compares them with autograd's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mbarl_ros.learning.networks import product

NORM_EPSILON = 1e-5  # as torch.nn.LayerNorm


def centre(parameters: Sequence[Tensor]) -> None:
    """Subtract from each hidden unit's weights and bias the mean over the units of its layer.

    A layer norm subtracts that mean from each activation anyway. Done once per optimiser step, it
    need not be done in :func:`values`; the function of the network stays the same.
    """
    for parameter in parameters[:-2]:
        parameter -= parameter.mean(-1, keepdim=True)


@dataclass(slots=True)
class CriticTape:
    """What the gradients need of a pass: of each hidden layer its sums, 1 / deviation, outputs."""

    sums: list[Tensor] = field(default_factory=list)
    inverse_deviations: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)


def feature_sums(parameters: Sequence[Tensor], features: Tensor) -> Tensor:
    """First layer's sums without those of the action [stack, batch, hidden].

    :param parameters: ``[weight_0, bias_0, ...]``, weights [stack, in, out], biases [stack, 1, out]
    :param features: [groups, batch, features]; ``stack / groups`` critics in a row share a group
    """
    weight = parameters[0][:, : features.shape[-1]]
    return torch.bmm(_for_each(features, weight), weight).add_(parameters[1])


def values(
    parameters: Sequence[Tensor], sums: Tensor, action: Tensor, tape: CriticTape | None = None
) -> Tensor:
    """Values [stack, batch] of centred critics.

    :param sums: :func:`feature_sums`
    :param action: [groups, batch, action_dim]
    :param tape: is filled, for gradients
    """
    weight = parameters[0][:, -action.shape[-1] :]
    z = torch.bmm(_for_each(action, weight), weight).add_(sums)
    for number in range(2, len(parameters), 2):
        length = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
        inverse_deviation = torch.rsqrt(length.square_().div_(z.shape[-1]).add_(NORM_EPSILON))
        x = torch.relu(z).mul_(inverse_deviation)
        if tape is not None:
            tape.sums.append(z)
            tape.inverse_deviations.append(inverse_deviation)
            tape.outputs.append(x)
        z = product(x, parameters[number]).add_(parameters[number + 1])
    return z[..., 0]


def action_gradient(
    parameters: Sequence[Tensor], tape: CriticTape, gradient: Tensor, action_dim: int
) -> Tensor:
    """Gradient of the action [stack, batch, action_dim], given that of the values."""
    *_, (_, slope) = _slopes(parameters, tape, gradient)
    return product(slope, parameters[0][:, -action_dim:].mT)


def parameter_gradients(
    parameters: Sequence[Tensor],
    tape: CriticTape,
    features: Tensor,
    action: Tensor,
    gradient: Tensor,
) -> list[Tensor]:
    """Gradients of all parameters, given that of the values [stack, batch]."""
    first = _for_each(torch.cat([features, action], -1), parameters[0])
    inputs = [first, *tape.outputs]
    gradients: list[Tensor] = []
    for number, slope in _slopes(parameters, tape, gradient):
        of_weight = product(inputs[number].mT, slope)
        gradients = [of_weight.contiguous(), slope.sum(1, keepdim=True), *gradients]
    return gradients


def _slopes(
    parameters: Sequence[Tensor], tape: CriticTape, gradient: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """Number of a layer and gradient of its sums, from the last layer to the first."""
    slope = gradient[..., None]
    yield len(tape.sums), slope
    for number in range(len(tape.sums), 0, -1):
        weight, output = parameters[2 * number].mT, tape.outputs[number - 1]
        slope = slope * weight if slope.shape[-1] == 1 else torch.bmm(slope, weight)
        torch.ops.aten.threshold_backward.grad_input(slope, output, 0.0, grad_input=slope)
        inverse_deviation = tape.inverse_deviations[number - 1]
        slope = torch.ops.aten.native_layer_norm_backward(
            slope,
            tape.sums[number - 1],
            slope.shape[-1:],
            torch.zeros_like(inverse_deviation),  # the mean of centred layers
            inverse_deviation,
            None,
            None,
            [True, False, False],
        )[0]
        yield number - 1, slope


def _for_each(inputs: Tensor, parameter: Tensor) -> Tensor:
    """Inputs [groups, ...] of each critic [stack, ...]."""
    critics = len(parameter) // len(inputs)
    return inputs[:, None].expand(-1, critics, -1, -1).flatten(0, 1)
