"""PPO: rollouts, networks, updates, evaluation."""
