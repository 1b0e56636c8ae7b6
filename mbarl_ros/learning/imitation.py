"""Behaviour cloning: of demonstrations, the baseline that practice must beat, and of plans."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mbarl_ros.control.policy import DEPLOYED
from mbarl_ros.learning.clones import Clones
from mbarl_ros.learning.networks import layer_arrays, mlp
from mbarl_ros.learning.optimiser import Adam
from mbarl_ros.learning.state_arrays import Arrays
from mbarl_ros.storage.transitions import FORWARD
from mbarl_ros.task import Task

CHECK_EVERY = 100


def clone(
    task: Task,
    demonstrations: Mapping[str, np.ndarray],
    seed: int,
    hidden: Sequence[int] = (128, 128),
    steps: int = 4000,
) -> Arrays:
    """Policy message with only ``deployed``: the clone that the learner begins as.

    :raises ValueError: there is no forward demonstration.
    """
    if not (np.asarray(demonstrations['phase']) == FORWARD).any():
        raise ValueError(f"task '{task.name}': cloning needs a forward demonstration")
    clones = Clones(task, demonstrations, [FORWARD], hidden, steps, seed)
    differences = torch.from_numpy(task.pairwise_differences)
    arrays = layer_arrays(clones.parameters, 0, DEPLOYED, differences)
    # A policy has a log standard deviation beside its mean, which nobody asks a clone for.
    for kind in ('weight', 'bias'):
        mean = arrays[last := f'{DEPLOYED}/{len(hidden)}/{kind}']
        arrays[last] = np.concatenate([mean, np.zeros_like(mean)], -1)
    return {'offset': task.offset.copy(), 'scale': task.scale.copy(), **arrays}


def policy_mean(network: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """Mean action [rows, A] as a function of inputs [rows, entries], of a stack of one policy."""

    def mean(inputs: Tensor) -> Tensor:
        return torch.tanh(mlp(network, inputs[None])[0].chunk(2, -1)[0])

    return mean


def regress(
    mean: Callable[[Tensor], Tensor],
    parameters: Sequence[Tensor],
    inputs: Tensor,
    actions: Tensor,
    generator: torch.Generator,
    steps: int,
    batch: int = 256,
) -> float:
    """Fit the mean action of a policy to actions; returns the held-out squared error.

    A tenth of the rows is held out (in blocks, since neighbours are alike), and the weights with
    the least held-out error are kept, so that the policy is neither under- nor overfitted.

    :param mean: mean action [rows, action_dim] as a function of inputs [rows, entries]
    :param parameters: of the policy; changed in place
    :param inputs: [rows, entries]
    :param actions: [rows, action_dim] in [-1, 1]
    """
    holdout_mask = torch.from_numpy(np.arange(len(inputs)) // 10 % 10 == 9)
    train = torch.nonzero(~holdout_mask)[:, 0]
    optimiser = Adam(parameters, 1e-3, weight_decay=1e-5)

    def error(rows: Tensor) -> Tensor:
        return (mean(inputs[rows]) - actions[rows]).square().mean()

    best, kept = np.inf, [p.detach().clone() for p in parameters]
    for step in range(1, steps + 1):
        rows = torch.randint(len(train), (batch,), generator=generator)
        optimiser.minimise(error(train[rows]))
        if step % CHECK_EVERY == 0 or step == steps:
            with torch.no_grad():
                score = float(error(holdout_mask if bool(holdout_mask.any()) else train))
            if score < best:
                best, kept = score, [p.detach().clone() for p in parameters]
    with torch.no_grad():
        torch._foreach_copy_(list(parameters), kept)
    return best
