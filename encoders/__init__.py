"""Text to unit vectors. Imports nothing else of the house."""
