"""The suite has the cases of the Rust behaviour suite, by their names; what it leaves out has a reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SUITE = Path(__file__).parents[2] / "fleetcore/testkit/src/suite"
#: Which of its files are for whom. The others (stores, registries) are about traits that Python does not implement.
FILES = {
    "exec": ["exec/program.rs", "exec/output.rs", "exec/input.rs", "exec/end.rs", "exec/replay.rs", "pty.rs"],
    "files": ["files.rs"],
    "session": ["session.rs"],
    "tunnel": ["tunnel.rs"],
}
INSIDE = "about the inside of the core, which Python does not show"
SHELL = "about the shell's set-up; the same in every language"
TIMING = "needs the core's view of a reader or a connection"
#: What is not said in Python.
LEFT_OUT = {
    "an_id_is_used_once": INSIDE,
    "reattach_adopts_or_is_unsupported": INSIDE,
    "native_sessions_open_or_are_unsupported": INSIDE,
    "native_files_work_or_are_unsupported": INSIDE,
    "a_leak_that_keeps_writing_is_not_waited_for": TIMING,
    "a_reader_that_reconnects_loses_nothing": "test_aio.py has it, with waits that are cancelled",
    "block_holds_every_byte_for_the_first_reader": TIMING,
    "block_lets_go_when_the_last_reader_leaves": "test_leaving_the_block_of_a_talker_nobody_listens_to",
    "output_is_collected_whatever_the_window": "test_much_output_comes_whole",
    "a_change_of_size_is_signalled": "test_the_size_is_set_and_changes",
    "what_is_typed_is_echoed": "test_ctrl_d_ends_the_input",
    "the_tail_is_complete": "test_much_output_comes_whole",
    "all_job_groups_end_with_the_owner": "test_dropping_ends_every_job",
    "a_program_that_ignores_hangup_ends": "test_cancel_kills_what_ignores_term",
    "much_typing_and_much_output_pass_each_other": TIMING,
    "names_that_are_not_text_break_nothing": "a path is text in this package",
    "one_file_goes_out_as_tar": INSIDE,
    "expected_text_comes_before_the_end": TIMING,
    "a_dropped_run_can_be_resumed": "test_soft_timeout_hands_back_and_interrupt_ends",
    "forged_marks_mean_nothing": SHELL,
    "exec_ends_the_session": SHELL,
    "settings_of_the_shell_do_not_matter": SHELL,
    "hooks_are_mended": SHELL,
    "a_lost_prompt_is_found_and_not_guessed": SHELL,
    "redirecting_the_shell_does_no_harm": SHELL,
    "output_of_jobs_does_not_end_turns": SHELL,
    "typed_commands_make_it_busy": SHELL,
    "a_begun_line_is_emptied": SHELL,
    "terminal_settings_may_change": SHELL,
    "the_set_up_does_not_show": SHELL,
    "home_feels_like_home": SHELL,
    "what_we_send_ends_before_what_we_get": "test_much_goes_both_ways_byte_by_byte",
    "what_we_get_ends_before_what_we_send": TIMING,
    "a_port_where_nobody_listens_is_unavailable": "test_a_tunnel_serves_and_survives_refusals",
    "a_reader_that_stands_still_holds_up_nobody": TIMING,
    "dropping_a_connection_closes_it_there": TIMING,
    "a_reset_is_no_end": TIMING,
}


def cases(path: Path) -> set[str]:
    """Names in the lists of cases of a file."""
    text = path.read_text()
    lists = re.findall(r"cases!\[(.*?)\]", text, re.DOTALL)
    return {name for found in lists for name in re.findall(r"\b([a-z][a-z0-9_]*_[a-z0-9_]+)\b", found)}


@pytest.mark.parametrize("kind", FILES)
def test_names_are_those_of_the_rust_suite(kind: str) -> None:
    if not SUITE.exists():
        pytest.skip("NO SOURCES: the Rust suite is not beside this package")
    wanted = set().union(*(cases(SUITE / f) for f in FILES[kind]))
    assert len(wanted) > 10
    text = "".join(p.read_text() for p in Path(__file__).parent.glob("test_*.py") if p.name != Path(__file__).name)
    have = set(re.findall(r"^def test_(\w+)\(", text, re.MULTILINE))
    unsaid = {name for name in wanted if name not in have and name not in LEFT_OUT}
    assert unsaid == set()
    assert {name for name in wanted & have if name in LEFT_OUT} == set()


def test_what_is_left_out_exists() -> None:
    if not SUITE.exists():
        pytest.skip("NO SOURCES: the Rust suite is not beside this package")
    every = set().union(*(cases(SUITE / f) for found in FILES.values() for f in found))
    assert set(LEFT_OUT) <= every
