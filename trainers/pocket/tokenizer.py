"""The tokenizer of the pocket world: one token a word, over a closed vocabulary.

Other words of the language are unknown to it, so it reads only texts of the world.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trainers.pocket import wording
from trainers.pocket.wording import PIVOTS
from trainers.pocket.writer import Completion

PAD = "<pad>"
UNKNOWN = "<unk>"
EOS = "<eos>"
USER = "<user>"
ASSISTANT = "<assistant>"
TAGS = ("<think>", "</think>")
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<user>{{ message['content'] }}"
    "{% else %}<assistant>"
    "{% generation %}{{ message['content'] }}<eos>{% endgeneration %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)

# A piece is a word or number with the space before it, a line break, or any other character.
_PIECE = r" ?[A-Za-z']+| ?[0-9]+| ?[+\-]|\n\n|\n|[^A-Za-z'0-9+\-\n]"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of every word of the world; a space belongs to the word after it.

    `decode(encode(text)) == text` for every text of the world. Other words are `<unk>`.
    """
    pieces: set[str] = set()
    for text in _vocabulary_texts():
        pieces.update(re.findall(_PIECE, text))
        pieces.update(re.findall(_PIECE, f" {text}"))

    # Ids in a fixed order: special tokens and tags first, then the words.
    special = (PAD, UNKNOWN, EOS, USER, ASSISTANT)
    words = dict.fromkeys((*special, *TAGS, *PIVOTS, "\n", "\n\n", *sorted(pieces)))
    id_of = {word: number for number, word in enumerate(words)}

    raw = Tokenizer(models.WordLevel(id_of, unk_token=UNKNOWN))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECE), "isolated")
    raw.decoder = decoders.Fuse()

    # Tags and pivots are ordinary tokens, so decoding without special tokens keeps them.
    special_tokens = [AddedToken(name, special=True) for name in special]
    tag_tokens = [AddedToken(tag, special=False, normalized=False) for tag in (*TAGS, *PIVOTS)]
    raw.add_special_tokens(special_tokens)
    raw.add_tokens(tag_tokens)

    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=EOS,
        padding_side="left",
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _vocabulary_texts() -> Iterator[str]:
    """Texts that together have every word of the world."""
    yield ""

    # What fills slots.
    for topic in wording.TOPICS:
        yield topic
        yield topic.capitalize()
    yield from (*wording.MAKE_VERBS, *wording.CARE_VERBS)
    yield from (*wording.MATERIALS, *wording.QUALITIES)
    yield from (*wording.OPERATIONS, "+", "-")
    for number in range(wording.LARGEST + 1):
        yield str(number)

    # Sentences without their slots.
    sentences = [*wording.REQUESTS, *wording.FACT_REQUESTS, *wording.SUMS]
    sentences += [wording.PUZZLE, wording.REWRITE, *wording.STEERINGS.values()]
    for table in (wording.PLAIN, wording.FORMAL, wording.WRAPPINGS):
        for texts in table.values():
            sentences += texts
    for sentence in sentences:
        yield re.sub(r"\{\w+\}", "", sentence)


class Encoded(NamedTuple):
    """Token ids of one conversation, of which the first `n_prompt` are its prompt."""

    ids: list[int]
    n_prompt: int


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """Ids of a user turn, up to where the assistant begins."""
    messages = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(
        messages,
        add_generation_prompt=True,
        return_dict=False,
    )


def encode_completion(tokenizer: Any, completion: Completion) -> Encoded:
    """Ids of a prompt and its completion, with the end token."""
    prompt_ids = encode_prompt(tokenizer, completion.prompt.text)
    completion_ids = tokenizer.encode(completion.text, add_special_tokens=False)
    end_id = tokenizer.eos_token_id
    return Encoded(
        ids=[*prompt_ids, *completion_ids, end_id],
        n_prompt=len(prompt_ids),
    )
