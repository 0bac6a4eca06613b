"""The one place that imports skia, so that a missing system library is reported by name and remedy."""

import re
from types import ModuleType

__all__ = ["SystemLibraryError", "import_skia"]


class SystemLibraryError(ImportError):
    """skia-python is installed, but a system library that it links to is not."""


def import_skia() -> ModuleType:
    """Import and return the `skia` module.

    The skia-python wheels link to libEGL, libGL and libexpat even where nothing is drawn on a GPU, and slim
    containers lack them.

    Raises:
        SystemLibraryError: one of these libraries is missing.
        ImportError: skia-python is not installed, or fails to import for another reason.
    """
    try:
        import skia
    except ImportError as error:
        library = re.search(r"lib(EGL|GL|expat)\b[.\w]*", str(error))
        if library is None:
            raise
        raise SystemLibraryError(
            f"skia-python needs the system library {library[0]}, which is missing: "
            "apt-get install libegl1 libgl1 libexpat1"
        ) from error
    module: ModuleType = skia
    return module
