#!/usr/bin/env python3
"""Stands in for the multipass program: machines in the JSON file $MP_STATE, and each call in $MP_STATE.log."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from typing import Any, NoReturn

STATE = os.environ["MP_STATE"]


def fail(verb: str, text: str) -> NoReturn:
    sys.stderr.write(f"{verb} failed: {text}\n")
    sys.exit(2)


def facts(name: str, vm: dict[str, Any]) -> dict[str, Any]:
    runs = vm["state"] == "Running"
    return {
        "zone": {"name": "zone1", "available": True},
        "state": vm["state"],
        "image_hash": "1797c5c82016c1e65f4008fcf89deae3a044ef76087a9ec5b907c6d64a3609ac",
        "image_release": "22.04 LTS",
        "release": "Ubuntu 22.04.5 LTS" if runs else "",
        "cpu_count": str(vm["cpus"]) if runs else "",
        "snapshot_count": "0",
        "load": [0.45, 0.51, 0.15] if runs else [],
        "disks": {"sda1": {"used": "1288490188", "total": "5153960756"} if runs else {}},
        "memory": {"used": 60817408, "total": 1503238554} if runs else {},
        "ipv4": vm["ipv4"] if runs else [],
        "mounts": {},
    }


def line(name: str, vm: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "state": vm["state"],
        "ipv4": vm["ipv4"] if vm["state"] == "Running" else [],
        "release": "Not Available" if vm["state"] == "Deleted" else vm["release"],
        "zone": {"name": "zone1", "available": True},
    }


def main(args: list[str]) -> int:
    with open(STATE + ".log", "a") as log:
        log.write(json.dumps(args) + "\n")
    with open(STATE + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(STATE) as file:
            state = json.load(file)
        vms = state["vms"]
        verb, rest = args[0], args[1:]
        if verb == "version":
            print("multipass   1.16.0\nmultipassd  1.16.0")
        elif verb == "list":
            if state.get("broken"):
                print("No instances found.")
            else:
                print(json.dumps({"list": [line(n, vm) for n, vm in vms.items()]}))
        elif verb == "info":
            if rest[0] not in vms:
                fail(verb, f'instance "{rest[0]}" does not exist')
            print(json.dumps({"errors": [], "info": {rest[0]: facts(rest[0], vms[rest[0]])}}))
        elif verb == "launch":
            options = dict(zip(rest[1::2], rest[2::2], strict=True))
            name = options["--name"]
            if name in vms:
                fail(verb, f'instance "{name}" already exists')
            release = f"Ubuntu {rest[0]} LTS"
            vms[name] = {"state": "Running", "ipv4": ["10.9.0.13"], "release": release, "cpus": int(options["--cpus"])}
            if state.get("spinner"):
                sys.stdout.write(f"\x1b[2K\x1b[0A\x1b[0ECreating {name}  \b/\b \x1b[2K\x1b[0A\x1b[0E")
            print(f"Launched: {name}")
        elif verb in ("start", "stop"):
            if rest[0] not in vms:
                fail(verb, f'instance "{rest[0]}" does not exist')
            if state.get("spinner"):
                sys.stdout.write(f"\x1b[2K\x1b[0A\x1b[0EStarting {rest[0]}  \b/\b \x1b[2K\x1b[0A\x1b[0E")
            vms[rest[0]]["state"] = "Running" if verb == "start" else "Stopped"
        elif verb == "delete":
            if rest[0] != "--purge":
                fail(verb, "only one machine at a time, for good")
            if rest[1] not in vms:
                fail(verb, f'instance "{rest[1]}" does not exist')
            del vms[rest[1]]
        elif verb == "exec":
            return subprocess.run(rest[2:]).returncode
        else:
            sys.stderr.write(f"Error: Unknown command or alias '{verb}'\n")
            return 1
        with open(STATE + ".new", "w") as file:
            json.dump(state, file)
        os.replace(STATE + ".new", STATE)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
