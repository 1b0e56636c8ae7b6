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
        self._count = torch.zeros(())
        self._counts = [self._count] * len(self.parameters)
        self.learning_rate, self._weight_decay = learning_rate, weight_decay

    def minimise(self, loss: Tensor) -> None:
        """One gradient step on ``loss`` (a scalar); no other tensor gets a gradient."""
        self.step(torch.autograd.grad(loss, self.parameters))

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move the parameters; ``gradients`` are in their order, float32."""
        self._count += 1
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
        return int(self._count)

    def tensors(self) -> list[Tensor]:
        """The step count and moments, in a fixed order, for a checkpoint."""
        moments = zip(self._averages, self._squares, strict=True)
        return [tensor for pair in moments for tensor in (self._count, *pair)]
