"""Trainers on TRL: SFT, GRPO and DPO on safety traces, and the pocket experiment.

Run them from the root of the repository, as modules: `python -m trainers.sft --config trainers/configs/sft_star1.yaml`.
"""
