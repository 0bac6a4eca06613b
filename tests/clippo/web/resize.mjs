// Resizes a picture with the page's code: node resize.mjs PAGE RGBA WIDTH HEIGHT SIZE HOW OUT
import { readFileSync, writeFileSync } from "node:fs";

const [page, rgba, width, height, size, how, out] = process.argv.slice(2);
const { resize } = await import(`${page}/resize.js`);
const picture = { data: new Uint8ClampedArray(readFileSync(rgba)), width: +width, height: +height };
writeFileSync(out, resize(picture, +size, how));
