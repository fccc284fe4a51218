from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from edgeport.bundle import Bundle
from edgeport.cli import main
from edgeport.cli import run as run_command
from edgeport.cli.items import items_of
from edgeport.errors import InputError, UsageError
from edgeport.generate import Decoder


@pytest.fixture
def path(make_bundle: Callable[..., Bundle]) -> str:
    return str(make_bundle().root)


def lines(capsys: pytest.CaptureFixture[str]) -> list[Any]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def labels(results: list[Any]) -> list[str]:
    return [result["label"] for result in results]


def test_texts_in_json_lines_out(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", path, "good film", "bad plot"]) == 0
    good, bad = lines(capsys)
    e = float(np.exp(2))
    assert good == {"label": "positive", "score": pytest.approx(e / (1 + e))}
    assert bad["label"] == "negative"


def test_options_may_stand_between_the_bundle_and_the_texts(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", path, "--top-k", "1", "good film", "--threads", "1"]) == 0
    assert [found[0]["label"] for found in lines(capsys)] == ["positive"]


def test_lines_on_stdin_keep_their_order(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["good " * (1 + i % 7) if i % 3 else "bad film" for i in range(50)]
    monkeypatch.setattr("sys.stdin", io.StringIO("\r\n".join(texts)))
    assert main(["run", path, "--batch-size", "8"]) == 0
    assert labels(lines(capsys)) == ["positive" if i % 3 else "negative" for i in range(50)]


def test_results_come_while_lines_still_do(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after the last one: the input may never end."""
    written: list[str] = []
    monkeypatch.setattr("builtins.print", lambda *args, **_: written.append(args[0]))

    def endless() -> Any:
        for _ in range(4):
            yield "good\n"
        assert len(written) >= 2
        raise KeyboardInterrupt

    class Stream(io.StringIO):
        def __iter__(self) -> Any:
            return endless()

    monkeypatch.setattr("sys.stdin", Stream())
    assert main(["run", path, "--batch-size", "2"]) == 130


def test_a_person_at_the_terminal_gets_each_answer_at_once(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    load = run_command.load
    monkeypatch.setattr(run_command, "load", lambda *a, **k: (seen.append(k["batch_size"]), load(*a, **k))[1])

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("good\n\nbad\n"))
    assert main(["run", path]) == 0
    assert labels(lines(capsys)) == ["positive", "negative"]
    assert seen == [1]


def test_an_empty_line_of_a_file_is_an_input_like_the_others(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left out, it would move every later result to another line. This model wants a token."""
    monkeypatch.setattr("sys.stdin", io.StringIO("good\n\nbad\n"))
    assert main(["run", path]) == 2
    assert "the text gives no token" in capsys.readouterr().err


def test_top_k_text_pair_and_options(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", path, "good", "--top-k", "2"]) == 0
    assert main(["run", path, "good", "--option", "top_k=2", "--option", "function_to_apply=none"]) == 0
    top, raw = lines(capsys)
    assert labels(top) == labels(raw) == ["positive", "negative"]
    assert [r["score"] for r in raw] == [1, -1]
    assert main(["run", path, "good", "--text-pair", "film"]) == 0


def test_json_objects_name_their_inputs_and_bring_options(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["good", '{"text": "bad", "text_pair": "film"}', '{"text": "good", "top_k": 1}', "{not json"]
    assert main(["run", path, *texts]) == 0
    first, second, third, fourth = lines(capsys)
    assert labels([first, second, *third]) == ["positive", "negative", "positive"]
    assert fourth["score"] == 0.5


def test_utf8_in_and_out(path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("größe 好\n".encode()), encoding="ascii"))
    assert main(["run", path]) == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"good\n\xff\xfe\n"), encoding="utf-8"))
    assert main(["run", path]) == 2
    assert "stdin is not UTF-8 text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["good", "--option", "speed=1"], "text-classification has no option 'speed': it takes top_k"),
        (["good", "--option", "top_k"], "is not KEY=VALUE"),
        (["good", "--candidate-labels", "a,b"], "has no option 'candidate_labels'"),
        (["good", "--question", "why?"], "--question and --context are for question-answering"),
        (["good", "--variant", "int4"], "no variant 'int4': choose one of fp32"),
        (["good", "--provider", "warp"], "there is no provider 'warp'"),
        (["good", "--threads", "0"], "threads=0"),
        (["good", "--batch-size", "0"], "batch_size"),
        (['{"text": 3}'], "not int"),
        (['{"text": "good", "speed": 1}'], "has no option 'speed'"),
        (["good", "--top-k", "0"], "top_k"),
    ],
)
def test_wrong_calls(path: str, capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    assert main(["run", path, *argv]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("edgeport: error: ")
    assert err.count("\n") == 1
    assert message in err


def test_warnings_are_lines_for_people(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", path, "good " * 100]) == 0
    err = capsys.readouterr().err
    assert err == "" or err.startswith("edgeport: warning: ")
    assert ".py" not in err


def test_numpy_arrays_become_lists() -> None:
    value = {"a": np.float32(0.5), "b": np.arange(4, dtype=np.int64).reshape(2, 2)}
    assert json.loads(json.dumps(value, default=run_command._plain)) == {"a": 0.5, "b": [[0, 1], [2, 3]]}


NONE: dict[str, Any] = {"question": None, "context": None, "text_pair": None}


def values(task: str, *texts: str, **given: str) -> list[Any]:
    return [(item.value, item.options) for item in items_of(task, texts, **{**NONE, **given})]


def test_items_of_question_answering() -> None:
    task, who = "question-answering", {"question": "Who?", "context": "Ada."}
    assert values(task, question="Who?", context="Ada.") == [(who, {})]
    assert values(task, "Ada.", question="Who?") == [(who, {})]
    assert values(task, "Who?", context="Ada.") == [(who, {})]
    assert values(task, '{"context": "Ada.", "top_k": 2}', question="Who?") == [(who, {"top_k": 2})]
    with pytest.raises(InputError, match="needs a question and a context"):
        values(task, "Who?")
    with pytest.raises(UsageError, match="no room for a TEXT"):
        values(task, "Ada.", question="Who?", context="Ada.")


def test_items_of_text_ranking() -> None:
    assert values("text-ranking", "q", text_pair="d") == [(("q", "d"), {})]
    assert values("text-ranking", '{"text": "q", "text_pair": "d"}') == [(("q", "d"), {})]
    with pytest.raises(InputError, match="needs two texts"):
        values("text-ranking", "q")


def test_items_of_tasks_with_one_text() -> None:
    text = '{"sequences": "a text", "candidate_labels": ["x", "y"]}'
    assert values("zero-shot-classification", text) == [("a text", {"candidate_labels": ["x", "y"]})]
    assert values("fill-mask", "{a", "[1]", '{"inputs": "x"}') == [("{a", {}), ("[1]", {}), ("x", {})]
    with pytest.raises(InputError, match="has other, and no text"):
        values("fill-mask", '{"other": 1}')
    with pytest.raises(UsageError, match="--text-pair is for"):
        values("fill-mask", "x", text_pair="y")


def test_items_of_text_generation() -> None:
    task, chat = "text-generation", [{"role": "user", "content": "Hello!"}]
    assert values(task, json.dumps({"messages": chat, "seed": 3})) == [(chat, {"seed": 3})]
    assert values(task, '{"text": "Once", "top_k": 2}', "{Once") == [("Once", {"top_k": 2}), ("{Once", {})]
    with pytest.raises(InputError, match=r"has prompt, and no text: add the key 'text' or 'messages'\."):
        values(task, '{"prompt": "Once"}')
    with pytest.raises(InputError, match=r"add the key 'text'\."):
        values("fill-mask", json.dumps({"messages": chat}))


GREEDY = ("--greedy", "--variant", "fp32", "--threads", "1", "--max-new-tokens", "6")


@pytest.fixture(scope="module")
def go_on(tiny_writer: Any) -> Callable[..., Any]:
    """What transformers' pipeline makes of a prompt."""
    from transformers import pipeline

    pipe = pipeline("text-generation", str(tiny_writer.original))
    return lambda prompt, **options: pipe(prompt, do_sample=False, **{"max_new_tokens": 6, **options})


def test_texts_and_chats_go_on_as_with_transformers(
    tiny_writer: Any, go_on: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = [{"role": "user", "content": "over water"}]
    texts = ["the train", json.dumps({"messages": chat}), json.dumps({"text": "an hour", "max_new_tokens": 2})]
    assert main(["run", str(tiny_writer.bundle), *GREEDY, *texts]) == 0
    assert lines(capsys) == [go_on("the train"), go_on(chat), go_on("an hour", max_new_tokens=2)]


@pytest.mark.parametrize("size", ["1", "3"])
def test_prompts_on_stdin_in_batches(
    tiny_writer: Any, go_on: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    texts = ["the train", "over water and over water", "an hour", "was"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(texts)))
    rows: list[int] = []
    start = Decoder.start
    monkeypatch.setattr(Decoder, "start", lambda self, prompts: (rows.append(len(prompts)), start(self, prompts))[1])
    assert main(["run", str(tiny_writer.bundle), *GREEDY, "--batch-size", size]) == 0
    assert lines(capsys) == [go_on(text) for text in texts]
    assert rows[0] == int(size)


def test_a_stream_prints_the_new_text(tiny_writer: Any, go_on: Any, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["the train", '{"messages": [{"role": "user", "content": "over water"}], "max_new_tokens": 3}']
    assert main(["run", str(tiny_writer.bundle), *GREEDY, "--stream", *texts]) == 0
    chat = json.loads(texts[1])["messages"]
    news = [go_on(texts[0], return_full_text=False), go_on(chat, max_new_tokens=3, return_full_text=False)]
    assert capsys.readouterr().out == "".join(f"{new[0]['generated_text']}\n" for new in news)


def test_sampling_is_repeatable_by_its_seed(tiny_writer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, warmth in (("1", "5"), ("1", "5"), ("2", "5")):
        assert main(["run", str(tiny_writer.bundle), "the", "--seed", seed, "--temperature", warmth]) == 0
    first, again, other = lines(capsys)
    assert first == again != other


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["a", "--max-new-tokens", "0"], "max_new_tokens=0 is not allowed"),
        (["a", "--greedy", "--top-p", "0.5"], "--greedy takes the likeliest token, and --top-p chooses"),
        (["a", "--stream", "--batch-size", "2"], "leave --batch-size out"),
        (["a", "--stream", "--option", "num_beams=2"], "no beams"),
        (["a", "--candidate-labels", "b"], "generation option 'candidate_labels' is unknown"),
        (['{"text": "a", "inputs": "b"}'], "'inputs' is the text itself"),
        (['{"text": "a", "inputs": "b"}', "--stream"], "'inputs' is the text itself"),
        (['{"messages": []}'], "takes a text or a list of messages"),
        (['{"messages": [{"role": "user"}]}'], "is not a dictionary with role and content"),
        (["water " * 120], "the model takes 96"),
    ],
)
def test_wrong_calls_of_text_generation(
    tiny_writer: Any, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert main(["run", str(tiny_writer.bundle), *argv]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_generation_options_are_for_text_generation(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", path, "good", "--stream"]) == 2
    assert main(["run", path, "good", "--max-new-tokens", "3"]) == 2
    stream, tokens = capsys.readouterr().err.splitlines()
    assert "--stream is for text-generation, and this bundle is for text-classification" in stream
    assert "has no option 'max_new_tokens'" in tokens
