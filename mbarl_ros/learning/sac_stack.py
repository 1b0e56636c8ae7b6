"""Soft actor-critic of several seeds as one stack: one kernel does the work of all.

Small networks leave a GPU, and the vector units of a processor, idle. Seeds of one task and preset
have networks of the same shape, which are stacked as those of the policies are.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from mbarl_ros.learning.clones import Acting, Clones
from mbarl_ros.learning.optimiser import Adam
from mbarl_ros.learning.sac import Sac


def stacked(parts: Sequence[Sac]) -> Sac:
    """One learner of the policies of all ``parts``, seed after seed; its update is theirs.

    The networks of the parts become views of its own, so that each goes on to act, to value and to
    be saved by itself. Each seed draws the random numbers that it would draw alone.

    :param parts: of the same preset and task, with as many gradient steps
    """
    whole = copy.copy(parts[0])
    whole.seeds = len(parts)
    whole.policies = tuple(name for part in parts for name in part.policies)
    whole.generator = [part.generator for part in parts]
    for name in ('critic', 'target_critic', 'actor', 'deployed'):
        setattr(whole, name, _shared([getattr(part, name) for part in parts]))
    temperatures = [[part.log_temperature] for part in parts]
    (whole.log_temperature,) = _shared(temperatures)
    for part, (temperature,) in zip(parts, temperatures, strict=True):
        part.log_temperature = temperature
    for name in ('lowest_return', 'highest_return'):
        setattr(whole, name, torch.cat([getattr(part, name) for part in parts]))
    whole.critic_optimiser = _optimiser([part.critic_optimiser for part in parts], whole.critic)
    whole.actor_optimiser = _optimiser([part.actor_optimiser for part in parts], whole.actor)
    whole.temperature_optimiser = _optimiser(
        [part.temperature_optimiser for part in parts], [whole.log_temperature]
    )
    whole.clones = _clones([part.clones for part in parts if part.clones is not None])
    return whole


def _shared(parts: Sequence[list[Tensor]]) -> list[Tensor]:
    """Each tensor of the lists, stacked; the lists then hold views of the stacks."""
    whole = []
    for number in range(len(parts[0])):
        pieces = [part[number].detach() for part in parts]
        stack = torch.cat(pieces)
        for part, view in zip(parts, stack.chunk(len(parts)), strict=True):
            part[number] = view
        whole.append(stack)
    return whole


def _optimiser(parts: Sequence[Adam], parameters: list[Tensor]) -> Adam:
    """Adam of the stacked parameters, with the moments of the parts."""
    whole = Adam(parameters, parts[0].learning_rate)
    whole.take_over(parts)
    return whole


def _clones(parts: Sequence[Clones]) -> Clones | None:
    """Clones that act as those of all seeds; they are not trained any more."""
    if not parts:
        return None
    whole = copy.copy(parts[0])
    each = [part.acting for part in parts]
    whole.acting = Acting(
        [torch.cat(layer) for layer in zip(*(acting.parameters for acting in each), strict=True)],
        *(torch.cat([acting[field] for acting in each]) for field in range(1, 4)),
        each[0].discount,
    )
    return whole
