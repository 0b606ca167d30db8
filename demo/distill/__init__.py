"""The live proof of model-level fusion: specialists of the fleet, and one useless teacher, into one small target."""
