"""Names of environment variables that more than one room reads."""

DISCOVERY_RANGE = 'ROS_AUTOMATIC_DISCOVERY_RANGE'
