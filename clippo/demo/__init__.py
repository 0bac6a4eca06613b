"""A page on which one searches an index of pictures by text in any script, and by pictures."""
