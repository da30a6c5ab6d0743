"""Policy optimization: rollouts, GRPO, RLOO, PPO, tools."""
