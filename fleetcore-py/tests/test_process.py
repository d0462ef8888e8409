"""The interpreter around it: its end, Ctrl-C, forks, threads, sub-interpreters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import fleetcore

EXITS = int(os.environ.get("FLEETCORE_PY_EXITS", "20"))


def python(script: str, *, code: int = 0) -> str:
    """What a fresh interpreter says."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done.stdout


def ended(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            state = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":
            return True
    return False


@pytest.mark.parametrize(
    "script",
    [
        # A command that is owned, one that is being waited for by a thread, a session, a task.
        "s = f.stream('local', ['sh', '-c', 'echo $$; exec sleep 1000'])\nprint(next(s).text)",
        "t = threading.Thread(target=lambda: f.run('local', ['sh', '-c', 'echo $$ >&3; sleep 1000']), daemon=True)\n"
        "t.start()\ns = f.stream('local', ['sh', '-c', 'echo $$; exec sleep 1000'])\nprint(next(s).text)",
        "s = f.session()\nprint(s.run('echo $$').text)",
        "import asyncio\n"
        "from fleetcore import aio\n"
        "async def main():\n"
        "    global s\n"
        "    s = await aio.Fleet.local().stream('local', ['sh', '-c', 'echo $$; exec sleep 1000'])\n"
        "    print((await anext(s)).text)\n"
        "asyncio.run(main())",
    ],
)
def test_interpreter_exits_with_running_commands(script: str) -> None:
    for _ in range(max(1, EXITS // 4)):
        said = python(f"import fleetcore, threading\nf = fleetcore.Fleet.local()\n{script}\n")
        assert ended(int(said))


def test_ctrl_c_in_a_synchronous_call() -> None:
    script = (
        "import faulthandler, fleetcore, os, signal, threading\n"
        "faulthandler.dump_traceback_later(60, exit=True)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "f = fleetcore.Fleet.local()\n"
        "def interrupt():\n"
        "    while not [c for c in f.commands() if c.state == 'running']: pass\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=interrupt).start()\n"
        "try:\n"
        "    f.run('local', ['sleep', '1000'])\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', [c for c in f.commands() if c.state == 'running'])\n"
    )
    assert python(script) == "interrupted []\n"


def test_the_gil_is_free_while_something_waits() -> None:
    fleet = fleetcore.Fleet.local()
    turns = 0
    waiting = threading.Thread(target=lambda: fleet.run("local", ["sleep", "0.3"]))
    waiting.start()
    while waiting.is_alive():
        turns += 1
    assert turns > 1000


def test_a_forked_child_has_its_own_runtime_and_refuses_the_parents_objects() -> None:
    script = (
        "import fleetcore, os, sys\n"
        "f = fleetcore.Fleet.local()\n"
        "f.run('local', ['true'], check=True)\n"
        "if os.fork() == 0:\n"
        "    try:\n"
        "        f.run('local', ['true'])\n"
        "    except RuntimeError as e:\n"
        "        print('refused', 'fork' in str(e))\n"
        "    print(fleetcore.Fleet.local().run('local', ['echo', 'child']).text, flush=True)\n"
        "    sys.exit(3)\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]), f.run('local', ['echo', 'parent']).text)\n"
    )
    assert python(script).split() == ["refused", "True", "child", "3", "parent"]


def test_multiprocessing_by_fork() -> None:
    script = (
        "import fleetcore, multiprocessing\n"
        "def work(n):\n"
        "    return fleetcore.Fleet.local().run('local', ['echo', str(n)]).text\n"
        "fleetcore.Fleet.local().run('local', ['true'])\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    print(*pool.map(work, range(4)))\n"
    )
    assert python(script).split() == ["0", "1", "2", "3"]


def test_a_sub_interpreter_is_refused_with_a_clear_error() -> None:
    script = (
        "import fleetcore\n"
        "try:\n"
        "    import _xxsubinterpreters as sub\n"
        "except ImportError:\n"
        "    import _interpreters as sub\n"
        "i = sub.create()\n"
        "inner = '''\n"
        "try:\n"
        "    import fleetcore\n"
        "except ImportError as e:\n"
        "    print('refused:', e, flush=True)\n"
        "'''\n"
        "sub.run_string(i, inner)\n"
    )
    assert "subinterpreter" in python(script)


def test_import_is_quick_and_lazy() -> None:
    said = python(
        "import sys\nbefore = set(sys.modules)\nimport fleetcore\nnew = set(sys.modules) - before\n"
        "print(*(m for m in new if not m.startswith('fleetcore')), len(__import__('os').listdir('/proc/self/task')))\n"
        "print(fleetcore.aio.Fleet.__name__)\n"
    )
    # Nothing else, and no thread before something is done.
    assert set(said.split()) == {"__future__", "atexit", "1", "Fleet"}


def test_nothing_works_after_the_end() -> None:
    script = (
        "import atexit\n"
        "def late():\n"
        "    try:\n"
        "        f.run('local', ['true'])\n"
        "    except RuntimeError as e:\n"
        "        print(e)\n"
        "atexit.register(late)\n"
        "import fleetcore\n"
        "f = fleetcore.Fleet.local()\n"
    )
    assert "shutting down" in python(script)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal here")
def test_other_signals_do_not_disturb() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    try:
        threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
        assert fleetcore.Fleet.local().run("local", ["sleep", "0.5"]).ok
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == [signal.SIGUSR1]
