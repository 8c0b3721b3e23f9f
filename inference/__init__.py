"""From photos to a scene: images, pairs, matching, alignment, export."""
