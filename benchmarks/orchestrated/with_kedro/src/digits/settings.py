"""Kedro's settings of the project: its defaults."""
