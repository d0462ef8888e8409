"""The fleet for threads. Made from aio.py by scripts/unasync.py: change that."""

from __future__ import annotations

import os

from . import _fleetcore as _native
from ._block import do as _do
from ._options import dumps, loads
from ._options import name as _name
from ._options import names as _names
from .errors import FleetError, NotFoundError
from .types import (
    Agent,
    CommandInfo,
    FanOutResult,
    FileInfo,
    JoinCode,
    Machine,
    MachineTable,
    Progress,
    Provider,
    Screen,
    Table,
    Target,
    Turn,
    _Batches,
    _exit,
    _failed,
    _Lines,
    _result,
    _time,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Callable, Iterable, Mapping, Sequence
    from typing import Any, Literal, Unpack

    from ._typing import Argv, Data, FanOutOptions, OnProgress, Options, TargetLike, Text
    from .types import Chunk, Exit, Result

__all__ = ["Files", "Fleet", "Machines", "Output", "Session", "Stream", "Tunnel"]


class Output:
    """Output as it comes: an iterator of `Chunk`."""

    def __init__(self, events: _native.Events, offset: int) -> None:
        self._events: _native.Events | None = events
        self._batches = _Batches(offset)
        self._busy = False

    @property
    def offset(self) -> int:
        """Position after what was read: where to resume."""
        return self._batches.offset

    @property
    def exit(self) -> Exit | None:
        """How the command ended, once that was read."""
        return self._batches.exit

    def _more(self) -> bool:
        batches = self._batches
        while not batches.chunks:
            if batches.over or self._events is None:
                return False
            if self._busy:
                raise RuntimeError("somebody else is reading this already")
            self._busy = True
            try:
                # The number says what arrived: a wait that is cancelled loses nothing.
                batches.take(*_do(self._events.next(batches.seen)))
            finally:
                self._busy = False
        return True

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        if not self._batches.chunks and not self._more():
            raise StopIteration
        return self._batches.pop()

    def lines(self, *, channel: str | None = None) -> Iterator[str]:
        """Whole lines as text, without line ends; of one channel if it is given."""
        lines = _Lines(channel)
        for chunk in self:
            for line in lines.add(chunk):
                yield line
        for line in lines.rest():
            yield line


class Stream(Output):
    """A running command: iterate over its output, steer it. Leaving its block ends it, unless it was detached."""

    def __init__(self, command: _native.Command, *, target: str, owned: bool, offset: int = 0) -> None:
        super().__init__(command.events(offset), offset)
        self._command = command
        self._owned = owned
        #: Where it runs; empty for one that was attached to.
        self.target = target

    @property
    def id(self) -> str:
        """Its id: `Fleet.attach` takes it."""
        return self._command.id

    @property
    def exit_code(self) -> int | None:
        """The code it ended with, once that was read; negative for a signal."""
        return None if self.exit is None else self.exit.exit_code

    def send(self, data: Data) -> None:
        """Writes to its input; done when the command's side has taken all of it. Wants ``stdin=True`` or a terminal."""
        _do(self._command.write(data))

    def close_stdin(self) -> None:
        """Ends its input; types end-of-file on a terminal."""
        _do(self._command.close_stdin())

    def signal(self, which: str | int) -> None:
        """Signals all of it: ``"INT"``, ``"SIGINT"`` or `signal.SIGINT`."""
        _do(self._command.signal(which))

    def resize(self, cols: int, rows: int) -> None:
        """Changes the size of its terminal."""
        _do(self._command.resize(cols, rows))

    def cancel(self) -> None:
        """Asks it to end: TERM (HUP on a terminal), grace, KILL. `wait` for the end."""
        _do(self._command.cancel())

    def wait(self) -> Exit:
        """Waits for the end. Output that nobody has read is read and dropped."""
        for _ in self:
            pass
        if self.exit is None:
            self._batches.exit = _exit(_do(self._command.wait()))
        assert self.exit is not None
        return self.exit

    def detach(self) -> str:
        """Lets the command run on without this object; gives its id."""
        self._owned = False
        self._command.detach()
        return self.id

    def resume(self, offset: int = 0) -> Output:
        """Its output once more, from a byte on."""
        return Output(self._command.events(offset), offset)

    def close(self) -> None:
        """Ends it, if it is ours, and waits until no process is left."""
        # A reader that does not read any more must not hold the command up.
        self._events = None
        if self._owned and not self._batches.over:
            _do(self._command.cancel())
            self._batches.exit = _exit(_do(self._command.wait()))

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "running" if self.exit is None else repr(self.exit)
        return f"<Stream {self.id} on {self.target or '?'}: offset={self.offset}, {state}>"


class Session:
    """A shell that remembers, and knows when each command ended. Leaving its block ends it and all its jobs."""

    def __init__(self, session: _native.Session, target: str) -> None:
        self._session = session
        #: Where it is.
        self.target = target

    @property
    def id(self) -> str:
        """Its name."""
        return self._session.id

    @property
    def cwd(self) -> str | None:
        """The shell's directory, when it has told."""
        return self._session.info()[0]

    @property
    def busy(self) -> bool:
        """A command is running."""
        return self._session.info()[1]

    @property
    def ended(self) -> Exit | None:
        """How the shell ended, once it has."""
        ended = self._session.info()[4]
        return None if ended is None else _exit(ended)

    @staticmethod
    def _turn(raw: tuple[Any, ...], expect: Sequence[str]) -> Turn:
        seq, start, end, state, code, index, cwd, text = raw
        expected = None if index is None else expect[index]
        return Turn(seq, text, state, code, expected, cwd, range(start, end))

    def run(
        self,
        command: str,
        *,
        timeout: float | None = None,
        quiet: float | None = None,
        expect: str | Sequence[str] = (),
    ) -> Turn:
        """Runs a command in the shell and waits for its end, or until control comes back: after ``timeout`` seconds,
        after ``quiet`` seconds without output, or when a text of ``expect`` appears. The command runs on then: see
        `resume`, `keys` and `interrupt`. Giving up waiting leaves it running, too."""
        texts = [expect] if isinstance(expect, str) else list(expect)
        return self._turn(_do(self._session.run(command, timeout, quiet, texts)), texts)

    def resume(
        self,
        *,
        timeout: float | None = None,
        quiet: float | None = None,
        expect: str | Sequence[str] = (),
    ) -> Turn:
        """Waits on for the command that still runs."""
        texts = [expect] if isinstance(expect, str) else list(expect)
        return self._turn(_do(self._session.resume(timeout, quiet, texts)), texts)

    def interrupt(self, *, timeout: float | None = None) -> Turn:
        """Types Ctrl-C and waits. Works while somebody else waits in `run`: both get the same answer."""
        return self._turn(_do(self._session.interrupt(timeout)), ())

    def keys(self, *keys: str) -> None:
        """Presses keys: ``"Enter"``, ``"Up"``, ``"Ctrl-C"``, ``"F5"``, single characters."""
        _do(self._session.keys(list(keys)))

    def send(self, data: Data) -> None:
        """Types text or bytes as they are; a line ends with ``\\n`` for most programs."""
        _do(self._session.write(data))

    def resize(self, cols: int, rows: int) -> None:
        """Changes the size of the terminal."""
        _do(self._session.resize(cols, rows))

    def screen(self) -> Screen:
        """What the terminal shows."""
        raw = _do(self._session.screen())
        cursor = (raw["cursor_row"], raw["cursor_col"])
        return Screen(raw["lines"], raw["scrollback"], cursor, raw["cursor_visible"])

    def output(self, offset: int = 0) -> Output:
        """All that the terminal is sent, from a byte on; any number of readers."""
        return Output(self._session.events(offset), offset)

    def close(self) -> Exit:
        """Hangs up and ends everything it started."""
        return _exit(_do(self._session.close()))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Session {self.id} on {self.target}>"


class _Count:
    def __init__(self, told: OnProgress | None, path: str, total: int | None) -> None:
        self.told, self.path, self.total, self.done = told, path, total, 0

    def add(self, n: int) -> None:
        self.done += n
        if self.told is not None:
            self.told(Progress(self.path, n, self.done, self.total))


class Files:
    """Files of one target. Paths are absolute or relative to the home directory there."""

    def __init__(self, files: _native.Files, target: str) -> None:
        self._files = files
        #: Whose files.
        self.target = target

    def stat(self, path: Text) -> FileInfo:
        """What a path is; links are followed."""
        return FileInfo._of(_do(self._files.stat(path)))

    def exists(self, path: Text) -> bool:
        """Whether there is something of this name."""
        try:
            self.stat(path)
        except NotFoundError:
            return False
        return True

    def list(self, path: Text = ".") -> Table[FileInfo]:
        """Entries of a directory, by name."""
        return Table(FileInfo._of(raw) for raw in _do(self._files.list(path)))

    def mkdir(self, path: Text) -> None:
        """Makes a directory and those above it; an existing one is fine."""
        _do(self._files.create_dir(path))

    def rename(self, source: Text, destination: Text) -> None:
        """Renames; replaces an existing file."""
        _do(self._files.rename(source, destination))

    def remove(self, path: Text, *, recursive: bool = False) -> None:
        """Removes a file or directory; one with contents only when ``recursive``."""
        _do(self._files.remove(path, recursive))

    def chunks(self, path: Text, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """A file, piece by piece, for what does not fit into memory."""
        reader = _do(self._files.reader(path, offset, length))
        while piece := _do(reader.next()):
            yield piece

    def read(
        self,
        path: Text,
        *,
        offset: int = 0,
        length: int | None = None,
        progress: OnProgress | None = None,
    ) -> bytes:
        """A file, or ``length`` bytes of it from ``offset`` on."""
        if progress is None:
            data: bytes = _do(self._files.read(path, offset, length))
            return data
        size = max(0, (self.stat(path)).size - offset)
        count = _Count(progress, os.fspath(path), size if length is None else min(size, length))
        pieces = []
        for piece in self.chunks(path, offset=offset, length=length):
            pieces.append(piece)
            count.add(len(piece))
        return b"".join(pieces)

    def read_text(self, path: Text, *, encoding: str = "utf-8", errors: str = "strict") -> str:
        """A file as text."""
        return (self.read(path)).decode(encoding, errors)

    def write(
        self,
        path: Text,
        data: Data | Iterable[Data],
        *,
        append: bool = False,
        mode: int | None = None,
        parents: bool = False,
        atomic: bool | None = None,
        progress: OnProgress | None = None,
    ) -> FileInfo:
        """Writes a file, from memory or piece by piece. Readers see the old one or the new one (``atomic``, the default
        unless ``append``); when it breaks off, the old one stays."""
        pieces: Iterable[Data] = (data,) if isinstance(data, (bytes, bytearray, str)) else data
        total = len(data) if isinstance(data, (bytes, bytearray)) else None
        count = _Count(progress, os.fspath(path), total)
        pieces = iter(pieces)
        writer = self._files.writer(path, mode, append, parents, not append if atomic is None else atomic)
        try:
            for piece in pieces:
                _do(writer.write(piece))
                count.add(len(piece))
            return FileInfo._of(_do(writer.finish()))
        except BaseException:
            _do(writer.abort())
            raise

    def copy(
        self, path: Text, to: Files, to_path: Text, *, progress: OnProgress | None = None
    ) -> int:
        """Copies a file or a directory to ``to_path`` of another target; gives the number of bytes moved. A file is
        replaced in one step; what is in a directory already stays."""
        info = self.stat(path)
        if info.is_dir:
            reader = _do(self._files.tar_reader(path))
            writer = to._files.tar_writer(to_path)
        else:
            reader = _do(self._files.reader(path, 0, None))
            writer = to._files.writer(to_path, info.mode, False, True, True)
        count = _Count(progress, os.fspath(path), None if info.is_dir else info.size)
        try:
            while piece := _do(reader.next()):
                _do(writer.write(piece))
                count.add(len(piece))
            _do(writer.finish())
        except BaseException:
            _do(writer.abort())
            raise
        return count.done

    def upload(self, local: Text, path: Text, *, progress: OnProgress | None = None) -> int:
        """Copies a file or directory of this host there."""
        here = Files(_native.Files.here(), "local")
        return here.copy(os.path.abspath(local), self, path, progress=progress)

    def download(self, path: Text, local: Text, *, progress: OnProgress | None = None) -> int:
        """Copies a file or directory from there to this host."""
        here = Files(_native.Files.here(), "local")
        return self.copy(path, here, os.path.abspath(local), progress=progress)

    def __repr__(self) -> str:
        return f"<Files of {self.target}>"


class Tunnel:
    """A port of this host that leads to an address a target can reach. Leaving its block closes it."""

    def __init__(self, tunnel: _native.Tunnel) -> None:
        self._tunnel = tunnel

    @property
    def host(self) -> str:
        """Where it listens."""
        return self._tunnel.address[0]

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._tunnel.address[1]

    def close(self) -> None:
        """Closes the port and all connections."""
        _do(self._tunnel.close())

    def __enter__(self) -> Tunnel:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class Machines:
    """Machines of all providers: make them, start, stop and delete them."""

    def __init__(self, fleet: _native.Fleet) -> None:
        self._fleet = fleet

    def list(
        self, *, labels: Mapping[str, str] | None = None, include_deleted: bool = False
    ) -> MachineTable:
        """All machines; `MachineTable.failures` has the providers that could not be asked."""
        raw = _do(self._fleet.machines(None if labels is None else dict(labels), include_deleted))
        failures = {e["provider"]: str(e["problem"].get("detail", "")) for e in raw["errors"]}
        return MachineTable([Machine._of(m) for m in raw["items"]], failures)

    def get(self, target: TargetLike) -> Machine:
        """One machine."""
        return Machine._of(_do(self._fleet.machine(_name(target))))

    def providers(self) -> Table[Provider]:
        """Where machines can come from, and whether each works."""
        return Table(Provider._of(raw) for raw in _do(self._fleet.providers()))

    def _follow(self, op: _native.Op, progress: Callable[[str], object] | None) -> Any:
        """Waits for an operation; the answer is the last line, if that is one."""
        command, answer = _do(op)
        if command is None:
            return answer
        problem: BaseException | None = None
        last = ""
        output = Output(command.events(0), 0)
        try:
            for line in output.lines():
                failed = _native.Fleet.problem(line.encode())
                if failed is not None:
                    problem = failed
                    continue
                last = line
                if progress is not None:
                    progress(line)
        except BaseException:
            # Nobody reads on: it must not wait for that.
            output._events = None
            _do(command.cancel())
            _do(command.wait())
            raise
        if output.exit is None or not output.exit.ok:
            raise _failed(problem, f"the operation failed: {last}")
        return loads(last)

    def create(
        self,
        target: str,
        *,
        image: str | None = None,
        cpus: int | None = None,
        memory_bytes: int | None = None,
        disk_bytes: int | None = None,
        region: str | None = None,
        user_data: str | None = None,
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, object] | None = None,
        progress: Callable[[str], object] | None = None,
    ) -> Machine:
        """Makes the machine ``PROVIDER/NAME`` and waits until it runs. ``progress`` hears lines about it. Giving up
        waiting removes what was made."""
        op = self._fleet.create(
            target,
            image,
            cpus,
            memory_bytes,
            disk_bytes,
            region,
            user_data,
            None if labels is None else dict(labels),
            None if options is None else dumps(dict(options)),
        )
        self._follow(op, progress)
        return self.get(target)

    def start(
        self, target: TargetLike, *, progress: Callable[[str], object] | None = None
    ) -> Machine:
        """Starts it; fine when it runs."""
        self._follow(self._fleet.start(_name(target)), progress)
        return self.get(target)

    def stop(
        self,
        target: TargetLike,
        *,
        mode: Literal["graceful", "force", "suspend"] = "graceful",
        progress: Callable[[str], object] | None = None,
    ) -> Machine:
        """Stops it; fine when it is stopped."""
        self._follow(self._fleet.stop(_name(target), mode), progress)
        return self.get(target)

    def delete(
        self,
        target: TargetLike,
        *,
        purge: bool = False,
        progress: Callable[[str], object] | None = None,
    ) -> None:
        """Deletes it, for good with ``purge``; fine when it is gone."""
        self._follow(self._fleet.delete(_name(target), purge), progress)

    def act(
        self,
        target: TargetLike,
        action: str,
        *,
        args: Mapping[str, object] | None = None,
        progress: Callable[[str], object] | None = None,
    ) -> Any:
        """Does something only its provider can (`Provider.actions`), e.g. a snapshot; gives what that answers."""
        given = None if args is None else dumps(dict(args))
        return self._follow(self._fleet.act(_name(target), action, given), progress)


class Fleet:
    """All machines one process or one server can reach. Leaving its block ends what this process runs on them."""

    def __init__(self, native: _native.Fleet) -> None:
        if not isinstance(native, _native.Fleet):
            raise TypeError("use Fleet.local() or Fleet.connect(url, token=...)")
        self._native = native
        #: Their life.
        self.machines = Machines(native)

    @classmethod
    def local(
        cls, *, data_dir: Text | None = None, ssh: Text | bool = False, multipass: bool = False
    ) -> Fleet:
        """This host. With ``data_dir`` also sandboxes (``sandbox/NAME``) and records of commands, kept there; one
        process at a time. With ``ssh`` the hosts of ``~/.ssh/config`` or of another such file (``ssh/NAME``). With
        ``multipass`` its virtual machines."""
        config = os.path.expanduser("~/.ssh/config") if ssh is True else ssh or None
        if ssh is True and not os.path.exists(str(config)):
            config = None
        return cls(_native.Fleet.local(data_dir, config, multipass))

    @classmethod
    def connect(
        cls,
        url: str,
        token: str | None = None,
        *,
        certificates: bytes | None = None,
        connect_timeout: float | None = None,
    ) -> Fleet:
        """A server: all targets it has, with the same methods. Nothing is sent yet. ``certificates`` (PEM) are trusted
        besides those of the system. Commands belong to this process: they end with it unless they are detached."""
        return cls(_native.Fleet.connect(url, token, certificates, connect_timeout))

    @property
    def url(self) -> str | None:
        """The server's address; ``None`` in-process."""
        return self._native.url

    def run(
        self, target: TargetLike, argv: Argv, *, check: bool = False, **options: Unpack[Options]
    ) -> Result:
        """Runs a program to its end and collects its output. One that fails raises only with ``check``. Giving up
        waiting ends the command and waits until no process is left."""
        where, id = _name(target), _native.Fleet.new_id()
        op = self._native.run(where, _native.Spec(argv, **options), id)
        try:
            raw = _do(op)
        except FleetError:
            raise
        except BaseException:
            _do(self._native.settle(where, id))
            raise
        result = _result(raw, where)
        return result.check() if check else result

    def stream(self, target: TargetLike, argv: Argv, **options: Unpack[Options]) -> Stream:
        """Starts a program whose output is read while it runs."""
        where, id = _name(target), _native.Fleet.new_id()
        op = self._native.spawn(where, _native.Spec(argv, **options), id)
        return self._stream(op, where, id)

    def _stream(self, op: _native.Op, where: str, id: str) -> Stream:
        try:
            command = _do(op)
        except FleetError:
            raise
        except BaseException:
            _do(self._native.settle(where, id))
            raise
        return Stream(command, target=where, owned=True)

    def attach(self, id: str, *, offset: int = 0) -> Stream:
        """A command that was started before, by its id: its output from a byte on. It is not ours: leaving the block
        changes nothing."""
        return self._attach(self._native.attach(id), offset)

    def _attach(self, op: _native.Op, offset: int) -> Stream:
        return Stream(_do(op), target="", owned=False, offset=offset)

    def run_many(
        self,
        targets: Iterable[TargetLike],
        argv: Argv,
        *,
        parallel: int = 20,
        batch: int | None = None,
        max_failures: int | None = None,
        with_labels: Mapping[str, str] | None = None,
        progress: Callable[[FanOutResult], object] | None = None,
        **options: Unpack[FanOutOptions],
    ) -> Table[FanOutResult]:
        """Runs a program on many targets, at most ``parallel`` at once. Names may be patterns: ``sandbox/web-*``,
        ``office-*/**``. ``batch``: start this many, wait for all of them, then go on. ``max_failures``: start no more
        once this many have failed. ``progress`` hears each result as it comes. Giving up waiting ends all of it."""
        spec = _native.Spec(argv, **options)
        labels = None if with_labels is None else dict(with_labels)
        fan_out = _do(self._native.fan_out(_names(targets), spec, parallel, batch, max_failures, labels))
        results: Table[FanOutResult] = Table()
        try:
            while (raw := _do(fan_out.next())) is not None:
                target, command, state, output, error = raw
                got = None if output is None else _result(output, target)
                result = FanOutResult(target, state, got, error, command)
                results.append(result)
                if progress is not None:
                    progress(result)
        except BaseException:
            _do(fan_out.cancel())
            raise
        return results

    def session(
        self,
        target: TargetLike = "local",
        *,
        id: str | None = None,
        shell: Sequence[str] | None = None,
        cwd: Text | None = None,
        env: Mapping[str, Text] | None = None,
        user: str | None = None,
        size: tuple[int, int] = (80, 24),
        idle_timeout: float | None = None,
        startup: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
    ) -> Session:
        """Opens a persistent shell."""
        where = _name(target)
        wanted = {
            "id": id,
            "shell": shell,
            "cwd": cwd,
            "env": None if env is None else dict(env),
            "user": user,
            "size": size,
            "idle_timeout": idle_timeout,
            "startup": startup,
            "labels": None if labels is None else dict(labels),
        }
        return self._session(self._native.session(where, wanted), where)

    def _session(self, op: _native.Op, where: str) -> Session:
        return Session(_do(op), where)

    def files(self, target: TargetLike = "local") -> Files:
        """Files of a target. Nothing is done yet."""
        where = _name(target)
        return Files(self._native.files(where), where)

    def forward(self, target: TargetLike, to: str, *, bind: str = "127.0.0.1:0") -> Tunnel:
        """Makes a port of this host lead to ``HOST:PORT`` as seen from the target: ``localhost`` is the target."""
        return self._forward(self._native.tunnel(_name(target), to, bind))

    def _forward(self, op: _native.Op) -> Tunnel:
        return Tunnel(_do(op))

    def targets(self) -> Table[Target]:
        """All targets that are there now."""
        return Table(Target._of(raw) for raw in _do(self._native.targets()))

    def ping(self, target: TargetLike) -> None:
        """Checks that a target can be reached."""
        _do(self._native.ping(_name(target)))

    def commands(
        self, *, target: TargetLike | None = None, limit: int | None = None
    ) -> Table[CommandInfo]:
        """Records of commands, newest first. In-process without ``data_dir``, those that run."""
        where = None if target is None else _name(target)
        return Table(CommandInfo._of(raw) for raw in _do(self._native.commands(where, limit)))

    def agents(self) -> Table[Agent]:
        """Agents of the server."""
        return Table(Agent._of(raw) for raw in _do(self._native.agents()))

    def remove_agent(self, id: str) -> None:
        """Puts an agent out for good."""
        _do(self._native.remove_agent(id))

    def join_code(
        self, *, labels: Mapping[str, str] | None = None, expires_in: float | None = None
    ) -> JoinCode:
        """A code that lets one agent join, within an hour unless ``expires_in`` seconds are given."""
        raw = _do(self._native.join_code(None if labels is None else dict(labels), expires_in))
        return JoinCode(raw["code"], raw["command"], _time(raw["expires_at"]))

    def close(self) -> None:
        """Ends every command and session of this process, and waits for them."""
        _do(self._native.close())

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return "<Fleet of this host>" if self.url is None else f"<Fleet at {self.url}>"
