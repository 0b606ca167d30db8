"""Routers offline: train, evaluate, judge by logged decisions, onboard, watch for drift."""
