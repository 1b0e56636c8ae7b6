"""Names of the topics and services between the nodes, relative to the graph's namespace.

Each begins with the name of the node that publishes or offers it, except the safety gate's e-stop
topic, to which anybody may publish, and what the simulation publishes as a robot does: the pictures
of its camera, its description and its frames have the names that drivers use.
"""

COMMAND = 'policy_controller/command'
CONTROLLER_ALIVE = 'policy_controller/alive'
TRANSITIONS = 'policy_controller/transitions'
TRANSITION_EVENT = 'policy_controller/transition_event'
PHASE = 'policy_controller/phase'
TURN = 'policy_controller/turn'
CHANGE_STATE = 'policy_controller/change_state'

EXECUTED = 'safety_gate/executed'
CLIPPED = 'safety_gate/clipped'
GATE_STATE = 'safety_gate/state'
ESTOP = 'safety_gate/estop'
GATE_STOP = 'safety_gate/stop'
GATE_RELEASE = 'safety_gate/release'

POLICY = 'learner/policy'
ACKNOWLEDGED = 'learner/acknowledged'
IMAGINED = 'learner/imagined'

CLASSIFIER = 'state_classifier/classifier'
SCORE = 'state_classifier/score'

RECORDER_STATUS = 'demo_recorder/status'
RECORDER_PHASE = 'demo_recorder/phase'
RECORDER_START = 'demo_recorder/start'
RECORDER_SUCCESS = 'demo_recorder/success'
RECORDER_STOP = 'demo_recorder/stop'
RECORDER_DISCARD = 'demo_recorder/discard'
RECORDER_SET_PARAMETERS = 'demo_recorder/set_parameters'
RECORDER_GET_PARAMETERS = 'demo_recorder/get_parameters'

DEPLOYED_SUCCESS = 'policy_evaluator/deployed_success'

MARKERS = 'visualizer/markers'
STATIC_MARKERS = 'visualizer/static_markers'
SHOWN_STATE = 'visualizer/state'
SUCCESS_RATE = 'visualizer/success_rate'
MODEL_ERROR = 'visualizer/model_error'
UPDATES_PER_SECOND = 'visualizer/updates_per_second'
VALUE_FORWARD = 'visualizer/value_forward'
VALUE_BACKWARD = 'visualizer/value_backward'
LAG_STEPS = 'visualizer/lag_steps'

SIM_RESET = 'robot_sim/reset'
SIM_RESETS = 'robot_sim/resets'
CAMERA_IMAGE = 'camera/image_raw'
CAMERA_INFO = 'camera/camera_info'
ROBOT_DESCRIPTION = 'robot_description'
TF = '/tf'
TF_STATIC = '/tf_static'

DIAGNOSTICS = '/diagnostics'
LOG = '/rosout'
CLOCK = '/clock'


def private(name: str) -> str:
    """The same name as the node that owns it declares it: ``~/executed``."""
    return f'~/{name.partition("/")[2]}'
