"""FusionFactory's own baselines, exactly as published: argmax labels and all. Rulers, not recommendations."""
