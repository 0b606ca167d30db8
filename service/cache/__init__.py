"""Answers that were given before. Exact: the same request of the same tenant, and nothing near it."""
