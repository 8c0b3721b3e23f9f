"""What the user already knows: values, files, conventions, and how they are held."""
