"""Measurements of speed and memory, each a function that takes `quick` and returns a report for a JSON file."""
