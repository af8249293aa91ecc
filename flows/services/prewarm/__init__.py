"""A process of ``torchmill up`` that has imported everything and becomes commands, so that they start at once.

A command hands over its arguments, environment and streams (``client``). The process forks, and its child is the
command (``server``). If anything differs that a process has from its start, the command runs as if there were none.
"""
