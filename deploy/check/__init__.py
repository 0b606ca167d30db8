"""A check of docker-compose.yml that builds it and brings it up: `make test-compose`."""
