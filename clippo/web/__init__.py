"""A page that embeds texts and pictures in the browser alone, from files of any static server."""

from clippo.web.pictures import WebPictures, pictures_of
from clippo.web.site import export_web

__all__ = ["WebPictures", "export_web", "pictures_of"]
