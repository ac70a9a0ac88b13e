'use strict';

// Pages to chunks and columns, and back: what the comments of extents.proto and common.proto say, and nothing else.

const crypto = require('node:crypto');

// The codec in plain JavaScript; the native one is never built. lz4js would be smaller, but lets the last match begin
// within the last 12 bytes of a block, and LZ4's own decoder refuses such blocks.
const lz4 = require('lz4/lib/binding');

const PAGE = 4096;
const CHUNK_PAGES = 16;
const HIT = 'RESULT_CODE_HIT';

// ---- Bytes ----

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc >>> 0;
});

function crc32c(data) {
  let crc = 0xffffffff;
  for (const byte of data) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return ~crc >>> 0;
}

function sha256(data) {
  return crypto.createHash('sha256').update(data).digest('hex');
}

/** The pages of a buffer, `count` at a time. */
function cut(plain, count) {
  const pieces = [];
  for (let at = 0; at < plain.length; at += count * PAGE) pieces.push(plain.subarray(at, at + count * PAGE));
  return pieces;
}

function encodeChunk(plain) {
  const pages = plain.length / PAGE;
  if (plain.subarray(8).equals(plain.subarray(0, -8))) {
    return { encoding: 'ENCODING_SAME_FILLED', pages, data: plain.subarray(0, 8) };
  }
  const packed = Buffer.alloc(lz4.compressBound(plain.length));
  const size = lz4.compress(plain, packed);
  return size > 0 && size < plain.length
    ? { encoding: 'ENCODING_LZ4', pages, data: packed.subarray(0, size) }
    : { encoding: 'ENCODING_RAW', pages, data: plain };
}

function decodeChunk({ encoding, pages, data }) {
  const plain = Buffer.alloc(pages * PAGE);
  let size;
  if (encoding === 'ENCODING_LZ4') size = lz4.uncompress(data, plain);
  else if (encoding === 'ENCODING_RAW') size = data.copy(plain) === data.length ? data.length : -1;
  else if (encoding === 'ENCODING_SAME_FILLED' && data.length === 8) size = plain.fill(data).length;
  if (size !== plain.length) throw new Error(`${data.length} bytes of ${encoding} are not ${pages} pages`);
  return plain;
}

// ---- Columns ----

function column(name, values, count, fallback) {
  if (values.length === count) return values;
  if (values.length === 1) return Array(count).fill(values[0]);
  if (values.length === 0 && fallback !== undefined) return Array(count).fill(fallback);
  throw new Error(`column ${name} has ${values.length} entries for ${count}`);
}

/** Where things begin that lie one behind the other. */
function starts(lengths) {
  let end = 0;
  return lengths.map((length) => (end += length) - length);
}

function sum(numbers) {
  return numbers.reduce((total, number) => total + number, 0);
}

/** The chunks and checksums of a put of some extents' plain pages; columns are as short as they may be. */
function putColumns(plains) {
  const chunks = plains.flatMap((plain) => cut(plain, CHUNK_PAGES).map(encodeChunk));
  const shorten = (values) => (values.every((value) => value === values[0]) ? [values[0]] : values);
  return {
    chunks: {
      encodedBytes: chunks.map((chunk) => chunk.data.length),
      pages: shorten(chunks.map((chunk) => chunk.pages)),
      encoding: shorten(chunks.map((chunk) => chunk.encoding)),
    },
    pageCrc32c: plains.flatMap((plain) => cut(plain, 1).map(crc32c)),
    body: Buffer.concat(chunks.map((chunk) => chunk.data)),
  };
}

/** What a GetAnswer says about each of the pages asked for, and how it says it. */
function decodeGet(response, asked) {
  const { get, body } = response;
  const sizes = get.chunks ? get.chunks.encodedBytes : [];
  if (sum(sizes) !== body.length) throw new Error(`chunks of ${sum(sizes)} bytes in a body of ${body.length}`);
  const pagesOf = column('chunks.pages', get.chunks ? get.chunks.pages : [], sizes.length, 1);
  const encodings = column('chunks.encoding', get.chunks ? get.chunks.encoding : [], sizes.length, 'ENCODING_LZ4');
  const chunks = starts(sizes).map((start, number) => ({
    encoding: encodings[number],
    pages: pagesOf[number],
    data: body.subarray(start, start + sizes[number]),
  }));
  const plain = chunks.map(decodeChunk);

  const columns = get.runs || { position: [], pages: [], chunk: [], offset: [], generation: [], sequence: [] };
  const count = columns.sequence.length;
  const chunkOf = columns.chunk.length ? columns.chunk : columns.sequence.map((_, run) => run);
  const lengths = columns.pages.length
    ? column('runs.pages', columns.pages, count)
    : chunkOf.map((chunk) => chunks[chunk].pages);
  const positions = columns.position.length ? columns.position : starts(lengths);
  const offsets = column('runs.offset', columns.offset, count, 0);
  const generations = column('runs.generation', columns.generation, count);
  if (positions.length !== count || chunkOf.length !== count) throw new Error('runs of unequal columns');

  const hits = Array(asked).fill(null);
  const runs = [];
  for (let run = 0, page = 0, end = 0; run < count; run += 1) {
    const [position, chunk, offset] = [positions[run], chunkOf[run], offsets[run]];
    if (position < end || offset + lengths[run] > chunks[chunk].pages) throw new Error(`run ${run} can't be`);
    for (let i = 0; i < lengths[run]; i += 1, page += 1) {
      const bytes = plain[chunk].subarray((offset + i) * PAGE, (offset + i + 1) * PAGE);
      if (crc32c(bytes) !== get.pageCrc32c[page]) throw new Error(`position ${position + i} has another checksum`);
      hits[position + i] = bytes;
    }
    end = position + lengths[run];
    const version = { generation: generations[run], sequence: columns.sequence[run] };
    runs.push({ position, pages: lengths[run], chunk, offset, ...version });
  }
  const codes = get.codes.length ? get.codes : Array(asked).fill(HIT);
  if (codes.length !== asked || hits.length !== asked) throw new Error(`${codes.length} codes for ${asked} pages`);
  codes.forEach((code, position) => {
    if ((code === HIT) !== (hits[position] !== null)) throw new Error(`position ${position}: ${code}, run or not`);
  });
  const held = hits.filter((bytes) => bytes !== null);
  if (get.pageCrc32c.length !== held.length) throw new Error('more checksums than pages');
  return {
    codes: get.codes,
    hits: held.length,
    sha256: sha256(Buffer.concat(held)),
    bodyBytes: body.length,
    chunks: chunks.map(({ encoding, pages, data }) => ({ encoding, pages, bytes: data.length })),
    runs,
    // Which columns were left out, so that the caller knows which defaults were put to use.
    absent: Object.keys(columns).filter((name) => Array.isArray(columns[name]) && columns[name].length === 0),
  };
}

module.exports = { CHUNK_PAGES, HIT, PAGE, crc32c, decodeChunk, decodeGet, encodeChunk, putColumns, sha256, sum };
