// A growing network's output at coordinates, in double precision.

// No value of ours depends on larger imaginary phases, and their exponentials would overflow.
const LARGEST_IMAGINARY_PHASE = 300;

// z[o] += sum over k of weights[o, k] x[k] for `units` rows of `count` points each; four inputs at a time.
function addProduct(z, zStart, weights, rowLength, column, units, x, xStart, inputs, count, sign) {
  for (let o = 0; o < units; o++) {
    const target = zStart + o * count, row = o * rowLength + column;
    let k = 0;
    for (; k + 4 <= inputs; k += 4) {
      const a = sign * weights[row + k], b = sign * weights[row + k + 1];
      const c = sign * weights[row + k + 2], d = sign * weights[row + k + 3];
      const p = xStart + k * count, q = p + count, r = q + count, s = r + count;
      for (let i = 0; i < count; i++) z[target + i] += a * x[p + i] + b * x[q + i] + c * x[r + i] + d * x[s + i];
    }
    for (; k < inputs; k++) {
      const a = sign * weights[row + k], p = xStart + k * count;
      for (let i = 0; i < count; i++) z[target + i] += a * x[p + i];
    }
  }
}

function gabor(p, q, omega, s, out, at, imaginaryAt) {
  const modulus = Math.exp(-omega * q - s * s * (p * p + q * q));
  out[at] = modulus * Math.cos(omega * p);
  out[imaginaryAt] = modulus * Math.sin(omega * p);
}

// In place on `size` numbers, and for wavelets on as many imaginary parts after them.
function activate(activation, z, size, isFirst) {
  const { family, omega_0: omega, s_0: s, variable_periodic: periodic } = activation;
  const inner = periodic ? periodic.omega_f : null;
  for (let i = 0; i < size; i++) {
    const x = z[i];
    const stretched = periodic ? (Math.abs(x) + 1) * x : x;
    if (family === "relu") z[i] = Math.max(x, 0);
    else if (family === "sine") z[i] = Math.sin(omega * stretched);
    else if (family === "gauss") {
      const u = inner ? (s / inner) * Math.sin(inner * stretched) : s * x;
      z[i] = Math.exp(-u * u);
    } else {
      const y = isFirst ? 0 : z[size + i];
      let p = x, q = y, scale = 1;
      if (inner) {
        const a = inner * stretched;
        const b = Math.max(-LARGEST_IMAGINARY_PHASE, Math.min(LARGEST_IMAGINARY_PHASE, inner * (Math.abs(y) + 1) * y));
        p = Math.sin(a) * Math.cosh(b);
        q = Math.cos(a) * Math.sinh(b);
        scale = 1 / inner;
      }
      gabor(p, q, omega * scale, s * scale, z, i, size + i);
    }
  }
}

function encoded(coords, dim, count, frequencies) {
  if (!frequencies) return coords;
  const out = new Float64Array(dim * (1 + 2 * frequencies) * count);
  out.set(coords);
  for (let axis = 0; axis < dim; axis++) {
    for (let octave = 0; octave < frequencies; octave++) {
      const feature = octave * dim + axis;
      for (let i = 0; i < count; i++) {
        const angle = coords[axis * count + i] * 2 ** octave;
        out[(dim + feature) * count + i] = Math.sin(angle);
        out[(dim + dim * frequencies + feature) * count + i] = Math.cos(angle);
      }
    }
  }
  return out;
}

// Values [out_dim][count] at coordinates [in_dim][count] by a network's stages, from the first on.
export function evaluate(network, stages, coords, count) {
  const isComplex = network.activation.family === "wavelet";
  const inputs = encoded(coords, network.in_dim, count, network.encoding_frequencies);
  const inputCount = inputs.length / count;
  const output = new Float64Array(network.out_dim * count);
  const earlier = [];
  for (const { units, before, arrays } of stages) {
    const size = units * count, total = before + units;
    const features = [];
    let z = new Float64Array(isComplex ? 2 * size : size);
    addProduct(z, 0, arrays["first.real"], inputCount, 0, units, inputs, 0, inputCount, count, 1);
    addBias(z, arrays["first.bias"], units, count);
    activate(network.activation, z, size, true);
    features.push(z);
    for (let layer = 0; layer < network.depth - 1; layer++) {
      const real = arrays[`hidden.${layer}.real`], imaginary = arrays[`hidden.${layer}.imaginary`];
      z = new Float64Array(isComplex ? 2 * size : size);
      let column = 0;
      for (const source of [...earlier.map((stage) => stage[layer]), features[layer]]) {
        const n = source.length / count / (isComplex ? 2 : 1);
        addProduct(z, 0, real, total, column, units, source, 0, n, count, 1);
        if (isComplex) {
          addProduct(z, 0, imaginary, total, column, units, source, n * count, n, count, -1);
          addProduct(z, size, imaginary, total, column, units, source, 0, n, count, 1);
          addProduct(z, size, real, total, column, units, source, n * count, n, count, 1);
        }
        column += n;
      }
      addBias(z, arrays[`hidden.${layer}.bias`], isComplex ? 2 * units : units, count);
      activate(network.activation, z, size, false);
      features.push(z);
    }
    addProduct(output, 0, arrays["last.real"], units, 0, network.out_dim, z, 0, units, count, 1);
    if (isComplex) addProduct(output, 0, arrays["last.imaginary"], units, 0, network.out_dim, z, size, units, count, -1);
    if (arrays["last.bias"]) addBias(output, arrays["last.bias"], network.out_dim, count);
    earlier.push(features);
  }
  return output;
}

function addBias(z, bias, units, count) {
  for (let o = 0; o < units; o++) {
    for (let i = 0; i < count; i++) z[o * count + i] += bias[o];
  }
}

// RGBA bytes of some rows of a picture; `grid` has the picture's rows and columns and the image's height and width.
export function renderRows(network, stages, grid, firstRow, lastRow) {
  const { rows, columns, height, width } = grid;
  const pixels = new Uint8ClampedArray((lastRow - firstRow) * columns * 4);
  const longest = Math.max(height, width), tile = 256, total = (lastRow - firstRow) * columns;
  for (let start = 0; start < total; start += tile) {
    const count = Math.min(tile, total - start);
    const coords = new Float64Array(2 * count);
    for (let i = 0; i < count; i++) {
      const row = firstRow + Math.floor((start + i) / columns), column = (start + i) % columns;
      coords[i] = Math.fround((2 * (row + 0.5) * (height / rows) - height) / longest);
      coords[count + i] = Math.fround((2 * (column + 0.5) * (width / columns) - width) / longest);
    }
    const values = evaluate(network, stages, coords, count);
    const channels = network.out_dim;
    for (let i = 0; i < count; i++) {
      const value = (channel) => 255 * Math.min(1, Math.max(0, 0.5 * values[channel * count + i] + 0.5));
      const at = 4 * (start + i);
      const isGrey = channels < 3;
      pixels[at] = value(0);
      pixels[at + 1] = value(isGrey ? 0 : 1);
      pixels[at + 2] = value(isGrey ? 0 : 2);
      pixels[at + 3] = channels === 2 || channels === 4 ? value(channels - 1) : 255;
    }
  }
  return pixels;
}
