"""The values of a graph's arguments, parsed from text and checked."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Mapping

from mbarl_ros.bringup.arguments import Argument, Value, arguments_of
from mbarl_ros.schema.base import ConfigError

# Of which each has three processes; Fast DDS has ports for about a hundred on one machine.
_MAX_ROBOTS = 30
_LARGEST = 2**63 - 1  # whole number that a ROS parameter can hold


def parse(graph: str, given: Mapping[str, str]) -> dict[str, Value]:
    """All arguments of a graph as typed values; those that are not given have their defaults.

    :raises ConfigError: an unknown graph or argument, or text that is not a valid value.
    """
    known = {argument.name: argument for argument in arguments_of(graph)}
    for name in given:
        if name not in known:
            raise ConfigError(
                f"unknown argument '{name}' of graph '{graph}'; known: {', '.join(known)}"
            )
    values = {
        name: _value(argument, given.get(name, argument.default))
        for name, argument in known.items()
    }
    name = r'[A-Za-z][A-Za-z0-9_]*'
    if not re.fullmatch(rf'(/?{name})?(/{name})*', str(values['namespace'])):
        raise ConfigError(
            f"argument 'namespace' must be a ROS name like robot1, got '{values['namespace']}'"
        )
    for name in ('steps', 'seed', 'episodes'):
        if int(values.get(name, 0)) < 0:
            raise ConfigError(f"argument '{name}' must be 0 or more, got {values[name]}")
        if int(values.get(name, 0)) > _LARGEST:
            raise ConfigError(f"argument '{name}' must be at most {_LARGEST}, got {values[name]}")
    if not 0 <= int(values['web_port']) <= 65535:
        raise ConfigError(f"argument 'web_port' must be 0 to 65535, got {values['web_port']}")
    if not 1 <= int(values.get('robots', 1)) <= _MAX_ROBOTS:
        raise ConfigError(
            f"argument 'robots' must be from 1 to {_MAX_ROBOTS}, got {values['robots']}"
        )
    at_robot = values.get('fleet') and values['host'] != 'learner'
    if at_robot and not str(values['namespace']).strip('/'):
        raise ConfigError("argument 'fleet': give the namespace of this robot: namespace:=robot_1")
    if not 0 <= float(values.get('target', 0)) <= 1:
        raise ConfigError(f"argument 'target' must be a rate from 0 to 1, got {values['target']}")
    if not 0 < float(values.get('real_time_factor', 1)) < math.inf:
        raise ConfigError(
            "argument 'real_time_factor' must be greater than 0 and finite, got "
            f'{values["real_time_factor"]}'
        )
    _check_web(values, given)
    return values


def _check_web(values: Mapping[str, Value], given: Mapping[str, str]) -> None:
    if values['view'] != 'web':
        for name in ('web_port', 'web_control'):
            if name in given:
                raise ConfigError(f"argument '{name}' is for the page; give view:=web as well")
    elif importlib.util.find_spec('aiohttp') is None:
        raise ConfigError(
            "view:=web needs aiohttp: pip install 'aiohttp>=3.9', or apt install python3-aiohttp"
        )


def _value(argument: Argument, text: str) -> Value:
    if argument.choices and text not in argument.choices:
        raise ConfigError(
            f"argument '{argument.name}' must be one of {', '.join(argument.choices)}, got '{text}'"
        )
    if argument.kind is bool:
        if text.lower() not in ('true', 'false'):
            raise ConfigError(f"argument '{argument.name}' must be true or false, got '{text}'")
        return text.lower() == 'true'
    if argument.kind is str:
        return text
    try:
        return argument.kind(text)
    except ValueError:
        kind = 'a whole number' if argument.kind is int else 'a number'
        raise ConfigError(f"argument '{argument.name}' must be {kind}, got '{text}'") from None
