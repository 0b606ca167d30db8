"""A new arm from a few dozen scored prompts."""
