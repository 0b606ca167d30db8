"""The routing laboratory: every router on every pool of real logs, in and out of distribution, with intervals."""
