"""Types of arguments. Only type checkers, and who asks for them, import this."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import TypedDict

from .types import Machine, Progress, Target

Text = str | PathLike[str]
#: A program and its arguments; one text with ``shell=True``.
Argv = Sequence[Text] | str
Data = bytes | bytearray | str
OnProgress = Callable[[Progress], object]
#: What names a target: its name, or what a list gave.
TargetLike = str | Target | Machine


class FanOutOptions(TypedDict, total=False):
    """How to run a command on many targets."""

    #: ``argv`` is a script for ``/bin/sh -c``. Never build one from data: pass data as arguments or variables.
    shell: bool
    #: Working directory; default: the home directory there, in-process that of this process.
    cwd: Text | None
    #: Variables to set. Values count as secrets and are never recorded.
    env: Mapping[str, Text] | None
    #: Start from an empty environment.
    clear_env: bool
    #: Run as this user.
    user: str | None
    #: Put standard error on the output, in the true order.
    merge_stderr: bool
    #: Run on a terminal of this many columns and rows.
    pty: tuple[int, int] | None
    #: End it after this many seconds: `Result.timed_out`.
    timeout: float | None
    #: Seconds between the polite signal and KILL. Default 5.
    grace: float | None
    #: Size of the replay window: how far back `Stream.resume` reaches. Default 1 MiB.
    replay_bytes: int | None
    #: Running it twice does no harm.
    idempotent: bool
    #: Labels of its record.
    labels: Mapping[str, str] | None


class Options(FanOutOptions, total=False):
    """How to run a command."""

    #: Its input: all of it, or ``True`` to `Stream.send` it later. Default: none.
    stdin: Data | bool | None
    #: Whether a reader that is behind slows the command down, so that nothing is lost. Default yes.
    wait_for_reader: bool
