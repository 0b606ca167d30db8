"""The routers that are trained by gradient descent, and what they share."""
