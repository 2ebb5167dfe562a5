// BLAKE2s without a key (RFC 7693).

const IV = [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19];
const SIGMA = [
  [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
  [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
  [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
  [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
  [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
  [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
  [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
  [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
  [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
  [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
];
const COLUMNS_AND_DIAGONALS = [
  [0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15],
  [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14],
];

function rotated(word, count) {
  return (word >>> count) | (word << (32 - count));
}

export function blake2s(bytes, length) {
  const h = Uint32Array.from(IV), v = new Uint32Array(16), m = new Uint32Array(16);
  h[0] ^= 0x01010000 ^ length;
  const blocks = Math.max(1, Math.ceil(bytes.length / 64));
  const last = new Uint8Array(64);
  last.set(bytes.subarray(64 * (blocks - 1)));
  for (let block = 0; block < blocks; block++) {
    const isLast = block === blocks - 1;
    const source = isLast ? last : bytes, start = isLast ? 0 : 64 * block;
    for (let i = 0; i < 16; i++) {
      const at = start + 4 * i;
      m[i] = source[at] | (source[at + 1] << 8) | (source[at + 2] << 16) | (source[at + 3] << 24);
    }
    const counted = isLast ? bytes.length : 64 * (block + 1);
    v.set(h);
    v.set(IV, 8);
    v[12] ^= counted >>> 0;
    v[13] ^= Math.floor(counted / 2 ** 32);
    if (isLast) v[14] ^= 0xffffffff;
    for (const sigma of SIGMA) {
      COLUMNS_AND_DIAGONALS.forEach(([a, b, c, d], i) => {
        v[a] += v[b] + m[sigma[2 * i]];
        v[d] = rotated(v[d] ^ v[a], 16);
        v[c] += v[d];
        v[b] = rotated(v[b] ^ v[c], 12);
        v[a] += v[b] + m[sigma[2 * i + 1]];
        v[d] = rotated(v[d] ^ v[a], 8);
        v[c] += v[d];
        v[b] = rotated(v[b] ^ v[c], 7);
      });
    }
    for (let i = 0; i < 8; i++) h[i] ^= v[i] ^ v[i + 8];
  }
  const out = new Uint8Array(32);
  h.forEach((word, i) => [0, 8, 16, 24].forEach((shift, j) => { out[4 * i + j] = word >>> shift; }));
  return out.subarray(0, length);
}
