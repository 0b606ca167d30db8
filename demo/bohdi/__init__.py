"""The live proof of Bohdi: real small models propose domains, ask, answer, and a target learns what it lacks."""
