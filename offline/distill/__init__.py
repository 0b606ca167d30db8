"""Model-level fusion: many source models into one target model (FuseLLM, arXiv 2505.23844 and what it left out)."""
