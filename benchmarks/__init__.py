"""What is measured, one file each. Every benchmark prints a table and writes `results/<name>.json`."""
