"""Programs that answer one question each: comparisons of training runs, pictures, a fuzz of the renderers."""
