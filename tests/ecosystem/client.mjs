// Published clients of Node: client.mjs undici|eventsource|ws URL. Prints what went wrong, and how many things were
// tried.
import { createRequire } from "node:module";
import { randomBytes } from "node:crypto";
const require = createRequire(process.env.PACKAGES + "/");
const [kind, url] = process.argv.slice(2);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
let tried = 0;
function check(name, found, wanted) {
  tried++;
  const same = Buffer.isBuffer(wanted) ? wanted.equals(found) : found === wanted;
  if (!same) console.log(`${name}: ${String(found).slice(0, 200)} instead of ${String(wanted).slice(0, 200)}`);
}
const bodies = [Buffer.alloc(0), Buffer.from("x"), randomBytes(3000), randomBytes(300000)];
async function* pieces(body) {
  for (let at = 0; at < body.length; at += 1000) yield body.subarray(at, at + 1000);
}

if (kind === "undici") {
  const { request, Pool } = require("undici");
  const pool = new Pool(new URL(url).origin, { connections: 4 });
  const path = new URL(url).pathname;
  const ask = async (method, name, body) => {
    const response = await pool.request({ method, path: path + name, body });
    return Buffer.from(await response.body.arrayBuffer());
  };
  for (let round = 0; round < 3; round++) {
    for (const body of bodies) {
      check("echo", await ask("POST", "/echo", body), body);
      check("echo in chunks", await ask("POST", "/echo", pieces(body)), body);
      check("early", await ask("POST", "/early", body), Buffer.from("hello"));
    }
    const streams = await Promise.all(Array.from({ length: 20 }, () => ask("GET", "/stream")));
    const events = [0, 1, 2, 3, 4].map((n) => `data: ${n}\n\n`).join("");
    check("streams side by side", streams.map(String).join("|"), Array(20).fill(events).join("|"));
  }
  for (let moment = 0; moment < 300; moment += 20) {
    const left = new AbortController();
    const asked = request(url + "/slow", { signal: left.signal }).catch(() => {});
    await pause(moment);
    left.abort();
    await asked;
    check("after one that left", await ask("GET", "/plain"), Buffer.from("hello"));
  }
  await pool.close();
} else if (kind === "eventsource") {
  const { EventSource } = require("eventsource");
  // It comes back by itself, which the server takes for a new stream.
  const source = new EventSource(url + "/stream");
  const seen = [];
  await new Promise((done) => {
    source.onmessage = (event) => seen.push([event.data, Date.now()]) === 5 && done();
    setTimeout(done, 10000);
  });
  source.close();
  check("events", seen.map(([data]) => data).join(), "0,1,2,3,4");
  check("each as it was sent", seen.length > 1 && seen[4][1] - seen[0][1] > 100, true);
} else {
  const { WebSocket } = require("ws");
  const address = url.replace("http", "ws");
  for (const length of [0, 1, 125, 126, 70000, 900000]) {
    const socket = new WebSocket(address);
    await new Promise((done, failed) => socket.on("open", done).on("error", failed));
    const message = randomBytes(length);
    const answer = new Promise((done) => socket.once("message", done));
    socket.send(message);
    check("message", await answer, message);
    const closed = new Promise((done) => socket.on("close", done));
    socket.close(1000);
    check("close", await closed, 1000);
  }
  for (let n = 0; n < 20; n++) {
    const socket = new WebSocket(address);
    await new Promise((done, failed) => socket.on("open", done).on("error", failed));
    socket.terminate();
  }
}
console.log(`tried ${tried}`);
