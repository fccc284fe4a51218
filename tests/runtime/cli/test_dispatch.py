from __future__ import annotations

import builtins
import errno
import os
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest
from edgeport import __version__
from edgeport.cli import COMMANDS, dispatch, main
from edgeport.errors import BundleError, MissingExtraError, UsageError


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make ``edgeport try`` do what a test wants: ``command(function)``."""

    def install(action: Any) -> None:
        module = ModuleType("edgeport_test_command")
        module.add_arguments = lambda parser: parser.add_argument("--count", type=int, default=1)  # type: ignore[attr-defined]
        module.run = action  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "edgeport_test_command", module)
        monkeypatch.setattr(dispatch, "COMMANDS", {"try": dispatch.Command("edgeport_test_command", "a test")})

    return install


def failing(error: BaseException) -> Any:
    def run(args: Any) -> int:
        raise error

    return run


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["--help"], ["-h"]):
        assert main(argv) == 0
        out = capsys.readouterr().out
        for name, command in COMMANDS.items():
            assert f"  {name} " in out
            assert command.help in out
        assert "example:" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"edgeport {__version__}\n"


@pytest.mark.parametrize("name", ["run", "chat", "inspect", "verify"])
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    for part in (f"usage: edgeport {name}", "BUNDLE", "examples:", f"  edgeport {name} ", "--debug"):
        assert part in out
    assert max(map(len, out.splitlines())) <= 120


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from edgeport.cli import main; main(['--help']); print(sorted(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout
    loaded = set(eval(out.splitlines()[-1]))  # our own print
    assert "edgeport.cli.dispatch" in loaded
    assert not loaded & {"onnxruntime", "torch", "transformers", "onnx", "edgeport_export", "edgeport_bench"}
    assert not loaded & {"edgeport.cli.run", "edgeport.cli.inspect", "edgeport.cli.verify"}


def test_python_m_edgeport() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-m", "edgeport", "inspect", "/nowhere"],
        env=environment, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("edgeport: error: there is no folder '/nowhere'")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["rnu"], "there is no command 'rnu': did you mean 'run'?"),
        (["quux"], "there is no command 'quux': choose one of export, compress, run"),
        (["--quux"], "--quux"),
        (["run"], "required: BUNDLE; see `edgeport run --help`."),
        (["run", "x", "--threads", "two"], "argument --threads: invalid int value: 'two'; see `edgeport run --help`."),
        (["inspect", "x", "--jso"], "unrecognized arguments: --jso; see `edgeport"),
    ],
)
def test_wrong_calls_are_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("edgeport: error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UsageError("wrong."), 2, "edgeport: error: wrong.\n"),
        (BundleError("damaged."), 1, "edgeport: error: damaged.\n"),
        (MissingExtraError("`x`", "export"), 2, "pip install 'edgeport[export]'"),
        (OSError(errno.ENOSPC, "No space left on device", "/out"), 1, "the disk is full at '/out': free some space"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/out"),
            1,
            "edgeport: error: Permission denied at '/out'.\n",
        ),
        (MemoryError(), 1, "the memory is full"),
        (KeyError("x"), 1, "KeyError: 'x' (unexpected: run it again with --debug"),
        (KeyboardInterrupt(), 130, "edgeport: interrupted\n"),
        (BrokenPipeError(), 141, ""),
        (SystemExit(3), 3, ""),
    ],
)
def test_errors_become_a_sentence_and_a_status(
    command: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    error: BaseException, status: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # BrokenPipeError replaces it
    command(failing(error))
    assert main(["try"]) == status
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("argv", [["try", "--debug"], ["--debug", "try"], ["try", "--count", "2", "--debug"]])
def test_debug_shows_the_traceback(command: Any, capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    command(failing(BundleError("damaged.")))
    assert main(argv) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("edgeport: error: damaged.\n")


def test_status_of_the_command_is_passed_on(command: Any) -> None:
    command(lambda args: args.count)
    assert main(["try", "--count", "5"]) == 5


def test_missing_extra_names_the_pip_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without_torch(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] in ("torch", "transformers", "rich"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    for name in [n for n in sys.modules if n.startswith("edgeport_export")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without_torch)
    assert main(["export", "a", "b"]) == 2
    assert "pip install 'edgeport[export]'" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["--help"], ["run", "--help"]])
def test_a_reader_that_goes_away_is_no_error(argv: list[str]) -> None:
    code = f"from edgeport.cli import main; raise SystemExit(main({argv}))"
    # Unbuffered, argparse meets the closed pipe itself, and is content.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": ""}
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=False, stdout=write, stderr=-1, text=True
    )
    os.close(write)
    assert (result.returncode, result.stderr) == (141, "")
