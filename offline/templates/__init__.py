"""Thought templates offline: build, measure, judge by worth, take out of use."""
