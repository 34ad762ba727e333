"""What do the commands that build rows from own samples share? Options, a bar, the file of rows."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from trainers.methods.selfgen import Built
from trainers.render import bracket, encode, fit_completion, render_prompt
from trainers.rows import check_lengths, write_rows

N_SHOWN = 4  # prompts of a dry run


def add_common(
    parser: argparse.ArgumentParser, *, temperature: float, top_p: float, max_new_tokens: int
) -> None:
    """Adds the options of every such command, with a method's defaults."""
    add = parser.add_argument
    add("--model", required=True, help="the student: a folder, or a repository of the Hub")
    add("-o", "--out", help="file of rows (JSONL); it must not exist")
    add("--temperature", type=float, default=temperature)
    add("--top_p", type=float, default=top_p)
    add("--max_new_tokens", type=int, default=max_new_tokens)
    add("--seed", type=int, default=0)
    add(
        "--dry_run",
        choices=("true", "false"),
        default="false",
        help=f"show the rows of {N_SHOWN} prompts, write no file",
    )


def check_out(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Path | None:
    """The file of rows, None in a dry run; ends the program if it is missing or there already."""
    if options.dry_run == "true":
        return None

    # Samples are expensive: a mistake in the name must not cost them.
    if not options.out:
        parser.error("name the file of rows, -o ROWS.jsonl, or look first, --dry_run true")
    path = Path(options.out)
    if path.exists():
        parser.error(f"{path} is there already; name another file, or remove it")
    return path


def shorten(prompts: list[Any], options: argparse.Namespace) -> list[Any]:
    """The prompts, or the first few for a dry run."""
    return prompts[:N_SHOWN] if options.dry_run == "true" else prompts


@contextmanager
def bar(name: str, n_samples: int) -> Iterator[Callable[[int], None]]:
    """A progress bar over samples; it takes the number of samples since the last call."""
    with tqdm(total=n_samples, desc=name, unit=" samples") as shown:

        def advance(n_new: int) -> None:
            shown.update(n_new)

        yield advance


def finish(built: Built, tokenizer: PreTrainedTokenizerBase, out: Path | None) -> None:
    """Prints what was built, and writes the rows unless it is a dry run.

    Raises:
        SystemExit: if there are no rows.
    """
    print(describe(built, tokenizer))
    if out is None:
        return
    write_rows(out, built.rows)


def describe(built: Built, tokenizer: PreTrainedTokenizerBase) -> str:
    """Counts, acceptance by domain, lengths, and the first row with what is learned in [[ ]]."""
    lines = []
    for name, number in built.counts.items():
        lines.append(f"{name}: {number}")

    # What became of the samples of each domain.
    for domain, numbers in built.acceptance.items():
        counts = []
        for name, number in numbers._asdict().items():
            counts.append(f"{name} {number}")
        label = domain or "all"
        listed = ", ".join(counts)
        lines.append(f"{label}: {listed}; acceptance {numbers.share:.3f}")
    if not built.rows:
        lines.append("no rows")
        return "\n".join(lines)

    # How long the rows are, and how the first one looks.
    rendered = _rendered(built.rows, tokenizer)
    lengths = []
    for prompt, completion in rendered:
        encoded = encode(tokenizer, prompt, completion)
        lengths.append(len(encoded.input_ids))
    report = check_lengths(lengths, None, "prompt and completion")

    prompt, completion = rendered[0]
    learned = bracket(completion, str(tokenizer.eos_token))
    first = f"first row, what is learned in [[ ]]:\n{prompt}{learned}"
    return "\n".join([*lines, report, first])


def _rendered(
    rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[str, str]]:
    """Prompt and completion of each row as they are trained on."""
    texts = []
    for row in rows:
        prompt = render_prompt(tokenizer, row["prompt"])
        completion = fit_completion(prompt, row["completion"])
        texts.append((prompt, completion))
    return texts
