"""A page that embeds texts and pictures in the browser alone, from files of any static server."""

from clippo.web.site import WebPictures, export_web

__all__ = ["WebPictures", "export_web"]
