'use strict';

// A client of tmem in another language, written from proto/tmem/v1/*.proto alone: it shares no code with the Python
// one. wire.js has what happens to bytes; here are the calls, the stream, and the scenarios.
//
//   node client.js SCENARIO '{"target": "HOST:PORT", "proto": "DIRECTORY", ...}'
//
// It prints one JSON object: what it did and what it saw. Whether that was right is for the caller to say; here only
// contradictions in an answer itself are errors. 64-bit numbers are decimal strings, page contents are SHA-256 in hex.

const crypto = require('node:crypto');
const fs = require('node:fs');

const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const wire = require('./wire.js');

const { CHUNK_PAGES, HIT, PAGE, crc32c, decodeChunk, encodeChunk, sha256, sum } = wire;

const BLOCK_PAGES = 512;
const CALL_SECONDS = 30;

// Object ids whose words are lost by whoever takes 64 bits for a double or for a signed number.
const UNARY_OBJECT = { low: '18446744073709551615', mid: '9223372036854775809', high: '81985529216486895' };
const EXTENT_OBJECT = { low: '9007199254740993', mid: '0', high: '18446744073709551614' };
const KEPT_OBJECT = { low: '1', mid: '18446744073709551615', high: '9007199254740993' };
const LAST_INDEX = '4294967295';

// ---- Calls ----

class Server {
  constructor({ target, proto }) {
    const files = ['capabilities', 'pools', 'pages', 'extents'].map((name) => `tmem/v1/${name}.proto`);
    this.definition = loader.loadSync(files, {
      includeDirs: [proto],
      longs: String,
      enums: String,
      defaults: true,
      oneofs: true,
    });
    this.services = grpc.loadPackageDefinition(this.definition).tmem.v1;
    this.target = target;
    this.clients = {};
  }

  client(service) {
    // A proxy from the environment has no business here. The message limit is the contract's max_message_bytes; that
    // grpc-js would take as much by itself is chance.
    const options = { 'grpc.enable_http_proxy': 0, 'grpc.max_receive_message_length': 4 << 20 };
    this.clients[service] ??= new this.services[service](this.target, grpc.credentials.createInsecure(), options);
    return this.clients[service];
  }

  call(service, method, request) {
    return new Promise((resolve, reject) => {
      this.client(service)[method](request, { deadline: deadline() }, (error, answer) => {
        if (error) reject(error);
        else resolve(answer);
      });
    });
  }

  close() {
    for (const client of Object.values(this.clients)) client.close();
  }
}

function deadline() {
  return new Date(Date.now() + CALL_SECONDS * 1000);
}

/** A pool that this program writes to: its rights, and the sequences of its writes. */
class Writer {
  constructor({ pool, generation }, token) {
    Object.assign(this, { poolId: pool.poolId, epoch: pool.epoch, generation, token });
    this.last = 0;
    this.unsettled = new Set();
  }

  get floor() {
    return Math.min(this.last + 1, ...this.unsettled);
  }

  ref() {
    const { poolId, generation, token, epoch, floor } = this;
    return { poolId, generation, token, epoch, floor };
  }

  begin() {
    this.last += 1;
    this.unsettled.add(this.last);
    return this.last;
  }

  async write(server, method, request) {
    const sequence = this.begin();
    const answer = await server.call('PagesService', method, { pool: this.ref(), sequence, ...request });
    this.unsettled.delete(sequence);
    return answer;
  }
}

/** One Exchange stream: what is sent, what is unanswered, and the credit that it costs. */
class Session {
  constructor(server) {
    this.method = server.definition['tmem.v1.ExtentsService'].Exchange;
    // Messages are serialized here, because the credit that they cost is their size.
    const pass = (data) => data;
    this.call = server
      .client('ExtentsService')
      .makeBidiStreamRequest(this.method.path, pass, this.method.responseDeserialize, { deadline: deadline() });
    this.waiting = new Map();
    this.window = { maxBytes: Infinity, maxBatches: Infinity };
    this.used = { bytes: 0, batches: 0 };
    this.peak = { bytes: 0, batches: 0 };
    this.batches = 0;
    this.arrived = [];
    this.call.on('data', (response) => this.take(response));
    this.ended = new Promise((resolve) => this.call.on('status', resolve));
    this.call.on('error', (error) => {
      for (const { reject } of this.waiting.values()) reject(error);
    });
  }

  send(key, message, cost) {
    return new Promise((resolve, reject) => {
      this.waiting.set(key, { resolve, reject, cost, kind: message.kind });
      this.call.write(message.data);
    });
  }

  serialize(kind, content, body) {
    return { kind, data: this.method.requestSerialize({ [kind]: content, body }) };
  }

  /** Sends a batch; the promise is its answer. Two calls in a row are two batches in flight. */
  batch(kind, writer, content = {}, { body = Buffer.alloc(0), answerBytes = 0, poolId } = {}) {
    this.batches += 1;
    // As doubles all these ids are the same number: only 64 bits tell them apart.
    const batchId = (2n ** 63n + BigInt(this.batches)).toString();
    const sequence = ['put', 'flush', 'flushObject'].includes(kind) ? writer.begin() : 0;
    const { generation, epoch, floor } = writer;
    const header = { batchId, poolId: poolId ?? writer.poolId, generation, epoch, floor, sequence, answerBytes };
    const message = this.serialize(kind, { header, ...content }, body);
    const cost = message.data.length + answerBytes;
    this.used.bytes += cost;
    this.used.batches += 1;
    if (this.used.bytes > this.window.maxBytes || this.used.batches > this.window.maxBatches) {
      throw new Error('this scenario asks for more than the window');
    }
    this.peak.bytes = Math.max(this.peak.bytes, this.used.bytes);
    this.peak.batches = Math.max(this.peak.batches, this.used.batches);
    return this.send(`batch ${batchId}`, message, cost).then((response) => {
      writer.unsettled.delete(sequence);
      return response;
    });
  }

  async open(writer, window) {
    const pools = [{ pool: writer.ref() }];
    const opening = { sessionId: crypto.randomBytes(16), protocolVersion: 1, window, pools, clientName: 'foreign' };
    const { opened } = await this.send('opened', this.serialize('open', opening), 0);
    this.window = { maxBytes: Number(opened.window.maxBytes), maxBatches: opened.window.maxBatches };
    return opened;
  }

  heartbeat(heartbeatId, writer) {
    const content = { heartbeatId, floors: [writer.ref()] };
    return this.send(`heartbeat ${heartbeatId}`, this.serialize('heartbeat', content), 0);
  }

  take(response) {
    const content = response[response.kind];
    let key = response.kind;
    if (key === 'heartbeat') key = `heartbeat ${content.heartbeatId}`;
    else if (content.header) key = `batch ${content.header.batchId}`;
    const waiting = this.waiting.get(key);
    this.waiting.delete(key);
    this.arrived.push(response.kind);
    if (!waiting) throw new Error(`an answer to nothing: ${key}`);
    if (content.header) {
      this.used.bytes -= waiting.cost;
      this.used.batches -= 1;
      if (content.header.window) throw new Error('the window changed, and this program does not expect it');
      if (![waiting.kind, 'malformed'].includes(response.kind)) throw new Error(`${response.kind} for ${waiting.kind}`);
    }
    waiting.resolve(response);
  }

  /** Ends this side of the stream; the promise is the status with which the server ends the other. */
  close() {
    this.call.end();
    return this.ended;
  }
}

/** The Extents of [object, first page, pages]; every column in full. */
function extents(...named) {
  return {
    objectLow: named.map(([object]) => object.low),
    objectMid: named.map(([object]) => object.mid),
    objectHigh: named.map(([object]) => object.high),
    index: named.map(([, index]) => index),
    pages: named.map(([, , pages]) => pages),
  };
}

async function put(session, writer, named, plains) {
  const { body, ...content } = wire.putColumns(plains);
  const answer = await session.batch('put', writer, { extents: extents(...named), ...content }, { body });
  return { codes: answer.put.codes, details: answer.put.details, chunks: content.chunks, bodyBytes: body.length };
}

async function get(session, writer, named, answerBytes) {
  const asked = sum(named.map(([, , pages]) => pages));
  const budget = { answerBytes: answerBytes ?? asked * PAGE };
  return wire.decodeGet(await session.batch('get', writer, { extents: extents(...named) }, budget), asked);
}

async function unaryGet(server, writer, object, index) {
  const answer = await server.call('PagesService', 'Get', { pool: writer.ref(), object, index });
  const seen = { code: answer.code, reason: answer.reason };
  if (answer.code !== HIT) return { ...seen, bytes: answer.page.length };
  const page = decodeChunk({ encoding: answer.encoding, pages: 1, data: answer.page });
  if (crc32c(page) !== answer.pageCrc32c) throw new Error(`page ${index} has another checksum`);
  const { encoding, generation, sequence } = answer;
  return { ...seen, encoding, generation, sequence, sha256: sha256(page) };
}

async function unaryPut(server, writer, object, index, page) {
  const { encoding, data } = encodeChunk(page);
  const stored = await writer.write(server, 'Put', { object, index, encoding, pageCrc32c: crc32c(page), page: data });
  return { code: stored.code, reason: stored.reason, encoding };
}

// ---- Scenarios ----

async function unaryCalls(server, writer, samples) {
  const object = UNARY_OBJECT;
  const places = [0, 511, LAST_INDEX];
  const report = { puts: [], gets: [] };
  for (const [number, page] of samples.entries()) {
    report.puts.push({ ...(await unaryPut(server, writer, object, places[number], page)), sequence: `${writer.last}` });
  }
  for (const index of places) report.gets.push(await unaryGet(server, writer, object, index));
  report.absent = await unaryGet(server, writer, object, 1);
  report.flush = await writer.write(server, 'Flush', { object, index: LAST_INDEX });
  report.flushAgain = await writer.write(server, 'Flush', { object, index: LAST_INDEX });
  report.flushed = await unaryGet(server, writer, object, LAST_INDEX);
  report.flushObject = await writer.write(server, 'FlushObject', { object });
  report.objectFlushed = await unaryGet(server, writer, object, 0);
  return report;
}

/** A whole block by one message, its pages in several ways, and its removal on condition of its version. */
async function wholeBlock(session, writer, block) {
  const whole = [EXTENT_OBJECT, 512, BLOCK_PAGES];
  const report = { put: await put(session, writer, [whole], [block]) };
  report.sequence = `${writer.last}`;
  report.get = await get(session, writer, [whole], BLOCK_PAGES * PAGE);
  report.page = await get(session, writer, [[EXTENT_OBJECT, 512 + 100, 1]], CHUNK_PAGES * PAGE);
  // The chunk of this page did not shrink, so it has no room in an answer of one page.
  report.expanded = await get(session, writer, [[EXTENT_OBJECT, 512 + 450, 1]], PAGE);
  const { generation, sequence } = report.get.runs[0];
  const flush = async (ifSequence) => {
    const condition = { ifGeneration: [generation], ifSequence: [ifSequence] };
    return (await session.batch('flush', writer, { extents: extents(whole), ...condition })).flush;
  };
  report.flushOther = await flush((BigInt(sequence) + 1n).toString());
  report.flush = await flush(sequence);
  report.flushed = await get(session, writer, [whole]);
  return report;
}

/** Extents of several objects in one batch, one of them absent when they are read, then both objects flushed. */
async function manyExtents(session, writer, block) {
  const first = { low: '1', mid: '0', high: '7' };
  const second = { low: '2', mid: '0', high: '7' };
  const third = { low: '3', mid: '0', high: '7' };
  const plains = [block.subarray(0, PAGE), block.subarray(PAGE, 21 * PAGE)];
  const report = { put: await put(session, writer, [[first, 3, 1], [third, 490, 20]], plains) };
  report.get = await get(session, writer, [[first, 3, 1], [second, 0, 4], [third, 492, 17]], 3 * CHUNK_PAGES * PAGE);
  const objects = { objectLow: ['1', '2', '3'], objectHigh: ['7'] };
  report.flushObject = (await session.batch('flushObject', writer, objects)).flushObject;
  return report;
}

async function strayBatches(session, writer, block) {
  const plain = block.subarray(0, CHUNK_PAGES * PAGE);
  const { body, ...content } = wire.putColumns([plain]);
  const wrong = { ...content, extents: extents([EXTENT_OBJECT, 0, 2 * CHUNK_PAGES]) };
  const malformed = await session.batch('put', writer, wrong, { body });
  const right = { ...content, extents: extents([EXTENT_OBJECT, 0, CHUNK_PAGES]) };
  const unknown = await session.batch('put', writer, right, { body, poolId: '18446744073709551615' });
  return {
    malformed: { kind: malformed.kind, message: malformed.malformed.message },
    afterwards: await get(session, writer, [[EXTENT_OBJECT, 0, CHUNK_PAGES]]),
    unknownPool: { codes: unknown.put.codes, details: unknown.put.details },
  };
}

async function echo(session, writer, text, zeros) {
  const same = await session.batch('echo', writer, {}, { body: Buffer.from(text), answerBytes: text.length });
  const other = await session.batch('echo', writer, { zeroBytes: zeros }, { body: Buffer.from(text), answerBytes: zeros });
  return { same: same.body.toString(), zeros: other.body.length, allZero: other.body.every((byte) => byte === 0) };
}

/** Nine batches on their way before any answer is back; what each finds depends on those before it. */
async function manyInFlight(session, writer, samples) {
  const [one, other] = [[EXTENT_OBJECT, 1, 1], [EXTENT_OBJECT, 2, 1]];
  const sent = [
    put(session, writer, [one], [samples[0]]),
    get(session, writer, [one]),
    session.batch('echo', writer, {}, { body: Buffer.from('first'), answerBytes: 64 }),
    put(session, writer, [one], [samples[2]]),
    get(session, writer, [one]),
    put(session, writer, [other], [samples[1]]),
    session.batch('flush', writer, { extents: extents(one, other) }),
    get(session, writer, [one, other]),
    session.batch('echo', writer, {}, { body: Buffer.from('second'), answerBytes: 64 }),
  ];
  const inFlight = session.used.batches;
  const [, early, first, , late, , flush, flushed, second] = await Promise.all(sent);
  return {
    inFlight,
    gets: [early.sha256, late.sha256],
    flush: flush.flush,
    flushed: flushed.codes,
    echoes: [first.body.toString(), second.body.toString()],
  };
}

async function store(server, { pages, samples: numbers, name }) {
  const block = fs.readFileSync(pages);
  const samples = numbers.map((number) => block.subarray(number * PAGE, (number + 1) * PAGE));
  const capabilities = await server.call('CapabilitiesService', 'GetCapabilities', {});
  const request = { name, kind: 'POOL_KIND_PERSISTENT', abiVersion: 1, token: crypto.randomBytes(32) };
  const created = await server.call('PoolsService', 'CreatePool', request);
  const repeated = await server.call('PoolsService', 'CreatePool', request);
  const writer = new Writer(created, request.token);
  const report = { capabilities, created, repeated, chosenToken: request.token.toString('hex') };
  report.token = created.token.toString('hex');
  report.unary = await unaryCalls(server, writer, samples);

  const session = new Session(server);
  report.opened = await session.open(writer, { maxBytes: '8388608', maxBatches: 64 });
  report.sameInstance = report.opened.instanceId.equals(capabilities.instanceId);
  report.block = await wholeBlock(session, writer, block);
  report.extents = await manyExtents(session, writer, block);
  report.stray = await strayBatches(session, writer, block);
  report.heartbeat = (await session.heartbeat('9007199254740993', writer)).heartbeat;
  report.echo = await echo(session, writer, 'nothing but the way there and back', 100000);
  report.inFlight = await manyInFlight(session, writer, samples);
  report.kept = { object: KEPT_OBJECT, page: LAST_INDEX, extent: 1024 };
  report.keptPage = await unaryPut(server, writer, KEPT_OBJECT, LAST_INDEX, samples[2]);
  report.keptExtent = await put(session, writer, [[KEPT_OBJECT, report.kept.extent, BLOCK_PAGES]], [block]);
  report.batches = session.arrived.filter((kind) => !['opened', 'heartbeat', 'malformed'].includes(kind)).length;
  report.peak = session.peak;
  report.end = (await session.close()).code;
  report.unanswered = session.waiting.size;
  return report;
}

/** Reads what somebody else stored: single pages of an extent by the unary call, and all of it by the stream. */
async function read(server, { name, token, object, index, pages, singles }) {
  const opened = await server.call('PoolsService', 'OpenPool', { name, token: Buffer.from(token, 'hex') });
  const writer = new Writer(opened, Buffer.from(token, 'hex'));
  const report = { generation: opened.generation, unary: [] };
  for (const page of singles) report.unary.push(await unaryGet(server, writer, object, index + page));
  const session = new Session(server);
  await session.open(writer, { maxBytes: '8388608', maxBatches: 64 });
  report.stream = await get(session, writer, [[object, index, pages]]);
  report.end = (await session.close()).code;
  return report;
}

/** A put whose answer takes its time, and an echo sent after it. */
async function overtake(server, { pages, name }) {
  const request = { name, kind: 'POOL_KIND_PERSISTENT', abiVersion: 1 };
  const created = await server.call('PoolsService', 'CreatePool', request);
  const writer = new Writer(created, created.token);
  const session = new Session(server);
  await session.open(writer, {});
  const page = fs.readFileSync(pages).subarray(0, PAGE);
  const [stored, echoed] = await Promise.all([
    put(session, writer, [[EXTENT_OBJECT, 0, 1]], [page]),
    session.batch('echo', writer, {}, { body: Buffer.from('overtaking'), answerBytes: 64 }),
  ]);
  const end = (await session.close()).code;
  return { arrived: session.arrived, codes: stored.codes, echo: echoed.body.toString(), end, window: session.window };
}

async function main([name, options]) {
  const scenario = { store, read, overtake }[name];
  const server = new Server(JSON.parse(options));
  try {
    process.stdout.write(`${JSON.stringify(await scenario(server, JSON.parse(options)))}\n`);
  } finally {
    server.close();
  }
}

main(process.argv.slice(2)).catch((error) => {
  // Not by waiting for the open stream to end: that would take until its deadline.
  fs.writeSync(process.stderr.fd, `${error.stack}\n`);
  process.exit(1);
});
