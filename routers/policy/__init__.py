"""From predictions to a decision: preference, budget, affinity, cascade, thresholds, exploration."""
