"""Executable name -> entry point of each node: read by setup.py, bringup and ``mbarl node``."""

NODES = {
    'policy_controller': 'mbarl_ros.nodes.policy_controller:main',
    'safety_gate': 'mbarl_ros.nodes.safety_gate:main',
    'learner': 'mbarl_ros.nodes.learner:main',
    'state_classifier': 'mbarl_ros.nodes.state_classifier:main',
    'policy_evaluator': 'mbarl_ros.nodes.policy_evaluator:main',
    'demo_recorder': 'mbarl_ros.nodes.demo_recorder:main',
    'demo_replayer': 'mbarl_ros.nodes.demo_replayer:main',
    'keyboard_teleop': 'mbarl_ros.nodes.keyboard_teleop:main',
    'monitor': 'mbarl_ros.nodes.monitor:main',
    'visualizer': 'mbarl_ros.nodes.visualizer:main',
    'run_recorder': 'mbarl_ros.nodes.run_recorder:main',
    'tracker': 'mbarl_ros.nodes.tracker:main',
    'web_page': 'mbarl_ros.nodes.web_page:main',
    'discovery_server': 'mbarl_ros.nodes.discovery_server:main',
    'robot_sim': 'mbarl_sim.robot_sim:main',
    'scripted_operator': 'mbarl_sim.scripted_operator:main',
}
ROBOT_NODES = ('robot_sim', 'safety_gate', 'policy_controller')
"""Those that each robot of a fleet has of its own."""
WATCHING_NODES = ('monitor', 'tracker', 'web_page')
"""Those that watch a run: of a fleet beside its learner, of a robot alone beside that."""
SHARED_NODES = ('learner', 'state_classifier', 'policy_evaluator', *WATCHING_NODES)
"""Those that the robots of a fleet share."""
