"""Why a model stopped: one word for the many spellings of servers, engines and trainers.

Sources, as of 2026: OpenAI (stop, length, tool_calls, function_call), Anthropic (end_turn,
max_tokens, stop_sequence, tool_use), Gemini (STOP, MAX_TOKENS), Cohere (COMPLETE, TOOL_CALL),
Bedrock (stopReason), TGI (eos_token), llama.cpp (stop_type: eos, limit, word), Ollama
(done_reason), TensorRT-LLM (end_id, stop_words), SGLang (`{"type": "stop", "matched": 1}`).
"""

import json
import re
from ast import literal_eval
from collections.abc import Mapping
from typing import Any

from cotlens.trace import dump_json

# Names of the field, in order. `stop_reason` comes late: next to a finish reason, vLLM keeps
# the stop string there.
NAMES = (
    "finish_reason", "finishReason", "stop_reason", "stopReason", "done_reason", "stop_type",
)  # fmt: skip

_STOP = """
    stop stopped eos eos_token eos_found end_of_sequence end_of_text endoftext end_turn end_id
    end_of_turn eot eot_id im_end complete completed completion_complete finish finished done
    normal natural success succeeded stop_sequence stop_sequences stop_token stop_tokens
    stop_string stop_strings stop_str stop_word stop_words stop_criteria stop_hit word stopped_eos
    matched_stop
"""
_LENGTH = """
    length length_limit length_capped max_length max_len max_tokens max_token max_new_tokens
    max_output_tokens max_completion_tokens max_tokens_reached max_length_reached max_seq_len
    max_model_len max_context_length model_length limit limit_reached token_limit
    token_limit_reached output_limit context_length context_length_exceeded context_window
    context_window_exceeded model_context_window_exceeded truncated truncation incomplete
    stopped_limit cut cut_off
"""
_TOOLS = """
    tool_calls tool_call tool_use tool_uses tools tool function_call function_calls
    function_calling tool_calling
"""
_WORDS = {
    **dict.fromkeys(_STOP.split(), "stop"),
    **dict.fromkeys(_LENGTH.split(), "length"),
    **dict.fromkeys(_TOOLS.split(), "tool_calls"),
}
_REASONS = frozenset((*_WORDS.values(), "content_filter"))
_MAY_BE_TEXT = ("stop_reason", "stopReason")
_INSIDE = ("type", "reason", "finish_reason", "stop_reason", "name", "value")
_LONGEST = 200  # characters of a reason that is the text of a dict


def read_finish(value: Any) -> str:
    """`stop`, `length` or `tool_calls` where the source's word means one of them.

    Any other word, such as `content_filter` or `abort`, is returned as the source has it. A dict
    is read by its type, a list of one by its only entry.

    >>> read_finish({"type": "stop", "matched": 1}), read_finish("FinishReason.MAX_TOKENS")
    ('stop', 'length')
    """
    if isinstance(value, str):
        value = _as_dict(value)

    # The word inside a dict, or of a list of one.
    if isinstance(value, dict):
        for name in _INSIDE:
            if isinstance(value.get(name), str):
                return read_finish(value[name])
        return dump_json(value)
    if isinstance(value, list) and len(value) == 1:
        return read_finish(value[0])

    # Numbers and the like mean something to their source only.
    if value is None:
        return ""
    if not isinstance(value, str):
        return dump_json(value)
    word = _plain_word(value)
    return _WORDS.get(word, value)


def finish_of(part: Mapping[str, Any]) -> Any:
    """The finish reason of a choice or an output, as the source has it; None where it has none.

    vLLM keeps the stop string or the id of the stop token in `stop_reason`: without a finish
    reason, only a word that is one is taken for it.
    """
    for name in NAMES:
        given = part.get(name)
        if given is None:
            continue
        is_sure = name not in _MAY_BE_TEXT
        if is_sure or read_finish(given) in _REASONS:
            return given
    return None


def changed_finish(value: Any) -> dict[str, Any]:
    """The source's own word for the metadata, where `read_finish` gives another."""
    if value is None or read_finish(value) == value:
        return {}
    return {"finish_reason": value}


def _as_dict(text: str) -> Any:
    """The dict that a short text spells, in JSON or as Python prints it; else the text."""
    if not text.startswith("{") or len(text) > _LONGEST:
        return text
    for parse in (json.loads, literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue

    return text


def _plain_word(text: str) -> str:
    """The word without the name of its enumeration, its capitals and its number."""
    word = text.strip()
    word = word.strip("<>|\"'")

    # `FinishReason.STOP: 1` as Python prints it.
    word = word.partition(":")[0]
    word = word.rpartition(".")[2]

    # endTurn, END-TURN and `end turn` are end_turn.
    word = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word)
    word = word.strip().lower()
    word = re.sub(r"[\s-]", "_", word)
    word = word.removeprefix("finish_reason_")
    return word.removeprefix("stop_reason_")
