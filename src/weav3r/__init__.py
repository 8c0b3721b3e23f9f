"""Photos in, cameras and dense 3D out."""
