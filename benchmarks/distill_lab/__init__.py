"""What the benchmark of the distillation measures, one question per file."""
