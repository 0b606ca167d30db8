"""The exact cache: what makes requests the same, what is kept, and real HTTP through it."""
