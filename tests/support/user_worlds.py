"""Worlds of a user: one that notes each picture it makes, one that makes none."""

from pathlib import Path

from mbarl_sim.pointmass import PointMass


class CountedRoom(PointMass):
    """The room; each rendered picture is a byte more in the file ``log``."""

    def __init__(self, *, seed=0, log):
        super().__init__(seed=seed)
        self._log = Path(log)

    def render(self, width=480, height=480):
        with self._log.open('ab') as file:
            file.write(b'.')
        return super().render(width, height)


class Blind:
    """A world that follows no interface and has no picture."""

    state_names, command_names = PointMass.state_names, PointMass.command_names
    control_rate = PointMass.control_rate

    def __init__(self, *, seed=0):
        room = PointMass(seed=seed)
        self.reset, self.reset_to_start = room.reset, room.reset_to_start
        self.step, self.set_state, self.close = room.step, room.set_state, room.close


def task_with(folder, world, **options):
    """Path of the point mass task with another world."""
    import yaml

    from mbarl_ros.schema.load import find

    raw = yaml.safe_load(find('tasks', 'pointmass').read_text())
    raw['world'], raw['world_options'] = f'support.user_worlds:{world}', options
    raw['demonstrations'] = None
    path = folder / f'{world.lower()}.yaml'
    path.write_text(yaml.safe_dump(raw))
    return path
