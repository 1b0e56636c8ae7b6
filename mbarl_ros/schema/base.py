"""Base of all schemas: the errors, sections that refuse unknown keys, and checks of names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator


class ConfigError(ValueError):
    """A configuration mistake; the message names the file, the key and the remedy."""


class SimulatorError(RuntimeError):
    """A simulated world that cannot go on; the message names the world or file, and the cause."""


class OldKeyError(ValueError):
    """A key that was renamed or removed."""

    def __init__(self, key: str, remedy: str) -> None:
        """``remedy`` completes the sentence that begins with the key."""
        super().__init__(f"'{key}' {remedy}")
        self.key, self.remedy = key, remedy


class Strict(BaseModel):
    """A section in which an unknown key is an error, not a silent default."""

    model_config = ConfigDict(extra='forbid', frozen=True, allow_inf_nan=False)
    OLD_KEYS: ClassVar[Mapping[str, str]] = {}
    """Key of an earlier version -> what became of it, as :class:`OldKeyError` says it."""

    @model_validator(mode='before')
    @classmethod
    def _refuse_old_keys(cls, raw: Any) -> Any:
        for key in raw if isinstance(raw, dict) else ():
            if key in cls.OLD_KEYS:
                raise OldKeyError(key, cls.OLD_KEYS[key])
        return raw


def check_unique(key: str, names: Any) -> None:
    """Refuse a name that is used twice."""
    doubled = sorted({name for name in names if list(names).count(name) > 1})
    if doubled:
        raise ValueError(f'{key}: names used twice: {", ".join(doubled)}')


def check_known(key: str, names: Any, where: str, known: Any) -> None:
    """Refuse a name that is not among the known ones."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f'{key}: {", ".join(unknown)} not in {where} ({", ".join(dict.fromkeys(known))})'
        )
