"""Sampling at a real OpenAI-compatible server, and what such a server cannot promise."""

import pytest
from serving import served
from tiny import byte_tokenizer, tiny_model

pytest.importorskip("openai", reason="an endpoint needs its client library")

from cotlens import Trace, TraceError, continue_trace, sample
from cotlens.models.endpoint import EndpointEngine

TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def test_a_server_writes_traces_and_its_death_is_one_line(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tiny_model(len(tokenizer), max_position_embeddings=4096).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    with served(tmp_path) as url:
        engine = EndpointEngine(url, str(tmp_path), key="secret-key", retries=1)
        traces = sample(engine, ["one", "two"], n=2, max_new_tokens=8, seed=None)
    assert [trace.sample for trace in traces] == [0, 1, 0, 1]
    assert [trace.prompt for trace in traces] == ["one", "one", "two", "two"]
    assert all(trace.completion for trace in traces)
    assert {trace.finish_reason for trace in traces} <= {"stop", "length"}
    assert traces[0].meta["request"] == "one"
    assert traces[0].meta["sampling"]["seed"] is None
    assert len({trace.id for trace in traces}) == 4

    with pytest.raises(TraceError, match="failed: APIConnectionError") as error:
        sample(engine, ["one"], max_new_tokens=8, seed=None)
    assert "secret-key" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"seed": 0}, "seeds; pass seed=None"),
        ({"prefill": "<think>"}, "prefills"),
        ({"banned_ids": [1]}, "banned token ids"),
        ({"top_k": 5}, "top_k"),
    ],
)
def test_what_an_endpoint_cannot_promise_is_refused_before_it_is_asked(options, what):
    engine = EndpointEngine("http://127.0.0.1:9/v1", "x")
    with pytest.raises(TraceError, match=f"an endpoint promises no {what}"):
        sample(engine, ["one"], max_new_tokens=8, **{"seed": None} | options)


def test_a_trace_is_not_continued_at_an_endpoint():
    engine = EndpointEngine("http://127.0.0.1:9/v1", "x")
    trace = Trace(id="a", prompt="one", completion="two")
    with pytest.raises(TraceError, match=r"no prefills \(continuations\)"):
        continue_trace(engine, trace, 1, max_new_tokens=8, seed=None)
