"""A small arm: profile and task for data of people who own such a one."""

ROBOT = """
name: two_joints
control_rate: 10.0
state:
  - topic: joint_states
    type: sensor_msgs/msg/JointState
    fields: {pan: "position[pan]", lift: "position[lift]"}
command:
  - topic: commands
    type: std_msgs/msg/Float64MultiArray
    fields: {pan: "data[0]", grip: "data[1]"}
limits:
  pan: {low: -2.0, high: 2.0, stop: hold}
  grip: {low: 0.0, high: 0.1, stop: hold}
"""
TASK = """
name: reach
robot: robot.yaml
observation:
  - {name: lift, low: -2.0, high: 2.0}
  - {name: pan, low: -2.0, high: 2.0}
action:
  - {name: pan, low: -2.0, high: 2.0}
  - {name: grip, low: 0.0, high: 0.1}
success: {entries: [pan], target: [1.0], tolerance: 0.1}
phases: {forward_limit: 50, backward_limit: 50}
evaluation: {episodes: 5, horizon: 50, every: 100, budget: 1000}
"""


def write_arm(folder):
    """Profile and task of an arm with two joints; returns the path of the task."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'robot.yaml').write_text(ROBOT)
    (folder / 'task.yaml').write_text(TASK)
    return folder / 'task.yaml'
