"""One tree of exceptions. Each carries ``code`` (stable, snake_case), ``field`` (the argument that broke a rule, if it
was one), ``operation`` and ``context``."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from .types import Result

__all__ = [
    "AccessDeniedError",
    "AlreadyExistsError",
    "AuthenticationError",
    "BusyError",
    "CancelledError",
    "CommandFailedError",
    "ConflictError",
    "DataLossError",
    "FleetError",
    "FleetTimeoutError",
    "InvalidInputError",
    "InvalidStateError",
    "NotFoundError",
    "RateLimitedError",
    "UnavailableError",
    "UnsupportedError",
]


class FleetError(Exception):
    """Base of all errors of fleetcore."""

    default_code: ClassVar[str] = "unexpected"

    def __init__(
        self,
        text: str = "",
        *,
        code: str | None = None,
        message: str | None = None,
        operation: str = "",
        context: dict[str, str] | None = None,
    ) -> None:
        super().__init__(text)
        #: Stable name of the kind of error.
        self.code: str = code or self.default_code
        #: The text for people, without code and context.
        self.message: str = text if message is None else message
        #: What was being done.
        self.operation: str = operation
        #: Facts about it.
        self.context: dict[str, str] = context or {}

    @property
    def field(self) -> str | None:
        """The argument that breaks a rule, where it is about one."""
        return self.context.get("field")

    @property
    def rule(self) -> str | None:
        """The rule it breaks."""
        return self.context.get("rule")


class InvalidInputError(FleetError, ValueError):
    """An argument breaks a rule: see ``field`` and ``rule``."""

    default_code = "invalid_input"


class AuthenticationError(FleetError):
    """No or bad credentials."""

    default_code = "unauthenticated"


class AccessDeniedError(FleetError):
    """The credentials are good but not sufficient."""

    default_code = "permission_denied"


class NotFoundError(FleetError, LookupError):
    """No such target, command, session, program or path."""

    default_code = "not_found"


class AlreadyExistsError(FleetError):
    """The name is taken."""

    default_code = "already_exists"


class BusyError(FleetError):
    """Occupied by another operation."""

    default_code = "busy"


class InvalidStateError(FleetError):
    """It exists, but its state forbids this."""

    default_code = "invalid_state"


class ConflictError(FleetError):
    """Somebody else changed it first."""

    default_code = "conflict"


class RateLimitedError(FleetError):
    """Too much at once."""

    default_code = "rate_limited"


class UnsupportedError(FleetError):
    """The backend cannot do this."""

    default_code = "unsupported"


class UnavailableError(FleetError):
    """Cannot be reached now."""

    default_code = "unavailable"


class FleetTimeoutError(FleetError, TimeoutError):
    """A deadline passed."""

    default_code = "timeout"


class CancelledError(FleetError):
    """Somebody cancelled it. Not asyncio's: that one is raised when *your* task was cancelled."""

    default_code = "cancelled"


class DataLossError(FleetError):
    """Stored data is damaged or missing."""

    default_code = "data_loss"


class CommandFailedError(FleetError):
    """A checked command failed."""

    default_code = "command_failed"

    def __init__(self, text: str = "", *, result: Result | None = None, **more: object) -> None:
        super().__init__(text)
        #: What it wrote and how it ended.
        self.result: Result | None = result

    @property
    def exit_code(self) -> int | None:
        """The code it ended with; negative for a signal, as in ``subprocess``."""
        return None if self.result is None else self.result.exit_code


_BY_CODE: dict[str, type[FleetError]] = {
    cls.default_code: cls for cls in FleetError.__subclasses__() if cls is not FleetError
}


def from_core(
    code: str, text: str, message: str, operation: str, context: list[tuple[str, str]]
) -> FleetError:
    """The exception for an error of the core; called by the extension."""
    cls = _BY_CODE.get(code, FleetError)
    error = cls(text)
    error.code, error.message, error.operation, error.context = code, message, operation, dict(context)
    return error
