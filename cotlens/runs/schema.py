"""Every column of every table on disk: its type and its meaning."""

from typing import NamedTuple

import pyarrow as pa

from cotlens.detect.unsafe import MARKERS
from cotlens.detect.words import WORD_LISTS


class Column(NamedTuple):
    """One column of a table: its name, its type on disk, its unit and what it means."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str


_SPANS = pa.list_(pa.struct([("start", pa.int32()), ("stop", pa.int32())]))
_LABELS = pa.list_(pa.struct([("start", pa.int32()), ("stop", pa.int32()), ("label", pa.string())]))
_IDS = pa.list_(pa.int32())
TRACE_COLUMNS = (
    Column("trace_id", pa.string(), "", "unique within a run"),
    Column("prompt_id", pa.string(), "", "the cluster: traces of one prompt share it"),
    Column("model", pa.string(), "", "as the source names it"),
    Column("method", pa.string(), "", "checkpoint or training arm"),
    Column(
        "training_step",
        pa.int64(),
        "updates",
        "of the checkpoint that wrote the trace; -1: unknown",
    ),
    Column("domain", pa.string(), "", "kind of prompt"),
    Column("split", pa.string(), "", "part of the experiment's design"),
    Column(
        "sample", pa.int32(), "", "number among the samples of its prompt, as the source has it"
    ),
    Column(
        "status",
        pa.string(),
        "",
        "closed, open (cut off inside the thought) or absent (no thought)",
    ),
    Column(
        "opened_by",
        pa.string(),
        "",
        "what says that a thought began: text, prompt, model or fields",
    ),
    Column("origin", pa.string(), "", "text: split by cotlens; fields: split by the source"),
    Column("reasoning", pa.string(), "", "verbatim, summary or redacted"),
    Column(
        "think_start", pa.int32(), "code points", "into the completion: begin of the first thought"
    ),
    Column(
        "think_stop",
        pa.int32(),
        "code points",
        "end of the last thought; equal to think_start: none",
    ),
    Column("answer_start", pa.int32(), "code points", "begin of the answer"),
    Column(
        "answer_stop", pa.int32(), "code points", "end of the answer; equal to answer_start: none"
    ),
    Column("think_spans", _SPANS, "code points", "every thought"),
    Column("n_think_chars", pa.int32(), "code points", "length of all thoughts"),
    Column("n_answer_chars", pa.int32(), "code points", "length of the answer"),
    Column("n_steps", pa.int32(), "steps", "steps of thinking"),
    Column("n_tokens", pa.int32(), "tokens", "of the completion; null: unknown"),
    Column("n_think_tokens", pa.int32(), "tokens", "that begin inside a thought; null: no offsets"),
    Column("finish_reason", pa.string(), "", "as the source has it; empty: unknown"),
    Column("reward", pa.float64(), "", "as the source has it; null: unknown"),
    Column("gold", pa.string(), "", "reference answer"),
    Column("prompt", pa.large_string(), "", "text before the completion"),
    Column("completion", pa.large_string(), "", "text the model produced, byte for byte"),
    Column("prompt_token_ids", _IDS, "", "of the prompt; null: unknown"),
    Column("token_ids", _IDS, "", "of the completion; null: unknown"),
    Column(
        "logprobs",
        pa.list_(pa.float64()),
        "nats",
        "of the completion's tokens, from the source; null: unknown",
    ),
    Column("token_starts", _IDS, "code points", "at which each token begins; null: unknown"),
    Column("labels", _LABELS, "code points", "stretches that the source itself labelled"),
    Column("meta", pa.large_string(), "", "everything else the source said, as JSON"),
)
STEP_COLUMNS = (
    Column("trace_id", pa.string(), "", "the trace"),
    Column("step", pa.int32(), "", "number within the trace, from 0"),
    Column("start", pa.int32(), "code points", "into the completion"),
    Column("stop", pa.int32(), "code points", "into the completion"),
    Column("position", pa.float32(), "share of the thinking", "middle of the step, 0 to 1"),
    Column("paragraph", pa.int32(), "", "number of the paragraph within the trace, from 0"),
    Column(
        "kind", pa.string(), "", "what the step does (docs/codebook.md); empty: language unknown"
    ),
    Column(
        "p_reflect", pa.float32(), "probability", "that the step reflects; NaN: language unknown"
    ),
    Column(
        "is_reflection",
        pa.bool_(),
        "",
        "p_reflect at or above reflect.THRESHOLD; null: language unknown",
    ),
    Column(
        "p_self_jailbreak",
        pa.float32(),
        "",
        "above 0.5: talks itself into unsafe help; NaN: language unknown",
    ),
    Column(
        "is_self_jailbreak",
        pa.bool_(),
        "",
        "p_self_jailbreak at or above 0.5; null: language unknown",
    ),
    *(
        Column(
            m.value, pa.bool_(), "", "marker of the step (docs/unsafe.md); null: language unknown"
        )
        for m in MARKERS
    ),
    Column(
        "answer", pa.string(), "", "answer that the step states (reflect.stated_answer), or empty"
    ),
    *(Column(f"n_{name}", pa.int32(), "words", f"of the word list {name}") for name in WORD_LISTS),
    Column("token_start", pa.int32(), "tokens", "first token of the step; null: no offsets"),
    Column(
        "token_stop", pa.int32(), "tokens", "behind the last token of the step; null: no offsets"
    ),
)
_FLOATS, _FLOATS_K = pa.list_(pa.float32()), pa.list_(pa.list_(pa.float32()))
SCORE_COLUMNS = (
    Column(
        "trace_id",
        pa.string(),
        "",
        "the trace; every list below has one entry per token of its completion",
    ),
    Column("token_ids", _IDS, "", "as they were scored"),
    Column(
        "token_starts",
        _IDS,
        "code points",
        "of the completion, at which each token begins; null: unknown",
    ),
    Column(
        "entropy",
        _FLOATS,
        "nats",
        "of the model's distribution at the token's place; NaN: unscored",
    ),
    Column("logprob", _FLOATS, "nats", "of the token"),
    Column("rank", _IDS, "", "of the token among all words, from 1; null: unscored"),
    Column(
        "varentropy", _FLOATS, "nats squared", "variance of the surprise under the distribution"
    ),
    Column("top_ids", pa.list_(_IDS), "", "the likeliest words; null: not asked for"),
    Column("top_logprobs", _FLOATS_K, "nats", "of the likeliest words; null: not asked for"),
    Column(
        "top_mass", _FLOATS, "probability", "of the likeliest words together; null: not asked for"
    ),
    Column(
        "margin",
        _FLOATS,
        "nats",
        "log-prob of the likeliest word less that of the second; null: not asked for",
    ),
    Column("kl", _FLOATS, "nats", "KL(model || reference); null: no reference"),
    Column("reverse_kl", _FLOATS, "nats", "KL(reference || model); null: no reference"),
    Column(
        "reference_entropy", _FLOATS, "nats", "of the reference's distribution; null: no reference"
    ),
    Column(
        "reference_logprob", _FLOATS, "nats", "of the token under the reference; null: no reference"
    ),
    Column(
        "encoding",
        pa.string(),
        "",
        "ids: the source's own; text: encoded for scoring; empty: neither",
    ),
    Column(
        "context",
        pa.string(),
        "",
        "before the completion: ids, template, verbatim (rendered already) or none",
    ),
    Column(
        "exact",
        pa.bool_(),
        "",
        "whether the ids decode to the completion; null: no tokenizer, or unscored",
    ),
    Column(
        "n_drift",
        pa.int32(),
        "tokens",
        "that differ if prompt and completion are encoded as one; null: own ids",
    ),
    Column(
        "windowed",
        pa.bool_(),
        "",
        "longer than the context: scored in windows that overlap by half",
    ),
    Column("error", pa.string(), "", "why the trace is unscored; empty: it is scored"),
)
GUARD_COLUMNS = (
    Column("trace_id", pa.string(), "", "the trace"),
    Column("judge", pa.string(), "", "name of the judge"),
    Column("revision", pa.string(), "", "of the judge's weights; empty: unknown"),
    Column("part", pa.string(), "", "what was judged: thinking, answer or full"),
    Column("label", pa.string(), "", "safe, unsafe, controversial or undecided"),
    Column(
        "p_unsafe",
        pa.float64(),
        "probability",
        "from the logits of the label words; NaN: none, or undecided",
    ),
    Column("categories", pa.list_(pa.string()), "", "as the judge names them"),
    Column("refusal", pa.bool_(), "", "whether the text refuses; null: the judge does not say"),
    Column(
        "n_cut",
        pa.int32(),
        "code points",
        "left out of the middle of the text because it did not fit",
    ),
    Column(
        "n_defused", pa.int32(), "", "delimiters and special tokens in the text that were broken up"
    ),
    Column("raw", pa.string(), "", "what the judge wrote"),
)
SCHEMA = {
    "traces": TRACE_COLUMNS,
    "steps": STEP_COLUMNS,
    "scores": SCORE_COLUMNS,
    "guard": GUARD_COLUMNS,
}
# What a figure needs of a trace: everything but texts and the lists as long as them.
_HEAVY = (
    "gold",
    "prompt",
    "completion",
    "prompt_token_ids",
    "token_ids",
    "logprobs",
    "token_starts",
    "labels",
    "meta",
)
LIGHT_COLUMNS = tuple(column.name for column in TRACE_COLUMNS if column.name not in _HEAVY)
LIGHT_STEP_COLUMNS = tuple(column.name for column in STEP_COLUMNS if column.name != "answer")


def arrow_schema(table: str) -> pa.Schema:
    """The parquet schema of a table of `SCHEMA`; unit and meaning travel in each field's metadata."""
    return pa.schema(
        [
            pa.field(c.name, c.type, metadata={"unit": c.unit, "meaning": c.meaning})
            for c in SCHEMA[table]
        ]
    )
