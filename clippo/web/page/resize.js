// Resizes pictures as clippo.model.preprocess does, within one grey level.

// The source pixels that each result pixel of an axis is a sum of: their first index, and their weights.
function taps(length, size, how) {
  const scale = length / size;
  const clamped = (index) => Math.min(Math.max(index, 0), length - 1);
  return Array.from({ length: size }, (_, i) => {
    const center = scale * (i + 0.5);
    if (how === "bilinear") { // between the two nearest, without antialiasing
      const before = Math.floor(center - 0.5);
      const share = center - 0.5 - before;
      const [first, second] = [clamped(before), clamped(before + 1)];
      return { first, weights: first === second ? [1] : [1 - share, share] };
    }
    const stretch = Math.max(scale, 1); // antialiasing: the kernel spans at least four result pixels
    const first = Math.max(Math.trunc(center - 2 * stretch + 0.5), 0);
    const end = Math.min(Math.trunc(center + 2 * stretch + 0.5), length);
    const weights = Array.from({ length: end - first }, (_, j) => cubic((j + first - center + 0.5) / stretch));
    const sum = weights.reduce((a, b) => a + b);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

// Keys' cubic convolution with a = -0.5.
function cubic(x) {
  x = Math.abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

// picture: an ImageData, opaque. how: "bilinear" or "bicubic". Gives a Uint8Array of size x size x 3.
export function resize({ data, width, height }, size, how) {
  const Row = how === "bilinear" ? Float32Array : Uint8ClampedArray; // the latter rounds
  const across = new Row(height * size * 3);
  taps(width, size, how).forEach(({ first, weights }, x) => {
    for (let y = 0; y < height; y++) {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 0;
        for (let j = 0; j < weights.length; j++) sum += weights[j] * data[4 * (y * width + first + j) + channel];
        across[3 * (y * size + x) + channel] = sum;
      }
    }
  });
  const out = new (how === "bilinear" ? Uint8Array : Uint8ClampedArray)(size * size * 3);
  taps(height, size, how).forEach(({ first, weights }, y) => {
    for (let i = 0; i < 3 * size; i++) {
      let sum = 0;
      for (let j = 0; j < weights.length; j++) sum += weights[j] * across[3 * (first + j) * size + i];
      out[3 * y * size + i] = sum;
    }
  });
  return new Uint8Array(out.buffer);
}
