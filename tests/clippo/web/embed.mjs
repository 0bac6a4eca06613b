// Embeds texts and pictures with the page's code and onnxruntime-web: node embed.mjs PAGE INPUTS.JSON
// INPUTS.JSON has "texts", and "pictures" of "width", "height" and "rgba" in base 64. Prints their embeddings.
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";

const [page, inputs] = process.argv.slice(2);
const ort = await import(`${page}/ort.wasm.min.mjs`);
const { Tower } = await import(`${page}/tower.js`);
const { AlignedRenderer } = await import(`${page}/layout.js`);
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = `file://${page}/`;

const table = new Uint8Array(gunzipSync(readFileSync(`${page}/glyphs.bin`))).buffer;
const session = await ort.InferenceSession.create(readFileSync(`${page}/tower.onnx`));
const { resize } = JSON.parse(readFileSync(`${page}/site.json`, "utf8"));
const tower = new Tower(ort, session, new AlignedRenderer(table), resize);

const { texts, pictures } = JSON.parse(readFileSync(inputs, "utf8"));
const embedded = [
  ...texts.map((text) => tower.embedText(tower.renderer.draw(text))),
  ...pictures.map(({ width, height, rgba }) =>
    tower.embedPicture({ width, height, data: new Uint8ClampedArray(Buffer.from(rgba, "base64")) }),
  ),
];
console.log(JSON.stringify((await Promise.all(embedded)).map((embedding) => [...embedding])));
