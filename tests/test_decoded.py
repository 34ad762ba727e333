"""Small files that decode to gigabytes: refused, or read a row at a time, in little memory."""

import gzip
import json
import random
import subprocess
import sys
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cotlens import TraceError, read_traces
from cotlens.decoded import is_too_much, repeating, row_bytes
from cotlens.files import open_parquet, read_parquet
from cotlens.footer import Column, read_columns

MB = 2**20
# cotlens and its imports take 100 MB; what may be decoded at once takes 256.
MOST_MB = 1000
PROGRAM = """
import atexit, resource, sys
from cotlens.cli import main
def peak():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(line.split()[1])
atexit.register(peak)
resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
main()
"""


def analyze(path, run):
    """The command, with an address space of 8 GB: its fault, and the most memory it took in MB."""
    command = [sys.executable, "-c", PROGRAM, "analyze", str(path), "-o", str(run)]
    done = subprocess.run(command, capture_output=True, text=True)
    fault = done.stderr.strip().splitlines()[-1] if done.returncode else ""
    return fault, int(done.stdout.split()[-1]) / 1000


def repeated(n, size):
    """A column of the same text, stored once."""
    indices = pa.array([0] * n, pa.int32())
    return pa.DictionaryArray.from_arrays(indices, pa.array(["a" * size]))


def write_gzip(path, first, piece, n):
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(first)
        for _ in range(n):
            file.write(piece)


def long_texts(folder):
    """256 rows of one text of 40 MB: 10 GB from 2 kB."""
    pq.write_table(pa.table({"completion": repeated(256, 40 * MB)}), folder / "rows.parquet")
    return (
        folder / "rows.parquet",
        "the row has 40 MiB, more than the 32 MiB allowed (--max-line-mb)",
    )


def ids(folder):
    """A list of seventy million zeros: 280 MB from 1 kB."""
    zeros = pa.array(np.zeros(7 * 10**7, np.int32))
    lists = pa.ListArray.from_arrays(pa.array([0, 7 * 10**7], pa.int32()), zeros)
    table = pa.table({"completion": ["x"], "token_ids": lists})
    pq.write_table(table, folder / "ids.parquet")
    return folder / "ids.parquet", "group 1 of its rows would take 267 MiB in memory"


def dataset(folder):
    """A compressed batch of blank texts in a dataset: 300 MB from 10 kB."""
    table = pa.table({"completion": [" " * MB] * 300})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        pa.OSFile(str(folder / "data.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema, options=options) as stream,
    ):
        stream.write_table(table)
    state = {"_data_files": [{"filename": "data.arrow"}]}
    (folder / "state.json").write_text(json.dumps(state))
    return folder, "a batch of its rows would take 300 MiB in memory"


def array(folder):
    """An array whose only text never ends: 100 MB from 100 kB."""
    write_gzip(folder / "a.json.gz", b'[{"completion": "', b"a" * MB, 100)
    return folder / "a.json.gz", "element 1: it has more than the 32 MiB allowed (--max-line-mb)"


def conversation(folder):
    """An array of messages, which are one conversation: 280 MB."""
    message = json.dumps({"role": "user", "content": "a" * MB}).encode()
    write_gzip(folder / "a.json.gz", b"[" + message, b"," + message, 280)
    return folder / "a.json.gz", "of which it has more than 256 MiB; split it"


def log(folder):
    with zipfile.ZipFile(folder / "log.eval", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("header.json", "{}")
        file.writestr("samples/1_epoch_1.json", " " * 300 * MB)
    return folder / "log.eval", "would take 300 MiB in memory"


@pytest.mark.skipif(sys.platform != "linux", reason="the most memory stands in /proc")
@pytest.mark.parametrize("make", [long_texts, ids, dataset, array, conversation, log])
def test_what_decodes_to_too_much_is_one_line_and_little_memory(tmp_path, make):
    (tmp_path / "in").mkdir()
    path, expected = make(tmp_path / "in")
    fault, most = analyze(path, tmp_path / "run")
    assert fault.startswith("cotlens: ")
    assert expected in fault
    assert most < MOST_MB


def test_an_array_is_read_an_element_at_a_time(tmp_path):
    """300 MB of texts, of which one is in memory; numbers and blanks lie across its pieces."""
    row = json.dumps({"completion": "a" * MB}).encode()
    write_gzip(tmp_path / "a.json.gz", b" [" + row, b" , \n" + row, 300)
    with gzip.open(tmp_path / "a.json.gz", "ab") as file:
        file.write(b" ] \n")
    assert sum(1 for _ in read_traces(tmp_path / "a.json.gz")) == 301


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[{"completion": "a"}', "expected , or ], got the end of the file"),
        ('[{"completion": "a"} {}]', "expected , or ], got {"),
        ('[{"completion": "a"},]', "element 2: Expecting value"),
        ('[{"completion": "a"}] x', "there is text after its end"),
        ('[{"completion": "a}]', "element 1: Unterminated string"),
        ("[[", "element 1"),
    ],
)
def test_faults_of_arrays(tmp_path, text, fault):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="begins as a JSON array but is not valid JSON") as error:
        list(read_traces(path))
    assert fault in str(error.value)


# --- the footer --------------------------------------------------------------------------------


def test_columns_are_those_that_arrow_names(tmp_path):
    """Two groups of rows; each physical type, null, nested columns. A dictionary of one letter: 4 + 1."""
    columns = {
        "flag": [True, False, None],
        "i": pa.array([1, 2, 3], pa.int32()),
        "j": pa.array([1, None, 3], pa.int64()),
        "f": pa.array([1, 2, 3], pa.float32()),
        "d": [0.5, None, 1.5],
        "text": ["a", "a", "b"],
        "fixed": pa.array([b"ab"] * 3, pa.binary(2)),
        "messages": [[{"role": "user", "content": "q"}] * 20] * 3,
        "map": pa.array([[("k", 1)]] * 3, pa.map_(pa.string(), pa.int64())),
    }
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=2, use_dictionary=["text"])
    metadata = pq.read_metadata(path)
    expected = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = [group.column(at) for at in range(group.num_columns)]
        expected.append(
            [
                Column(
                    chunk.path_in_schema,
                    chunk.physical_type,
                    chunk.num_values,
                    chunk.total_compressed_size,
                    chunk.total_uncompressed_size,
                    5 if chunk.path_in_schema == "text" else 0,
                )
                for chunk in chunks
            ]
        )
    assert len(expected) == 2
    assert read_columns(path) == expected


def test_any_bit_of_a_foreign_file_may_be_flipped(tmp_path):
    """A fault or rows come out; without its own reader of footers, Arrow ended the process."""
    rows = [{"id": str(i), "prompt": "q", "completion": f"<think>a</think>{i}"} for i in range(20)]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd", write_page_checksum=True)
    content = path.read_bytes()
    numbers = random.Random(0)
    n_refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        damaged[numbers.randrange(len(content))] ^= 1 << numbers.randrange(8)
        path.write_bytes(damaged)
        try:
            list(read_traces(path))
        except TraceError:
            n_refused += 1
    assert n_refused > 100


# --- what is measured --------------------------------------------------------------------------


def test_bytes_of_a_row_are_those_of_its_values():
    """Letters of texts wherever they stand, 4 or 8 a number, nothing for null."""
    columns = {
        "text": (["x", "yy", None], [1, 2, 0]),
        "repeated": (pa.array(["u", "vvv", None]).dictionary_encode(), [1, 3, 0]),
        "list": (pa.array([["p", "qq"], None, ["p"]]), [3, 0, 1]),
        "ids": (pa.array([[1, 2], [], [3]], pa.list_(pa.int32())), [8, 0, 4]),
        "map": (pa.array([[("k", "v")], [], None], pa.map_(pa.string(), pa.string())), [2, 0, 0]),
        "struct": (pa.array([{"a": "xx", "b": 1.0}] * 3), [10, 10, 10]),
        "pairs": (pa.array([[1, 2]] * 3, pa.list_(pa.int64(), 2)), [16, 16, 16]),
        "view": (pa.array(["a", "b" * 50, None], pa.string_view()), [1, 50, 0]),
        "null": (pa.nulls(3), [0, 0, 0]),
    }
    for name, (values, expected) in columns.items():
        (batch,) = pa.table({name: values}).to_batches()
        assert row_bytes(batch).tolist() == expected, name
        assert row_bytes(batch.slice(1, 2)).tolist() == expected[1:], name


def test_texts_that_repeat_are_read_as_they_are(tmp_path):
    """A thousand rows of one text of 1 MB: read as a dictionary, and equal in type and content."""
    table = pa.table({"text": [["a" * MB], ["b"]] * 500, "n": range(1000)})
    path = tmp_path / "t.parquet"
    pq.write_table(table, path, dictionary_pagesize_limit=2 * MB)
    groups = read_columns(path)
    assert repeating(groups, 256, 2**28) == ["text.list.element"]
    with open_parquet(path, 256) as file:
        assert file.read().nbytes < 10 * MB
    with pytest.raises(ValueError, match="its rows would take 500 MiB in memory"):
        read_parquet(path)

    # Fewer of them are no danger.
    pq.write_table(table.slice(0, 400), path, dictionary_pagesize_limit=2 * MB)
    assert read_parquet(path).equals(table.slice(0, 400))


def test_what_is_large_on_disk_is_read():
    """Twice the limit from a hundredth of its size, and the limit from one byte."""
    assert not is_too_much(2**29, 2**29 // 100 + 1)
    assert is_too_much(2**29, 2**29 // 101)
    assert not is_too_much(2**28, 1)
