"""What banned tokens are worth, and which tokens a reflection begins with."""

from types import SimpleNamespace

import numpy as np
import pytest
from tiny import TEMPLATE, byte_tokenizer, tiny_model, tiny_tokenizer

from cotlens import TraceError, stats
from cotlens.models.load import wrap_model
from cotlens.probes import first_token_ids, pay_off

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = ["one", "two", "three", "four"]


@pytest.fixture(scope="module")
def model():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return wrap_model(tiny_model(len(tokenizer)), tokenizer, name="tiny")


@pytest.fixture(scope="module")
def ids(model):
    return [model.tokenizer.convert_tokens_to_ids(word) for word in ("wait", "hmm")]


# --- pay-off -------------------------------------------------------------------------------------


def test_a_pair_differs_in_what_follows_a_banned_token_alone(model, ids):
    free, banned, table = pay_off(
        model, PROMPTS, np.array(ids), n=20, max_new_tokens=6, is_right=lambda _: True
    )
    for drew, left, right in zip(table["drew_banned"], free, banned, strict=True):
        assert not set(ids) & set(right.token_ids)
        assert left.id == right.id
        if not drew:
            assert left.token_ids == right.token_ids
            continue

        # The same up to the first banned token.
        place = min(left.token_ids.index(token) for token in ids if token in left.token_ids)
        assert left.token_ids[:place] == right.token_ids[:place]
    assert 0 < table["drew_banned"].mean() < 1
    assert table["pay_off"].eq(0).all()
    assert table["n_tokens"].tolist() == [len(trace.token_ids) for trace in free]


def test_the_pay_off_by_hand(model, ids):
    """Right is who waits: the pay-off is the share that waits, and its interval is over prompts."""
    table = pay_off(
        model,
        PROMPTS,
        ids,
        n=20,
        max_new_tokens=6,
        is_right=lambda trace: not set(ids).isdisjoint(trace.token_ids),
    ).table
    assert not table["is_right_banned"].any()
    assert table["pay_off"].tolist() == table["drew_banned"].astype(float).tolist()
    estimate = stats.mean(table["pay_off"], table["prompt_id"])
    assert estimate.value == pytest.approx(table["drew_banned"].mean())
    assert (estimate.n, estimate.n_clusters) == (80, 4)

    # Who is right only without them pays.
    table = pay_off(
        model,
        PROMPTS,
        ids,
        max_new_tokens=6,
        temperature=0,
        is_right=lambda trace: set(ids).isdisjoint(trace.token_ids),
    ).table
    assert table["is_right_banned"].all()
    assert table["pay_off"].tolist() == [-float(drew) for drew in table["drew_banned"]]


def test_what_is_unknown_stays_so(model, ids):
    """Without a gold nobody knows what is right."""
    table = pay_off(model, PROMPTS, ids, max_new_tokens=2).table
    assert table["is_right"].isna().all()
    assert table["pay_off"].isna().all()
    assert np.isnan(stats.mean(table["pay_off"], table["prompt_id"]).value)


def test_what_cannot_be_banned_is_refused_in_one_line(model):
    with pytest.raises(TraceError, match="expected at least one token to ban"):
        pay_off(model, PROMPTS, [], max_new_tokens=2)
    with pytest.raises(TraceError, match="banned token 99 is none of its 18"):
        pay_off(model, PROMPTS, [99], max_new_tokens=2)
    endpoint = SimpleNamespace(name="far", tokenizer=None, write=None)
    with pytest.raises(TraceError, match="far: an endpoint cannot ban tokens"):
        pay_off(endpoint, PROMPTS, [1], max_new_tokens=2)


# --- first tokens --------------------------------------------------------------------------------


def by_form(table):
    return {(row.opening, row.place): row for row in table.itertuples()}


def test_first_tokens_of_words(model, ids):
    """A tokenizer of whole words: one token at both places, and one for all words that it lacks."""
    table = first_token_ids(model.tokenizer, ["wait", "hmm", "so the", "Wait"])
    rows = by_form(table)
    assert rows["wait", "line"].token_id == rows["wait", "blank"].token_id == ids[0]
    assert rows["hmm", "blank"].token_id == ids[1]
    assert not rows["hmm", "blank"].is_ambiguous
    # "so" begins other sentences too.
    assert rows["so the", "line"].is_ambiguous
    assert rows["so the", "line"].shared_with == "so"
    assert rows["Wait", "line"].shared_with == "(unknown words)"
    clear = table.loc[~table["is_ambiguous"], "token_id"]
    assert sorted(set(clear)) == sorted(ids)


def test_first_tokens_with_and_without_a_blank():
    """Merges of " Wait" and "Wait", and none of "Hmm": its "H" is that of How and Here as well."""
    text = ". Wait. Wait.\nWait.\nWait"
    tokenizer = byte_tokenizer([text] * 30, size=300)
    rows = by_form(first_token_ids(tokenizer, ["Wait", "Hmm"]))
    assert rows["Wait", "line"].token == "Wait"
    assert rows["Wait", "blank"].token == " Wait"
    assert not rows["Wait", "blank"].is_ambiguous
    for place in ("line", "blank"):
        row = rows["Hmm", place]
        assert row.is_ambiguous
        assert tokenizer.encode("Hmm")[0] in set(first_token_ids(tokenizer, ["Hmm"])["token_id"])
        assert "he" in row.shared_with.split(", ")

    # The caller knows best which words there are.
    (shared,) = first_token_ids(tokenizer, ["Hmm"], others=["Wait"])["is_ambiguous"].unique()
    assert not shared


def test_the_first_token_is_the_one_that_a_text_has_there():
    """Where the tokenizer has no token for a blank with the word's first letter, it is the letter's."""
    tokenizer = byte_tokenizer([". Wait. Hmm so.\nWait.\nHmm, so"] * 30, size=320)
    blank = tokenizer.encode(" ")[0]
    for row in first_token_ids(tokenizer).itertuples():
        before = ".\n" if row.place == "line" else "."
        text = row.opening if row.place == "line" else " " + row.opening
        ids = tokenizer.encode(before + text)[len(tokenizer.encode(before)) :]
        assert row.token_id == (ids[1] if ids[0] == blank else ids[0])


def test_openings_need_a_text_and_a_tokenizer(model):
    with pytest.raises(ValueError, match="openings with a text"):
        first_token_ids(model.tokenizer, ["wait", " "])
    with pytest.raises(TraceError, match="came without one"):
        first_token_ids(None)
