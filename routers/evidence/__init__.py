"""What logged decisions prove: off-policy estimates, uplift, drift."""
