"""Which step a token belongs to: by hand, and as a law on three families of tokenizers."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import byte_tokenizer

from cotlens import Trace, segment_trace, split_trace, trace_table
from cotlens.formats.servers import starts_of_bytes
from cotlens.models.encode import encode_trace, locate_tokens
from cotlens.text.tokens import start_inside, token_places, token_ranges, word_starts

# --- by hand -------------------------------------------------------------------------------------

# What is spelled, where tokens begin, and where their words do. A line of tokens, | between them.
WORDS = {
    "Yes|.| Wait": ("Yes. Wait", [0, 3, 4], [0, 3, 5]),
    "white space alone": ("a \n b", [0, 1, 2, 3], [0, -1, -1, 4]),
    "white space alone at the end": ("a\n\n", [0, 1], [0, -1]),
    "nothing but white space": (" \t", [0], [-1]),
    "text of two steps: .\\n\\nSo": ("a.\n\nSo", [0, 1], [0, 1]),
    "several blanks before the word": ("a.   b", [0, 1, 2], [0, 1, 5]),
    "three tokens make 日": ("日", [0, 0, 0], [0, 0, 0]),
    "the blank is in the first of two tokens of 日": (". 日", [0, 1, 1], [0, 2, 2]),
    "the ideographic space is white space": ("。\u3000日", [0, 1], [0, 2]),
    "a combining mark is none": ("e\u0301", [0, 1], [0, 1]),
    "the zero width space is none": (" \u200bx", [0], [1]),
    "beyond the basic plane": ("🤔 🤔", [0, 1], [0, 2]),
    "the end token": ("Hi", [0, 2], [0, -1]),
    "no token": ("Hi", [], []),
    "no text": ("", [0, 0], [-1, -1]),
}


@pytest.mark.parametrize("name", WORDS)
def test_where_words_begin_by_hand(name):
    """Where there is no word, the token's start decides."""
    text, starts, expected = WORDS[name]
    words = word_starts(text, starts)
    assert words.tolist() == expected
    deciding = [start if word < 0 else word for start, word in zip(starts, expected, strict=True)]
    assert token_places(starts, words).tolist() == deciding


def test_white_space_is_what_the_steps_take_for_it():
    """All of Python's white space before an x is passed over; marks and joiners are not white space."""
    for point in [*range(0xD800), *range(0xE000, 0x110000)]:
        if chr(point).isspace():
            assert word_starts(chr(point) + "x", [0]).tolist() == [1]
    solid = "\u200b\u2060\ufeff\u180e\u0301\u00ad"
    assert word_starts(solid, range(len(solid))).tolist() == list(range(len(solid)))


def test_the_tokens_of_spans_by_hand():
    """Yes|.| Wait|.|\\n: the steps are `Yes. ` (0 to 5) and `Wait.\\n` (5 to 11)."""
    starts = [0, 3, 4, 9, 10]
    words = word_starts("Yes. Wait.\n", starts)
    assert token_ranges(starts, words, [(0, 5), (5, 11)]).tolist() == [[0, 2], [2, 5]]
    assert token_ranges(starts, words, []).tolist() == []


def test_steps_and_parts_of_a_trace_by_hand():
    """<think>|\\n|One|.| Two|.|\\n|</think>|\\n\\n|Three: ` Two` is the second step's, `\\n\\n` is in no part."""
    text = "<think>\nOne. Two.\n</think>\n\nThree"
    pieces = ["<think>", "\n", "One", ".", " Two", ".", "\n", "</think>", "\n\n", "Three"]
    starts = np.cumsum([0, *map(len, pieces)])[:-1].tolist()
    trace = Trace(id="a", completion=text, token_starts=tuple(starts))
    first, second = segment_trace(trace)
    assert [tuple(first.tokens), tuple(second.tokens)] == [(1, 4), (4, 7)]
    assert trace_table([trace])["n_think_tokens"].tolist() == [6]


def test_a_blank_before_the_tag_is_no_thinking():
    """<think>|One|.| </think>|Two: the blank lies in the thinking, the token's text does not."""
    trace = Trace(id="a", completion="<think>One. </think>Two", token_starts=(0, 7, 10, 11, 20))
    assert split_trace(trace).think[0].of(trace.completion) == "One. "
    assert [tuple(step.tokens) for step in segment_trace(trace)] == [(1, 3)]
    assert trace_table([trace])["n_think_tokens"].tolist() == [2]


def test_half_a_million_characters():
    text = " \n" * 250_000
    starts = range(len(text))
    words = word_starts(text + "x", starts)
    assert words.tolist() == [-1] * 499_999 + [500_000]


# --- three families of tokenizers ----------------------------------------------------------------

TRAINING = [
    "The sum is five. Wait, that is wrong. So it is six.",
    "日本 is Japan。そう、それは正しい。",
    "é naïve cafe\u0301 hmm! Is it right? Yes.",
    "hmm 🤔 hmm 🎉 hmm 👩 hmm 😀 hmm 😁 hmm 😂",
]

THINKING = {
    "English": "The sum is five. Wait, that is wrong.\n\nSo it is six! Is it right?  Yes.",
    "Chinese": "日本。そう、 それは正しい。 日本 is Japan. 日本?\n日本。",
    "emoji": "The sum is six. 🤔 Wait. 👩‍💻 is it right? 🎉🎉 Yes.\n🤔 So. 🚀 is it.",
    "combining marks": "It is a cafe\u0301. E\u0301te is wrong. So e\u0301. É is right.\nna\u0308ive.",
    "odd white space": "The sum is five.\u3000\u3000Wait.\u00a0So it is.\t\tYes.\r\n\r\n It is.",
    "unknown letters": "Ωmega is five. Ж is wrong. 𝔘 is six. ᚠ is it.",
}


def byte_level(**options):
    """As in GPT-2, Qwen and Llama 3: a blank is in the token of the word, an emoji is cut in two."""
    return [bytes_of_byte_level, byte_tokenizer(TRAINING, 420, **options)]


def byte_level_trimmed():
    """As in RoBERTa: offsets leave the blank out."""
    return byte_level(trim_offsets=True)


def byte_level_without_words():
    """Merges go over blanks and full stops, as in SuperBPE."""
    return byte_level(use_regex=False)


def sentence_piece():
    """As in Llama 2 and Gemma: ▁ for a blank, and bytes for letters that are not in the vocabulary."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(parts)
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<unk>", *alphabet], show_progress=False
    )
    tokenizer.train_from_iterator([TRAINING[0], "日本。 Is it right? Yes."], trainer)
    return [bytes_of_sentence_piece, PreTrainedTokenizerFast(tokenizer_object=tokenizer)]


def word_piece():
    """As in BERT: no blanks in tokens, ## inside words, accents stripped."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[UNK]"], show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    return [None, PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")]


FAMILIES = [byte_level, byte_level_trimmed, byte_level_without_words, sentence_piece, word_piece]


def bytes_of_byte_level(token):
    """The bytes that a token of byte-level BPE stands for."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable}
    byte_of |= {chr(256 + i): byte for i, byte in enumerate(others)}
    assert sorted(byte_of) == letters
    return bytes(byte_of[letter] for letter in token)


def bytes_of_sentence_piece(token):
    if token.startswith("<0x"):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()


def characters_of_bytes(pieces, text):
    """The characters of which each token holds at least a byte."""
    character_of = [i for i, character in enumerate(text) for _ in character.encode()]
    assert b"".join(pieces) == text.encode()
    places = []
    at = 0
    for piece in pieces:
        places.append(sorted(set(character_of[at : at + len(piece)])))
        at += len(piece)
    return places


def characters_of_tokens(family, text):
    """The characters that each token of a text holds, read off the tokenizer itself."""
    to_bytes, tokenizer = family
    encoding = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    tokens = tokenizer.convert_ids_to_tokens(encoding["input_ids"])
    if to_bytes is None:
        return [list(range(*offsets)) for offsets in encoding["offset_mapping"]]
    return characters_of_bytes([to_bytes(token) for token in tokens], text)


def decides(text, characters):
    """The rule in its own words."""
    solid = [place for place in characters if not text[place].isspace()]
    return (solid or characters)[0]


@pytest.mark.parametrize("thinking", THINKING)
@pytest.mark.parametrize("build", FAMILIES)
def test_every_token_is_in_the_step_of_its_first_character_that_is_no_white_space(build, thinking):
    """Each token is in one step or in none; the one with a step's first word is the step's first."""
    family = build()
    text = THINKING[thinking]
    completion = f"{text}</think>\n\nIt is six."
    trace = Trace(id="a", completion=completion)
    starts = encode_trace(trace, family[1]).token_starts
    trace = Trace(id="a", completion=completion, token_starts=starts)

    steps = segment_trace(trace)
    assert len(steps) >= 4
    held = characters_of_tokens(family, completion)
    assert len(held) == len(starts)

    owner = {}
    for step in steps:
        for token in range(*step.tokens):
            assert token not in owner
            owner[token] = step.index
    for token, characters in enumerate(held):
        place = decides(completion, characters)
        expected = [step.index for step in steps if step.chars.start <= place < step.chars.stop]
        assert [owner[token]] == expected if token in owner else not expected

    # The token of a step's first character is its first, unless it has text of the step before.
    for step in steps:
        token = next(i for i, place in enumerate(held) if step.chars.start in place)
        if decides(completion, held[token]) == step.chars.start:
            assert step.tokens.start == token
        else:
            assert owner[token] < step.index

    think = split_trace(trace).think[0]
    n_think = sum(think.start <= decides(completion, held_) < think.stop for held_ in held)
    assert trace_table([trace])["n_think_tokens"].tolist() == [n_think]


# The tokens that hold the first words of the steps of
# `The sum is five. Wait, that is wrong.\n\nSo it is six! Is it right?  Yes.`
FIRST = {
    byte_level: ["The", " Wait", "So", " Is", " Yes"],
    byte_level_trimmed: ["The", " Wait", "So", " Is", " Yes"],
    sentence_piece: ["The", " Wait,", "So", " Is", " Yes."],
    word_piece: ["The", " Wait", "\n\nSo", " Is", "  Yes"],
}


@pytest.mark.parametrize("build", FIRST)
def test_the_first_tokens_of_steps_by_hand(build):
    completion = THINKING["English"] + "</think>\n\nIt is six."
    trace = Trace(id="a", completion=completion)
    starts = encode_trace(trace, build()[1]).token_starts
    stops = [*starts[1:], len(completion)]
    steps = segment_trace(Trace(id="a", completion=completion, token_starts=starts))
    first_tokens = [step.tokens.start for step in steps]
    assert [completion[starts[i] : stops[i]] for i in first_tokens] == FIRST[build]


def test_a_blank_and_a_part_of_an_emoji_are_one_token_of_byte_level_bpe():
    """` 🚀` begins with the token ` \\xf0\\x9f`: it is not white space alone, and the emoji's."""
    to_bytes, tokenizer = byte_level()
    completion = "Yes. 🚀 Yes.</think>So"
    encoded = encode_trace(Trace(id="a", completion=completion), tokenizer)
    ids = [encoded.ids[place] for place in encoded.scored]  # without the tag put before them
    tokens = [to_bytes(token) for token in tokenizer.convert_ids_to_tokens(ids)]
    blank = next(i for i, token in enumerate(tokens) if token.startswith(b" \xf0"))
    assert tokens[blank] == b" \xf0\x9f"

    trace = Trace(id="a", completion=completion, token_starts=encoded.token_starts)
    assert segment_trace(trace)[1].tokens.start == blank


# --- tokens that hold parts of characters -----------------------------------------------------------

# Tokens as bytes; where each begins and the character that decides.
PARTS = {
    "a blank and a part": ([b".", b" \xe6", b"\x97\xa5"], [0, 1, 1], [0, 2, 2]),
    "a blank alone, then parts": ([b".", b" ", b"\xe6\x97", b"\xa5"], [0, 1, 2, 2], [0, 1, 2, 2]),
    "a blank and the first of four": (
        [b"\n\n", b" \xf0", b"\x9f", b"\xa4", b"\x94"],
        [0, 2, 2, 2, 2],
        [0, 3, 3, 3, 3],
    ),
    "a letter and a part": ([b"a\xe6", b"\x97", b"\xa5"], [0, 1, 1], [0, 1, 1]),
    "parts of two characters": ([b"\xe6\x97", b"\xa5\xe6", b"\x9c\xac"], [0, 0, 1], [0, 0, 1]),
    "the end of one, a blank, the start of the next": (
        [b"\xe6\x97", b"\xa5 \xe6", b"\x9c\xac"],
        [0, 0, 2],
        [0, 0, 2],
    ),
    "parts of white space": ([b".", b"\xe3\x80", b"\x80", b"x"], [0, 1, 1, 2], [0, 1, 1, 2]),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_characters_by_hand(name):
    pieces, starts, words = PARTS[name]
    text = b"".join(pieces).decode()
    assert starts_of_bytes(pieces, text) == starts
    assert token_places(starts, word_starts(text, starts)).tolist() == words
    held = characters_of_bytes(pieces, text)
    assert [decides(text, characters) for characters in held] == words


LETTERS = st.text(st.sampled_from("aé日🤔. \n\u0301"), min_size=1, max_size=12)


@given(LETTERS, st.lists(st.integers(1, 40)))
def test_any_cut_of_any_text_puts_tokens_where_the_rule_says(text, cuts):
    data = text.encode()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:stop] for start, stop in pairwise(places)]
    starts = starts_of_bytes(pieces, text)
    held = characters_of_bytes(pieces, text)
    expected = [decides(text, characters) for characters in held]
    assert token_places(starts, word_starts(text, starts)).tolist() == expected


@pytest.mark.parametrize("name", PARTS)
def test_ids_that_are_decoded_one_by_one_have_the_same_places(name):
    """A tokenizer of single bytes spells each piece; tokens of a piece are then taken together."""
    pieces, starts, _ = PARTS[name]
    text = b"".join(pieces).decode()
    tokenizer = OfPieces(pieces)
    trace = Trace(id="a", completion=text, token_ids=tuple(range(len(pieces))))
    assert list(locate_tokens(trace, tokenizer, skip=False)) == starts


class OfPieces:
    """A slow tokenizer whose tokens are given as bytes."""

    is_fast = False

    def __init__(self, pieces):
        self.pieces = pieces

    def decode(self, ids, skip_special_tokens):
        return b"".join(self.pieces[i] for i in ids).decode(errors="replace")


def test_a_shared_character_takes_the_white_space_before_it():
    assert start_inside(". 日", 1, 2) == 1
    assert start_inside("a日", 0, 1) == 1
    assert start_inside("日", 0, 0) == 0
