"""The two-view model, its heads and presets, and checkpoint files."""
