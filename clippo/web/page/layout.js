// Draws text as clippo.renderer.AlignedRenderer does, from the table that clippo/web/glyphs.py describes.
// A text is laid out in cells of 8 x 16 px, two to a patch, so cell c is half of patch c >> 1.

const [WORD, SPACE, INVISIBLE, MARK] = [1, 3, 4, 5]; // kinds of characters; 2 is all others
const HEADER_INTEGERS = 5;
const CELL_ROWS = 16; // a byte each
const CELLS_OF_MARK = 3; // one over a half-width character, then two over a full-width one

export const PATCH_SIZE = 16;

export class AlignedRenderer {
  // table: the ArrayBuffer of glyphs.bin, decompressed.
  constructor(table) {
    const [size, background, ink, maxChars, numRanges] = new Uint32Array(table, 0, HEADER_INTEGERS);
    Object.assign(this, { size, background, ink, maxChars });
    this.numPatches = (size / PATCH_SIZE) ** 2;
    this.starts = new Uint32Array(table, 4 * HEADER_INTEGERS, numRanges);
    this.values = new Uint32Array(table, 4 * (HEADER_INTEGERS + numRanges), numRanges);
    this.cells = new Uint8Array(table, 4 * (HEADER_INTEGERS + 2 * numRanges));
  }

  static async load(url) {
    const answer = await fetch(url);
    if (!answer.ok) throw new Error(`${url}: ${answer.status} ${answer.statusText}`);
    const table = answer.body.pipeThrough(new DecompressionStream("gzip"));
    return new AlignedRenderer(await new Response(table).arrayBuffer());
  }

  // The inked patches of a text; a blank text gives its first patch.
  // pixels: Uint8Array of T x 16 x 16 grey levels. positions: Int32Array of T, row by row over the image.
  draw(text) {
    const rows = this.layOut(text); // of all cells; two cells of 16 bytes are a patch
    const isInked = (patch) => rows.subarray(2 * CELL_ROWS * patch, 2 * CELL_ROWS * (patch + 1)).some(Boolean);
    const inked = [...Array(this.numPatches).keys()].filter(isInked);
    const positions = Int32Array.from(inked.length ? inked : [0]);
    const pixels = new Uint8Array(positions.length * PATCH_SIZE ** 2).fill(this.background);
    positions.forEach((patch, slot) => {
      for (let i = 0; i < PATCH_SIZE ** 2; i++) {
        const [y, x] = [i >> 4, i & 15];
        const row = rows[CELL_ROWS * (2 * patch + (x >> 3)) + y];
        if (row & (128 >> (x & 7))) pixels[PATCH_SIZE ** 2 * slot + i] = this.ink;
      }
    });
    return { pixels, positions };
  }

  // The rows of all cells of an image, 16 bytes a cell.
  layOut(text) {
    const rows = new Uint8Array(2 * this.numPatches * CELL_ROWS);
    let [next, base, baseWidth, baseKind] = [0, 0, 0, SPACE]; // the next free cell; the character before
    let count = 0;
    for (const character of text) {
      if (count++ === this.maxChars) break;
      const { kind, width, first } = this.find(character.codePointAt(0));
      if (kind === INVISIBLE) continue;
      if (kind === MARK && baseKind !== SPACE) {
        if (baseWidth === 2) {
          this.drawCell(rows, first && first + 1, base);
          this.drawCell(rows, first && first + 2, base + 1);
        } else {
          this.drawCell(rows, first, base);
        }
        continue;
      }
      const isWord = kind === WORD || kind === MARK;
      const followsWord = baseKind === WORD || baseKind === MARK;
      const beginsWord = kind !== SPACE && (baseKind === SPACE || (isWord && !followsWord));
      if (beginsWord || width === 2) next += next & 1;
      [base, baseKind, baseWidth] = [next, kind, kind === MARK ? 1 : width];
      next += baseWidth;
      if (base >= 2 * this.numPatches) break; // below the image
      for (let i = 0; i < baseWidth && kind !== SPACE; i++) this.drawCell(rows, first && first + i, base + i);
    }
    return rows;
  }

  // Draw a cell of the table over cell `target`.
  drawCell(rows, cell, target) {
    for (let y = 0; y < CELL_ROWS; y++) rows[CELL_ROWS * target + y] |= this.cells[CELL_ROWS * cell + y];
  }

  // The kind of a character, its width in cells, and its first cell in the table.
  find(codePoint) {
    let [low, high] = [0, this.starts.length]; // the range is from low to before high
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (this.starts[middle] <= codePoint) low = middle;
      else high = middle;
    }
    const value = this.values[low];
    const [kind, width, first] = [value & 7, (value >> 3) & 3, value >>> 5];
    const step = kind === MARK ? CELLS_OF_MARK : width;
    return { kind, width, first: first && first + step * (codePoint - this.starts[low]) };
  }
}
