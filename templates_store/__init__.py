"""Thought templates: what they are, where they are kept, how they are found and put into a prompt."""
