#!/bin/bash
# transformers 5.23.0, tokenizers 0.23.3 (CPython, no GPU).
#
# Expected: AutoTokenizer.from_pretrained(FOLDER) gives the tokenizer that save_pretrained wrote there. tokenizer.json
# names its model, pre-tokenizer and decoder, and tokenizer_config.json its class.
#
# Seen: if config.json says model_type qwen2 (or qwen3_5), Qwen2Tokenizer is loaded, and it puts its own pre-tokenizer and
# decoder in place of the file's. A byte-level tokenizer then gives other ids that decode to the same text, and a
# word-level one gives no ids at all. With model_type qwen3 or llama the same files load as they were saved.
#
# Why it matters: log-probs and entropies are of tokens that the model was not trained on, and no round trip of decoding
# shows it. Compare with tokenizers.Tokenizer.from_file, or load with PreTrainedTokenizerFast.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.23.0 tokenizers==0.23.3
cd "$folder"
HF_HUB_OFFLINE=1 venv/bin/python - 2>/dev/null <<'PYTHON'
import json
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

TEXT = "the cat 12345  two  spaces"
corpus = ["the cat sat on the mat 123 456 7890 .  two  spaces"] * 50

byte_level = Tokenizer(models.BPE())
byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
byte_level.decoder = decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
byte_level.train_from_iterator(
    corpus, trainers.BpeTrainer(vocab_size=400, special_tokens=["<eos>"], initial_alphabet=alphabet)
)

word_level = Tokenizer(models.WordLevel(unk_token="<unk>"))
word_level.pre_tokenizer = pre_tokenizers.Whitespace()
word_level.train_from_iterator(corpus, trainers.WordLevelTrainer(special_tokens=["<unk>", "<eos>"]))

seen = {}
for name, tokenizer in (("byte-level", byte_level), ("word-level", word_level)):
    for model_type in ("qwen2", "qwen3_5", "qwen3", "llama"):
        folder = f"{name}-{model_type}"
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)
        with open(f"{folder}/config.json", "w") as file:
            json.dump({"model_type": model_type}, file)

        saved_ids = Tokenizer.from_file(f"{folder}/tokenizer.json").encode(TEXT).ids
        loaded = AutoTokenizer.from_pretrained(folder)
        ids = loaded(TEXT, add_special_tokens=False)["input_ids"]
        is_text = loaded.decode(ids) == TEXT
        seen[folder] = (ids == saved_ids, len(ids), is_text)
        print(f"{folder}: {type(loaded).__name__}, {len(saved_ids)} ids saved, {len(ids)} loaded, "
              f"same ids: {ids == saved_ids}, decodes to the text: {is_text}")

as_seen = all(
    seen[f"{name}-{kind}"][0] == (kind in ("qwen3", "llama"))
    for name in ("byte-level", "word-level")
    for kind in ("qwen2", "qwen3_5", "qwen3", "llama")
)
as_seen = as_seen and seen["byte-level-qwen2"][2] and seen["word-level-qwen2"][1] == 0
sys.exit(0 if as_seen else 1)
PYTHON
