"""Speed and memory of the text side, as ratios in one run: `make bench`.

1. `segment` against the sentence splitters a user would pick, on the same real text, one core,
   process time.
2. Where their units begin against where people's begin (ReasoningFlow), to the first character that
   is no space.
3. Counting the words of a list against one regular expression a word, as scripts do it.
4. The whole path (read, split, segment, reflect, tables) on 1,000, 10,000 and 100,000 traces: MB/s
   and peak memory, each in a separate process.

The text is traces/reasoning of the shared data (set COTLENS_DATA); without it, the project's own
samples repeated.
"""

import gzip
import itertools
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from cotlens import analyze
from cotlens.detect.words import WORD_LISTS, count_words
from cotlens.text.steps import segment

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("COTLENS_DATA", ROOT.parent / "shared" / "data"))
PEER_BYTES = 400_000  # pysbd needs about ten seconds for this


def rows() -> list[dict]:
    """Real traces, or the samples where there are none."""
    path = DATA / "traces" / "reasoning.jsonl.gz"
    if path.exists():
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    print(f"no real traces at {path}: using the project's samples")
    lines = (
        (ROOT / "figures" / "data" / "sample_traces.jsonl").read_text(encoding="utf-8").splitlines()
    )
    return [json.loads(line) for line in lines] * 100


def texts_of(rows: list[dict]) -> Iterator[str]:
    """The texts that a splitter would see."""
    for row in rows:
        yield row.get("raw") or row.get("completion") or row["thinking"]


def splitters() -> dict[str, Callable[[str], object]]:
    """Each peer as its documentation shows it, with character offsets where it offers them."""
    import blingfire
    import nltk.tokenize.punkt
    import pysbd
    import syntok.segmenter

    punkt = nltk.tokenize.punkt.PunktSentenceTokenizer()
    spans = pysbd.Segmenter(language="en", clean=False, char_span=True)
    return {
        "cotlens segment": segment,
        f"blingfire {version('blingfire')}, offsets": blingfire.text_to_sentences_and_offsets,
        f"blingfire {version('blingfire')}, no offsets": blingfire.text_to_sentences,
        f"nltk punkt {version('nltk')}": lambda text: list(punkt.span_tokenize(text)),
        f"syntok {version('syntok')}": lambda text: [
            list(part) for paragraph in syntok.segmenter.analyze(text) for part in paragraph
        ],
        f"pysbd {version('pysbd')}": spans.segment,
    }


def measure_splitters(texts: list[str]) -> None:
    """Prints MB/s of every splitter and its ratio to ours."""
    total, chosen = 0, []
    for text in texts:
        chosen.append(text)
        total += len(text.encode())
        if total > PEER_BYTES:
            break
    speeds = {}
    for name, splitter in splitters().items():
        seconds = min(_seconds(splitter, chosen) for _ in range(1 if "pysbd" in name else 3))
        speeds[name] = total / 1e6 / seconds
    print(
        f"\n| splitter ({total / 1e6:.2f} MB of real traces, 1 core) | MB/s | cotlens is faster by "
        "|\n|---|---|---|"
    )
    for name, speed in speeds.items():
        print(f"| {name} | {speed:.2f} | {speeds['cotlens segment'] / speed:.1f} x |")


def _seconds(splitter: Callable[[str], object], texts: list[str]) -> float:
    start = time.process_time()
    for text in texts:
        splitter(text)
    return time.process_time() - start


def measure_boundaries() -> None:
    """Prints precision, recall and F1 of where units begin.

    Every splitter that gives offsets is measured.
    """
    path = DATA / "labels" / "reasoningflow_human.jsonl.gz"
    if not path.exists():
        print(f"no labels at {path}: boundaries are not compared")
        return
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    print(
        f"\n| splitter ({len(rows)} documents, labelled by people) | precision | recall | F1 "
        "|\n|---|---|---|---|"
    )
    for name, splitter in splitters().items():
        both = found = gold = 0
        for row in rows:
            text = row["response"]
            wanted = _content_starts(text, [span[1] for span in row["spans"] if span[4] == "r"])
            try:
                starts = _content_starts(text, _starts(splitter(text)))
            except (TypeError, AttributeError):
                break  # gives sentences without their place
            both, found, gold = both + len(wanted & starts), found + len(starts), gold + len(wanted)
        else:
            precision, recall = both / found, both / gold
            print(f"| {name} | {precision:.3f} | {recall:.3f} | {2 * both / (found + gold):.3f} |")


def _starts(units: object) -> list[int]:
    """First characters of the units, in whichever way the splitter gives them."""
    if isinstance(units, tuple):  # blingfire: (text, offsets)
        return [start for start, _ in units[1]]
    return [unit[0] if isinstance(unit, tuple) else unit.start for unit in units]  # type: ignore[attr-defined]


def _content_starts(text: str, starts: list[int]) -> set[int]:
    return {start + len(text[start:]) - len(text[start:].lstrip()) for start in starts}


def measure_counting(texts: list[str]) -> None:
    """Prints MB/s of counting the sixteen markers."""
    size = sum(len(text.encode()) for text in texts) / 1e6
    patterns = [re.compile(rf"\b{re.escape(word)}\b") for word in WORD_LISTS["markers16"]]
    ways = {
        "cotlens count_words": lambda text: count_words(text, "markers16"),
        "one expression a word": lambda text: sum(
            len(pattern.findall(text)) for pattern in patterns
        ),
        "str.count a word, no boundaries": lambda text: sum(
            text.count(word) for word in WORD_LISTS["markers16"]
        ),
    }
    speeds = {
        name: size / min(_seconds(way, texts) for _ in range(3)) for name, way in ways.items()
    }
    print(
        f"\n| counting {len(patterns)} words in {size:.1f} MB, 1 core | MB/s | cotlens is faster "
        "by |\n|---|---|---|"
    )
    for name, speed in speeds.items():
        print(f"| {name} | {speed:.1f} | {speeds['cotlens count_words'] / speed:.1f} x |")


def measure_path(rows: list[dict]) -> None:
    """Prints speed and peak memory of the whole path for three sizes of corpus."""
    print("\n| traces | MB | MB/s (1 process) | peak memory, MB |\n|---|---|---|---|")
    for n in (1_000, 10_000, 100_000):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "traces.jsonl"
            with path.open("w", encoding="utf-8") as file:
                for i, row in enumerate(itertools.islice(itertools.cycle(rows), n)):
                    file.write(json.dumps(row | {"id": i}, ensure_ascii=False) + "\n")
            command = [sys.executable, __file__, "--path", str(path), folder + "/run"]
            seconds, peak = map(
                float,
                subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(),
            )
            size = path.stat().st_size / 1e6
            print(f"| {n:,} | {size:.0f} | {size / seconds:.1f} | {peak / 1024:.0f} |", flush=True)


if __name__ == "__main__":
    if "--path" in sys.argv:
        begin = time.perf_counter()
        analyze([sys.argv[-2]], sys.argv[-1])
        print(time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    else:
        real = rows()
        measure_splitters(list(texts_of(real)))
        measure_boundaries()
        measure_counting(list(texts_of(real)))
        measure_path(real)
