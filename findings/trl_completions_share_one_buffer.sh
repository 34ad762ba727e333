#!/usr/bin/env bash
# TRL's completions parquet holds rollouts of training and of evaluation, some of them several times.
#
# Version: trl 1.16.0 (transformers 5.23.0, torch 2.13.0), GRPOTrainer with log_completions=True.
#
# One would expect: completions_00003.parquet has the rollouts that were generated for training step 3,
# every rollout stands in one file, and an evaluation writes files of its own or none.
#
# Seen: training and evaluation append to one buffer of the last `generation_batch_size` rollouts, and each
# log writes all of it to completions_<global step>.parquet. So
#   - an evaluation at step N overwrites the file of step N, with its own rollouts at the end and no mark on
#     them: rollouts of training that were in that file are gone;
#   - with steps_per_generation above one, the files of the steps that generate nothing repeat the buffer,
#     rollouts of the evaluation included, now under training steps.
#
# Why it matters: rewards, lengths and reflection by training step are averages over some rollouts twice or
# four times, mixed with held-out prompts, and nothing in the rows says so.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet trl==1.16.0 transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0 pandas==3.1.1

cd "$folder"
cat > run.py <<'PY'
import contextlib, io, pathlib, sys, warnings

warnings.simplefilter("ignore")
import datasets, pandas, torch, transformers, trl
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ["<pad>", "<unk>", "<eos>", "train", "eval", "one", "two", "three", "four", "five", "six"]
words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>"
)
torch.manual_seed(0)
config = transformers.Qwen3Config(
    vocab_size=len(WORDS), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=1, head_dim=8, max_position_embeddings=64, pad_token_id=0, eos_token_id=2,
)
model = transformers.Qwen3ForCausalLM(config)


def rows(kind):
    return datasets.Dataset.from_list([{"prompt": f"{kind} {word}"} for word in WORDS[5:]])


generated = []  # every rollout that the model makes, in order


def reward(completions, prompts, **_):
    generated.extend(prompts)
    return [len(generated) + i / 8 for i in range(len(completions))]  # so that no two rollouts are alike


arguments = trl.GRPOConfig(
    output_dir="out", max_steps=8, per_device_train_batch_size=4, num_generations=2, steps_per_generation=2,
    per_device_eval_batch_size=4, eval_strategy="steps", eval_steps=3, logging_steps=1, log_completions=True,
    max_completion_length=4, report_to=[], use_cpu=True, bf16=False, save_strategy="no", seed=1, disable_tqdm=True,
)
trainer = trl.GRPOTrainer(
    model=model, reward_funcs=reward, args=arguments, processing_class=tokenizer, train_dataset=rows("train"),
    eval_dataset=rows("eval").select(range(2)),
)
with contextlib.redirect_stdout(io.StringIO()):
    trainer.train()

files = sorted(pathlib.Path("out/completions").glob("*.parquet"))
read = pandas.concat([pandas.read_parquet(path).assign(file=path.name) for path in files])
read["kind"] = read["prompt"].str.split().str[0]
distinct = read.drop_duplicates("reward")
print(f"trl {trl.__version__}: {len(files)} files, {len(read)} rows read, {len(distinct)} distinct rollouts")
print(f"generated: {sum(p.startswith('train') for p in generated)} for training, "
      f"{sum(p.startswith('eval') for p in generated)} for evaluations at steps 3, 6 and 8")
print(read.groupby(["file", "kind"]).size().unstack(fill_value=0).to_string())
lost = sum(p.startswith("train") for p in generated) - (distinct["kind"] == "train").sum()
print(f"rollouts of training in no file: {lost}; "
      f"rows of evaluation under training steps 4, 5 and 7: {((read['kind'] == 'eval') & ~read['step'].isin([3, 6, 8])).sum()}")

repeats = len(read) > len(distinct)
mixed = ((read["kind"] == "eval") & (read["step"] == 4)).any()
unmarked = not any("eval" in column for column in read.columns)
sys.exit(0 if repeats and mixed and unmarked else "behaviour has changed")
PY
"$folder/venv/bin/python" run.py 2> errors.txt || { tail -n 5 errors.txt; exit 1; }
