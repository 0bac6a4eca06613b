// Draws strings with the page's layout: node draw.mjs PAGE GLYPHS.BIN STRINGS.JSON OUT
// OUT gets, of all strings: the number of patches of each (int32), the positions (int32), the pixels (uint8).
import { readFileSync, writeFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";

const [page, table, strings, out] = process.argv.slice(2);
const { AlignedRenderer } = await import(`${page}/layout.js`);
const renderer = new AlignedRenderer(new Uint8Array(gunzipSync(readFileSync(table))).buffer);
const drawn = JSON.parse(readFileSync(strings, "utf8")).map((text) => renderer.draw(text));
const bytes = (array) => Buffer.from(array.buffer);
writeFileSync(
  out,
  Buffer.concat([
    bytes(Int32Array.from(drawn, ({ positions }) => positions.length)),
    ...drawn.map(({ positions }) => bytes(positions)),
    ...drawn.map(({ pixels }) => bytes(pixels)),
  ]),
);
