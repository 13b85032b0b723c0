"""Synthetic recordings in the layout of a data set, made in seconds."""
