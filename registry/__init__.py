"""What is deployed and what is being made: the config, the pool of arms, versioned artifacts."""
