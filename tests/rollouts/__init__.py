"""Jobs, rollouts and retraining."""
