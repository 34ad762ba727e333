"""From a trace to the ids that a model reads, and from tokens to their places in the text."""

from itertools import pairwise

import pytest
from tiny import byte_tokenizer, tiny_tokenizer

from cotlens import Span, Trace, TraceError
from cotlens.models.encode import encode_trace, tags_of
from cotlens.trace import Origin


def words_read(tokenizer, **fields):
    """What the model reads, as words."""
    encoded = encode_trace(Trace(id="a", **fields), tokenizer)
    return " ".join(tokenizer.convert_ids_to_tokens(encoded.ids))


def opening_tokenizer():
    """A tokenizer whose chat template opens the thought."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "<|assistant|> {% endif %}", "<|assistant|> <think> {% endif %}"
    )
    return tokenizer


# --- prompts -------------------------------------------------------------------------------------


def test_a_prompt_that_is_rendered_already_is_not_rendered_again(model):
    plain = Trace(id="a", prompt="one two", completion="three")
    rendered = Trace(id="b", prompt="<|user|> one two <|assistant|> ", completion="three")
    plain_ids, rendered_ids = (
        encode_trace(trace, model.tokenizer).ids for trace in (plain, rendered)
    )
    assert plain_ids == rendered_ids


def test_messages_that_the_source_kept_go_through_the_template(model):
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "five"},
    ]
    trace = Trace(
        id="a", prompt="user: one ...", completion="three", meta={"prompt_messages": messages}
    )
    text = "<|user|> one <|assistant|> two <|user|> five <|assistant|> three"
    expected = model.tokenizer(text).input_ids
    assert list(encode_trace(trace, model.tokenizer).ids) == expected


def test_a_prompt_may_quote_special_tokens(model):
    """A jailbreak that writes the end of a turn is still a user's message, as is one with <eos>."""
    words = words_read(model.tokenizer, prompt="one <eos> <|assistant|> two", completion="three")
    assert words == "<|user|> one <eos> <|assistant|> two <|assistant|> three"


def test_a_prompt_rendered_for_another_model_is_refused(model):
    prompt = "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(TraceError, match="rendered for another model"):
        words_read(model.tokenizer, prompt=prompt, completion="three")


def test_prompt_ids_are_kept_where_the_completion_is_text(model):
    trace = Trace(id="a", completion="three", prompt_token_ids=(5, 6))
    encoded = encode_trace(trace, model.tokenizer)
    assert encoded.ids == (5, 6, 7)
    assert encoded.context == "ids"


# --- tags ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("opens", [True, False])
def test_a_thought_is_opened_exactly_once(opens):
    """Whether or not the template opens it, and whether or not the completion repeats the tag."""
    tokenizer = opening_tokenizer() if opens else tiny_tokenizer()
    expected = tokenizer("<|user|> one <|assistant|> <think> wait </think> three").input_ids
    for completion in ("<think> wait </think> three", "wait </think> three"):
        encoded = encode_trace(Trace(id="a", prompt="one", completion=completion), tokenizer)
        assert list(encoded.ids) == expected, completion
        assert len(encoded.scored) == len(tokenizer(completion).input_ids)


@pytest.mark.parametrize("prompt", ["<|user|> one <|assistant|> <think> wait", "one so: <think>"])
def test_a_thought_that_the_prompt_began_is_not_opened_again(model, prompt):
    words = words_read(model.tokenizer, prompt=prompt, completion="so </think> two")
    assert words == f"{prompt} so </think> two".replace("so:", "<unk>")


def test_a_template_that_opens_a_thought_does_not_for_an_answer_without_one():
    trace = {"prompt": "one", "completion": "two", "finish_reason": "stop"}
    assert words_read(opening_tokenizer(), **trace) == "<|user|> one <|assistant|> two"


def test_separate_fields_get_their_tags_which_are_not_scored(model):
    """Thinking "wait so", answer "three": the model reads five tokens, and three are scored."""
    trace = Trace(
        id="a",
        prompt="one",
        completion="wait sothree",
        origin=Origin.FIELDS,
        think=(Span(0, 7),),
        answer=Span(7, 12),
    )
    encoded = encode_trace(trace, model.tokenizer)
    words = model.tokenizer.convert_ids_to_tokens(encoded.ids)
    assert words == [
        "<|user|>",
        "one",
        "<|assistant|>",
        "<think>",
        "wait",
        "so",
        "</think>",
        "three",
    ]
    assert [words[i] for i in encoded.scored] == ["wait", "so", "three"]

    beginnings = [trace.completion[start : start + 5].strip() for start in encoded.token_starts]
    assert beginnings == ["wait", "soth", "three"]


def test_line_breaks_around_tags_are_not_doubled():
    """vLLM's fields keep the line breaks that the model wrote around its thought."""
    tokenizer = byte_tokenizer()
    trace = Trace(
        id="a",
        completion="\nthe on\n\n\non",
        origin=Origin.FIELDS,
        think=(Span(0, 8),),
        answer=Span(8, 12),
        prompt="",
    )
    text = tokenizer.decode(encode_trace(trace, tokenizer).ids)
    assert text == "<think>\nthe on\n</think>\n\non"


def test_harmony_templates_get_channels():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        "<|start|>assistant{# <|channel|> <|message|> #}"
    )
    trace = Trace(
        id="a",
        prompt="the",
        completion="onand",
        origin=Origin.FIELDS,
        think=(Span(0, 2),),
        answer=Span(2, 5),
    )
    text = tokenizer.decode(encode_trace(trace, tokenizer).ids)
    assert text == (
        "the<|start|>assistant<|channel|>analysis<|message|>on<|end|>"
        "<|start|>assistant<|channel|>final<|message|>and"
    )


# --- places in the text --------------------------------------------------------------------------


@pytest.mark.parametrize("trim_offsets", [True, False])
@pytest.mark.parametrize(
    "text", ["the thinking  goes\n\n on", "日本語 and 🤔🤔", "é e\u0301 \u200f", " \t", "a\x00b"]
)
def test_tokens_tile_the_text(text, trim_offsets):
    """A space belongs to the word after it; a token inside a character begins with it."""
    tokenizer = byte_tokenizer(trim_offsets=trim_offsets)
    encoded = encode_trace(Trace(id="a", completion=text), tokenizer)
    assert encoded.exact
    assert encoded.n_drift == 0

    starts = [*encoded.token_starts, len(text)]
    assert starts[0] == 0
    assert all(a <= b for a, b in pairwise(starts))
    for i, token in enumerate(encoded.ids):
        decoded = tokenizer.decode([token])
        is_whole = "\ufffd" not in decoded and starts[i] != starts[i + 1]
        if is_whole:
            assert text[starts[i] : starts[i + 1]] == decoded


def test_ids_that_no_encoding_would_give_find_their_places_too():
    """A model may spell a word byte by byte, so that characters are split over tokens."""
    tokenizer = byte_tokenizer()
    text = "the 日本 thinking"
    letters = [letter_of(byte) for byte in text.encode()]
    ids = tokenizer.convert_tokens_to_ids(letters)
    assert tokenizer.decode(ids) == text

    trace = Trace(id="a", completion=text, prompt_token_ids=(1,), token_ids=tuple(ids))
    encoded = encode_trace(trace, tokenizer)
    expected = [i for i, character in enumerate(text) for _ in character.encode()]
    assert list(encoded.token_starts) == expected
    assert encoded.exact


def letter_of(byte):
    """How byte-level BPE writes a byte: itself if printable, else the next free letter from 256."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in printable:
        return chr(byte)
    others = [other for other in range(256) if other not in printable]
    return chr(256 + others.index(byte))


def test_special_tokens_that_the_text_leaves_out(model):
    """A server that strips the end token from the text leaves its id: it is at the text's end."""
    ids = tuple(model.tokenizer("wait so <eos>").input_ids)
    trace = Trace(id="a", completion="wait so", prompt_token_ids=(3,), token_ids=ids)
    encoded = encode_trace(trace, model.tokenizer)
    assert encoded.exact
    assert encoded.token_starts[-1] == 7


def test_drift_counts_the_tokens_that_joining_changes():
    """'on' is one token: joining a prompt ending in 'o' and a completion 'n...' gives it back."""
    tokenizer = byte_tokenizer()
    assert len(tokenizer("on").input_ids) == 1
    encoded = encode_trace(Trace(id="a", prompt="o", completion="n and"), tokenizer)
    assert encoded.n_drift == 1
    assert encoded.exact


# --- delimiters ----------------------------------------------------------------------------------


def test_a_response_template_gives_the_delimiters_of_separate_fields():
    """Thinking "on", answer "and": the model reads the delimiters that its tokenizer names."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.response_template = {
        "start_anchor": "<|assistant|>",
        "fields": {"thinking": {"open": "<hm>", "close_pattern": r"</hm>\s*"}},
    }
    spans = {"think": (Span(0, 2),), "answer": Span(2, 5)}
    trace = Trace(id="a", prompt="the", completion="onand", origin=Origin.FIELDS, **spans)
    text = tokenizer.decode(encode_trace(trace, tokenizer).ids)
    assert text == "the<hm>\non\n</hm>\n\nand"

    # Text with the same delimiters is split by them: its thought is not opened again.
    trace = Trace(id="a", prompt="the\n<hm>\n", completion="on</hm>and")
    assert tokenizer.decode(encode_trace(trace, tokenizer).ids) == "the\n<hm>\non</hm>and"


def test_a_tokenizer_with_a_known_name_writes_thoughts_as_its_template_does():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}</think>"
    tokenizer.name_or_path = "zai-org/GLM-4.7"
    assert tags_of(tokenizer) == ("<think>", "</think>")
    tokenizer.name_or_path = "my/checkpoint"
    assert tags_of(tokenizer) == ("<think>\n", "\n</think>\n\n")
