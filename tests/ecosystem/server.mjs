// A published server of Node, as a function: server.mjs express|fastify|ws PORT.
import { createRequire } from "node:module";
const require = createRequire(process.env.PACKAGES + "/");
const [kind, port] = process.argv.slice(2);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function answer(name, request, response) {
  if (name === "echo") {
    // Piece by piece, while it comes.
    response.writeHead(200);
    return request.pipe(response);
  }
  if (name === "stream") {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    for (let n = 0; n < 5; n++) {
      await pause(50);
      response.write(`data: ${n}\n\n`);
    }
    return response.end();
  }
  if (name === "slow") await pause(300);
  // Also for "early": the body is not read.
  response.writeHead(200, { "Content-Length": 5 }).end("hello");
}

const last = (url) => url.split("?")[0].split("/").pop();
if (kind === "express") {
  const app = require("express")();
  app.use((request, response) => answer(last(request.url), request, response));
  app.listen(port, "127.0.0.1");
} else if (kind === "fastify") {
  const app = require("fastify")();
  app.addContentTypeParser("*", (_request, _payload, done) => done(null));
  app.all("/*", (request, reply) => {
    reply.hijack();
    return answer(last(request.raw.url), request.raw, reply.raw);
  });
  app.listen({ port, host: "127.0.0.1" });
} else {
  const { WebSocketServer } = require("ws");
  const server = new WebSocketServer({ port, host: "127.0.0.1" });
  server.on("connection", (socket) => socket.on("message", (data, binary) => socket.send(data, { binary })));
}
