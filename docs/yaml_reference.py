"""Generates docs/yaml_reference.md from the pydantic schemas: keys, types, defaults, descriptions.

    python docs/yaml_reference.py             writes the page
    python docs/yaml_reference.py --check     exit code 1 if the page is stale

Edit the descriptions in mbarl_ros/schema/, never the page. Needs pydantic, and no ROS.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Tag
from pydantic.fields import FieldInfo

from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.schema.task import TaskConfig

PAGE = Path(__file__).with_suffix('.md')
FILES: dict[str, tuple[type[BaseModel], str]] = {
    'Robot': (RobotConfig, 'Files: `config/robots/*.yaml`, or the path given as `robot:=`.'),
    'Task': (TaskConfig, 'Files: `config/tasks/*.yaml`, or the path given as `task:=`.'),
    'Agent': (AgentConfig, 'Files: `config/agents/*.yaml`, or the path given as `agent:=`.'),
}
NAMES = {str: 'string', int: 'integer', float: 'number', bool: 'boolean'}
BOUNDS = {'gt': '>', 'ge': '≥', 'lt': '<', 'le': '≤'}
INTRODUCTION = """\
# YAML reference

*On this page: every key of the three kinds of YAML files, with type, default and meaning.*

This page is generated from the schemas in `mbarl_ros/schema/` by `python docs/yaml_reference.py`.
The schemas check each file before any node starts. An unknown or misspelled key is an error, and
the message names the file and the key.

These files are not ROS parameter files: the nodes receive their names as parameters and read them
themselves. [Your robot and task](your_robot.md) explains how to write them.

In headings, `[]` stands for each element of a list and `NAME` for each name in a map.
"""


def models_in(annotation: Any, path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Sections in a type, each with the path at which it stands in the file."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield path, annotation
        return
    origin = get_origin(annotation)
    suffix = {list: '[]', dict: '.NAME'}.get(origin, '')
    for kind in getattr(annotation, '__metadata__', ()):
        suffix += f' {kind.tag}' if isinstance(kind, Tag) else ''  # which of a choice
    for argument in get_args(annotation):
        yield from models_in(argument, path + suffix)


def sections(root: type[BaseModel]) -> dict[type[BaseModel], list[str]]:
    """All sections of a file in reading order, and the paths at which each may stand."""
    found: dict[type[BaseModel], list[str]] = {}

    def walk(model: type[BaseModel], path: str) -> None:
        found.setdefault(model, []).append(path)
        if len(found[model]) > 1:
            return
        for name, field in model.model_fields.items():
            for inner, section in models_in(field.annotation, f'{path}.{name}'.lstrip('.')):
                walk(section, inner)

    walk(root, '')
    return found


def heading(title: str, paths: list[str]) -> str:
    """Heading of a section, for example ``Robot: `state[]`, `command[]```."""
    return f'{title}: ' + ', '.join(f'`{path}`' for path in paths)


def slug(text: str) -> str:
    """Anchor that both MkDocs and GitHub give to a heading."""
    return re.sub(r'[^\w\s-]', '', text).strip().lower().replace(' ', '-')


def either(words: list[str]) -> str:
    """Words of a choice: ``a, b or c``."""
    return ' or '.join(filter(None, (', '.join(words[:-1]), words[-1])))


def type_text(annotation: Any, links: dict[type[BaseModel], str]) -> str:
    """A type in words; sections are links."""
    if annotation in links:
        return links[annotation]
    if annotation is Any:
        return 'any value'
    if annotation is type(None):
        return '`null`'
    if annotation in NAMES:
        return NAMES[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0], links)
    if origin is Literal:
        return either([f'`{value}`' for value in arguments])
    if origin in (Union, types.UnionType):
        return either([type_text(argument, links) for argument in arguments])
    if origin is list:
        return f'list of {type_text(arguments[0], links)}'
    if origin is dict:
        key, value = (type_text(argument, links) for argument in arguments)
        return f'map of {"names" if key == NAMES[str] else key} to {value}'
    if origin is tuple:
        return '[' + ', '.join(type_text(argument, links) for argument in arguments) + ']'
    raise TypeError(f'{annotation}: yaml_reference.py has no words for this type')


def bounds_text(field: FieldInfo) -> str:
    """Bounds of a number, for example ``> 0, ≤ 1``; of a list, that it must not be empty."""
    parts = []
    for item in field.metadata:
        for name, sign in BOUNDS.items():
            if (bound := getattr(item, name, None)) is not None:
                parts.append(f'{sign} {bound:g}')
        if getattr(item, 'min_length', None):
            parts.append('not empty')
    return ', '.join(parts)


def default_text(field: FieldInfo) -> str:
    """Default as it would stand in the file."""
    if field.is_required():
        return '**required**'
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        return 'its defaults'
    return f'`{json.dumps(default, ensure_ascii=False)}`'


def prose(text: str | None) -> str:
    """Docstring or description as Markdown on one line per paragraph."""
    text = re.sub(r':\w+:`~?\.?([^`]+)`', r'`\1`', inspect.cleandoc(text or ''))
    text = text.replace('``', '`')
    return '\n\n'.join(' '.join(part.split()) for part in text.split('\n\n'))


def table(model: type[BaseModel], links: dict[type[BaseModel], str]) -> list[str]:
    """Rows of the keys of a section."""
    lines = ['| Key | Type | Default | Meaning |', '| --- | --- | --- | --- |']
    for name, field in model.model_fields.items():
        kind, bounds = type_text(field.annotation, links), bounds_text(field)
        cells = (
            f'`{name}`',
            f'{kind}, {bounds}' if bounds else kind,
            default_text(field),
            prose(field.description),
        )
        lines.append('| ' + ' | '.join(cell.replace('|', '\\|') for cell in cells) + ' |')
    return lines


def page() -> str:
    """The whole page."""
    lines = [INTRODUCTION]
    for title, (root, about) in FILES.items():
        found = sections(root)
        links = {
            model: f'[`{paths[0]}`](#{slug(heading(title, paths))})'
            for model, paths in found.items()
            if model is not root
        }
        for model, paths in found.items():
            first = f'## {title}' if model is root else f'### {heading(title, paths)}'
            lines += [first, '', *([about, ''] if model is root else [])]
            lines += [prose(model.__doc__), '', *table(model, links), '']
    return '\n'.join(lines).rstrip() + '\n'


def undescribed() -> list[str]:
    """Keys without a description."""
    return [
        f'{title}: {".".join(filter(None, (paths[0], name)))}'
        for title, (root, _) in FILES.items()
        for model, paths in sections(root).items()
        for name, field in model.model_fields.items()
        if not field.description
    ]


def main() -> int:
    """Write the page, or say whether it is stale."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--check', action='store_true', help='write nothing')
    if parser.parse_args().check:
        stale = not PAGE.exists() or PAGE.read_text() != page()
        print(f'{PAGE}: {"stale; run python docs/yaml_reference.py" if stale else "up to date"}')
        return int(stale)
    PAGE.write_text(page())
    print(PAGE)
    return 0


if __name__ == '__main__':
    sys.exit(main())
