// Decoder of zstd frames (RFC 8878) without dictionaries; browsers bring none.

const MAGIC = 0xfd2fb528;
const LITERAL_LENGTHS = {
  log: 6, largestLog: 9,
  counts: [4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1],
};
const MATCH_LENGTHS = {
  log: 6, largestLog: 9,
  counts: [1, 4, 3, 2, 2, 2, 2, 2, 2, ...Array(37).fill(1), ...Array(7).fill(-1)],
};
const OFFSETS = {
  log: 5, largestLog: 8,
  counts: [1, 1, 1, 1, 1, 1, 2, 2, 2, ...Array(15).fill(1), ...Array(5).fill(-1)],
};
// Codes of lengths: bits to read, and from them the smallest value of each code.
const LITERAL_LENGTH_BITS = [...Array(16).fill(0), 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
const MATCH_LENGTH_BITS = [...Array(32).fill(0), 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

function smallestValues(bits, first) {
  const values = [];
  let next = first;
  for (const count of bits) {
    values.push(next);
    next += 2 ** count;
  }
  return values;
}

const LITERAL_LENGTH_BASES = smallestValues(LITERAL_LENGTH_BITS, 0);
const MATCH_LENGTH_BASES = smallestValues(MATCH_LENGTH_BITS, 3);

function fail(reason) {
  throw new Error(`zstd: ${reason}`);
}

// Bits from the end of a range of bytes towards its beginning; zeros beyond that.
class BackwardBits {
  constructor(bytes, start, end) {
    if (end <= start || end > bytes.length || bytes[end - 1] === 0) fail("a bit stream has no end mark");
    this.bytes = bytes;
    this.start = start;
    this.left = (end - start - 1) * 8 + 31 - Math.clz32(bytes[end - 1]);
  }

  read(count) {
    let value = 0;
    for (let done = 0; done < count;) {
      const position = this.left - 1;
      if (position < 0) {
        this.left -= count - done;
        return value * 2 ** (count - done);
      }
      const available = (position & 7) + 1;
      const taken = Math.min(available, count - done);
      const byte = this.bytes[this.start + (position >> 3)];
      value = value * 2 ** taken + ((byte >> (available - taken)) & ((1 << taken) - 1));
      this.left -= taken;
      done += taken;
    }
    return value;
  }
}

// A table of finite state entropy: for each state a symbol, and how the next state comes about.
function stateTable(counts, log) {
  const size = 1 << log;
  const symbols = new Uint8Array(size), bits = new Uint8Array(size), bases = new Uint16Array(size);
  const next = new Uint16Array(counts.length);
  let high = size - 1;
  counts.forEach((count, symbol) => {
    if (count === -1) {
      symbols[high--] = symbol;
      next[symbol] = 1;
    } else {
      next[symbol] = count;
    }
  });
  const step = (size >> 1) + (size >> 3) + 3;
  let position = 0;
  counts.forEach((count, symbol) => {
    for (let i = 0; i < count; i++) {
      symbols[position] = symbol;
      do position = (position + step) & (size - 1); while (position > high);
    }
  });
  if (position !== 0) fail("a table of symbols does not fill up");
  for (let state = 0; state < size; state++) {
    const x = next[symbols[state]]++;
    bits[state] = log - (31 - Math.clz32(x));
    bases[state] = (x << bits[state]) - size;
  }
  return { log, symbols, bits, bases };
}

function constantTable(symbol) {
  return { log: 0, symbols: Uint8Array.of(symbol), bits: Uint8Array.of(0), bases: Uint16Array.of(0) };
}

// The description of such a table; gives it and where the description ends.
function readStateTable(bytes, start, end, largestLog, mostSymbols) {
  let position = start * 8;
  const peek = (count) => {
    let value = 0;
    for (let i = 0; i < count; i++) {
      const at = position + i;
      if (at >> 3 < end) value += ((bytes[at >> 3] >> (at & 7)) & 1) * 2 ** i;
    }
    return value;
  };
  const log = peek(4) + 5;
  position += 4;
  if (log > largestLog) fail("a table of symbols is too large");
  const counts = [];
  let remaining = (1 << log) + 1, threshold = 1 << log, width = log + 1;
  while (remaining > 1) {
    if (counts.length >= mostSymbols || position >> 3 >= end) fail("a table of symbols has too many");
    const small = 2 * threshold - 1 - remaining;
    let count = peek(width);
    if ((count & (threshold - 1)) < small) {
      count &= threshold - 1;
      position += width - 1;
    } else {
      if (count >= threshold) count -= small;
      position += width;
    }
    count--;
    remaining -= Math.abs(count);
    counts.push(count);
    if (count === 0) {
      for (let repeats = 3; repeats === 3;) {
        repeats = peek(2);
        position += 2;
        for (let i = 0; i < repeats; i++) counts.push(0);
      }
    }
    while (remaining > 1 && remaining < threshold) {
      width--;
      threshold >>= 1;
    }
  }
  if (remaining !== 1 || counts.length > mostSymbols) fail("a table of symbols does not add up");
  const stop = (position + 7) >> 3;
  if (stop > end) fail("a table of symbols is cut short");
  return [stateTable(counts, log), stop];
}

// The Huffman code of literals; gives it and where its description ends.
function readHuffman(bytes, start, end) {
  const header = bytes[start];
  const weights = [];
  let stop;
  if (header >= 128) {
    const count = header - 127;
    stop = start + 1 + ((count + 1) >> 1);
    for (let i = 0; i < count; i++) {
      const byte = bytes[start + 1 + (i >> 1)];
      weights.push(i & 1 ? byte & 15 : byte >> 4);
    }
  } else {
    stop = start + 1 + header;
    if (stop > end) fail("a Huffman code is cut short");
    const [table, streamStart] = readStateTable(bytes, start + 1, stop, 6, 256);
    const stream = new BackwardBits(bytes, streamStart, stop);
    const states = [stream.read(table.log), stream.read(table.log)];
    for (let which = 0; weights.length < 255; which ^= 1) {
      const state = states[which];
      weights.push(table.symbols[state]);
      states[which] = table.bases[state] + stream.read(table.bits[state]);
      if (stream.left < 0) {
        weights.push(table.symbols[states[which ^ 1]]);
        break;
      }
    }
  }
  if (stop > end) fail("a Huffman code is cut short");
  const sum = weights.reduce((total, weight) => total + (weight ? 2 ** (weight - 1) : 0), 0);
  if (sum === 0) fail("a Huffman code is empty");
  const log = 32 - Math.clz32(sum);
  const rest = 2 ** log - sum;
  if (log > 11 || (rest & (rest - 1)) !== 0) fail("a Huffman code does not add up");
  weights.push(32 - Math.clz32(rest));
  const symbols = new Uint8Array(1 << log), lengths = new Uint8Array(1 << log);
  let position = 0;
  for (let weight = 1; weight <= log; weight++) {
    weights.forEach((own, symbol) => {
      if (own !== weight) return;
      const next = position + (1 << (weight - 1));
      symbols.fill(symbol, position, next);
      lengths.fill(log + 1 - weight, position, next);
      position = next;
    });
  }
  return [{ log, symbols, lengths }, stop];
}

function decodeHuffman(code, bytes, start, end, out, outStart, outEnd) {
  const stream = new BackwardBits(bytes, start, end);
  const mask = (1 << code.log) - 1;
  let state = stream.read(code.log);
  for (let i = outStart; i < outEnd; i++) {
    out[i] = code.symbols[state];
    const length = code.lengths[state];
    state = ((state << length) & mask) | stream.read(length);
  }
  if (stream.left !== -code.log) fail("literals do not end where they should");
}

// Literals of a block; gives them and where they end, and keeps the code for the next block.
function readLiterals(bytes, start, end, memory) {
  const kind = bytes[start] & 3, format = (bytes[start] >> 2) & 3;
  const header = (count) => {
    let value = 0;
    for (let i = count - 1; i >= 0; i--) value = value * 256 + bytes[start + i];
    return value;
  };
  if (kind < 2) {
    const [length, size] = format === 1 ? [2, header(2) >> 4] : format === 3 ? [3, header(3) >> 4] : [1, header(1) >> 3];
    const from = start + length, stop = from + (kind === 0 ? size : 1);
    if (stop > end || size > 1 << 17) fail("literals are cut short");
    return [kind === 0 ? bytes.subarray(from, stop) : new Uint8Array(size).fill(bytes[from]), stop];
  }
  const [length, bits] = [[3, 10], [3, 10], [4, 14], [5, 18]][format];
  const sizes = Math.floor(header(length) / 16);
  const size = sizes % 2 ** bits, packed = Math.floor(sizes / 2 ** bits);
  let from = start + length;
  const stop = from + packed;
  if (stop > end || size > 1 << 17) fail("literals are cut short");
  if (kind === 2) [memory.huffman, from] = readHuffman(bytes, from, stop);
  if (!memory.huffman) fail("literals have no code");
  const out = new Uint8Array(size);
  if (format === 0) {
    decodeHuffman(memory.huffman, bytes, from, stop, out, 0, size);
    return [out, stop];
  }
  const quarter = (size + 3) >> 2;
  let position = from + 6;
  for (let i = 0; i < 4; i++) {
    const next = i < 3 ? position + bytes[from + 2 * i] + 256 * bytes[from + 2 * i + 1] : stop;
    if (next > stop) fail("literals are cut short");
    decodeHuffman(memory.huffman, bytes, position, next, out, Math.min(size, i * quarter), i < 3 ? Math.min(size, (i + 1) * quarter) : size);
    position = next;
  }
  return [out, stop];
}

function decodeBlock(bytes, start, end, out, written, memory) {
  const [literals, afterLiterals] = readLiterals(bytes, start, end, memory);
  let position = afterLiterals;
  let count = bytes[position++];
  if (count >= 128) {
    if (count < 255) count = (count - 128) * 256 + bytes[position++];
    else {
      count = bytes[position] + 256 * bytes[position + 1] + 0x7f00;
      position += 2;
    }
  }
  let used = 0;
  const copyLiterals = (length) => {
    if (used + length > literals.length || written + length > out.length) fail("a block has too many literals");
    out.set(literals.subarray(used, used + length), written);
    used += length;
    written += length;
  };
  if (count > 0) {
    const modes = bytes[position++];
    const tables = [["lengths", LITERAL_LENGTHS, 6, 36], ["offsets", OFFSETS, 4, 32], ["matches", MATCH_LENGTHS, 2, 53]];
    for (const [name, known, shift, most] of tables) {
      const mode = (modes >> shift) & 3;
      if (mode === 0) memory[name] = stateTable(known.counts, known.log);
      else if (mode === 1) memory[name] = constantTable(bytes[position++]);
      else if (mode === 2) [memory[name], position] = readStateTable(bytes, position, end, known.largestLog, most);
      else if (!memory[name]) fail("a table of symbols is missing");
    }
    const stream = new BackwardBits(bytes, position, end);
    const { lengths, offsets, matches } = memory;
    let lengthState = stream.read(lengths.log), offsetState = stream.read(offsets.log), matchState = stream.read(matches.log);
    for (let i = 0; i < count; i++) {
      const offsetCode = offsets.symbols[offsetState], matchCode = matches.symbols[matchState];
      const lengthCode = lengths.symbols[lengthState];
      if (offsetCode > 31 || matchCode > 52 || lengthCode > 35) fail("a sequence has an unknown code");
      const value = 2 ** offsetCode + stream.read(offsetCode);
      const matchLength = MATCH_LENGTH_BASES[matchCode] + stream.read(MATCH_LENGTH_BITS[matchCode]);
      const literalLength = LITERAL_LENGTH_BASES[lengthCode] + stream.read(LITERAL_LENGTH_BITS[lengthCode]);
      if (i < count - 1) {
        lengthState = lengths.bases[lengthState] + stream.read(lengths.bits[lengthState]);
        matchState = matches.bases[matchState] + stream.read(matches.bits[matchState]);
        offsetState = offsets.bases[offsetState] + stream.read(offsets.bits[offsetState]);
      }
      const recent = memory.recent;
      let offset;
      if (value > 3) {
        offset = value - 3;
        memory.recent = [offset, recent[0], recent[1]];
      } else {
        const which = value - 1 + (literalLength === 0 ? 1 : 0);
        offset = which === 3 ? recent[0] - 1 : recent[which];
        if (which === 1) memory.recent = [offset, recent[0], recent[2]];
        else if (which > 1) memory.recent = [offset, recent[0], recent[1]];
      }
      copyLiterals(literalLength);
      if (offset < 1 || offset > written || written + matchLength > out.length) fail("a match lies outside the data");
      for (let j = 0; j < matchLength; j++, written++) out[written] = out[written - offset];
    }
    if (stream.left !== 0) fail("sequences do not end where they should");
  }
  copyLiterals(literals.length - used);
  return written;
}

// The content of one frame, which has to be `size` bytes long.
export function decompress(bytes, size) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 6 || view.getUint32(0, true) !== MAGIC) fail("this is no frame");
  const descriptor = bytes[4];
  const single = (descriptor >> 5) & 1;
  let position = 5 + (single ? 0 : 1) + [0, 1, 2, 4][descriptor & 3];
  const width = [single, 2, 4, 8][descriptor >> 6];
  let claimed = 0;
  for (let i = width - 1; i >= 0; i--) claimed = claimed * 256 + bytes[position + i];
  if (width === 2) claimed += 256;
  if (width === 0 || claimed !== size) fail(`the frame holds ${claimed} bytes, not ${size}`);
  position += width;
  const out = new Uint8Array(size);
  const memory = { recent: [1, 4, 8] };
  let written = 0;
  for (let last = false; !last;) {
    if (position + 3 > bytes.length) fail("the frame is cut short");
    const header = bytes[position] | (bytes[position + 1] << 8) | (bytes[position + 2] << 16);
    position += 3;
    last = (header & 1) === 1;
    const kind = (header >> 1) & 3, length = header >> 3;
    const stored = kind === 1 ? 1 : length;
    if (position + stored > bytes.length) fail("a block is cut short");
    if (kind < 2) {
      if (written + length > size) fail("the frame holds more than it says");
      if (kind === 0) out.set(bytes.subarray(position, position + length), written);
      else out.fill(bytes[position], written, written + length);
      written += length;
    } else if (kind === 2) {
      written = decodeBlock(bytes, position, position + length, out, written, memory);
    } else {
      fail("a block is of an unknown kind");
    }
    position += stored;
  }
  if (written !== size) fail("the frame holds less than it says");
  return out;
}
