"""``edgeport chat`` on a tiny random Llama, against transformers' pipeline on the same messages."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import transformers
from edgeport.cli import main
from edgeport.cli.streams import dim, printable
from edgeport.cli.terminal import Meter, Terminal
from edgeport.generate import decoder
from edgeport.tasks.text_generation import TextGeneration

GREEDY = ("--greedy", "--variant", "fp32", "--threads", "1", "--max-new-tokens", "8")
UNTEMPLATED = "The model has no chat template: it goes on with the text, turn by turn."


class TerminalInput(io.StringIO):
    """Lines that somebody types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def writes(tiny_writer: Any) -> Callable[..., str]:
    """What the original goes on with, greedily, after messages or a text."""
    pipe = transformers.pipeline("text-generation", str(tiny_writer.original))

    def go_on(prompt: Any, tokens: int = 8) -> str:
        return str(pipe(prompt, do_sample=False, max_new_tokens=tokens, return_full_text=False)[0]["generated_text"])

    return go_on


@pytest.fixture
def chat(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Run the command on lines of a pipe, or typed ones; returns status, stdout and stderr."""

    def run(bundle: Path, *lines: str, options: tuple[str, ...] = GREEDY, typed: bool = False) -> tuple[int, str, str]:
        text = "".join(f"{line}\n" for line in lines)
        monkeypatch.setattr("sys.stdin", TerminalInput(text) if typed else io.StringIO(text))
        status = main(["chat", str(bundle), *options])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_answers_are_those_of_transformers(tiny_writer: Any, chat: Any, writes: Any) -> None:
    first = writes([user("the train")])
    second = writes([user("the train"), assistant(first), user("over water")])
    assert len({first, second, ""}) == 3
    status, out, err = chat(tiny_writer.bundle, "the train", "over water")
    assert (status, out) == (0, f"{first}\n{second}\n")
    assert err.count("[8 tokens, ") == 2
    assert UNTEMPLATED not in err


def test_a_system_message_stands_first(tiny_writer: Any, chat: Any, writes: Any) -> None:
    wanted = writes([{"role": "system", "content": "one hour"}, user("the train")])
    assert wanted != writes([user("the train")])
    assert chat(tiny_writer.bundle, "the train", options=(*GREEDY, "--system", "one hour"))[1] == f"{wanted}\n"
    typed = ("/system one hour", "/system £5", "the train", "/reset", "/system", "the train")
    without = writes([user("the train")])
    _, out, err = chat(tiny_writer.bundle, *typed, typed=True)
    assert out == f"{wanted}\n{without}\n"
    assert "refuses the messages (money is no matter)" in err


def test_without_a_template_one_text_goes_on(tiny_writer: Any, chat: Any, writes: Any) -> None:
    first = writes("the train")
    second = writes(f"the train{first}\nover water")
    third = writes(f"the train{first}\nover water{second}")
    status, out, err = chat(tiny_writer.plain, "", "the train", "over water", "")
    assert (status, out) == (0, f"{first}\n{second}\n{third}\n")
    assert err.count(UNTEMPLATED) == 1


def test_undo_and_reset_forget(tiny_writer: Any, chat: Any, writes: Any) -> None:
    alone = writes([user("over water")])
    for forget in ("/undo", "/reset"):
        status, out, _ = chat(tiny_writer.bundle, "the train", forget, "over water", typed=True)
        assert (status, out.splitlines()[-1]) == (0, alone)


def test_several_lines_between_fences_are_one_turn(tiny_writer: Any, chat: Any, writes: Any) -> None:
    wanted = writes([user("the train\nover water")])
    for lines in (('"""', "the train", 'over water"""'), ('"""the train', "over water", '"""')):
        assert chat(tiny_writer.bundle, *lines, typed=True)[1].rstrip("\n") == wanted.rstrip("\n")


def test_a_slash_is_a_command_only_where_somebody_types_one(tiny_writer: Any, chat: Any, writes: Any) -> None:
    for line, said in (("//undo", "/undo"), ("/the/train", "/the/train")):
        assert chat(tiny_writer.bundle, line, typed=True)[1] == writes([user(said)]) + "\n"
    assert chat(tiny_writer.bundle, "/undo")[1] == writes([user("/undo")]) + "\n"


def test_set_changes_options_and_refuses_wrong_ones(tiny_writer: Any, chat: Any) -> None:
    lines = ("/set max-new-tokens=3", "the", "/set top_p=7", "/set warmth=1", "/set cancel=1", "/set top_p", "the")
    status, _, err = chat(tiny_writer.bundle, *lines, "/set max_new_tokens=", "/set", typed=True)
    assert status == 0
    assert err.count("[3 tokens, ") == 2
    assert err.count("cut by max_new_tokens") == 2
    errors = [line for line in err.splitlines() if "error" in line]
    for error, words in zip(
        errors, ("top_p=7 is not allowed", "'warmth' is unknown", "'cancel'", "/set temp"), strict=True
    ):
        assert words in error
    assert err.splitlines()[-2].endswith("do_sample=false")


def test_save_writes_what_run_takes_and_overwrites_nothing(
    tiny_writer: Any, chat: Any, writes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "talk.jsonl"
    lines = ("the train", f"/save {file}", f"/save {file}", "/save", f"/save {tmp_path / 'no' / 'x'}")
    status, _, err = chat(tiny_writer.bundle, *lines, typed=True)
    assert status == 0
    for words in ("is there already", "needs the name of a file", "cannot be written"):
        assert words in err
    saved = file.read_text(encoding="utf-8")
    talk = [user("the train"), assistant(writes([user("the train")]))]
    assert json.loads(saved) == {"messages": talk}
    assert main(["run", str(tiny_writer.bundle), saved.strip(), "--greedy", "--max-new-tokens", "2"]) == 0
    ((result,),) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert result["generated_text"][0] == talk[0]


def test_other_commands(tiny_writer: Any, chat: Any) -> None:
    status, out, err = chat(tiny_writer.bundle, "the", "/stats", "/help", "/udno", "/exit", "the", typed=True)
    assert (status, out.count("\n")) == (0, 1)  # nothing after /exit
    for words in ("1 remembered; 8 tokens in 1 answers", "variant      fp32", "/save FILE", "did you mean /undo?"):
        assert words in err
    status, _, err = chat(tiny_writer.bundle, "/undo", "/quit", typed=True)
    assert "there is no turn to undo" in err
    assert "takes no system message" in chat(tiny_writer.plain, "/system x", typed=True)[2]


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_stops_the_answer_and_keeps_the_session(
    tiny_writer: Any, chat: Any, writes: Any, monkeypatch: pytest.MonkeyPatch, presses: int
) -> None:
    shown: list[str] = []
    show = Terminal.show

    def press(self: Terminal, piece: str) -> None:
        show(self, piece)
        shown.append(piece)
        if len(shown) == 2:
            for _ in range(presses):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Terminal, "show", press)
    before = signal.getsignal(signal.SIGINT)
    status, out, err = chat(tiny_writer.bundle, "the train", "over water", typed=True)
    partial = "".join(shown[:2])
    second = writes([user("the train"), assistant(partial), user("over water")])
    assert (status, out) == (0, f"{partial}\n{second}\n")
    assert ", stopped]" in err
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_breaks_off_a_model_that_does_not_listen(
    tiny_writer: Any, chat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(self: Any, prompt: Any, **options: Any) -> Iterator[str]:
        for number in range(100):
            if number in (3, 5):
                signal.raise_signal(signal.SIGINT)
            yield "x"

    monkeypatch.setattr(TextGeneration, "stream", endless)
    status, out, err = chat(tiny_writer.bundle, "the train", typed=True)
    assert (status, out) == (0, "xxxxx\n")
    assert "stopped]" in err


@pytest.fixture
def _heeds_ctrl_c() -> Iterator[None]:
    """As in a terminal: a shell's background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heeds_ctrl_c")
def test_ctrl_c_ends_a_pipe(tiny_writer: Any, chat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Terminal, "show", lambda self, piece: signal.raise_signal(signal.SIGINT))
    assert chat(tiny_writer.bundle, "the train", "over water", options=GREEDY)[0] == 130


def test_a_full_context_is_an_error_or_costs_the_oldest_turns(tiny_writer: Any, chat: Any, writes: Any) -> None:
    turns = [f"the train was over the water and {word}" for word in ("water", "train", "hour", "over")]
    status, out, err = chat(tiny_writer.bundle, *turns)
    assert status == 2
    assert 1 <= len(out.splitlines()) < 4
    assert "tokens and the model takes 96, answer included: start with --drop-oldest" in err
    status, out, err = chat(tiny_writer.bundle, *turns, options=(*GREEDY, "--drop-oldest"))
    assert (status, len(out.splitlines())) == (0, 4)
    assert "the oldest 3 of 3 turns are forgotten" in err
    assert out.splitlines()[3] == writes([user(turns[3])])
    turns = ["the train", "over water", "and water", "the hour", "the water", "was over"]
    status, out, err = chat(tiny_writer.bundle, *turns, options=(*GREEDY, "--drop-oldest"))
    answers = out.splitlines()
    assert (status, len(answers)) == (0, 6)
    # How often and how many depends on how long the answers are, which are random.
    forgotten = sum(map(int, re.findall(r"the oldest (\d+) of \d+ turns are forgotten", err)))
    assert 1 <= forgotten <= 4
    said = zip(turns[forgotten:5], answers[forgotten:5], strict=True)
    kept = [message for turn, answer in said for message in (user(turn), assistant(answer))]
    assert answers[5] == writes([*kept, user(turns[5])]) != writes([user(turns[5])])


def test_turns_are_dropped_by_halves_so_that_most_prompts_are_read_where_the_last_one_ended(
    tiny_writer: Any, chat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    run = decoder._Plugged._run

    def counting(self: Any, ids: Any, *rest: Any) -> Any:
        read.append(ids.shape[1])
        return run(self, ids, *rest)

    monkeypatch.setattr(decoder._Plugged, "_run", counting)
    options = ("--greedy", "--variant", "fp32", "--threads", "1", "--max-new-tokens", "4", "--drop-oldest")
    status, out, err = chat(tiny_writer.bundle, *["over water"] * 30, options=options)
    assert (status, len(out.splitlines())) == (0, 30)
    prompts = [tokens for tokens in read if tokens > 1]
    notes = [line for line in err.splitlines() if "context" in line]
    used = [int(whole) - 4 for whole in re.findall(r"(\d+) of 96 tokens of context used", err)]
    anew = ["forgotten" in before for before, line in pairwise(["", *notes]) if "forgotten" not in line]
    assert len(prompts) == len(used) == len(anew) == 30
    assert 1 <= sum(anew) <= 30 / 2.5
    assert all(whole <= 48 for whole, dropped in zip(used, anew, strict=True) if dropped)
    assert max(used) > 60
    assert all(tokens <= 30 for tokens, dropped in zip(prompts, anew, strict=True) if not dropped)


def test_load_goes_on_where_save_ended(tiny_writer: Any, chat: Any, writes: Any, tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    first = writes([{"role": "system", "content": "one hour"}, user("the train")])
    chat(tiny_writer.bundle, "/system one hour", "the train", f"/save {file}", typed=True)
    talk = [{"role": "system", "content": "one hour"}, user("the train"), assistant(first), user("over water")]
    _, out, err = chat(
        tiny_writer.bundle, "forgotten", f"/load {file}", "over water", "/undo", "/undo", "/undo", typed=True
    )
    assert out.splitlines()[-1] == writes(talk)
    assert "Loaded 1 turn from" in err
    assert err.count("Forgotten: ") == 2
    text = tmp_path / "text.jsonl"
    start = writes("the train")
    chat(tiny_writer.plain, "the train", f"/save {text}", typed=True)
    assert chat(tiny_writer.plain, f"/load {text}", "over water", typed=True)[1] == (
        writes(f"the train{start}\nover water") + "\n"
    )


def test_what_cannot_be_loaded_changes_nothing(tiny_writer: Any, chat: Any, writes: Any, tmp_path: Path) -> None:
    refused = {
        "{": "is not one line of JSON",
        "[]": "has the key 'messages', and this has list",
        '{"text": "a"}': "has the key 'messages', and this has text",
        '{"messages": [{"role": "assistant", "content": "a"}]}': "and this has assistant",
        '{"messages": [{"role": "user", "content": "a"}]}': "user and assistant in turns, and this has user",
        '{"messages": [{"role": "user", "content": 1}, {"role": "assistant", "content": "a"}]}': "in turns",
        '{"messages": ["a"]}': "and this has None",
        '{"messages": [{"role": "system", "content": "£"}]}': "refuses the messages",
    }
    lines = ["/load", f"/load {tmp_path / 'none'}"]
    for number, text in enumerate(refused):
        (tmp_path / str(number)).write_text(text, encoding="utf-8")
        lines.append(f"/load {tmp_path / str(number)}")
    first = writes([user("the train")])
    talk = [user("the train"), assistant(first), user("over water")]
    status, out, err = chat(tiny_writer.bundle, "the train", *lines, "over water", typed=True)
    assert (status, out) == (0, f"{first}\n{writes(talk)}\n")
    errors = [line for line in err.splitlines() if "error" in line]
    for error, words in zip(errors, ["needs the name", "cannot be read", *refused.values()], strict=True):
        assert words in error


def test_a_turn_that_is_refused_is_not_remembered(tiny_writer: Any, chat: Any, writes: Any) -> None:
    status, out, err = chat(tiny_writer.bundle, "water " * 120, "the train", typed=True)
    assert (status, out) == (0, writes([user("the train")]) + "\n")
    assert "this turn has" in err
    assert "shorten it" in err
    first = writes([user("the train")])
    second = writes([user("the train"), assistant(first), user("an hour")])
    options = (*GREEDY, "--drop-oldest")
    _, out, _ = chat(tiny_writer.bundle, "the train", "water " * 120, "an hour", options=options)
    assert out == f"{first}\n{second}\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--greedy", "--temperature", "1"), "--greedy takes the likeliest token, and --temperature"),
        (("--temperature", "0"), "temperature=0.0 is not allowed"),
        (("--option", "num_beams=2"), "no beams"),
        (("--option", "inputs=2"), "'inputs' is the conversation's own"),
        (("--option", "seed"), "is not KEY=VALUE"),
        (("--variant", "int3"), "no variant 'int3'"),
        (("--max-new-tokens", "0"), "max_new_tokens=0"),
    ],
)
def test_wrong_calls(tiny_writer: Any, chat: Any, options: tuple[str, ...], words: str) -> None:
    status, out, err = chat(tiny_writer.bundle, "the", options=options)
    assert status in (1, 2)
    assert (out, err.count("\n")) == ("", 1)
    assert words in err


def test_other_bundles_are_refused(make_bundle: Any, tiny_writer: Any, chat: Any) -> None:
    assert "use `edgeport run`" in chat(make_bundle().root, "good", options=())[2]
    assert "nothing can be said to it by --system" in chat(tiny_writer.plain, "a", options=("--system", "x"))[2]


def test_a_missing_jinja_is_told_before_the_first_turn(
    tiny_writer: Any, chat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    status, out, err = chat(tiny_writer.bundle, "the")
    assert (status, out) == (2, "")
    assert "pip install 'edgeport[chat]'" in err
    assert chat(tiny_writer.plain, "the")[0] == 0


def test_a_meter_counts_what_was_written() -> None:
    meter = Meter()
    assert (meter.tokens, meter.rate) == (0, None)
    for _ in range(3):
        assert not meter.is_set()
    meter.end()
    assert meter.tokens == 3
    assert meter.rate is not None
    assert meter.rate > 0
    meter.stopped = True
    assert meter.is_set()
    assert meter.tokens == 3


def test_a_model_cannot_steer_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert printable("a\x1b[2J\x07\x9b\tb\n", TerminalInput()) == "a␛[2J␇�\tb\n"
    assert printable("a\x1b[2J", io.StringIO()) == "a\x1b[2J"
    assert (dim("x", TerminalInput()), dim("x", io.StringIO())) == ("\x1b[2mx\x1b[0m", "x")
    monkeypatch.setenv("NO_COLOR", "1")
    assert dim("x", TerminalInput()) == "x"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_in_a_real_terminal(tiny_writer: Any, writes: Any) -> None:
    main_end, its_end = os.openpty()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", "edgeport", "chat", str(tiny_writer.bundle), *GREEDY]
    process = subprocess.Popen(command, stdin=its_end, stdout=its_end, stderr=its_end, env=environment)
    os.close(its_end)
    seen = ""

    def until(words: str) -> None:
        nonlocal seen
        end = time.monotonic() + 60
        while words not in seen:
            assert time.monotonic() < end, seen
            seen += os.read(main_end, 4096).decode(errors="replace").replace("\r\n", "\n")

    until("Ctrl-D leaves.\n> ")
    os.write(main_end, b"the train\n")
    until("max_new_tokens]\n> ")
    os.write(main_end, b"\x04")
    assert process.wait(60) == 0
    os.close(main_end)
    assert writes([user("the train")]) in seen
