"""Losses, engine, schedules and recipes."""
