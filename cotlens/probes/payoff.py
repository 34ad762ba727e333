"""Pay-off: how much less often is a model right when it cannot begin to reflect?"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from cotlens.detect.words import WORD_LISTS
from cotlens.formats.prompts import Prompt, as_prompts
from cotlens.models.encode import encode
from cotlens.models.engine import Engine
from cotlens.models.sample import as_engine, sample
from cotlens.probes.recovery import Decide, grade_answer, tags_of_engine
from cotlens.trace import Trace, TraceError

if TYPE_CHECKING:
    from cotlens.models.load import Model

# Frequent English words, and words that often begin a sentence of thinking: a token that one of
# them begins with is not the reflection's alone. This project's choice.
_COMMON_TEXT = """
    a about above actual add after again all almost alright also alternative although always an
    and another answer any are as at be because become been before being both but by can case
    check choose compute consider could define did different do does done each either even every
    example expand fact false find first follow for four from get give given go good had has
    have he hence her here hers high his hold honestly how huge humans i if in indeed instead
    into is it its just know known largest let like line look make many maximum may maybe me
    mean might more most much multiply must my name need never new next no none nor not note
    notice now number of off oh ok okay on once one only or other our out over perhaps plus
    point possible problem put question rather real really recall remember result right same
    second see set she should show simple simplify since so solve some still such suppose sure
    take than that the their them then there therefore these they think third this those though
    three thus to try turn two under understand until up us use user using value very want was
    way we well were what when where whether which while who whole why will with without work
    would write yes yet you your
"""
_COMMON = tuple(_COMMON_TEXT.split())
_UNKNOWN = "(unknown words)"
_MOST_NAMED = 5  # common words named in a row


class PayOff(NamedTuple):
    """Samples with and without some tokens.

    Attributes:
        free: samples as the model writes them.
        banned: samples of the same prompts and seeds, none of which holds a banned token.
        table: one row per pair, in the order of the samples.
    """

    free: list[Trace]
    banned: list[Trace]
    table: pd.DataFrame


def pay_off(
    model: "Model | Engine",
    prompts: Sequence[str | Sequence[Mapping[str, Any]] | Prompt],
    banned_ids: Iterable[int],
    *,
    is_right: Decide | None = None,
    **options: Any,
) -> PayOff:
    """Accuracy less accuracy without the first tokens of reflections, in pairs.

    Each sample is drawn twice with the same random numbers, the second time without the banned
    tokens. Up to the first banned token both texts are the same (if top_p and top_k keep all), so
    pairs without one differ in nothing. The pay-off is the mean of the differences:

    >>> tokens = first_token_ids(model.tokenizer)  # doctest: +SKIP
    >>> ids = tokens.loc[~tokens["is_ambiguous"], "token_id"]  # doctest: +SKIP
    >>> table = pay_off(model, prompts, ids, n=8, max_new_tokens=4096).table  # doctest: +SKIP
    >>> stats.mean(table["pay_off"], table["prompt_id"])  # doctest: +SKIP

    It is what the banned tokens are worth, not all reflection: a model may begin one with other
    words, or spell a word in other tokens. A ban of other tokens that are as frequent is a control.
    The definition is this project's.

    Args:
        model: a loaded model. vLLM and endpoints cannot ban tokens.
        prompts: as in `sample`.
        banned_ids: token ids, for instance of `first_token_ids`.
        is_right: as in `recover`.
        **options: of `sample`: `n`, `temperature`, `max_new_tokens`, `seed`, ...

    Returns:
        The table has prompt_id (the cluster of statistics), method, sample, is_right and
        is_right_banned, pay_off (1, 0 or -1: right less right without the tokens; NaN where either
        is missing), drew_banned (whether the free sample has a banned token), n_tokens and
        n_tokens_banned.

    Raises:
        TraceError: if no token is banned, or as `sample`.
        ImportError: from `grade_answer`, if math-verify is not installed.
    """
    # Numbers of a table, too, become numbers that JSON knows.
    ids = sorted({int(token) for token in banned_ids})
    if not ids:
        raise TraceError("pay_off: expected at least one token to ban, got none")
    engine = as_engine(model)
    if engine.tokenizer is None:
        raise TraceError(f"{engine.name}: an endpoint cannot ban tokens; load the model")

    # What cannot be banned is refused before anything is drawn.
    asked = as_prompts(prompts)
    banned = sample(engine, asked, banned_ids=ids, **options)
    free = sample(engine, asked, **options)
    decide = is_right or partial(grade_answer, tags=tags_of_engine(engine))
    rows = []
    for free_trace, banned_trace in zip(free, banned, strict=True):
        rows.append(
            {
                "prompt_id": free_trace.prompt_id,
                "method": free_trace.method,
                "sample": free_trace.sample,
                "is_right": decide(free_trace),
                "is_right_banned": decide(banned_trace),
                "drew_banned": not set(ids).isdisjoint(free_trace.token_ids or ()),
                "n_tokens": len(free_trace.token_ids or ()),
                "n_tokens_banned": len(banned_trace.token_ids or ()),
            }
        )

    # Missing less anything is missing.
    table = pd.DataFrame(rows, columns=_COLUMNS)
    table = table.astype({"is_right": "boolean", "is_right_banned": "boolean"})
    right = table["is_right"].astype("Float64")
    difference = right - table["is_right_banned"].astype("Float64")
    table["pay_off"] = difference.to_numpy(float, na_value=float("nan"))
    return PayOff(free, banned, table)


_COLUMNS = [
    "prompt_id", "method", "sample", "is_right", "is_right_banned", "drew_banned", "n_tokens",
    "n_tokens_banned",
]  # fmt: skip


def first_token_ids(
    tokenizer: Any,
    openings: Iterable[str] = WORD_LISTS["markers16"],
    *,
    others: Iterable[str] = _COMMON,
) -> pd.DataFrame:
    """The first tokens of words or openings of sentences, after a line break and after a blank.

    A token is *ambiguous* if another word begins with it too: the first token of "make sure" is
    that of "make", and a tokenizer that cuts "Hmm" into "H" and "mm" bans "How" with it. To ban
    those changes more than reflection.

    Args:
        tokenizer: of the model, one that reports offsets.
        openings: words, or beginnings of sentences, in the case in which they are to be banned.
            Default: the list `markers16` of detect/words.py.
        others: words with which a token may be shared, with and without a capital. Those that are
            openings themselves, in any case, are left out. Default: frequent English words.

    Returns:
        One row per opening and place: opening, place (`line` or `blank`: what comes before),
        token_id, token (its text), is_ambiguous, shared_with (some of the words, separated by
        commas; "(unknown words)" for the token of all words that the tokenizer lacks).

    Raises:
        TraceError: if there is no tokenizer, or it reports no offsets.
        ValueError: for an opening without text.
    """
    if tokenizer is None:
        raise TraceError("first_token_ids: expected a tokenizer; the model came without one")
    wanted = list(dict.fromkeys(openings))
    if not all(opening.strip() for opening in wanted):
        raise ValueError(f"expected openings with a text, got {wanted}")

    # Which other words begin with a token.
    own_words = {opening.lower() for opening in wanted}
    words_of: dict[int, list[str]] = {}
    for word in others:
        if word.lower() in own_words:
            continue
        for form in (word, word.capitalize()):
            for before in _PLACES.values():
                token = _first_token(tokenizer, form, before)
                words_of.setdefault(token, []).append(word)

    # Every opening at both places.
    rows = []
    for opening in wanted:
        for place, before in _PLACES.items():
            token = _first_token(tokenizer, opening, before)
            shared = list(dict.fromkeys(words_of.get(token, [])))
            if token == tokenizer.unk_token_id:
                shared = [_UNKNOWN]
            rows.append(
                {
                    "opening": opening,
                    "place": place,
                    "token_id": token,
                    "token": tokenizer.decode([token]),
                    "is_ambiguous": bool(shared),
                    "shared_with": ", ".join(shared[:_MOST_NAMED]),
                }
            )
    return pd.DataFrame(rows)


_PLACES = {"line": ".\n", "blank": ". "}


def _first_token(tokenizer: Any, text: str, before: str) -> int:
    """The token that holds the first character of a text that stands after another."""
    ids, offsets = encode(tokenizer, before + text)
    n_before = sum(start <= len(before) for start, _ in offsets)
    return ids[n_before - 1]
