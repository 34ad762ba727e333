"""Tiny models and tokenizers, built in the process: no download, no files."""

WORDS = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "wait",
    "hmm",
    "so",
    "the",
    "answer",
    "is",
    "<think>",
    "</think>",
]
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


def tiny_tokenizer():
    """A word-level tokenizer with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["<pad>", "<unk>", "<eos>", "<|user|>", "<|assistant|>", *WORDS]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<eos>",
        chat_template=TEMPLATE,
        additional_special_tokens=["<|user|>", "<|assistant|>"],
    )


def tiny_model(vocabulary_size, architecture="Qwen3", seed=0, **options):
    """A random model of a few thousand parameters of an architecture of transformers."""
    import torch
    import transformers

    common = {
        "vocab_size": vocabulary_size, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64,
        "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 2,
    }  # fmt: skip
    own = {
        "Qwen3Moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8},
        "Gemma2": {"final_logit_softcapping": 0.5, "sliding_window": 8, "query_pre_attn_scalar": 8},
        "Gemma3Text": {"sliding_window": 8, "query_pre_attn_scalar": 8},
        "Mistral": {"sliding_window": 8},
        "GptOss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
        "Cohere": {"logit_scale": 0.25},
        "Granite": {"logits_scaling": 4.0},
        "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    }.get(architecture, {})
    if architecture == "GPT2":
        common = {key: common[key] for key in ("vocab_size", "bos_token_id", "eos_token_id")}
    config = getattr(transformers, f"{architecture}Config")(**(common | own | options))
    kind = {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM"}.get(architecture)
    torch.manual_seed(seed)
    network = getattr(transformers, kind or f"{architecture}ForCausalLM")(config).eval()
    with torch.no_grad():  # the usual start is so small that every distribution is flat
        network.get_output_embeddings().weight.mul_(30)
    return network


def byte_tokenizer(texts=("the thinking goes on and on, 日本 日本",), size=300, **options):
    """A byte-level BPE tokenizer with the merges of a small text, as GPT-2 and Qwen have."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, **options)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


# Tiny training runs: rows, settings, rewards, and what to look at afterwards.

QUESTIONS = [{"prompt": f"{a} {b}", "domain": "math"} for a in WORDS[:4] for b in WORDS[:2]]
PAIRS = [
    {"prompt": a, "completion": f"<think> so {b} </think> {b}", "rejected": "hmm " + b}
    for a in WORDS[:4]
    for b in WORDS[:3]
]


def trained_model(seed=0):
    """A model that reads the words of `tiny_tokenizer`, to be trained."""
    return tiny_model(5 + len(WORDS), seed=seed)


def settings(kind, path, **options):
    """TRL's settings of a kind (SFTConfig, ...) for three steps of two rows on a CPU."""
    from trainers.grpo import CPU

    common = {
        "output_dir": str(path),
        "learning_rate": 0.01,
        "logging_steps": 1,
        "disable_tqdm": True,
        "seed": 3,
        "max_steps": 3,
        "per_device_train_batch_size": 2,
    }
    return kind(**CPU | common | options)


def grpo_settings(path, **options):
    """TRL's settings for three steps of GRPO, each of two prompts with two short completions."""
    from trl import GRPOConfig

    common = {
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "max_completion_length": 8,
        "beta": 0.04,
        "loss_type": "grpo",
    }
    return settings(GRPOConfig, path, **common | options)


def length(completions, **_):
    """A reward: the number of words of a completion."""
    return [float(len(completion.split())) for completion in completions]


def weights(network):
    """A copy of the parameters, by name."""
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def moved(before, network):
    """The names of the parameters that differ from `before`."""
    import torch

    names = set()
    for name, value in network.named_parameters():
        if not torch.equal(before[name], value):
            names.add(name)
    return names


def losses(trainer):
    """The logged losses, in order."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
