"""An endless generator of posed multi-view scenes."""
