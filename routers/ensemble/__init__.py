"""The default router: an ensemble chosen by nested validation inside its training data."""
