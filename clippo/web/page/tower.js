// The model: texts and pictures to embeddings of unit length, through one graph.

import { AlignedRenderer, PATCH_SIZE } from "./layout.js";
import { resize } from "./resize.js";

export class Tower {
  // ort: the module of onnxruntime-web. resizing: "bilinear" or "bicubic", as the model was trained.
  constructor(ort, session, renderer, resizing) {
    Object.assign(this, { ort, session, renderer, resizing });
    this.last = Promise.resolve();
  }

  static async load(ort, folder, resizing) {
    const model = fetch(new URL("tower.onnx", folder)).then((answer) => answer.arrayBuffer());
    const renderer = AlignedRenderer.load(new URL("glyphs.bin", folder));
    const session = await ort.InferenceSession.create(await model);
    return new Tower(ort, session, await renderer, resizing);
  }

  // drawn: what AlignedRenderer.draw gives. The graph takes three channels, which are equal in text.
  embedText({ pixels, positions }) {
    const rgb = new Uint8Array(3 * pixels.length);
    pixels.forEach((grey, i) => rgb.fill(grey, 3 * i, 3 * i + 3));
    return this.embed(rgb, positions);
  }

  // picture: an ImageData, opaque.
  embedPicture(picture) {
    const { size, numPatches } = this.renderer;
    const pixels = resize(picture, size, this.resizing);
    const patches = new Uint8Array(pixels.length);
    const rowBytes = 3 * PATCH_SIZE;
    for (let i = 0; i < pixels.length; i += rowBytes) { // a row of a patch at a time
      const [y, column] = [Math.floor(i / (3 * size)), (i % (3 * size)) / rowBytes];
      const patch = Math.floor(y / PATCH_SIZE) * (size / PATCH_SIZE) + column;
      patches.set(pixels.subarray(i, i + rowBytes), (patch * PATCH_SIZE + (y % PATCH_SIZE)) * rowBytes);
    }
    return this.embed(patches, Int32Array.from({ length: numPatches }, (_, i) => i));
  }

  // A session runs one input at a time, so each waits for the one before.
  embed(pixels, positions) {
    const shape = [positions.length, PATCH_SIZE, PATCH_SIZE, 3];
    const inputs = {
      pixels: new this.ort.Tensor("uint8", pixels, shape),
      positions: new this.ort.Tensor("int32", positions, [positions.length]),
    };
    const run = async () => (await this.session.run(inputs))[this.session.outputNames[0]].data;
    this.last = this.last.then(run, run);
    return this.last;
  }
}
