"""Where packages of ROS messages come from."""

from __future__ import annotations

# Those of ROS 2 Jazzy that PyPI has; all others need an installed ROS 2.
_WHEELS = {
    *('action_msgs', 'actionlib_msgs', 'builtin_interfaces', 'diagnostic_msgs', 'geometry_msgs'),
    *('lifecycle_msgs', 'nav_msgs', 'rcl_interfaces', 'rosgraph_msgs', 'sensor_msgs'),
    *('service_msgs', 'shape_msgs', 'std_msgs', 'std_srvs', 'stereo_msgs', 'test_msgs'),
    *('trajectory_msgs', 'type_description_interfaces', 'unique_identifier_msgs'),
    'visualization_msgs',
}


def install_remedy(package: str) -> str:
    """How to install a message package, as the end of a sentence."""
    dashed = package.replace('_', '-')
    if package in _WHEELS:
        return f'pip install ros-{dashed} or apt install ros-$ROS_DISTRO-{dashed}'
    return (
        f'apt install ros-$ROS_DISTRO-{dashed}, or build it with colcon from its source, then '
        'source the setup.bash of that ROS 2 or workspace (PyPI does not have it)'
    )
