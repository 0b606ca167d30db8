"""The demo fleet: small real language models, trained from scratch on families of micro-tasks, and their server."""
