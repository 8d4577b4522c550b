"""Sealed formats: what a data owner writes and a training pod reads."""
