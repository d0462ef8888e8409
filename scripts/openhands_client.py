#!/usr/bin/env python3
"""Drives the runtime for OpenHands with OpenHands' own client (0.62, from PyPI), unmodified.

The client is its `LocalRuntime`, which starts `python -m openhands.runtime.action_execution_server` and talks to it.
docs/openhands.md, "Tried with the real client", says how that module comes to be fleetcore. Without that this drives
the original, so that both can be compared.

Usage: openhands_client.py [ECHO_SERVER.py]     an MCP server to call, for example
                                                fleetcore-http/tests/openhands/echo_server.py
Prints one line for each step and `ok`, or what was answered instead; the exit status is the number of failures.
"""

import asyncio
import json
import os
import pathlib
import pwd
import sys
import tempfile
import time
import zipfile

os.environ.setdefault("SESSION_API_KEY", "the-key-of-this-session")
os.environ.setdefault("SKIP_DEPENDENCY_CHECK", "1")
os.environ.setdefault("NO_CHANGE_TIMEOUT_SECONDS", "3")
os.environ.setdefault("USER", pwd.getpwuid(os.getuid()).pw_name)

from openhands.core.config import OpenHandsConfig  # noqa: E402
from openhands.core.config.mcp_config import MCPConfig, MCPStdioServerConfig  # noqa: E402
from openhands.events import EventStream  # noqa: E402
from openhands.events.action import (  # noqa: E402
    BrowseURLAction,
    CmdRunAction,
    FileEditAction,
    FileReadAction,
    FileWriteAction,
    IPythonRunCellAction,
    MCPAction,
)
from openhands.events.event import FileReadSource  # noqa: E402
from openhands.llm.llm_registry import LLMRegistry  # noqa: E402
from openhands.runtime.impl.local.local_runtime import LocalRuntime  # noqa: E402
from openhands.runtime.plugins import AgentSkillsRequirement, JupyterRequirement  # noqa: E402
from openhands.storage import get_file_store  # noqa: E402

failures = 0


def check(step, good, answer):
    global failures
    failures += not good
    print(f"{'ok' if good else 'FAILED':6} {step}" + ("" if good else f"\n       {answer!r}"), flush=True)


def main():
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="openhands-client-"))
    config = OpenHandsConfig(
        workspace_base=str(scratch / "work"), file_store="local", file_store_path=str(scratch / "store")
    )
    (scratch / "work").mkdir()
    config.enable_browser = False
    stream = EventStream("client", get_file_store("local", str(scratch / "store")))
    plugins = [AgentSkillsRequirement(), JupyterRequirement()]
    runtime = LocalRuntime(
        config, stream, LLMRegistry(config), sid="client", plugins=plugins, env_vars={"GREETING": 'he said "hi" $x'}
    )
    began = time.time()
    asyncio.run(runtime.connect())
    check(f"connect, with its set-up of environment and git ({time.time() - began:.1f} s)", True, None)
    try:
        steps(runtime, scratch)
    finally:
        runtime.close()
    check("close ends the server", runtime.server_process is None or runtime.server_process.poll() is not None, None)
    return failures


def steps(runtime, scratch):
    work = str(scratch / "work")

    def run(command, **args):
        blocking = args.pop("limit", None)
        action = CmdRunAction(command, **args)
        if blocking:
            action.set_hard_timeout(blocking, blocking=False)
        return runtime.run_action(action)

    seen = run("echo hello; pwd")
    check("run", (seen.content, seen.exit_code) == (f"hello\n{work}", 0), seen)
    check("metadata", seen.metadata.working_dir == work and seen.metadata.username, seen.metadata)
    seen = run("false")
    check("exit code", seen.exit_code == 1, seen)
    seen = run('echo "$GREETING"; git config --global user.name')
    check("environment and git set up by the client", seen.content == 'he said "hi"\nopenhands', seen)
    seen = run("env | grep -c SESSION_API_KEY")
    check("the key is not in the shell (DEFECT 17)", seen.content == "0", seen)
    seen = run("echo a\necho b")
    check("several commands are refused", "Cannot execute multiple commands" in seen.content, seen)
    seen = run("cat <<EOF > here.txt\nline $((1+1))\nEOF\n")
    check("here-document (DEFECT 1)", (scratch / "work/here.txt").read_text() == "line 2\n", seen)
    seen = run("sleep 60")
    check("soft timeout", seen.exit_code == -1 and "no new output after 3 seconds" in seen.metadata.suffix, seen)
    seen = run("echo no")
    check("refused while it runs", "NOT executed" in seen.metadata.suffix, seen)
    seen = run("C-c", is_input=True)
    check("interrupt", seen.exit_code == 130, seen)
    seen = run("for i in 1 2 3 4 5; do echo t$i; sleep 1; done", limit=1.5)
    check("hard timeout", "timed out after 1.5 seconds" in seen.metadata.suffix, seen)
    seen = run("", limit=20)
    check("the rest of it", seen.exit_code == 0 and seen.content.endswith("t5"), seen)
    seen = run('read -p "name? " n && echo "<$n>"')
    check("a prompt", seen.content == "name?", seen)
    seen = run("Ann", is_input=True)
    check("input", seen.content == "<Ann>", seen)
    seen = run("pwd", is_static=True, cwd="/tmp", hidden=True)
    check("static, hidden", seen.content == "/tmp" and seen.hidden, seen)
    run("mkdir -p sub && cd sub")

    seen = runtime.run_action(FileWriteAction(path="a.txt", content="one\ntwo\nthree"))
    check("write", seen.path == f"{work}/sub/a.txt", seen)
    seen = runtime.run_action(FileReadAction(path="a.txt", start=1, end=2))
    check("read lines", seen.content == "two\n", seen)
    seen = runtime.run_action(FileReadAction(path="nope"))
    check("read what is not there", seen.content.startswith("File not found: "), seen)
    aci = FileReadSource.OH_ACI
    seen = runtime.run_action(FileReadAction(path=f"{work}/sub/a.txt", impl_source=aci, view_range=[2, 3]))
    check("view", seen.content.endswith("     2\ttwo\n     3\tthree\n"), seen)
    edit = FileEditAction(path=f"{work}/sub/a.txt", command="str_replace", old_str="two", new_str="2")
    seen = runtime.run_action(edit)
    check("edit", "has been edited" in seen.content and "+2" in seen.diff, seen)
    seen = runtime.run_action(FileEditAction(path=f"{work}/sub/a.txt", command="undo_edit"))
    check("undo", "undone successfully" in seen.content, seen)
    seen = runtime.run_action(FileEditAction(path=f"{work}/sub/b.py", command="create", file_text="x = 1\n"))
    check("create", "File created successfully" in seen.content, seen)
    seen = runtime.run_action(
        FileEditAction(path=f"{work}/sub/b.py", command="insert", insert_line=1, new_str="y = 2")
    )
    check("insert", (scratch / "work/sub/b.py").read_text() == "x = 1\ny = 2\n", seen)

    check("list_files", runtime.list_files() == ["sub/", "here.txt"], runtime.list_files())
    source = scratch / "tree"
    (source / "d").mkdir(parents=True)
    (source / "d/f.txt").write_text("deep")
    runtime.copy_to(str(source / "d/f.txt"), f"{work}/up")
    check("copy_to a file", (scratch / "work/up/f.txt").read_text() == "deep", None)
    runtime.copy_to(str(source), f"{work}/up", recursive=True)
    check("copy_to a tree", (scratch / "work/up/tree/d/f.txt").read_text() == "deep", None)
    names = sorted(zipfile.ZipFile(runtime.copy_from(f"{work}/up")).namelist())
    check("copy_from", names == ["f.txt", "tree/d/f.txt"], names)
    # The client does not look at the status of a download, so what comes is the text of the error.
    missing = runtime.copy_from("/no/such/place").read_text()
    check("copy_from what is not there", "404: File not found" in missing, missing)

    seen = runtime.run_action(IPythonRunCellAction(code="import os\nprint(6 * 7, os.getcwd())"))
    check("ipython, in the shell's directory", seen.content.startswith(f"42 {work}/sub\n[Jupyter current"), seen)
    seen = runtime.run_action(IPythonRunCellAction(code="1 / 0"))
    check("ipython, an error", "ZeroDivisionError: division by zero" in seen.content, seen)
    seen = runtime.run_action(IPythonRunCellAction(code=f"print(file_editor('view', path='{work}/sub/b.py'))"))
    check("agent_skills", "<oh_aci_output_" in seen.content and "y = 2" in seen.content, seen)
    slow = IPythonRunCellAction(code="import time; time.sleep(30)")
    slow.set_hard_timeout(1.0)
    seen = runtime.run_action(slow)
    check("ipython, timeout", seen.content.startswith("[Execution timed out (1.0 seconds).]"), seen)
    picture = "from IPython.display import Image, display\n"
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    seen = runtime.run_action(
        IPythonRunCellAction(code=f"{picture}import base64; display(Image(base64.b64decode('{png}')))")
    )
    check("ipython, an image", len(seen.image_urls or []) == 1, seen)

    seen = runtime.run_action(BrowseURLAction(url="http://127.0.0.1:9/"))
    check("browse without a browser", "not supported or disabled" in seen.content, seen)
    changed = runtime.get_git_changes(f"{work}") if hasattr(runtime, "get_git_changes") else None
    check("git panel, outside of a repository", changed in (None, []), changed)
    run(f"cd {work} && git init -q . && git add here.txt && git commit -qm first && echo more >> here.txt")
    changed = runtime.get_git_changes(f"{work}")
    # Without a remote the client compares with nothing, so everything was added.
    check("git panel", {"status": "A", "path": "here.txt"} in (changed or []), changed)
    seen = runtime.get_git_diff("here.txt", work)
    check("git diff", seen.get("modified", "").endswith("more"), seen)

    if len(sys.argv) > 1:
        server = MCPStdioServerConfig(name="echo", command=sys.executable, args=[os.path.abspath(sys.argv[1])])
        runtime.config.mcp = MCPConfig(stdio_servers=[server])
        updated = runtime.get_mcp_config()
        check("MCP servers are handed to the client", len(updated.sse_servers) == 1, updated)
        seen = asyncio.run(runtime.call_tool_mcp(MCPAction(name="echo", arguments={"text": "hey"})))
        text = json.loads(seen.content)["content"][0]["text"] if seen.content.startswith("{") else ""
        check("MCP call", text == "hey", seen)

    seen = run("exit 3")
    check("the shell ends (DEFECT 2)", seen.exit_code == 3, seen)
    seen = run("echo alive; pwd")
    check("and there is another one", seen.content == f"alive\n{work}", seen)


if __name__ == "__main__":
    sys.exit(main())
