"""A prefix is inside the thought, and its tokens are those of every text that begins with it."""

from types import SimpleNamespace

import pytest
from templates import TEMPLATES
from tiny import TEMPLATE, byte_tokenizer, tiny_tokenizer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cotlens import TraceError
from cotlens.formats.prompts import as_prompts
from cotlens.probes import prefix as prefix_module
from cotlens.probes.prefix import thought_prefixes

PROMPTS = as_prompts(["one", "two"])
WORDS = "x Wait x So x 3 x not 5.\n\nWait\nSo\n3 <think>\n</think>\n\n"


# The pre-tokenizer of Qwen2 (tokenizer.json of Qwen/Qwen2.5-0.5B); Llama 3 has the same but for digits.
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def engine_of(tokenizer):
    tokenizer.chat_template = TEMPLATE
    return SimpleNamespace(name="tiny", tokenizer=tokenizer)


def qwen_like():
    """A trained tokenizer that cuts words as Qwen's does; GPT-2's splits line breaks before a word."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator([WORDS] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw)


@pytest.fixture(scope="module")
def engines():
    """Engines whose tokenizers have " Wait", " So" and " 3" as tokens."""
    return {
        "qwen": engine_of(qwen_like()),
        "gpt2": engine_of(byte_tokenizer([WORDS] * 20, size=400)),
        "words": engine_of(tiny_tokenizer()),
    }


@pytest.fixture(scope="module")
def engine(engines):
    return engines["qwen"]


def test_the_tag_is_put_where_neither_text_nor_template_has_it(engine):
    thoughts = ["Try 3. No.", "<think>\nTry 3. No."]
    assert thought_prefixes(engine, PROMPTS, thoughts) == ["<think>\nTry 3. No."] * 2
    # The text's own line break is the one after the tag.
    prompt = PROMPTS[:1]
    assert thought_prefixes(engine, prompt, ["\nTry 3."]) == ["<think>\nTry 3."]
    assert thought_prefixes(engine, PROMPTS, ["", ""]) == ["", ""]
    assert thought_prefixes(engine, PROMPTS, ["", "So."]) == ["", "<think>\nSo."]


def test_a_template_that_opens_the_thought_leaves_the_text_alone():
    opening = engine_of(tiny_tokenizer())
    opening.tokenizer.chat_template = TEMPLATE.replace(
        "<|assistant|> {% endif %}", "<|assistant|> <think> {% endif %}"
    )
    assert thought_prefixes(opening, PROMPTS, ["so", "wait"]) == ["so", "wait"]
    with pytest.raises(TraceError, match="begins with '<think>', and so does the thought"):
        thought_prefixes(opening, PROMPTS, ["so", "<think> wait"])


@pytest.mark.parametrize(
    ("name", "thought", "is_fine"),
    [
        ("qwen", "That is 7, not 5.", True),
        ("qwen", "That is 7, not 5.\n", True),
        ("qwen", "That is 7, not 5.\n\n", True),
        ("qwen", "That is 7, not 5", True),
        ("qwen", "That is 7, not 5. ", False),  # the blank belongs to " Wait"
        ("qwen", "That is 7, not 5.\n\n ", False),
        ("gpt2", "That is 7, not 5.", True),
        ("gpt2", "That is 7, not 5.\n", True),
        ("gpt2", "That is 7, not 5.\n\n", False),  # "\n\n", but "\n", "\n" before a word
        ("gpt2", "That is 7, not 5. ", False),
        ("words", "so one is two ", True),  # blanks are in no token
    ],
)
def test_a_prefix_ends_where_two_tokens_meet(engines, name, thought, is_fine):
    engine = engines[name]
    if not is_fine:
        with pytest.raises(TraceError, match="end it after its line breaks, or before a blank"):
            thought_prefixes(engine, PROMPTS, ["so", thought])
        return

    # ids(prefix) + ids(rest) = ids(prefix + rest), for words that were not tried.
    _, prefix = thought_prefixes(engine, PROMPTS, ["so", thought])
    rest = "x not" if prefix[-1].isspace() else " x not"
    encode = engine.tokenizer.encode
    assert encode(prefix) + encode(rest) == encode(prefix + rest)


def test_an_error_is_one_line_and_names_the_prompt(engine):
    for thought in ("So. ", "So.\n</think>\n\nFive."):
        with pytest.raises(TraceError, match=r"^prompt 2: ") as error:
            thought_prefixes(engine, PROMPTS, ["So.", thought])
        assert "\n" not in str(error.value)
    with pytest.raises(TraceError, match="each of the 2 prompts; got 1"):
        thought_prefixes(engine, PROMPTS, ["So."])


def test_an_endpoint_is_refused_in_one_line():
    endpoint = SimpleNamespace(name="far", tokenizer=None)
    with pytest.raises(TraceError, match="far: an endpoint cannot carry a prefix"):
        thought_prefixes(endpoint, PROMPTS, ["So.", ""])
    assert thought_prefixes(endpoint, PROMPTS, ["", ""]) == ["", ""]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.model)
@pytest.mark.parametrize("is_on", [True, False])
def test_families_of_models(monkeypatch, template, is_on):
    """With thinking on the prefix is what the family writes; after a closed thought it is refused."""
    rendered = template.on if is_on else template.off
    closing = template.close.strip().removeprefix("<|im_end|>\n<|im_start|>assistant")
    if not is_on and not (closing and (rendered or "").rstrip().endswith(closing)):
        pytest.skip("thinking cannot be switched off, or its prompt closes nothing")

    monkeypatch.setattr(
        prefix_module, "render_job", lambda *_: SimpleNamespace(text=rendered, ids=())
    )
    tokenizer = SimpleNamespace(
        chat_template=template.on + template.open + template.close + template.direct,
        name_or_path=template.model,
    )
    family = SimpleNamespace(name=template.model, tokenizer=tokenizer)
    if not is_on:
        with pytest.raises(TraceError, match="closes the thought"):
            thought_prefixes(family, PROMPTS[:1], ["So 2 + 2 = 5."])
        return

    (prefix,) = thought_prefixes(family, PROMPTS[:1], ["So 2 + 2 = 5."])
    assert prefix.endswith("So 2 + 2 = 5.")
    if not template.open.strip():
        assert prefix == "So 2 + 2 = 5."
