"""Makes Gymnasium environments by name and checks that they can be a world."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.spaces import Box, Dict, Space

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import import_module, import_object

PACKAGES = {'gymnasium_robotics': 'gymnasium-robotics', 'panda_gym': 'panda-gym'}
"""Module -> package, of environments that are registered when the module is imported."""
GOAL_SPACES = ('observation', 'desired_goal')  # of Gymnasium-Robotics; achieved_goal is left out
MAX_ENTRIES = 1000
SUPPORTED = (
    "supported are observations in a Box, or in a Dict with 'observation' and 'desired_goal' in "
    f'Boxes, of at most {MAX_ENTRIES} numbers, and actions in a Box of floats with finite bounds'
)


def make(name: str, kwargs: Mapping[str, Any]) -> gymnasium.Env:
    """Make an environment by id or ``module:Class``, without time limit and checking wrappers.

    :raises ConfigError: it does not exist, cannot be made, or resets by itself.
    """
    spec = registered(name)
    creator = spec.entry_point if spec else import_object(name)
    if isinstance(creator, str):
        creator = load_env_creator(creator)
    kwargs = _with_render_mode(creator, kwargs)
    try:
        if spec:
            env = gymnasium.make(spec, max_episode_steps=-1, disable_env_checker=True, **kwargs)
        else:
            env = creator(**kwargs)
    except Exception as error:  # whatever the constructor of somebody's class raises
        raise ConfigError(
            f"environment '{name}': cannot be made with {dict(kwargs)}: "
            f'{type(error).__name__}: {error}'
        ) from error
    _refuse_autoreset(name, env)
    return env


def registered(name: str) -> EnvSpec | None:
    """Specification of a registered environment; None if ``name`` is ``module:Class``.

    :raises ConfigError: an unknown id; the message lists the nearest known ones.
    """
    module, _, identifier = name.rpartition(':')
    if module and identifier.isidentifier():
        return None
    if module:
        import_module(module)  # registers its environments
    registry = gymnasium.registry
    missing = []
    for module, package in PACKAGES.items():
        if identifier in registry:
            break
        if importlib.util.find_spec(module):
            gymnasium.register_envs(importlib.import_module(module))
        else:
            missing.append(package)
    if identifier not in registry:
        near = difflib.get_close_matches(identifier, registry, n=3, cutoff=0.5)
        raise ConfigError(
            f"unknown environment '{name}'; "
            + (f'the nearest known ones are {", ".join(near)}; ' if near else '')
            + 'give an id of gymnasium.registry, module:ID of a module that registers it, or '
            + 'module:Class'
            + (f'; those of {", ".join(missing)} are not installed' if missing else '')
            + (" (pip install 'mbarl_ros[studies]')" if missing else '')
        )
    return registry[identifier]


def _with_render_mode(creator: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """``kwargs`` with render mode rgb_array, where the environment has it."""
    if 'rgb_array' not in getattr(creator, 'metadata', {}).get('render_modes', ()):
        return dict(kwargs)
    parameters = inspect.signature(creator).parameters.values()
    takes_it = any(p.name == 'render_mode' or p.kind is p.VAR_KEYWORD for p in parameters)
    return {'render_mode': 'rgb_array', **kwargs} if takes_it else dict(kwargs)


def _refuse_autoreset(name: str, env: Any) -> None:
    if isinstance(env, gymnasium.vector.VectorEnv):
        raise ConfigError(
            f"environment '{name}': is a vector environment, which resets by itself; give the "
            'single environment'
        )
    if not isinstance(env, gymnasium.Env):
        raise ConfigError(f"environment '{name}': makes a {type(env).__name__}, no gymnasium.Env")
    layer = env
    while isinstance(layer, gymnasium.Wrapper):
        if isinstance(layer, gymnasium.wrappers.Autoreset):
            raise ConfigError(
                f"environment '{name}': has the wrapper Autoreset and resets by itself; leave the "
                'wrapper out'
            )
        layer = layer.env


def reset_counter(env: gymnasium.Env) -> Callable[[], int]:
    """A function that returns how often the innermost environment has been reset.

    That is how a world notices that an environment has reset by itself.
    """
    inner, count = env.unwrapped, 0
    original = inner.reset

    def reset(*arguments: Any, **keywords: Any) -> Any:
        nonlocal count
        count += 1
        return original(*arguments, **keywords)

    with contextlib.suppress(AttributeError):  # a class with __slots__
        inner.reset = reset
    return lambda: count


def observation_boxes(name: str, space: Space) -> dict[str, Box]:
    """The Boxes that make up the observation; the key is empty where it is a single one.

    :raises ConfigError: a space that is not supported.
    """
    boxes = {'': space}
    if isinstance(space, Dict):
        boxes = {key: space[key] for key in GOAL_SPACES if key in space.spaces}
    size = sum(int(np.prod(box.shape)) for box in boxes.values() if isinstance(box, Box))
    whole = not isinstance(space, Dict) or len(boxes) == len(GOAL_SPACES)
    if not whole or not 0 < size <= MAX_ENTRIES or not _all_boxes(boxes):
        raise ConfigError(f"environment '{name}': observation_space {space}: {SUPPORTED}")
    return boxes


def _all_boxes(boxes: Mapping[str, Space]) -> bool:
    return all(isinstance(box, Box) for box in boxes.values())


def action_box(name: str, space: Space) -> Box:
    """The action space.

    :raises ConfigError: it is not supported.
    """
    floats = isinstance(space, Box) and np.issubdtype(space.dtype, np.floating)
    if not floats or not space.is_bounded() or not 0 < np.prod(space.shape) <= MAX_ENTRIES:
        raise ConfigError(f"environment '{name}': action_space {space}: {SUPPORTED}")
    return space


@contextlib.contextmanager
def seeded_globals() -> Iterator[None]:
    """Seed the global random streams, which some environments use, and restore them."""
    import random

    before = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(0)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
