"""What happened: the records of every request, and the log that keeps them. Imports nothing else of the house."""
