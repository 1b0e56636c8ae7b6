"""``mbarl render``: what is in the frames is what happened."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageColor

from mbarl_ros.cli.main import main
from mbarl_ros.control.policy import DEPLOYED, Policy, pack_policy, policy_names, policy_shapes
from mbarl_ros.demos.replay import load_replays
from mbarl_ros.learning.evaluation import WideStarts, attempt
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.schema.load import load_agent
from mbarl_ros.storage.run_files import KEPT_POLICY_FILE, POLICY_FILE, write_config
from mbarl_ros.task import Task
from mbarl_ros.view import film
from support.graph import small_agent
from support.user_worlds import task_with

DEMOS = Path(__file__).parent.parent / 'demos'
WIDTH, HEIGHT = 80, 60
SIZE = ['--width', str(WIDTH), '--height', str(HEIGHT)]
PAUSE = 12  # frames of 0.1 s


def weights(task: Task, agent: AgentConfig, action: list[float]) -> dict[str, np.ndarray]:
    """Policies that always do the same."""
    names = policy_names(agent)
    shapes = policy_shapes(names, task.observation_dim, task.action_dim, agent.sac.hidden)
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    arrays['scale'] += 1.0
    for name in names:
        layer = len(agent.sac.hidden)
        arrays[f'{name}/{layer}/bias'][:] = [*np.arctanh(action), *[-10.0] * task.action_dim]
    return arrays


def write_run(folder: Path, task: str, action: list[float], **changes) -> Task:
    """Run folder of a policy that always does the same."""
    agent = load_agent(small_agent(folder, **changes))
    loaded = Task.load(task)
    for name, config in (('task', loaded.config), ('robot', loaded.robot), ('agent', agent)):
        write_config(folder / f'{name}.yaml', config.model_dump(mode='json'))
    for name, steps in (
        (KEPT_POLICY_FILE.format(0), 0),
        (KEPT_POLICY_FILE.format(500), 500),
        (POLICY_FILE, 1500),
    ):
        data = pack_policy(weights(loaded, agent, action), loaded, agent, steps, 0)
        (folder / name).write_bytes(data)
    return loaded


@pytest.fixture
def run(tmp_path):
    """Run folder and task: drive right, and be right of 1 m within 15 steps."""
    raw = Task.load('pointmass').config.model_dump(mode='json')
    raw['success'] = {'entries': ['x'], 'target': [1.2], 'tolerance': 0.2}
    raw['evaluation'].update(horizon=15, wide={'episodes': 3, 'every': 100, 'ranges': {}})
    raw['evaluation']['wide']['ranges'] = {'x': [-1.8, 0.6], 'y': [-1.8, -0.3]}
    path = tmp_path / 'right.yaml'
    path.write_text(yaml.safe_dump(raw))
    folder = tmp_path / 'run'
    folder.mkdir()
    return folder, write_run(folder, str(path), [0.9, 0.0])


def frames(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path).convert('RGB')) for path in sorted(folder.glob('*.png'))]


def panel(frame: np.ndarray, number: int = 0) -> np.ndarray:
    """The picture of a panel, without captions and edge."""
    left = number * (WIDTH + 6) + 3
    return frame[42 : 42 + HEIGHT, left : left + WIDTH]


def edge(frame: np.ndarray) -> tuple[int, ...]:
    """Colour of the left edge."""
    return tuple(frame[-20, 1])


def test_a_film_of_a_policy_shows_the_episodes_that_its_evaluation_counts(run, tmp_path, capsys):
    folder, task = run
    words = ['--frames', str(tmp_path / 'frames'), '--episodes', '0,1,2,3,4,5']
    assert main(['render', str(folder), *words, *SIZE]) == 0
    out = capsys.readouterr().out
    policy = Policy(weights(task, load_agent(str(folder / 'agent.yaml')), [0.9, 0.0]), DEPLOYED)
    world = task.load_world(seed=0)
    expected = [attempt(task, world, policy, start) for start in range(6)]
    assert 0 < sum(expected) < 6
    ends = [line for line in out.splitlines() if 'start' in line]
    assert [': success: ' in line for line in ends] == expected
    assert [': time-out: ' in line for line in ends] == [not success for success in expected]
    assert all(line.startswith('small, 1,500 steps (2 min 30 s): ') for line in ends)
    steps = [int(line.split(' step ')[1].split(',')[0]) for line in ends]
    pictures = frames(tmp_path / 'frames')
    assert len(pictures) == sum(steps) + 6 * (1 + PAUSE)
    last, seen = -1, []
    for count in steps:
        first, last = last + 1, last + 1 + count + PAUSE
        assert edge(pictures[first]) == (255, 255, 255) or count == 0
        seen.append(edge(pictures[last]) == ImageColor.getrgb(film.SUCCESS))
        assert edge(pictures[last]) in map(ImageColor.getrgb, (film.SUCCESS, film.FAILURE))
    assert seen == expected


def test_each_frame_shows_the_world_as_it_was(run, tmp_path):
    folder, task = run
    assert main(['render', str(folder), '--frames', str(tmp_path / 'f'), *SIZE]) == 0
    pictures, world = frames(tmp_path / 'f'), task.load_world(seed=0)
    world.reset_to_start(0)
    for picture in pictures[: len(pictures) - PAUSE]:
        np.testing.assert_array_equal(panel(picture), world.render(WIDTH, HEIGHT))
        world.step(task.command(np.array([0.9, 0.0])))


def test_wide_starts_are_those_of_the_evaluation(run, tmp_path, capsys):
    folder, task = run
    words = ['render', str(folder), '--wide', *SIZE]
    assert main([*words, '--frames', str(tmp_path / 'f'), '--episodes', '2']) == 0
    starts = WideStarts(task)
    starts.reset(starts.worlds[0], 2)
    first = panel(frames(tmp_path / 'f')[0])
    np.testing.assert_array_equal(first, starts.worlds[0].render(WIDTH, HEIGHT))
    assert main([*words, '--frames', str(tmp_path / 'g'), '--episodes', '3']) == 2
    assert 'there is no wide start 3; it has 0 to 2' in capsys.readouterr().err


def test_progress_is_a_panel_for_each_kept_policy(run, tmp_path, capsys):
    folder, _ = run
    words = ['render', str(folder), '--speed', '2', *SIZE]
    assert main([*words, '--steps', 'all', '--output', str(tmp_path / 'all.gif')]) == 0
    out = capsys.readouterr().out
    assert [line.split(': ')[0] for line in out.splitlines()[:3]] == [
        'small, before practice',
        'small, 500 steps (0 min 50 s)',
        'small, 1,500 steps (2 min 30 s)',
    ]
    with Image.open(tmp_path / 'all.gif') as image:
        assert image.n_frames > 2 and image.width == 3 * (WIDTH + 6)
        assert image.info['duration'] % 100 == 0 and image.info['loop'] == 0
    assert main([*words, '--steps', '0,7', '--output', str(tmp_path / 'some.gif')]) == 2
    assert 'no policy of 7 steps; it has those of 0, 500, 1500' in capsys.readouterr().err


def test_the_backward_phase_begins_where_the_forward_phase_ended(run, tmp_path, capsys):
    folder, task = run
    words = ['--phase', 'backward', '--frames', str(tmp_path / 'f'), *SIZE]
    assert main(['render', str(folder), *words]) == 0
    out = capsys.readouterr().out
    limits = task.config.phases
    assert f'backward: end: start 0, step {limits.backward_limit}' in out
    world = task.load_world(seed=0)
    state = world.reset_to_start(0)
    for _ in range(limits.forward_limit):
        if task.success(task.observation(state)):
            break
        state = world.step(task.command(np.array([0.9, 0.0])))
    first = panel(frames(tmp_path / 'f')[0])
    np.testing.assert_array_equal(first, world.render(WIDTH, HEIGHT))


@pytest.mark.parametrize('name', ['pointmass', 'door', 'tabletop'])
def test_a_demonstration_is_shown_as_it_was_recorded(name, tmp_path, capsys):
    words = ['--episodes', '1', '--frames', str(tmp_path / 'f'), *SIZE]
    assert main(['render', str(DEMOS / name), *words]) == 0
    task = Task.load(name)
    (replay,) = load_replays(DEMOS / name / 'forward_001', task)
    assert 'demonstration forward_001: success: ' in capsys.readouterr().out
    pictures, world = frames(tmp_path / 'f'), task.load_world(seed=0)
    assert len(pictures) == len(replay.states) + PAUSE
    for number in (0, len(replay.states) // 2, -1):
        world.set_state(replay.states[number])
        expected, shown = world.render(WIDTH, HEIGHT), panel(pictures[number])
        marked = (shown != expected).any(axis=-1)
        ring = (shown == ImageColor.getrgb(film.MARK)).all(axis=-1)
        assert (marked == ring).all()  # nothing else is drawn into the picture
        assert marked.any() == task.goal_conditioned
        if task.goal_conditioned:  # around the place where the mug is at the end
            rows, columns = np.nonzero(marked)
            x, y = replay.episode.goal(task)[2:4]
            column, row = expected.camera.project(np.array([x, y, 0.0]), WIDTH, HEIGHT)
            assert abs(columns.mean() - column) < 1 and abs(rows.mean() - row) < 1
    assert edge(pictures[-1]) == ImageColor.getrgb(film.SUCCESS)


def test_backward_demonstrations_have_numbers_of_their_own(tmp_path, capsys):
    words = ['render', str(DEMOS / 'door'), '--phase', 'backward', '--speed', '9', *SIZE]
    assert main([*words, '--episodes', '3', '--output', str(tmp_path / 'a.gif')]) == 0
    assert 'demonstration backward_003: end: ' in capsys.readouterr().out
    assert main([*words, '--episodes', '10', '--output', str(tmp_path / 'b.gif')]) == 2
    assert 'there is no backward demonstration' in capsys.readouterr().err
    assert not (tmp_path / 'b.gif').exists()


def test_sources_are_shown_side_by_side_and_a_shorter_one_waits(run, tmp_path):
    folder, _ = run
    sources = [str(folder / POLICY_FILE), str(DEMOS / 'pointmass' / 'forward_000')]
    assert main(['render', *sources, '--frames', str(tmp_path / 'f'), *SIZE]) == 0
    (replay,) = load_replays(DEMOS / 'pointmass' / 'forward_000', Task.load('pointmass'))
    pictures = frames(tmp_path / 'f')
    assert len(pictures) == len(replay.states) + PAUSE
    np.testing.assert_array_equal(panel(pictures[-20]), panel(pictures[20]))
    assert (panel(pictures[20], 1) != panel(pictures[-20], 1)).any()


def test_a_gymnasium_environment_is_filmed_by_its_own_picture(tmp_path, monkeypatch, capsys):
    shutil.copy(Path(__file__).parent / 'support' / 'user_envs.py', tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'run').mkdir()
    name = 'gymnasium:user_envs:Cart?goal=1.0,max_episode_steps=30'
    write_run(tmp_path / 'run', name, [0.9], backward='none', model=None)
    assert main(['render', 'run', '--output', 'cart.gif', '--frames', 'f']) == 0
    assert 'success: start 0' in capsys.readouterr().out
    assert (frames(Path('f'))[0][42:46, 3:9] == 0).all()  # black, 6 x 4


def test_an_mp4_has_all_frames(run, tmp_path):
    av = pytest.importorskip('av', reason="pip install 'mbarl_ros[video]'")
    folder, _ = run
    path, words = tmp_path / 'a.mp4', ['--width', '81', '--height', '61']
    more = ['--frames', str(tmp_path / 'f')]
    assert main(['render', str(folder), '--output', str(path), *words, *more]) == 0
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == 'h264' and stream.average_rate == 10
        shown = [frame.to_ndarray(format='rgb24') for frame in container.decode(stream)]
    pictures = frames(tmp_path / 'f')
    assert len(shown) == len(pictures)
    for one, two in zip(shown, pictures, strict=True):
        assert one.shape == two.shape and np.abs(one.astype(int) - two).mean() < 8


def test_without_the_package_for_mp4_the_message_names_the_extra(
    run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    folder, _ = run
    assert main(['render', str(folder), '--output', str(tmp_path / 'a.mp4')]) == 2
    assert "pip install 'mbarl_ros[video]'" in capsys.readouterr().err


def test_what_exists_is_replaced_only_on_request(run, tmp_path, capsys):
    folder, _ = run
    file, shots = tmp_path / 'a.gif', tmp_path / 'f'
    words = ['render', str(folder), '--output', str(file), '--frames', str(shots), *SIZE]
    assert main(words) == 0
    before = file.read_bytes()
    for kept in (words[:4], [*words[:2], *words[4:]]):
        assert main(kept) == 2
        assert 'exists already; give another name, or --overwrite' in capsys.readouterr().err
    assert file.read_bytes() == before
    assert main([*words, '--overwrite', '--speed', '5']) == 0
    assert file.read_bytes() != before
    assert len(frames(shots)) == 19  # 0.08 s each; none of the earlier film


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['{run}', '--output', 'a.avi'], "unknown ending '.avi'; use .gif or .mp4"),
        (['{run}'], 'give --output FILE.gif or FILE.mp4, or --frames FOLDER'),
        (['nowhere', '--output', 'a.gif'], 'nowhere: no such file or folder'),
        (['{run}/..', '--output', 'a.gif'], 'there is no policy.safetensors in it'),
        (['{demos}', '--wide', '--output', 'a.gif'], '--wide and --steps are for policies only'),
        (['{run}', '--steps', 'x', '--output', 'a.gif'], 'give numbers like 0,1,2'),
        (['{demos}', '{run}/fast', '--output', 'a.gif'], 'different control rates'),
        (['{run}/blind', '--output', 'a.gif'], 'makes no pictures'),
        (['{run}/one_way', '--phase', 'backward', '--output', 'a.gif'], 'has no backward policy'),
    ],
)
def test_mistakes_are_one_sentence(words, message, run, tmp_path, monkeypatch, capsys):
    folder, _ = run
    for name in ('fast', 'blind', 'one_way'):
        (folder / name).mkdir()
    write_run(folder / 'blind', str(task_with(tmp_path, 'Blind')), [0.5, 0.5])
    write_run(folder / 'one_way', 'pointmass', [0.5, 0.5], backward='none', model=None)
    write_run(folder / 'fast', 'arm_velocity', [0.5, 0.5, 0.5])
    monkeypatch.chdir(tmp_path)
    words = [word.format(run=folder, demos=DEMOS / 'pointmass') for word in words]
    assert main(['render', *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'a.gif').exists()
