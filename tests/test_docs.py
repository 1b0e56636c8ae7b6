"""README and docs/: links, commands, YAML files, quoted messages, an up-to-date reference."""

import argparse
import ast
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from mbarl_ros.bringup import argument_values, arguments
from mbarl_ros.cli.main import main
from mbarl_ros.schema import topics
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.executables import NODES
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.schema.task import TaskConfig
from mbarl_ros.task import Task

ROOT = Path(__file__).parent.parent
DOCS = ROOT / 'docs'
REFERENCE = runpy.run_path(str(DOCS / 'yaml_reference.py'))
PAGES = sorted([ROOT / 'README.md', *DOCS.glob('*.md')])
FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.DOTALL | re.MULTILINE)
NAMES = {name for name in vars(topics).values() if isinstance(name, str)}
PLACEHOLDER = re.compile(r'\.\.\.|<|\bPATH\b|\bGRAPH\b|\bFILE\b')
every_page = pytest.mark.parametrize('path', PAGES, ids=lambda path: path.stem)


class ParsedError(Exception):
    """Raised in place of running a command whose arguments were accepted."""


def blocks(path: Path, *languages: str) -> list[str]:
    """Fenced blocks of the given languages; '' is none."""
    return [text for language, text in FENCE.findall(path.read_text()) if language in languages]


def commands(path: Path) -> Iterator[list[str]]:
    """Words of each command on a page, in blocks and in the text."""
    lines = [line for text in blocks(path, '') for line in text.replace('\\\n', ' ').splitlines()]
    lines += re.findall(r'`([^`\n]+)`', FENCE.sub('', path.read_text()))
    for line in lines:
        if re.match(r'(\.venv/bin/)?(mbarl|make|python|ros2) ', line):
            if not PLACEHOLDER.search(line):
                words = shlex.split(line.partition(' > ')[0], comments=True)
                yield [words[0].removeprefix('.venv/bin/'), *words[1:]]


def anchors(path: Path) -> set[str]:
    text = FENCE.sub('', path.read_text())
    return {REFERENCE['slug'](title) for title in re.findall(r'^#+ (.+)$', text, re.MULTILINE)}


def first_column(path: Path, header: str) -> list[str]:
    """Code in the first cells of the table whose first header is this."""
    rows, inside = [], False
    for line in path.read_text().splitlines():
        cells = [cell.strip() for cell in line.split('|')[1:-1]]
        inside = bool(cells) and (inside or cells[0] == header)
        rows += re.findall(r'`([^`]+)`', cells[0]) if inside else []
    return rows


def literals() -> set[str]:
    """All texts in the source, with what is put into them left out."""
    found = set()
    for package in ('mbarl_ros', 'sim'):
        for path in (ROOT / package).rglob('*.py'):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
    return found


def check_mbarl(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse as the command itself would, without running it."""
    if words == ['up']:
        return
    if words[0] == 'up':
        if {'-h', '--help'} & set(words):
            arguments.arguments_of(words[1])
        else:
            given = dict(word.split(':=', 1) for word in words[2:])
            argument_values.parse(words[1], given)
        return
    parse = argparse.ArgumentParser.parse_args

    def parse_only(self, *given):
        parse(self, *given)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse_only)
    with pytest.raises((ParsedError, SystemExit)) as raised:
        main(words)
    monkeypatch.undo()
    assert raised.type is ParsedError or raised.value.code == 0, ' '.join(words)


def check_launch(words: list[str]) -> None:
    file, *given = words
    (graph,) = re.findall(r"launch_description\('(\w+)'\)", (ROOT / 'launch' / file).read_text())
    if given != ['--show-args']:
        argument_values.parse(graph, dict(word.split(':=', 1) for word in given))


def test_the_readme_is_three_screens():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 200


@every_page
def test_relative_links_lead_somewhere(path):
    broken = []
    for target in re.findall(r'\]\(([^)\s]+)\)', FENCE.sub('', path.read_text())):
        if re.match(r'\w+:', target):
            continue
        file, _, anchor = target.partition('#')
        to = (path.parent / file).resolve() if file else path
        if not to.exists() or (anchor and anchor not in anchors(to)):
            broken.append(target)
    assert not broken


@every_page
def test_commands_use_arguments_that_exist(path, monkeypatch, capsys):
    targets = re.search(r'^\.PHONY: (.+)$', (ROOT / 'Makefile').read_text(), re.MULTILINE)[1]
    for words in commands(path):
        program, *rest = words
        try:
            if program == 'mbarl':
                check_mbarl(rest, monkeypatch)
            elif words[:3] == ['ros2', 'launch', 'mbarl_ros']:
                check_launch(rest[2:])
            elif words[:3] == ['ros2', 'service', 'call']:
                assert rest[2].lstrip('/') in NAMES, words
            elif program == 'make':
                named = [word for word in rest if '=' not in word]
                assert set(named) <= set(targets.split()), words
            elif program == 'python' and rest[0].endswith('.py'):
                assert (ROOT / rest[0]).is_file(), words
        except (ConfigError, ValueError, OSError) as error:
            pytest.fail(f'{path.name}: {" ".join(words)}: {error}')


def test_a_wrong_command_would_be_noticed(monkeypatch, capsys):
    for words in (['up', 'sim', 'stps:=3'], ['up', 'smi'], ['up', 'sim', 'view:=lively']):
        with pytest.raises(ConfigError):
            check_mbarl(words, monkeypatch)
    with pytest.raises(AssertionError):
        check_mbarl(['demos', 'list', '--tsk', 'x'], monkeypatch)
    with pytest.raises(AssertionError):
        check_mbarl(['dance'], monkeypatch)


@every_page
def test_yaml_examples_are_whole_and_valid(path):
    robots, tasks = {}, {}
    for text in blocks(path, 'yaml'):
        raw = yaml.safe_load(text)
        file = re.match(r'# (\w+\.yaml)\n', text)[1]
        if 'control_rate' in raw:
            robots[file] = RobotConfig.model_validate(raw)
        else:
            tasks[file] = TaskConfig.model_validate(raw)
    for task in tasks.values():
        Task(task, robots[task.robot])


def test_the_example_of_a_world_is_one():
    (text,) = blocks(DOCS / 'architecture.md', 'python')
    names: dict = {}
    exec(text, names)
    world = names['MyWorld'](seed=1)
    state = world.reset()
    assert state.shape == (len(world.state_names),)
    assert world.step(np.ones(len(world.command_names)))[0] > state[0]
    assert np.array_equal(world.reset_to_start(3), names['MyWorld'](seed=2).reset_to_start(3))
    assert world.render(64, 48).shape == (48, 64, 3)


def test_quoted_messages_are_in_the_source():
    quoted = [
        text
        for text in first_column(DOCS / 'troubleshooting.md', 'You see')
        if not re.match(r'ros2 |ModuleNotFoundError', text)
    ]
    texts = literals()
    assert len(quoted) >= 4
    missing = [text for text in quoted if not any(text in literal for literal in texts)]
    assert not missing, f'troubleshooting.md quotes what nobody prints: {missing}'


def test_tables_name_all_there_is():
    agents = {path.stem for path in (ROOT / 'config' / 'agents').glob('*.yaml')}
    robots = {path.stem for path in (ROOT / 'config' / 'robots').glob('*.yaml')}
    rooms = {
        path.name + '/' * path.is_dir()
        for path in (ROOT / 'mbarl_ros').iterdir()
        if not path.name.startswith('__')
    }
    assert set(first_column(DOCS / 'methods.md', 'Preset')) == {*agents, 'bc', 'random'}
    assert set(first_column(DOCS / 'your_robot.md', 'Profile in `config/robots`')) >= robots
    assert set(first_column(DOCS / 'architecture.md', 'Room')) == rooms
    assert set(first_column(DOCS / 'concepts.md', 'Node')) == set(NODES)
    named = first_column(DOCS / 'concepts.md', 'Topic or service')
    assert {name for name in named if '/' in name} <= NAMES


@every_page
def test_a_page_says_first_what_is_on_it(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith('# ')
    if path.parent == DOCS:
        assert lines[2].startswith('*On this page: ')
        assert f': {path.name}\n' in (ROOT / 'mkdocs.yml').read_text()


def test_the_yaml_reference_is_up_to_date():
    assert REFERENCE['PAGE'].read_text() == REFERENCE['page'](), (
        'docs/yaml_reference.md is stale: run python docs/yaml_reference.py'
    )


def test_every_key_has_a_description():
    assert not REFERENCE['undescribed']()


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    pytest.importorskip('mkdocs', reason='pip install mkdocs-material')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', tmp_path / 'site']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'site' / 'methods.html').exists()
