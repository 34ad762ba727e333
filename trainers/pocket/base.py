"""The base model of the pocket world: its training from nothing, and samples of it.

A Qwen3 of 0.6 million weights learns the base policy's traces in minutes on one CPU core, in plain
PyTorch. The data are a function of seed and step, so a killed job resumes from its last checkpoint
and reaches the same weights.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

import cotlens
from cotlens.files import write_atomic
from cotlens.formats.prompts import Prompt as Request
from cotlens.models.local import LocalEngine
from cotlens.trace import Trace
from trainers.pocket.policy import base_corpus
from trainers.pocket.tokenizer import Encoded, build_tokenizer, encode_completion
from trainers.pocket.world import EVALUATION, Prompt, build_prompts

IGNORED = -100  # label of a token without loss

WEIGHTS_FILE = "model.safetensors"  # written last: a folder that has it is finished
CHECKPOINT_FILE = "checkpoint.safetensors"
LOG_FILE = "training.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Size of the model and of its training.

    Attributes:
        heads: attention heads; there are half as many heads of keys and values.
        rows: packed rows that a step reads, of `length` tokens each.
        learning_rate: the highest, after a linear rise over a twentieth of the steps; a cosine then
            takes it to 0.
        weight_decay: for matrices; vectors have none.
    """

    hidden: int = 128
    intermediate: int = 512
    layers: int = 2
    heads: int = 4
    steps: int = 4000
    rows: int = 5
    length: int = 192
    learning_rate: float = 5e-3
    weight_decay: float = 0.05


POCKET = Scale()
TINY = Scale(hidden=32, intermediate=64, layers=2, heads=2, steps=30, rows=4)  # for tests
SCALES = {
    "pocket": POCKET,
    "small": Scale(hidden=96, intermediate=384),
    "large": Scale(hidden=192, intermediate=768),
    "tiny": TINY,
}


def build_model(tokenizer: Any, *, seed: int, scale: Scale = POCKET) -> Qwen3ForCausalLM:
    """A Qwen3 with random weights and tied embeddings."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=scale.hidden,
        intermediate_size=scale.intermediate,
        num_hidden_layers=scale.layers,
        num_attention_heads=scale.heads,
        num_key_value_heads=scale.heads // 2,
        head_dim=scale.hidden // scale.heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=0.1,  # the usual 0.02 is for wider models and learns more slowly here
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)


def load_base(folder: Path | str) -> tuple[Any, Any]:
    """Model and tokenizer of a folder that `train_base` has finished.

    Raises:
        ValueError: if the folder has no finished model.
    """
    if not (Path(folder) / WEIGHTS_FILE).is_file():
        raise ValueError(f"{folder} holds no finished base model; call train_base on it first")
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return model.eval(), tokenizer


class Batch(NamedTuple):
    """Packed rows, all (rows, length): ids, positions that restart with every text, labels."""

    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor


def pack(texts: Sequence[Encoded], rows: int, length: int, pad: int) -> Batch:
    """Packs texts into rows, longest first, each into the first row that has space for it.

    Texts that fit into no row are left out.

    Raises:
        ValueError: if a text is longer than a row.
    """
    shape = (rows, length)
    ids = torch.full(shape, pad)
    labels = torch.full(shape, IGNORED)
    positions = torch.arange(length).repeat(rows, 1)
    n_used = [0] * rows

    longest_first = sorted(texts, key=lambda text: -len(text.ids))
    for text in longest_first:
        n = len(text.ids)
        if n > length:
            raise ValueError(f"a text has {n} tokens and a row {length}; make rows longer")

        # The first row with space for it.
        row = 0
        while row < rows and n_used[row] + n > length:
            row += 1
        if row == rows:
            continue
        start = n_used[row]
        stop = start + n
        n_used[row] = stop

        # Only the completion has labels.
        text_ids = torch.tensor(text.ids)
        ids[row, start:stop] = text_ids
        labels[row, start + text.n_prompt : stop] = text_ids[text.n_prompt :]

        # Positions restart at this text, and again after it for the padding or the next text.
        for restart in (start, stop):
            positions[row, restart:] = torch.arange(length - restart)

    return Batch(ids, positions, labels)


def draw_batch(
    tokenizer: Any, seed: int, step: int, scale: Scale, held_out: frozenset[str]
) -> Batch:
    """The packed texts of one training step, a function of seed and step."""
    corpus = base_corpus(f"{seed}/{step}", held_out)

    # A few more tokens than fit, so that packing has a choice.
    n_wanted = 1.05 * scale.rows * scale.length
    n_tokens = 0
    texts = []
    while n_tokens < n_wanted:
        completion = next(corpus)
        text = encode_completion(tokenizer, completion)
        texts.append(text)
        n_tokens += len(text.ids)

    pad_id = tokenizer.pad_token_id
    return pack(texts, scale.rows, scale.length, pad_id)


def completion_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy of the completions' tokens in nats."""
    output = model.model(
        input_ids=batch.ids,
        position_ids=batch.positions,
        use_cache=False,
    )

    # The state at a token predicts the next one. Logits are computed only where that has a label.
    states = output.last_hidden_state[:, :-1]
    labels = batch.labels[:, 1:]
    is_labelled = labels != IGNORED
    logits = model.lm_head(states[is_labelled])
    return cross_entropy(logits.float(), labels[is_labelled])


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
    """Trains the base model and saves it as an ordinary Hugging Face folder.

    Call a killed job again with the same arguments: it resumes after the last checkpoint. A
    finished model is not trained again.

    Args:
        folder: folder of the model, with a checkpoint in it while it trains.
        seed: seed of weights and data.
        scale: size of model and training.
        prompts_seed: seed of `build_prompts`; no prompt of its evaluations is trained on.
        held_out: texts of prompts that are not trained on; default: the evaluation prompts of
            `build_prompts(prompts_seed)`.
        checkpoint_every: steps between checkpoints.
        stop_after: stop after this many steps of this call, as a kill would; None trains to the
            end.

    Returns:
        The loss of every step so far, in nats per token.

    Raises:
        ValueError: if the folder holds a model of other settings.
    """
    folder = Path(folder)
    settings = {"seed": seed, "prompts_seed": prompts_seed, "scale": asdict(scale)}
    log = _read_log(folder, settings)
    if (folder / WEIGHTS_FILE).is_file():
        return log["losses"]

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed=seed, scale=scale).train()
    optimizer = _make_optimizer(model, scale)
    if held_out is None:
        held_out = _evaluation_texts(prompts_seed)

    # Go on from the checkpoint of an earlier call, if there is one.
    losses = _load_checkpoint(folder, model, optimizer)
    first = len(losses)
    last = scale.steps
    if stop_after is not None:
        last = min(last, first + stop_after)
    earlier_seconds = log["cpu_seconds"]
    started = time.process_time()

    bar = tqdm(total=scale.steps, initial=first, desc="train base", unit=" steps", mininterval=1)
    with bar:
        for step in range(first, last):
            batch = draw_batch(tokenizer, seed, step, scale, held_out)
            loss = _train_step(model, optimizer, batch, step, scale)
            losses.append(loss)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()

            is_last = step + 1 == scale.steps
            if is_last or (step + 1) % checkpoint_every == 0:
                seconds = time.process_time() - started
                log["losses"] = losses
                log["cpu_seconds"] = earlier_seconds + seconds
                _save_checkpoint(folder, model, optimizer, log)

    # Before that, the folder holds no model.
    if len(losses) == scale.steps:
        _save_model(folder, model, tokenizer)
    return losses


def _evaluation_texts(prompts_seed: int) -> frozenset[str]:
    prompts = build_prompts(prompts_seed)
    texts = set()
    for split in EVALUATION:
        texts.update(prompt.text for prompt in prompts[split])
    return frozenset(texts)


def _make_optimizer(model: Any, scale: Scale) -> torch.optim.AdamW:
    # Norms and the like are not decayed.
    matrices = []
    vectors = []
    for parameter in model.parameters():
        if parameter.ndim > 1:
            matrices.append(parameter)
        else:
            vectors.append(parameter)

    groups = [
        {"params": matrices, "weight_decay": scale.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=scale.learning_rate, betas=(0.9, 0.98), fused=True)


def _train_step(
    model: Any, optimizer: torch.optim.Optimizer, batch: Batch, step: int, scale: Scale
) -> float:
    """Takes one step and returns its loss."""
    # The schedule is a function of the step, so a resumed training follows it.
    rate = scale.learning_rate * _rate_factor(step, scale.steps)
    for group in optimizer.param_groups:
        group["lr"] = rate

    loss = completion_loss(model, batch)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def _rate_factor(step: int, steps: int) -> float:
    """Share of the highest learning rate: a linear rise over a twentieth of the steps, a cosine."""
    n_rise = max(1, steps // 20)
    if step < n_rise:
        return (step + 1) / n_rise

    step_of_fall = step - n_rise
    n_fall = steps - n_rise
    angle = torch.tensor(torch.pi * step_of_fall / n_fall)
    return 0.5 + 0.5 * float(torch.cos(angle))


def _read_log(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The log of what was trained in the folder with the same settings, if anything was."""
    path = folder / LOG_FILE
    if not path.is_file():
        return {"settings": settings, "losses": [], "cpu_seconds": 0.0}

    log = json.loads(path.read_text(encoding="utf-8"))
    if log["settings"] != settings:
        raise ValueError(
            f"{folder} holds a model of other settings ({log['settings']}, not {settings}); "
            "name another folder"
        )
    return log


def _save_checkpoint(
    folder: Path, model: Any, optimizer: torch.optim.Optimizer, log: dict[str, Any]
) -> None:
    """Saves weights, moments and losses in one file, whole or not at all, and then the log."""
    losses = torch.tensor(log["losses"], dtype=torch.float64)
    tensors = {"losses": losses}
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        tensors[f"weight {name}"] = parameter.detach()
        tensors[f"exp_avg {name}"] = state["exp_avg"]
        tensors[f"exp_avg_sq {name}"] = state["exp_avg_sq"]

    write_atomic(folder / CHECKPOINT_FILE, save(tensors))
    write_atomic(folder / LOG_FILE, json.dumps(log, indent=1))


def _load_checkpoint(folder: Path, model: Any, optimizer: torch.optim.Optimizer) -> list[float]:
    """Restores weights and moments; returns the losses of the steps that they have seen."""
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        return []

    # The optimizer has taken as many steps as there are losses.
    tensors = load_file(path)
    losses = tensors["losses"].tolist()
    for name, parameter in model.named_parameters():
        parameter.data.copy_(tensors[f"weight {name}"])
        optimizer.state[parameter] = {
            "exp_avg": tensors[f"exp_avg {name}"],
            "exp_avg_sq": tensors[f"exp_avg_sq {name}"],
            "step": torch.tensor(float(len(losses))),
        }
    return losses


def _save_model(folder: Path, model: Any, tokenizer: Any) -> None:
    """Saves model and tokenizer, the weights last, and removes the checkpoint."""
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        tokenizer.save_pretrained(unfinished)
        model.eval().save_pretrained(unfinished)

        # A folder with weights is finished, so they come last.
        paths = list(Path(unfinished).iterdir())
        paths.sort(key=lambda path: path.suffix == ".safetensors")
        for path in paths:
            path.replace(folder / path.name)

    checkpoint = folder / CHECKPOINT_FILE
    checkpoint.unlink(missing_ok=True)


def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    n: int = 1,
    seed: int = 0,
    temperature: float = 1.0,
    max_new_tokens: int = 160,
    prefill: str | Sequence[str] = "",
    model_name: str = "pocket",
    method: str = "base",
) -> list[Trace]:
    """`n` completions of each prompt of the world, as traces in the order of the prompts.

    Args:
        model: a model of `transformers`.
        tokenizer: its tokenizer.
        prompts: prompts of the world.
        n: samples per prompt.
        seed: seed of the samples.
        temperature: sampling temperature; 0 is greedy.
        max_new_tokens: a completion that has not ended by then has the finish reason `length`.
        prefill: beginning of every completion, or one for each prompt.
        model_name: `Trace.model`.
        method: `Trace.method`.

    Raises:
        TraceError: as `cotlens.sample`.
    """
    engine = LocalEngine(model, tokenizer, model_name)
    requests = [as_request(prompt) for prompt in prompts]
    with tqdm(total=n * len(requests), desc="sample", unit=" texts") as bar:
        return cotlens.sample(
            engine,
            requests,
            n=n,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            seed=seed,
            prefill=prefill,
            method=method,
            progress=bar.update,
        )


def as_request(prompt: Prompt) -> Request:
    """A prompt of the world as one that any model can be asked."""
    fields = {
        "prompt_id": prompt.id,
        "domain": prompt.domain.value,
        "split": prompt.split.value,
        "gold": prompt.gold,
    }
    messages = [{"role": "user", "content": prompt.text}]
    return Request(prompt.id, messages, fields, meta={}, place=f"prompt {prompt.id}")
