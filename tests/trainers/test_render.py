"""Prompts and completions as the model reads and writes them, and what of them is learned."""

import pytest
from tiny import tiny_tokenizer

pytest.importorskip("trl", reason="the trainers need the extra `train`")

from trainers import sft
from trainers.render import encode, fit_completion, render_prompt
from trainers.rows import check_tokenizer

# A template that opens the thought, as that of R1's distills does.
OPENING = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> <think> {% endif %}"
)


def test_the_mask_is_the_completion_and_its_end():
    tokenizer = tiny_tokenizer()
    prompt = render_prompt(tokenizer, "one two")
    encoded = encode(tokenizer, prompt, "<think> wait </think> three")

    words = tokenizer.convert_ids_to_tokens(encoded.input_ids)
    learned = [word for word, label in zip(words, encoded.labels, strict=True) if label != -100]
    assert words[:4] == ["<|user|>", "one", "two", "<|assistant|>"]
    assert words[4:] == ["<think>", "wait", "</think>", "three", "<eos>"]
    assert learned == words[4:]


def test_a_thought_that_the_template_opens_is_not_opened_twice():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = OPENING
    (row,) = sft.prepare(tokenizer, [{"prompt": "one", "completion": "<think> wait </think> two"}])
    assert row == {
        "prompt": "<|user|> one <|assistant|> <think> ",
        "completion": " wait </think> two",
    }


@pytest.mark.parametrize(
    ("prompt", "completion", "expected"),
    [
        ("<|assistant|><think>\n", "<think>\nso </think> a", "so </think> a"),
        ("<|assistant|>", "<think>\nso </think> a", "<think>\nso </think> a"),
        ("<|assistant|>", "so </think> a", "<think>\nso </think> a"),
        ("<|assistant|>", "no thought", "no thought"),
    ],
)
def test_prompt_and_completion_open_the_thought_once(prompt, completion, expected):
    assert fit_completion(prompt, completion) == expected


def test_a_template_that_deletes_thoughts_deletes_none_that_is_learned():
    """The template of R1's distills drops the text before `</think>` in assistant turns."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = OPENING.replace(
        "message['content']", "message['content'].split('</think>')[-1]"
    )
    conversation = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "hmm </think> two"},
        {"role": "user", "content": "three"},
    ]
    (row,) = sft.prepare(
        tokenizer, [{"prompt": conversation, "completion": "<think> wait </think> four"}]
    )
    encoded = encode(tokenizer, **row)

    # The earlier turn lacks its thought, as it does when the model is used.
    assert "hmm" not in tokenizer.decode(encoded.input_ids)
    learned = [label for label in encoded.labels if label != -100]
    assert tokenizer.decode(learned) == "wait </think> four <eos>"


def test_a_beginning_token_is_not_doubled():
    """The template writes it and the tokenizer adds it, as those of the Llama distills do."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    tokenizer.chat_template = "<bos>" + tokenizer.chat_template
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )

    assert tokenizer("<bos>one")["input_ids"][:2] == [bos, bos]
    check_tokenizer(tokenizer)
    assert tokenizer(render_prompt(tokenizer, "one"))["input_ids"].count(bos) == 1
