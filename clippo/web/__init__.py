"""A page that embeds texts and pictures in the browser alone, from files of any static server."""
