"""The moving picture of the README: the same task tried before, early in and after practice.

    python benchmarks/learning_gif.py
    python benchmarks/learning_gif.py --task pointmass --steps 0 1000 5000 --output room.gif

Practises without ROS, as ``mbarl bench`` does (seed 0, the task's own demonstrations), and keeps
the deployed policy at each of ``--steps``. Each policy then tries the same evaluation starts in a
world of its own; a panel shows a policy. Writes docs/images/learning.gif. ``--policies FILE.npz``
keeps the policies, so that the picture can be drawn again without practice.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pybullet
from PIL import Image, ImageDraw, ImageFont

from mbarl_ros.control.policy import DEPLOYED, Policy
from mbarl_ros.demos.reader import load_demonstrations
from mbarl_ros.schema.load import load_agent
from mbarl_ros.studies.direct import DirectRun
from mbarl_ros.task import Task

OUTPUT = Path(__file__).parent.parent / 'docs' / 'images' / 'learning.gif'
SIDE = 250  # pixels, of a panel
CAPTION = 22  # pixels above each panel
EVERY = 4  # environment steps between frames
PAUSE = 20  # steps for which the end of an attempt is shown
DURATION = 80  # ms, of a frame
# Camera of Tabletop.render, to draw a ring around the goal of the attempt.
EYE, FIELD_OF_VIEW = (0, -3.2, 8.6), 41


def practise(task: Task, seed: int, steps: list[int]) -> dict[str, np.ndarray]:
    """Weights after each number of environment steps, as ``STEPS:ARRAY``."""
    demonstrations = load_demonstrations(task.config.demonstrations, task)
    direct = DirectRun(task, load_agent('mbarl'), demonstrations, seed)
    weights = {}
    for wanted in steps:
        while direct.practice.steps < wanted:
            direct.train(direct.collect())
        print(f'{direct.practice.steps} steps', flush=True)
        arrays = direct.learner.policy_arrays()
        weights |= {f'{wanted}:{name}': np.array(array) for name, array in arrays.items()}
    return weights


def policy(weights: dict[str, np.ndarray], steps: int) -> Policy:
    """Deployed policy after so many steps."""
    prefix = f'{steps}:'
    arrays = {n.removeprefix(prefix): a for n, a in weights.items() if n.startswith(prefix)}
    return Policy(arrays, DEPLOYED)


def attempt(task: Task, world, policy: Policy, start: int) -> tuple[list[Image.Image], bool]:
    """Pictures of one evaluation episode, and whether it reached the goal."""
    horizon = task.config.evaluation.horizon
    state = world.reset_to_start(start)
    goal = task.goals[start % len(task.goals)] if task.goal_conditioned else None
    frames = []
    for step in range(horizon + 1):
        observation = task.observation(state[None], None if goal is None else goal[None])
        success = bool(task.success(observation)[0])
        if success or step % EVERY == 0:
            frames.append(draw(world, goal))
        if success:
            return frames, True
        if step < horizon:
            state = world.step(task.command(policy.mean_action(observation))[0])
    return frames, False


def draw(world, goal: np.ndarray | None) -> Image.Image:
    """Picture of a world; a ring marks the goal of a goal-conditioned task (tabletop: the mug)."""
    image = Image.fromarray(world.render(SIDE, SIDE))
    if goal is None:
        return image
    view = np.reshape(pybullet.computeViewMatrix(EYE, (0, 0, 0), (0, 1, 0)), (4, 4)).T
    lens = np.reshape(pybullet.computeProjectionMatrixFOV(FIELD_OF_VIEW, 1, 0.1, 30), (4, 4)).T
    clip = lens @ view @ np.array([goal[2], goal[3], 0.0, 1.0])
    x, y = (clip[0] / clip[3] + 1) * SIDE / 2, (1 - clip[1] / clip[3]) * SIDE / 2
    ImageDraw.Draw(image).ellipse((x - 17, y - 15, x + 17, y + 15), outline='crimson', width=3)
    return image


def caption(task: Task, steps: int) -> str:
    """What a panel shows: steps and the robot time that they take."""
    if not steps:
        return 'before practice'
    seconds = steps / task.robot.control_rate
    return f'{steps:,} steps: {seconds // 60:.0f} min {seconds % 60:.0f} s'


def panel(frame: Image.Image, text: str, ended: bool | None) -> Image.Image:
    """A frame with its caption above, framed green or red when the attempt has ended."""
    image = Image.new('RGB', (SIDE + 6, SIDE + CAPTION + 3), 'white')
    image.paste(frame, (3, CAPTION))
    pen = ImageDraw.Draw(image)
    pen.text((6, 3), text, fill='black', font=ImageFont.load_default(size=14))
    if ended is not None:
        colour = 'forestgreen' if ended else 'firebrick'
        pen.rectangle((1, CAPTION - 2, SIDE + 4, SIDE + CAPTION + 1), outline=colour, width=3)
    return image


def film(
    task: Task, policies: list[Policy], texts: list[str], starts: list[int]
) -> list[Image.Image]:
    """Frames of all attempts, one after the other, with a panel for each policy."""
    worlds = [task.load_world(seed=0) for _ in policies]
    frames = []
    for start in starts:
        tries = [
            attempt(task, world, policy, start)
            for world, policy in zip(worlds, policies, strict=True)
        ]
        print(f'start {start}: {[reached for _, reached in tries]}', flush=True)
        longest = max(len(pictures) for pictures, _ in tries)
        for index in range(longest + PAUSE // EVERY):
            whole = Image.new('RGB', (len(tries) * (SIDE + 6), SIDE + CAPTION + 3), 'white')
            for column, ((pictures, reached), text) in enumerate(zip(tries, texts, strict=True)):
                ended = reached if index >= len(pictures) - 1 else None
                picture = pictures[min(index, len(pictures) - 1)]
                whole.paste(panel(picture, text, ended), (column * (SIDE + 6), 0))
            frames.append(whole)
    return frames


def main() -> None:
    """Practise, film, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--task', default='tabletop')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--steps', type=int, nargs='+', default=[0, 1000, 2000])
    parser.add_argument('--starts', type=int, nargs='+', default=[0, 1, 2, 3])
    parser.add_argument('--policies', type=Path, help='.npz: used if it exists, else written')
    parser.add_argument('--output', type=Path, default=OUTPUT)
    options = parser.parse_args()
    task = Task.load(options.task)
    steps = sorted(options.steps)
    if options.policies and options.policies.exists():
        weights = dict(np.load(options.policies))
    else:
        weights = practise(task, options.seed, steps)
        if options.policies:
            np.savez(options.policies, **weights)
    policies = [policy(weights, number) for number in steps]
    frames = film(task, policies, [caption(task, number) for number in steps], options.starts)
    # One palette for all frames: what does not change is then not stored again.
    palette = frames[len(frames) // 2].quantize(64)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    more = {'append_images': frames[1:], 'duration': DURATION, 'loop': 0, 'optimize': True}
    frames[0].save(options.output, save_all=True, **more)
    print(f'{options.output}: {len(frames)} frames, {options.output.stat().st_size / 1e6:.2f} MB')


if __name__ == '__main__':
    main()
