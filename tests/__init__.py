"""The tests. A package, so that `tests.traffic` and the like never shadow the house's own packages."""
