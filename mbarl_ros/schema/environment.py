"""Names of environment variables that more than one room reads."""

DISCOVERY_RANGE = 'ROS_AUTOMATIC_DISCOVERY_RANGE'
LOCALHOST_ONLY = 'ROS_LOCALHOST_ONLY'
"""Of older ROS 2; where it is 1, the discovery range does not count."""
DISCOVERY_SERVER = 'ROS_DISCOVERY_SERVER'
STATIC_PEERS = 'ROS_STATIC_PEERS'
SUPER_CLIENT = 'ROS_SUPER_CLIENT'
"""A discovery server tells a super client of everything, others only of what concerns them."""
TRANSPORTS = 'FASTDDS_BUILTIN_TRANSPORTS'
PROFILES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
"""Of Fast DDS 2 (Jazzy) and 3 (Kilted)."""
