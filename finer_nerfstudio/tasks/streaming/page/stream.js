// The container of finer_nerfstudio/stream_format.py: header, stages, and the weights in them.

import { blake2s } from "./blake2s.js";
import { decompress } from "./zstd.js";

const NAME = "finer-stream";
const VERSION = 1;
const DIGEST_BYTES = 16;
const LARGEST = { in_dim: 64, out_dim: 4096, depth: 256, encoding_frequencies: 64, width: 65536 };
const SIZES = { float32: 4, bfloat16: 2, float16: 2, int8: 1 };

class Incomplete extends Error {}

// One CBOR item (RFC 8949) of the kinds that streams are made of; gives it and where it ends.
function readItem(bytes, start, depth = 0) {
  if (depth > 16) throw new Error("the header is nested too deeply");
  if (start >= bytes.length) throw new Incomplete();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const major = bytes[start] >> 5, minor = bytes[start] & 31;
  let position = start + 1, argument = minor;
  if (major === 7) {
    if (minor === 20 || minor === 21) return [minor === 21, position];
    if (minor === 22 || minor === 23) return [null, position];
    const size = { 25: 2, 26: 4, 27: 8 }[minor];
    if (!size) throw new Error("the header holds an unknown kind of data");
    if (position + size > bytes.length) throw new Incomplete();
    const value = size === 2 ? half(view.getUint16(position)) : size === 4 ? view.getFloat32(position) : view.getFloat64(position);
    return [value, position + size];
  }
  if (minor >= 24) {
    const size = { 24: 1, 25: 2, 26: 4, 27: 8 }[minor];
    if (!size) throw new Error("the header holds an unknown kind of data");
    if (position + size > bytes.length) throw new Incomplete();
    argument = 0;
    for (let i = 0; i < size; i++) argument = argument * 256 + bytes[position + i];
    position += size;
  }
  if (major === 0) return [argument, position];
  if (major === 1) return [-1 - argument, position];
  if (major === 2 || major === 3) {
    if (position + argument > bytes.length) throw new Incomplete();
    const content = bytes.slice(position, position + argument);
    return [major === 2 ? content : new TextDecoder("utf-8", { fatal: true }).decode(content), position + argument];
  }
  if (major === 4) {
    const items = [];
    for (let i = 0; i < argument; i++) {
      let item;
      [item, position] = readItem(bytes, position, depth + 1);
      items.push(item);
    }
    return [items, position];
  }
  if (major === 5) {
    const map = Object.create(null);
    for (let i = 0; i < argument; i++) {
      let key, value;
      [key, position] = readItem(bytes, position, depth + 1);
      [value, position] = readItem(bytes, position, depth + 1);
      map[String(key)] = value;
    }
    return [map, position];
  }
  throw new Error("the header holds an unknown kind of data");
}

function half(bits) {
  const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function sameBytes(a, b) {
  return a instanceof Uint8Array && b instanceof Uint8Array && a.length === b.length && a.every((byte, i) => byte === b[i]);
}

function joined(...parts) {
  const out = new Uint8Array(parts.reduce((total, part) => total + part.length, 0));
  let position = 0;
  for (const part of parts) {
    out.set(part, position);
    position += part.length;
  }
  return out;
}

function requireWhole(value, smallest, largest, what) {
  if (!Number.isInteger(value) || value < smallest || value > largest) throw new Error(`${what} is ${value}`);
}

// What was measured, as a map of finite numbers; empty where nobody did.
function qualityOf({ quality }) {
  const entries = Object.entries(quality ?? {});
  if (entries.some(([, value]) => typeof value !== "number")) throw new Error("a stage's quality is no map of numbers");
  return Object.fromEntries(entries.filter(([, value]) => Number.isFinite(value)));
}

function checkHeader(header) {
  if (!Array.isArray(header.networks) || header.networks.length < 1 || header.networks.length > 16) throw new Error("it has no networks");
  if (!Array.isArray(header.stages) || header.stages.length < 1 || header.stages.length > 256) throw new Error("it has no stages");
  for (const network of header.networks) {
    for (const name of ["in_dim", "out_dim", "depth"]) requireWhole(network[name], 1, LARGEST[name], name);
    requireWhole(network.encoding_frequencies, 0, LARGEST.encoding_frequencies, "encoding_frequencies");
    if (!["sine", "gauss", "wavelet", "relu"].includes(network.activation?.family)) throw new Error("its activation is not known");
  }
  header.stages.forEach((stage) => {
    requireWhole(stage.bytes, 1, 2 ** 40, "a stage's length");
    if (!(stage.precision in SIZES)) throw new Error(`its precision ${stage.precision} is not known`);
    if (stage.widths?.length !== header.networks.length) throw new Error("a stage lacks widths");
    stage.widths.forEach((width) => requireWhole(width, 1, LARGEST.width, "a width"));
    stage.quality = qualityOf(stage);
  });
}

export function unitsOf(network, width) {
  return network.activation.family === "wavelet" ? Math.max(1, Math.trunc(width / Math.SQRT2)) : width;
}

function fine(precision) {
  return precision === "float32" || precision === "bfloat16" ? "float32" : "float16";
}

// Names, shapes and precisions of what a stage adds to a network, in the order of the payload.
function shapesOf(header, network, which, index) {
  const { precision, widths } = header.stages[index];
  const after = unitsOf(network, widths[which]);
  const before = index ? unitsOf(network, header.stages[index - 1].widths[which]) : 0;
  const units = after - before, exact = fine(precision);
  if (units < 1) throw new Error("widths do not increase");
  const parts = network.activation.family === "wavelet" ? ["real", "imaginary"] : ["real"];
  const shapes = [
    ["first.real", [units, network.in_dim * (1 + 2 * network.encoding_frequencies)], exact],
    ["first.bias", [units], exact],
  ];
  for (let layer = 0; layer < network.depth - 1; layer++) {
    for (const part of parts) shapes.push([`hidden.${layer}.${part}`, [units, after], precision]);
    shapes.push([`hidden.${layer}.bias`, [parts.length * units], exact]);
  }
  for (const part of parts) shapes.push([`last.${part}`, [network.out_dim, units], precision]);
  if (index === 0) shapes.push(["last.bias", [network.out_dim], exact]);
  return { units, before, shapes };
}

function bytesOf(shape, precision) {
  const numbers = shape.reduce((product, size) => product * size, 1);
  return numbers * SIZES[precision] + (precision === "int8" ? 4 * shape[0] : 0);
}

// Numbers whose bytes are stored plane by plane, all first bytes before all second ones.
function fromPlanes(raw, start, count, size) {
  const whole = new Uint8Array(count * size);
  for (let plane = 0; plane < size; plane++) {
    for (let i = 0; i < count; i++) whole[i * size + plane] = raw[start + plane * count + i];
  }
  return new DataView(whole.buffer);
}

function numbersOf(raw, start, shape, precision) {
  const count = shape.reduce((product, size) => product * size, 1);
  const out = new Float64Array(count);
  if (precision === "int8") {
    const rows = shape[0], columns = count / rows;
    const scales = fromPlanes(raw, start, rows, 4);
    for (let i = 0; i < count; i++) {
      const whole = (raw[start + 4 * rows + i] << 24) >> 24;
      out[i] = Math.fround(whole * scales.getFloat32(4 * Math.floor(i / columns), true));
    }
    return out;
  }
  const view = fromPlanes(raw, start, count, SIZES[precision]);
  const upper = new DataView(new ArrayBuffer(4));
  for (let i = 0; i < count; i++) {
    if (precision === "float32") out[i] = view.getFloat32(4 * i, true);
    else if (precision === "float16") out[i] = half(view.getUint16(2 * i, true));
    else {
      upper.setUint16(0, view.getUint16(2 * i, true));
      out[i] = upper.getFloat32(0);
    }
  }
  return out;
}

// Takes bytes as they arrive; `stages` are those that are complete, `damage` says why there are no more.
export class StreamReader {
  constructor() {
    this.header = null;
    this.headerBytes = 0;
    this.stages = [];
    this.damage = null;
    this.pending = new Uint8Array(0);
  }

  // Gives how many stages have become complete.
  feed(bytes) {
    this.pending = joined(this.pending, bytes);
    if (this.header === null && !this.readHeader()) return 0;
    const before = this.stages.length;
    while (this.damage === null && this.stages.length < this.header.stages.length) {
      const { bytes: length } = this.header.stages[this.stages.length];
      if (this.pending.length < length) break;
      try {
        this.stages.push(this.readStage(this.pending.subarray(0, length)));
        this.pending = this.pending.slice(length);
      } catch (error) {
        this.damage = `stage ${this.stages.length} is damaged (${error.message})`;
      }
    }
    return this.stages.length - before;
  }

  readHeader() {
    let item, end;
    try {
      [item, end] = readItem(this.pending, 0);
    } catch (error) {
      if (!(error instanceof Incomplete)) throw new Error(`this is no finer stream: ${error.message}`);
      if (this.pending.length > 2 ** 21) throw new Error("this is no finer stream: its header does not end");
      return false;
    }
    if (!Array.isArray(item) || item.length !== 4 || item[0] !== NAME) throw new Error("this is no finer stream");
    const [, version, encoded, digest] = item;
    if (version > VERSION) throw new Error(`the stream is of format version ${version}, and this page knows ${VERSION}`);
    if (!(encoded instanceof Uint8Array) || !sameBytes(blake2s(encoded, DIGEST_BYTES), digest)) throw new Error("the header is damaged");
    const [header] = readItem(encoded, 0);
    checkHeader(header);
    this.header = header;
    this.headerBytes = end;
    this.headerDigest = digest;
    this.pending = this.pending.slice(end);
    return true;
  }

  // For each network what the stage adds: units, those before, and arrays by name.
  readStage(bytes) {
    const index = this.stages.length;
    let item, end;
    try {
      [item, end] = readItem(bytes, 0);
    } catch (error) {
      throw new Error(error.message || "it is cut short");
    }
    if (!Array.isArray(item) || item.length !== 3 || item[0] !== index || end !== bytes.length) throw new Error("it is another item");
    const [, payload, digest] = item;
    const number = Uint8Array.of(index & 255, (index >> 8) & 255, 0, 0);
    if (!(payload instanceof Uint8Array) || !sameBytes(blake2s(joined(this.headerDigest, number, payload), DIGEST_BYTES), digest)) {
      throw new Error("its digest does not fit");
    }
    const parts = this.header.networks.map((network, which) => shapesOf(this.header, network, which, index));
    const size = parts.reduce((sum, part) => part.shapes.reduce((own, [, shape, precision]) => own + bytesOf(shape, precision), sum), 0);
    if (size > 65536 + 64 * payload.length) throw new Error("it claims more weights than it can hold");
    const raw = decompress(payload, size);
    let position = 0;
    return parts.map(({ units, before, shapes }) => {
      const stage = { units, before, arrays: {} };
      for (const [name, shape, precision] of shapes) {
        stage.arrays[name] = numbersOf(raw, position, shape, precision);
        position += bytesOf(shape, precision);
      }
      return stage;
    });
  }
}
