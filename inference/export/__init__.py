"""Writers of a scene: GLB, PLY, NPZ, COLMAP, transforms.json."""
