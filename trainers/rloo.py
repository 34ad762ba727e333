"""REINFORCE with a leave-one-out baseline, with TRL's RLOOTrainer: rewards as those of GRPO.

    accelerate launch --module trainers.rloo --config trainers/configs/rloo_rlvr.yaml --data FILE
    python -m trainers.rloo --config trainers/configs/rloo_rlvr.yaml --data FILE --dry_run true

All that `trainers.grpo` does with rows, rewards and records is the same here. What differs is TRL's
loss. A completion's advantage is its reward less the mean reward of the others of its group,
divided by nothing. The KL term is part of the reward: `beta` times the sum of the log-ratios of all
of its tokens, so an early token pays for what comes after it. TRL 1.16 has no PPO.
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: python -m trainers.rloo"
    )

from collections.abc import Sequence

from trl.trainer.rloo_config import RLOOConfig

from trainers import grpo


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script: train, or show what would be trained on (`--dry_run true`)."""
    grpo.main(arguments, RLOOConfig)


if __name__ == "__main__":
    main()
