"""Evaluation: measures of a model, each in a file of its own."""
