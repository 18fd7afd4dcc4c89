"""Files of geometry as they are stored: one module for each kind that the readers of pictures do not know."""
