// grpc-js against the echo service: every kind of call. Usage: node client.js PORT; prints one JSON object per check.
"use strict";

const assert = require("node:assert");
const grpc = require("@grpc/grpc-js");

const address = `127.0.0.1:${process.argv[2]}`;
const raw = (body) => body;
const deadline = (ms) => ({ deadline: Date.now() + ms });

function connect(options = {}) {
  return new grpc.Client(address, grpc.credentials.createInsecure(), options);
}

function unary(client, name, body, { metadata = new grpc.Metadata(), timeout = 10_000 } = {}) {
  return new Promise((resolve, reject) => {
    let outcome; // the status comes behind the reply, and carries the trailers
    const call = client.makeUnaryRequest(
      `/test.Echo/${name}`, raw, raw, body, metadata, deadline(timeout),
      (error, reply) => { outcome = { error, reply }; },
    );
    call.on("status", ({ metadata: trailers }) => {
      if (outcome.error) reject(outcome.error);
      else resolve({ reply: outcome.reply, trailers });
    });
  });
}

async function collect(stream) {
  const bodies = [];
  for await (const body of stream) bodies.push(body);
  return bodies;
}

const checks = {
  async sizes(client) {
    for (const size of [0, 1, 16_379, 16_380, 100_000, 1_500_000]) {
      const body = Buffer.alloc(size, 7);
      assert.ok((await unary(client, "Unary", body)).reply.equals(body), `${size} bytes`);
    }
  },
  async many(client) {
    const bodies = Array.from({ length: 300 }, (_, i) => Buffer.from(String(i)));
    const replies = await Promise.all(bodies.map((body) => unary(client, "Async", body)));
    replies.forEach(({ reply }, i) => assert.ok(reply.equals(bodies[i])));
  },
  async failures(client) {
    const failed = await unary(client, "Fail", Buffer.alloc(0)).then(() => null, (error) => error);
    assert.strictEqual(failed.code, grpc.status.FAILED_PRECONDITION);
    assert.strictEqual(failed.details, "no: ä%\n");
    assert.ok(failed.metadata.get("why-bin")[0].equals(Buffer.from([0, 255])));
    const missing = await unary(client, "Missing", Buffer.alloc(0)).then(() => null, (error) => error);
    assert.strictEqual(missing.code, grpc.status.UNIMPLEMENTED);
    const large = await unary(client, "Unary", Buffer.alloc(3 << 20)).then(() => null, (error) => error);
    assert.strictEqual(large.code, grpc.status.RESOURCE_EXHAUSTED);
  },
  async deadlines(client) {
    const late = await unary(client, "Hang", Buffer.alloc(0), { timeout: 200 }).then(() => null, (error) => error);
    assert.strictEqual(late.code, grpc.status.DEADLINE_EXCEEDED);
  },
  async metadata(client) {
    const metadata = new grpc.Metadata();
    metadata.set("key", "value");
    metadata.set("raw-bin", Buffer.from([0, 1, 255]));
    const { trailers } = await unary(client, "Metadata", Buffer.from("x"), { metadata });
    assert.ok(Number(trailers.get("seen")[0]) >= 2);
  },
  async server_stream(client) {
    const call = client.makeServerStreamRequest("/test.Echo/Server", raw, raw, Buffer.from("50"), deadline(10_000));
    const bodies = await collect(call);
    assert.deepStrictEqual(bodies.map(String), Array.from({ length: 50 }, (_, i) => String(i)));
  },
  async client_stream(client) {
    const reply = await new Promise((resolve, reject) => {
      const call = client.makeClientStreamRequest(
        "/test.Echo/Client", raw, raw, deadline(10_000), (error, body) => (error ? reject(error) : resolve(body)),
      );
      for (let i = 0; i < 50; i++) call.write(Buffer.alloc(10_000));
      call.end();
    });
    assert.strictEqual(String(reply), "500000");
  },
  async bidi(client) {
    const call = client.makeBidiStreamRequest("/test.Echo/Bidi", raw, raw, deadline(10_000));
    for (let i = 0; i < 30; i++) call.write(Buffer.from(`message ${i}`));
    call.write(Buffer.alloc(300_000));
    call.end();
    const bodies = await collect(call);
    assert.strictEqual(bodies.length, 31);
    assert.strictEqual(bodies[30].length, 300_000);
  },
  async cancel(client) {
    const call = client.makeBidiStreamRequest("/test.Echo/HangStream", raw, raw, deadline(10_000));
    const status = new Promise((resolve) => call.on("status", resolve));
    call.on("error", () => {});
    const early = await new Promise((resolve) => call.on("metadata", resolve));
    assert.deepStrictEqual(early.get("early"), ["yes"]);
    call.cancel();
    assert.strictEqual((await status).code, grpc.status.CANCELLED);
  },
  async slow_reader(client) {
    const call = client.makeServerStreamRequest("/test.Echo/Flood", raw, raw, Buffer.alloc(0), deadline(10_000));
    let count = 0;
    call.on("error", () => {});
    for await (const body of call) {
      assert.strictEqual(body.length, 1000);
      if (++count % 100 === 0) await new Promise((resolve) => setTimeout(resolve, 5));
      if (count === 2000) break; // leaving the loop cancels the call
    }
    assert.strictEqual(count, 2000);
  },
};

async function main() {
  for (const [name, options] of [
    ["plain", {}],
    ["gzip", { "grpc.default_compression_algorithm": 2 }],
    ["deflate", { "grpc.default_compression_algorithm": 1 }],
  ]) {
    const client = connect({ "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1, ...options });
    for (const [check, run] of Object.entries(checks)) {
      await run(client);
      console.log(JSON.stringify({ compression: name, check }));
    }
    client.close();
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
