"""What comes back: plain values with a readable ``repr``, and tables where Jupyter shows them."""

from __future__ import annotations

from ._values import Value, field
from .errors import CommandFailedError, FleetError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import datetime as _datetime
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any, Literal, TypeVar

    _T = TypeVar("_T")

    class _List(list[_T]):
        pass

    RawExit = tuple[int | None, int | None, str | None, bool]
    RawOutput = tuple[RawExit, bytes, bytes, bool, float]
else:
    # `Table[Target]` works here, too: a list knows how.
    _T = object
    _List = {object: list}

__all__ = [
    "Agent",
    "Chunk",
    "CommandInfo",
    "Exit",
    "FanOutResult",
    "FileInfo",
    "JoinCode",
    "Machine",
    "Progress",
    "Provider",
    "Result",
    "Screen",
    "Table",
    "Target",
    "Turn",
]


def _escape(text: object) -> str:
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _html(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    cells = "".join(f"<th>{_escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{_escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def _short(data: bytes, most: int = 60) -> str:
    return repr(data) if len(data) <= most else f"{data[:most]!r}... ({len(data)} bytes)"


def _time(text: str | None) -> _datetime.datetime | None:
    if text is None:
        return None
    import datetime

    return datetime.datetime.fromisoformat(text)


class Table(_List[_T]):
    """A list that shows itself as a table in Jupyter."""

    _head: Sequence[str] = ()

    def _repr_html_(self) -> str:
        rows = [row._row() if hasattr(row, "_row") else [row] for row in self]
        head = getattr(self[0], "_columns", ("",)) if self else ()
        return _html(head, rows)


class Exit(Value):
    """How a command ended."""

    #: Its code, when it ended by itself.
    code: int | None
    #: The signal that ended it.
    signal: int | None = None
    #: Why fleetcore ended it: ``timed_out``, ``requested``, ``owner_dropped``, ``shutdown``, ``lease_expired``.
    reason: str | None = None
    #: Something it started still held its output.
    leaked: bool = False

    @property
    def exit_code(self) -> int | None:
        """The code; negative for a signal, as in ``subprocess``."""
        return -self.signal if self.signal is not None else self.code

    @property
    def ok(self) -> bool:
        """Code 0, and not ended by fleetcore."""
        return self.code == 0 and self.reason is None


class Result(Value):
    """What a command wrote and how it ended."""

    exit_code: int | None
    stdout: bytes
    stderr: bytes
    #: Seconds.
    duration: float
    target: str = "local"
    #: See `Exit.reason`.
    reason: str | None = None
    #: Some output was forgotten before it could be read.
    truncated: bool = False

    _columns = ("target", "exit", "seconds", "stdout", "stderr")

    @property
    def ok(self) -> bool:
        """It succeeded."""
        return self.exit_code == 0 and self.reason is None

    @property
    def timed_out(self) -> bool:
        """Its time limit ended it."""
        return self.reason == "timed_out"

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are not UTF-8 are replaced."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        """Standard error as text."""
        return self.stderr.decode("utf-8", "replace")

    def lines(self) -> list[str]:
        """Lines of standard output."""
        return self.text.splitlines()

    def check(self) -> Result:
        """Raises `CommandFailedError` unless it succeeded; gives itself."""
        if self.ok:
            return self
        how = f"exit code {self.exit_code}" if self.reason is None else self.reason.replace("_", " ")
        tail = self.error_text[-2000:].strip()
        text = f"the command failed on {self.target}: {how}" + (f": {tail}" if tail else "")
        raise CommandFailedError(text, result=self)

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        parts = [f"exit_code={self.exit_code}", f"stdout={_short(self.stdout)}"]
        if self.stderr:
            parts.append(f"stderr={_short(self.stderr)}")
        parts.append(f"duration={self.duration:.3g}")
        if self.target != "local":
            parts.append(f"target={self.target!r}")
        if self.reason is not None:
            parts.append(f"reason={self.reason!r}")
        return f"Result({', '.join(parts)})"

    def _row(self) -> list[object]:
        return [self.target, self.exit_code, f"{self.duration:.3f}", self.text[-500:], self.error_text[-500:]]

    def _repr_html_(self) -> str:
        return _html(self._columns, [self._row()])


class FanOutResult(Value):
    """What came of one target of a fan-out."""

    target: str
    #: ``succeeded``, ``failed``, ``cancelled``, ``lost``; ``skipped`` when it was not started.
    state: str
    #: What it wrote; ``None`` when it could not start.
    result: Result | None = None
    #: Why it could not start.
    error: str | None = None
    #: Its id.
    command: str | None = None

    _columns = ("target", "state", "exit", "stdout", "stderr")

    @property
    def ok(self) -> bool:
        """It succeeded."""
        return self.state == "succeeded"

    def _row(self) -> list[object]:
        if self.result is None:
            return [self.target, self.state, "", "", self.error or ""]
        return [
            self.target,
            self.state,
            self.result.exit_code,
            self.result.text[-500:],
            self.result.error_text[-500:],
        ]

    def _repr_html_(self) -> str:
        return _html(self._columns, [self._row()])


class Chunk(Value):
    """A piece of output."""

    #: Position of its first byte; one count over all channels.
    offset: int
    #: ``stdout``, ``stderr``, ``pty`` or ``log``.
    channel: str
    data: bytes
    #: When it was read, in microseconds since 1970.
    at_us: int = 0
    #: Bytes right before this one that are no longer kept anywhere.
    missing: int = 0

    @property
    def end(self) -> int:
        """Position after its last byte: where to resume."""
        return self.offset + len(self.data)

    @property
    def text(self) -> str:
        """As text; bytes that are not UTF-8 are replaced."""
        return self.data.decode("utf-8", "replace")

    @property
    def at(self) -> _datetime.datetime:
        """When it was read."""
        import datetime

        return datetime.datetime.fromtimestamp(self.at_us / 1e6, datetime.timezone.utc)

    def __repr__(self) -> str:
        return f"Chunk(offset={self.offset}, channel={self.channel!r}, data={_short(self.data)})"


class Turn(Value):
    """Answer of one wait on a session."""

    #: Counts `run` calls, from 1.
    seq: int
    #: What the command wrote so far.
    text: str
    #: ``completed``, ``timeout``, ``quiet``, ``expected`` (it runs on in these three) or ``ended`` (the shell has).
    state: Literal["completed", "timeout", "quiet", "expected", "ended", "running"]
    exit_code: int | None
    #: Which of the expected texts appeared.
    expected: str | None
    #: The shell's directory.
    cwd: str | None
    #: Its part of the session's output.
    output: range = field(repr=False, default=range(0))

    @property
    def running(self) -> bool:
        """The command runs on."""
        return self.state in ("timeout", "quiet", "expected", "running")

    @property
    def ok(self) -> bool:
        """It has ended with code 0."""
        return self.state == "completed" and self.exit_code == 0


class Screen(Value):
    """What a terminal shows."""

    #: The visible lines, without trailing blanks.
    lines: list[str]
    #: What has scrolled off, oldest first.
    scrollback: list[str]
    #: Row and column, from 0.
    cursor: tuple[int, int]
    cursor_visible: bool

    @property
    def text(self) -> str:
        """Scrollback and screen."""
        return "\n".join([*self.scrollback, *self.lines]).rstrip("\n")

    def __str__(self) -> str:
        return self.text


class FileInfo(Value):
    """A file or directory."""

    #: As it was asked for; in a list, the name of the entry.
    path: str
    kind: Literal["file", "dir", "symlink", "other"]
    #: Bytes.
    size: int
    #: Permission bits.
    mode: int | None = None
    modified_at: _datetime.datetime | None = None

    _columns = ("path", "kind", "size", "mode", "modified")

    @property
    def is_dir(self) -> bool:
        return self.kind == "dir"

    @property
    def is_file(self) -> bool:
        return self.kind == "file"

    def _row(self) -> list[object]:
        mode = "" if self.mode is None else f"{self.mode:o}"
        return [self.path, self.kind, self.size, mode, self.modified_at or ""]

    @classmethod
    def _of(cls, raw: Mapping[str, Any]) -> FileInfo:
        return cls(raw["path"], raw["kind"], raw["size"], raw.get("mode"), _time(raw.get("modified_at")))


class Progress(Value):
    """How far a copy is. For ``tqdm``: ``bar.update(p.delta)``."""

    path: str
    #: Bytes since the call before.
    delta: int
    #: Bytes so far.
    done: int
    #: Bytes in all, when that is known.
    total: int | None

    @property
    def fraction(self) -> float | None:
        """0 to 1, when the total is known."""
        return None if self.total is None else (1.0 if self.total == 0 else min(1.0, self.done / self.total))


class Target(Value):
    """Something commands can run on."""

    target: str
    provider: str
    state: str
    addresses: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    #: What can be done there; ``None`` when it cannot be reached now.
    capabilities: dict[str, Any] | None = field(default=None, repr=False)

    _columns = ("target", "provider", "state", "addresses", "labels")

    def _row(self) -> list[object]:
        labels = ", ".join(f"{k}={v}" for k, v in self.labels.items())
        return [self.target, self.provider, self.state, ", ".join(self.addresses), labels]

    def __str__(self) -> str:
        return self.target

    @classmethod
    def _of(cls, raw: Mapping[str, Any]) -> Target:
        return cls(
            raw["target"],
            raw["provider"],
            raw["state"],
            raw.get("addresses") or [],
            raw.get("labels") or {},
            raw.get("capabilities"),
        )


class Machine(Value):
    """A machine of a provider."""

    #: Its name wherever a target is wanted.
    target: str
    provider: str
    name: str
    #: ``pending``, ``running``, ``stopping``, ``stopped``, ``suspended``, ``deleted``, ``failed``, ``unknown``.
    state: str
    #: The provider's own word for the state.
    native_state: str = ""
    addresses: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    agent: str | None = None
    created_at: _datetime.datetime | None = None

    _columns = ("target", "state", "addresses", "labels", "created")

    def _row(self) -> list[object]:
        labels = ", ".join(f"{k}={v}" for k, v in self.labels.items())
        return [self.target, self.state, ", ".join(self.addresses), labels, self.created_at or ""]

    def __str__(self) -> str:
        return self.target

    @classmethod
    def _of(cls, raw: Mapping[str, Any]) -> Machine:
        return cls(
            raw["target"],
            raw["provider"],
            raw.get("name") or "",
            raw["state"],
            raw.get("native_state") or "",
            raw.get("addresses") or [],
            raw.get("labels") or {},
            raw.get("agent"),
            _time(raw.get("created_at")),
        )


class MachineTable(Table[Machine]):
    """Machines; ``failures`` says which providers could not be asked, and why."""

    failures: dict[str, str]

    def __init__(self, machines: Sequence[Machine], failures: dict[str, str]) -> None:
        super().__init__(machines)
        self.failures = failures


class Provider(Value):
    """Where machines come from."""

    name: str
    available: bool
    #: Why it is not.
    reason: str | None
    agent: str | None = None
    capabilities: dict[str, Any] = field(default_factory=dict, repr=False)
    #: What else it can do.
    actions: list[dict[str, Any]] = field(default_factory=list, repr=False)

    _columns = ("provider", "agent", "available", "reason")

    def _row(self) -> list[object]:
        return [self.name, self.agent or "", self.available, self.reason or ""]

    @classmethod
    def _of(cls, raw: Mapping[str, Any]) -> Provider:
        return cls(
            raw["name"],
            raw["available"],
            raw.get("reason"),
            raw.get("agent"),
            raw.get("capabilities") or {},
            raw.get("actions") or [],
        )


class Agent(Value):
    """An agent of a server; its name is also that of its host as a target."""

    id: str
    online: bool
    connected: bool
    version: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    last_seen: _datetime.datetime | None = None
    #: Commands that run there.
    running: int = 0

    _columns = ("agent", "online", "version", "running", "last seen")

    def _row(self) -> list[object]:
        return [self.id, self.online, self.version or "", self.running, self.last_seen or ""]

    @classmethod
    def _of(cls, raw: Mapping[str, Any]) -> Agent:
        return cls(
            raw["id"],
            raw["online"],
            raw.get("connected", False),
            raw.get("version"),
            raw.get("labels") or {},
            _time(raw.get("last_seen")),
            raw.get("running", 0),
        )


class JoinCode(Value):
    """Lets one agent join, once."""

    code: str = field(repr=False)
    #: What to run on the host that is to join; holds the code.
    command: str = field(repr=False)
    expires_at: _datetime.datetime | None


class CommandInfo(Value):
    """The record of a command."""

    id: str
    target: str
    #: One line for people.
    display: str
    #: ``queued``, ``running``, ``succeeded``, ``failed``, ``cancelled``, ``lost``.
    state: str
    exit_code: int | None = None
    error: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    created_at: _datetime.datetime | None = None
    ended_at: _datetime.datetime | None = None
    #: Bytes of output so far.
    output_bytes: int = 0

    _columns = ("id", "target", "command", "state", "exit", "created")

    def _row(self) -> list[object]:
        code = "" if self.exit_code is None else self.exit_code
        return [self.id, self.target, self.display, self.state, code, self.created_at or ""]

    @classmethod
    def _of(cls, raw: Mapping[str, Any]) -> CommandInfo:
        exit_ = raw.get("exit") or {}
        signal = exit_.get("signal")
        return cls(
            raw["id"],
            raw["target"],
            raw["display"],
            raw["state"],
            -signal if signal is not None else exit_.get("code"),
            raw.get("error"),
            raw.get("labels") or {},
            _time(raw.get("created_at")),
            _time(raw.get("ended_at")),
            raw.get("output_bytes", 0),
        )


def _exit(raw: RawExit) -> Exit:
    return Exit(*raw)


def _result(raw: RawOutput, target: str) -> Result:
    (code, signal, reason, _), stdout, stderr, truncated, duration = raw
    return Result(-signal if signal is not None else code, stdout, stderr, duration, target, reason, truncated)


class _Batches:
    """Chunks out of batches as the extension hands them over; the same for both flavours."""

    __slots__ = ("chunks", "exit", "offset", "over", "seen")

    def __init__(self, offset: int) -> None:
        self.chunks: list[Chunk] = []
        self.exit: Exit | None = None
        self.offset = offset
        self.over = False
        self.seen = 0

    def take(self, number: int, over: bool, events: Sequence[tuple[Any, ...]]) -> None:
        self.seen = number
        self.over = self.over or over
        missing = 0
        chunks = []
        for event in events:
            if event[0] == "output":
                _, offset, channel, at, data = event
                chunks.append(Chunk(offset, channel, data, at, missing))
                missing = 0
            elif event[0] == "gap":
                missing += event[2] - event[1]
            else:
                self.exit = _exit(event[1])
                self.over = True
        # The oldest last: they are taken from the end.
        chunks.reverse()
        self.chunks = chunks

    def pop(self) -> Chunk:
        chunk = self.chunks.pop()
        self.offset = chunk.end
        return chunk


class _Lines:
    """Whole lines out of chunks."""

    __slots__ = ("parts", "channel")

    def __init__(self, channel: str | None) -> None:
        self.parts: dict[str, bytes] = {}
        self.channel = channel

    def add(self, chunk: Chunk) -> Iterator[str]:
        if self.channel is not None and chunk.channel != self.channel:
            return
        whole = self.parts.pop(chunk.channel, b"") + chunk.data
        lines = whole.split(b"\n")
        if lines[-1]:
            self.parts[chunk.channel] = lines[-1]
        for line in lines[:-1]:
            yield line.removesuffix(b"\r").decode("utf-8", "replace")

    def rest(self) -> Iterator[str]:
        for part in self.parts.values():
            yield part.decode("utf-8", "replace")
        self.parts = {}


def _failed(problem: BaseException | None, text: str) -> BaseException:
    return problem if problem is not None else FleetError(text)
