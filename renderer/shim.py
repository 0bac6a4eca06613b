from dataclasses import asdict, dataclass
from typing import ClassVar, Literal
from clippo.renderer.base import Renderer
from clippo.renderer.paragraph import UNIFONT, ParagraphRenderer
from clippo.renderer.unifont import UnifontRenderer


@dataclass(frozen=True, kw_only=True)
class RendererConfig:
    name: ClassVar[str]

    def build(self, size: int) -> Renderer:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class UnifontRendererConfig(RendererConfig):
    name: ClassVar[str] = "unifont"
    font_size: int = 16
    lower: bool = True

    def build(self, size: int) -> Renderer:
        return UnifontRenderer(size, **asdict(self))


@dataclass(frozen=True, kw_only=True)
class ParagraphRendererConfig(RendererConfig):
    name: ClassVar[str] = "paragraph"
    font_size: int = 16
    overflow: Literal["clip", "shrink", "error"] = "clip"
    fonts: tuple[str, ...] = UNIFONT

    def build(self, size: int) -> Renderer:
        return ParagraphRenderer(size, **asdict(self))
