"""Bitmaps kept as lists of inked pixels, so that drawing text costs in proportion to its ink."""

import numpy as np

__all__ = ["InkPool"]

CHUNK_PIXELS = 8  # pixels; a chunk of offsets fills one cache line


class InkPool:
    """Small bitmaps, and the means to draw thousands of them at once into a batch of images.

    A bitmap is stored as a unit: an index, a width, and chunks of eight offsets of inked pixels. The last
    chunk is padded with offsets that it already holds. One table holds all chunks. Drawing gathers rows
    of that table, adds the position of each unit, and writes the ink, so no Python code runs for a single
    pixel or unit.

    Args:
        row_stride: pixels from one row of an image to the next.
        ink: the grey level of pixels of full coverage; None if bitmaps bring grey levels of their own.
    """

    def __init__(self, row_stride: int, ink: int | None):
        self._row_stride = row_stride
        self._ink = ink
        self._units = 0
        self._chunks = 0
        self._width = np.zeros(256, np.int32)
        self._first_chunk = np.zeros(256, np.intp)
        self._chunk_count = np.zeros(256, np.intp)
        self._offset = np.zeros((1024, CHUNK_PIXELS), np.intp)
        self._shade = np.zeros((1024 if ink is None else 0, CHUNK_PIXELS), np.uint8)
        self._target = np.empty((0, CHUNK_PIXELS), np.intp)

    @property
    def nbytes(self) -> int:
        """Bytes of the offsets of all units."""
        return self._chunks * self._offset.itemsize * CHUNK_PIXELS

    def add(self, pixels_GYX: np.ndarray, is_inked_GYX: np.ndarray, width_G: np.ndarray) -> np.ndarray:
        """Store G bitmaps.

        Args:
            pixels_GYX: (G, Y, X) uint8 grey levels; ignored if the pool has an `ink`.
            is_inked_GYX: (G, Y, X) bool, the pixels to write.
            width_G: (G,) integers.

        Returns:
            (G,) indices of the new units, ascending.
        """
        G = len(is_inked_GYX)
        unit_G = np.arange(self._units, self._units + G)
        glyph_P, y_P, x_P = is_inked_GYX.nonzero()
        count_G = np.bincount(glyph_P, minlength=G)
        chunk_count_G = -(-count_G // CHUNK_PIXELS)
        first_chunk_G = self._chunks + np.cumsum(chunk_count_G) - chunk_count_G
        self._reserve(G, int(chunk_count_G.sum()))
        self._width[unit_G] = width_G
        self._first_chunk[unit_G] = first_chunk_G
        self._chunk_count[unit_G] = chunk_count_G

        # Pad every chunk with its first pixel, then write the pixels into their slots.
        nth_P = np.arange(len(glyph_P)) - np.repeat(np.cumsum(count_G) - count_G, count_G)
        chunk_P, slot_P = first_chunk_G[glyph_P] + nth_P // CHUNK_PIXELS, nth_P % CHUNK_PIXELS
        leads = slot_P == 0
        tables: list[tuple[np.ndarray, np.ndarray]] = [(self._offset, y_P * self._row_stride + x_P)]
        if self._ink is None:
            tables.append((self._shade, pixels_GYX[glyph_P, y_P, x_P]))
        for table, value_P in tables:
            table[chunk_P[leads]] = value_P[leads, None]
            table[chunk_P, slot_P] = value_P
        return unit_G

    def widths(self, unit_C: np.ndarray) -> np.ndarray:
        """Widths in px, (C,) int32."""
        out: np.ndarray = self._width[unit_C]
        return out

    def has_ink(self, unit_C: np.ndarray) -> np.ndarray:
        """(C,) bool, False for the units of blank bitmaps."""
        out: np.ndarray = self._chunk_count[unit_C] > 0
        return out

    def draw(self, out: np.ndarray, unit_C: np.ndarray, corner_C: np.ndarray) -> None:
        """Write C units into the flat, contiguous `out`, each from the index of its top left pixel on."""
        count_C = self._chunk_count[unit_C]
        before_C = np.cumsum(count_C) - count_C
        chunk_K = np.repeat(self._first_chunk[unit_C] - before_C, count_C)
        chunk_K += np.arange(len(chunk_K))
        if len(chunk_K) > len(self._target):
            # The buffer is reused, because new memory of this size is mapped by the system page by page.
            self._target = np.empty((2 * len(chunk_K), CHUNK_PIXELS), np.intp)
        target_KP = self._target[: len(chunk_K)]
        # With "clip", NumPy does not copy `out` first, as it does when an index may be out of range.
        np.take(self._offset, chunk_K, axis=0, out=target_KP, mode="clip")
        target_KP += np.repeat(corner_C, count_C)[:, None]
        out[target_KP] = self._shade[chunk_K] if self._ink is None else self._ink

    def _reserve(self, units: int, chunks: int) -> None:
        """Reserve units and chunks, and grow the tables where they are too short."""
        self._units += units
        self._chunks += chunks
        if self._units > len(self._width):
            for name in ("_width", "_first_chunk", "_chunk_count"):
                setattr(self, name, grown(getattr(self, name), 2 * self._units))
        if self._chunks > len(self._offset):
            self._offset = grown(self._offset, 2 * self._chunks)
            if self._ink is None:
                self._shade = grown(self._shade, 2 * self._chunks)


def grown(array: np.ndarray, length: int) -> np.ndarray:
    bigger = np.zeros((length, *array.shape[1:]), array.dtype)
    bigger[: len(array)] = array
    return bigger
