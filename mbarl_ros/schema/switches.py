"""Schema of buttons, triggers and axes of which a profile says when they are pressed."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, field_validator, model_validator

from mbarl_ros.schema.base import Strict

JOY = 'sensor_msgs/msg/Joy'
_MIDDLE = 0.5  # of a button, which is 0 or 1
_BUTTON = re.compile(r'buttons\[#?\d+\]')
AXIS_REMEDY = (
    'give its value where it is pressed: {field: "%s", pressed_below: -0.5} for a trigger that '
    'rests at 1 and goes to -1, pressed_above: 0.5 for one that goes to 1'
)


class Press(Strict):
    """A button, trigger or axis, and when it counts as pressed.

    A path alone, such as `buttons[4]`, stands for `field`; that is enough for a button of a Joy
    message and for a boolean. An axis also needs one of the thresholds: no message says where it
    rests. It counts as released until it was seen released; 0 tells that of an axis only after any
    other value, because many drivers publish 0 for a trigger until it is touched.
    """

    field: str = Field(description='Path of the field in the message.')
    pressed_above: float | None = Field(
        default=None,
        description='It is pressed while the field is greater. null: unused, but 0.5 for what has '
        'no threshold.',
    )
    pressed_below: float | None = Field(
        default=None,
        description='It is pressed while the field is less: -0.5 for a trigger that rests at 1 and '
        'goes to -1, as most do under joy_node. null: unused.',
    )

    @model_validator(mode='before')
    @classmethod
    def _path_alone(cls, raw: Any) -> Any:
        return {'field': raw} if isinstance(raw, str) else raw

    @field_validator('field')
    @classmethod
    def _without_sign(cls, path: str) -> str:
        if path.startswith(('-', '+')):
            bare = path.lstrip('+-')
            raise ValueError(f"'{path}': a path has no sign; {AXIS_REMEDY % bare}")
        return path

    @model_validator(mode='after')
    def _one_threshold(self) -> Press:
        if self.pressed_above is not None and self.pressed_below is not None:
            raise ValueError('pressed_above and pressed_below: both given; use one')
        return self

    @property
    def has_threshold(self) -> bool:
        """Whether the profile says at which value it is pressed."""
        return self.pressed_above is not None or self.pressed_below is not None

    @property
    def is_joy_button(self) -> bool:
        """Whether it is a button of a Joy message, which is 0 or 1."""
        return _BUTTON.fullmatch(self.field) is not None

    def holds(self, value: float) -> bool:
        """Whether a value of the field is a pressed one."""
        if self.pressed_below is not None:
            return value < self.pressed_below
        return value > (_MIDDLE if self.pressed_above is None else self.pressed_above)

    def check_joy(self, key: str) -> None:
        """Refuse what has no threshold in a Joy message, unless it is a button.

        :raises ValueError: names the ``key`` and says what to write.
        """
        if not self.has_threshold and not self.is_joy_button:
            raise ValueError(
                f"{key}: '{self.field}' is no button, and nothing says when it is pressed; "
                f'{AXIS_REMEDY % self.field}'
            )


class Switch(Press):
    """A dead-man switch: a button, trigger or axis of the source, or a switch on its own topic.

    It is written as a path alone or as a mapping, like an entry of `buttons`.
    """

    topic: str | None = Field(
        default=None,
        description='Topic of its own; it must also say when the switch is released. null: the '
        'field is in the messages of the source.',
    )
    type: str | None = Field(
        default=None,
        pattern=r'^\w+/msg/\w+$',
        description='Message type of `topic`, such as `std_msgs/msg/Bool`; needed with it.',
    )

    @model_validator(mode='after')
    def _own_topic(self) -> Switch:
        if (self.topic is None) != (self.type is None):
            raise ValueError('topic and type: are needed together')
        if self.type == JOY:
            self.check_joy('field')
        return self
