"""Matches from dense descriptors."""
