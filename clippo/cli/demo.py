"""Search an index of pictures on a page in the browser."""

from __future__ import annotations

from clippo.arguments import call
from clippo.errors import UserError

__all__ = ["main"]


def demo(
    index: str = "clippo-dictionary",
    /,
    *,
    model: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    open: bool = False,
) -> None:
    """Search an index of pictures on a page in the browser.

    Type in any script, and see the text as the model reads it and the pictures that it finds at each key; or
    drop a picture. The page is served by this machine, asks nothing of any other, and stays until Ctrl-C:

        clippo demo --open
        clippo demo photos.idx --open
        clippo demo photos.idx --model runs/photos --port 0

    Args:
        index: File of `clippo index`; by default the emoji and flags that come with the package.
        model: What the index was made with, where that has moved.
        host: Address to serve. Any other than that of this machine alone, 127.0.0.1, shows the pictures to
            whoever can reach it, and must be what they type.
        port: Port to serve; 0 picks a free one.
        open: Open the page in the browser.
    """
    from clippo.index import PictureIndex
    from clippo.training.run_folder import load_model, with_renderer

    try:
        from clippo.demo.answers import Answers
        from clippo.demo.server import listen, make_app, serve
    except ModuleNotFoundError as error:
        raise UserError(f"clippo demo needs {error.name}: pip install 'clippo-kernels[web]'") from error

    pictures = PictureIndex.open(index)
    with listen(host, port) as listening:
        answers = Answers(with_renderer(load_model(model or pictures.about.model)), pictures)
        serve(make_app(answers, ("127.0.0.1", "localhost", host)), listening, open_browser=open)


def main(arguments: list[str]) -> None:
    call(demo, arguments, prog="clippo demo")
