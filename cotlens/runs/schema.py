"""Every column of every table on disk: its name, type, unit and meaning."""

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from cotlens.detect.unsafe import MARKERS
from cotlens.detect.words import WORD_LISTS


class Column(NamedTuple):
    """One column of a table: its name, its type on disk, its unit and its meaning."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str


_TEXT = pa.string()
_LONG_TEXT = pa.large_string()
_BOOL = pa.bool_()
_INT = pa.int32()
_FLOAT = pa.float32()
_INTS = pa.list_(_INT)
_FLOATS = pa.list_(_FLOAT)
_START_STOP = [("start", _INT), ("stop", _INT)]
_SPANS = pa.list_(pa.struct(_START_STOP))
_LABELS = pa.list_(pa.struct([*_START_STOP, ("label", _TEXT)]))

TRACE_COLUMNS = (
    Column("trace_id", _TEXT, "", "unique within a run"),
    Column("prompt_id", _TEXT, "", "the cluster: traces of one prompt share it"),
    Column("model", _TEXT, "", "as the source names it"),
    Column("method", _TEXT, "", "checkpoint or training arm"),
    Column(
        "training_step",
        pa.int64(),
        "updates",
        "of the checkpoint that wrote the trace; -1: unknown",
    ),
    Column("domain", _TEXT, "", "kind of prompt"),
    Column("split", _TEXT, "", "part of the experiment's design"),
    Column("sample", _INT, "", "number among the samples of its prompt, from the source"),
    Column("status", _TEXT, "", "closed, open (cut off inside the thought) or absent (no thought)"),
    Column(
        "opened_by", _TEXT, "", "what shows that a thought began: text, prompt, model or fields"
    ),
    Column("origin", _TEXT, "", "text: split by cotlens; fields: split by the source"),
    Column("reasoning", _TEXT, "", "verbatim, summary or redacted"),
    Column("think_start", _INT, "code points", "start of the first thought in the completion"),
    Column("think_stop", _INT, "code points", "end of the last; equal to think_start: none"),
    Column("answer_start", _INT, "code points", "start of the answer"),
    Column("answer_stop", _INT, "code points", "end of the answer; equal to answer_start: none"),
    Column("think_spans", _SPANS, "code points", "every thought"),
    Column("n_think_chars", _INT, "code points", "length of all thoughts"),
    Column("n_answer_chars", _INT, "code points", "length of the answer"),
    Column("n_steps", _INT, "steps", "steps of thinking; counted when read, not on disk"),
    Column("n_tokens", _INT, "tokens", "of the completion; null: unknown"),
    Column(
        "n_think_tokens",
        _INT,
        "tokens",
        "whose first character that is no white space is in a thought; null: no offsets",
    ),
    Column("finish_reason", _TEXT, "", "from the source; empty: unknown"),
    Column("reward", pa.float64(), "", "from the source; null: unknown"),
    Column("gold", _TEXT, "", "reference answer"),
    Column("prompt", _LONG_TEXT, "", "text before the completion"),
    Column("completion", _LONG_TEXT, "", "text that the model produced, byte for byte"),
    Column("prompt_token_ids", _INTS, "", "of the prompt; null: unknown"),
    Column("token_ids", _INTS, "", "of the completion; null: unknown"),
    Column(
        "logprobs",
        pa.list_(pa.float64()),
        "nats",
        "of the completion's tokens, from the source; null: unknown",
    ),
    Column("token_starts", _INTS, "code points", "where each token begins; null: unknown"),
    Column("labels", _LABELS, "code points", "stretches that the source labelled"),
    Column("meta", _LONG_TEXT, "", "all else that the source holds, as JSON"),
)

_MARKER_MEANING = "marker of the step (docs/unsafe.md); null: language unknown"
_MARKER_COLUMNS = [Column(marker.value, _BOOL, "", _MARKER_MEANING) for marker in MARKERS]
_WORD_COLUMNS = [
    Column(f"n_{name}", _INT, "words", f"of the word list {name}") for name in WORD_LISTS
]
STEP_COLUMNS = (
    Column("trace_id", _TEXT, "", "the trace"),
    Column("step", _INT, "", "number within the trace, from 0"),
    Column("start", _INT, "code points", "into the completion"),
    Column("stop", _INT, "code points", "into the completion"),
    Column("position", _FLOAT, "share of the thinking", "middle of the step, 0 to 1"),
    Column("paragraph", _INT, "", "number of the paragraph within the trace, from 0"),
    Column("kind", _TEXT, "", "what the step does (docs/codebook.md); empty: unknown"),
    Column("p_reflect", _FLOAT, "probability", "that the step reflects; NaN: not English"),
    Column(
        "is_reflection",
        _BOOL,
        "",
        "p_reflect >= reflect.THRESHOLD, or by rules if not English; null: unknown",
    ),
    Column(
        "p_self_jailbreak",
        _FLOAT,
        "",
        "0.5 or more: talks itself into unsafe help; NaN: language unknown",
    ),
    Column("is_self_jailbreak", _BOOL, "", "p_self_jailbreak >= 0.5; null: language unknown"),
    *_MARKER_COLUMNS,
    Column(
        "is_unsafe",
        _BOOL,
        "",
        "explores something unsafe: a marker of exploration where request, steps around and steps "
        "before show that harm is at hand (docs/unsafe.md); null: language unknown",
    ),
    Column("answer", _TEXT, "", "answer that the step states (answers.stated_answer), or empty"),
    *_WORD_COLUMNS,
    Column(
        "token_start",
        _INT,
        "tokens",
        "first of those whose first character that is no white space is in the step; null: no "
        "offsets",
    ),
    Column("token_stop", _INT, "tokens", "one past the last token of the step; null: no offsets"),
)

SCORE_COLUMNS = (
    Column(
        "trace_id",
        _TEXT,
        "",
        "the trace; each list below has one entry per token of its completion",
    ),
    Column("token_ids", _INTS, "", "as they were scored"),
    Column(
        "token_starts",
        _INTS,
        "code points",
        "in the completion, where each token begins; null: unknown",
    ),
    Column(
        "word_starts",
        _INTS,
        "code points",
        "first character of each token that is no white space: it belongs to the step or part that "
        "holds this; -1: white space alone, it belongs where it begins; null: unknown",
    ),
    Column(
        "entropy",
        _FLOATS,
        "nats",
        "of the model's distribution at the token's place; NaN: unscored",
    ),
    Column("logprob", _FLOATS, "nats", "of the token"),
    Column("rank", _INTS, "", "of the token among all words, from 1; null: unscored"),
    Column(
        "varentropy", _FLOATS, "nats squared", "variance of the surprise under the distribution"
    ),
    Column("top_ids", pa.list_(_INTS), "", "the likeliest words; null: not asked for"),
    Column(
        "top_logprobs", pa.list_(_FLOATS), "nats", "of the likeliest words; null: not asked for"
    ),
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
        "encoding", _TEXT, "", "ids: the source's own; text: encoded for scoring; empty: neither"
    ),
    Column(
        "context",
        _TEXT,
        "",
        "before the completion: ids, template, verbatim (already rendered) or none",
    ),
    Column(
        "exact",
        _BOOL,
        "",
        "whether the ids decode to the completion; null: no tokenizer, or unscored",
    ),
    Column(
        "n_drift",
        _INT,
        "tokens",
        "that differ if prompt and completion are encoded as one text; null: own ids",
    ),
    Column(
        "windowed", _BOOL, "", "longer than the context: scored in windows that overlap by half"
    ),
    Column("error", _TEXT, "", "why the trace is unscored; empty: it is scored"),
)

GUARD_COLUMNS = (
    Column("trace_id", _TEXT, "", "the trace"),
    Column("judge", _TEXT, "", "name of the judge"),
    Column("revision", _TEXT, "", "of the judge's weights; empty: unknown"),
    Column("part", _TEXT, "", "what was judged: thinking, answer, full or request"),
    Column("label", _TEXT, "", "safe, unsafe, controversial, undecided; yes or no"),
    Column(
        "p_unsafe",
        pa.float64(),
        "probability",
        "from the logits of the label words; NaN: none, or undecided",
    ),
    Column("categories", pa.list_(_TEXT), "", "as the judge names them; what it quotes"),
    Column("refusal", _BOOL, "", "whether the text refuses; null: the judge does not say"),
    Column("n_cut", _INT, "code points", "left out of the middle of the prompt to make it fit"),
    Column("n_defused", _INT, "", "delimiters and special tokens in the text that were broken up"),
    Column("raw", _TEXT, "", "the judge's own words"),
    Column("reason", _TEXT, "", "why it is undecided; empty: it is not, or unknown"),
    Column("text_hash", _TEXT, "", "of the text that was judged (cache.hash_of); empty: unknown"),
)

SCHEMA = {
    "traces": TRACE_COLUMNS,
    "steps": STEP_COLUMNS,
    "scores": SCORE_COLUMNS,
    "guard": GUARD_COLUMNS,
}

# A light run, from which figures can be drawn, leaves out texts and lists per token.
_HEAVY = (
    "gold", "prompt", "completion", "prompt_token_ids", "token_ids", "logprobs", "token_starts",
    "labels", "meta",
)  # fmt: skip
TRACE_NAMES = tuple(column.name for column in TRACE_COLUMNS)
LIGHT_COLUMNS = tuple(column.name for column in TRACE_COLUMNS if column.name not in _HEAVY)
LIGHT_STEP_COLUMNS = tuple(column.name for column in STEP_COLUMNS if column.name != "answer")


# Trace shards leave out the number of steps: it is counted in the step table.
NOT_STORED = ("n_steps",)


def arrow_schema(table: str, leave_out: Sequence[str] = ()) -> pa.Schema:
    """The parquet schema of a table of `SCHEMA`; the metadata of a field is unit and meaning."""
    # Unit and meaning travel with the file.
    fields = []
    for column in SCHEMA[table]:
        if column.name in leave_out:
            continue
        about = {
            "unit": column.unit,
            "meaning": column.meaning,
        }
        field = pa.field(column.name, column.type, metadata=about)
        fields.append(field)
    return pa.schema(fields)
