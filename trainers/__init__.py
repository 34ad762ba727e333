"""How is a reasoning model trained on safety data? Recipes on TRL that record rollouts as traces.

Run the scripts as modules, from the root of the repository:
`python -m trainers.sft --config trainers/configs/sft_star1.yaml --dry_run true`.

sft          supervised fine-tuning on thinking and answer
grpo         group relative policy optimisation with rewards for safety, correctness and format
dpo          direct preference optimisation
merge        one model from a LoRA adapter and its base
script       what the scripts share: arguments, model and rows, the dry run
rows         rows read from files and the Hub, and checked before training
render       prompts and completions as the chat template writes them
rewards      reward functions for GRPO
rollouts     rollouts drawn by cotlens' sampler, on a CPU
lengths      losses in groups of like length, on a CPU
record       rollouts written as traces
watch        Evaluate: a fixed set of prompts sampled during training
resume       a stop with a checkpoint, and the way on from it
bars         one progress bar
methods/     methods of papers: each builds the rows that a trainer takes
configs/     the recipes
pocket/      a small world with known truth, and its experiment
fit/         fits the detectors' weights
"""
