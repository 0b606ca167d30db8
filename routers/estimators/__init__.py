"""Arithmetic that several routers fit with: shrinkage, k-means, least squares, pairs, uncertainty."""
