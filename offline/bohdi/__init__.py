"""Bohdi: finds what the target model lacks and has its source models write training data there (arXiv 2506.15721)."""
