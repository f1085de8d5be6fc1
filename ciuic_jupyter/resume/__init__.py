"""Resumable cells: loop hooks, the position of a cell under way, and code that goes on from there."""
