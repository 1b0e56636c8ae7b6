"""Adam without the bookkeeping of ``torch.optim``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Adam:
    """Adam (Kingma and Ba 2015) as one fused kernel for all parameters.

    ``torch.optim.Adam`` calls the same kernel, but its bookkeeping takes as long as the kernel on
    networks as small as these.
    """

    def __init__(
        self, parameters: Sequence[Tensor], learning_rate: float, weight_decay: float = 0.0
    ) -> None:
        """Moments exist from the start, so that they can be loaded at any time."""
        self.parameters = list(parameters)
        self._averages = [torch.zeros_like(p) for p in self.parameters]
        self._squares = [torch.zeros_like(p) for p in self.parameters]
        self._count = torch.zeros((), device=self.parameters[0].device)
        self._steps: int | None = 0  # the same here, since asking a GPU takes long
        self._counts = [self._count] * len(self.parameters)
        self.learning_rate, self._weight_decay = learning_rate, weight_decay

    def minimise(self, loss: Tensor) -> None:
        """One gradient step on ``loss`` (a scalar); no other tensor gets a gradient."""
        self.step(torch.autograd.grad(loss, self.parameters))

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move the parameters; ``gradients`` are in their order, float32."""
        self._count += 1
        if self._steps is not None:
            self._steps += 1
        torch._fused_adam_(
            self.parameters,
            list(gradients),
            self._averages,
            self._squares,
            [],
            self._counts,
            lr=self.learning_rate,
            weight_decay=self._weight_decay,
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )

    @property
    def steps(self) -> int:
        """How many gradient steps were made, also before a checkpoint was loaded."""
        if self._steps is None:
            self._steps = int(self._count)
        return self._steps

    def tensors(self) -> list[Tensor]:
        """The step count and moments, in a fixed order, for a checkpoint to keep or to set."""
        self._steps = None
        moments = zip(self._averages, self._squares, strict=True)
        return [tensor for pair in moments for tensor in (self._count, *pair)]

    def take_over(self, parts: Sequence[Adam]) -> None:
        """Go on from optimisers of parts of the parameters, which are views of this from now on.

        Their parameters, in their order along the first axis, must be those of this one.
        """
        for number, parameter in enumerate(self.parameters):
            for name in ('_averages', '_squares'):
                moments = getattr(self, name)
                moments[number] = torch.cat([getattr(part, name)[number] for part in parts])
                for part, view in zip(parts, moments[number].chunk(len(parts)), strict=True):
                    getattr(part, name)[number] = view
            for part, view in zip(parts, parameter.chunk(len(parts)), strict=True):
                part.parameters[number] = view
        self._count.copy_(parts[0]._count)
        self._steps = parts[0].steps
        for part in parts:
            part._count, part._steps = self._count, None
