"""Cameras, the image ledger, transforms, pointmap maths and robust pose."""
