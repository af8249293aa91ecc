"""Benchmarks behind the README's table. Each result is a ratio to a baseline measured in turn with ours."""
