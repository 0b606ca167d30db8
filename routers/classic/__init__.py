"""The routers that need no gradient descent: clusters, neighbours, regressions, factorisations, trees."""
