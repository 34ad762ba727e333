"""Files of prompts: every container holds the same ones, and ids are the same for every model."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq

from cotlens.formats.prompts import read_prompts

ROWS = [
    {"id": "a", "prompt": "one", "domain": "math", "gold": 2, "level": 3},
    {"id": "b", "prompt": "one two three four five", "domain": "safety", "split": "seen"},
    {"id": "c", "prompt": "wait so three"},
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path):
    """The prompts of a file, without their places in it."""
    return [prompt._replace(place="") for prompt in read_prompts(path)]


def test_containers_hold_the_same_prompts(tmp_path):
    """Fields that a table gives to every row are gaps where a row has none."""
    path = write(tmp_path / "p.jsonl", ROWS)
    (tmp_path / "p.json").write_text(json.dumps(ROWS))
    with gzip.open(tmp_path / "p.jsonl.gz", "wb") as file:
        file.write(path.read_bytes())
    gaps = dict.fromkeys(ROWS[0] | ROWS[1])
    table = pa.Table.from_pylist([gaps | row for row in ROWS])
    pq.write_table(table, tmp_path / "p.parquet")

    expected = read(path)
    assert len(expected) == 3
    for name in ("p.json", "p.jsonl.gz", "p.parquet"):
        assert read(tmp_path / name) == expected, name


def test_ids(tmp_path):
    """Without an id it is the hash of the messages; a prompt id may be shared."""

    def parse(row):
        (prompt,) = read(write(tmp_path / "p.jsonl", [row]))
        return prompt

    as_messages = {"prompt": [{"role": "user", "content": "one"}], "gold": 1}
    assert parse({"prompt": "one"}).id == parse(as_messages).id
    shared = parse({"prompt": "one", "id": 1, "prompt_id": "p"})
    assert (shared.id, shared.fields["prompt_id"]) == ("1", "p")
    assert parse({"prompt": "one", "prompt_id": "p"}).id == "p"
    assert parse({"prompt": "one", "answer": float("nan"), "domain": None}).fields["gold"] == ""
