"""TRPO (Schulman et al. 2015) from sb3-contrib: the model-free reference of the studies.

Needs the extra ``studies``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

# sb3-contrib's defaults are for short tasks. Discount, networks and step size are those of
# Nagabandi et al. (2018, app.); batches are smaller than their 50,000 steps, which learns sooner.
DISCOUNT = 0.995
SETTINGS: dict[str, Any] = {
    'gae_lambda': 0.95,
    'n_steps': 2048,
    'batch_size': 128,
    'learning_rate': 1e-3,
    'target_kl': 0.04,
    'n_critic_updates': 20,
    'cg_max_steps': 25,
    'policy_kwargs': {'net_arch': [64, 64]},
}


def make_trpo(
    env_id: str,
    seed: int,
    frame_skip: int | None = None,
    *,
    default_settings: bool = False,
) -> Any:
    """A new TRPO agent with 64x64 tanh networks on a Gymnasium environment, episodes logged.

    :param frame_skip: simulator steps of a control step, in place of the environment's; episodes
        then last as long as before
    :param default_settings: those of sb3-contrib in place of ``SETTINGS``
    """
    import gymnasium
    from sb3_contrib import TRPO
    from stable_baselines3.common.monitor import Monitor

    changes, discount = {}, DISCOUNT
    if frame_skip is not None:
        own = gymnasium.make(env_id)
        ratio = frame_skip / own.unwrapped.frame_skip
        steps = round(own.spec.max_episode_steps / ratio)
        changes = {'frame_skip': frame_skip, 'max_episode_steps': steps}
        discount = DISCOUNT**ratio
        own.close()
    env = Monitor(gymnasium.make(env_id, **changes))
    env.reset(seed=seed)
    settings = {} if default_settings else {'gamma': discount, **SETTINGS}
    return TRPO('MlpPolicy', env, seed=seed, device='cpu', **settings)


def train_trpo(
    agent: Any, steps: int, report_progress: Callable[[float], None] = lambda share: None
) -> list[tuple[int, float]]:
    """Train for ``steps`` environment steps; (steps so far, return) of each training episode.

    Episodes are those of the stochastic policy that learns, as in the literature.
    """
    from stable_baselines3.common.callbacks import BaseCallback

    class Progress(BaseCallback):
        def _on_step(self) -> bool:
            report_progress(self.num_timesteps / steps)
            return True

    agent.learn(steps, callback=Progress())
    monitor = agent.get_env().envs[0]
    ends = np.cumsum(monitor.get_episode_lengths()).tolist()
    returns = [float(value) for value in monitor.get_episode_rewards()]
    return list(zip(ends, returns, strict=True))
