"""Named arrays on the wire and on disk; files and locks of a run folder. No ROS, no torch.

How a transition gets from the robot to the learner:

1. The controller numbers the transitions of its session, which is one run of its process, from 0.
2. It appends each transition to its *spool*, in memory and in ``<run folder>/spool/``.
3. It publishes them in order, and the learner appends what it receives to its *transition log*,
   ``<run folder>/transitions.log``, and waits until that is on disk.
4. The learner acknowledges by session and sequence number, and the controller then deletes the
   acknowledged transitions from its spool and publishes the others again.
5. A restarted controller first publishes what earlier sessions left in the spool; a restarted
   learner reads its log and goes on at the sequence numbers that it holds.

:mod:`~mbarl_ros.storage.spool` is the controller's side, :mod:`~mbarl_ros.storage.sequence_tracker`
the receiver's; both keep their files by :mod:`~mbarl_ros.storage.record_log`.
"""
