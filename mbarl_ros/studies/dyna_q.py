"""Tabular Dyna-Q, to be read from top to bottom: the idea of this package in its smallest form.

A robot that learns only from what it does needs many steps, since each step corrects the value of
one action in one state. Dyna-Q also remembers what each step led to. That memory is a model, and
between two real steps the agent *plans*: it repeats remembered steps in imagination and learns from
them as if they were real. Real steps are expensive, imagined ones are not.

Sutton and Barto, Reinforcement Learning, 2nd edition, sections 8.2 (Dyna-Q) and 8.3 (Dyna-Q+). The
letters (a) to (f) below are those of their box "Tabular Dyna-Q".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ROWS, COLUMNS = 6, 9
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))  # up, down, left, right
LONGEST_PATH = 200  # steps after which a greedy path counts as not arriving

Square = tuple[int, int]


@dataclass(frozen=True)
class Maze:
    """A grid world. Reward 1 on reaching the goal, else 0; a move into a wall stays in place.

    Squares are (row, column), from the upper left. ``later_walls`` replace ``walls`` after
    ``change`` real steps, of which the agent is not told.
    """

    start: Square
    goal: Square
    walls: frozenset[Square]
    later_walls: frozenset[Square] = frozenset()
    change: int | None = None

    def walls_at(self, time: int) -> frozenset[Square]:
        """The walls after ``time`` real steps."""
        return self.walls if self.change is None or time < self.change else self.later_walls

    def step(self, state: int, action: int, time: int) -> tuple[float, int]:
        """Reward and next state; states are numbered row by row."""
        row, column = divmod(state, COLUMNS)
        down, right = MOVES[action]
        to = (row + down, column + right)
        inside = 0 <= to[0] < ROWS and 0 <= to[1] < COLUMNS
        if inside and to not in self.walls_at(time):
            state = number(to)
        return float(to == self.goal), state


def number(square: Square) -> int:
    """Number of the state that a square is."""
    return square[0] * COLUMNS + square[1]


def _row(row: int, columns: range) -> frozenset[Square]:
    return frozenset((row, column) for column in columns)


DYNA_MAZE = Maze(  # their Figure 8.2; the shortest path has 14 steps
    start=(2, 0),
    goal=(0, 8),
    walls=frozenset({(1, 2), (2, 2), (3, 2), (4, 5), (0, 7), (1, 7), (2, 7)}),
)
BLOCKING_MAZE = Maze(  # their Figure 8.4: the opening on the right closes, one on the left opens
    start=(5, 3),
    goal=(0, 8),
    walls=_row(3, range(8)),
    later_walls=_row(3, range(1, 9)),
    change=1000,
)
SHORTCUT_MAZE = Maze(  # their Figure 8.5: a shorter way on the right opens, the long one stays
    start=(5, 3),
    goal=(0, 8),
    walls=_row(3, range(1, 9)),
    later_walls=_row(3, range(1, 8)),
    change=3000,
)
MAZES = {'dyna': DYNA_MAZE, 'blocking': BLOCKING_MAZE, 'shortcut': SHORTCUT_MAZE}


class DynaQ:
    """Tabular Dyna-Q; with ``kappa`` > 0 Dyna-Q+."""

    def __init__(
        self,
        maze: Maze,
        planning_steps: int,
        seed: int,
        *,
        alpha: float = 0.1,
        gamma: float = 0.95,
        epsilon: float = 0.1,
        kappa: float = 0.0,
    ) -> None:
        """Start with all values zero and an empty model.

        :param planning_steps: n, imagined steps after each real one; 0 is plain Q-learning
        :param alpha: step size
        :param gamma: discount
        :param epsilon: share of random actions
        :param kappa: bonus for actions that have not been tried for long (Dyna-Q+)
        """
        self.maze, self.planning_steps = maze, planning_steps
        self.alpha, self.gamma, self.epsilon, self.kappa = alpha, gamma, epsilon, kappa
        self.rng = np.random.default_rng(seed)
        # Lists, not arrays: for four numbers they are several times faster.
        self.q = [[0.0] * len(MOVES) for _ in range(ROWS * COLUMNS)]
        self.model: dict[int, dict[int, tuple[float, int]]] = {}  # state -> action -> outcome
        self.last_tried = [[0] * len(MOVES) for _ in self.q]
        self.time = 0  # real steps so far
        self.state = number(maze.start)

    def step(self) -> float:
        """One real step, (a) to (f); returns its reward. At the goal an episode ends."""
        state = self.state  # (a)
        action = self.choose_action(state)  # (b)
        reward, next_state = self.maze.step(state, action, self.time)  # (c)
        self.learn(state, action, reward, next_state)  # (d)
        self.remember(state, action, reward, next_state)  # (e)
        self.plan()  # (f)
        self.state = number(self.maze.start) if reward else next_state
        return reward

    def choose_action(self, state: int) -> int:
        """Epsilon-greedy: a random action now and then, else the best one so far."""
        if self.rng.random() < self.epsilon:
            return int(self.rng.integers(len(MOVES)))
        return self.best_action(state)

    def best_action(self, state: int) -> int:
        """The action of the highest value; ties are broken at random."""
        values = self.q[state]
        best = [action for action, value in enumerate(values) if value == max(values)]
        return best[self.rng.integers(len(best))] if len(best) > 1 else best[0]

    def learn(self, state: int, action: int, reward: float, next_state: int) -> None:
        """One step of Q-learning. The value of the goal stays zero: nothing happens there."""
        target = reward + self.gamma * max(self.q[next_state])
        self.q[state][action] += self.alpha * (target - self.q[state][action])

    def remember(self, state: int, action: int, reward: float, next_state: int) -> None:
        """Put what happened into the model, which takes the world to be deterministic."""
        if self.kappa and state not in self.model:
            # Dyna-Q+ also plans with actions that it has never tried: as long as it knows no
            # better, they lead back to the same state without reward.
            self.model[state] = {other: (0.0, state) for other in range(len(MOVES))}
        self.model.setdefault(state, {})[action] = (reward, next_state)
        self.time += 1
        self.last_tried[state][action] = self.time

    def plan(self) -> None:
        """Learn from ``planning_steps`` remembered steps, as if they happened now."""
        states = list(self.model)
        chosen = self.rng.integers(len(states), size=self.planning_steps)
        luck = self.rng.random(self.planning_steps)
        for index, share in zip(chosen.tolist(), luck.tolist(), strict=True):
            state = states[index]  # a state that was visited before
            outcomes = self.model[state]
            action = list(outcomes)[int(share * len(outcomes))]  # and an action taken in it
            reward, next_state = outcomes[action]
            if self.kappa:
                # The longer an action was not tried, the more may have changed (section 8.3).
                reward += self.kappa * (self.time - self.last_tried[state][action]) ** 0.5
            self.learn(state, action, reward, next_state)

    def greedy_path(self) -> int:
        """Steps to the goal without random actions, ``LONGEST_PATH`` where it does not arrive."""
        state, steps, reward = number(self.maze.start), 0, 0.0
        while not reward and steps < LONGEST_PATH:
            reward, state = self.maze.step(state, self.best_action(state), self.time)
            steps += 1
        return steps


def learn_maze(agent: DynaQ, episodes: int) -> tuple[list[int], list[int]]:
    """Real steps in each episode, and the length of the greedy path after each."""
    steps, paths = [], []
    for _ in range(episodes):
        began = agent.time
        while not agent.step():
            pass
        steps.append(agent.time - began)
        paths.append(agent.greedy_path())
    return steps, paths


def cumulative_reward(agent: DynaQ, steps: int) -> np.ndarray:
    """Goals reached up to each real step [steps]."""
    return np.cumsum([agent.step() for _ in range(steps)])
