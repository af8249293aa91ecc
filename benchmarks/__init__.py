"""What is claimed of speed, as commands. Every figure is a ratio against something run beside it."""
