"""After an injected thought: what counts as going back, and that all arms read the same."""

import pytest
from tiny import TEMPLATE, tiny_model, tiny_tokenizer

from cotlens import Trace, TraceError, continue_trace, sample, stats
from cotlens.models.load import wrap_model
from cotlens.probes import grade_answer, recover, recovery_table, reflects_next

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = ["one", "two", "three"]
THOUGHTS = ["so one is two", "so two is three", "so three is four"]


def make_model(seed=0):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return wrap_model(tiny_model(len(tokenizer), seed=seed), tokenizer, name="tiny")


@pytest.fixture(scope="module")
def model():
    return make_model()


def never(_):
    return False


def draws(ids):
    """Going back: the model itself writes one of these tokens."""
    return lambda trace: not set(ids).isdisjoint(trace.token_ids)


def continuation(prefix, rest, finish_reason="stop", **fields):
    """A trace whose first characters were put into the model's mouth."""
    return Trace(
        id=fields.pop("id", "a"),
        completion=prefix + rest,
        token_ids=(7,),
        token_starts=(len(prefix),),
        finish_reason=finish_reason,
        **fields,
    )


# --- what counts as going back -------------------------------------------------------------------

WRONG = "<think>\nWe compute the sum. 2 + 2 = 5."
BACK = " Wait, that can't be right. Let me check. 2 + 2 = 4.\n</think>\n\nThe answer is 4."
ON = " The next term is 7. The last term is 2.\n</think>\n\nThe answer is 10."


@pytest.mark.parametrize(
    ("prefix", "rest", "finish_reason", "within", "expected"),
    [
        (WRONG, BACK, "stop", 3, True),
        (WRONG, ON, "stop", 3, False),
        # Closed at once: there is nothing left to go back in.
        (WRONG, "\n</think>\n\nThe answer is 5.", "stop", 3, False),
        # The reflection is the prefix's own.
        (WRONG + " Wait, that can't be right.", ON, "stop", 3, False),
        # A step that the prefix began is not the model's.
        ("<think>\nWe compute the sum. Wait,", " that can't be right." + ON, "stop", 1, False),
        # As the second step.
        (WRONG, " The next term is 7." + BACK, "stop", 1, False),
        (WRONG, " The next term is 7." + BACK, "stop", 2, True),
        # Cut off before all steps that count were whole, or after.
        (WRONG, " The next term", "length", 3, None),
        (WRONG, " The next term is 7. The last", "", 2, None),
        (WRONG, " The next term is 7. The last term is 2. Then", "length", 2, False),
        # It ended the text by itself, in the middle of the thought.
        (WRONG, " The next term is 7. The last term is 2.", "stop", 3, False),
        (WRONG, " Wait, that can't be right. Let", "length", 3, True),
        (WRONG, " Wait, that can't", "length", 3, None),
        # Nobody knows in Chinese, nor without a thought.
        ("<think>\nДавайте посчитаем. Два плюс два равно пяти.", " Значит, сумма равна пяти. Потом мы получаем двенадцать.\n</think>\n\nПять", "stop", 3, None),
        ("", "The answer is 5.", "stop", 3, None),
    ],
)  # fmt: skip
def test_going_back_is_a_reflection_soon_after_the_prefix(
    prefix, rest, finish_reason, within, expected
):
    trace = continuation(prefix, rest, finish_reason)
    assert reflects_next(trace, within=within) is expected


@pytest.mark.parametrize(
    ("rest", "gold", "expected"),
    [
        (BACK, "4", True),
        (ON, "4", False),
        (" So the total is 5 + 7", "4", False),  # cut off: not right
        (BACK, "", None),
    ],
)
def test_right_is_what_the_answer_says(rest, gold, expected):
    assert grade_answer(continuation(WRONG, rest, gold=gold)) is expected


def test_the_table_by_hand():
    """Three prompts of two samples: back 3 of 5 known, right 2 of 6."""
    rests = [BACK, ON, BACK, BACK, ON, " So the total"]
    traces = []
    for number, rest in enumerate(rests):
        traces.append(
            continuation(
                WRONG,
                rest,
                "length" if rest == " So the total" else "stop",
                id=f"t{number}",
                prompt_id=f"p{number // 2}",
                sample=number % 2,
                gold="10" if number == 1 else "4" if number == 0 else "7",
            )
        )
    table = recovery_table(traces, reflects_next, grade_answer)
    assert table["goes_back"].isna().tolist() == [False] * 5 + [True]
    assert table["start"].tolist() == [len(WRONG)] * 6
    back = stats.proportion(table["goes_back"], table["prompt_id"])
    assert (back.value, back.n, back.n_clusters) == (pytest.approx(3 / 5), 5, 3)
    right = stats.proportion(table["is_right"], table["prompt_id"])
    assert (right.value, right.n) == (pytest.approx(2 / 6), 6)

    # Two arms with the same prompts are paired: all back less three of five.
    other = table.assign(goes_back=True)
    difference = stats.difference(
        other["goes_back"], table["goes_back"], other["prompt_id"], table["prompt_id"]
    )
    assert difference.value == pytest.approx(1 - 3 / 5)
    assert recovery_table([], never, never).columns.tolist() == table.columns.tolist()


# --- on a model ----------------------------------------------------------------------------------


def test_a_trace_is_the_prefix_and_what_the_model_wrote(model):
    traces, table = recover(model, PROMPTS, THOUGHTS, n=2, max_new_tokens=6, is_right=never)
    assert table["prompt_id"].tolist() == [trace.prompt_id for trace in traces]
    assert table["sample"].tolist() == [0, 1] * 3
    for trace, thought in zip(traces, [text for text in THOUGHTS for _ in "ab"], strict=True):
        prefix = "<think>\n" + thought
        assert trace.completion.startswith(prefix)
        assert trace.token_starts[0] == len(prefix)
        text_ids = [token for token in trace.token_ids if token not in (2,)]
        assert model.tokenizer.decode(text_ids) == trace.completion[len(prefix) :].strip()


def test_two_arms_read_the_same(model):
    other = make_model(seed=1)
    options = {"n": 2, "max_new_tokens": 4, "is_right": never}
    first, _ = recover(model, PROMPTS, THOUGHTS, **options)
    second, _ = recover(other, PROMPTS, THOUGHTS, method="sft", **options)
    for left, right in zip(first, second, strict=True):
        assert left.prompt_token_ids == right.prompt_token_ids
        assert left.prompt_id == right.prompt_id
    assert [trace.token_ids for trace in first] != [trace.token_ids for trace in second]


def test_an_empty_prefix_is_plain_sampling(model):
    plain = sample(model, PROMPTS, n=3, max_new_tokens=8, seed=5)
    for prefixes in ("", ["", "", ""]):
        traces, table = recover(model, PROMPTS, prefixes, n=3, max_new_tokens=8, seed=5)
        assert traces == plain
        assert table["start"].eq(0).all()
        assert table["is_right"].isna().all()  # there is no gold


def test_nobody_goes_back_without_the_tokens_for_it(model):
    ids = [model.tokenizer.convert_tokens_to_ids(word) for word in ("wait", "hmm")]
    options = {"n": 20, "max_new_tokens": 8, "goes_back": draws(ids), "is_right": never}
    free = recover(model, PROMPTS, THOUGHTS, **options).table
    banned = recover(model, PROMPTS, THOUGHTS, banned_ids=ids, **options).table
    assert free["goes_back"].mean() > 0
    assert banned["goes_back"].mean() == 0


def test_one_prefix_serves_all_prompts(model):
    traces, _ = recover(model, PROMPTS, THOUGHTS[0], max_new_tokens=3, is_right=never)
    assert all(trace.completion.startswith("<think>\n" + THOUGHTS[0]) for trace in traces)
    with pytest.raises(TraceError, match="each of the 3 prompts; got 2"):
        recover(model, PROMPTS, THOUGHTS[:2], max_new_tokens=3)


def test_continuations_of_a_trace_have_a_table_too(model):
    text = "<think>\nso one is two so"
    trace = Trace(id="a", prompt="one", completion=text, gold="4")
    continued = continue_trace(model, trace, len("<think>\nso one"), n=2, max_new_tokens=4)
    table = recovery_table(continued, never, never)
    assert table["start"].tolist() == [len("<think>\nso one")] * 2
    assert table["prompt_id"].tolist() == [trace.prompt_id] * 2
