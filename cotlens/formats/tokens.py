"""Log-probs and offsets of tokens, in the shapes of OpenAI, vLLM and SGLang."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from cotlens.formats.fields import dicts, number_or_none
from cotlens.formats.rows import Row
from cotlens.text.tokens import start_inside
from cotlens.trace import Trace, TraceError, dump_json

LogProbs = tuple[float, ...] | None


# --- OpenAI ----------------------------------------------------------------------------------
_TOKEN_ID = re.compile(r"token_id:(\d+)")  # vLLM's return_tokens_as_token_ids


def openai_tokens(logprobs: Any) -> list[Row] | None:
    """A log-prob per token, of a chat completion or, in the older shape, of a text completion.

    Raises:
        TraceError: names the field, where an entry has no token or no log-prob.
    """
    if logprobs is None:
        return None
    # The list itself, the older lists of tokens and of log-probs, or the list of a chat.
    if isinstance(logprobs, list):
        entries: Any = logprobs
    elif not isinstance(logprobs, dict):
        raise TraceError(f"logprobs must be an object, got {type(logprobs).__name__}")
    elif isinstance(tokens := logprobs.get("tokens"), list):
        values = logprobs.get("token_logprobs") or []
        if len(tokens) != len(values):
            raise TraceError(f"logprobs: {len(tokens)} tokens and {len(values)} token_logprobs")
        pairs = zip(tokens, values, strict=True)
        entries = [{"token": token, "logprob": value} for token, value in pairs]
    else:
        entries = logprobs.get("content")

    if not entries:
        return None

    # Each entry is checked here, so that the others may rely on it.
    for number, entry in enumerate(entries):
        is_token = isinstance(entry, dict) and isinstance(entry.get("token"), str)
        if not is_token or "logprob" not in entry:
            raise TraceError(
                f"logprobs[{number}] must have a token and its logprob, got {dump_json(entry)[:60]}"
            )

    return entries


def with_openai_logprobs(trace: Trace, content: Sequence[Row] | None) -> Trace:
    """The trace with its tokens' log-probs and offsets.

    Servers give them for the content only. Where the reasoning is separate they do not cover the
    completion, and go to the metadata as `answer_logprobs`. Tokens that do not spell the text are
    those of another text, for example of one with its special tokens: they go to the metadata as
    `logprobs`.
    """
    if not content:
        return trace
    if trace.think:
        return replace(
            trace,
            meta={**trace.meta, "answer_logprobs": list(content)},
        )

    starts = starts_of_bytes(
        [_bytes_of(token) for token in content],
        trace.completion,
    )
    if not _is_of_trace(trace, content, starts):
        return replace(
            trace,
            meta={**trace.meta, "logprobs": list(content)},
        )

    numbers = [number_or_none(token["logprob"], "logprob") for token in content]
    return replace(
        trace,
        logprobs=tuple(math.nan if number is None else number for number in numbers),
        token_starts=None if starts is None else tuple(starts),
    )


def _bytes_of(token: Row) -> bytes:
    if token.get("bytes") is None:
        return token["token"].encode("utf-8", "surrogatepass")
    try:
        return bytes(token["bytes"])
    except (TypeError, ValueError):
        got = dump_json(token["bytes"])[:60]
        raise TraceError(f"the bytes of a token must be numbers below 256, got {got}") from None


def _is_of_trace(trace: Trace, content: Sequence[Row], starts: list[int] | None) -> bool:
    """Whether log-probs are those of the trace's tokens.

    They are if their bytes spell the text. Without bytes, token ids tell: the ids themselves
    stand in place of the tokens, or a token is part of a character and has no text of its own.
    """
    if trace.token_ids is not None and len(trace.token_ids) != len(content):
        return False
    if starts is not None:
        return True

    # Bytes that spell another text are those of another text.
    if trace.token_ids is None or any(token.get("bytes") is not None for token in content):
        return False
    named = [_TOKEN_ID.fullmatch(token["token"]) for token in content]
    if all(named):
        return all(int(m[1]) == i for m, i in zip(named, trace.token_ids, strict=True) if m)
    return any("\ufffd" in token["token"] for token in content)


def starts_of_bytes(pieces: Sequence[bytes], text: str) -> list[int] | None:
    """Code point at which each token's bytes begin; None where the bytes are not those of the text.

    A token that begins inside a character begins at that character; see also `start_inside`.
    """
    data = text.encode()
    if not b"".join(pieces).startswith(data):
        return None
    starts: list[int] = []
    at_byte = 0
    at_char = 0
    for piece in pieces:
        # A byte that continues a character has 10 as its first bits.
        is_inside = at_byte < len(data) and (data[at_byte] & 0xC0) == 0x80
        start = start_inside(text, starts[-1], at_char - 1) if is_inside else at_char
        starts.append(start)
        own_bytes = data[at_byte : at_byte + len(piece)]
        at_char += sum((byte & 0xC0) != 0x80 for byte in own_bytes)
        at_byte += len(piece)

    return starts


# --- vLLM ------------------------------------------------------------------------------------
_FLAT = ("start_indices", "end_indices", "token_ids", "logprobs")


def vllm_logprobs(
    entries: Any, token_ids: tuple[int, ...] | None, text: str
) -> tuple[LogProbs, tuple[int, ...] | None]:
    """Log-prob of each chosen token, and offsets where the decoded tokens spell the text.

    Entries are one dict a token, of token id to log-prob, or the flat lists that
    `SamplingParams(flat_logprobs=True)` gives (vLLM 0.33, `vllm/logprobs.py`, FlatLogprobs).

    Raises:
        TraceError: if there is not one entry a token, or an entry has another shape.
    """
    if not entries or token_ids is None:
        return None, None
    if isinstance(entries, dict):
        entries = _unflattened(entries)
    if not isinstance(entries, list):
        raise TraceError(f"logprobs of a vLLM output must be a list, got {type(entries).__name__}")
    if len(entries) != len(token_ids):
        raise TraceError(
            f"a vLLM output has {len(token_ids)} token_ids and {len(entries)} entries of logprobs"
        )

    if any(entry is not None and not isinstance(entry, dict) for entry in entries):
        raise TraceError(
            "logprobs of a vLLM output must be one dict of token id to log-prob a token"
        )

    # The chosen token is among the likeliest ones, whatever their number.
    logprobs = []
    pieces = []
    for entry, token in zip(entries, token_ids, strict=True):
        chosen = (entry or {}).get(str(token), (entry or {}).get(token))
        fields = chosen if isinstance(chosen, dict) else {"logprob": chosen}
        value = number_or_none(fields.get("logprob"), "logprob")
        logprobs.append(math.nan if value is None else value)
        if fields.get("decoded_token") is not None:
            pieces.append(str(fields["decoded_token"]).encode("utf-8", "surrogatepass"))

    if len(pieces) < len(token_ids):
        return tuple(logprobs), None
    starts = starts_of_bytes(pieces, text)
    return tuple(logprobs), None if starts is None else tuple(starts)


def _unflattened(flat: Row) -> list[Row]:
    """One dict a token, of the flat lists of vLLM's FlatLogprobs."""
    missing = [name for name in _FLAT if not isinstance(flat.get(name), list)]
    if missing:
        raise TraceError(
            "logprobs of a vLLM output must be one dict a token, or flat lists "
            f"({', '.join(_FLAT)}); missing: {', '.join(missing)}"
        )

    # Entries start to end belong to one position: the chosen token, then the likeliest.
    n_entries = len(flat["token_ids"])
    decoded = flat.get("decoded_tokens") or [None] * n_entries
    if len(flat["logprobs"]) != n_entries or len(decoded) != n_entries:
        raise TraceError("flat logprobs of a vLLM output: its lists differ in length")

    entries = []
    for start, stop in zip(flat["start_indices"], flat["end_indices"], strict=True):
        entry = {}
        for at in range(start, min(stop, n_entries)):
            fields = {
                "logprob": flat["logprobs"][at],
                "decoded_token": decoded[at],
            }
            entry.setdefault(str(flat["token_ids"][at]), fields)

        entries.append(entry)

    return entries


# --- SGLang ----------------------------------------------------------------------------------
class SGLangTokens(NamedTuple):
    """Ids, log-probs and texts of the tokens of `output_token_logprobs`."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    pieces: list[str] | None


def sglang_tokens(entries: Any) -> SGLangTokens | None:
    """The tokens of SGLang's `output_token_logprobs`: (log-prob, id, text or null) each.

    Raises:
        TraceError: names the entry that has another shape.
    """
    if not entries:
        return None
    token_ids = []
    logprobs = []
    pieces = []
    for number, entry in enumerate(entries):
        # Log-prob and id, and perhaps the text.
        if not isinstance(entry, list) or len(entry) < 2 or type(entry[1]) is not int:
            raise TraceError(
                f"output_token_logprobs[{number}] must be [log-prob, token id, text], got "
                f"{dump_json(entry)[:60]}"
            )

        value = number_or_none(entry[0], "a log-prob")
        logprobs.append(math.nan if value is None else value)
        token_ids.append(entry[1])
        pieces.append(entry[2] if len(entry) > 2 else None)

    has_text = all(isinstance(piece, str) for piece in pieces)
    return SGLangTokens(
        tuple(token_ids),
        tuple(logprobs),
        pieces if has_text else None,
    )


def logprobs_of_row(trace: Trace) -> Trace:
    """The trace with the log-probs that its row has in the shape of OpenAI, if it has them."""
    given = trace.meta.get("logprobs")
    if not isinstance(given, dict | list) or trace.logprobs is not None:
        return trace
    if isinstance(given, list) and len(dicts(given)) != len(given):
        return trace

    # They move from the metadata to the trace, or back.
    rest = {key: value for key, value in trace.meta.items() if key != "logprobs"}
    return with_openai_logprobs(
        replace(trace, meta=rest),
        openai_tokens(given),
    )
