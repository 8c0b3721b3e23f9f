"""Where a photo was taken, against a scene, a COLMAP model or a single other photo."""
