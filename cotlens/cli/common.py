"""What commands share: options, the progress bar, remarks on stderr."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from tqdm import tqdm
from typer import Argument, BadParameter, Option, echo

from cotlens.shown import printable

RunArgument = Annotated[Path, Argument(help="Run directory made by `cotlens analyze`.")]

# What to read and how.
FormatOption = Annotated[
    str | None, Option(help="Format of the rows; by default detected from the content.")
]
TokenizerOption = Annotated[
    str, Option(help="Folder or Hub repository; decodes rows of token ids without text.")
]
MethodOption = Annotated[
    str, Option(help="Name of the checkpoint or training arm, for traces without one.")
]
OnErrorOption = Annotated[
    Literal["stop", "skip"],
    Option(help="Stop at a trace that cannot be read or scored, or skip it."),
]

# Which model, and how to run it.
ModelOption = Annotated[str, Option(help="Folder or Hub repository of the model.")]
RevisionOption = Annotated[str | None, Option(help="Branch, tag or commit of the model.")]
DeviceOption = Annotated[
    str, Option(help="cpu, cuda, cuda:1, ...; by default a GPU, if there is one.")
]
DtypeOption = Annotated[str, Option(help="auto (the checkpoint's), float32, bfloat16 or float16.")]
BatchOption = Annotated[int | None, Option(min=1, help="Padded tokens per batch.")]
NameOption = Annotated[
    str, Option(help="Folder of the results; by default the last part of the model's name.")
]

# How text is drawn.
TemperatureOption = Annotated[float, Option(min=0, help="Sampling temperature; 0 is greedy.")]
TopPOption = Annotated[
    float, Option(min=0, max=1, help="Nucleus sampling: probability mass to sample from.")
]
MaxNewTokensOption = Annotated[int, Option(min=1, help="Most tokens per completion.")]
SeedOption = Annotated[int, Option(help="Random seed.")]
TemplateArgsOption = Annotated[
    str,
    Option(metavar="JSON", help="Variables of the chat template: '{\"enable_thinking\": true}'."),
]

# Which scores and verdicts.
ScorerOption = Annotated[
    str, Option(help="Model whose token scores to show, if several scored a run.")
]
JudgeOption = Annotated[
    str, Option(help="Judge whose verdicts to show; by default the first by name.")
]

ForceOption = Annotated[bool, Option("--force", help="Replace what exists already.")]


@contextmanager
def progress_bar(command: str, unit: str, **options: Any) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr; yield the function that advances it.

    Further options are those of tqdm, such as `total`.
    """
    bar = tqdm(
        desc=command,
        unit=f" {unit}",
        smoothing=0.1,
        **options,
    )

    def advance(n: int) -> None:
        bar.update(n)

    # The bar is left standing when the block ends, also by an error.
    with bar:
        yield advance


def with_stdin(paths: list[Path]) -> list[Path]:
    """The paths, with a temporary file of what comes in on stdin in the place of `-`.

    Raises:
        BadParameter: if `-` is there twice.
    """
    if paths.count(Path("-")) > 1:
        raise BadParameter("- stands for stdin, which can be read once")

    from cotlens.formats.stdin import spool_stdin

    return [spool_stdin() if path == Path("-") else path for path in paths]


def show(text: object) -> None:
    """Print a line of the result on stdout; what a terminal would obey is written as an escape."""
    echo(printable(text))


def remark(text: str) -> None:
    """Print a line on stderr, apart from the results on stdout; as `show`."""
    echo(printable(text), err=True)


def parse_template_args(text: str) -> dict[str, Any]:
    """The variables of a chat template in the text of its option.

    Raises:
        BadParameter: if it is not a JSON object.
    """
    try:
        variables = json.loads(text)
    except ValueError as error:
        raise BadParameter(f"not valid JSON: {error}", param_hint="--template-args") from None

    if not isinstance(variables, dict):
        raise BadParameter(f"expected a JSON object, got {text}", param_hint="--template-args")
    return variables
