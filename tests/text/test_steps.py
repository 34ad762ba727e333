import hashlib
import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import read_rows

from cotlens import Span, Trace, segment_trace
from cotlens.text.steps import group_paragraphs, group_runs, segment


def texts(text):
    return [span.of(text) for span in segment(text)]


# "¦" marks where a step ends; white space belongs to the step before it.
CASES = {
    "sentences": "One. ¦Two! ¦Three? ¦Four",
    "decimal": "Pi is 3.14 here. ¦Next.",
    "subscript": r"Take x_{1}. ¦Then y.",
    "variables in lower case": "Divide by 7. ¦a is a digit.",
    "abbreviations": "E.g. Smith et al. say so, cf. Fig. 3 and Eq. 2. ¦Dr. Who agrees.",
    "no is a word": "Wait, no. ¦Wait, yes.",
    "country": "The U.S. army and the U.S. ¦Then more.",
    "list numbers": "1. First thing.\n¦2. Second thing.\n  ¦a. Part.\n¦- Bullet here.\n¦* Star here.",
    "escaped list number": "1\\. Methane burns.\n\n¦2\\. It is hot.",
    "numbered in a line": "Do it. ¦1. Go there. ¦2. Come back.",
    "bold step": "**Step 1.** Go. ¦Next.",
    "option": "So **B. 4** it is. ¦Done.",
    "factorial": "5! = 120. ¦So n! is big. ¦Great! ¦Yes.",
    "ellipsis": "Let me see... maybe not. ¦Hmm... ¦But no.",
    "question inside": "Is it 5? no, 6. ¦Really? ¦Yes.",
    "quote": 'He said "stop." ¦Then he left.',
    "quote goes on": '"Is it?" he asked. ¦"Yes."',
    "bracket": "It works (e.g. here.) and there. ¦So.",
    "inline maths": r"Then \(a. B\) holds. ¦So $x. Y$ too. ¦End.",
    "prices": "It costs $5. ¦The other costs $7. ¦So.",
    "display": "We get\n\\[\nx = 1.\ny = 2.\n\\]\n¦So done.",
    "display behind a colon": "Therefore:\n\n¦\\[ x = 1 \\]\n\n¦So.",
    "display given by": "It is given by:\n\n$$\nx. Y\n$$\n\n¦So.",
    "environment": "\\begin{align}\na. B\n\nc\n\\end{align}\n¦Next.",
    "unclosed display": "\\[ a. ¦B. ¦C",
    "where": "\\[ F = ma \\]\n\nwhere \\(m\\) is the mass.\n¦So.",
    "definitions": "F = ma\n\nWhere:\n\n- m is the mass\n\n- a is the acceleration of it all\n\n¦So.",
    "list": "Options are:\n¦- red\n¦- green\n¦- blue\n¦So blue.",
    "absolute value": "|x - 2| < 3. ¦So -1 < x < 5. ¦Wait, is that right? ¦Yes.",
    "a question behind a formula": "So x = 5\n\n¦Where did I go wrong? ¦Here.",
    "fence in prose": "The user put ``` in it. ¦Why? ¦Then ``` again. ¦So.",
    "brackets of prose": "The regex \\( opens. ¦It goes on.\n\n¦Then \\) closes. ¦So.",
    "numbered references": "By Eq. (3) and Prop. 2 it holds w.r.t. A. ¦So.",
    "nested numbers": "1.1. Intro here. ¦Then.",
    "chinese with ascii marks": "5.对吗?¦不对!¦让我再想想。",
    "chinese quotation goes on": "“怎么做？”，我不能回答。¦好。",
    "equation labels": "So x = 1. (2)\n¦Then y. ¦(Not a label.) ¦So.",
    "code": "Run:\n¦```python\nx = 1. \ny = 2\n```\n¦Done.",
    "inline code": "Call `a. B()` now. ¦Then.",
    "table": "Look:\n¦| a | b |\n|---|---|\n¦| 1. One | 2. Two |\n¦Done.",
    "heading": "### Part 1\n\n¦Text here.\n¦---\n¦More.",
    "chinese": "三加四等于七。¦等等，对吗？！¦“没错！”¦好。\n¦完",
    "hindi and arabic": "यह सही है।¦ठीक। ¦هل هذا صحيح؟ ¦نعم.",
    "crlf": "One.\r\n¦Two.\r\n\r\n¦Three",
    "leading white space": "\n\n  One. ¦Two.",
    "only white space": " \n\n ",
    "one word": "word",
}


@pytest.mark.parametrize("case", CASES, ids=list(CASES))
def test_segment(case):
    assert texts(CASES[case].replace("¦", "")) == CASES[case].split("¦")


def test_an_empty_text_has_no_steps():
    assert segment("") == []


SOUP = st.lists(
    st.sampled_from(
        [
            ". ",
            "! ",
            "?",
            "...",
            "\n",
            "\n\n",
            "\r\n",
            "\\[",
            "\\]",
            "\\(",
            "\\)",
            "$",
            "$$",
            "`",
            "```",
            "1. ",
            "- ",
            "| ",
            "\\begin{a}",
            "\\end{a}",
            "e.g. ",
            "where ",
            "Where:\n",
            "A",
            "b",
            "。",
            "！”",
            "*",
            "(",
            ")",
            "\u2028",
            "�",
            "é",
        ]
    ),
    max_size=40,
).map("".join)


@given(st.one_of(st.text(), SOUP))
def test_steps_tile_any_text(text):
    """Steps are not empty, follow each other without a gap, and concatenate to the text."""
    spans = segment(text)
    assert "".join(span.of(text) for span in spans) == text
    assert all(span.length > 0 for span in spans)
    assert all(span.of(text).strip() for span in spans) or not text.strip()


@given(SOUP)
def test_a_step_never_begins_with_white_space_except_the_first(text):
    assert not any(span.of(text)[0] in " \t\n\r" for span in segment(text)[1:])


HOSTILE = [
    "!",
    ".",
    "\\[",
    "\\(",
    "\\(x ",
    "$",
    "`",
    "\n",
    ". ",
    '."',
    "*",
    "| a. ",
    "\\begin{a}",
    "a.\n",
    "(1. ",
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_text_of_half_a_million_characters(unit):
    """Each of these would keep quadratic code busy for hours; the work is linear, so the test simply ends."""
    text = unit * (500_000 // len(unit))
    assert "".join(texts(text)) == text


def test_steps_of_a_trace_index_the_completion_and_its_tokens():
    """Tokens: `<think>` at 0, `Hi` 7, `. ` 9, `Yo` 11, `</think>` 13, `Z` 21; the steps are 7:11 and 11:13."""
    trace = Trace(
        id="t",
        completion="<think>Hi. Yo</think>Z",
        token_ids=(1, 2, 3, 4, 5, 6),
        token_starts=(0, 7, 9, 11, 13, 21),
    )
    steps = segment_trace(trace)
    assert [step.chars for step in steps] == [Span(7, 11), Span(11, 13)]
    assert [step.tokens for step in steps] == [Span(1, 3), Span(3, 4)]


def test_a_token_that_straddles_a_border_belongs_to_the_step_of_its_first_character():
    """One token `. Y` from 2 to 5 over the border at 4: it is the first step's."""
    trace = Trace(
        id="t",
        completion="<think>Hi. Yo</think>",
        token_ids=(0, 1, 2, 3),
        token_starts=(0, 7, 9, 12),
    )
    assert [step.tokens for step in segment_trace(trace)] == [Span(1, 3), Span(3, 4)]


def test_thoughts_do_not_share_a_step_and_commentary_has_none():
    trace = Trace(id="t", completion="<think>a</think>Not me.<think>b</think>c")
    assert [(step.index, step.chars.of(trace.completion)) for step in segment_trace(trace)] == [
        (0, "a"),
        (1, "b"),
    ]


def test_paragraphs_are_runs_of_steps_without_a_blank_line():
    text = "One. Two.\n\nThree.\nFour.\n\nFive."
    assert group_paragraphs(text, segment(text)) == [Span(0, 2), Span(2, 4), Span(4, 5)]


@given(st.lists(st.booleans()))
def test_runs_hold_exactly_the_flagged_steps(flags):
    """Runs are maximal: together they hold every True, and a False parts any two."""
    runs = group_runs(flags)
    assert [i for run in runs for i in range(*run)] == [i for i, flag in enumerate(flags) if flag]
    assert all(a.stop < b.start for a, b in itertools.pairwise(runs))


def test_boundaries_agree_with_people(data):
    """Start-of-unit F1 against the units of human annotators: ReasoningFlow, 37 documents, 3,222 units.

    The guards' mistakes were looked for in these documents, so this is agreement on seen data. The halves share no
    question; they are the ones the guards were developed with.
    """
    halves = {0: [0, 0, 0], 1: [0, 0, 0]}
    for row in read_rows(data / "labels" / "reasoningflow_human.jsonl.gz"):
        gold = {span[1] for span in row["spans"] if span[4] == "r"}
        found = {span.start for span in segment(row["response"])}
        question = row["doc_id"].rsplit("_", 1)[0]
        half = halves[int(hashlib.sha1(question.encode()).hexdigest(), 16) % 2]
        for i, n in enumerate((len(gold & found), len(gold), len(found))):
            half[i] += n
    assert sum(gold for _, gold, _ in halves.values()) == 3222
    for both, gold, found in halves.values():
        assert 2 * both / (gold + found) > 0.95


def test_a_box_belongs_to_the_heading_that_announces_it():
    """A blank line parts them, and so does a heading that is none."""
    for text, expected in (
        ("**Final Answer**\n\\boxed{C}", 1),
        ("## Answer\n\\boxed{C}\nSo C.", 2),
        ("**Final Answer**\n\n\\boxed{C}", 2),
        ("It is **C**.\n\\boxed{C}", 2),
    ):
        spans = segment(text)
        assert len(spans) == expected, text
        assert "".join(span.of(text) for span in spans) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("One. Two.", ["One. ", "Two."]),
        # A line break alone ends no sentence, a blank line does.
        ("We get\n\\[ x \\]\nfor x:\n\nHence", ["We get\n\\[ x \\]\nfor x:\n\n", "Hence"]),
        # The number of an item ends a sentence, except that of a paragraph's first item.
        ("Steps:\n1. Add.\n2. Halve.", ["Steps:\n1. ", "Add.\n", "2. ", "Halve."]),
        ("Steps:\n\n1. Add.\n2. Halve.", ["Steps:\n\n", "1. Add.\n", "2. ", "Halve."]),
        # Abbreviations, ellipses and marks before small letters end none.
        ("See e.g. Euler. Dr. No came.", ["See e.g. Euler. ", "Dr. No came."]),
        ("So 0.33... and so on. It ends.", ["So 0.33... and so on. ", "It ends."]),
        ('It asks "why?" Then stops.', ['It asks "why?" ', "Then stops."]),
        ("</think>The answer", ["</think>", "The answer"]),
        ("三加四。等于七！好", ["三加四。", "等于七！", "好"]),
    ],
)
def test_sentences(text, expected):
    """Sentences by hand; they tile the text."""
    assert [span.of(text) for span in segment(text, unit="sentence")] == expected


@given(st.text(alphabet='aZ1.!?… \n)"。>*\\', max_size=60))
def test_sentences_tile_any_text(text):
    """Nothing is lost, and no sentence is empty."""
    spans = segment(text, unit="sentence")
    assert "".join(span.of(text) for span in spans) == text
    assert all(span.start < span.stop for span in spans)


@pytest.mark.parametrize("part", ["a. ", "\n", " \n", ".", '."', "。", "e.g. ", "\n \n x"])
def test_sentences_of_hostile_text_take_linear_time(part):
    """Half a million characters in a second or two."""
    text = part * (500_000 // len(part))
    began = time.process_time()
    segment(text, unit="sentence")
    assert time.process_time() - began < 3


def test_sentences_agree_with_people(data):
    """Start-of-sentence F1 on Schoenfeld's 17 traces, 1,182 sentences: at least 0.967."""
    both = gold_size = found_size = 0
    for row in read_rows(data / "labels" / "schoenfeld_human.jsonl.gz"):
        text = row["response"]
        gold = set()
        for sentence in row["sentences"]:
            start, stop = sentence["span"]
            white = len(text[start:stop]) - len(text[start:stop].lstrip())
            gold.add(start + white)
        found = {span.start for span in segment(text, unit="sentence")}
        both += len(gold & found)
        gold_size += len(gold)
        found_size += len(found)
    assert 2 * both / (gold_size + found_size) > 0.967
