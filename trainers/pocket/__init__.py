"""A pocket world: a small synthetic world with known truth, and a reasoning model trained on it."""
