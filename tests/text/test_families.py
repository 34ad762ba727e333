"""The table of families against what their templates write, case by case."""

import pytest
from places import ROOT
from templates import TEMPLATES, T

from cotlens.text.families import FAMILIES, family_of
from cotlens.text.split import split_think
from cotlens.text.tags import OnCall, Opens

BY_NAME = pytest.mark.parametrize("t", TEMPLATES, ids=[t.model.partition("/")[2] + "/" + str(n) for n, t in enumerate(TEMPLATES)])  # fmt: skip


def parts(completion, prompt, **options):
    """Thoughts and answer without the blanks at their ends, and the status."""
    split = split_think(completion, prompt, **options)
    thoughts = [span.of(completion).strip() for span in split.think]
    return thoughts, split.answer.of(completion).strip(), split.status.value


def answer_of(t):
    """What the answer is, with the tokens that end a turn, which are text."""
    kept = ("<|im_end|>", "</s>", "[e~[", "<|role_end|>", "</assistant>", "<turn|>", "<seed:eos>", "</longcat_s>", "<|im:end|>", "<SPECIAL_12>", "<|assistant_end|>", "[|endofturn|]", "<sep>")  # fmt: skip
    return (
        ("Four." + t.end).strip()
        if t.end.strip() in kept and "im_start" not in t.close
        else "Four."
    )


@BY_NAME
@pytest.mark.parametrize("named", [True, False])
def test_a_closed_thought(t, named):
    """With and without the name of the model, with the prompt, and without it where the text shows the thought."""
    model = t.model if named else ""
    completion = t.open + T + t.close + "Four." + t.end
    assert parts(completion, t.on, model=model, finish_reason="stop") == (
        [T],
        answer_of(t),
        "closed",
    )
    # HyperCLOVA's next turn of ChatML alone says nothing
    if "im_start" not in t.close or t.open:
        assert parts(completion, "2+2?", model=model) == ([T], answer_of(t), "closed")


@BY_NAME
def test_a_thought_that_is_cut_off_has_no_answer(t):
    for reason in ("length", ""):
        assert parts(t.open + "Two and", t.on, model=t.model, finish_reason=reason) == (
            ["Two and"],
            "",
            "open",
        )
    # without the prompt the text shows it, or else the model's name
    family = family_of(t.model)
    shown = t.open.strip() or family.opens in (Opens.ALWAYS, Opens.DEFAULT)
    if shown:
        assert parts(t.open + "Two and", "2+2?", model=t.model, finish_reason="length") == (
            ["Two and"],
            "",
            "open",
        )


@BY_NAME
def test_a_prefilled_thought_goes_on_or_is_cut_off(t):
    prompt = t.on + t.open + "Two and"
    assert parts(" two." + t.close + "Four." + t.end, prompt, model=t.model) == (
        ["two."],
        answer_of(t),
        "closed",
    )
    assert parts(" two and", prompt, model=t.model, finish_reason="length") == (
        ["two and"],
        "",
        "open",
    )
    assert parts(" two and", prompt, finish_reason="length") == (["two and"], "", "open")


@BY_NAME
def test_thinking_that_is_switched_off_is_no_thought(t):
    if t.off is not None:
        completion = t.direct + "Four." + (t.end if t.direct else "")
        assert parts(completion, t.off, model=t.model, finish_reason="stop") == (
            [],
            "Four.",
            "absent",
        )
        assert parts(completion, t.off, model=t.model, finish_reason="length") == (
            [],
            "Four.",
            "absent",
        )
    elif t.open:
        completion = t.direct + "Four." + (t.end if t.direct else "")
        assert parts(completion, t.on, model=t.model, finish_reason="length") == (
            [],
            "Four.",
            "absent",
        )


@BY_NAME
def test_an_empty_thought_is_closed(t):
    completion = t.open + t.close + "Four." + t.end
    assert parts(completion, t.on, model=t.model) == ([""], answer_of(t), "closed")


@BY_NAME
def test_an_earlier_turn_is_no_part_of_a_thought(t):
    """The history of a prompt may hold thoughts, closed or emptied."""
    earlier = t.on + t.open + "Old." + t.close + "One." + t.end
    prompt = earlier + "\n" + t.on
    assert parts(t.open + T + t.close + "Four." + t.end, prompt, model=t.model) == (
        [T],
        answer_of(t),
        "closed",
    )


@BY_NAME
def test_a_call_ends_a_thought_where_the_parsers_say_so(t):
    if not t.call:
        return
    family = family_of(t.model)
    completion = t.open + "I need it.\n" + t.call
    if family.on_call is OnCall.STAYS:
        assert parts(completion, t.on, model=t.model)[1:] == ("", "open")
        return
    for model in (t.model, ""):
        if family.on_call is OnCall.ENDS or not model:
            thoughts, answer, status = parts(
                completion, t.on, model=model, finish_reason="tool_calls"
            )
            assert (thoughts, answer, status) == (["I need it."], "", "closed")


@BY_NAME
def test_stitched_turns_are_two_thoughts(t):
    if t.between:
        completion = (
            t.open + "I need it.\n" + t.call + t.between + "It says 4." + t.close + "Four." + t.end
        )
        assert parts(completion, t.on, model=t.model) == (
            ["I need it.", "It says 4."],
            answer_of(t),
            "closed",
        )
        assert parts(completion, t.on) == (["I need it.", "It says 4."], answer_of(t), "closed")


@BY_NAME
def test_a_call_that_is_drafted_in_a_thought_that_closes_is_thinking(t):
    family = family_of(t.model)
    if t.call and family.channels is None:
        draft = f"I could write\n{t.call}\nhere. No."
        assert parts(t.open + draft + t.close + "Four.", t.on, model=t.model)[0] == [draft]


def code(text):
    """A delimiter in a table of Markdown."""
    shown = text.replace("\n", "\\n").replace("|", "\\|")
    return f"`{shown}`"


def docs_row(family):
    """The row of docs/families.md."""
    tags = ", ".join(f"{code(pair.open)} {code(pair.close)}" for pair in family.tags)
    calls = ", ".join(code(call.open) for call in family.calls)
    calls = calls or ("messages" if family.channels else "-")
    wrappers = ", ".join(" ".join(code(end) for end in pair if end) for pair in family.wrappers)
    cells = [family.name, tags, family.opens.value, calls, family.on_call.value, wrappers or "-"]
    return f"| {' | '.join([*cells, family.source])} |"


def test_the_page_of_families_is_the_table():
    page = ROOT.joinpath("docs", "families.md").read_text(encoding="utf-8")
    rows = [docs_row(family) for family in FAMILIES]
    assert [row for row in rows if row not in page] == []
    table = page.split("|---|---|---|---|---|---|---|\n")[1].split("\n\n")[0]
    assert table.split("\n") == rows


def test_the_models_of_the_templates_find_their_rows():
    """No model is without a row, and the rows that no template shows are few."""
    shown = {family_of(t.model).name for t in TEMPLATES}
    missing = [family.name for family in FAMILIES if family.name not in shown]
    assert missing == [
        "Qwen3.5, 2B and smaller",
        "Kimi VL, K1.5",
        "Cohere Command R7B",
        "Granite 4.0, 4.1 (no thinking)",
        "LongCat",
        "Intern-S1, Nanbeige, dots",
        "Phi-4 reasoning, Hermes 4, Ring, Step 3",
        "models that are asked to think between tags",
    ]
    assert all(family.source for family in FAMILIES)


MODELS = {
    "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B": "DeepSeek R1 and its distills",
    "Qwen/Qwen3.5-2B": "Qwen3.5, 2B and smaller",
    "Qwen/Qwen3-VL-30B-A3B-Instruct": "Qwen3",
    "zai-org/GLM-4.6": "GLM-4.5, GLM-4.6",
    "zai-org/GLM-5.1": "GLM-4.7, GLM-5",
    "moonshotai/Kimi-VL-A3B-Thinking": "Kimi VL, K1.5",
    "MiniMaxAI/MiniMax-M2.5": "MiniMax M2",
    "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16": "Nemotron 3",
    "inclusionAI/Ring-1T": "Phi-4 reasoning, Hermes 4, Ring, Step 3",
}


@pytest.mark.parametrize("model", MODELS)
def test_a_name_finds_its_row(model):
    assert family_of(model).name == MODELS[model]


@pytest.mark.parametrize(
    "model",
    ["", "m", "gpt-4o", "Qwen/QwQ-32B-Preview", "meta-llama/Llama-3.1-8B", "my-llama/step-3000"],
)
def test_other_names_find_none(model):
    assert family_of(model) is None
