"""The calls of multipass that all of this makes, on this host or on any target of a fleet."""

from __future__ import annotations

import json
import re
from typing import Any

import fleetcore
from fleetcore import aio

#: What a command answers: ``success``, ``output``, ``error``.
Answer = dict[str, Any]

NOT_FOUND = "multipass command not found. Is multipass installed?"
DELETED = "VM deleted and purged"

_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9-]*[A-Za-z0-9])?\Z")
_SIZE = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[KMGT](?:i?B)?|B)?\Z", re.IGNORECASE)
# Control sequences of terminals, and the spinner multipass draws even into pipes.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[@-~]")

_here: fleetcore.Fleet | None = None
_here_async: aio.Fleet | None = None
_agents: aio.Fleet | None = None


def here() -> fleetcore.Fleet:
    """This host."""
    global _here
    if _here is None:
        _here = fleetcore.Fleet.local()
    return _here


def here_async() -> aio.Fleet:
    """This host, for asyncio."""
    global _here_async
    if _here_async is None:
        _here_async = aio.Fleet.local()
    return _here_async


def use(fleet: aio.Fleet) -> None:
    """Where agents with an ``api_url`` of ``fleet:TARGET`` are looked for."""
    global _agents
    _agents = fleet


def shown(output: str) -> str:
    """Without what only a terminal understands."""
    if "\x1b" not in output and "\b" not in output:
        return output
    lines = []
    for line in _CONTROL.sub("\n", output).split("\n"):
        # The spinner draws a stroke and steps back over it.
        text = re.sub(r"[-\\|/ ]?\x08", "", line.split("\r")[-1]).rstrip()
        if text.strip(" -\\|/") and not re.match(r"(?:Starting|Stopping|Launching|Creating|Waiting|Deleting) ", text):
            lines.append(text)
    return "".join(line + "\n" for line in lines)


def argv(args: list[str]) -> list[str]:
    """The whole command. A text with a NUL in it is a `ValueError`, another type a `TypeError`."""
    return ["multipass", *args]


def _span(seconds: float) -> str:
    return f"{seconds // 60:.0f} minutes" if seconds >= 60 else f"{seconds:.0f} seconds"


def answer(result: fleetcore.Result) -> Answer:
    """What became of it."""
    output, error = result.text, result.error_text
    if result.timed_out:
        return {"success": False, "output": "", "error": f"Command timed out after {_span(result.duration)}"}
    if result.ok:
        return {"success": True, "output": output, "error": ""}
    return {"success": False, "output": output, "error": error}


def failed(error: fleetcore.FleetError) -> Answer:
    """It could not even start."""
    text = NOT_FOUND if isinstance(error, fleetcore.NotFoundError) else str(error)
    return {"success": False, "output": "", "error": text}


def parsed(got: Answer) -> tuple[Any, str | None]:
    """JSON, or what is wrong."""
    if not got["success"]:
        return None, str(got["error"])
    try:
        return json.loads(got["output"]), None
    except ValueError as e:
        return None, f"Failed to parse JSON: {e}"


def wrong(name: str | None = None, image: str | None = None, cpus: int | None = None, **sizes: str | None) -> str | None:
    """Why multipass must not be asked: it would take such a word for an option, or the wrong thing altogether."""
    if name is not None and not _NAME.match(name):
        return f"invalid VM name {name!r}: letters, digits and inner dashes, beginning with a letter"
    if image is not None and (not image or image.startswith("-")):
        return f"invalid image {image!r}: it must not be empty or begin with a dash"
    if cpus is not None and (isinstance(cpus, bool) or not isinstance(cpus, int) or cpus < 1):
        return f"invalid cpus {cpus!r}: a number of at least 1"
    for what, size in sizes.items():
        if size is None or not _SIZE.match(size):
            return f"invalid {what} {size!r}: digits and K, M, G or T"
    return None


def launch(name: str, cpus: int, memory: str, disk: str, image: str) -> list[str]:
    """The words that make a machine."""
    return ["launch", image, "--name", name, "--cpus", str(cpus), "--memory", memory, "--disk", disk]


def message(got: Answer) -> dict[str, Any]:
    """As executors tell it."""
    if got["success"]:
        return {"success": True, "message": shown(got["output"])}
    return {"success": False, "message": got["error"]}


def run(args: list[str], timeout: float | None = None) -> Answer:
    """Runs it here and waits."""
    command = argv(args)
    try:
        return answer(here().run("local", command, timeout=timeout))
    except fleetcore.InvalidInputError:
        raise
    except fleetcore.FleetError as e:
        return failed(e)


async def run_here(args: list[str]) -> Answer:
    """Runs it on this host. Cancelling it ends it."""
    return await _run(here_async(), "local", args, None)


async def run_async(args: list[str], *, target: str, timeout: float | None = None) -> Answer:
    """Runs it on a target of the fleet."""
    return await _run(_agents or here_async(), target, args, timeout)


async def _run(fleet: aio.Fleet, target: str, args: list[str], timeout: float | None) -> Answer:
    command = argv(args)
    try:
        return answer(await fleet.run(target, command, timeout=timeout))
    except fleetcore.FleetError as e:
        # An unknown target is not found, either.
        return failed(e) if target == "local" or "program" in e.context else {**failed(e), "error": str(e)}
