"""The base model of the pocket world: its tokenizer, its training from nothing, and samples of it.

Last room of the pocket world: `policy <- base`. A Qwen3 of 0.6 million weights learns the base policy's traces in
minutes on one CPU core, in plain PyTorch. The data are a function of seed and step, so a killed job goes on from
its last checkpoint to the same weights.
"""

import json
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from cotlens.files import write_atomic
from cotlens.trace import Trace
from trainers.pocket import wording
from trainers.pocket.policy import Completion, base_corpus
from trainers.pocket.world import EVALUATION, Prompt, build_prompts

PAD, UNKNOWN, EOS, USER, ASSISTANT = "<pad>", "<unk>", "<eos>", "<user>", "<assistant>"
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<user>{{ message['content'] }}"
    "{% else %}<assistant>{% generation %}{{ message['content'] }}<eos>{% endgeneration %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
IGNORED = -100  # label of a token without loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Size of the model and of its training.

    Attributes:
        rows, length: a step reads `rows` packed rows of `length` tokens.
        learning_rate: the highest, after a linear rise over a twentieth of the steps; a cosine then takes it to 0.
    """

    hidden: int = 128
    intermediate: int = 512
    layers: int = 2
    heads: int = 4
    steps: int = 3200
    rows: int = 6
    length: int = 160
    learning_rate: float = 5e-3
    weight_decay: float = 0.05


POCKET = Scale()
TINY = Scale(hidden=32, intermediate=64, layers=2, heads=2, steps=30, rows=4)  # for tests
# --- tokenizer -------------------------------------------------------------------------------------------------
_PIECE = r" ?[A-Za-z']+| ?[0-9]+| ?[+\-]|\n\n|\n|[^A-Za-z'0-9+\-\n]"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the world's closed vocabulary; a space belongs to the word behind it.

    `decode(encode(text)) == text` for every text of the world. A word of no world is `<unk>`.
    """
    pieces = sorted({piece for text in _all_words() for piece in re.findall(_PIECE, text)})
    words = [PAD, UNKNOWN, EOS, USER, ASSISTANT, "<think>", "</think>", "\n", "\n\n", *pieces]
    raw = Tokenizer(
        models.WordLevel(
            {word: i for i, word in enumerate(dict.fromkeys(words))}, unk_token=UNKNOWN
        )
    )
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECE), "isolated")
    raw.decoder = decoders.Fuse()
    raw.add_special_tokens(
        [AddedToken(name, special=True) for name in (PAD, UNKNOWN, EOS, USER, ASSISTANT)]
    )
    raw.add_tokens(
        [AddedToken(tag, special=False, normalized=False) for tag in ("<think>", "</think>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=PAD, unk_token=UNKNOWN, eos_token=EOS, padding_side="left",
        additional_special_tokens=[USER, ASSISTANT], chat_template=TEMPLATE, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def _all_words() -> Iterator[str]:
    """Texts that together hold every piece, each at the start of a text and behind a space."""
    fillers = (
        *wording.TOPICS,
        *(topic.capitalize() for topic in wording.TOPICS),
        *wording.MAKE_VERBS,
    )
    fillers += (
        *wording.CARE_VERBS,
        *wording.MATERIALS,
        *wording.QUALITIES,
        *wording.OPERATIONS,
        "+",
        "-",
    )
    fillers += tuple(str(number) for number in range(wording.LARGEST + 1))
    sentences = [
        text
        for words in (wording.PLAIN, wording.FORMAL)
        for texts in words.values()
        for text in texts
    ]
    sentences += [*wording.REQUESTS, *wording.FACT_REQUESTS, *wording.SUMS]
    sentences += [text for texts in wording.WRAPPINGS.values() for text in texts]
    yield " "
    for text in (*fillers, *(re.sub(r"\{\w+\}", "", sentence) for sentence in sentences)):
        yield text
        yield f" {text}"


class Encoded(NamedTuple):
    """Token ids of one conversation and how many of them are its prompt."""

    ids: list[int]
    n_prompt: int


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """Ids of a user turn, up to where the assistant begins."""
    messages = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def encode_completion(tokenizer: Any, completion: Completion) -> Encoded:
    """Ids of a prompt and its completion, with the end behind it."""
    before = encode_prompt(tokenizer, completion.prompt.text)
    after = tokenizer.encode(completion.text, add_special_tokens=False)
    return Encoded([*before, *after, tokenizer.eos_token_id], len(before))


# --- model -----------------------------------------------------------------------------------------------------
def build_model(tokenizer: Any, *, seed: int, scale: Scale = POCKET) -> Qwen3ForCausalLM:
    """A Qwen3 with random weights and tied embeddings."""
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=scale.hidden, intermediate_size=scale.intermediate,
        num_hidden_layers=scale.layers, num_attention_heads=scale.heads, num_key_value_heads=scale.heads // 2,
        head_dim=scale.hidden // scale.heads, max_position_embeddings=512, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        initializer_range=0.1,  # the usual 0.02 is for wider models and learns more slowly here
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)


def load_base(folder: Path | str) -> tuple[Any, Any]:
    """Model and tokenizer of a folder that `train_base` has finished."""
    if not (Path(folder) / "model.safetensors").is_file():
        raise ValueError(f"{folder} holds no finished base model; call train_base on it first")
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(
        folder
    )


# --- training --------------------------------------------------------------------------------------------------
class Batch(NamedTuple):
    """Packed rows, all (rows, length): ids, positions that start again with every text, labels."""

    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor


def pack(texts: Sequence[Encoded], rows: int, length: int, pad: int) -> Batch:
    """Puts texts into rows, longest first, each where it fits first; what fits nowhere is left out.

    Raises:
        ValueError: if a text is longer than a row.
    """
    ids = torch.full((rows, length), pad)
    positions = torch.arange(length).repeat(rows, 1)
    labels = torch.full((rows, length), IGNORED)
    used = [0] * rows
    for text in sorted(texts, key=lambda text: -len(text.ids)):
        n = len(text.ids)
        if n > length:
            raise ValueError(f"a text has {n} tokens and a row {length}; make rows longer")
        row = next((row for row in range(rows) if used[row] + n <= length), None)
        if row is None:
            continue
        at = used[row]
        ids[row, at : at + n] = torch.tensor(text.ids)
        positions[row, at:] = torch.arange(length - at)
        labels[row, at + text.n_prompt : at + n] = torch.tensor(text.ids[text.n_prompt :])
        used[row] += n
        positions[row, used[row] :] = torch.arange(length - used[row])
    return Batch(ids, positions, labels)


def draw_batch(
    tokenizer: Any, seed: int, step: int, scale: Scale, held_out: frozenset[str]
) -> Batch:
    """The packed texts of one training step, a function of seed and step."""
    texts, n, corpus = [], 0, base_corpus(f"{seed}/{step}", held_out)
    while n < 1.05 * scale.rows * scale.length:
        texts.append(encode_completion(tokenizer, next(corpus)))
        n += len(texts[-1].ids)
    return pack(texts, scale.rows, scale.length, tokenizer.pad_token_id)


def completion_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy of the completions' tokens, nats; logits are made only where there is a label."""
    hidden = model.model(
        input_ids=batch.ids, position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    labels = batch.labels[:, 1:]
    wanted = labels != IGNORED
    return torch.nn.functional.cross_entropy(
        model.lm_head(hidden[:, :-1][wanted]).float(), labels[wanted]
    )


def train_base(
    folder: Path | str,
    *,
    seed: int = 0,
    scale: Scale = POCKET,
    prompts_seed: int = 0,
    held_out: frozenset[str] | None = None,
    checkpoint_every: int = 100,
    stop_after: int | None = None,
) -> list[float]:
    """Trains the base model and saves it as an ordinary Hugging Face folder; a killed job goes on where it was.

    Args:
        folder: of the model. While it trains there is `checkpoint.safetensors` in it.
        seed: of weights and data.
        scale: size of model and training.
        prompts_seed: of `build_prompts`; no prompt of its evaluations is trained on.
        held_out: texts of prompts that are not trained on; default: the evaluations of `build_prompts(prompts_seed)`.
        checkpoint_every: steps between checkpoints.
        stop_after: leave off after this many steps of this call, as a kill would; None runs to the end.

    Returns:
        The loss of every step so far, nats a token.

    Raises:
        ValueError: if the folder holds a model of other settings.
    """
    folder = Path(folder)
    settings = {"seed": seed, "prompts_seed": prompts_seed, "scale": asdict(scale)}
    done = _read_log(folder, settings)
    if (folder / "model.safetensors").is_file():
        return done["losses"]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed=seed, scale=scale).train()
    optimizer = _make_optimizer(model, scale)
    losses: list[float] = _load_checkpoint(folder, model, optimizer, done["losses"])
    if held_out is None:
        prompts = build_prompts(prompts_seed)
        held_out = frozenset(prompt.text for part in EVALUATION for prompt in prompts[part])
    seconds, started, first = done["cpu_seconds"], time.process_time(), len(losses)
    last = scale.steps if stop_after is None else min(scale.steps, first + stop_after)
    with tqdm(
        total=scale.steps, initial=first, desc="train base", unit=" steps", mininterval=1
    ) as bar:
        for step in range(first, last):
            losses.append(
                _train_step(
                    model,
                    optimizer,
                    draw_batch(tokenizer, seed, step, scale, held_out),
                    step,
                    scale,
                )
            )
            bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
            bar.update()
            if (step + 1) % checkpoint_every == 0 or step + 1 == scale.steps:
                log = {
                    "settings": settings,
                    "losses": losses,
                    "cpu_seconds": seconds + time.process_time() - started,
                }
                _save_checkpoint(folder, model, optimizer, log)
    if len(losses) == scale.steps:
        with tempfile.TemporaryDirectory(
            dir=folder
        ) as half:  # the weights come last, whole or not at all
            tokenizer.save_pretrained(half)
            model.eval().save_pretrained(half)
            for path in sorted(
                Path(half).iterdir(), key=lambda path: path.suffix == ".safetensors"
            ):
                path.replace(folder / path.name)
        (folder / _CHECKPOINT).unlink(missing_ok=True)
    return losses


def _train_step(
    model: Any, optimizer: torch.optim.Optimizer, batch: Batch, step: int, scale: Scale
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = scale.learning_rate * _schedule(step, scale.steps)
    loss = completion_loss(model, batch)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def _schedule(step: int, steps: int) -> float:
    """Share of the highest learning rate at a step: a linear rise over a twentieth of the steps, then a cosine to 0."""
    rise = max(1, steps // 20)
    if step < rise:
        return (step + 1) / rise
    return 0.5 + 0.5 * float(torch.cos(torch.tensor(torch.pi * (step - rise) / (steps - rise))))


def _make_optimizer(model: Any, scale: Scale) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": scale.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=scale.learning_rate, betas=(0.9, 0.98), fused=True)


_LOG, _CHECKPOINT = "training.json", "checkpoint.safetensors"


def _read_log(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What was trained so far in the folder, if anything, by the same settings."""
    if not (folder / _LOG).is_file():
        return {"settings": settings, "losses": [], "cpu_seconds": 0.0}
    log = json.loads((folder / _LOG).read_text(encoding="utf-8"))
    if log["settings"] != settings:
        raise ValueError(
            f"{folder} holds a model of other settings ({log['settings']}, not {settings}); name another folder"
        )
    return log


def _save_checkpoint(
    folder: Path, model: Any, optimizer: torch.optim.Optimizer, log: dict[str, Any]
) -> None:
    """Weights, moments and number of steps in one file, whole or not at all; the log is written after it."""
    tensors = {f"weight {name}": p.detach() for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        state = optimizer.state[p]
        tensors |= {f"{key} {name}": state[key] for key in ("exp_avg", "exp_avg_sq")}
    tensors["losses"] = torch.tensor(log["losses"], dtype=torch.float64)
    write_atomic(folder / _CHECKPOINT, save(tensors))
    write_atomic(folder / _LOG, json.dumps(log, indent=1))


def _load_checkpoint(
    folder: Path, model: Any, optimizer: torch.optim.Optimizer, losses: list[float]
) -> list[float]:
    """Puts weights and moments back; returns the losses of the steps they have seen."""
    if not (folder / _CHECKPOINT).is_file():
        return []
    tensors = load_file(folder / _CHECKPOINT)
    losses = tensors["losses"].tolist()
    for name, p in model.named_parameters():
        p.data.copy_(tensors[f"weight {name}"])
        optimizer.state[p] = {key: tensors[f"{key} {name}"] for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[p]["step"] = torch.tensor(float(len(losses)))
    return losses


# --- samples ---------------------------------------------------------------------------------------------------
@torch.inference_mode()
def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    n: int = 1,
    seed: int = 0,
    temperature: float = 1.0,
    max_new_tokens: int = 160,
    batch_size: int = 256,
    model_name: str = "pocket",
    method: str = "base",
) -> list[Trace]:
    """`n` completions of each prompt, as traces in the order of the prompts.

    Args:
        model: of `transformers`; it is put in evaluation mode for the time.
        tokenizer: its tokenizer.
        prompts: of the world.
        n: samples a prompt.
        seed: of the samples.
        temperature: 0 takes the likeliest token.
        max_new_tokens: a completion that has not ended by then has the finish reason `length`.
        batch_size: completions made at once.
        model_name: `Trace.model`.
        method: `Trace.method`.
    """
    if temperature < 0 or n < 1:
        raise ValueError(
            f"temperature must not be negative and n at least 1, got {temperature} and {n}"
        )
    ids = [encode_prompt(tokenizer, prompt.text) for prompt in prompts]
    jobs = sorted(
        ((i, k) for i in range(len(prompts)) for k in range(n)), key=lambda job: len(ids[job[0]])
    )
    how = (
        {"do_sample": True, "temperature": temperature, "top_k": 0}
        if temperature
        else {"do_sample": False}
    )
    traces: dict[tuple[int, int], Trace] = {}
    with (
        _evaluating(model),
        torch.random.fork_rng(),
        tqdm(total=len(jobs), desc="sample", unit=" texts") as bar,
    ):
        torch.manual_seed(seed)
        for start in range(0, len(jobs), batch_size):
            batch = jobs[start : start + batch_size]
            read = tokenizer.pad({"input_ids": [ids[i] for i, _ in batch]}, return_tensors="pt").to(
                model.device
            )
            made = model.generate(**read, max_new_tokens=max_new_tokens, **how)[
                :, read["input_ids"].shape[1] :
            ]
            for (i, k), row in zip(batch, made.tolist(), strict=True):
                traces[i, k] = _make_trace(tokenizer, prompts[i], ids[i], row, k)
            bar.update(len(batch))
    return [replace(traces[key], model=model_name, method=method) for key in sorted(traces)]


def _make_trace(
    tokenizer: Any, prompt: Prompt, prompt_ids: list[int], row: list[int], number: int
) -> Trace:
    ended = tokenizer.eos_token_id in row
    own = row[: row.index(tokenizer.eos_token_id) + 1] if ended else row
    return Trace(
        id=f"{prompt.id}-{number}", completion=tokenizer.decode(own, skip_special_tokens=True), prompt=prompt.text,
        prompt_id=prompt.id, domain=prompt.domain.value, split=prompt.split.value, sample=number, gold=prompt.gold,
        finish_reason="stop" if ended else "length", prompt_token_ids=tuple(prompt_ids), token_ids=tuple(own),
    )  # fmt: skip


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
